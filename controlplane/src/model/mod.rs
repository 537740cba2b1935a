//! What is known: every object in plain indexes, and immutable snapshots of it for translation.
//!
//! Fed by [`crate::source`], read by [`crate::push`] and [`crate::translate`]. Synchronous and free of I/O.

pub mod auto_address;
pub mod changes;
pub mod context;
pub mod credentials;
pub mod delegate;
pub mod destination_rule;
pub mod endpoints;
pub mod host;
pub mod kubernetes;
pub mod logging;
pub mod node;
pub mod object;
pub mod scope;
pub mod security;
pub mod service;
pub mod service_entry;
pub mod services;
pub mod store;
pub mod update;
pub mod virtual_service;

pub use changes::Changes;
pub use context::{Config, Direction, OutboundPolicy, PushContext, Target};
pub use host::full_host;
pub use logging::{AccessLog, LogFormat};
pub use node::{Interception, Node, NodeKind};
pub use object::{Change, Key, Kind, Meta, Object, Origin, Spec};
pub use security::{Authorization, Mode, Mtls};
pub use service::{Address, Endpoint, ExportTo, Protocol, Registry, Resolution, Service, ServicePort, Workload};
pub use store::Model;

/// A shared string.
pub type Name = std::sync::Arc<str>;

#[cfg(test)]
pub(crate) mod tests;

//! What is known: every object in plain indexes, and immutable snapshots of it for translation.
//!
//! Fed by [`crate::source`], read by [`crate::push`] and [`crate::translate`]. Synchronous and free of I/O.

pub mod node;
pub mod object;
pub mod service;

pub use node::{Interception, Node, NodeKind};
pub use object::{Change, Key, Kind, Meta, Object, Origin, Spec};
pub use service::{Address, Endpoint, ExportTo, Protocol, Registry, Resolution, Service, ServicePort, Workload};

/// A shared string.
pub type Name = std::sync::Arc<str>;

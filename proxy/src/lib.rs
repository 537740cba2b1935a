//! The data-plane engine: what the sidecar (`mesh-proxy`) and the gateway (`mesh-gateway`) run.
//!
//! # The life of a request
//!
//! A connection is accepted by a worker ([`listener`]), looked at without losing a byte ([`detect`]), and given a filter
//! chain; TLS is ended there ([`tls`]). An HTTP chain serves it with [`http`], whose `handle` is the one request function:
//! normalize, choose a route ([`route`]), ask the policies ([`policy`]), pick an endpoint ([`balance`]), take a connection to
//! it ([`connect`]), forward, and account for it ([`telemetry`]). A TCP chain copies bytes ([`tcp`]) after the same
//! choice of cluster and endpoint.
//!
//! # The life of a config change
//!
//! [`xds`] receives resources, decodes each to a resolved value or refuses it by name, and publishes one immutable
//! [`snapshot::Snapshot`] a response. Endpoints are a second level inside a cluster and change without a new snapshot.
//!
//! # Identity
//!
//! [`identity`] makes a key and has it signed; [`tls`] serves and verifies with it. A private key never leaves the process.

pub mod admin;
pub mod app;
pub mod args;
pub mod balance;
pub mod bootstrap;
pub mod connect;
pub mod detect;
pub mod dns;
pub mod drain;
pub mod http;
pub mod identity;
pub mod launch;
pub mod listener;
pub mod logging;
pub mod memory;
pub mod policy;
pub mod probe;
pub mod redirect;
pub mod route;
pub mod runtime;
pub mod snapshot;
pub mod tcp;
pub mod telemetry;
pub mod tls;
pub mod worker;
pub mod xds;

/// A name shared by many holders: cluster, route table, listener.
pub type Name = std::sync::Arc<str>;

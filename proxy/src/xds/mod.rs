//! Configuration from outside: what comes in as xDS resources leaves as resolved values.
//!
//! Only this folder and [`crate::bootstrap`] name Envoy's protobuf types.

pub mod client;
pub mod decode;
pub mod file;
pub mod kind;
pub mod publisher;
pub mod state;
pub mod subscription;

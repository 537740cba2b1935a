//! From what is known to what a proxy is told: pure functions of a context and a node.
//!
//! Fed by [`crate::push`], sent by the discovery server. The shapes are the contract of docs/xds.md.

pub mod http;
pub mod wire;

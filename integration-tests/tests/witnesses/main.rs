//! Witnesses that nobody here wrote: a real Envoy and gRPC's own xDS client run on our control plane, and Envoy speaks mesh mTLS with our
//! proxy. What they refuse is wrong, whatever our own tests say.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod agent;
mod backend;
mod client;
mod envoy;
mod grpc;
mod interop;
mod plane;
mod process;

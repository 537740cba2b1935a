//! A whole proxy in this process, real sockets, applications made of hyper and tokio.
#![allow(clippy::unwrap_used)]

mod admin;
mod conformance;
mod contract;
mod grpc;
mod http;
mod limits;
mod support;
mod tcp;
mod upgrade;
mod xds;

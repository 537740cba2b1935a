//! A whole proxy in this process, real sockets, applications made of hyper and tokio.
#![allow(clippy::unwrap_used)]

mod admin;
mod conformance;
mod contract;
mod dns;
mod drain;
mod grpc;
mod hostile;
mod hostile_http2;
mod http;
mod limits;
mod parked;
mod support;
mod tcp;
mod upgrade;
mod vhds;
mod xds;

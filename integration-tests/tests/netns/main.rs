//! Transparent capture in network namespaces, with the kernel's own rules and programs of Debian as clients and servers.
//!
//! `capture` is about the rules alone, `destinations` about what follows from where a client wanted to go; the others run a mesh of "pods", each a namespace with a `mesh-proxy` process of its own.
//! Needs root, so `cargo test` alone leaves this target out (`test = false` in Cargo.toml); `cargo xtask ci` has a tier for it, which
//! is named as not run where it cannot, and fails there with `CI=true`.
#![allow(clippy::unwrap_used)]

mod capture;
mod destinations;
mod mesh;
mod names;
mod namespace;
mod traffic;

//! What meets a real API server, without kubelets: one module a subject, on the server of `integration_tests::kubernetes`.
//!
//! Needs etcd, kube-apiserver and kubectl, so `cargo test` alone leaves this target out (`test = false` in Cargo.toml); `cargo xtask ci`
//! has a tier for it, which builds them, is named as not run where it cannot, and fails there with `CI=true`.
#![allow(clippy::unwrap_used)]

mod crds;
mod gate;
mod identity;
mod ingress;
mod injection;
mod install;
mod meshctl;
mod plane;
mod registration;
mod revisions;
mod server;
mod sources;
mod status;
/// Clients of a control plane, as the control plane's own tests have them.
#[allow(dead_code, missing_docs)]
#[path = "../../../controlplane/tests/server/support.rs"]
mod support;
mod validation;

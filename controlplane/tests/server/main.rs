//! The control plane over real sockets: discovery in both protocols, who is let in, certificates, and the debug pages.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod auth;
mod binary;
mod certificates;
mod discovery;
mod pages;
mod support;

//! What crosses a process border, and nothing that behaves.
//!
//! Control plane and proxy never depend on each other; they meet in this crate: Envoy's v3 xDS API ([`xds`]), the
//! few messages of Istio's and of our own that Envoy lacks, Istio's custom resources as serde types, SPIFFE
//! identities, and the well-known names that users see (ports, labels, annotations, headers).

pub mod crd;
pub mod xds;

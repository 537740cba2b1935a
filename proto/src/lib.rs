//! What crosses a process border, and nothing that behaves.
//!
//! Control plane and proxy never depend on each other; they meet in this crate: Envoy's v3 xDS API ([`xds`]), the
//! few messages of Istio's ([`istio`]) and of our own ([`ferromesh`]) that Envoy lacks, Istio's custom resources as serde types
//! ([`crd`]), Kubernetes' objects ([`kube`]), the application's probes
//! ([`probe`]), SPIFFE identities ([`spiffe`]), the well-known names that users see ([`names`]),
//! and messages as text ([`yaml`], by [`descriptor`]).

pub mod crd;
pub mod descriptor;
pub mod ferromesh;
pub mod istio;
pub mod kube;
pub mod names;
pub mod probe;
pub mod spiffe;
pub mod xds;
pub mod yaml;

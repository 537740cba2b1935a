//! Istio's own messages that Envoy's API lacks: certificate signing and the DNS name table.

/// `istio.v1.auth`: the service that signs workloads' certificates (CA1).
#[allow(missing_docs, clippy::all, unused_qualifications)]
pub mod auth {
    include!("generated/istio.v1.auth.rs");
}

/// `istio.networking.nds.v1`: the names that the proxy's DNS server answers (DN1).
#[allow(missing_docs, clippy::all)]
pub mod nds {
    include!("generated/istio.networking.nds.v1.rs");
}

//! The well-known names that users and tools see: ports, labels, annotations, headers, cluster names. They are Istio's.

pub mod annotation;
pub mod cluster;
pub mod header;
pub mod label;
pub mod port;

/// The reserved gateway name that stands for all sidecars (VS2).
pub const MESH_GATEWAY: &str = "mesh";
/// The namespace whose policies hold for the whole mesh unless `meshConfig.rootNamespace` says otherwise (G5).
pub const ROOT_NAMESPACE: &str = "istio-system";
/// The audience of tokens that workloads show to the certificate authority (CA1).
pub const TOKEN_AUDIENCE: &str = "istio-ca";
/// The name in the control plane's serving certificate.
pub const CONTROL_PLANE_HOST: &str = "istiod.istio-system.svc";
/// The ALPN by which two proxies agree to tell of themselves before the bytes of a TCP connection (MT4).
pub const PEER_EXCHANGE: &str = "istio-peer-exchange";
/// The ALPNs of mesh mTLS: by them a permissive server tells it from TLS of the application (PA3).
pub const MESH_ALPN: &[&str] = &[PEER_EXCHANGE, "istio", "istio-http/1.0", "istio-http/1.1", "istio-h2"];
/// Name of the secret that holds a workload's certificate and key.
pub const SECRET_DEFAULT: &str = "default";
/// Name of the secret that holds the trust bundle.
pub const SECRET_ROOT: &str = "ROOTCA";

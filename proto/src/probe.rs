//! The application's own probes, as injection hands them to the proxy: the variable [`VARIABLE`] holds a JSON object, from a path on the
//! agent's port to the [`Action`] that the kubelet would have taken. The form is Istio's.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The variable of the proxy's container.
pub const VARIABLE: &str = "ISTIO_KUBE_APP_PROBERS";
/// Paths of probes: `/app-health/CONTAINER/livez`, `readyz`, `startupz`.
pub const HEALTH: &str = "/app-health/";
/// Paths of life-cycle hooks: `/app-lifecycle/CONTAINER/poststartz`, `prestopz`.
pub const LIFECYCLE: &str = "/app-lifecycle/";

/// Every rewritten probe and hook of a pod, by its path.
pub type Actions = BTreeMap<String, Action>;

/// What to ask of the application; exactly one of the first three is there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Action {
    /// An HTTP request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_get: Option<HttpGet>,
    /// A connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_socket: Option<TcpSocket>,
    /// `grpc.health.v1.Health/Check`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<Grpc>,
    /// Seconds; 1 as in Kubernetes if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u32>,
}

/// An HTTP request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpGet {
    /// Path with its query; `/` if empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// Port of the application.
    pub port: u16,
    /// `HTTP` or `HTTPS`; HTTP if empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub scheme: String,
    /// Headers beside those of the kubelet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub http_headers: Vec<Header>,
}

/// A header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Name.
    pub name: String,
    /// Value.
    pub value: String,
}

/// A connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpSocket {
    /// Port of the application.
    pub port: u16,
}

/// A question to the standard health service of gRPC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grpc {
    /// Port of the application.
    pub port: u16,
    /// Service; empty asks for the server as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
}

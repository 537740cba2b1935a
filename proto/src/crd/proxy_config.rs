//! ProxyConfig: the resource, and the larger message of MeshConfig and of the annotation `proxy.istio.io/config`.
//! Source: <https://istio.io/latest/docs/reference/config/istio.mesh.v1alpha1/#ProxyConfig>.

use std::collections::BTreeMap;

use super::scalar::optional_number;
use super::{Duration, WorkloadSelector};

message! {
    /// The resource.
    pub struct ProxyConfig {
        /// Workloads.
        pub selector: Option<WorkloadSelector>,
        /// Worker threads; 0 is all cores.
        #[serde(deserialize_with = "optional_number")]
        pub concurrency: Option<u32>,
        /// Environment of the proxy.
        pub environment_variables: BTreeMap<String, String>,
        /// Image.
        pub image: Option<ProxyImage>,
    }

    /// Image.
    pub struct ProxyImage {
        /// default, debug, distroless.
        pub image_type: String,
    }

    /// What a proxy starts with.
    pub struct ProxyStartConfig {
        /// Worker threads; 0 is all cores.
        #[serde(deserialize_with = "optional_number")]
        pub concurrency: Option<u32>,
        /// Control plane, `host:port`.
        pub discovery_address: String,
        /// 45 s by default.
        pub drain_duration: Option<Duration>,
        /// 5 s by default.
        pub termination_drain_duration: Option<Duration>,
        /// 15000 by default.
        #[serde(deserialize_with = "optional_number")]
        pub proxy_admin_port: Option<u32>,
        /// 15020 by default.
        #[serde(deserialize_with = "optional_number")]
        pub status_port: Option<u32>,
        /// REDIRECT, TPROXY, NONE.
        pub interception_mode: String,
        /// Environment of the proxy.
        pub proxy_metadata: BTreeMap<String, String>,
        /// Start the application after the proxy.
        pub hold_application_until_proxy_starts: Option<bool>,
        /// Proxies in front of a gateway.
        pub gateway_topology: Option<Topology>,
        /// Mesh id.
        pub mesh_id: String,
        /// Image.
        pub image: Option<ProxyImage>,
        /// Traces.
        pub tracing: Option<serde_json::Value>,
        /// Which statistics are kept.
        pub proxy_stats_matcher: Option<serde_json::Value>,
        /// Headers that the proxy adds.
        pub proxy_headers: Option<serde_json::Value>,
        /// Readiness of a workload that is no pod.
        pub readiness_probe: Option<serde_json::Value>,
        /// Binary path (ignored by every proxy but Envoy).
        pub binary_path: String,
        /// Configuration path (ignored by every proxy but Envoy).
        pub config_path: String,
        /// Service cluster name.
        pub service_cluster: String,
        /// MUTUAL_TLS or NONE.
        pub control_plane_auth_policy: String,
        /// Longest stat name.
        #[serde(deserialize_with = "optional_number")]
        pub stat_name_length: Option<u32>,
    }

    /// Proxies in front of a gateway.
    pub struct Topology {
        /// How many are trusted.
        #[serde(deserialize_with = "optional_number")]
        pub num_trusted_proxies: Option<u32>,
        /// SANITIZE, FORWARD_ONLY, APPEND_FORWARD, SANITIZE_SET, ALWAYS_FORWARD_ONLY.
        pub forward_client_cert_details: String,
        /// Expect PROXY protocol.
        pub proxy_protocol: Option<serde_json::Value>,
    }
}

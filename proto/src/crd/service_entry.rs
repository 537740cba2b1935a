//! ServiceEntry, WorkloadEntry, WorkloadGroup. Source: <https://istio.io/latest/docs/reference/config/networking/service-entry/>.

use std::collections::BTreeMap;

use super::scalar::{number, number_map};
use super::{NetworkingSelector, Port};

message! {
    /// Adds a service to the registry.
    pub struct ServiceEntry {
        /// Hosts; wildcards allowed.
        pub hosts: Vec<String>,
        /// Virtual addresses or CIDRs.
        pub addresses: Vec<String>,
        /// Ports.
        pub ports: Vec<Port>,
        /// Inside or outside of the mesh.
        pub location: Location,
        /// How endpoints are found.
        pub resolution: Resolution,
        /// Inline endpoints; not with a selector.
        pub endpoints: Vec<WorkloadEntry>,
        /// Selects pods and WorkloadEntries of its namespace.
        pub workload_selector: Option<NetworkingSelector>,
        /// Namespaces that see it.
        pub export_to: Vec<String>,
        /// Names one of which the server must show.
        pub subject_alt_names: Vec<String>,
    }

    /// A workload that is no pod.
    pub struct WorkloadEntry {
        /// IP address, DNS name, or `unix://` path.
        pub address: String,
        /// Port numbers by port name.
        #[serde(deserialize_with = "number_map")]
        pub ports: BTreeMap<String, u32>,
        /// Labels.
        pub labels: BTreeMap<String, String>,
        /// Network.
        pub network: String,
        /// `region/zone/subzone`.
        pub locality: String,
        /// Share.
        #[serde(deserialize_with = "number")]
        pub weight: u32,
        /// Service account in its namespace.
        pub service_account: String,
    }

    /// A template of WorkloadEntries.
    pub struct WorkloadGroup {
        /// Labels and annotations of the entries.
        pub metadata: Option<GroupMetadata>,
        /// The entries.
        pub template: Option<WorkloadEntry>,
        /// Readiness.
        pub probe: Option<ReadinessProbe>,
    }

    /// Labels and annotations.
    pub struct GroupMetadata {
        /// Labels.
        pub labels: BTreeMap<String, String>,
        /// Annotations.
        pub annotations: BTreeMap<String, String>,
    }

    /// Readiness of a workload that is no pod.
    pub struct ReadinessProbe {
        /// Seconds before the first.
        #[serde(deserialize_with = "number")]
        pub initial_delay_seconds: i32,
        /// 1 by default.
        #[serde(deserialize_with = "number")]
        pub timeout_seconds: i32,
        /// 10 by default.
        #[serde(deserialize_with = "number")]
        pub period_seconds: i32,
        /// 1 by default.
        #[serde(deserialize_with = "number")]
        pub success_threshold: i32,
        /// 3 by default.
        #[serde(deserialize_with = "number")]
        pub failure_threshold: i32,
        /// HTTP.
        pub http_get: Option<HttpProbe>,
        /// TCP.
        pub tcp_socket: Option<SocketProbe>,
        /// Command.
        pub exec: Option<ExecProbe>,
        /// gRPC health.
        pub grpc: Option<GrpcProbe>,
    }

    /// HTTP probe.
    pub struct HttpProbe {
        /// Path.
        pub path: String,
        /// Port.
        #[serde(deserialize_with = "number")]
        pub port: u32,
        /// Host.
        pub host: String,
        /// HTTP or HTTPS.
        pub scheme: String,
        /// Headers.
        pub http_headers: Vec<HttpHeader>,
    }

    /// A header.
    pub struct HttpHeader {
        /// Name.
        pub name: String,
        /// Value.
        pub value: String,
    }

    /// TCP probe.
    pub struct SocketProbe {
        /// Host.
        pub host: String,
        /// Port.
        #[serde(deserialize_with = "number")]
        pub port: u32,
    }

    /// Command probe.
    pub struct ExecProbe {
        /// Command.
        pub command: Vec<String>,
    }

    /// gRPC health probe.
    pub struct GrpcProbe {
        /// Port.
        #[serde(deserialize_with = "number")]
        pub port: u32,
        /// Service.
        pub service: String,
    }
}

choice! {
    /// Where a service is.
    pub enum Location {
        /// Outside: no mesh identity.
        #[default]
        MeshExternal,
        /// Inside.
        MeshInternal,
    }
}

/// How endpoints are found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Resolution {
    /// The address that the client dialed.
    #[default]
    #[serde(rename = "NONE")]
    None,
    /// Addresses given.
    #[serde(rename = "STATIC")]
    Static,
    /// DNS, all addresses.
    #[serde(rename = "DNS")]
    Dns,
    /// DNS, the first address at the time.
    #[serde(rename = "DNS_ROUND_ROBIN")]
    DnsRoundRobin,
    /// DNS of whatever host the client asks for.
    #[serde(rename = "DYNAMIC_DNS")]
    DynamicDns,
}

//! Istio's custom resources as serde types: one set of structs for v1, v1beta1 and v1alpha3, which have the same schema.
//!
//! Field names are Istio's in snake case, camel case in YAML. Unknown fields are no parse errors: sources report them; sources also drop
//! fields that are null before they read an object, since null is unset in protobuf's JSON mapping. Source: <https://istio.io/latest/docs/reference/config/>.
//!
//! With the feature `schema` the types describe themselves, from which `cargo xtask codegen` makes `deploy/crds`; programs are built without.
//!
//! Nothing here flattens or guesses (`#[serde(flatten)]`, untagged enums), because both lose the path of an error.

/// Derives and serde settings that every message has: camel case, absent is default.
macro_rules! message {
    ($($item:item)*) => {$(
        #[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        #[serde(rename_all = "camelCase", default)]
        $item
    )*};
}

/// Derives of an enum whose YAML names are Istio's upper-case ones.
macro_rules! choice {
    ($($item:item)*) => {$(
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        #[serde(rename_all = "SCREAMING_SNAKE_CASE")]
        $item
    )*};
}

mod kinds;
mod scalar;
#[cfg(feature = "schema")]
mod schema;
mod string_match;

pub mod authorization_policy;
pub mod destination_rule;
pub mod envoy_filter;
pub mod gateway;
pub mod mesh_config;
pub mod peer_authentication;
pub mod proxy_config;
pub mod request_authentication;
pub mod service_entry;
pub mod sidecar;
pub mod status;
pub mod telemetry;
pub mod traffic_extension;
pub mod virtual_service;
pub mod wasm_plugin;

use std::collections::BTreeMap;

pub use authorization_policy::AuthorizationPolicy;
pub use destination_rule::DestinationRule;
pub use envoy_filter::EnvoyFilter;
pub use gateway::Gateway;
pub use kinds::{KINDS, KindInfo, kind_info};
pub use mesh_config::MeshConfig;
pub use peer_authentication::PeerAuthentication;
pub use proxy_config::ProxyConfig;
pub use request_authentication::RequestAuthentication;
pub use scalar::{Duration, Number, Percent, number};
pub use service_entry::{ServiceEntry, WorkloadEntry, WorkloadGroup};
pub use sidecar::Sidecar;
pub use string_match::StringMatch;
pub use telemetry::Telemetry;
pub use traffic_extension::TrafficExtension;
pub use virtual_service::VirtualService;
pub use wasm_plugin::WasmPlugin;

message! {
    /// Selects workloads by labels (`istio.type.v1beta1.WorkloadSelector`). `matchLabels` of security and telemetry resources.
    pub struct WorkloadSelector {
        /// All of these labels, exactly.
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        pub match_labels: BTreeMap<String, String>,
    }

    /// Selects workloads by labels in networking resources (`labels`).
    pub struct NetworkingSelector {
        /// All of these labels, exactly.
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        pub labels: BTreeMap<String, String>,
    }

    /// What a policy is attached to (`istio.type.v1beta1.PolicyTargetReference`).
    pub struct PolicyTargetReference {
        /// API group; empty for core.
        pub group: String,
        /// Kind.
        pub kind: String,
        /// Name.
        pub name: String,
        /// Namespace; must be the policy's own.
        pub namespace: String,
    }

    /// A port by number.
    pub struct PortSelector {
        /// The number.
        #[serde(deserialize_with = "scalar::number")]
        pub number: u32,
    }

    /// A port of a Gateway, ServiceEntry or Sidecar.
    pub struct Port {
        /// Port number, 1 to 65535.
        #[serde(deserialize_with = "scalar::number")]
        pub number: u32,
        /// HTTP, HTTPS, GRPC, GRPC-WEB, HTTP2, MONGO, TCP, TLS, …
        pub protocol: String,
        /// Name.
        pub name: String,
        /// Port of the endpoint (ServiceEntry); the same number when absent.
        #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "scalar::optional_number")]
        pub target_port: Option<u32>,
    }
}

#[cfg(test)]
mod tests;

//! EnvoyFilter. Source: <https://istio.io/latest/docs/reference/config/networking/envoy-filter/>.

use std::collections::BTreeMap;

use super::scalar::{number, optional_number};
use super::{NetworkingSelector, PolicyTargetReference};

message! {
    /// Patches of Envoy's own configuration.
    pub struct EnvoyFilter {
        /// Workloads.
        pub workload_selector: Option<NetworkingSelector>,
        /// Targets instead of a selector.
        pub target_refs: Vec<PolicyTargetReference>,
        /// Patches.
        pub config_patches: Vec<ConfigPatch>,
        /// Order among EnvoyFilters.
        #[serde(deserialize_with = "number")]
        pub priority: i32,
    }

    /// One patch.
    pub struct ConfigPatch {
        /// What kind of object.
        pub apply_to: String,
        /// Which objects.
        #[serde(rename = "match")]
        pub matches: Option<ConfigObjectMatch>,
        /// The change.
        pub patch: Option<Patch>,
    }

    /// Which objects: those of a context that match the one matcher given.
    pub struct ConfigObjectMatch {
        /// ANY, SIDECAR_INBOUND, SIDECAR_OUTBOUND, GATEWAY, WAYPOINT.
        pub context: String,
        /// Which proxies.
        pub proxy: Option<ProxyMatch>,
        /// Which listeners.
        pub listener: Option<ListenerMatch>,
        /// Which routes.
        pub route_configuration: Option<RouteConfigurationMatch>,
        /// Which clusters.
        pub cluster: Option<ClusterMatch>,
        /// Which part of a waypoint.
        pub waypoint: Option<WaypointMatch>,
    }

    /// Which proxies.
    pub struct ProxyMatch {
        /// Expression over the proxy's version.
        pub proxy_version: String,
        /// Metadata of the proxy.
        pub metadata: BTreeMap<String, String>,
    }

    /// Which listeners.
    pub struct ListenerMatch {
        /// Port of the service or gateway.
        #[serde(deserialize_with = "number")]
        pub port_number: u32,
        /// Reserved by Istio.
        pub port_name: String,
        /// Which filter chain of it.
        pub filter_chain: Option<FilterChainMatch>,
        /// Which listener filter of it.
        pub listener_filter: String,
        /// Name.
        pub name: String,
    }

    /// Which filter chain.
    pub struct FilterChainMatch {
        /// Name.
        pub name: String,
        /// Server name that it matches.
        pub sni: String,
        /// `raw_buffer` or `tls`.
        pub transport_protocol: String,
        /// Comma-separated ALPN names that it matches.
        pub application_protocols: String,
        /// Which filter of it.
        pub filter: Option<FilterMatch>,
        /// Port that it matches.
        #[serde(deserialize_with = "number")]
        pub destination_port: u32,
    }

    /// Which network filter.
    pub struct FilterMatch {
        /// Name.
        pub name: String,
        /// Which filter inside of it.
        pub sub_filter: Option<SubFilterMatch>,
    }

    /// Which HTTP filter.
    pub struct SubFilterMatch {
        /// Name.
        pub name: String,
    }

    /// Which routes.
    pub struct RouteConfigurationMatch {
        /// Port of the service or gateway.
        #[serde(deserialize_with = "number")]
        pub port_number: u32,
        /// Name of the gateway's port.
        pub port_name: String,
        /// `namespace/name` of the Gateway.
        pub gateway: String,
        /// Which virtual host of it.
        pub vhost: Option<VirtualHostMatch>,
        /// Name.
        pub name: String,
    }

    /// Which virtual host.
    pub struct VirtualHostMatch {
        /// Name, `host:port`.
        pub name: String,
        /// A domain of it.
        pub domain_name: String,
        /// Which route of it.
        pub route: Option<RouteMatch>,
    }

    /// Which route.
    pub struct RouteMatch {
        /// Name.
        pub name: String,
        /// ANY, ROUTE, REDIRECT, DIRECT_RESPONSE.
        pub action: String,
    }

    /// Which clusters.
    pub struct ClusterMatch {
        /// Port of the service.
        #[serde(deserialize_with = "number")]
        pub port_number: u32,
        /// Host of the service.
        pub service: String,
        /// Subset of the service.
        pub subset: String,
        /// Name.
        pub name: String,
    }

    /// Which part of a waypoint.
    pub struct WaypointMatch {
        /// Port of the service.
        #[serde(deserialize_with = "optional_number")]
        pub port_number: Option<u32>,
        /// Which filter.
        pub filter: Option<FilterMatch>,
        /// Which route.
        pub route: Option<WaypointRouteMatch>,
    }

    /// Which route of a waypoint.
    pub struct WaypointRouteMatch {
        /// Name.
        pub name: String,
    }

    /// A change.
    pub struct Patch {
        /// MERGE, ADD, REMOVE, INSERT_BEFORE, INSERT_AFTER, INSERT_FIRST, REPLACE.
        pub operation: String,
        /// Envoy's own configuration.
        pub value: Option<serde_json::Value>,
        /// Where an added filter goes: AUTHN, AUTHZ, STATS.
        pub filter_class: String,
    }
}

//! EnvoyFilter. Source: <https://istio.io/latest/docs/reference/config/networking/envoy-filter/>.

use super::scalar::number;
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
        pub matches: Option<serde_json::Value>,
        /// The change.
        pub patch: Option<serde_json::Value>,
    }
}

//! WasmPlugin. Source: <https://istio.io/latest/docs/reference/config/proxy_extensions/wasm-plugin/>.

use super::scalar::optional_number;
use super::{PolicyTargetReference, PortSelector, WorkloadSelector};

message! {
    /// A WebAssembly filter.
    pub struct WasmPlugin {
        /// Workloads.
        pub selector: Option<WorkloadSelector>,
        /// Deprecated single target.
        pub target_ref: Option<PolicyTargetReference>,
        /// Targets instead of a selector.
        pub target_refs: Vec<PolicyTargetReference>,
        /// `oci://`, `http(s)://`, `file://`.
        pub url: String,
        /// Expected hash.
        pub sha256: String,
        /// When to fetch.
        pub image_pull_policy: String,
        /// Secret for fetching.
        pub image_pull_secret: String,
        /// Key that signed it.
        pub verification_key: String,
        /// Given to the plugin.
        pub plugin_config: Option<serde_json::Value>,
        /// Name inside the module.
        pub plugin_name: String,
        /// Where in the chain.
        pub phase: String,
        /// Order in the phase.
        #[serde(deserialize_with = "optional_number")]
        pub priority: Option<i32>,
        /// When it fails.
        pub fail_strategy: String,
        /// Environment.
        pub vm_config: Option<VmConfig>,
        /// Traffic it sees.
        #[serde(rename = "match")]
        pub matches: Vec<TrafficSelector>,
        /// HTTP or NETWORK.
        #[serde(rename = "type")]
        pub plugin_type: String,
    }

    /// Environment of a WebAssembly machine.
    pub struct VmConfig {
        /// Variables.
        pub env: Vec<EnvVar>,
    }

    /// A variable.
    pub struct EnvVar {
        /// Name.
        pub name: String,
        /// INLINE, or HOST for the proxy's own.
        pub value_from: String,
        /// Value, if INLINE.
        pub value: Option<String>,
    }

    /// Traffic that an extension sees.
    pub struct TrafficSelector {
        /// CLIENT, SERVER, CLIENT_AND_SERVER.
        pub mode: String,
        /// Ports; all if none is named.
        pub ports: Vec<PortSelector>,
    }
}

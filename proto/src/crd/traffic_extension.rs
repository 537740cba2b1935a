//! TrafficExtension: WebAssembly or Lua at a point of the filter chain.

use super::scalar::optional_number;
use super::wasm_plugin::{TrafficSelector, VmConfig};
use super::{PolicyTargetReference, WorkloadSelector};

message! {
    /// An extension of the request path.
    pub struct TrafficExtension {
        /// Workloads.
        pub selector: Option<WorkloadSelector>,
        /// Targets instead of a selector.
        pub target_refs: Vec<PolicyTargetReference>,
        /// Where in the chain.
        pub phase: String,
        /// Order in the phase.
        #[serde(deserialize_with = "optional_number")]
        pub priority: Option<i32>,
        /// Traffic it sees.
        #[serde(rename = "match")]
        pub matches: Vec<TrafficSelector>,
        /// WebAssembly.
        pub wasm: Option<WasmConfig>,
        /// Lua.
        pub lua: Option<LuaConfig>,
    }

    /// A WebAssembly filter.
    pub struct WasmConfig {
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
        /// When it fails.
        pub fail_strategy: String,
        /// Environment.
        pub vm_config: Option<VmConfig>,
        /// HTTP or NETWORK.
        #[serde(rename = "type")]
        pub plugin_type: String,
    }

    /// A Lua filter.
    pub struct LuaConfig {
        /// The script.
        pub inline_code: String,
    }
}

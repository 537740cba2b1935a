//! TrafficExtension: WebAssembly or Lua at a point of the filter chain.

use super::scalar::optional_number;
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
        pub matches: Vec<serde_json::Value>,
        /// WebAssembly.
        pub wasm: Option<serde_json::Value>,
        /// Lua.
        pub lua: Option<serde_json::Value>,
    }
}

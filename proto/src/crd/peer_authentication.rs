//! PeerAuthentication. Source: <https://istio.io/latest/docs/reference/config/security/peer_authentication/>.

use std::collections::BTreeMap;

use super::WorkloadSelector;

message! {
    /// Which TLS a workload accepts from peers.
    pub struct PeerAuthentication {
        /// Workloads; none means the namespace, or the mesh in the root namespace.
        pub selector: Option<WorkloadSelector>,
        /// For all ports.
        pub mtls: Option<MutualTls>,
        /// By workload port; only with a selector.
        pub port_level_mtls: BTreeMap<String, MutualTls>,
    }

    /// A mode.
    pub struct MutualTls {
        /// The mode.
        pub mode: MutualTlsMode,
    }
}

choice! {
    /// Modes.
    pub enum MutualTlsMode {
        /// Inherited.
        #[default]
        Unset,
        /// Plaintext.
        Disable,
        /// Plaintext or mTLS.
        Permissive,
        /// mTLS.
        Strict,
    }
}

//! Who a peer is, in the words of metric labels.

use crate::Name;

/// A workload as metric labels name it (MT3, MT5). Unknown values are `unknown` when written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Peer {
    /// Workload, such as the Deployment.
    pub workload: Option<Name>,
    /// Namespace.
    pub namespace: Option<Name>,
    /// Label `app`.
    pub app: Option<Name>,
    /// Label `version`.
    pub version: Option<Name>,
    /// Canonical service.
    pub canonical_service: Option<Name>,
    /// Canonical revision.
    pub canonical_revision: Option<Name>,
    /// Cluster id.
    pub cluster: Option<Name>,
}

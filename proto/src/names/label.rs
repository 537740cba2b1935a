//! Labels of workloads (IN4, MT5, G16).

/// Canonical service of a workload.
pub const CANONICAL_NAME: &str = "service.istio.io/canonical-name";
/// Canonical revision of a workload.
pub const CANONICAL_REVISION: &str = "service.istio.io/canonical-revision";
/// Workload's own name.
pub const WORKLOAD_NAME: &str = "service.istio.io/workload-name";
/// `istio` says that the workload speaks mesh mTLS.
pub const TLS_MODE: &str = "security.istio.io/tlsMode";
/// Network.
pub const NETWORK: &str = "topology.istio.io/network";
/// Cluster.
pub const CLUSTER: &str = "topology.istio.io/cluster";
/// Sub-zone.
pub const SUBZONE: &str = "topology.istio.io/subzone";
/// Region of a node.
pub const REGION: &str = "topology.kubernetes.io/region";
/// Zone of a node.
pub const ZONE: &str = "topology.kubernetes.io/zone";
/// Locality of a pod, overriding its node's; `.` stands for `/`.
pub const LOCALITY: &str = "istio-locality";
/// Kubernetes' recommended name.
pub const APP_NAME: &str = "app.kubernetes.io/name";
/// Kubernetes' recommended version.
pub const APP_VERSION: &str = "app.kubernetes.io/version";
/// The customary name.
pub const APP: &str = "app";
/// The customary version.
pub const VERSION: &str = "version";
/// `false` on a ServiceEntry: its hosts get no address of their own (SE8).
pub const ENABLE_AUTOALLOCATE_IP: &str = "networking.istio.io/enable-autoallocate-ip";
/// Names the Service of an EndpointSlice.
pub const ENDPOINT_SLICE_SERVICE: &str = "kubernetes.io/service-name";
/// The customary label of gateways.
pub const ISTIO: &str = "istio";
/// `true` or `false` on a pod: whether it gets a sidecar.
pub const INJECT: &str = "sidecar.istio.io/inject";
/// `enabled` or `disabled` on a namespace: whether its pods get a sidecar of the default revision.
pub const INJECTION: &str = "istio-injection";
/// The revision, or a tag of it, that a namespace or pod belongs to.
pub const REVISION: &str = "istio.io/rev";

/// The canonical service and revision of a workload (MT5).
pub fn canonical<'a>(get: impl Fn(&str) -> Option<&'a str>, workload: &'a str) -> (&'a str, &'a str) {
    let name = get(CANONICAL_NAME).or_else(|| get(APP_NAME)).or_else(|| get(APP)).unwrap_or(workload);
    let revision = get(CANONICAL_REVISION).or_else(|| get(APP_VERSION)).or_else(|| get(VERSION)).unwrap_or("latest");
    (name, revision)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_service_falls_back_in_istio_order() {
        for (labels, expected) in [
            (&[][..], ("w", "latest")),
            (&[(APP, "a"), (VERSION, "v1")], ("a", "v1")),
            (&[(APP, "a"), (APP_NAME, "n"), (APP_VERSION, "2"), (VERSION, "v1")], ("n", "2")),
            (&[(CANONICAL_NAME, "c"), (APP_NAME, "n"), (CANONICAL_REVISION, "r")], ("c", "r")),
        ] {
            let get = |key: &str| labels.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);
            assert_eq!(canonical(get, "w"), expected);
        }
    }
}

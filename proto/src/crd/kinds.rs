//! Which kinds there are, in which API group and versions.

/// A kind of custom resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KindInfo {
    /// `networking.istio.io`, …
    pub group: &'static str,
    /// Served versions, newest first; all have the same schema.
    pub versions: &'static [&'static str],
    /// `VirtualService`.
    pub kind: &'static str,
    /// `virtualservices`.
    pub plural: &'static str,
    /// `vs`.
    pub short_names: &'static [&'static str],
}

const NETWORKING: &str = "networking.istio.io";
const SECURITY: &str = "security.istio.io";
const THREE: &[&str] = &["v1", "v1beta1", "v1alpha3"];

/// Every custom resource of Istio's (G1). All are namespaced.
pub const KINDS: &[KindInfo] = &[
    KindInfo {
        group: NETWORKING,
        versions: THREE,
        kind: "VirtualService",
        plural: "virtualservices",
        short_names: &["vs"],
    },
    KindInfo {
        group: NETWORKING,
        versions: THREE,
        kind: "DestinationRule",
        plural: "destinationrules",
        short_names: &["dr"],
    },
    KindInfo { group: NETWORKING, versions: THREE, kind: "Gateway", plural: "gateways", short_names: &["gw"] },
    KindInfo {
        group: NETWORKING,
        versions: THREE,
        kind: "ServiceEntry",
        plural: "serviceentries",
        short_names: &["se"],
    },
    KindInfo { group: NETWORKING, versions: THREE, kind: "Sidecar", plural: "sidecars", short_names: &[] },
    KindInfo {
        group: NETWORKING,
        versions: THREE,
        kind: "WorkloadEntry",
        plural: "workloadentries",
        short_names: &["we"],
    },
    KindInfo {
        group: NETWORKING,
        versions: THREE,
        kind: "WorkloadGroup",
        plural: "workloadgroups",
        short_names: &["wg"],
    },
    KindInfo {
        group: NETWORKING,
        versions: &["v1alpha3"],
        kind: "EnvoyFilter",
        plural: "envoyfilters",
        short_names: &[],
    },
    KindInfo {
        group: NETWORKING,
        versions: &["v1beta1"],
        kind: "ProxyConfig",
        plural: "proxyconfigs",
        short_names: &[],
    },
    KindInfo {
        group: SECURITY,
        versions: &["v1", "v1beta1"],
        kind: "PeerAuthentication",
        plural: "peerauthentications",
        short_names: &["pa"],
    },
    KindInfo {
        group: SECURITY,
        versions: &["v1", "v1beta1"],
        kind: "RequestAuthentication",
        plural: "requestauthentications",
        short_names: &["ra"],
    },
    KindInfo {
        group: SECURITY,
        versions: &["v1", "v1beta1"],
        kind: "AuthorizationPolicy",
        plural: "authorizationpolicies",
        short_names: &["ap"],
    },
    KindInfo {
        group: "telemetry.istio.io",
        versions: &["v1", "v1alpha1"],
        kind: "Telemetry",
        plural: "telemetries",
        short_names: &["telemetry"],
    },
    KindInfo {
        group: "extensions.istio.io",
        versions: &["v1alpha1"],
        kind: "WasmPlugin",
        plural: "wasmplugins",
        short_names: &[],
    },
    KindInfo {
        group: "extensions.istio.io",
        versions: &["v1alpha1"],
        kind: "TrafficExtension",
        plural: "trafficextensions",
        short_names: &[],
    },
];

/// The kind of an object's `apiVersion` and `kind`, if it is Istio's and the version is served.
pub fn kind_info(api_version: &str, kind: &str) -> Option<&'static KindInfo> {
    let (group, version) = api_version.split_once('/')?;
    KINDS.iter().find(|info| info.group == group && info.kind == kind && info.versions.contains(&version))
}

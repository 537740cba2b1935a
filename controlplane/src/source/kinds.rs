//! From `apiVersion` and `kind` to what the mesh reads.

use mesh_proto::crd::{KINDS, kind_info};

use crate::model::Kind;

/// What an `apiVersion` and a `kind` say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Known {
    /// An object of Istio's, whose body is its `spec`.
    Istio(Kind),
    /// An object of Kubernetes', read whole.
    Kubernetes(Kind),
    /// The kind is read, but not in this version; the versions that are.
    Version(Kind, Vec<String>),
    /// A kind that configures a mesh, which ours does not read yet; what to use instead.
    Missing(&'static str),
    /// No business of the mesh's.
    Other,
}

/// Kinds of Kubernetes' that are read, with their one version.
const KUBERNETES: &[(Kind, &str, &str)] = &[
    (Kind::Service, "v1", "Service"),
    (Kind::EndpointSlice, "discovery.k8s.io/v1", "EndpointSlice"),
    (Kind::Pod, "v1", "Pod"),
    (Kind::Node, "v1", "Node"),
    (Kind::Namespace, "v1", "Namespace"),
    (Kind::Secret, "v1", "Secret"),
    (Kind::ConfigMap, "v1", "ConfigMap"),
    (Kind::Ingress, "networking.k8s.io/v1", "Ingress"),
    (Kind::IngressClass, "networking.k8s.io/v1", "IngressClass"),
];

/// What an object is.
pub(super) fn known(api_version: &str, kind: &str) -> Known {
    if kind_info(api_version, kind).is_some() {
        return istio_kind(kind).map_or(Known::Other, Known::Istio);
    }
    if let Some((known, _, _)) = KUBERNETES.iter().find(|(_, version, name)| *version == api_version && *name == kind) {
        return Known::Kubernetes(*known);
    }
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    match group {
        "gateway.networking.k8s.io" | "gateway.networking.x-k8s.io" => {
            return Known::Missing("use Istio's Gateway, VirtualService and DestinationRule");
        }
        "multicluster.x-k8s.io" => return Known::Missing("the mesh has one cluster"),
        "install.istio.io" => {
            return Known::Missing("put spec.meshConfig into the ConfigMap istio-system/istio, key mesh");
        }
        _ => {}
    }
    // A group or version that is wrong, of a kind that is known: names such as Gateway and Service exist in other groups, too.
    let istio = KINDS.iter().find(|info| info.kind == kind && (group == info.group || group.is_empty()));
    if let (Some(info), Some(kind)) = (istio, istio_kind(kind)) {
        let versions = info.versions.iter().map(|version| format!("{}/{version}", info.group)).collect();
        return Known::Version(kind, versions);
    }
    let kubernetes = KUBERNETES.iter().find(|(_, version, name)| {
        let own = version.split_once('/').map_or("", |(group, _)| group);
        *name == kind && (group == own || group.is_empty())
    });
    if let Some((kind, version, _)) = kubernetes {
        return Known::Version(*kind, vec![(*version).to_owned()]);
    }
    Known::Other
}

/// The kind of this name, if it is one of Istio's.
pub(super) fn istio_kind(kind: &str) -> Option<Kind> {
    Some(match kind {
        "VirtualService" => Kind::VirtualService,
        "DestinationRule" => Kind::DestinationRule,
        "Gateway" => Kind::Gateway,
        "ServiceEntry" => Kind::ServiceEntry,
        "WorkloadEntry" => Kind::WorkloadEntry,
        "WorkloadGroup" => Kind::WorkloadGroup,
        "Sidecar" => Kind::Sidecar,
        "EnvoyFilter" => Kind::EnvoyFilter,
        "ProxyConfig" => Kind::ProxyConfig,
        "PeerAuthentication" => Kind::PeerAuthentication,
        "RequestAuthentication" => Kind::RequestAuthentication,
        "AuthorizationPolicy" => Kind::AuthorizationPolicy,
        "Telemetry" => Kind::Telemetry,
        "WasmPlugin" => Kind::WasmPlugin,
        "TrafficExtension" => Kind::TrafficExtension,
        _ => return None,
    })
}

/// True for Istio's own kinds: configuration that may be for one revision alone, and whose status the mesh writes.
pub(super) fn is_of_mesh(kind: Kind) -> bool {
    KINDS.iter().any(|info| istio_kind(info.kind) == Some(kind))
}

/// True for kinds that belong to no namespace.
pub(super) fn cluster_wide(kind: Kind) -> bool {
    matches!(kind, Kind::Node | Kind::Namespace | Kind::IngressClass)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_istio_is_known() {
        for info in KINDS {
            for version in info.versions {
                let found = known(&format!("{}/{version}", info.group), info.kind);
                assert!(
                    matches!(&found, Known::Istio(kind) if format!("{kind:?}") == info.kind),
                    "{info:?}: {found:?}"
                );
            }
        }
    }

    #[test]
    fn other_groups_and_versions_are_told_apart() {
        let version =
            |kind, versions: &[&str]| Known::Version(kind, versions.iter().map(|v| (*v).to_owned()).collect());
        for (api_version, kind, expected) in [
            ("v1", "Service", Known::Kubernetes(Kind::Service)),
            ("serving.knative.dev/v1", "Service", Known::Other),
            ("apps/v1", "Deployment", Known::Other),
            ("v1", "EndpointSlice", version(Kind::EndpointSlice, &["discovery.k8s.io/v1"])),
            ("networking.istio.io/v2", "EnvoyFilter", version(Kind::EnvoyFilter, &["networking.istio.io/v1alpha3"])),
            (
                "networking.istio.io",
                "VirtualService",
                version(
                    Kind::VirtualService,
                    &["networking.istio.io/v1", "networking.istio.io/v1beta1", "networking.istio.io/v1alpha3"],
                ),
            ),
            ("other.io/v1", "Gateway", Known::Other),
        ] {
            assert_eq!(known(api_version, kind), expected, "{api_version} {kind}");
        }
        assert!(matches!(known("gateway.networking.k8s.io/v1", "Gateway"), Known::Missing(_)));
    }
}

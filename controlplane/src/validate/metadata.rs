//! Labels and annotations that configure Istio and have no effect here (IN4, G15): each is reported, so that none is taken and ignored.
//!
//! What asks for a sidecar, or for one of a certain kind, is judged by [`crate::inject`] when the pod is made.

use std::collections::BTreeMap;

use mesh_proto::names::{annotation, label};

use super::check::{At, Check};
use super::kubernetes::DISTRIBUTION;
use crate::model::Kind;
use crate::model::kubernetes::prefers_near;

/// One that has no effect, on which kinds (all if none is named), and what to do.
struct Inert {
    name: &'static str,
    kinds: &'static [Kind],
    advice: &'static str,
}

const ONE_CLUSTER: &str = "has no effect yet: the mesh has one cluster; remove it";
/// Of whatever names a network.
pub(super) const ONE_NETWORK: &str = "has no effect yet: the mesh has one network; remove it";
const NO_AMBIENT: &str = "has no effect yet: there are no waypoints or node proxies; give workloads sidecars";

const ANNOTATIONS: &[Inert] = &[
    Inert { name: "traffic.istio.io/nodeSelector", kinds: &[Kind::Service], advice: ONE_NETWORK },
    Inert { name: "topology.istio.io/controlPlaneClusters", kinds: &[Kind::Namespace], advice: ONE_CLUSTER },
];

const LABELS: &[Inert] = &[
    Inert { name: "istio.io/dataplane-mode", kinds: &[Kind::Namespace, Kind::Pod], advice: NO_AMBIENT },
    Inert {
        name: "istio.io/use-waypoint",
        kinds: &[Kind::Namespace, Kind::Pod, Kind::Service, Kind::ServiceEntry, Kind::WorkloadEntry],
        advice: NO_AMBIENT,
    },
    Inert {
        name: "istio.io/use-waypoint-namespace",
        kinds: &[Kind::Namespace, Kind::Pod, Kind::Service, Kind::ServiceEntry, Kind::WorkloadEntry],
        advice: NO_AMBIENT,
    },
    Inert {
        name: "istio.io/ingress-use-waypoint",
        kinds: &[Kind::Namespace, Kind::Service, Kind::ServiceEntry],
        advice: NO_AMBIENT,
    },
    Inert { name: "istio.io/global", kinds: &[Kind::Service], advice: ONE_CLUSTER },
    Inert { name: "networking.istio.io/gatewayPort", kinds: &[Kind::Service], advice: ONE_NETWORK },
    Inert { name: label::NETWORK, kinds: &[Kind::Namespace, Kind::Pod, Kind::WorkloadEntry], advice: ONE_NETWORK },
];

/// Reports what an object's metadata asks for in vain.
pub(super) fn check(check: &mut Check<'_>) {
    let object = check.object;
    report(check, "annotations", &object.meta.annotations, ANNOTATIONS);
    let distribution = object.meta.annotations.get(annotation::TRAFFIC_DISTRIBUTION);
    if distribution.is_some_and(|word| !prefers_near(word)) {
        check.warning(&At::top("metadata").field("annotations").key(annotation::TRAFFIC_DISTRIBUTION), DISTRIBUTION);
    }
    report(check, "labels", &object.meta.labels, LABELS);
}

fn report(check: &mut Check<'_>, list: &str, given: &BTreeMap<String, String>, inert: &[Inert]) {
    let kind = check.object.key.kind;
    for name in given.keys() {
        let matches = |one: &&Inert| one.name == name && (one.kinds.is_empty() || one.kinds.contains(&kind));
        if let Some(one) = inert.iter().find(matches) {
            check.warning(&At::top("metadata").field(list).key(name), one.advice);
        }
    }
}

/// True if the object's annotation says that a finding of this code is known (`IST0107,IST0101`, or `*`).
pub fn is_suppressed(annotations: &BTreeMap<String, String>, code: Option<&str>) -> bool {
    let listed = annotations.get(annotation::ANALYZE_SUPPRESS).map_or("", String::as_str);
    listed.split(',').map(str::trim).any(|word| word == "*" || Some(word) == code)
}

#[cfg(test)]
mod tests {
    use crate::source::tests::check;

    #[test]
    fn labels_and_annotations_without_effect_are_reported() {
        check(
            "apiVersion: v1
kind: Pod
metadata:
  name: a
  labels: {app: a, istio.io/rev: canary, istio.io/dataplane-mode: ambient}
  annotations:
    sidecar.istio.io/status: ''
    sidecar.istio.io/proxyCPU: 100m
    prometheus.io/port: '9090'
spec: {containers: []}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: a, labels: {istio.io/rev: canary}}
spec: {egress: [{hosts: ['*/*']}]}
---
apiVersion: v1
kind: Service
metadata: {name: a, annotations: {networking.istio.io/traffic-distribution: Nearest, networking.istio.io/exportTo: '*'}}
spec: {ports: [{port: 80}], sessionAffinity: None, internalTrafficPolicy: Local}
",
            "a.yaml:5:42: warning[IST0106]: Pod default/a: metadata.labels[istio.io/dataplane-mode]: has no effect yet: there are no waypoints or node proxies; give workloads sidecars
a.yaml:19:35: warning[IST0106]: Service default/a: metadata.annotations[networking.istio.io/traffic-distribution]: has no effect: use PreferClose or PreferSameZone, which mean the same here
",
        );
    }

    #[test]
    fn findings_that_are_known_are_suppressed_but_never_what_refuses() {
        let service = |codes: &str, port: u16| {
            format!(
                "apiVersion: v1
kind: Service
metadata: {{name: a, annotations: {{galley.istio.io/analyze-suppress: '{codes}'}}}}
spec: {{ports: [{{port: {port}}}], sessionAffinity: ClientIP}}
"
            )
        };
        let warned = "a.yaml:4:29: warning[IST0106]: Service default/a: spec.sessionAffinity: has no effect on connections that a proxy makes; remove it\n";
        for (codes, port, expected) in [
            ("IST0101, IST0002", 80, warned),
            ("IST0101, IST0106", 80, ""),
            ("*", 80, ""),
            (
                "*",
                0,
                "a.yaml:4:17: error[IST0106]: Service default/a: spec.ports[0].port: 0 is not a port; ports are 1 to 65535\n",
            ),
        ] {
            check(&service(codes, port), expected);
        }
    }
}

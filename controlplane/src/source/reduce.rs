//! Of Kubernetes' own objects, and of any object's status, what the mesh reads and nothing else: the rest is most of their size, and changes
//! all the time.
//!
//! A pod's probes, a node's heartbeat, the time of an endpoint's last change: without them an object that says the same to the mesh is the
//! same, and makes no change. Called by [`super::document`] for each object that is good.

use std::net::IpAddr;

use mesh_proto::kube::{
    ConfigMap, EndpointSlice, Ingress, IngressClass, Namespace, Node, ObjectMeta, Pod, Secret, Service,
};
use mesh_proto::names::label;
use serde_json::Value;

use super::kinds::is_of_mesh as is_istios;
use crate::model::{Kind, Meta, Name, Spec};

/// What `kubectl apply` keeps: the whole object once more.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Labels of nodes from before Kubernetes 1.17 begin with this.
const OLD_TOPOLOGY: &str = "failure-domain.beta.kubernetes.io/";

/// Leaves what the mesh reads.
pub(super) fn reduce(kind: Kind, mut meta: Meta, spec: Spec) -> (Meta, Spec) {
    meta.annotations.remove(LAST_APPLIED);
    match kind {
        Kind::Pod => meta.annotations.retain(|name, _| is_of_mesh(name)),
        // The controllers of slices write their clock here; nodes' labels are many, and few say where the node is.
        Kind::EndpointSlice | Kind::Secret => meta.annotations.clear(),
        Kind::Node => {
            meta.annotations.clear();
            meta.labels.retain(|name, _| {
                matches!(name.as_str(), label::REGION | label::ZONE | label::SUBZONE) || name.starts_with(OLD_TOPOLOGY)
            });
        }
        _ => {}
    }
    if !is_istios(kind) {
        // Nobody is told that the mesh has seen a version of these.
        meta.generation = 0;
    }
    let spec = match spec {
        Spec::Pod(one) => Spec::Pod(pod(one)),
        Spec::Service(one) => Spec::Service(service(one)),
        Spec::Ingress(one) => Spec::Ingress(Ingress { metadata: ObjectMeta::default(), status: None, ..one }),
        Spec::IngressClass(one) => Spec::IngressClass(IngressClass { metadata: ObjectMeta::default(), ..one }),
        Spec::EndpointSlice(one) => Spec::EndpointSlice(slice(one)),
        Spec::Node(_) => Spec::Node(Node::default()),
        Spec::Namespace(_) => Spec::Namespace(Namespace::default()),
        Spec::Secret(one) => Spec::Secret(Secret { metadata: ObjectMeta::default(), ..one }),
        Spec::ConfigMap(one) => Spec::ConfigMap(ConfigMap { metadata: ObjectMeta::default(), ..one }),
        other => other,
    };
    (meta, spec)
}

/// What `status.addresses` of a ServiceEntry says: the mesh wrote it, so what it would not write is left out.
pub(super) fn recorded(kind: Kind, status: Option<&Value>) -> Vec<(Name, IpAddr)> {
    let addresses =
        status.filter(|_| kind == Kind::ServiceEntry).and_then(|status| status.get("addresses")?.as_array());
    let read = addresses.into_iter().flatten().filter_map(|one| {
        let text = |name: &str| one.get(name).and_then(Value::as_str);
        Some((Name::from(text("host")?), text("value")?.parse().ok()?))
    });
    read.collect()
}

/// True for annotations that the mesh reads or reports.
fn is_of_mesh(annotation: &str) -> bool {
    annotation
        .split_once('/')
        .is_some_and(|(domain, _)| domain == "prometheus.io" || domain == "istio.io" || domain.ends_with(".istio.io"))
}

/// What it says of itself, and where a load balancer has it.
fn service(service: Service) -> Service {
    let balanced = service.status.and_then(|status| status.load_balancer).filter(|one| one.ingress.is_some());
    let status = balanced.map(|load_balancer| k8s_openapi::api::core::v1::ServiceStatus {
        load_balancer: Some(load_balancer),
        ..Default::default()
    });
    Service { metadata: ObjectMeta::default(), status, ..service }
}

/// Addresses, readiness, ports by name, account, node and owner.
fn pod(pod: Pod) -> Pod {
    let metadata = ObjectMeta {
        owner_references: pod.metadata.owner_references,
        deletion_timestamp: pod.metadata.deletion_timestamp,
        ..ObjectMeta::default()
    };
    let containers = |list: Vec<k8s_openapi::api::core::v1::Container>| {
        let named = list.into_iter().map(|one| k8s_openapi::api::core::v1::Container {
            name: one.name,
            ports: one.ports,
            ..Default::default()
        });
        named.collect::<Vec<_>>()
    };
    let spec = pod.spec.map(|spec| k8s_openapi::api::core::v1::PodSpec {
        containers: containers(spec.containers),
        init_containers: spec.init_containers.map(containers),
        node_name: spec.node_name,
        service_account_name: spec.service_account_name,
        service_account: spec.service_account,
        ..Default::default()
    });
    let status = pod.status.map(|status| k8s_openapi::api::core::v1::PodStatus {
        phase: status.phase,
        pod_ip: status.pod_ip,
        pod_ips: status.pod_ips,
        conditions: status.conditions.map(|conditions| {
            let ready = conditions.into_iter().filter(|condition| condition.type_ == "Ready");
            let ready = ready.map(|condition| k8s_openapi::api::core::v1::PodCondition {
                type_: condition.type_,
                status: condition.status,
                ..Default::default()
            });
            ready.collect()
        }),
        ..Default::default()
    });
    Pod { metadata, spec, status }
}

/// Addresses, conditions, targets and ports.
fn slice(mut slice: EndpointSlice) -> EndpointSlice {
    slice.metadata = ObjectMeta::default();
    for endpoint in slice.endpoints.iter_mut().flatten() {
        endpoint.hints = None;
        if let Some(target) = &mut endpoint.target_ref {
            target.resource_version = None;
            target.field_path = None;
        }
    }
    slice
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::document::{Outcome, read};
    use super::*;
    use crate::model::Object;

    fn object(yaml: &str) -> std::sync::Arc<Object> {
        let document = read(None, yaml.as_bytes()).remove(0);
        let Outcome::Object(object) = document.outcome else { unreachable!("{:?}", document.findings) };
        object
    }

    #[test]
    fn a_heartbeat_is_no_change() {
        let pair = |before: &str, after: &str| (before.to_owned(), after.to_owned());
        let node = |time: &str, name: &str| {
            format!(
                "apiVersion: v1\nkind: Node\nmetadata: {{name: n, resourceVersion: '{time}', labels: {{topology.kubernetes.io/zone: z, \
                 beta.kubernetes.io/{name}: x}}, annotations: {{a: '{time}'}}}}\nstatus: {{conditions: [{{type: Ready, status: 'True', \
                 lastHeartbeatTime: '2026-01-01T00:00:0{time}Z'}}]}}\n"
            )
        };
        let pod = |time: &str, image: &str| {
            format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: p, generation: {time}, annotations: {{cni: '{time}'}}}}\nspec: {{containers: \
                 [{{name: c, image: {image}, ports: [{{name: http, containerPort: 80}}]}}]}}\nstatus: {{podIP: 10.0.0.1, conditions: [{{type: \
                 Ready, status: 'True', lastProbeTime: '2026-01-01T00:00:0{time}Z'}}, {{type: Other, status: '{image}'}}]}}\n"
            )
        };
        let slice = |time: &str, version: &str| {
            format!(
                "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: e, generation: {time}, annotations: \
                 {{endpoints.kubernetes.io/last-change-trigger-time: '{time}'}}}}\naddressType: IPv4\nendpoints: [{{addresses: [10.0.0.1], \
                 targetRef: {{kind: Pod, name: p, resourceVersion: '{version}'}}}}]\n"
            )
        };
        for (before, after) in [
            pair(&node("1", "os"), &node("2", "arch")),
            pair(&pod("1", "a"), &pod("2", "b")),
            pair(&slice("1", "8"), &slice("2", "9")),
        ] {
            assert_eq!(object(&before), object(&after));
        }
    }

    #[test]
    fn what_the_mesh_reads_stays() {
        let pod = object(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\n  labels: {app: a}\n  annotations: {sidecar.istio.io/status: x, prometheus.io/port: '9', \
             kubectl.kubernetes.io/last-applied-configuration: '{}'}\n  ownerReferences: [{apiVersion: v1, kind: Job, name: j, uid: u}]\n\
             spec: {nodeName: n, serviceAccountName: s, containers: [{name: c, ports: [{name: http, containerPort: 80}]}]}\n\
             status: {phase: Running, podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}], conditions: [{type: Ready, status: 'False'}]}\n",
        );
        let annotations: Vec<&str> = pod.meta.annotations.keys().map(String::as_str).collect();
        assert_eq!(annotations, ["prometheus.io/port", "sidecar.istio.io/status"]);
        let Spec::Pod(read) = &pod.spec else { unreachable!() };
        let workload = crate::model::kubernetes::workload(&pod, read, &Default::default()).unwrap();
        assert_eq!((&*workload.workload_name, &*workload.service_account, workload.ready), ("j", "s", false));
        assert_eq!(workload.named_ports.get("http"), Some(&80));
    }
}

//! Findings over workloads, which only a cluster has: namespaces and pods that are not in the mesh, and policies that choose nobody.
//!
//! `analyze` adds them to what [`mesh_controlplane::validate`] finds of configuration. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use mesh_controlplane::inject::decision::SYSTEM_NAMESPACES;
use mesh_controlplane::model::endpoints::selects;
use mesh_controlplane::model::{Key, Kind, Object, Origin, Protocol, Spec};
use mesh_controlplane::validate::{Finding, Severity, is_suppressed};
use mesh_proto::names::{ROOT_NAMESPACE, label};

use crate::pods;

/// A namespace asks for no injection.
const NOT_INJECTED: &str = "IST0102";
/// A pod has no proxy though its namespace asks for it.
const NO_PROXY: &str = "IST0103";
/// A port's name begins with no protocol.
const PORT_NAME: &str = "IST0118";
/// A namespace asks for injection by two labels.
const TWO_LABELS: &str = "IST0123";
/// A selector chooses no workload.
const NO_WORKLOADS: &str = "IST0127";

type Labels = BTreeMap<String, String>;

/// Over all objects that there are, and pods as they were written, which objects reduce.
pub fn findings<'a>(objects: impl Iterator<Item = &'a Object>, pods: &[Pod]) -> Vec<Finding> {
    let objects: Vec<&Object> = objects.collect();
    let is_namespace = |object: &&&Object| object.key.kind == Kind::Namespace;
    let namespaces: BTreeMap<&str, &Labels> =
        objects.iter().filter(is_namespace).map(|object| (&*object.key.name, &object.meta.labels)).collect();
    let mut found = Vec::new();
    for object in &objects {
        match &object.spec {
            Spec::Namespace(_) => namespace(object, &mut found),
            Spec::Service(_) => ports(object, namespaces.get(&*object.key.namespace), &mut found),
            spec => {
                if let Some((field, labels)) = selector(spec) {
                    chooses(object, field, labels, pods, &mut found);
                }
            }
        }
    }
    found.extend(pods.iter().filter_map(|pod| outside(pod, &namespaces)));
    found
}

fn add(
    found: &mut Vec<Finding>,
    object: &Object,
    severity: Severity,
    code: &'static str,
    field: Option<String>,
    message: String,
) {
    if !is_suppressed(&object.meta.annotations, Some(code)) {
        let (key, origin) = (Some(object.key.clone()), object.origin.clone());
        found.push(Finding { severity, code: Some(code), key, origin, field, message });
    }
}

/// Namespaces in which nobody expects a mesh.
fn is_of_system(name: &str) -> bool {
    name == ROOT_NAMESPACE || SYSTEM_NAMESPACES.contains(&name)
}

fn namespace(object: &Object, found: &mut Vec<Finding>) {
    let name = &*object.key.name;
    let labels = &object.meta.labels;
    match (labels.contains_key(label::INJECTION), labels.contains_key(label::REVISION)) {
        (true, true) => {
            let message = format!(
                "{} counts, and {} says nothing beside it; remove one of them",
                label::INJECTION,
                label::REVISION
            );
            add(found, object, Severity::Warning, TWO_LABELS, Some("metadata.labels".to_owned()), message);
        }
        (false, false) if !is_of_system(name) => {
            let message = format!(
                "its pods get no proxy; `kubectl label namespace {name} {}=enabled` asks for them, and =disabled says that none are wanted",
                label::INJECTION
            );
            add(found, object, Severity::Info, NOT_INJECTED, None, message);
        }
        _ => {}
    }
}

fn ports(object: &Object, labels: Option<&&Labels>, found: &mut Vec<Finding>) {
    let asks = |labels: &&&Labels| {
        labels.contains_key(label::REVISION) || labels.get(label::INJECTION).is_some_and(|value| value == "enabled")
    };
    let Spec::Service(service) = &object.spec else { return };
    if labels.filter(asks).is_none() {
        return;
    }
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    for (index, port) in ports.enumerate() {
        let name = port.name.as_deref().unwrap_or_default();
        let number = u16::try_from(port.port).unwrap_or_default();
        let other = matches!(port.protocol.as_deref(), Some("UDP" | "SCTP"));
        if !other && Protocol::of_port(port.app_protocol.as_deref(), name, number) == Protocol::Unknown {
            let message = format!(
                "port {number} names no protocol, so that it is found out by looking at each connection; set appProtocol or begin its name with \
                 one, such as http-{}",
                if name.is_empty() { "web" } else { name }
            );
            add(found, object, Severity::Info, PORT_NAME, Some(format!("spec.ports[{index}].name")), message);
        }
    }
}

/// The labels by which an object chooses workloads, and the field that holds them.
fn selector(spec: &Spec) -> Option<(&'static str, &Labels)> {
    const MATCH: &str = "selector.matchLabels";
    Some(match spec {
        Spec::AuthorizationPolicy(one) => (MATCH, &one.selector.as_ref()?.match_labels),
        Spec::PeerAuthentication(one) => (MATCH, &one.selector.as_ref()?.match_labels),
        Spec::Telemetry(one) => (MATCH, &one.selector.as_ref()?.match_labels),
        Spec::DestinationRule(one) => ("workloadSelector.matchLabels", &one.workload_selector.as_ref()?.match_labels),
        Spec::Sidecar(one) => ("workloadSelector.labels", &one.workload_selector.as_ref()?.labels),
        Spec::Gateway(one) => ("selector", &one.selector),
        _ => return None,
    })
    .filter(|(_, labels)| !labels.is_empty())
}

fn chooses(object: &Object, field: &str, labels: &Labels, pods: &[Pod], found: &mut Vec<Finding>) {
    // Gateways choose in all namespaces, everything else in its own.
    let near = |pod: &&Pod| {
        object.key.kind == Kind::Gateway || pod.metadata.namespace.as_deref() == Some(&*object.key.namespace)
    };
    let chosen = |pod: &Pod| pod.metadata.labels.as_ref().is_some_and(|own| selects(labels, own));
    if pods.iter().filter(near).any(chosen) {
        return;
    }
    let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let message = format!("no pod has the labels {}; correct them, or make the workload", labels.join(","));
    add(found, object, Severity::Warning, NO_WORKLOADS, Some(field.to_owned()), message);
}

fn outside(pod: &Pod, namespaces: &BTreeMap<&str, &Labels>) -> Option<Finding> {
    let named = pods::name(pod);
    let annotations = pod.metadata.annotations.clone().unwrap_or_default();
    let ended =
        pod.status.as_ref().is_some_and(|status| matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")));
    if ended || pods::proxy(pod).is_some() || is_suppressed(&annotations, Some(NO_PROXY)) {
        return None;
    }
    let decision = pods::injection(pod, &named.namespace, namespaces.get(&*named.namespace).copied());
    decision.inject.then(|| Finding {
        severity: Severity::Warning,
        code: Some(NO_PROXY),
        key: Some(Key { kind: Kind::Pod, namespace: named.namespace.as_str().into(), name: named.name.as_str().into() }),
        origin: Origin::default(),
        field: None,
        message: "has no proxy, though it would get one now; it was made before that was asked for, so make it anew, such as by `kubectl \
                  rollout restart`"
            .to_owned(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use mesh_controlplane::source::Live;
    use serde::Deserialize as _;
    use serde_json::Value;

    use super::*;
    use crate::live;

    const OBJECTS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio-injection: enabled, istio.io/rev: canary}}
---
apiVersion: v1
kind: Namespace
metadata: {name: bank}
---
apiVersion: v1
kind: Namespace
metadata: {name: quiet, annotations: {galley.istio.io/analyze-suppress: IST0102}}
---
apiVersion: v1
kind: Namespace
metadata: {name: kube-system}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {ports: [{name: http, port: 80}, {name: web, port: 81}, {name: dns, port: 53, protocol: UDP}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: bank}
spec: {ports: [{name: web, port: 81}]}
---
apiVersion: v1
kind: Pod
metadata: {name: in, namespace: shop, labels: {app: in}}
spec: {containers: [{name: app}, {name: istio-proxy}]}
---
apiVersion: v1
kind: Pod
metadata: {name: out, namespace: shop}
spec: {containers: [{name: app}]}
---
apiVersion: v1
kind: Pod
metadata: {name: done, namespace: shop}
spec: {containers: [{name: app}]}
status: {phase: Succeeded}
---
apiVersion: v1
kind: Pod
metadata: {name: never, namespace: shop, labels: {sidecar.istio.io/inject: 'false'}}
spec: {containers: [{name: app}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: good, namespace: shop}
spec: {selector: {matchLabels: {app: in}}, rules: [{}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: elsewhere, namespace: bank}
spec: {selector: {matchLabels: {app: in}}, rules: [{}]}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: good, namespace: bank}
spec: {selector: {app: in}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}
";

    #[test]
    fn workloads_outside_the_mesh_and_policies_for_nobody_are_found() {
        let trees = yaml_serde::Deserializer::from_str(OBJECTS).map(|one| Value::deserialize(one).unwrap());
        let trees: Vec<Value> = trees.collect();
        let pods: Vec<Pod> = live::typed(&trees, "Pod");
        let live = Live::read(trees);
        let found = findings(live.objects().map(AsRef::as_ref), &pods);
        let mut lines: Vec<String> = found
            .iter()
            .map(|one| {
                format!(
                    "{} {} {} {}",
                    one.severity,
                    one.code.unwrap(),
                    one.key.as_ref().unwrap(),
                    one.field.clone().unwrap_or_default()
                )
            })
            .collect();
        lines.sort();
        assert_eq!(
            lines,
            [
                "info IST0102 Namespace bank ",
                "info IST0118 Service shop/web spec.ports[1].name",
                "warning IST0103 Pod shop/out ",
                "warning IST0123 Namespace shop metadata.labels",
                "warning IST0127 AuthorizationPolicy bank/elsewhere selector.matchLabels",
            ]
        );
    }
}

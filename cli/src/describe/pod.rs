//! A pod: whether it is in the mesh, which services it serves, what it accepts, and what clients of its namespace do with it.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use k8s_openapi::api::core::v1::Pod;
use mesh_controlplane::inject::PROXY;
use mesh_controlplane::model::{Config, Node, NodeKind, Service};
use mesh_proto::crd;
use mesh_proto::names::{annotation, label};
use serde::Serialize;

use super::view::{MtlsView, PolicyView, ServiceView, Viewer, policies};
use super::{Known, node};
use crate::install::wait::trouble;
use crate::pods::{self, Named};

/// What is said of a pod.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodDescription {
    /// Name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// What it is a pod of.
    pub workload: String,
    /// Its account, by which it is known to others.
    pub service_account: String,
    /// `Running` and the like.
    pub phase: String,
    /// Whether it serves.
    pub ready: bool,
    /// Its proxy; absent for a pod outside the mesh.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<ProxyView>,
    /// Ports that its containers name.
    pub ports: Vec<ContainerPort>,
    /// The services whose pod it is, as clients of its namespace see them.
    pub services: Vec<ServiceView>,
    /// Gateways that it serves, if it is a gateway.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<String>,
    /// Which TLS it accepts; absent outside the mesh, and for gateways.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtls: Option<MtlsView>,
    /// Policies that hold for it; none outside the mesh.
    pub authorization: Vec<PolicyView>,
    /// What is, or may be, wrong.
    pub warnings: Vec<String>,
}

/// A pod's proxy.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyView {
    /// `sidecar` or `gateway`.
    pub kind: &'static str,
    /// Whether Kubernetes knows it as a sidecar.
    pub native: bool,
    /// Its image.
    pub image: String,
    /// Revision of the control plane that injected it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Whether it serves.
    pub ready: bool,
    /// How often it was started again.
    pub restarts: i32,
}

/// A port that a container names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerPort {
    /// Number.
    pub number: i32,
    /// Container.
    pub container: String,
}

/// Describes a pod.
///
/// # Errors
/// There is none of this name.
pub fn describe(known: &Known, named: &Named) -> Result<PodDescription> {
    let Named { name, namespace } = named;
    let Some(pod) = known.pod(namespace, name) else {
        bail!(
            "there is no Pod {named}; `kubectl get pods -n {namespace}` lists those that are, and NAME.NAMESPACE or -n names another \
             namespace"
        )
    };
    let node = node(pod);
    let (mut shown, mut warnings) = (Vec::new(), Vec::new());
    warnings.extend(trouble(pod).map(|trouble| format!("it is not ready: {trouble}")));
    let proxy = proxy(pod, &node);
    match &proxy {
        None => warnings.push(outside(known, pod, namespace)),
        Some(proxy) if !proxy.ready => warnings.push(format!(
            "its proxy is not ready, so that nobody reaches it by the mesh; `kubectl logs -n {namespace} {name} -c {PROXY}` says why"
        )),
        Some(_) => warnings.extend(telemetry(&node)),
    }
    let viewer = Viewer { known, node: &node, pod: Some(pod) };
    let served = served(known, &node);
    let services: Vec<ServiceView> =
        served.iter().map(|service| viewer.service(service, &mut shown, &mut warnings)).collect();
    let ports = ports(pod);
    if node.kind == NodeKind::Sidecar {
        warnings.extend(unmatched(&services, &ports));
    }
    let (mtls, authorization) = match &proxy {
        Some(_) => (MtlsView::of(known, &node, &mut shown), policies(known, &node, &mut shown)),
        None => (None, Vec::new()),
    };
    if let Some(mtls) = &mtls {
        let conflicts = served.iter().zip(&services).filter_map(|(one, view)| mtls.conflict(known, &node, one, view));
        warnings.extend(conflicts);
    }
    let gateways = known.context.gateways(&node);
    shown.extend(gateways.iter().map(|gateway| gateway.key.clone()));
    warnings.extend(known.findings(&shown, namespace));
    let workload = known.context.workload(&node).map(|workload| workload.workload_name.to_string());
    Ok(PodDescription {
        name: name.clone(),
        namespace: namespace.clone(),
        workload: workload.unwrap_or_else(|| name.clone()),
        service_account: node.service_account.to_string(),
        phase: pod.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_else(|| "Unknown".to_owned()),
        ready: pods::is_ready(pod),
        proxy,
        ports,
        services,
        gateways: gateways.iter().map(gateway).collect(),
        mtls,
        authorization,
        warnings: unique(warnings),
    })
}

/// Each warning once, in the order in which they came.
pub(super) fn unique(mut warnings: Vec<String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    warnings.retain(|warning| seen.insert(warning.clone()));
    warnings
}

fn served(known: &Known, node: &Node) -> Vec<std::sync::Arc<Service>> {
    let mut services: Vec<std::sync::Arc<Service>> = Vec::new();
    for target in known.context.targets(node) {
        if !services.iter().any(|known| known.host == target.service.host) {
            services.push(target.service);
        }
    }
    services
}

fn gateway(gateway: &std::sync::Arc<Config<crd::Gateway>>) -> String {
    let servers = gateway.spec.servers.iter();
    let servers: Vec<String> = servers
        .map(|server| format!("{} {} {}", server.port.number, server.port.protocol, server.hosts.join("|")))
        .collect();
    format!("{}: {}", gateway.key, servers.join(", "))
}

fn proxy(pod: &Pod, node: &Node) -> Option<ProxyView> {
    let proxy = pods::proxy(pod)?;
    let image = proxy.container.image.clone().unwrap_or_default();
    Some(ProxyView {
        kind: if node.kind == NodeKind::Router { "gateway" } else { "sidecar" },
        native: proxy.native,
        image,
        revision: node.annotations.get(annotation::REVISION).or_else(|| node.labels.get(label::REVISION)).cloned(),
        ready: proxy.status.is_some_and(|status| status.ready),
        restarts: proxy.status.map_or(0, |status| status.restart_count),
    })
}

/// Why a pod has no proxy, in the words of the one who decides it.
fn outside(known: &Known, pod: &Pod, namespace: &str) -> String {
    let decision = pods::injection(pod, namespace, known.namespaces.get(namespace));
    if decision.inject {
        return "it is not in the mesh: it has no proxy, though it would get one now; it was made before that was asked for, so make it anew, \
                such as by `kubectl rollout restart`"
            .to_owned();
    }
    format!("it is not in the mesh: it has no proxy, because {}", decision.reason)
}

/// Labels by which metrics and the graph of services name it.
fn telemetry(node: &Node) -> Vec<String> {
    let missing = |any_of: &[&str], what: &str| {
        let found = any_of.iter().any(|name| node.labels.contains_key(*name));
        (!found && node.kind == NodeKind::Sidecar)
            .then(|| format!("it has no label `{}`, by which metrics tell its {what}; add one", any_of[0]))
    };
    let app = missing(&[label::APP, label::APP_NAME, label::CANONICAL_NAME], "application");
    let version = missing(&[label::VERSION, label::APP_VERSION, label::CANONICAL_REVISION], "version");
    app.into_iter().chain(version).collect()
}

fn ports(pod: &Pod) -> Vec<ContainerPort> {
    let containers = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers));
    let ports = containers.flat_map(|container| {
        container
            .ports
            .iter()
            .flatten()
            .map(|port| ContainerPort { number: port.container_port, container: container.name.clone() })
    });
    ports.collect()
}

/// Services that select it and mean ports that it does not name; and if there is no service at all, that.
fn unmatched(services: &[ServiceView], ports: &[ContainerPort]) -> Vec<String> {
    if services.is_empty() {
        return vec![
            "no Service has it for a pod, so that others reach it by its address only, without routes or balancing"
                .to_owned(),
        ];
    }
    let mut own = ports.iter().filter(|port| port.container != PROXY).peekable();
    // Naming ports is a courtesy; where none is named nothing follows.
    if own.peek().is_none() {
        return Vec::new();
    }
    let own: BTreeSet<i32> = own.map(|port| port.number).collect();
    let mut found = Vec::new();
    for (service, port) in services.iter().flat_map(|service| service.ports.iter().map(move |port| (service, port))) {
        match port.pod_port {
            Some(number) if own.contains(&i32::from(number)) => {}
            Some(number) => found.push(format!(
                "port {} of {} leads to port {number} of the pod, which no container names; see targetPort and containerPort",
                port.number, service.host
            )),
            None => found.push(format!(
                "port {} of {} leads to no port of the pod: no container has a port of the name that targetPort says",
                port.number, service.host
            )),
        }
    }
    found
}

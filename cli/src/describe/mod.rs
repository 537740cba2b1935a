//! What the mesh makes of a pod or a service: a pure function of a cluster's objects, by the control plane's own model, so that it says what
//! proxies are told.
//!
//! [`Known`] is what there is, [`pod`] and [`service`] describe, [`view`] and [`route`] hold what both show of services, [`text`] writes it
//! for people; as JSON the descriptions are what they are.

pub mod pod;
pub mod route;
pub mod service;
pub mod text;
pub mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use mesh_controlplane::model::{Change, Interception, Key, Kind, Model, Name, Node, NodeKind, PushContext, Spec};
use mesh_controlplane::source::Live;
use mesh_controlplane::validate::{Finding, MESH_CONFIG_KEY, MESH_CONFIG_NAME, Severity, mesh_config};
use mesh_proto::crd;
use mesh_proto::names::annotation;
use serde_json::Value;

use crate::{live, pods};

/// What there is.
#[derive(Debug)]
pub struct Known {
    /// The control plane's view of it.
    pub context: Arc<PushContext>,
    /// Pods as they were written, which the model reduces.
    pub pods: Vec<Pod>,
    /// Istio's Gateways by `NAMESPACE/NAME`.
    gateways: BTreeMap<String, crd::Gateway>,
    /// Labels of namespaces.
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// Objects that are good.
    keys: BTreeSet<Key>,
    findings: Vec<Finding>,
}

impl Known {
    /// Reads objects as the API server writes them, with `apiVersion` and `kind`.
    pub fn read(trees: Vec<Value>) -> Self {
        let pods = live::typed(&trees, "Pod");
        let namespaces = live::typed(&trees, "Namespace")
            .into_iter()
            .map(|one: Namespace| (one.metadata.name.unwrap_or_default(), one.metadata.labels.unwrap_or_default()));
        let namespaces = namespaces.collect();
        let judged = Live::read(trees);
        let mut model = Model::new(mesh(&judged));
        model.apply(judged.objects().cloned().map(Change::Set).collect());
        let gateways = judged.objects().filter_map(|object| match &object.spec {
            Spec::Gateway(spec) => Some((format!("{}/{}", object.key.namespace, object.key.name), spec.clone())),
            _ => None,
        });
        Self {
            context: model.context(),
            pods,
            gateways: gateways.collect(),
            namespaces,
            keys: judged.objects().map(|object| object.key.clone()).collect(),
            findings: judged.findings(),
        }
    }

    /// What is found of these objects, in words; and of those of a namespace, and of the mesh's, that are refused: any of them could have
    /// been meant for what is described.
    fn findings(&self, keys: &[Key], namespace: &str) -> Vec<String> {
        let root = &self.context.mesh.root_namespace;
        let words = self.findings.iter().filter_map(|finding| {
            let key = finding.key.as_ref()?;
            if keys.contains(key) {
                return Some(finding.statement());
            }
            let refused = finding.severity == Severity::Error && !self.keys.contains(key);
            let near = *key.namespace == *namespace || *key.namespace == **root;
            (refused && near).then(|| format!("not in force: {}", finding.statement()))
        });
        words.collect()
    }

    /// A pod by name.
    fn pod(&self, namespace: &str, name: &str) -> Option<&Pod> {
        let is = |text: &Option<String>, wanted: &str| text.as_deref() == Some(wanted);
        self.pods.iter().find(|pod| is(&pod.metadata.name, name) && is(&pod.metadata.namespace, namespace))
    }
}

/// The mesh's settings; its defaults where none are written down, or none that can be read (a finding says so).
fn mesh(live: &Live) -> crd::MeshConfig {
    let text = live.objects().find_map(|object| match &object.spec {
        Spec::ConfigMap(map) if *object.key.name == *MESH_CONFIG_NAME => {
            Some((map.data.as_ref()?.get(MESH_CONFIG_KEY)?, &object.key.namespace))
        }
        _ => None,
    });
    text.and_then(|(text, namespace)| mesh_config(text, namespace).ok()).map(|(mesh, _)| mesh).unwrap_or_default()
}

/// A pod as the proxy in it presents itself.
fn node(pod: &Pod) -> Node {
    let named = pods::name(pod);
    let metadata = &pod.metadata;
    let annotations = metadata.annotations.clone().unwrap_or_default();
    let templates = annotations.get(annotation::TEMPLATES).map(String::as_str).unwrap_or_default();
    let is_gateway = templates.split(',').any(|template| template.trim() == "gateway");
    let spec = pod.spec.as_ref();
    let account = spec.and_then(|spec| spec.service_account_name.as_deref()).unwrap_or("default");
    let status = pod.status.as_ref();
    let addresses = status.into_iter().flat_map(|status| status.pod_ips.iter().flatten());
    Node {
        kind: if is_gateway { NodeKind::Router } else { NodeKind::Sidecar },
        service_account: account.into(),
        addresses: addresses.into_iter().filter_map(|one| one.ip.parse().ok()).collect(),
        labels: metadata.labels.clone().unwrap_or_default(),
        annotations,
        ..client(&named.namespace, &named.name)
    }
}

/// A sidecar of a namespace of which nothing else is known.
fn client(namespace: &str, name: &str) -> Node {
    Node {
        id: name.into(),
        kind: NodeKind::Sidecar,
        name: name.into(),
        namespace: namespace.into(),
        service_account: "default".into(),
        workload_name: name.into(),
        addresses: Vec::new(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        vhds: false,
        cluster: "Kubernetes".into(),
        network: "".into(),
        dns_domain: format!("{namespace}.svc.cluster.local").into(),
        interception: Interception::Redirect,
        locality: "".into(),
        ferromesh: true,
        proxy_config: Value::Null,
        dns_capture: false,
        grpc: false,
    }
}

fn key(kind: Kind, namespace: &Name, name: &Name) -> Key {
    Key { kind, namespace: namespace.clone(), name: name.clone() }
}

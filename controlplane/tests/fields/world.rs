//! The world a field is tried in: services, workloads and proxies that give each field something to change.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_controlplane::model::{Change, Interception, Kind, Model, Node, NodeKind, PushContext, Spec};
use mesh_controlplane::source::{self, Outcome};
use mesh_controlplane::translate::{self, Names, Resource, ResourceType};
use mesh_controlplane::validate::{self, Finding, MESH_CONFIG_KEY, Severity};
use mesh_proto::yaml;
use serde_json::Value;

/// Objects that every table shares.
const SHARED: &str = include_str!("world.yaml");

/// Objects beside the one that is tried.
pub struct World(Vec<Change>);

/// What became of an object.
pub struct Outcomes {
    findings: Vec<(Severity, String, String)>,
    refused: bool,
    context: Arc<PushContext>,
    /// What each proxy is sent, as far as it was asked for.
    sent: Vec<OnceCell<Vec<Resource>>>,
}

/// What became of a field.
pub struct Fate {
    pub name: &'static str,
    /// The finding is about the field as a whole, whatever is in it.
    pub whole: bool,
}

fn objects(text: &str) -> (Vec<Change>, Vec<Finding>) {
    let (mut changes, mut findings) = (Vec::new(), Vec::new());
    for document in source::read(None, text.as_bytes()) {
        if let Outcome::Object(object) = document.outcome {
            changes.push(Change::Set(object));
        }
        findings.extend(document.findings);
    }
    (changes, findings)
}

impl World {
    pub fn new(more: &str) -> Self {
        let (changes, findings) = objects(&format!("{SHARED}\n---\n{more}"));
        assert!(findings.is_empty(), "{}", findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
        Self(changes)
    }

    /// Reads an object and translates the world with it.
    pub fn with(&self, object: &Value) -> Outcomes {
        let mesh_config = object["kind"] == "MeshConfig";
        let text = if mesh_config {
            let text = serde_json::to_string(&object["spec"]).unwrap();
            serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": "istio", "namespace": "istio-system"}, "data": {"mesh": text}})
            .to_string()
        } else {
            object.to_string()
        };
        let (changes, found) = objects(&text);
        let refused = validate::refused(&found);
        let prefix = if mesh_config { format!("data.{MESH_CONFIG_KEY}.") } else { "spec.".to_owned() };
        let findings = found.into_iter().map(|finding| {
            let field = finding.field.unwrap_or_default();
            (finding.severity, field.strip_prefix(&prefix).unwrap_or(&field).to_owned(), finding.message)
        });
        let findings = findings.collect();
        let mut model = Model::default();
        for change in &changes {
            if let Change::Set(object) = change
                && let (Kind::ConfigMap, Spec::ConfigMap(map)) = (object.key.kind, &object.spec)
                && let Some(text) = map.data.as_ref().and_then(|data| data.get(MESH_CONFIG_KEY))
                && let Ok((mesh, _)) = validate::mesh_config(text, "istio-system")
            {
                model.set_mesh(mesh);
            }
        }
        let all = [self.0.clone(), changes].concat();
        model.apply(all);
        Outcomes { findings, refused, context: model.context(), sent: vec![OnceCell::new(); nodes().len()] }
    }
}

fn all_resources(context: &PushContext, node: &Node) -> Vec<Resource> {
    let mut found = Vec::new();
    for kind in ResourceType::ALL.into_iter().filter(|kind| *kind != ResourceType::Route) {
        found.extend(translate::resources(context, node, kind, Names::All));
    }
    let mut routes = BTreeSet::new();
    for listener in found.iter().filter(|resource| resource.type_url == ResourceType::Listener.type_url()) {
        route_names(&yaml::bytes_to_json(listener.type_url, &listener.body).unwrap(), &mut routes);
    }
    let routes: Vec<_> = routes.iter().map(|name| name.as_str().into()).collect();
    found.extend(translate::resources(context, node, ResourceType::Route, Names::Some(&routes)));
    found
}

/// The names of the routes that listeners ask for.
fn route_names(value: &Value, names: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            names.extend(map.get("route_config_name").and_then(Value::as_str).map(str::to_owned));
            map.values().for_each(|value| route_names(value, names));
        }
        Value::Array(list) => list.iter().for_each(|value| route_names(value, names)),
        _ => {}
    }
}

impl Outcomes {
    /// What became of the field at `path`, which is in `after` and not in this.
    pub fn fate(&self, after: &Self, path: &str) -> Result<Fate, String> {
        if self.refused {
            return Err(format!("the object without it is refused: {:?}", self.findings));
        }
        let new: Vec<_> = after.findings.iter().filter(|finding| !self.findings.contains(finding)).collect();
        let (mine, others): (Vec<_>, Vec<_>) = new.into_iter().partition(|(_, field, _)| {
            field.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        });
        if after.refused && !mine.iter().any(|(severity, ..)| *severity == Severity::Error) {
            return Err(format!("the object with it is refused for another reason: {others:?}"));
        }
        let whole = mine.iter().any(|(_, field, _)| field == path);
        if after.refused {
            return Ok(Fate { name: "refused", whole });
        }
        if mine.iter().any(|(severity, ..)| *severity == Severity::Warning) {
            return Ok(Fate { name: "warned", whole });
        }
        if (0..self.sent.len()).all(|node| self.sent(node) == after.sent(node)) {
            return Err("is accepted and ignored: no finding, and no proxy is sent anything else".to_owned());
        }
        Ok(Fate { name: "honoured", whole: false })
    }

    fn sent(&self, node: usize) -> &[Resource] {
        self.sent[node].get_or_init(|| all_resources(&self.context, &nodes()[node]))
    }
}

/// Who asks: a client, a server, a client elsewhere, one without capture, a gateway, and gRPC's own.
fn nodes() -> Vec<Node> {
    let labels = |pairs: &[(&str, &str)]| pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    let node = |kind: NodeKind, name: &str, namespace: &str, address: &str, pairs: &[(&str, &str)]| Node {
        id: format!("{name}.{namespace}").into(),
        kind,
        name: name.into(),
        namespace: namespace.into(),
        service_account: name.into(),
        workload_name: name.into(),
        addresses: vec![address.parse().unwrap()],
        labels: labels(pairs),
        annotations: BTreeMap::new(),
        cluster: "Kubernetes".into(),
        network: "".into(),
        dns_domain: format!("{namespace}.svc.cluster.local").into(),
        interception: Interception::Redirect,
        locality: "r1/z1/".into(),
        ferromesh: true,
        proxy_config: Value::Null,
        dns_capture: false,
        vhds: false,
        grpc: false,
    };
    let sidecar = NodeKind::Sidecar;
    let client = node(sidecar, "client", "default", "10.0.0.9", &[("app", "client")]);
    let server = node(sidecar, "a-v1", "default", "10.0.0.1", &[("app", "a"), ("version", "v1")]);
    vec![
        client.clone(),
        server.clone(),
        node(NodeKind::Router, "edge", "istio-system", "10.0.0.7", &[("istio", "ingressgateway")]),
        node(sidecar, "stranger", "other", "10.0.0.8", &[("app", "stranger")]),
        Node { id: "no-capture".into(), interception: Interception::None, ..client.clone() },
        Node { id: "server-no-capture".into(), interception: Interception::None, ..server },
        Node { id: "grpc".into(), grpc: true, ..client },
    ]
}

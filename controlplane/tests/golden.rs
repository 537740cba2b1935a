//! Golden cases: objects and a node in, xDS resources out.
//!
//! `tests/golden/CASE/` holds `input.yaml` (objects), `node.yaml` (who asks; `mesh` is MeshConfig, `families` are those the case is
//! about) and `expect/FAMILY.yaml`. `UPDATE_EXPECT=1 cargo test -p mesh-controlplane --test golden` writes the expectations anew.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use mesh_controlplane::model::{Change, Interception, Model, Node, NodeKind, PushContext};
use mesh_controlplane::own::Own;
use mesh_controlplane::source::{self, Merge, Outcome, Update};
use mesh_controlplane::translate::{self, Names, ResourceType};
use mesh_proto::{crd, yaml};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Asker {
    kind: String,
    name: String,
    namespace: String,
    address: String,
    labels: BTreeMap<String, String>,
    interception: String,
    locality: String,
    ferromesh: bool,
    mesh: crd::MeshConfig,
    families: BTreeSet<String>,
    /// RDS names to ask for; routes have no wildcard.
    routes: Vec<String>,
    /// gRPC's own client or server.
    grpc: bool,
    /// Virtual hosts are sent apart from their tables.
    vhds: bool,
    /// The proxy answers DNS.
    dns_capture: bool,
    /// LDS names to ask for; all if there are none.
    listeners: Vec<String>,
}

impl Default for Asker {
    fn default() -> Self {
        Self {
            kind: "sidecar".into(),
            name: "client-1".into(),
            namespace: "default".into(),
            address: "10.0.0.100".into(),
            labels: BTreeMap::new(),
            interception: "REDIRECT".into(),
            locality: String::new(),
            ferromesh: true,
            mesh: crd::MeshConfig::default(),
            families: BTreeSet::new(),
            routes: Vec::new(),
            vhds: false,
            grpc: false,
            dns_capture: false,
            listeners: Vec::new(),
        }
    }
}

impl Asker {
    fn node(&self) -> Node {
        Node {
            id: format!("{}~{}~{}.{1}~{1}.svc.cluster.local", self.kind, self.address, self.name).into(),
            kind: if self.kind == "router" { NodeKind::Router } else { NodeKind::Sidecar },
            name: self.name.as_str().into(),
            namespace: self.namespace.as_str().into(),
            service_account: "default".into(),
            workload_name: self.name.as_str().into(),
            addresses: vec![self.address.parse().unwrap()],
            labels: self.labels.clone(),
            annotations: BTreeMap::new(),
            cluster: "Kubernetes".into(),
            network: "".into(),
            dns_domain: format!("{}.svc.cluster.local", self.namespace).into(),
            interception: match self.interception.as_str() {
                "NONE" => Interception::None,
                "TPROXY" => Interception::Tproxy,
                _ => Interception::Redirect,
            },
            locality: self.locality.as_str().into(),
            ferromesh: self.ferromesh,
            proxy_config: serde_json::Value::Null,
            dns_capture: self.dns_capture,
            vhds: self.vhds,
            grpc: self.grpc,
        }
    }
}

/// Reads the objects of a case as a file of a user's is read. What is refused there has no place in a case.
fn objects(yaml: &str) -> Vec<Change> {
    let mut changes = Vec::new();
    for document in source::read(None, yaml.as_bytes()) {
        match document.outcome {
            Outcome::Object(object) => changes.push(Change::Set(object)),
            Outcome::Nothing => {}
            Outcome::Broken(key) => {
                let findings: Vec<String> = document.findings.iter().map(ToString::to_string).collect();
                panic!("{key:?} is refused:\n{}", findings.join("\n"));
            }
        }
    }
    changes
}

/// What one source that says all of this tells the model: Ingresses are what they mean.
fn merged(changes: Vec<Change>) -> Vec<Change> {
    let mut merge = Merge::new(1, Own::default());
    let told = merge.take(0, Update { changes, complete: true, ..Update::default() });
    let findings = merge.findings();
    assert!(findings.is_empty(), "{findings:?}");
    told.unwrap()
}

const FAMILIES: [(&str, ResourceType); 6] = [
    ("clusters", ResourceType::Cluster),
    ("endpoints", ResourceType::Endpoint),
    ("listeners", ResourceType::Listener),
    ("routes", ResourceType::Route),
    ("secrets", ResourceType::Secret),
    ("names", ResourceType::NameTable),
];

/// What a family is made of, as YAML.
fn family(context: &PushContext, node: &Node, kind: ResourceType, asker: &Asker) -> String {
    let named = |names: &[String]| -> Vec<_> { names.iter().map(|name| name.as_str().into()).collect() };
    let (routes, listeners) = (named(&asker.routes), named(&asker.listeners));
    let names = match kind {
        ResourceType::Route => Names::Some(&routes),
        ResourceType::Listener if !listeners.is_empty() => Names::Some(&listeners),
        _ => Names::All,
    };
    let resources = translate::resources(context, node, kind, names);
    let again = translate::resources(context, node, kind, names);
    assert!(resources == again, "the same resources differ from one push to the next");
    let names: BTreeSet<_> = resources.iter().map(|resource| &resource.name).collect();
    assert_eq!(names.len(), resources.len(), "two resources have one name");
    let values = resources.iter().map(|one| yaml::bytes_to_json(one.type_url, &one.body).unwrap());
    yaml_serde::to_string(&values.collect::<Vec<_>>()).unwrap()
}

fn check(case: &Path, update: bool) -> Vec<String> {
    let read = |name: &str| {
        let path = case.join(name);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let asker: Asker =
        yaml_serde::from_str(&read("node.yaml")).unwrap_or_else(|error| panic!("{}: {error}", case.display()));
    let mut model = Model::new(asker.mesh.clone());
    model.apply(merged(objects(&read("input.yaml"))));
    let (context, node) = (model.context(), asker.node());
    let mut wrong = Vec::new();
    for (name, kind) in FAMILIES {
        if !asker.families.contains(name) {
            continue;
        }
        let found = family(&context, &node, kind, &asker);
        let path = case.join("expect").join(format!("{name}.yaml"));
        if update {
            std::fs::create_dir_all(case.join("expect")).unwrap();
            std::fs::write(&path, found).unwrap();
            continue;
        }
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        if let Some((line, pair)) =
            expected.lines().zip(found.lines()).enumerate().find(|(_, (one, other))| one != other)
        {
            wrong.push(format!("{}:{}: expected `{}`, found `{}`", path.display(), line + 1, pair.0, pair.1));
        } else if expected != found {
            wrong.push(format!("{}: one is the beginning of the other", path.display()));
        }
    }
    wrong
}

#[test]
fn translations_are_as_written_down() {
    // At run time: a build directory may be shared by several checkouts.
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("tests/golden");
    let mut cases: Vec<PathBuf> = std::fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.retain(|path| path.is_dir());
    cases.sort();
    assert!(!cases.is_empty());
    let update = std::env::var_os("UPDATE_EXPECT").is_some();
    let wrong: Vec<String> = cases.iter().flat_map(|case| check(case, update)).collect();
    assert!(wrong.is_empty(), "\n{}\nUPDATE_EXPECT=1 writes them anew; read the difference.", wrong.join("\n"));
}

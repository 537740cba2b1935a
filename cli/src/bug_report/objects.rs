//! The API server's part: objects and events, without what could be secret.

use std::fmt::Write as _;

use anyhow::Result;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ApiResource, ListParams};
use mesh_controlplane::inject::{PROXY, REDIRECT};
use mesh_controlplane::source::Live;
use mesh_proto::crd::KINDS;
use serde_json::{Value, json};

use super::Piece;
use crate::cluster::Cluster;
use crate::findings::{self, Finding};
use crate::live::{self, core};
use crate::output::plain;

/// What `kubectl apply` keeps: the whole object once more, secrets and all.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The control plane's container; its environment, and that of proxies, is the mesh's own.
const DISCOVERY: &str = "discovery";

/// Kinds of Kubernetes' of which every object of a namespace is told.
const KINDS_OF_NAMESPACE: &[(&str, &str, &str)] = &[
    ("", "Pod", "pods"),
    ("", "Service", "services"),
    ("", "ServiceAccount", "serviceaccounts"),
    ("", "Event", "events"),
    ("discovery.k8s.io", "EndpointSlice", "endpointslices"),
    ("apps", "Deployment", "deployments"),
    ("apps", "DaemonSet", "daemonsets"),
    ("apps", "StatefulSet", "statefulsets"),
    ("apps", "ReplicaSet", "replicasets"),
];

/// Kinds that belong to no namespace.
const KINDS_OF_CLUSTER: &[(&str, &str, &str)] = &[
    ("", "Node", "nodes"),
    ("", "Namespace", "namespaces"),
    ("admissionregistration.k8s.io", "MutatingWebhookConfiguration", "mutatingwebhookconfigurations"),
    ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration", "validatingwebhookconfigurations"),
];

/// Objects that belong to no namespace, and the findings over the whole configuration.
pub async fn of_cluster(cluster: &Cluster, root: &str) -> Vec<Piece> {
    let mut pieces = vec![
        Piece::of("cluster/version.json", version(cluster)).await,
        Piece::of("findings.txt", findings_of(cluster, root)).await,
    ];
    for (group, kind, plural) in KINDS_OF_CLUSTER {
        let resource = core(group, kind, plural);
        pieces.push(Piece::of(format!("cluster/{plural}.yaml"), list(cluster, &resource, None)).await);
    }
    pieces
}

/// Everything of a namespace that concerns the mesh.
pub async fn of_namespace(cluster: &Cluster, namespace: &str, root: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let path = |name: &str| format!("namespaces/{namespace}/{name}");
    for (group, kind, plural) in KINDS_OF_NAMESPACE {
        let resource = core(group, kind, plural);
        pieces.push(Piece::of(path(&format!("{plural}.yaml")), list(cluster, &resource, Some(namespace))).await);
    }
    match live::custom_resources(cluster).await {
        Err(error) => pieces.push(Piece { path: path("istio"), content: Err(error) }),
        Ok(kinds) => {
            for kind in kinds {
                // Two groups have a kind of one name, so the group is a part of the path.
                let group = KINDS.iter().find(|info| info.plural == kind.plural).map_or("istio", |info| info.group);
                let name = format!("{group}/{}.yaml", kind.plural);
                pieces.push(Piece::of(path(&name), list(cluster, &kind, Some(namespace))).await);
            }
        }
    }
    pieces.push(Piece::of(path("secrets.txt"), secrets(cluster, namespace)).await);
    if namespace == root {
        pieces.push(Piece::of(path("configmaps.yaml"), settings(cluster, namespace)).await);
    }
    pieces
}

async fn version(cluster: &Cluster) -> Result<Vec<u8>> {
    let version = cluster.client.apiserver_version().await;
    let version = version.map_err(|error| cluster.explain("get", "the API server's version", error))?;
    Ok(serde_json::to_vec_pretty(&version)?)
}

/// What `meshctl analyze -A` would say.
async fn findings_of(cluster: &Cluster, root: &str) -> Result<Vec<u8>> {
    let trees = live::configuration(cluster, root, None, &[]).await?;
    let found: Vec<Finding> = Live::read(trees).findings().iter().map(Finding::from).collect();
    Ok(plain(&findings::page(&found)).into_bytes())
}

async fn list(cluster: &Cluster, resource: &ApiResource, namespace: Option<&str>) -> Result<Vec<u8>> {
    let mut items = live::list(cluster, resource, namespace).await?;
    items.iter_mut().for_each(discreet);
    yaml(items)
}

fn yaml(items: Vec<Value>) -> Result<Vec<u8>> {
    Ok(yaml_serde::to_string(&json!({"apiVersion": "v1", "kind": "List", "items": items}))?.into_bytes())
}

/// Takes out what an application's user may have written into an object without meaning it for others: environment, and the copy of all of it.
fn discreet(object: &mut Value) {
    if let Some(annotations) = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(LAST_APPLIED);
    }
    for spec in ["/spec", "/spec/template/spec"] {
        for containers in ["containers", "initContainers", "ephemeralContainers"] {
            let containers = object.pointer_mut(&format!("{spec}/{containers}")).and_then(Value::as_array_mut);
            let foreign = containers
                .into_iter()
                .flatten()
                .filter(|one| !matches!(one["name"].as_str(), Some(PROXY | REDIRECT | DISCOVERY)));
            for variable in foreign.filter_map(|one| one.get_mut("env")?.as_array_mut()).flatten() {
                if let Some(value) = variable.get_mut("value") {
                    *value = "(hidden)".into();
                }
            }
        }
    }
}

/// Names of secrets; their data is not asked for.
async fn secrets(cluster: &Cluster, namespace: &str) -> Result<Vec<u8>> {
    let api: Api<Secret> = Api::namespaced(cluster.client.clone(), namespace);
    let list = api.list_metadata(&ListParams::default()).await;
    let list = list.map_err(|error| cluster.explain("list", &format!("Secrets of {namespace}"), error))?;
    let mut page = String::new();
    for secret in list.items {
        let made = secret.metadata.creation_timestamp.map_or_else(|| "-".to_owned(), |time| time.0.to_string());
        let _ = writeln!(page, "{} {made}", secret.metadata.name.unwrap_or_default());
    }
    Ok(page.into_bytes())
}

/// The mesh's settings, and what was installed.
async fn settings(cluster: &Cluster, namespace: &str) -> Result<Vec<u8>> {
    let mut items = live::list(cluster, &core("", "ConfigMap", "configmaps"), Some(namespace)).await?;
    items.retain(|item| {
        let name = item["metadata"]["name"].as_str().unwrap_or_default();
        name == "istio" || name.starts_with("istio-") || name.starts_with("ferromesh-install-")
    });
    items.iter_mut().for_each(discreet);
    yaml(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_applications_are_told_is_hidden() {
        let containers = json!([
            {"name": "app", "env": [{"name": "PASSWORD", "value": "x"}, {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s"}}}]},
            {"name": "istio-proxy", "env": [{"name": "ISTIO_META_A", "value": "y"}]},
        ]);
        let metadata = json!({"name": "a", "annotations": {LAST_APPLIED: "{}", "b": "c"}});
        let mut pod = json!({"metadata": metadata, "spec": {"containers": containers}});
        let mut deployment =
            json!({"metadata": metadata, "spec": {"template": {"spec": {"initContainers": containers}}}});
        discreet(&mut pod);
        discreet(&mut deployment);
        assert_eq!(pod["metadata"]["annotations"], json!({"b": "c"}));
        for containers in [&pod["spec"]["containers"], &deployment["spec"]["template"]["spec"]["initContainers"]] {
            assert_eq!(containers[0]["env"][0]["value"], "(hidden)");
            assert_eq!(containers[0]["env"][1]["valueFrom"]["secretKeyRef"]["name"], "s");
            assert_eq!(containers[1]["env"][0]["value"], "y");
        }
    }
}

//! Pods as users call them (`NAME`, `NAME.NAMESPACE`, `deployment/NAME`), the proxies in them, and the control plane's.
//!
//! Every command that asks a part of the mesh on a [`crate::cluster`] finds its pod here, and reaches it by [`crate::forward`].

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodTemplateSpec};
use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use mesh_controlplane::inject::{Decision, PROXY, Settings, Subject, decide};
use mesh_proto::names::label;
use serde_json::Value;

use crate::cluster::Cluster;
use crate::install::wait::trouble;

/// What has pods: the words for it, its group, version, kind and plural, and where it says which pods are its own.
struct Owner {
    words: &'static [&'static str],
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    selector: &'static str,
}

const LABELS: &str = "/spec/selector/matchLabels";

const OWNERS: &[Owner] = &[
    Owner {
        words: &["deployment", "deployments", "deploy"],
        group: "apps",
        kind: "Deployment",
        plural: "deployments",
        selector: LABELS,
    },
    Owner {
        words: &["statefulset", "statefulsets", "sts"],
        group: "apps",
        kind: "StatefulSet",
        plural: "statefulsets",
        selector: LABELS,
    },
    Owner {
        words: &["daemonset", "daemonsets", "ds"],
        group: "apps",
        kind: "DaemonSet",
        plural: "daemonsets",
        selector: LABELS,
    },
    Owner {
        words: &["replicaset", "replicasets", "rs"],
        group: "apps",
        kind: "ReplicaSet",
        plural: "replicasets",
        selector: LABELS,
    },
    Owner { words: &["job", "jobs"], group: "batch", kind: "Job", plural: "jobs", selector: LABELS },
    Owner {
        words: &["service", "services", "svc"],
        group: "",
        kind: "Service",
        plural: "services",
        selector: "/spec/selector",
    },
];

impl Owner {
    fn resource(&self) -> ApiResource {
        let api_version = if self.group.is_empty() { "v1".to_owned() } else { format!("{}/v1", self.group) };
        ApiResource {
            group: self.group.to_owned(),
            version: "v1".to_owned(),
            api_version,
            kind: self.kind.to_owned(),
            plural: self.plural.to_owned(),
        }
    }
}

/// A name with its namespace, as istioctl's users write it: `NAME` or `NAME.NAMESPACE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
}

impl Named {
    /// Reads it; `namespace` is that of names without one.
    pub fn parse(text: &str, namespace: &str) -> Self {
        let (name, namespace) = text.rsplit_once('.').unwrap_or((text, namespace));
        Self { name: name.to_owned(), namespace: namespace.to_owned() }
    }
}

impl std::fmt::Display for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The pod that a user means by `NAME`, `NAME.NAMESPACE` or `KIND/NAME[.NAMESPACE]`; of several one that is ready, else one that runs.
///
/// # Errors
/// Nothing has that name, nothing of it runs, or it may not be read.
pub async fn find(cluster: &Cluster, text: &str, namespace: &str) -> Result<Pod> {
    let (kind, name) = match text.split_once('/') {
        Some(("pod" | "pods" | "po", name)) => (None, name),
        Some((kind, name)) => (Some(kind), name),
        None => (None, text),
    };
    let named = Named::parse(name, namespace);
    let Some(kind) = kind else { return one(cluster, &named).await };
    let Some(owner) = OWNERS.iter().find(|owner| owner.words.contains(&kind)) else {
        let known: Vec<&str> = OWNERS.iter().map(|owner| owner.words[0]).collect();
        bail!("{kind}/{}: pods are found by pod, {}", named.name, known.join(", "));
    };
    let object = format!("{} {named}", owner.kind);
    let api: Api<DynamicObject> = Api::namespaced_with(cluster.client.clone(), &named.namespace, &owner.resource());
    let found = api.get_opt(&named.name).await.map_err(|error| cluster.explain("get", &object, error))?;
    let Some(found) = found else {
        bail!("there is no {object}; `kubectl get {} -n {}` lists those that are", owner.plural, named.namespace)
    };
    let labels = found.data.pointer(owner.selector).and_then(Value::as_object);
    let Some(labels) = labels.filter(|labels| !labels.is_empty()) else {
        bail!("{object} does not say by labels which pods are its own; name a pod")
    };
    let selector: Vec<String> =
        labels.iter().map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default())).collect();
    let pods = list(cluster, Some(&named.namespace), &selector.join(",")).await?;
    let troubles: Vec<String> = pods.iter().filter_map(trouble).collect();
    match best(pods) {
        Some(pod) => Ok(pod),
        None if troubles.is_empty() => bail!("{object} has no pods"),
        None => bail!("no pod of {object} runs: {}", troubles.join("; ")),
    }
}

async fn one(cluster: &Cluster, named: &Named) -> Result<Pod> {
    let api: Api<Pod> = Api::namespaced(cluster.client.clone(), &named.namespace);
    let found = api.get_opt(&named.name).await;
    match found.map_err(|error| cluster.explain("get", &format!("Pod {named}"), error))? {
        Some(pod) => Ok(pod),
        None => bail!(
            "there is no Pod {named}; `kubectl get pods -n {}` lists those that are, and NAME.NAMESPACE or -n names another namespace",
            named.namespace
        ),
    }
}

/// The pods with these labels, of a namespace or of all.
pub async fn list(cluster: &Cluster, namespace: Option<&str>, labels: &str) -> Result<Vec<Pod>> {
    let api: Api<Pod> = match namespace {
        Some(namespace) => Api::namespaced(cluster.client.clone(), namespace),
        None => Api::all(cluster.client.clone()),
    };
    let what = match namespace {
        Some(namespace) => format!("Pods of {namespace}"),
        None => "Pods of all namespaces".to_owned(),
    };
    let list = api.list(&ListParams::default().labels(labels)).await;
    Ok(list.map_err(|error| cluster.explain("list", &what, error))?.items)
}

/// The pods of the control plane that run: all of them, or those of a revision.
///
/// # Errors
/// There is none.
pub async fn control_planes(cluster: &Cluster, namespace: &str, revision: Option<&str>) -> Result<Vec<Pod>> {
    let labels = match revision {
        Some(revision) => format!("app=istiod,istio.io/rev={revision}"),
        None => "app=istiod".to_owned(),
    };
    let pods: Vec<Pod> = list(cluster, Some(namespace), &labels).await?.into_iter().filter(runs).collect();
    if pods.is_empty() {
        bail!(
            "no control plane runs in namespace {namespace} (there is no pod with {labels} that runs); `meshctl check` says more, and -i \
             names another namespace"
        );
    }
    Ok(pods)
}

/// True if its containers run and are not about to end.
pub fn runs(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    phase == Some("Running") && pod.metadata.deletion_timestamp.is_none()
}

/// True if it serves.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn best(pods: Vec<Pod>) -> Option<Pod> {
    let mut running: Vec<Pod> = pods.into_iter().filter(runs).collect();
    let ready = running.iter().position(is_ready).unwrap_or(0);
    (!running.is_empty()).then(|| running.swap_remove(ready))
}

/// The proxy of a pod.
#[derive(Debug, Clone, Copy)]
pub struct Proxy<'a> {
    /// Its container.
    pub container: &'a Container,
    /// What is known of the container now.
    pub status: Option<&'a ContainerStatus>,
    /// True for a sidecar that Kubernetes knows as one: an init container that goes on.
    pub native: bool,
}

/// The proxy of a pod; `None` if it is not in the mesh.
pub fn proxy(pod: &Pod) -> Option<Proxy<'_>> {
    let spec = pod.spec.as_ref()?;
    let named = |container: &&Container| container.name == PROXY;
    let native = spec.init_containers.iter().flatten().find(named);
    let container = native.or_else(|| spec.containers.iter().find(named))?;
    let status = pod.status.as_ref();
    let statuses = status
        .into_iter()
        .flat_map(|status| status.init_container_statuses.iter().chain(&status.container_statuses).flatten());
    let status = statuses.into_iter().find(|status| status.name == PROXY);
    Some(Proxy { container, status, native: native.is_some() })
}

/// Whether a pod would get a proxy if it were made now, and why, as the control plane of the revision decides that its namespace asks for.
pub fn injection(pod: &Pod, namespace: &str, labels: Option<&BTreeMap<String, String>>) -> Decision {
    let template = PodTemplateSpec { metadata: Some(pod.metadata.clone()), spec: pod.spec.clone() };
    let none = BTreeMap::new();
    let labels = labels.unwrap_or(&none);
    let own = pod.metadata.labels.as_ref().and_then(|labels| labels.get(label::REVISION));
    let mut settings = Settings::default();
    // Beside the other label, which means the default revision, it says nothing.
    let asked = labels.get(label::REVISION).or(own).filter(|_| !labels.contains_key(label::INJECTION));
    if let Some(revision) = asked {
        settings.revision.clone_from(revision);
    }
    decide(&Subject { namespace, namespace_labels: Some(labels), pod: &template }, &settings)
}

/// `NAMESPACE/NAME` of a pod.
pub fn name(pod: &Pod) -> Named {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    Named { name: text(&pod.metadata.name), namespace: text(&pod.metadata.namespace) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn names_may_hold_their_namespace() {
        for (text, name, namespace) in [("a", "a", "here"), ("a.b", "a", "b"), ("a.b.c", "a.b", "c")] {
            assert_eq!(Named::parse(text, "here"), Named { name: name.to_owned(), namespace: namespace.to_owned() });
        }
    }

    fn pod(name: &str, phase: &str, ready: &str) -> Pod {
        let conditions = json!([{"type": "Ready", "status": ready}]);
        let value = json!({"metadata": {"name": name}, "status": {"phase": phase, "conditions": conditions}});
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_pod_that_is_ready_is_taken_before_one_that_runs() {
        let pods =
            |all: &[(&str, &str, &str)]| all.iter().map(|(name, phase, ready)| pod(name, phase, ready)).collect();
        for (all, expected) in [
            (&[("a", "Running", "False"), ("b", "Running", "True"), ("c", "Pending", "False")][..], Some("b")),
            (&[("a", "Running", "False")], Some("a")),
            (&[("a", "Pending", "False")], None),
        ] {
            let found = best(pods(all));
            assert_eq!(found.and_then(|pod| pod.metadata.name).as_deref(), expected);
        }
    }

    #[test]
    fn the_proxy_is_found_as_either_kind_of_container() {
        for (spec, native) in [
            (json!({"containers": [{"name": "app"}], "initContainers": [{"name": "istio-proxy"}]}), Some(true)),
            (json!({"containers": [{"name": "app"}, {"name": "istio-proxy"}]}), Some(false)),
            (json!({"containers": [{"name": "app"}]}), None),
        ] {
            let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": spec})).unwrap();
            assert_eq!(proxy(&pod).map(|proxy| proxy.native), native);
        }
    }
}

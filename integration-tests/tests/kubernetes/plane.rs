//! A control plane in the test's process whose cluster is a real API server, and what is seen of it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use integration_tests::kubernetes::ApiServer;
use integration_tests::until;
use mesh_controlplane::app::{ControlPlane, Settings};
use mesh_controlplane::push::Debounce;
use mesh_controlplane::source::KubeSettings;
use mesh_proto::crd::KINDS;
use prost::Message;
use serde_json::{Value, json};

use crate::support::{Delta, node, plaintext};

/// The longest wait for a response.
const DEADLINE: Duration = Duration::from_secs(20);

/// A control plane of this cluster, which reads nothing else.
pub fn settings(kubeconfig: &Path) -> Settings {
    Settings {
        kubernetes: Some(KubeSettings { kubeconfig: Some(kubeconfig.to_owned()) }),
        debounce: Debounce { quiet: Duration::from_millis(20), max: Duration::from_secs(1) },
        ..Settings::default()
    }
}

/// An API server with Istio's kinds, and namespaces `shop` and `istio-system`.
pub async fn server() -> ApiServer {
    let server = ApiServer::start().await.unwrap();
    server.namespace_with("shop", json!({"mesh": "yes"})).await.unwrap();
    server.namespace("istio-system").await.unwrap();
    install_crds(&server).await;
    server
}

/// Installs the kinds without schemas and waits until they are served. `deploy/crds` holds those with schemas, which refuse what tests of the
/// control plane's own judgement need to get in.
pub async fn install_crds(server: &ApiServer) {
    let definitions: Vec<Value> = KINDS
        .iter()
        .map(|info| {
            let versions: Vec<Value> = info
                .versions
                .iter()
                .enumerate()
                .map(|(index, version)| {
                    json!({
                        "name": version, "served": true, "storage": index == 0, "subresources": {"status": {}},
                        "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
                    })
                })
                .collect();
            json!({
                "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
                "metadata": {"name": format!("{}.{}", info.plural, info.group)},
                "spec": {
                    "group": info.group, "scope": "Namespaced", "versions": versions,
                    "names": {"kind": info.kind, "plural": info.plural, "singular": info.kind.to_lowercase(), "shortNames": info.short_names},
                },
            })
        })
        .collect();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": definitions});
    apply(server, &list.to_string()).await;
    server.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "crd", "--all"], "").await.unwrap().ok();
}

/// `kubectl apply -f -`.
pub async fn apply(server: &ApiServer, yaml: &str) {
    server.kubectl(&["apply", "-f", "-"], yaml).await.unwrap().ok();
}

/// `kubectl delete -n shop KIND NAME`.
pub async fn delete(server: &ApiServer, kind: &str, name: &str) {
    server.kubectl(&["delete", "-n", "shop", "--wait=false", kind, name], "").await.unwrap().ok();
}

/// How often the control plane has published.
pub async fn pushes(plane: &ControlPlane) -> u64 {
    crate::support::json(plane, "/debug/push_status").await["number"].as_u64().unwrap()
}

/// Messages of the findings, as a control plane shows them.
pub fn findings(plane: &ControlPlane) -> Vec<String> {
    plane.findings().iter().map(ToString::to_string).collect()
}

/// Keys of the objects that are in force.
pub async fn objects(plane: &ControlPlane) -> Vec<String> {
    let all = crate::support::json(plane, "/debug/configz").await;
    let named = all.as_array().unwrap().iter().map(|object| {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        format!("{} {}/{}", text("/kind"), text("/metadata/namespace"), text("/metadata/name"))
    });
    named.collect()
}

/// Returns once an object is in force, or is not.
pub async fn is_in_force(plane: &ControlPlane, key: &str, wanted: bool) {
    let what = format!("{key} in force: {wanted}");
    until(&what, async || objects(plane).await.iter().any(|one| one == key) == wanted).await;
}

/// A proxy's stream, and what it was sent.
pub struct Proxy {
    delta: Delta,
    resources: BTreeMap<(String, String), Vec<u8>>,
}

impl Proxy {
    /// A sidecar of namespace `shop` that asks for these resources by name.
    pub async fn connect(plane: &ControlPlane, wanted: &[(&str, &str)]) -> Self {
        let channel = plaintext(plane.grpc_addr()).await;
        let mut delta = Delta::open(channel, None, node("shop", "default")).await.unwrap();
        for (url, name) in wanted {
            delta.subscribe(url, &[name]).await;
        }
        Self { delta, resources: BTreeMap::new() }
    }

    /// Takes responses until a resource is as wanted.
    #[track_caller]
    pub fn until<T: Message + Default + std::fmt::Debug>(
        &mut self,
        url: &str,
        name: &str,
        wanted: impl Fn(Option<&T>) -> bool,
    ) -> impl Future<Output = ()> {
        let place = std::panic::Location::caller();
        async move {
            let key = (url.to_owned(), name.to_owned());
            loop {
                let found = self.resources.get(&key).map(|bytes| T::decode(&bytes[..]).unwrap());
                if wanted(found.as_ref()) {
                    return;
                }
                let next = tokio::time::timeout(DEADLINE, self.delta.take_any()).await;
                let Ok(response) = next else { panic!("{place}: {url} {name} is still {found:?}") };
                for resource in response.resources {
                    let body = resource.resource.unwrap().value;
                    self.resources.insert((response.type_url.clone(), resource.name), body);
                }
                for name in response.removed_resources {
                    self.resources.remove(&(response.type_url.clone(), name));
                }
            }
        }
    }
}

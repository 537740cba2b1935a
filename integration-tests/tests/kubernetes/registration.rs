//! WorkloadEntries of proxies outside the cluster: made when they connect, gone some time after they have (WG1).

use std::time::Duration;

use integration_tests::kubernetes::ApiServer;
use integration_tests::until;
use mesh_controlplane::app::{ControlPlane, Settings};
use mesh_proto::xds::discovery::DeltaDiscoveryRequest;
use mesh_proto::xds::{core, endpoint, rpc};
use serde_json::Value;
use tonic::Code;

use crate::plane::{Proxy, apply, is_in_force, server, settings};
use crate::support::{CDS, Delta, EDS, HOUR, plaintext};

const GROUP: &str = "apiVersion: networking.istio.io/v1
kind: WorkloadGroup
metadata: {name: web, namespace: shop}
spec:
  metadata: {labels: {app: web}, annotations: {note: mine}}
  template: {ports: {http: 8080}, serviceAccount: vm}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: web, namespace: shop}
spec: {hosts: [web.example], location: MESH_INTERNAL, resolution: STATIC, workloadSelector: {labels: {app: web}}, ports: [{number: 80, name: http, protocol: HTTP}]}
";
const KEY: &str = "WorkloadEntry shop/web-10.0.0.7";
const CLUSTER: &str = "outbound|80||web.example";

fn node(group: &str, more: &str) -> core::Node {
    let yaml = format!(
        "{{id: sidecar~10.0.0.7~vm-1.shop~shop.svc.cluster.local, metadata: {{NAMESPACE: shop, NAME: vm-1, SERVICE_ACCOUNT: vm, \
         AUTO_REGISTER_GROUP: {group}, LABELS: {{version: v2}}{more}}}}}"
    );
    mesh_proto::yaml::from_yaml(&yaml).unwrap()
}

/// A proxy that registers itself by a group.
async fn connect(plane: &ControlPlane, account: &str, node: core::Node) -> Delta {
    let token = plane.issue_token("shop", account, HOUR);
    let mut delta = Delta::open(plaintext(plane.grpc_addr()).await, Some(&token), node).await.unwrap();
    delta.subscribe(CDS, &["*"]).await;
    delta
}

/// The entry, if there is one.
async fn entry(server: &ApiServer) -> Option<Value> {
    let args = ["get", "workloadentry", "-n", "shop", "web-10.0.0.7", "-o", "json", "--ignore-not-found"];
    serde_json::from_str(&server.kubectl(&args, "").await.unwrap().ok()).ok()
}

fn annotation<'a>(entry: &'a Value, name: &str) -> Option<&'a str> {
    entry["metadata"]["annotations"].get(name)?.as_str()
}

fn plane_settings(server: &ApiServer) -> Settings {
    Settings { entry_grace: Duration::from_secs(1), ..settings(server.kubeconfig()) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_is_an_endpoint_while_its_proxy_is_connected() {
    let server = server().await;
    apply(&server, GROUP).await;
    let plane = ControlPlane::start(plane_settings(&server)).await.unwrap();

    for (group, account, code, reason) in [
        ("other", "vm", Code::FailedPrecondition, "there is no WorkloadGroup shop/other"),
        ("web", "spy", Code::PermissionDenied, "service account"),
    ] {
        let mut metadata = node(group, "");
        if account == "spy" {
            // It says so itself, and so the node is its own; the entry is not.
            let fields = &mut metadata.metadata.as_mut().unwrap().fields;
            fields.remove("SERVICE_ACCOUNT");
        }
        let error = connect(&plane, account, metadata).await.responses.message().await.unwrap_err();
        assert!(error.code() == code && error.message().contains(reason), "{error}");
        assert_eq!(entry(&server).await, None);
    }

    let mut client = Proxy::connect(&plane, &[(EDS, CLUSTER)]).await;
    let count = |found: Option<&endpoint::ClusterLoadAssignment>| {
        found.map_or(0, |found| found.endpoints.iter().map(|one| one.lb_endpoints.len()).sum::<usize>())
    };
    let first = connect(&plane, "vm", node("web", "")).await;
    client.until(EDS, CLUSTER, |found| count(found) == 1).await;
    let made = entry(&server).await.unwrap();
    assert_eq!(made["spec"]["address"], "10.0.0.7");
    assert_eq!((&made["spec"]["ports"]["http"], &made["spec"]["serviceAccount"]), (&8080.into(), &"vm".into()));
    assert_eq!(made["metadata"]["labels"], serde_json::json!({"app": "web", "version": "v2"}));
    assert_eq!(made["metadata"]["ownerReferences"][0]["name"], "web");
    assert_eq!(annotation(&made, "istio.io/autoRegistrationGroup"), Some("web"));
    assert_eq!(annotation(&made, "note"), Some("mine"));
    assert!(
        annotation(&made, "istio.io/connectedAt").is_some()
            && annotation(&made, "istio.io/workloadController").is_some()
    );

    // A proxy that comes back before the old connection is known to be dead keeps its entry.
    let second = connect(&plane, "vm", node("web", "")).await;
    let since = |entry: &Value| annotation(entry, "istio.io/connectedAt").map(str::to_owned);
    until("the newer connection counts", async || since(&entry(&server).await.unwrap()) != since(&made)).await;
    drop(first);
    let streams = async || crate::support::json(&plane, "/debug/syncz").await.as_array().unwrap().len();
    until("the first stream is gone", async || streams().await == 2).await;
    assert_eq!(annotation(&entry(&server).await.unwrap(), "istio.io/disconnectedAt"), None);

    drop(second);
    client.until(EDS, CLUSTER, |found| count(found) == 0).await;
    assert_eq!(entry(&server).await, None, "it is removed, not only marked");
    plane.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_goes_with_its_proxy_to_another_control_plane() {
    let server = server().await;
    apply(&server, GROUP).await;
    let patient = || Settings { entry_grace: Duration::from_secs(600), ..plane_settings(&server) };
    let plane = ControlPlane::start(patient()).await.unwrap();
    let proxy = connect(&plane, "vm", node("web", "")).await;
    is_in_force(&plane, KEY, true).await;
    let made = entry(&server).await.unwrap();
    plane.shutdown().await;
    let left = entry(&server).await.unwrap();
    assert!(annotation(&left, "istio.io/disconnectedAt").is_some(), "at its end it says that all have left: {left}");
    drop(proxy);

    let next = ControlPlane::start(patient()).await.unwrap();
    let proxy = connect(&next, "vm", node("web", "")).await;
    until("the entry is the next one's", async || {
        let now = entry(&server).await.unwrap();
        annotation(&now, "istio.io/disconnectedAt").is_none()
            && annotation(&now, "istio.io/workloadController") != annotation(&made, "istio.io/workloadController")
            && now["metadata"]["uid"] == made["metadata"]["uid"]
    })
    .await;
    drop(proxy);
    next.shutdown().await;

    // Nobody is connected any more, and it is over: whoever leads removes it.
    let last = ControlPlane::start(plane_settings(&server)).await.unwrap();
    until("it is gone", async || entry(&server).await.is_none()).await;
    last.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_counts_only_while_its_proxy_says_that_it_is_well() {
    let server = server().await;
    apply(&server, GROUP).await;
    let plane = ControlPlane::start(plane_settings(&server)).await.unwrap();
    let probed = node("web", ", PROXY_CONFIG: {readinessProbe: {tcpSocket: {port: 8080}}}");
    let mut proxy = connect(&plane, "vm", probed).await;
    let tell = async |proxy: &mut Delta, error: Option<&str>| {
        let error_detail =
            error.map(|message| rpc::Status { code: 500, message: message.to_owned(), ..Default::default() });
        let type_url = "type.googleapis.com/istio.v1.HealthInformation".to_owned();
        proxy.send(DeltaDiscoveryRequest { type_url, error_detail, ..Default::default() }).await;
    };
    let says = async |status: &str, message: Option<&str>| {
        until(status, async || {
            let entry = entry(&server).await.unwrap_or_default();
            let conditions = entry["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let one = conditions.into_iter().find(|one| one["type"] == "Healthy").unwrap_or_default();
            one["status"] == status && one["message"].as_str() == message
        })
        .await;
    };
    until("the entry", async || entry(&server).await.is_some()).await;
    is_in_force(&plane, KEY, false).await;
    tell(&mut proxy, None).await;
    says("True", None).await;
    is_in_force(&plane, KEY, true).await;
    tell(&mut proxy, Some("no answer")).await;
    says("False", Some("no answer")).await;
    is_in_force(&plane, KEY, false).await;
    tell(&mut proxy, None).await;
    is_in_force(&plane, KEY, true).await;
    plane.shutdown().await;
}

//! What stands in the status of objects, who writes it, and how seldom.

use std::time::Duration;

use integration_tests::kubernetes::ApiServer;
use integration_tests::until;
use mesh_controlplane::app::ControlPlane;
use serde_json::Value;

use crate::plane::{apply, server, settings};

fn routes(attempts: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: web, namespace: shop}}\nspec:\n  hosts: [web.example]\n  \
         http: [{{directResponse: {{status: 200}}, retries: {{attempts: {attempts}}}}}]\n"
    )
}

const ENTRY: &str = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: far, namespace: shop}\nspec: {hosts: [a.example], \
                     resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}]}\n";

async fn object(server: &ApiServer, kind: &str, name: &str) -> Value {
    let text = server.kubectl(&["get", "-n", "shop", kind, name, "-o", "json"], "").await.unwrap().ok();
    serde_json::from_str(&text).unwrap()
}

/// The condition of an object, once it is of its newest generation.
async fn condition(server: &ApiServer, kind: &str, name: &str) -> Option<(String, String)> {
    let object = object(server, kind, name).await;
    if object["status"]["observedGeneration"] != object["metadata"]["generation"] {
        return None;
    }
    let condition = object["status"]["conditions"].as_array()?.first()?.clone();
    Some((condition["status"].as_str()?.to_owned(), condition["message"].as_str()?.to_owned()))
}

async fn holder(server: &ApiServer) -> String {
    let args = ["get", "lease", "-n", "istio-system", "istio-status-leader", "-o", "jsonpath={.spec.holderIdentity}"];
    server.kubectl(&args, "").await.unwrap().stdout
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_say_whether_they_are_in_force() {
    let server = server().await;
    apply(&server, &routes("7")).await;
    let plane = ControlPlane::start(settings(server.kubeconfig())).await.unwrap();
    let is = async |word: &str, part: &str| {
        let what = format!("{word}: {part}");
        let held = async || {
            let found = condition(&server, "virtualservice", "web").await;
            found.is_some_and(|(status, message)| status == word && message.contains(part))
        };
        until(&what, held).await;
    };
    is("True", "in force").await;
    apply(&server, &routes("[1]")).await;
    is("False", "http[0].retries.attempts: ").await;
    let status = object(&server, "virtualservice", "web").await["status"].clone();
    assert!(
        status["conditions"][0]["message"].as_str().unwrap().ends_with("(the last good version stays in force)"),
        "{status}"
    );
    assert_eq!(status["validationMessages"][0]["type"]["code"], "IST0106", "{status}");
    apply(&server, &routes("8")).await;
    is("True", "in force").await;
    assert_eq!(object(&server, "virtualservice", "web").await["status"].get("validationMessages"), None);

    // Nothing changes, so nothing is written: not by this replica, and not by the next one that leads.
    let before = object(&server, "virtualservice", "web").await["metadata"]["resourceVersion"].clone();
    plane.shutdown().await;
    let next = ControlPlane::start(settings(server.kubeconfig())).await.unwrap();
    apply(&server, ENTRY).await;
    let written = async || condition(&server, "serviceentry", "far").await.is_some();
    until("another object is written", written).await;
    assert_eq!(object(&server, "virtualservice", "web").await["metadata"]["resourceVersion"], before);
    next.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_of_service_entries_are_kept_and_read_again() {
    let server = server().await;
    apply(&server, ENTRY).await;
    let plane = ControlPlane::start(settings(server.kubeconfig())).await.unwrap();
    let own = |found: Value| {
        let service = found.as_array().unwrap().iter().find(|one| one["hostname"] == "a.example").cloned().unwrap();
        service["autoAllocatedAddresses"].clone()
    };
    let given = own(crate::support::json(&plane, "/debug/registryz").await);
    let recorded = async || object(&server, "serviceentry", "far").await["status"]["addresses"].clone();
    until("the addresses are recorded", async || recorded().await.is_array()).await;
    let values: Vec<Value> = recorded().await.as_array().unwrap().iter().map(|one| one["value"].clone()).collect();
    assert_eq!(Value::from(values), given);
    let pushes = crate::plane::pushes(&plane).await;
    plane.shutdown().await;
    assert!(pushes <= 2, "what the mesh writes itself is no push: {pushes}");

    // As if it had been given another one before, when the name's own was another's.
    let other = r#"{"status": {"addresses": [{"host": "a.example", "value": "240.240.7.7"}]}}"#;
    let args = ["patch", "serviceentry", "-n", "shop", "far", "--subresource=status", "--type=merge", "-p", other];
    server.kubectl(&args, "").await.unwrap().ok();
    let plane = ControlPlane::start(settings(server.kubeconfig())).await.unwrap();
    assert_eq!(own(crate::support::json(&plane, "/debug/registryz").await)[0], "240.240.7.7");
    until("both versions are recorded", async || recorded().await.as_array().is_some_and(|all| all.len() == 2)).await;
    assert_eq!(recorded().await[0]["value"], "240.240.7.7");
    plane.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_replica_writes_and_hands_over_when_it_stops() {
    let server = server().await;
    let one = ControlPlane::start(settings(server.kubeconfig())).await.unwrap();
    until("the first leads", async || !holder(&server).await.is_empty()).await;
    let first = holder(&server).await;
    let other = ControlPlane::start(settings(server.kubeconfig())).await.unwrap();
    apply(&server, ENTRY).await;
    let written = async || condition(&server, "serviceentry", "far").await.is_some();
    until("it is written", written).await;
    assert_eq!(holder(&server).await, first, "the second waits");
    let stopped = std::time::Instant::now();
    one.shutdown().await;
    until("the second leads", async || {
        let now = holder(&server).await;
        !now.is_empty() && now != first
    })
    .await;
    assert!(stopped.elapsed() < Duration::from_secs(12), "before the lease would have run out");
    apply(&server, &routes("7")).await;
    until("it writes", async || condition(&server, "virtualservice", "web").await.is_some()).await;
    other.shutdown().await;
}

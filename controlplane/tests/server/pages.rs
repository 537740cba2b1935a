//! The monitoring port.

use mesh_controlplane::app::{ControlPlane, Settings};

use crate::support::*;

#[tokio::test]
async fn pages_show_what_is_known_and_what_was_sent() {
    let secret =
        "---\n{apiVersion: v1, kind: Secret, metadata: {name: s, namespace: default}, data: {tls.key: c2VjcmV0}}\n";
    let plane = start(&(service("a", "10.0.0.1") + secret)).await;
    let mut stream = Delta::open(plaintext(plane.grpc_addr()).await, None, node("default", "")).await.unwrap();
    for url in [CDS, LDS] {
        stream.subscribe(url, &[]).await;
        stream.take(url).await;
    }
    assert_eq!(page(&plane, "/ready").await.0, 200);
    assert!(page(&plane, "/version").await.1.starts_with("ferromesh-"));
    let metrics = page(&plane, "/metrics").await.1;
    for line in [
        "pilot_xds 1",
        "pilot_services 1",
        "pilot_xds_pushes{type=\"cds\"} 1",
        "citadel_server_root_cert_expiry_timestamp",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    let registry = json(&plane, "/debug/registryz").await;
    assert_eq!(registry[0]["hostname"], "a.default.svc.cluster.local");
    let endpoints = json(&plane, "/debug/endpointz").await;
    assert_eq!(endpoints[0]["ep"][0]["Addresses"][0], "10.0.0.1");
    let objects = json(&plane, "/debug/configz").await.to_string();
    assert!(objects.contains("EndpointSlice") && objects.contains("(hidden)"), "{objects}");
    assert!(!objects.contains("c2VjcmV0"), "keys are shown to nobody");
    let dump = json(&plane, "/debug/config_dump?proxyID=client.default").await;
    let clusters = &dump["configs"][0]["dynamic_active_clusters"];
    assert!(clusters.to_string().contains(&cluster("a")), "{dump}");
    assert!(dump["configs"][1]["dynamic_listeners"][0]["active_state"]["listener"]["name"].is_string(), "{dump}");
    assert_eq!(page(&plane, "/debug/config_dump?proxyID=none.default").await.0, 404);
    assert_eq!(page(&plane, "/debug/config_dump").await.0, 400);
    eventually(&plane, "/debug/push_status", |status| status["proxies"] == serde_json::json!({})).await;
    drop(stream);
    eventually(&plane, "/debug/adsz", |all| all["totalClients"] == 0).await;
    plane.shutdown().await;
}

#[tokio::test]
async fn files_are_read_before_it_is_ready_and_read_again_when_they_change() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("a.yaml"), service("a", "10.0.0.1")).unwrap();
    std::fs::write(
        directory.path().join("bad.yaml"),
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v}\nspec: {http: 1}\n",
    )
    .unwrap();
    let settings = Settings { config_dirs: vec![directory.path().to_owned()], ..Settings::default() };
    let plane = ControlPlane::start(settings).await.unwrap();
    assert!(!plane.findings().is_empty());
    let findings = json(&plane, "/debug/findings").await;
    assert!(findings[0]["file"].as_str().unwrap().ends_with("bad.yaml"), "{findings}");
    assert_eq!(json(&plane, "/debug/registryz").await.as_array().unwrap().len(), 1);
    std::fs::write(directory.path().join("b.yaml"), service("bb", "10.0.0.2")).unwrap();
    eventually(&plane, "/debug/registryz", |all| all.as_array().unwrap().len() == 2).await;
    plane.shutdown().await;
    let missing = Settings { config_dirs: vec![directory.path().join("none")], ..Settings::default() };
    assert!(ControlPlane::start(missing).await.unwrap_err().to_string().contains("none"));
}

#[tokio::test]
async fn the_authority_of_a_directory_survives_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let ca = mesh_controlplane::app::CaSettings::SelfSigned { dir: Some(directory.path().to_owned()) };
    let settings = Settings { ca, ..Settings::default() };
    let first = ControlPlane::start(settings.clone()).await.unwrap();
    let (roots, token) = (first.root_pem(), first.issue_token("default", "reviews", HOUR));
    first.shutdown().await;
    let second = ControlPlane::start(settings).await.unwrap();
    assert_eq!(second.root_pem(), roots);
    let channel = secure(second.secure_grpc_addr(), &roots, None).await.unwrap();
    assert!(sign(channel, Some(&token), request().1).await.is_ok());
    second.shutdown().await;
}

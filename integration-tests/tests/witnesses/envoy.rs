//! A stock Envoy takes everything that the control plane makes, and its traffic goes where the configuration says (BX19, XD1).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mesh_controlplane::app::ControlPlane;
use mesh_controlplane::model::{Change, Object, Spec};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::backend::Backend;
use crate::process::{Ads, Api, Envoy, Who};
use crate::{client, plane};

/// Processes at a time.
const AT_ONCE: usize = 3;

/// A workspace folder; at run time, because a build directory may be shared by several checkouts.
fn folder(path: &str) -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("..").join(path)
}

fn plaintext(plane: &ControlPlane, api: Api) -> Ads {
    Ads { address: plane.grpc_addr(), api, token: None, roots: None }
}

/// Everything was taken: by the control plane's account, and by Envoy's.
async fn taken(plane: &ControlPlane, envoy: &Envoy) -> Result<usize, String> {
    let clients = plane::clients(plane).await;
    let [only] = clients.as_slice() else { return Err(format!("{} clients", clients.len())) };
    let behind = plane::behind(only);
    let stats = envoy.stats().await;
    let bad = [
        "update_rejected",
        "init_fetch_timeout",
        "listener_create_failure",
        "total_listeners_warming",
        "warming_clusters",
    ];
    let refused: BTreeMap<_, _> =
        stats.iter().filter(|(name, count)| **count > 0 && bad.iter().any(|bad| name.ends_with(bad))).collect();
    let log = envoy.log();
    let told = |kind: &str| only["types"][kind]["resources"].as_u64().unwrap_or(0);
    let has = |name: &str| stats.get(name).copied().unwrap_or(0);
    // Beside the two clusters of its bootstrap.
    let (clusters, listeners) =
        (has("cluster_manager.active_clusters"), has("listener_manager.total_listeners_active"));
    let complete = clusters == told("CDS") + 2 && listeners == told("LDS");
    if !behind.is_empty() || !refused.is_empty() || !log.is_empty() || !complete {
        return Err(format!(
            "{behind}{refused:?}\n{clusters} clusters of {}, {listeners} listeners of {}\n{log}",
            told("CDS") + 2,
            told("LDS")
        ));
    }
    Ok(usize::try_from(told("CDS") + told("LDS") + told("RDS") + told("EDS") + told("SDS")).unwrap())
}

/// Words in place of certificates are replaced by a certificate.
fn real_secrets(changes: Vec<Change>) -> Vec<Change> {
    let signed = rcgen::generate_simple_self_signed(["shop.example.com".to_owned()]).unwrap();
    let (certificate, key) = (signed.cert.pem(), signed.signing_key.serialize_pem());
    let real = |change| match change {
        Change::Set(object) => match &object.spec {
            Spec::Secret(secret) => {
                let mut secret = secret.clone();
                let word = |name: &str| if name.contains("key") { &key } else { &certificate };
                secret.string_data.iter_mut().flatten().for_each(|(name, text)| text.clone_from(word(name)));
                let bytes = secret.data.iter_mut().flatten();
                bytes.for_each(|(name, bytes)| bytes.0 = word(name).clone().into_bytes());
                Change::Set(Arc::new(Object { spec: Spec::Secret(secret), ..(*object).clone() }))
            }
            _ => Change::Set(object),
        },
        other => other,
    };
    changes.into_iter().map(real).collect()
}

/// Secrets that Gateways of a case name and that the case leaves out.
fn missing_secrets(changes: &[Change], namespace: &str) -> Vec<Change> {
    let objects =
        || changes.iter().filter_map(|change| if let Change::Set(object) = change { Some(object) } else { None });
    let known: BTreeSet<&str> =
        objects().filter(|object| matches!(object.spec, Spec::Secret(_))).map(|object| &*object.key.name).collect();
    let mut named = BTreeSet::new();
    for object in objects() {
        let Spec::Gateway(gateway) = &object.spec else { continue };
        for tls in gateway.servers.iter().filter_map(|server| server.tls.as_ref()) {
            let names = tls.credential_names.iter().chain([&tls.credential_name, &tls.ca_cert_credential_name]);
            named.extend(names.filter(|name| !name.is_empty() && !known.contains(name.as_str())));
        }
    }
    let secret = |name: &&String| {
        plane::objects(&format!(
            "{{apiVersion: v1, kind: Secret, metadata: {{name: {name}, namespace: {namespace}}}, stringData: {{tls.crt: a, tls.key: a, ca.crt: a}}}}"
        ))
    };
    named.iter().flat_map(secret).collect()
}

/// The node of a golden case, as a proxy without our extensions.
fn asker(node: &Value) -> Who {
    let text = |key: &str, default: &str| node[key].as_str().unwrap_or(default).to_owned();
    let labels: BTreeMap<String, String> = serde_json::from_value(node["labels"].clone()).unwrap_or_default();
    Who {
        kind: if node["kind"] == "router" { "router" } else { "sidecar" },
        name: text("name", "client-1"),
        namespace: text("namespace", "default"),
        account: "default".to_owned(),
        address: text("address", "10.0.0.100").parse().unwrap(),
        labels,
        interception: text("interception", "REDIRECT"),
        locality: text("locality", ""),
    }
}

async fn try_out(name: String, changes: Vec<Change>, who: Who, api: Api) -> Result<usize, String> {
    let plane = plane::start("").await;
    plane.apply(real_secrets(changes)).await;
    let identity = plane::identity(&plane, &who.namespace, &who.account).await;
    let mut ads = plaintext(&plane, api);
    // Secrets are for whoever says who it is.
    ads.token = Some(plane.issue_token(&who.namespace, &who.account, plane::DEADLINE * 10));
    let envoy = Envoy::isolated(&who, &ads, identity);
    let (what, until) = (format!("{name} over {api:?}"), tokio::time::Instant::now() + plane::DEADLINE);
    loop {
        // Pages fail until it listens.
        let live = envoy.admin("/server_info").await.is_ok_and(|page| page.contains("\"state\": \"LIVE\""));
        let found = if live { taken(&plane, &envoy).await } else { Err(format!("not LIVE\n{}", envoy.log())) };
        match found {
            Ok(count) => return Ok(count),
            Err(error) if tokio::time::Instant::now() > until => {
                let pending = envoy.admin("/init_dump").await.unwrap_or_default();
                return Err(format!("{what}: {error}\n{pending}\n{:?}", plane::clients(&plane).await));
            }
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
        }
    }
}

/// Runs cases a few at a time and gathers what is wrong; returns the number of resources that were taken.
async fn try_all(cases: Vec<(String, Vec<Change>, Who)>) -> usize {
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut running = tokio::task::JoinSet::new();
    for (name, changes, who) in cases {
        for api in [Api::Delta, Api::Sotw] {
            let (name, changes, who, room) = (name.clone(), changes.clone(), who.clone(), room.clone());
            running.spawn(async move {
                let _permit = room.acquire_owned().await.unwrap();
                try_out(name, changes, who, api).await
            });
        }
    }
    let (mut count, mut wrong) = (0, Vec::new());
    for found in running.join_all().await {
        match found {
            Ok(resources) => count += resources,
            Err(error) => wrong.push(error),
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n\n"));
    count
}

fn mesh_config(mesh: &Value) -> String {
    let text = serde_json::to_string(&mesh.to_string()).unwrap();
    format!(
        "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: istio, namespace: istio-system}}, data: {{mesh: {text}}}}}"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_takes_every_golden_case_in_both_protocols() {
    let mut cases = Vec::new();
    for case in std::fs::read_dir(folder("controlplane/tests/golden")).unwrap() {
        let case = case.unwrap().path();
        let read = |name: &str| std::fs::read_to_string(case.join(name)).unwrap_or_default();
        let node: Value = yaml_serde::from_str(&read("node.yaml")).unwrap();
        // gRPC's own client is another witness.
        if node["grpc"] == true {
            continue;
        }
        let mut changes = plane::objects(&read("input.yaml"));
        if !node["mesh"].is_null() {
            changes.extend(plane::objects(&mesh_config(&node["mesh"])));
        }
        let who = asker(&node);
        changes.extend(missing_secrets(&changes, &who.namespace));
        cases.push((case.file_name().unwrap().to_string_lossy().into_owned(), changes, who));
    }
    assert!(cases.len() > 15, "{} cases", cases.len());
    let count = try_all(cases).await;
    assert!(count > 500, "{count} resources only");
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_takes_the_samples_as_sidecar_and_as_gateway() {
    let mut cases = Vec::new();
    // Each folder is a mesh of its own.
    for mesh in std::fs::read_dir(folder("deploy/samples")).unwrap().map(|entry| entry.unwrap().path()) {
        let mut files = Vec::new();
        find(&mesh, &mut files);
        files.sort();
        let texts = files.iter().map(|file| std::fs::read_to_string(file).unwrap());
        let mut changes: Vec<Change> = texts.flat_map(|text| plane::objects(&text)).collect();
        let pod = "{apiVersion: v1, kind: Pod, metadata: {name: productpage, labels: {app: productpage, security.istio.io/tlsMode: istio}}, \
                   spec: {containers: [{name: a, ports: [{name: http, containerPort: 9080}]}]}, status: {podIP: 10.0.0.7}}";
        changes.extend(plane::objects(pod));
        let mut sidecar = Who::sidecar("productpage", IpAddr::from([10, 0, 0, 7]));
        sidecar.interception = "REDIRECT".to_owned();
        let mut gateway = Who::sidecar("istio-ingressgateway", IpAddr::from([10, 0, 0, 8]));
        gateway.kind = "router";
        gateway.namespace = "istio-system".to_owned();
        gateway.labels = [("istio".to_owned(), "ingressgateway".to_owned())].into();
        let name = mesh.file_name().unwrap().to_string_lossy().into_owned();
        cases.push((format!("{name}, sidecar"), changes.clone(), sidecar));
        cases.push((format!("{name}, gateway"), changes, gateway));
    }
    assert!(try_all(cases).await > 40);
}

fn find(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            find(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            files.push(path);
        }
    }
}

/// Endpoints of two subsets, by port and version.
fn reviews(endpoints: &[(u16, &str)]) -> String {
    let list = endpoints.iter().map(
        |(port, version)| json!({"address": "127.0.0.1", "ports": {"http": port}, "labels": {"version": version}}),
    );
    let list = Value::from_iter(list);
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: reviews}}\nspec: {{hosts: [reviews.example.com], \
         location: MESH_INTERNAL, resolution: STATIC, ports: [{{number: 80, name: http, protocol: HTTP}}], endpoints: {list}}}\n"
    )
}

fn shares(v1: u32, v2: u32) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: reviews}}\nspec: {{hosts: [reviews.example.com], http: \
         [{{route: [{{destination: {{host: reviews.example.com, subset: v1}}, weight: {v1}}}, \
         {{destination: {{host: reviews.example.com, subset: v2}}, weight: {v2}}}]}}]}}\n"
    )
}

const SUBSETS: &str = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: reviews}\nspec: {host: \
                       reviews.example.com, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}\n";

#[tokio::test(flavor = "multi_thread")]
async fn envoy_routes_by_weight_and_follows_changes_of_routes_and_endpoints() {
    let (one, two, three) = (Backend::start("v1").await, Backend::start("v2").await, Backend::start("v2-more").await);
    let local = plane::address();
    let egress = format!("{local}:15080");
    let sidecar = format!(
        "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: client}}\nspec: {{egress: [{{port: {{number: 15080, \
         protocol: HTTP_PROXY, name: http}}, bind: {local}, hosts: ['*/*']}}]}}\n"
    );
    let all = [reviews(&[(one.port(), "v1"), (two.port(), "v2")]), shares(75, 25), SUBSETS.to_owned(), sidecar];
    for api in [Api::Delta, Api::Sotw] {
        let plane = plane::start(&all.join("---\n")).await;
        let who = Who::sidecar("client", local.into());
        let identity = plane::identity(&plane, "default", "client").await;
        let envoy = Envoy::start(&who, &plaintext(&plane, api), identity);
        envoy.live().await;
        let host = "reviews.example.com";
        let found = client::tally(&egress, host, 400).await;
        // Five standard deviations about 300.
        assert!((257..=343).contains(&found["v1"]) && found["v1"] + found["v2"] == 400, "{found:?}");

        let wait_for = |wanted: &'static [&'static str]| {
            let (egress, what) = (&egress, format!("{api:?}: {wanted:?} answer"));
            async move {
                plane::eventually(&what, || async {
                    let found: Vec<String> = client::tally(egress, host, 12).await.into_keys().collect();
                    if found == wanted { Ok(()) } else { Err(format!("{found:?}")) }
                })
                .await;
            }
        };
        plane.apply(plane::objects(&shares(0, 100))).await;
        wait_for(&["v2"]).await;
        plane.apply(plane::objects(&reviews(&[(one.port(), "v1"), (two.port(), "v2"), (three.port(), "v2")]))).await;
        wait_for(&["v2", "v2-more"]).await;
        plane.apply(plane::objects(&reviews(&[(one.port(), "v1"), (three.port(), "v2")]))).await;
        wait_for(&["v2-more"]).await;
        plane::eventually("all is taken", || taken(&plane, &envoy)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateways_certificate_reaches_an_envoy_that_says_who_it_is_and_no_other() {
    let backend = Backend::start("shop").await;
    let signed = rcgen::generate_simple_self_signed(["shop.example.com".to_owned()]).unwrap();
    let local = plane::address();
    let (certificate, key) = (json!(signed.cert.pem()), json!(signed.signing_key.serialize_pem()));
    let yaml = format!(
        "{}---\napiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: edge}}\nspec: {{selector: {{app: edge}}, servers: \
         [{{port: {{number: 8443, name: https, protocol: HTTPS}}, bind: {local}, hosts: [shop.example.com], tls: {{mode: SIMPLE, \
         credentialName: shop}}}}]}}\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: shop}}\nspec: \
         {{hosts: [shop.example.com], gateways: [edge], http: [{{route: [{{destination: {{host: reviews.example.com}}}}]}}]}}\n---\n\
         {{apiVersion: v1, kind: Secret, metadata: {{name: shop}}, stringData: {{tls.crt: {certificate}, tls.key: {key}}}}}\n",
        reviews(&[(backend.port(), "v1")])
    );
    let plane = plane::start(&yaml).await;
    let mut who = Who::sidecar("edge", local.into());
    who.kind = "router";
    let identity = plane::identity(&plane, "default", "edge").await;
    let ads = Ads {
        address: plane.secure_grpc_addr(),
        api: Api::Delta,
        token: Some(plane.issue_token("default", "edge", plane::DEADLINE * 10)),
        roots: Some(plane.root_pem()),
    };
    let envoy = Envoy::start(&who, &ads, identity.clone());
    envoy.live().await;
    plane::eventually("all is taken", || taken(&plane, &envoy)).await;

    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(signed.cert.pem().as_bytes()).unwrap()).unwrap();
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = TcpStream::connect((local, 8443)).await.unwrap();
    let name = || ServerName::try_from("shop.example.com").unwrap();
    let stream = connector.connect(name(), stream).await.unwrap();
    let found = client::over(stream, "shop.example.com", "/").await.unwrap();
    assert_eq!(found, (200, "shop".to_owned()));
    drop(envoy);

    // Whoever says nothing gets no secrets.
    let envoy = Envoy::start(&who, &plaintext(&plane, Api::Delta), identity);
    plane::eventually("its secret is kept from it", || async {
        let clients = plane::clients(&plane).await;
        let asked = clients.iter().find(|client| client["types"]["SDS"]["status"] == "SYNCED");
        match asked {
            Some(client) if client["types"]["SDS"]["resources"] == 0 => Ok(()),
            _ => Err(format!("{clients:?}\n{}", envoy.log())),
        }
    })
    .await;
    if let Ok(stream) = TcpStream::connect((local, 8443)).await {
        connector.connect(name(), stream).await.expect_err("it has no certificate to show");
    }
}

//! gRPC's own xDS client, in C with Python around it, on our control plane (EX8, BX19).

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;

use integration_tests::programs;
use mesh_controlplane::app::ControlPlane;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::backend::Backend;
use crate::interop::{self, Make, Side};
use crate::plane;

/// A running client.
struct Client {
    _child: Child,
    commands: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    folder: tempfile::TempDir,
}

impl Client {
    /// Dials a target; with a certificate of the mesh if the account is given.
    async fn start(plane: &ControlPlane, target: &str, account: Option<&str>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let mut bootstrap = json!({
            "xds_servers": [{
                "server_uri": plane.grpc_addr().to_string(),
                "channel_creds": [{"type": "insecure"}],
                "server_features": ["xds_v3"],
            }],
            "node": {
                "id": "sidecar~127.0.0.1~client.default~default.svc.cluster.local",
                "metadata": {"GENERATOR": "grpc", "NAMESPACE": "default", "NAME": "client", "INSTANCE_IPS": "127.0.0.1"},
            },
            "server_listener_resource_name_template": "xds.istio.io/grpc/lds/inbound/%s",
        });
        if let Some(account) = account {
            let identity = plane::identity(plane, "default", account).await;
            for (name, text) in [("chain", &identity.chain), ("key", &identity.key), ("roots", &identity.roots)] {
                std::fs::write(at(name), text).unwrap();
            }
            bootstrap["certificate_providers"] = json!({"default": {"plugin_name": "file_watcher", "config": {
                "certificate_file": at("chain"), "private_key_file": at("key"), "ca_certificate_file": at("roots"),
                "refresh_interval": "60s",
            }}});
        }
        let script = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("tests/witnesses/client.py");
        let errors = std::fs::File::create(at("errors")).unwrap();
        let mut child = Command::new(programs::python_with_grpc())
            .arg(script)
            .arg(format!("xds:///{target}"))
            .arg(if account.is_some() { "secure" } else { "plaintext" })
            .env("GRPC_XDS_BOOTSTRAP_CONFIG", bootstrap.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (commands, answers) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { _child: child, commands, answers: BufReader::new(answers).lines(), folder }
    }

    /// Calls, and how often each server answered; an error tells of the calls that failed.
    async fn call(&mut self, kind: &str, count: usize) -> Result<BTreeMap<String, usize>, String> {
        self.commands.write_all(format!("{kind} {count}\n").as_bytes()).await.unwrap();
        let line = self.answers.next_line().await.unwrap();
        let errors = || std::fs::read_to_string(self.folder.path().join("errors")).unwrap_or_default();
        let line: Value =
            serde_json::from_str(&line.unwrap_or_else(|| panic!("the client ended: {}", errors()))).unwrap();
        if line["errors"].as_object().is_some_and(|found| !found.is_empty()) {
            return Err(format!("{}\n{}", line["errors"], errors()));
        }
        Ok(serde_json::from_value(line["answers"].clone()).unwrap())
    }

    /// Calls until all succeed and the answers are as wanted.
    async fn until(&mut self, what: &str, count: usize, wanted: impl Fn(&BTreeMap<String, usize>) -> bool) {
        let until = tokio::time::Instant::now() + plane::DEADLINE;
        loop {
            let found = self.call("unary", count).await;
            if found.as_ref().is_ok_and(&wanted) {
                return;
            }
            assert!(tokio::time::Instant::now() < until, "{what}: {found:?}");
        }
    }
}

/// A service with endpoints on this machine, by port and version.
fn service(endpoints: &[(u16, &str)]) -> String {
    let list = endpoints.iter().map(
        |(port, version)| json!({"address": "127.0.0.1", "ports": {"grpc": port}, "labels": {"version": version}}),
    );
    let list = Value::from_iter(list);
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: echo}}\nspec: {{hosts: [echo.default.svc.cluster.local], \
         location: MESH_INTERNAL, resolution: STATIC, ports: [{{number: 7070, name: grpc, protocol: GRPC}}], endpoints: {list}}}\n"
    )
}

fn shares(v1: u32, v2: u32) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: echo}}\nspec: {{hosts: [echo], http: [{{route: \
         [{{destination: {{host: echo, subset: v1}}, weight: {v1}}}, {{destination: {{host: echo, subset: v2}}, weight: {v2}}}]}}]}}\n"
    )
}

const SUBSETS: &str = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: echo}\nspec: {host: echo, subsets: \
                       [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}\n";

fn names(found: &BTreeMap<String, usize>) -> Vec<&str> {
    found.keys().map(String::as_str).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_client_balances_and_follows_endpoints_and_weights() {
    let (one, two, three) = (Backend::start("one").await, Backend::start("two").await, Backend::start("three").await);
    let plane = plane::start(&service(&[(one.port(), "v1"), (two.port(), "v2")])).await;
    let mut client = Client::start(&plane, "echo.default.svc.cluster.local:7070", None).await;
    client.until("by turns", 20, |found| found.get("one") == Some(&10) && found.get("two") == Some(&10)).await;
    let streamed = client.call("stream", 20).await.unwrap();
    assert_eq!(streamed, BTreeMap::from([("one".to_owned(), 50), ("two".to_owned(), 50)]));

    plane.apply(plane::objects(&service(&[(one.port(), "v1"), (two.port(), "v2"), (three.port(), "v2")]))).await;
    client.until("an endpoint that is new", 30, |found| names(found) == ["one", "three", "two"]).await;
    plane.apply(plane::objects(&service(&[(one.port(), "v1"), (three.port(), "v2")]))).await;
    client.until("an endpoint that is gone", 30, |found| names(found) == ["one", "three"]).await;

    plane.apply(plane::objects(&format!("{SUBSETS}---\n{}", shares(75, 25)))).await;
    // Five standard deviations about 300.
    client.until("by weight", 400, |found| found.get("one").is_some_and(|count| (257..=343).contains(count))).await;
    plane.apply(plane::objects(&shares(0, 100))).await;
    client.until("by other weights", 30, |found| names(found) == ["three"]).await;

    let clients = plane::clients(&plane).await;
    let behind: String = clients.iter().map(plane::behind).collect();
    assert!(clients.len() == 1 && behind.is_empty(), "{behind}{clients:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_client_finds_services_by_their_short_names() {
    let one = Backend::start("one").await;
    let plane = plane::start(&service(&[(one.port(), "v1")])).await;
    let mut client = Client::start(&plane, "echo:7070", None).await;
    client.until("by its short name", 2, |found| names(found) == ["one"]).await;
}

/// How clients reach the server: by mesh TLS or without.
fn client_tls(mode: &str) -> String {
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {{name: server}}, spec: {{host: server, trafficPolicy: \
         {{tls: {{mode: {mode}}}}}}}}}"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_client_speaks_mesh_tls_to_our_proxy() {
    let (application, there) = (Backend::start("server").await, plane::address());
    let port = application.port();
    let yaml = format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: server}}
spec: {{selector: {{app: server}}, ports: [{{name: grpc, port: 7070, targetPort: 18080}}]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: server, labels: {{app: server, security.istio.io/tlsMode: istio}}}}
spec: {{serviceAccountName: server}}
status: {{podIP: {there}, phase: Running}}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{name: server}}
spec:
  workloadSelector: {{labels: {{app: server}}}}
  ingress: [{{port: {{number: 18080, protocol: GRPC, name: grpc}}, bind: {there}, defaultEndpoint: '127.0.0.1:{port}'}}]
"
    );
    let plane = plane::start(&yaml).await;
    for text in [interop::authentication("STRICT"), interop::allowing("client"), client_tls("ISTIO_MUTUAL")] {
        plane.apply(plane::objects(&text)).await;
    }
    let _server = Side::start(Make::Ours, &plane, "server", there).await;
    let target = "server.default.svc.cluster.local:7070";
    let mut client = Client::start(&plane, target, Some("client")).await;
    client.until("by mesh TLS", 5, |found| found.get("server") == Some(&5)).await;
    let mut other = Client::start(&plane, target, Some("other")).await;
    let refused = other.call("unary", 1).await.unwrap_err();
    assert!(refused.contains("PERMISSION_DENIED"), "{refused}");
    plane.apply(plane::objects(&client_tls("DISABLE"))).await;
    let until = tokio::time::Instant::now() + plane::DEADLINE;
    // Without TLS the server takes nothing.
    while client.call("unary", 1).await.is_ok() {
        assert!(tokio::time::Instant::now() < until, "plaintext is taken");
    }
}

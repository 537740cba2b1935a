//! The API server asks our webhook about pods, and takes what it makes of them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use integration_tests::eventually;
use integration_tests::kubernetes::ApiServer;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use mesh_controlplane::app::{CaSettings, ControlPlane, Settings, Webhooks};
use mesh_controlplane::ca::Authority;
use mesh_controlplane::own::Own;
use mesh_controlplane::webhook::ca_bundle;
use serde_json::json;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(30);

/// A control plane whose webhook is called for the pods of one namespace.
struct Injecting {
    server: &'static ApiServer,
    plane: ControlPlane,
    namespace: &'static str,
    configuration: String,
    _stop: tokio_util::sync::DropGuard,
}

impl Injecting {
    /// The namespace has this name, and the revision as well, so that tests do not meet each other's configuration.
    async fn start(namespace: &'static str) -> Self {
        let server = ApiServer::shared().await;
        server.namespace_with(namespace, json!({"istio.io/rev": namespace})).await.unwrap();
        let settings = Settings {
            own: Own { revision: namespace.into(), ..Own::default() },
            webhooks: Some(Webhooks { addr: None, injection: None }),
            ca: CaSettings::SelfSigned { dir: None },
            ..Settings::default()
        };
        let plane = ControlPlane::start(settings).await.unwrap();
        let configuration = format!("istio-sidecar-injector-{namespace}");
        let yaml = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": configuration, "labels": {"istio.io/rev": namespace}},
            "webhooks": [{
                "name": "rev.namespace.sidecar-injector.istio.io",
                "clientConfig": {"url": format!("https://{}/inject/cluster/east/net/n1", plane.webhook_addr().unwrap())},
                "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}],
                "namespaceSelector": {"matchExpressions": [
                    {"key": "istio.io/rev", "operator": "In", "values": [namespace]},
                    {"key": "istio-injection", "operator": "DoesNotExist"},
                ]},
                "objectSelector": {"matchExpressions": [
                    {"key": "sidecar.istio.io/inject", "operator": "NotIn", "values": ["false"]},
                ]},
                "failurePolicy": "Fail", "reinvocationPolicy": "IfNeeded", "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
            }],
        });
        server.kubectl(&["apply", "-f", "-"], &yaml.to_string()).await.unwrap().ok();
        let stop = CancellationToken::new();
        let client = server.client().await.unwrap();
        tokio::spawn(ca_bundle::run(client, plane.authority(), namespace.to_owned(), stop.clone()));
        let this = Self { server, plane, namespace, configuration, _stop: stop.drop_guard() };
        this.is_called().await;
        this
    }

    /// Waits until the API server trusts and calls the webhook: a dry run is injected.
    async fn is_called(&self) {
        let asked = eventually(PATIENCE, async || {
            let said = self.create(&["--dry-run=server"], &pod("is-called", "{}", "")).await;
            if said.success && said.stdout.contains("istio-proxy") { Ok(()) } else { Err(said.stderr + &said.stdout) }
        });
        asked.await.unwrap();
    }

    async fn create(&self, flags: &[&str], yaml: &str) -> integration_tests::kubernetes::kubectl::Output {
        let command = [&["create", "-n", self.namespace, "-o", "yaml", "-f", "-"], flags].concat();
        self.server.kubectl(&command, yaml).await.unwrap()
    }

    async fn pod(&self, name: &str) -> Pod {
        let client = self.server.client().await.unwrap();
        Api::<Pod>::namespaced(client, self.namespace).get(name).await.unwrap()
    }

    async fn roots(&self) -> Option<ByteString> {
        let all = Api::<MutatingWebhookConfiguration>::all(self.server.client().await.unwrap());
        let webhooks = all.get(&self.configuration).await.unwrap().webhooks?;
        webhooks.first()?.client_config.ca_bundle.clone()
    }
}

fn pod(name: &str, annotations: &str, more: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, labels: {{app: web}}, annotations: {annotations}}}, \
         spec: {{{more} containers: [{{name: web, image: web, readinessProbe: {{httpGet: {{port: 80}}}}}}]}}}}"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_come_back_injected() {
    let mesh = Injecting::start("inject-pods").await;
    mesh.create(&[], &pod("web", "{}", "")).await.ok();
    let spec = mesh.pod("web").await.spec.unwrap();
    let first: Vec<_> = spec.init_containers.as_ref().unwrap().iter().map(|one| one.name.as_str()).collect();
    assert_eq!(first, ["istio-init", "istio-proxy"]);
    let proxy = &spec.init_containers.as_ref().unwrap()[1];
    assert_eq!(proxy.restart_policy.as_deref(), Some("Always"));
    let cluster = proxy.env.as_ref().unwrap().iter().find(|one| one.name == "ISTIO_META_CLUSTER_ID").unwrap();
    assert_eq!(cluster.value.as_deref(), Some("east"));
    let probe = spec.containers[0].readiness_probe.as_ref().unwrap().http_get.as_ref().unwrap();
    assert_eq!(probe.path.as_deref(), Some("/app-health/web/readyz"));
    // Whoever refuses is left alone.
    let refuses = pod("refuses", "{}", "").replace("app: web", "sidecar.istio.io/inject: 'false'");
    mesh.create(&[], &refuses).await.ok();
    assert_eq!(mesh.pod("refuses").await.spec.unwrap().init_containers, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_cannot_be_injected_is_refused_with_the_reason() {
    let mesh = Injecting::start("inject-refused").await;
    let said = mesh.create(&[], &pod("web", "{sidecar.istio.io/interceptionMode: TPROXY}", "")).await.refused();
    assert!(
        said.contains("annotation sidecar.istio.io/interceptionMode: TPROXY is not supported; use REDIRECT"),
        "{said}"
    );
    let said = mesh.create(&[], &pod("warned", "{sidecar.istio.io/agentLogLevel: debug}", "")).await;
    assert!(
        said.success && said.stderr.contains("Warning: annotation sidecar.istio.io/agentLogLevel has no effect"),
        "{said:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_authority_is_told_to_the_api_server() {
    let mesh = Injecting::start("inject-rotated").await;
    let before = mesh.roots().await.unwrap();
    let other = Authority::self_signed("cluster.local", std::time::SystemTime::now()).unwrap();
    mesh.plane.authority().set_authority(other);
    eventually(PATIENCE, async || if mesh.roots().await.unwrap() == before { Err("the old roots") } else { Ok(()) })
        .await
        .unwrap();
    mesh.is_called().await;
    mesh.create(&[], &pod("after", "{}", "")).await.ok();
}

/// Pod security: what is captured needs the redirect step's rights, everything else passes the strictest level.
#[tokio::test(flavor = "multi_thread")]
async fn only_the_redirect_step_needs_rights() {
    let mesh = Injecting::start("inject-restricted").await;
    let labels = ["label", "namespace", mesh.namespace, "pod-security.kubernetes.io/enforce=restricted"];
    mesh.server.kubectl(&labels, "").await.unwrap().ok();
    let own = "securityContext: {runAsNonRoot: true, runAsUser: 1000, seccompProfile: {type: RuntimeDefault}},";
    let strict = |name: &str, annotations: &str| {
        pod(name, annotations, own).replace(
            "image: web",
            "image: web, securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}",
        )
    };
    for (name, annotations) in [
        ("native", "{sidecar.istio.io/interceptionMode: NONE}"),
        ("classic", "{sidecar.istio.io/interceptionMode: NONE, sidecar.istio.io/nativeSidecar: 'false'}"),
        ("low-ports", "{sidecar.istio.io/interceptionMode: NONE, sidecar.istio.io/capNetBindService: 'true'}"),
        ("gateway", "{inject.istio.io/templates: gateway}"),
    ] {
        mesh.create(&[], &strict(name, annotations)).await.ok();
    }
    let said = mesh.create(&[], &strict("captured", "{}")).await.refused();
    assert!(said.contains("istio-init") && said.contains("NET_ADMIN") && !said.contains("istio-proxy"), "{said}");
}

/// What golden cases expect is what an API server takes.
#[tokio::test(flavor = "multi_thread")]
async fn golden_cases_are_valid() {
    let server = ApiServer::shared().await;
    for namespace in ["shop", "batch", "istio-ingress", "istio-system"] {
        server.namespace(namespace).await.unwrap();
    }
    let folder = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("../controlplane/tests/inject");
    let mut judged = 0;
    for case in std::fs::read_dir(folder).unwrap() {
        let expected = case.unwrap().path().join("expect.yaml");
        if !std::fs::read_to_string(&expected).unwrap().contains("kind:") {
            continue;
        }
        let said = apply(server, &expected).await;
        assert!(said.success, "{}: {}", expected.display(), said.stderr);
        judged += 1;
    }
    assert!(judged >= 18, "{judged}");
}

async fn apply(server: &ApiServer, file: &Path) -> integration_tests::kubernetes::kubectl::Output {
    let file = file.display().to_string();
    server.kubectl(&["create", "--dry-run=server", "-f", &file], "").await.unwrap()
}

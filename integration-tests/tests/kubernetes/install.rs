//! `meshctl install` and its siblings against a real API server: what they say is accepted, remembered and taken away again.
//!
//! There is no kubelet, so nothing waits for pods; that is what the tests on a whole cluster are for.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser as _;
use integration_tests::kubernetes::{ApiServer, ISSUER};
use meshctl::cli::Cli;
use serde_json::Value;

/// Everything that an installation may make, and the namespaces.
const KINDS: &str = "crd,namespaces,serviceaccounts,clusterroles,clusterrolebindings,roles,rolebindings,configmaps,services,\
                     poddisruptionbudgets,deployments,daemonsets,horizontalpodautoscalers,mutatingwebhookconfigurations,\
                     validatingwebhookconfigurations";

/// What the controller manager makes of the Secret by which other clusters read this one.
const TOKEN: &str = "
apiVersion: v1
kind: Secret
type: kubernetes.io/service-account-token
metadata:
  name: istio-reader-service-account-istio-remote-secret-token
  namespace: istio-system
  annotations: {kubernetes.io/service-account.name: istio-reader-service-account}
stringData: {token: TOKEN, ca.crt: CA}
";

/// Runs a command line as a user does.
async fn meshctl(kubeconfig: &Path, line: &str) -> Result<ExitCode> {
    let words = line.split_whitespace().map(str::to_owned);
    let words = ["meshctl".to_owned()].into_iter().chain(words);
    let kubeconfig = ["--kubeconfig".to_owned(), kubeconfig.display().to_string()];
    let cli = Cli::try_parse_from(words.chain(kubeconfig))?;
    tokio::task::spawn_blocking(|| cli.run()).await?
}

async fn fails(kubeconfig: &Path, line: &str) -> String {
    format!("{:#}", meshctl(kubeconfig, line).await.expect_err(line))
}

/// All objects by `KIND NAMESPACE/NAME`.
async fn objects(server: &ApiServer) -> BTreeMap<String, Value> {
    let text = server.kubectl(&["get", KINDS, "--all-namespaces", "-o", "json"], "").await.unwrap().ok();
    let mut list: Value = serde_json::from_str(&text).unwrap();
    let items = list["items"].as_array_mut().unwrap().drain(..);
    let text = |item: &Value, field: &str| item["metadata"][field].as_str().unwrap_or_default().to_owned();
    items
        .filter(|item| item["metadata"]["deletionTimestamp"].is_null())
        .map(|item| {
            let key =
                format!("{} {}/{}", item["kind"].as_str().unwrap(), text(&item, "namespace"), text(&item, "name"));
            (key, item)
        })
        .collect()
}

fn versions(objects: &BTreeMap<String, Value>) -> BTreeMap<&str, &Value> {
    objects.iter().map(|(key, object)| (key.as_str(), &object["metadata"]["resourceVersion"])).collect()
}

fn names(objects: &BTreeMap<String, Value>) -> Vec<&str> {
    objects.keys().map(String::as_str).collect()
}

#[tokio::test]
async fn a_mesh_comes_changes_and_goes() {
    let server = ApiServer::start().await.unwrap();
    let kubeconfig = server.kubeconfig();
    let before = objects(&server).await;

    meshctl(kubeconfig, "install --set profile=demo --wait=false -y").await.unwrap();
    let installed = objects(&server).await;
    for key in [
        "Deployment istio-system/istiod",
        "Service istio-system/istiod",
        "Deployment istio-system/istio-ingressgateway",
        "Deployment istio-system/istio-egressgateway",
        "MutatingWebhookConfiguration /istio-sidecar-injector",
        "ValidatingWebhookConfiguration /istiod-default-validator",
        "CustomResourceDefinition /virtualservices.networking.istio.io",
        "ConfigMap istio-system/ferromesh-install-default",
    ] {
        assert!(installed.contains_key(key), "{key}");
    }

    // Running it again changes nothing, not even a version.
    meshctl(kubeconfig, "install --set profile=demo --wait=false -y").await.unwrap();
    let again = objects(&server).await;
    assert_eq!(versions(&again), versions(&installed));

    // An upgrade goes on from what was said, and takes away what went.
    let upgrade = "upgrade --set gateways.istio-egressgateway.enabled=false --set pilot.replicaCount=3 --wait=false -y";
    meshctl(kubeconfig, upgrade).await.unwrap();
    let upgraded = objects(&server).await;
    let gone: Vec<&str> = installed.keys().filter(|key| !upgraded.contains_key(*key)).map(String::as_str).collect();
    assert!(gone.len() == 5 && gone.iter().all(|key| key.ends_with("istio-system/istio-egressgateway")), "{gone:?}");
    assert_eq!(upgraded["Deployment istio-system/istiod"]["spec"]["replicas"], 3);
    assert_eq!(
        upgraded["ConfigMap istio-system/istio"]["data"]["mesh"].as_str().unwrap().matches("/dev/stdout").count(),
        1
    );

    meshctl(kubeconfig, "uninstall -y").await.unwrap();
    let rest = objects(&server).await;
    let stays = |key: &&String| key.starts_with("CustomResourceDefinition ") || *key == "Namespace /istio-system";
    let left: Vec<&String> = rest.keys().filter(|key| !before.contains_key(*key) && !stays(key)).collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(
        rest.contains_key("Namespace /istio-system")
            && rest.keys().any(|key| key.starts_with("CustomResourceDefinition "))
    );

    meshctl(kubeconfig, "install --set profile=minimal --wait=false -y").await.unwrap();
    meshctl(kubeconfig, "uninstall --purge -y").await.unwrap();
    // Definitions go when their objects have; here nobody but the API server does that, so it may take a moment.
    let clean = integration_tests::eventually(std::time::Duration::from_secs(30), async || {
        let rest = objects(&server).await;
        if names(&rest) == names(&before) { Ok(()) } else { anyhow::bail!("{:?}", names(&rest)) }
    });
    clean.await.unwrap();
}

#[tokio::test]
async fn two_revisions_stand_beside_each_other() {
    let server = ApiServer::start().await.unwrap();
    let kubeconfig = server.kubeconfig();
    meshctl(kubeconfig, "install --wait=false -y").await.unwrap();
    let first = objects(&server).await;
    meshctl(kubeconfig, "install --revision canary --wait=false -y").await.unwrap();
    let both = objects(&server).await;
    for (key, object) in &first {
        assert_eq!(versions(&both)[key.as_str()], &object["metadata"]["resourceVersion"], "{key} is not the canary's");
    }
    for key in ["Deployment istio-system/istiod-canary", "MutatingWebhookConfiguration /istio-sidecar-injector-canary"]
    {
        assert!(both.contains_key(key), "{key}");
    }

    let error = fails(kubeconfig, "uninstall -y").await;
    assert!(error.contains("say which one goes with --revision NAME"), "{error}");
    let error = fails(kubeconfig, "uninstall --revision default -y").await;
    assert!(error.contains("meshctl tag set default --revision OTHER --overwrite"), "{error}");

    meshctl(kubeconfig, "tag set prod --revision default").await.unwrap();
    let error = fails(kubeconfig, "tag set prod --revision canary").await;
    assert!(error.contains("tag prod points to revision default; --overwrite moves it"), "{error}");
    let error = fails(kubeconfig, "tag set prod --revision none").await;
    assert!(error.contains("--revision none: is not installed"), "{error}");
    meshctl(kubeconfig, "tag set prod --revision canary --overwrite").await.unwrap();
    meshctl(kubeconfig, "tag set default --revision canary --overwrite").await.unwrap();
    let moved = objects(&server).await;
    let service = |key: &str| moved[key]["webhooks"][0]["clientConfig"]["service"]["name"].clone();
    assert_eq!(service("MutatingWebhookConfiguration /istio-revision-tag-prod"), "istiod-canary");
    assert_eq!(service("MutatingWebhookConfiguration /istio-revision-tag-default"), "istiod-canary");
    assert_eq!(service("ValidatingWebhookConfiguration /istiod-default-validator"), "istiod-canary");
    assert!(!moved.contains_key("MutatingWebhookConfiguration /istio-sidecar-injector"), "one injects, not two");
    let error = fails(kubeconfig, "upgrade --wait=false -y").await;
    assert!(error.contains("is a tag that points to revision canary"), "{error}");

    meshctl(kubeconfig, "uninstall --revision default -y").await.unwrap();
    let rest = objects(&server).await;
    assert!(!rest.contains_key("Deployment istio-system/istiod"));
    for key in ["Deployment istio-system/istiod-canary", "ValidatingWebhookConfiguration /istiod-default-validator"] {
        assert!(rest.contains_key(key), "{key} is the canary's as well");
    }
    meshctl(kubeconfig, "tag remove prod -y").await.unwrap();
    assert!(!objects(&server).await.contains_key("MutatingWebhookConfiguration /istio-revision-tag-prod"));
}

#[tokio::test]
async fn nothing_is_written_without_a_yes_or_a_right() {
    let server = ApiServer::start().await.unwrap();
    let kubeconfig = server.kubeconfig();
    server.namespace("users").await.unwrap();
    server.service_account("users", "nobody").await.unwrap();
    let before = objects(&server).await;

    assert_eq!(meshctl(kubeconfig, "check").await.unwrap(), ExitCode::SUCCESS);
    meshctl(kubeconfig, "install --dry-run").await.unwrap();
    let error = fails(kubeconfig, "install").await;
    assert!(error.contains("say yes with -y"), "{error}");
    let error = fails(kubeconfig, "install --set pilot.replicas=2 -y").await;
    assert!(error.contains("pilot: ") && error.contains("'replicas'"), "{error}");
    let error = fails(kubeconfig, "upgrade -y").await;
    assert!(error.contains("revision default is not installed in namespace istio-system"), "{error}");

    let token = server.service_account_token("users", "nobody", ISSUER).await.unwrap();
    let nobody = server.kubeconfig_of("nobody", &token).unwrap();
    server.kubectl(&["create", "clusterrole", "looks", "--verb=get,list", "--resource=*.*"], "").await.unwrap().ok();
    let binding = ["create", "clusterrolebinding", "looks", "--clusterrole=looks", "--serviceaccount=users:nobody"];
    server.kubectl(&binding, "").await.unwrap().ok();
    let error = fails(&nobody, "install --wait=false -y").await;
    for right in [
        "create, patch deployments.apps in istio-system",
        "create, patch customresourcedefinitions.apiextensions.k8s.io",
    ] {
        assert!(error.contains("nothing was changed") && error.contains(right), "{error}");
    }
    assert_eq!(meshctl(&nobody, "check").await.unwrap(), ExitCode::FAILURE);

    let after = objects(&server).await;
    let new: Vec<&String> = after.keys().filter(|key| !before.contains_key(*key)).collect();
    assert_eq!(new, ["ClusterRole /looks", "ClusterRoleBinding /looks"]);

    // Somebody else's control plane is not taken over.
    server.namespace("istio-system").await.unwrap();
    let theirs = ["create", "service", "clusterip", "istiod", "--tcp=15012", "--namespace", "istio-system"];
    server.kubectl(&theirs, "").await.unwrap().ok();
    let error = fails(kubeconfig, "install --wait=false -y").await;
    assert!(error.starts_with("Service istio-system/istiod: is there already"), "{error}");
}

#[tokio::test]
async fn check_says_what_an_installed_mesh_lacks() {
    let server = ApiServer::start().await.unwrap();
    let kubeconfig = server.kubeconfig();
    meshctl(kubeconfig, "install --wait=false -y").await.unwrap();
    server.kubectl(&["delete", "service", "istiod", "--namespace", "istio-system"], "").await.unwrap().ok();
    assert_eq!(meshctl(kubeconfig, "check").await.unwrap(), ExitCode::FAILURE);
    let arguments = CheckArguments::parse_from(["check", "--kubeconfig", &kubeconfig.display().to_string()]);
    let cluster = arguments.cluster.connect().await.unwrap();
    let installed = meshctl::install::inventory::all(&cluster, "istio-system").await.unwrap();
    let findings = meshctl::check::after::look(&cluster, &installed).await.unwrap();
    for (subject, message) in [
        ("Service istio-system/istiod", "is missing: run `meshctl upgrade`"),
        ("Deployment istio-system/istiod", "has not been seen by the cluster"),
        ("MutatingWebhookConfiguration istio-sidecar-injector", "has no CA bundle"),
        ("custom resources", "definitions serve all versions"),
    ] {
        let found = findings.iter().any(|finding| finding.subject == subject && finding.message.contains(message));
        assert!(found, "{subject}: {message}: {findings:#?}");
    }
    let error = fails(kubeconfig, "create-remote-secret --name west --service-account nobody").await;
    assert!(error.starts_with("ServiceAccount istio-system/nobody does not exist"), "{error}");
    // The controller manager would fill it in.
    server.kubectl(&["apply", "--server-side", "-f", "-"], TOKEN).await.unwrap().ok();
    meshctl(kubeconfig, "create-remote-secret --name west").await.unwrap();
    // What is missing comes back.
    meshctl(kubeconfig, "upgrade --wait=false -y").await.unwrap();
    assert!(objects(&server).await.contains_key("Service istio-system/istiod"));
}

/// The control plane is started as its Deployment says, by its own account, which RBAC holds to what the chart gives it.
#[tokio::test]
async fn the_rights_and_arguments_that_are_installed_are_enough() {
    let server = ApiServer::start().await.unwrap();
    let install =
        "install --set profile=minimal --revision canary --set meshConfig.ca.address=elsewhere --wait=false -y";
    meshctl(server.kubeconfig(), install).await.unwrap();
    // Nothing leads from this API server to services, so nobody could judge what the test applies below.
    let validators = ["delete", "validatingwebhookconfigurations", "--all"];
    server.kubectl(&validators, "").await.unwrap().ok();
    let installed = objects(&server).await;
    let config = installed["ConfigMap istio-system/istio-sidecar-injector-canary"]["data"]["config"].as_str().unwrap();
    let injection = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(injection.path(), config).unwrap();
    let container = &installed["Deployment istio-system/istiod-canary"]["spec"]["template"]["spec"]["containers"][0];
    let mut arguments = vec!["mesh-controlplane".to_owned()];
    arguments.extend(container["args"].as_array().unwrap().iter().map(|argument| {
        argument.as_str().unwrap().replace("/etc/istio/inject/config", &injection.path().display().to_string())
    }));
    let token = server.service_account_token("istio-system", "istiod-canary", ISSUER).await.unwrap();
    let kubeconfig = server.kubeconfig_of("istiod", &token).unwrap();
    arguments.extend(["--kubeconfig".to_owned(), kubeconfig.display().to_string()]);

    let mesh_controlplane::args::Command::Run(run) =
        mesh_controlplane::args::Cli::try_parse_from(&arguments).unwrap().command;
    let mut settings = run.settings().unwrap();
    (settings.grpc_addr, settings.secure_grpc_addr, settings.monitoring_addr) = (None, None, None);
    settings.webhooks.as_mut().unwrap().addr = None;
    let plane = mesh_controlplane::app::ControlPlane::start(settings).await.unwrap();
    let route = "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: a, namespace: default},
        spec: {hosts: [a.example], http: [{directResponse: {status: 200}}]}}";
    server.kubectl(&["apply", "-f", "-"], route).await.unwrap().ok();
    integration_tests::eventually(std::time::Duration::from_secs(30), async || {
        let there = objects(&server).await;
        let bundle =
            &there["MutatingWebhookConfiguration /istio-sidecar-injector-canary"]["webhooks"][0]["clientConfig"];
        anyhow::ensure!(bundle["caBundle"].as_str().is_some_and(|text| !text.is_empty()), "no CA bundle");
        anyhow::ensure!(there.contains_key("ConfigMap default/istio-ca-root-cert"), "no roots in the namespace");
        let status = ["get", "virtualservice", "a", "-o", "jsonpath={.status.conditions[*].type}"];
        let status = server.kubectl(&status, "").await?.ok();
        anyhow::ensure!(status.contains("Reconciled"), "no status: {status}");
        Ok(())
    })
    .await
    .unwrap();
    let findings = plane.findings();
    assert!(!findings.iter().any(|finding| finding.message.contains("API server")), "{findings:#?}");
    // The mesh's settings are those of this revision.
    assert!(findings.iter().any(|finding| finding.field.as_deref() == Some("data.mesh.ca")), "{findings:#?}");
    plane.shutdown().await;
}

#[derive(clap::Parser)]
struct CheckArguments {
    #[command(flatten)]
    cluster: meshctl::cluster::ClusterArgs,
}

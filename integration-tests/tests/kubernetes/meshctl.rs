//! What `meshctl` says of a cluster, on a real API server: findings, descriptions, the archive for others, and what to do where it may not or
//! cannot.
//!
//! There is no kubelet, so that nothing is reached inside of pods; that is what the tests on a whole cluster are for.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser as _;
use integration_tests::kubernetes::{ApiServer, ISSUER};
use meshctl::bug_report::archive;
use meshctl::cli::Cli;
use meshctl::cluster::ClusterArgs;
use meshctl::describe::{Known, pod, service, text};
use meshctl::live;
use meshctl::output::plain;
use meshctl::pods::Named;

use crate::plane::{apply, install_crds};

/// A shop with a route of whose subsets one is missing, a pod in the mesh and one outside.
const SHOP: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: [{addresses: [10.0.0.1], targetRef: {kind: Pod, name: web-1}}]
ports: [{name: http, port: 8080}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web, namespace: shop}
spec: {host: web, subsets: [{name: v1, labels: {version: v1}}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web, namespace: shop}
spec:
  hosts: [web]
  http:
  - route:
    - {destination: {host: web, subset: v1}, weight: 75}
    - {destination: {host: web, subset: v2}, weight: 25}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
---
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: shop, labels: {app: web, version: v1}}
spec:
  containers:
  - {name: web, image: web, ports: [{containerPort: 8080}], env: [{name: PASSWORD, value: tell-nobody}]}
  - {name: istio-proxy, image: 'ferromesh/proxy:1'}
---
apiVersion: v1
kind: Pod
metadata: {name: outside, namespace: shop}
spec: {containers: [{name: web, image: web}]}
---
apiVersion: v1
kind: Secret
metadata: {name: key, namespace: shop}
stringData: {password: tell-nobody}
";

/// What the kubelet would say of it.
const RUNS: &str = "{\"status\": {\"phase\": \"Running\", \"podIP\": \"10.0.0.1\", \"podIPs\": [{\"ip\": \"10.0.0.1\"}], \
                    \"conditions\": [{\"type\": \"Ready\", \"status\": \"True\"}]}}";

/// The route with subsets that exist.
const MENDED: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web, namespace: shop}
spec: {hosts: [web], http: [{route: [{destination: {host: web, subset: v1}}]}]}
";

async fn shop() -> ApiServer {
    let server = ApiServer::start().await.unwrap();
    for namespace in ["shop", "istio-system"] {
        server.namespace(namespace).await.unwrap();
    }
    install_crds(&server).await;
    // kubectl learns of kinds when it starts.
    apply(&server, SHOP).await;
    let patch = ["patch", "pod", "web-1", "-n", "shop", "--subresource=status", "--type=merge", "-p", RUNS];
    server.kubectl(&patch, "").await.unwrap().ok();
    server
}

/// Runs a command line as a user does.
async fn meshctl(kubeconfig: &Path, line: &str) -> Result<ExitCode> {
    let words = ["meshctl".to_owned(), "--state-dir".to_owned(), "/nonexistent".to_owned()].into_iter();
    let words = words.chain(line.split_whitespace().map(str::to_owned));
    let kubeconfig = ["--kubeconfig".to_owned(), kubeconfig.display().to_string()];
    let cli = Cli::try_parse_from(words.chain(kubeconfig))?;
    tokio::task::spawn_blocking(|| cli.run()).await?
}

async fn fails(kubeconfig: &Path, line: &str) -> String {
    format!("{:#}", meshctl(kubeconfig, line).await.expect_err(line))
}

fn reach(kubeconfig: &Path) -> ClusterArgs {
    ClusterArgs { kubeconfig: Some(kubeconfig.to_owned()), context: None, namespace: "istio-system".to_owned() }
}

async fn known(kubeconfig: &Path) -> Known {
    let cluster = reach(kubeconfig).connect().await.unwrap();
    let workloads = [live::core("", "Pod", "pods"), live::core("discovery.k8s.io", "EndpointSlice", "endpointslices")];
    Known::read(live::configuration(&cluster, "istio-system", None, &workloads).await.unwrap())
}

#[tokio::test]
async fn a_cluster_is_analyzed_with_files_over_it() {
    let server = shop().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mended.yaml");
    std::fs::write(&file, MENDED).unwrap();
    let file = file.display();
    for (line, code) in [
        // The subset is missing.
        ("analyze -n shop".to_owned(), 79),
        ("analyze -A -o json".to_owned(), 79),
        ("analyze -n default".to_owned(), 0),
        ("analyze -n shop -S IST0101=*.shop".to_owned(), 0),
        (format!("analyze -n shop {file}"), 0),
        // Without the cluster the file's Service is missing.
        (format!("analyze --use-kube=false {file}"), 79),
    ] {
        let found = meshctl(server.kubeconfig(), &line).await.unwrap();
        assert_eq!(format!("{found:?}"), format!("{:?}", ExitCode::from(code)), "{line}");
    }
}

#[tokio::test]
async fn pods_and_services_of_a_cluster_are_described() {
    let server = shop().await;
    let known = known(server.kubeconfig()).await;
    let named = |name: &str| Named::parse(name, "shop");
    let page = plain(&text::pod(&pod::describe(&known, &named("web-1")).unwrap()));
    for part in [
        "Pod shop/web-1",
        "sidecar ferromesh/proxy:1",
        "port 80 http, HTTP to port 8080 of the pod, 1 endpoint ready",
        "subset v1 (version=v1): 1 pod ready, this pod among them",
        "75% to web.shop.svc.cluster.local subset v1",
        "STRICT (by PeerAuthentication istio-system/default)",
        "has no subset v2",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let page = plain(&text::pod(&pod::describe(&known, &named("outside")).unwrap()));
    assert!(page.contains("not in the mesh"), "{page}");
    let page = plain(&text::service(&service::describe(&known, &named("web")).unwrap()));
    assert!(page.contains("web-1: ready, mTLS STRICT"), "{page}");
    for line in
        ["describe pod web-1.shop", "describe service web -n shop -o json", "describe pod outside -n shop -o yaml"]
    {
        meshctl(server.kubeconfig(), line).await.unwrap();
    }
}

#[tokio::test]
async fn a_bug_report_holds_objects_and_names_what_is_missing_but_no_secrets() {
    let server = shop().await;
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("report.tgz");
    let line = format!("bug-report --duration 10m -o {}", target.display());
    meshctl(server.kubeconfig(), &line).await.unwrap();
    let files: BTreeMap<String, Vec<u8>> = archive::read(&target).unwrap().into_iter().collect();
    let text = |name: &str| String::from_utf8_lossy(files.get(name).unwrap_or_else(|| panic!("{name}"))).into_owned();
    assert!(text("namespaces/shop/networking.istio.io/virtualservices.yaml").contains("subset: v2"));
    assert!(text("namespaces/shop/pods.yaml").contains("web-1"));
    assert!(text("findings.txt").contains("has no subset v2"));
    assert!(text("cluster/version.json").contains("gitVersion"));
    assert!(text("namespaces/shop/secrets.txt").starts_with("key "));
    assert!(files.contains_key("namespaces/istio-system/configmaps.yaml"));
    // Nothing runs, so the proxy cannot be asked.
    let about = text("README.txt");
    assert!(about.contains("- proxies/shop/web-1/*: port 15000 of Pod shop/web-1"), "{about}");
    for (name, content) in &files {
        assert!(!String::from_utf8_lossy(content).contains("tell-nobody"), "{name}");
        assert!(!String::from_utf8_lossy(content).contains("dGVsbC1ub2JvZH"), "{name}");
    }
}

#[tokio::test]
async fn whoever_may_not_or_asks_for_what_is_not_there_learns_what_to_do() {
    let server = shop().await;
    let admin = server.kubeconfig();
    for (line, parts) in [
        ("proxy-config route gone.shop", &["there is no Pod shop/gone", "kubectl get pods -n shop"][..]),
        ("proxy-config route outside -n shop", &["Pod shop/outside has no proxy", "meshctl describe pod outside.shop"]),
        (
            "proxy-config route deployment/gone -n shop",
            &["there is no Deployment shop/gone", "kubectl get deployments"],
        ),
        ("proxy-config route node/a -n shop", &["pods are found by pod, deployment"]),
        (
            "proxy-config route service/web -n shop",
            &["port 15000 of Pod shop/web-1", "kubectl describe pod -n shop web-1"],
        ),
        ("proxy-status", &["no control plane runs in namespace istio-system", "meshctl check"]),
        ("dashboard controlplane --revision canary --browser=false", &["istio.io/rev=canary"]),
        ("describe pod gone -n shop", &["there is no Pod shop/gone"]),
        ("describe service gone.shop", &["there is no Service shop/gone", "kubectl get services -n shop"]),
        ("bug-report --exclude istio-system -o /dev/null", &["--exclude istio-system"]),
    ] {
        let error = fails(admin, line).await;
        assert!(parts.iter().all(|part| error.contains(part)), "{line}: {error}");
    }

    let token = server.service_account_token("shop", "default", ISSUER).await.unwrap();
    let nobody = server.kubeconfig_of("nobody", &token).unwrap();
    for (line, part) in [
        ("analyze -n shop", "you may not list it"),
        ("describe pod web-1 -n shop", "Pod shop/web-1: you may not get it"),
        ("proxy-config route web-1 -n shop", "Pod shop/web-1: you may not get it"),
        ("proxy-status", "Pods of istio-system: you may not list it"),
    ] {
        let error = fails(&nobody, line).await;
        assert!(error.contains(part) && error.contains("ask whoever administers the cluster"), "{line}: {error}");
    }

    // Whoever may read pods may not yet reach into them.
    let role = ["create", "role", "reader", "-n", "shop", "--verb=get,list", "--resource=pods"];
    server.kubectl(&role, "").await.unwrap().ok();
    let binding = ["create", "rolebinding", "reader", "-n", "shop", "--role=reader", "--serviceaccount=shop:default"];
    server.kubectl(&binding, "").await.unwrap().ok();
    let error = integration_tests::eventually(std::time::Duration::from_secs(20), async || {
        let error = fails(&nobody, "proxy-config route web-1 -n shop").await;
        anyhow::ensure!(error.contains("pods/portforward"), "{error}");
        Ok(error)
    });
    assert!(error.await.unwrap().contains("port 15000 of Pod shop/web-1: you may not reach it"));
}

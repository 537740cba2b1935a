//! The objects of a cluster as configuration: what comes, changes, goes, is bad, is missed, or may not be read.

use std::time::Duration;

use integration_tests::until;
use mesh_controlplane::app::ControlPlane;
use mesh_proto::xds::{endpoint, route};

use crate::gate::Gate;
use crate::plane::{Proxy, apply, delete, findings, install_crds, is_in_force, objects, pushes, server, settings};
use crate::support::{EDS, RDS};

const HOST: &str = "web.shop.svc.cluster.local";

fn service(name: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{ports: [{{name: http, port: 80}}]}}\n"
    )
}

fn slice(name: &str, address: &str, ready: bool) -> String {
    format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}-1, namespace: shop, labels: \
         {{kubernetes.io/service-name: {name}}}}}\naddressType: IPv4\nports: [{{name: http, port: 8080}}]\nendpoints: \
         [{{addresses: [{address}], conditions: {{ready: {ready}}}}}]\n"
    )
}

/// A VirtualService whose retries are so many.
fn routes(name: &str, attempts: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  hosts: [web]\n  \
         http: [{{route: [{{destination: {{host: web}}}}], retries: {{attempts: {attempts}}}}}]\n"
    )
}

/// The address of the one endpoint.
fn address(found: Option<&endpoint::ClusterLoadAssignment>) -> Option<String> {
    use mesh_proto::xds::core::address::Address;
    use mesh_proto::xds::endpoint::lb_endpoint::HostIdentifier;
    let one = found?.endpoints.first()?.lb_endpoints.first()?;
    let HostIdentifier::Endpoint(endpoint) = one.host_identifier.as_ref()? else { return None };
    let Address::SocketAddress(address) = endpoint.address.as_ref()?.address.as_ref()? else { return None };
    Some(address.address.clone())
}

/// How often the host's first route is tried anew.
fn retries(found: Option<&route::RouteConfiguration>) -> Option<u32> {
    use mesh_proto::xds::route::route::Action;
    let host = found?.virtual_hosts.iter().find(|host| host.domains.iter().any(|domain| domain == HOST))?;
    let Action::Route(action) = host.routes.first()?.action.as_ref()? else { return None };
    action.retry_policy.as_ref()?.num_retries.map(|number| number.value)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_cluster_holds_reaches_a_proxy_and_so_does_every_change() {
    let server = server().await;
    apply(&server, &[service("web"), slice("web", "10.0.0.1", true), routes("web", "7")].concat()).await;
    let plane = ControlPlane::start(settings(server.kubeconfig())).await.unwrap();
    let cluster = format!("outbound|80||{HOST}");
    let mut proxy = Proxy::connect(&plane, &[(EDS, &cluster), (RDS, "80")]).await;
    proxy.until(EDS, &cluster, |found| address(found).as_deref() == Some("10.0.0.1")).await;
    proxy.until(RDS, "80", |found| retries(found) == Some(7)).await;

    apply(&server, &routes("web", "8")).await;
    proxy.until(RDS, "80", |found| retries(found) == Some(8)).await;
    apply(&server, &slice("web", "10.0.0.2", true)).await;
    proxy.until(EDS, &cluster, |found| address(found).as_deref() == Some("10.0.0.2")).await;
    apply(&server, &slice("web", "10.0.0.2", false)).await;
    proxy.until(EDS, &cluster, |found| address(found).is_none()).await;

    // What is bad is a finding, and the last good version stays in force.
    let before = pushes(&plane).await;
    apply(&server, &routes("web", "[1]")).await;
    until("the finding", async || findings(&plane).iter().any(|one| one.contains("last good version"))).await;
    let found = findings(&plane);
    let expected = "(cluster): error[IST0106]: VirtualService shop/web: http[0].retries.attempts: ";
    assert!(found.iter().any(|one| one.starts_with(expected)), "{found:#?}");
    assert_eq!(pushes(&plane).await, before);
    apply(&server, &routes("web", "9")).await;
    proxy.until(RDS, "80", |found| retries(found) == Some(9)).await;
    until("no finding", async || findings(&plane).is_empty()).await;

    delete(&server, "virtualservice", "web").await;
    proxy.until(RDS, "80", |found| retries(found).is_some_and(|retries| retries != 9)).await;
    delete(&server, "service", "web").await;
    proxy.until::<endpoint::ClusterLoadAssignment>(EDS, &cluster, |found| found.is_none()).await;
    plane.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_api_server_is_no_push_and_what_was_missed_is_found() {
    let mut server = server().await;
    let gate = Gate::to(server.address()).await;
    let through = std::fs::read_to_string(server.kubeconfig()).unwrap();
    let through = through.replace(&server.address().to_string(), &gate.address.to_string());
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = folder.path().join("kubeconfig");
    std::fs::write(&kubeconfig, through).unwrap();
    apply(&server, &[service("web"), slice("web", "10.0.0.1", true), service("other"), routes("web", "7")].concat())
        .await;
    let plane = ControlPlane::start(settings(&kubeconfig)).await.unwrap();
    is_in_force(&plane, "Service shop/other", true).await;

    // Restarted, nothing changed: the next change is the next push.
    let before = pushes(&plane).await;
    server.restart().await.unwrap();
    apply(&server, &service("third")).await;
    is_in_force(&plane, "Service shop/third", true).await;
    assert_eq!(pushes(&plane).await, before + 1);

    // Cut off while the server is restarted, so that it does not know any more what was missed; meanwhile something goes and something comes.
    gate.close();
    server.restart().await.unwrap();
    delete(&server, "service", "other").await;
    delete(&server, "virtualservice", "web").await;
    apply(&server, &service("fourth")).await;
    assert!(objects(&plane).await.contains(&"Service shop/other".to_owned()), "what was known stays in force");
    gate.open();
    is_in_force(&plane, "Service shop/other", false).await;
    is_in_force(&plane, "VirtualService shop/web", false).await;
    is_in_force(&plane, "Service shop/fourth", true).await;
    is_in_force(&plane, "Service shop/web", true).await;
    // One push for each of the three kinds of news at most: services, and the VirtualService.
    assert!(pushes(&plane).await <= before + 4, "{}", pushes(&plane).await);
    plane.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kinds_that_are_installed_later_are_read_then() {
    let server = integration_tests::kubernetes::ApiServer::start().await.unwrap();
    server.namespace("shop").await.unwrap();
    apply(&server, &service("web")).await;
    let plane = ControlPlane::start(settings(server.kubeconfig())).await.unwrap();
    is_in_force(&plane, "Service shop/web", true).await;
    install_crds(&server).await;
    apply(&server, &routes("web", "7")).await;
    is_in_force(&plane, "VirtualService shop/web", true).await;
    plane.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_come_and_go_with_the_discovery_selectors() {
    let server = server().await;
    server.namespace_with("play", serde_json::json!({"mesh": "no"})).await.unwrap();
    let elsewhere = service("toy").replace("shop", "play");
    apply(&server, &[service("web"), elsewhere].concat()).await;
    let plane = ControlPlane::start(settings(server.kubeconfig())).await.unwrap();
    is_in_force(&plane, "Service play/toy", true).await;
    let mesh = |text: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata: {{mesh: '{text}'}}\n"
        )
    };
    apply(&server, &mesh("discoverySelectors: [{matchLabels: {mesh: \"yes\"}}]")).await;
    is_in_force(&plane, "Service play/toy", false).await;
    is_in_force(&plane, "Service shop/web", true).await;
    server.namespace_with("play", serde_json::json!({"mesh": "yes"})).await.unwrap();
    is_in_force(&plane, "Service play/toy", true).await;
    apply(&server, &mesh("discoverySelectors: [{matchExpressions: [{key: mesh, operator: Like, values: [a]}]}]")).await;
    let message =
        "`Like` is not an operator; use In, NotIn, Exists or DoesNotExist (the last good version stays in force)";
    until("the finding", async || findings(&plane).iter().any(|one| one.ends_with(message))).await;
    plane.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_read_only_where_something_names_them() {
    let server = server().await;
    let secret = |name: &str, key: &str| {
        format!(
            "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: shop}}\nstringData: {{{key}: a}}\n"
        )
    };
    let gateway = |credential: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: edge, namespace: shop}}\nspec: {{servers: [{{port: \
             {{number: 443, name: https, protocol: HTTPS}}, hosts: ['*'], tls: {{mode: SIMPLE, credentialName: {credential}}}}}]}}\n"
        )
    };
    apply(&server, &[secret("cert", "tls.crt"), secret("password", "tls.crt"), gateway("cert")].concat()).await;
    let plane = ControlPlane::start(settings(server.kubeconfig())).await.unwrap();
    assert!(objects(&plane).await.contains(&"Secret shop/cert".to_owned()), "it is there before anything is published");
    assert!(!objects(&plane).await.contains(&"Secret shop/password".to_owned()));
    let before = pushes(&plane).await;
    apply(&server, &secret("password", "tls.key")).await;
    apply(&server, &secret("cert-cacert", "ca.crt")).await;
    is_in_force(&plane, "Secret shop/cert-cacert", true).await;
    assert_eq!(pushes(&plane).await, before + 1, "a secret that nobody names changes nothing");
    apply(&server, &gateway("password")).await;
    is_in_force(&plane, "Secret shop/password", true).await;
    is_in_force(&plane, "Secret shop/cert", false).await;
    plane.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_control_plane_may_not_read_it_says_and_waits_for() {
    let server = server().await;
    server.service_account("istio-system", "plane").await.unwrap();
    let token =
        server.service_account_token("istio-system", "plane", integration_tests::kubernetes::ISSUER).await.unwrap();
    let kubeconfig = server.kubeconfig_of("plane", &token).unwrap();
    let role = |resources: &str| {
        format!(
            "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {{name: plane}}\nrules:\n\
             - {{apiGroups: ['', discovery.k8s.io, networking.k8s.io], resources: [{resources}], verbs: [get, list, watch]}}\n\
             - {{apiGroups: [networking.istio.io, security.istio.io, telemetry.istio.io, extensions.istio.io], resources: ['*'], verbs: [get, list, watch]}}\n\
             ---\napiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {{name: plane}}\nroleRef: {{apiGroup: \
             rbac.authorization.k8s.io, kind: ClusterRole, name: plane}}\nsubjects: [{{kind: ServiceAccount, name: plane, namespace: istio-system}}]\n"
        )
    };
    let most = "services, endpointslices, pods, namespaces, secrets, configmaps, ingresses, ingressclasses";
    apply(&server, &role(most)).await;
    let mut plane = ControlPlane::open(settings(&kubeconfig)).await.unwrap();
    let message = "the API server does not let the control plane list nodes: nodes is forbidden: User \
                   \"system:serviceaccount:istio-system:plane\" cannot list resource \"nodes\"";
    until("the finding", async || findings(&plane).iter().any(|one| one.contains(message))).await;
    assert_eq!(crate::support::page(&plane, "/ready").await.0, 503, "half of the configuration is none");
    assert!(tokio::time::timeout(Duration::from_millis(300), plane.is_read()).await.is_err());
    apply(&server, &role(&format!("{most}, nodes"))).await;
    tokio::time::timeout(Duration::from_secs(60), plane.is_read()).await.unwrap().unwrap();
    until("no finding", async || findings(&plane).is_empty()).await;
    plane.shutdown().await;
}

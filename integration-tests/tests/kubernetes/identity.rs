//! Who workloads are by the tokens of their service accounts, as the API server sees them.

use integration_tests::kubernetes::ApiServer;
use integration_tests::until;
use mesh_controlplane::app::{CaSettings, ControlPlane};
use mesh_proto::names::TOKEN_AUDIENCE;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::json;
use tonic::{Code, Status};

use crate::plane::{apply, server, settings};
use crate::support::{CDS, Delta, node, page, plaintext, request, sign};

/// Asks for a certificate; returns the DER of the leaf.
async fn certificate(plane: &ControlPlane, token: &str) -> Result<Vec<u8>, Status> {
    let (_, request) = request();
    let response = sign(plaintext(plane.grpc_addr()).await, Some(token), request).await?;
    Ok(CertificateDer::from_pem_slice(response.cert_chain[0].as_bytes()).unwrap().to_vec())
}

fn names(certificate: &[u8], id: &str) -> bool {
    certificate.windows(id.len()).any(|part| part == id.as_bytes())
}

/// A token of a pod's, as a kubelet asks for it.
async fn pod_token(server: &ApiServer, account: &str, pod: &str) -> String {
    let args = [
        "create",
        "token",
        account,
        "-n",
        "shop",
        "--audience",
        TOKEN_AUDIENCE,
        "--bound-object-kind=Pod",
        "--bound-object-name",
        pod,
    ];
    server.kubectl(&args, "").await.unwrap().ok().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_accounts_token_is_a_workloads_identity() {
    let server = server().await;
    server.service_account("shop", "web").await.unwrap();
    let plane = ControlPlane::start(settings(server.kubeconfig())).await.unwrap();
    let token = server.service_account_token("shop", "web", TOKEN_AUDIENCE).await.unwrap();
    let leaf = certificate(&plane, &token).await.unwrap();
    assert!(names(&leaf, "spiffe://cluster.local/ns/shop/sa/web"));

    let other = server.service_account_token("shop", "web", integration_tests::kubernetes::ISSUER).await.unwrap();
    let (head, _) = token.rsplit_once('.').unwrap();
    for (token, reason) in [
        (other, "the token's audience is not `istio-ca`"),
        (format!("{head}.c2lnbmF0dXJl"), "the API server does not take the token"),
        ("nothing".to_owned(), "the token is no JWT"),
    ] {
        let status = certificate(&plane, &token).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{status}");
        assert!(status.message().contains(reason), "{status}");
    }

    // Configuration is for the same workload only.
    let open = async |node| {
        let mut stream = Delta::open(plaintext(plane.grpc_addr()).await, Some(&token), node).await?;
        stream.subscribe(CDS, &[]).await;
        stream.next().await
    };
    open(node("shop", "web")).await.unwrap();
    for node in [node("shop", "default"), node("default", "web")] {
        let status = open(node).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    }
    plane.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pods_token_is_that_pods_and_ends_with_it() {
    let server = server().await;
    let pod = |name: &str| {
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "shop"},
            "spec": {"serviceAccountName": "default", "containers": [{"name": "app", "image": "app"}]},
        })
        .to_string()
    };
    apply(&server, &pod("client")).await;
    apply(&server, &pod("other")).await;
    let plane = ControlPlane::start(settings(server.kubeconfig())).await.unwrap();
    let open = async |token: &str| {
        let mut stream = Delta::open(plaintext(plane.grpc_addr()).await, Some(token), node("shop", "default")).await?;
        stream.subscribe(CDS, &[]).await;
        stream.next().await
    };
    let own = pod_token(&server, "default", "client").await;
    open(&own).await.unwrap();
    let others = pod_token(&server, "default", "other").await;
    let status = open(&others).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    let expected = "the node claims to be pod `client`, but the caller's token is bound to pod `other`";
    assert_eq!(status.message(), expected);

    // A token that nobody asked about yet, so that no answer is remembered.
    let late = pod_token(&server, "default", "client").await;
    server.kubectl(&["delete", "pod", "-n", "shop", "--grace-period=0", "--force", "client"], "").await.unwrap().ok();
    let refused = async || {
        let answer = certificate(&plane, &late).await;
        answer.is_err_and(|status| status.message().contains("the API server does not take the token"))
    };
    until("the token has ended with its pod", refused).await;
    plane.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_to_review_the_answer_says_so() {
    let server = server().await;
    server.service_account("istio-system", "plane").await.unwrap();
    let own =
        server.service_account_token("istio-system", "plane", integration_tests::kubernetes::ISSUER).await.unwrap();
    apply(
        &server,
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: reader}\nrules: [{apiGroups: ['*'], resources: ['*'], verbs: \
         [get, list, watch]}]\n---\napiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {name: reader}\nroleRef: \
         {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: reader}\nsubjects: [{kind: ServiceAccount, name: plane, namespace: \
         istio-system}]\n",
    )
    .await;
    let kubeconfig = server.kubeconfig_of("plane", &own).unwrap();
    let plane = ControlPlane::start(settings(&kubeconfig)).await.unwrap();
    assert_eq!(page(&plane, "/ready").await.0, 200);
    let token = server.service_account_token("shop", "default", TOKEN_AUDIENCE).await.unwrap();
    let status = certificate(&plane, &token).await.unwrap_err();
    // It may be granted later, so the workload asks again.
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    let expected = "give the control plane's user the verb create on tokenreviews.authentication.k8s.io";
    assert!(status.message().ends_with(expected), "{status}");
    plane.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_replicas_sign_by_the_authority_that_the_cluster_keeps() {
    let server = server().await;
    let settings = || mesh_controlplane::app::Settings { ca: CaSettings::Cluster, ..settings(server.kubeconfig()) };
    let (one, other) = tokio::join!(ControlPlane::start(settings()), ControlPlane::start(settings()));
    let (one, other) = (one.unwrap(), other.unwrap());
    assert_eq!(one.root_pem(), other.root_pem());
    let root = one.root_pem();
    one.shutdown().await;
    other.shutdown().await;
    let again = ControlPlane::start(settings()).await.unwrap();
    assert_eq!(again.root_pem(), root, "a restart changes nothing");
    again.shutdown().await;
    // What somebody plugs in comes first; here it is the same authority under the other name.
    let kept = server
        .kubectl(&["get", "secret", "-n", "istio-system", "istio-ca-secret", "-o", "json"], "")
        .await
        .unwrap()
        .ok();
    let kept: serde_json::Value = serde_json::from_str(&kept).unwrap();
    let plugged = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "cacerts", "namespace": "istio-system"}, "data": kept["data"],
    });
    apply(&server, &plugged.to_string()).await;
    server.kubectl(&["delete", "secret", "-n", "istio-system", "istio-ca-secret"], "").await.unwrap().ok();
    let plane = ControlPlane::start(settings()).await.unwrap();
    assert_eq!(plane.root_pem(), root);
    plane.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_namespace_gets_the_roots_of_the_mesh() {
    let server = server().await;
    let plane = ControlPlane::start(settings(server.kubeconfig())).await.unwrap();
    let roots = async |namespace: &str| {
        let args =
            ["get", "configmap", "-n", namespace, "istio-ca-root-cert", "-o", "jsonpath={.data.root-cert\\.pem}"];
        server.kubectl(&args, "").await.unwrap().stdout
    };
    until("the roots", async || roots("shop").await.trim() == plane.root_pem().trim()).await;
    server.namespace("later").await.unwrap();
    until("the roots in a new namespace", async || !roots("later").await.is_empty()).await;
    assert_eq!(roots("kube-system").await, "");
    plane
        .authority()
        .set_authority(mesh_controlplane::ca::Authority::self_signed("next", std::time::SystemTime::now()).unwrap());
    until("the next roots", async || roots("shop").await.trim() == plane.root_pem().trim()).await;
    plane.shutdown().await;
}

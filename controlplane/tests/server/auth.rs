//! Who is let in on which port.

use std::time::Duration;

use mesh_proto::xds::type_url;
use tonic::{Code, Status};

use crate::support::*;

async fn refused(stream: Result<Delta, Status>) -> Status {
    match stream {
        Err(status) => status,
        Ok(mut stream) => {
            stream.subscribe(CDS, &[]).await;
            stream.next().await.unwrap_err()
        }
    }
}

#[tokio::test]
async fn the_secure_port_wants_a_certificate_or_a_token() {
    let plane = start("").await;
    let (other, address, roots) = (start("").await, plane.secure_grpc_addr(), plane.root_pem());
    let open = async |token: Option<String>| {
        let channel = secure(address, &roots, None).await.unwrap();
        Delta::open(channel, token.as_deref(), node("default", "reviews")).await
    };
    for (token, reason) in [
        (None, "no credentials"),
        (Some("x".to_owned()), "no JWT"),
        (Some(other.issue_token("default", "reviews", HOUR)), "not signed by this control plane"),
        (Some(plane.issue_token("default", "reviews", Duration::ZERO)), "expired"),
    ] {
        let status = refused(open(token).await).await;
        assert_eq!(status.code(), Code::Unauthenticated, "{status}");
        assert!(status.message().contains(reason), "{status}");
    }
    let mut stream = open(Some(plane.issue_token("default", "reviews", HOUR))).await.unwrap();
    stream.subscribe(CDS, &[]).await;
    stream.take(CDS).await;
    assert!(secure(address, &other.root_pem(), None).await.is_err(), "the server is of another mesh");
    plane.shutdown().await;
}

#[tokio::test]
async fn a_node_may_claim_only_its_own_namespace_and_account() {
    let plane = start("").await;
    let channel = secure(plane.secure_grpc_addr(), &plane.root_pem(), None).await.unwrap();
    let token = plane.issue_token("default", "reviews", HOUR);
    for node in [node("kube-system", "reviews"), node("default", "admin")] {
        let status = refused(Delta::open(channel.clone(), Some(&token), node).await).await;
        assert_eq!(status.code(), Code::PermissionDenied, "{status}");
        for part in ["claims namespace", "the caller is `reviews` of namespace `default`"] {
            assert!(status.message().contains(part), "{status}");
        }
    }
    let mut stream = Delta::open(channel, Some(&token), node("default", "")).await.unwrap();
    stream.subscribe(CDS, &[]).await;
    stream.take(CDS).await;
    assert_eq!(
        json(&plane, "/debug/adsz").await["clients"][0]["identity"],
        "spiffe://cluster.local/ns/default/sa/reviews"
    );
    plane.shutdown().await;
}

#[tokio::test]
async fn a_mesh_certificate_is_enough_and_another_meshs_is_refused() {
    let plane = start("").await;
    let own = credentials(&plane, "default", "reviews").await;
    let (address, roots) = (plane.secure_grpc_addr(), plane.root_pem());
    let channel = secure(address, &roots, Some(&own)).await.unwrap();
    let mut stream = Delta::open(channel.clone(), None, node("default", "reviews")).await.unwrap();
    stream.subscribe(CDS, &[]).await;
    stream.take(CDS).await;
    let status = refused(Delta::open(channel, None, node("default", "other")).await).await;
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    let other = start("").await;
    let foreign = credentials(&other, "default", "reviews").await;
    // With TLS 1.3 the refusal reaches the client with its first read.
    let outcome = async {
        let channel = secure(address, &roots, Some(&foreign)).await.ok()?;
        let mut stream = Delta::open(channel, None, node("default", "reviews")).await.ok()?;
        stream.subscribe(CDS, &[]).await;
        stream.next().await.ok()
    };
    assert!(outcome.await.is_none());
    plane.shutdown().await;
}

#[tokio::test]
async fn secrets_go_only_to_known_callers() {
    let yaml = "{apiVersion: v1, kind: Secret, metadata: {name: cert, namespace: default}, type: kubernetes.io/tls, \
                data: {tls.crt: eA==, tls.key: eA==}}";
    let gateway = "\n---\n{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {name: g, namespace: default}, spec: {servers: \
                   [{port: {number: 443, name: https, protocol: HTTPS}, hosts: ['*'], tls: {mode: SIMPLE, credentialName: cert}}]}}";
    let plane = start(&format!("{yaml}{gateway}")).await;
    let gateway = || {
        let mut node = node("default", "gw");
        node.id = node.id.replace("sidecar", "router");
        node
    };
    let name = "kubernetes://cert";
    let mut stream = Delta::open(plaintext(plane.grpc_addr()).await, None, gateway()).await.unwrap();
    stream.subscribe(type_url::SECRET, &[name]).await;
    assert_eq!(stream.take(type_url::SECRET).await.removed_resources, [name]);
    let channel = secure(plane.secure_grpc_addr(), &plane.root_pem(), None).await.unwrap();
    let token = plane.issue_token("default", "gw", HOUR);
    let mut stream = Delta::open(channel, Some(&token), gateway()).await.unwrap();
    stream.subscribe(type_url::SECRET, &[name]).await;
    assert_eq!(stream.take(type_url::SECRET).await.resources.len(), 1);
    plane.shutdown().await;
}

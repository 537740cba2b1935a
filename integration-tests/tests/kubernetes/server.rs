//! The harness itself: what other modules build on is as a cluster has it.

use std::time::Duration;

use integration_tests::eventually;
use integration_tests::kubernetes::{ApiServer, ISSUER};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::Api;
use kube::api::{ListParams, PostParams};

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: round-trip}
spec: {selector: {app: reviews}, ports: [{name: http, port: 9080}]}
";

#[tokio::test]
async fn what_kubectl_applies_a_client_reads() {
    let server = ApiServer::shared().await;
    server.namespace("round-trip").await.unwrap();
    let said = server.kubectl(&["apply", "-f", "-"], SERVICE).await.unwrap().ok();
    assert_eq!(said.trim(), "service/reviews created");
    let services = Api::<Service>::namespaced(server.client().await.unwrap(), "round-trip");
    let spec = services.get("reviews").await.unwrap().spec.unwrap();
    assert!(spec.cluster_ip.unwrap().starts_with("10."), "a service gets an address");
    assert_eq!(spec.ports.unwrap()[0].port, 9080);
    let error = server.kubectl(&["apply", "-f", "-"], "{apiVersion: v1, kind: Nothing}").await.unwrap().refused();
    assert!(error.contains("Nothing"), "{error}");
}

#[tokio::test]
async fn a_restart_keeps_objects_and_the_port() {
    let mut server = ApiServer::start().await.unwrap();
    let maps = Api::<ConfigMap>::namespaced(server.client().await.unwrap(), "default");
    let mut map = ConfigMap { data: Some([("mesh".to_owned(), "{}".to_owned())].into()), ..ConfigMap::default() };
    map.metadata.name = Some("istio".to_owned());
    maps.create(&PostParams::default(), &map).await.unwrap();
    let address = server.address();
    server.stop();
    maps.get("istio").await.expect_err("nobody answers while it is down");
    server.resume().await.unwrap();
    assert_eq!(server.address(), address);
    // The same client finds it again, as watches do.
    let found = eventually(Duration::from_secs(20), async || maps.get("istio").await).await.unwrap();
    assert_eq!(found.data, map.data);
}

#[tokio::test]
async fn tokens_are_reviewed_and_rbac_holds() {
    let server = ApiServer::shared().await;
    server.namespace("tokens").await.unwrap();
    let token = server.service_account_token("tokens", "default", "istio-ca").await.unwrap();
    let reviews = Api::<TokenReview>::all(server.client().await.unwrap());
    for (audience, holds) in [("istio-ca", true), (ISSUER, false)] {
        let spec = TokenReviewSpec { audiences: Some(vec![audience.to_owned()]), token: token.clone() };
        let review = TokenReview { spec, ..TokenReview::default() };
        let status = reviews.create(&PostParams::default(), &review).await.unwrap().status.unwrap();
        assert_eq!(status.authenticated.unwrap_or(false), holds, "{audience}: {status:?}");
        if holds {
            assert_eq!(status.user.unwrap().username.unwrap(), "system:serviceaccount:tokens:default");
        }
    }
    let token = server.service_account_token("tokens", "default", ISSUER).await.unwrap();
    let client = server.client_of("tokens-default", &token).await.unwrap();
    let services = Api::<Service>::namespaced(client, "tokens");
    let refused = services.list(&ListParams::default()).await.unwrap_err();
    assert!(matches!(&refused, kube::Error::Api(status) if status.code == 403), "{refused}");
    for rule in [
        &["role", "readers", "--verb=list", "--resource=services"][..],
        &["rolebinding", "readers", "--role=readers", "--serviceaccount=tokens:default"],
    ] {
        server.kubectl(&[&["create", "-n", "tokens"], rule].concat(), "").await.unwrap().ok();
    }
    eventually(Duration::from_secs(20), async || services.list(&ListParams::default()).await).await.unwrap();
}

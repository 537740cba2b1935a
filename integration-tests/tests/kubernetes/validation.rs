//! The validation webhook, called by a real API server: what `meshctl validate` refuses in a file, a cluster refuses with the same words.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use integration_tests::certs::Authority;
use integration_tests::eventually;
use integration_tests::kubernetes::ApiServer;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use kube::api::{Api, DynamicObject, PostParams};
use mesh_controlplane::source;
use mesh_controlplane::validate::Finding;
use mesh_controlplane::validate::admission::{self, Settings};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::crds;

const DEADLINE: Duration = Duration::from_secs(20);

/// Answers reviews over HTTPS, until it is dropped.
struct Webhook {
    address: SocketAddr,
    ca: String,
    task: JoinHandle<()>,
}

impl Drop for Webhook {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Webhook {
    async fn start(settings: Settings) -> Self {
        let authority = Authority::new("webhook").unwrap();
        let pair = authority.issue(&["127.0.0.1"]).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(pair.cert.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap(),
            )
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, settings) = (acceptor.clone(), settings.clone());
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request| answer(request, settings.clone()));
                    let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, ca: authority.pem().to_owned(), task }
    }

    /// Tells the API server of it.
    async fn register(&self, server: &ApiServer, settings: &Settings) {
        let url = admission::Server::Url(format!("https://{}", self.address));
        let configuration = admission::configuration(settings, "istio-system", &url, self.ca.as_bytes());
        let api = Api::<ValidatingWebhookConfiguration>::all(server.client().await.unwrap());
        api.create(&PostParams::default(), &configuration).await.unwrap();
    }
}

async fn answer(
    request: http::Request<Incoming>,
    settings: Settings,
) -> Result<http::Response<Full<Bytes>>, hyper::Error> {
    assert_eq!(request.uri().path(), admission::PATH);
    let body = request.into_body().collect().await?.to_bytes();
    let mut response = http::Response::new(Full::default());
    match admission::review(&body, &settings) {
        Ok(answer) => *response.body_mut() = Full::new(answer.into()),
        Err(error) => {
            *response.status_mut() = http::StatusCode::BAD_REQUEST;
            *response.body_mut() = Full::new(error.to_string().into());
        }
    }
    Ok(response)
}

/// Good for the definitions, not for the mesh.
const WRONG: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: wrong, namespace: shop}
spec:
  hosts: [a, a]
  http:
  - match: [{uri: {regex: '('}}]
    route: [{destination: {host: a}}]
";

const GOOD: &str = "
apiVersion: networking.istio.io/v1beta1
kind: VirtualService
metadata: {name: good, namespace: shop}
spec: {hosts: [a], http: [{route: [{destination: {host: a}}]}]}
";

/// What `meshctl validate` says of a file, without the place.
fn findings(yaml: &str) -> Vec<Finding> {
    source::read(None, yaml.as_bytes()).into_iter().flat_map(|document| document.findings).collect()
}

/// The message by which the API server refuses an object.
async fn refusal(server: &ApiServer, yaml: &str) -> String {
    let object: DynamicObject = yaml_serde::from_str(yaml).unwrap();
    let api = crds::api_of(&server.client().await.unwrap(), &object, "shop");
    match api.create(&PostParams::default(), &object).await {
        Err(kube::Error::Api(status)) => status.message.clone(),
        other => panic!("not refused: {other:?}"),
    }
}

fn labelled(yaml: &str, revision: &str) -> String {
    yaml.replace("namespace: shop", &format!("namespace: shop, labels: {{istio.io/rev: {revision}}}"))
}

#[tokio::test]
async fn the_api_server_refuses_what_validation_refuses() {
    let server = ApiServer::start().await.unwrap();
    crds::install(&server).await;
    server.namespace("shop").await.unwrap();
    // It came in before anyone judged.
    let old =
        WRONG.replace("name: wrong", "name: old").replace("namespace: shop", "namespace: shop, finalizers: [a.b/c]");
    server.kubectl(&["create", "-f", "-"], &old).await.unwrap().ok();

    let settings = Settings { revision: admission::DEFAULT_REVISION.to_owned() };
    let webhook = Webhook::start(settings.clone()).await;
    webhook.register(&server, &settings).await;
    let refused = eventually(DEADLINE, async || {
        let said = server.kubectl(&["apply", "--dry-run=server", "-f", "-"], WRONG).await.unwrap();
        if said.success { Err("it is taken") } else { Ok(said.stderr) }
    });
    let refused = refused.await.unwrap();
    // kubectl shows the causes, other clients have the message.
    assert!(refused.contains("The VirtualService \"wrong\" is invalid"), "{refused}");
    let message = refusal(&server, WRONG).await;
    assert!(message.contains("admission webhook \"validation.istio.io\" denied the request"), "{message}");
    let expected = findings(WRONG);
    assert_eq!(expected.len(), 2, "{expected:?}");
    for finding in &expected {
        let cause = format!("spec.{}: {}", finding.field.as_deref().unwrap(), finding.message);
        assert!(refused.contains(&cause), "{refused}\n  lacks {cause}");
        assert!(message.contains(&finding.statement()), "{message}\n  lacks {}", finding.statement());
    }
    let refused = server.kubectl(&["create", "-f", "-"], WRONG).await.unwrap().refused();
    assert!(refused.contains(&expected[0].message), "{refused}");

    // Every version is judged, good objects come in, and what surprises is told.
    let alpha = WRONG.replace("networking.istio.io/v1", "networking.istio.io/v1alpha3");
    let refused = server.kubectl(&["apply", "-f", "-"], &alpha).await.unwrap().refused();
    assert!(refused.contains(&expected[0].message), "{refused}");
    let said = server.kubectl(&["apply", "-f", "-"], GOOD).await.unwrap();
    assert_eq!(said.stderr, "");
    said.ok();
    let surprising = GOOD.replace("http: [", "http: [{route: [{destination: {host: b}}]}, ");
    let said = server.kubectl(&["apply", "-f", "-"], &surprising).await.unwrap();
    assert!(said.stderr.contains("Warning: VirtualService shop/good: http[1]: is never reached"), "{}", said.stderr);
    said.ok();
    let refused = server
        .kubectl(
            &["patch", "vs", "good", "-n", "shop", "--type=merge", "-p", "{\"spec\":{\"hosts\":[\"a\",\"a\"]}}"],
            "",
        )
        .await
        .unwrap()
        .refused();
    assert!(refused.contains("spec.hosts[1]: `a` is given twice; remove one"), "{refused}");
    let generated = GOOD.replace("name: good", "generateName: good-");
    server.kubectl(&["create", "-f", "-"], &generated).await.unwrap().ok();

    // Another revision's objects are another control plane's.
    let canary = labelled(WRONG, "canary");
    server.kubectl(&["apply", "-f", "-"], &canary).await.unwrap().ok();
    let ours = labelled(WRONG, "default").replace("name: wrong", "name: ours");
    let message = refusal(&server, &ours).await;
    assert!(message.contains("admission webhook \"rev.validation.istio.io\" denied the request"), "{message}");

    // What is wrong may go, also where a finalizer is taken off.
    server.kubectl(&["delete", "vs", "old", "-n", "shop", "--wait=false"], "").await.unwrap().ok();
    let finalizers = "{\"metadata\":{\"finalizers\":null}}";
    let patch = ["patch", "vs", "old", "-n", "shop", "--type=merge", "-p", finalizers];
    server.kubectl(&patch, "").await.unwrap().ok();
    let left = server.kubectl(&["get", "vs", "-n", "shop", "-o", "name"], "").await.unwrap().ok();
    assert!(!left.contains("/old"), "{left}");

    // Nobody answers: nothing comes in unjudged.
    drop(webhook);
    let refused =
        server.kubectl(&["apply", "-f", "-"], &GOOD.replace("name: good", "name: unjudged")).await.unwrap().refused();
    assert!(refused.contains("failed calling webhook"), "{refused}");
}

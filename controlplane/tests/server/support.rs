//! A control plane with objects, and clients of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use mesh_controlplane::app::{ControlPlane, Settings};
use mesh_controlplane::model::Change;
use mesh_controlplane::source;
use mesh_proto::istio::auth::istio_certificate_service_client::IstioCertificateServiceClient;
use mesh_proto::istio::auth::{IstioCertificateRequest, IstioCertificateResponse};
use mesh_proto::xds::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use mesh_proto::xds::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse};
use mesh_proto::xds::{core, rpc, type_url};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

pub const HOUR: Duration = Duration::from_secs(3600);

pub async fn start(yaml: &str) -> ControlPlane {
    let plane = ControlPlane::start(Settings::default()).await.unwrap();
    plane.apply(objects(yaml)).await;
    plane
}

/// The objects of a text, each of which must be right.
pub fn objects(yaml: &str) -> Vec<Change> {
    let taken = source::read(None, yaml.as_bytes()).into_iter().map(|document| match document.outcome {
        source::Outcome::Object(object) => Change::Set(object),
        other => panic!("{other:?} {:?}", document.findings),
    });
    taken.collect()
}

/// A service with one endpoint.
pub fn service(name: &str, address: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: default}}, spec: {{clusterIP: 10.96.0.{}, \
         ports: [{{name: http, port: 80}}]}}}}\n{}",
        name.len(),
        slice(name, address)
    )
}

/// Its endpoint.
pub fn slice(name: &str, address: &str) -> String {
    format!(
        "---\n{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: {name}-1, namespace: default, labels: \
         {{kubernetes.io/service-name: {name}}}}}, addressType: IPv4, ports: [{{name: http, port: 8080}}], endpoints: \
         [{{addresses: [{address}], conditions: {{ready: true}}}}]}}\n"
    )
}

pub fn cluster(name: &str) -> String {
    format!("outbound|80||{name}.default.svc.cluster.local")
}

pub fn node(namespace: &str, account: &str) -> core::Node {
    let yaml = format!(
        "{{id: sidecar~10.0.0.9~client.{namespace}~{namespace}.svc.cluster.local, metadata: {{NAMESPACE: {namespace}, NAME: client, \
         SERVICE_ACCOUNT: '{account}'}}}}"
    );
    mesh_proto::yaml::from_yaml(&yaml).unwrap()
}

pub async fn plaintext(address: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}

/// A certificate chain and its key.
pub struct Credentials {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

/// A channel over TLS to a server that the roots vouch for.
pub async fn secure(
    address: SocketAddr,
    roots_pem: &str,
    credentials: Option<&Credentials>,
) -> Result<Channel, tonic::transport::Error> {
    let mut roots = rustls::RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(roots_pem.as_bytes()) {
        roots.add(root.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(roots);
    let mut config = match credentials {
        Some(one) => builder.with_client_auth_cert(one.chain.clone(), one.key.clone_key()).unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let connect = tower::service_fn(move |_: http::Uri| {
        let connector = connector.clone();
        async move {
            let name = ServerName::try_from(mesh_proto::names::CONTROL_PLANE_HOST).unwrap();
            let stream = TcpStream::connect(address).await?;
            Ok::<_, std::io::Error>(TokioIo::new(connector.connect(name, stream).await?))
        }
    });
    Endpoint::from_static("http://istiod.istio-system.svc").connect_with_connector(connect).await
}

pub fn with_token<T>(body: T, token: Option<&str>) -> Request<T> {
    let mut request = Request::new(body);
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    request
}

/// A delta stream.
pub struct Delta {
    pub requests: mpsc::Sender<DeltaDiscoveryRequest>,
    pub responses: Streaming<DeltaDiscoveryResponse>,
    node: Option<core::Node>,
}

impl Delta {
    pub async fn open(channel: Channel, token: Option<&str>, node: core::Node) -> Result<Self, Status> {
        let (requests, receiver) = mpsc::channel(16);
        let mut client = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(usize::MAX);
        let request = with_token(ReceiverStream::new(receiver), token);
        let responses = client.delta_aggregated_resources(request).await?.into_inner();
        Ok(Self { requests, responses, node: Some(node) })
    }

    pub async fn send(&mut self, request: DeltaDiscoveryRequest) {
        self.requests.send(DeltaDiscoveryRequest { node: self.node.take(), ..request }).await.unwrap();
    }

    pub async fn subscribe(&mut self, url: &str, names: &[&str]) {
        let resource_names_subscribe = names.iter().map(|name| (*name).to_owned()).collect();
        self.send(DeltaDiscoveryRequest { type_url: url.to_owned(), resource_names_subscribe, ..Default::default() })
            .await;
    }

    pub async fn next(&mut self) -> Result<DeltaDiscoveryResponse, Status> {
        let next = tokio::time::timeout(Duration::from_secs(20), self.responses.message()).await.expect("a response");
        next.map(|response| response.expect("the stream is open"))
    }

    pub async fn answer(&mut self, response: &DeltaDiscoveryResponse, error: Option<&str>) {
        self.send(DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail: error.map(status),
            ..Default::default()
        })
        .await;
    }

    /// Takes the next response, of whatever type, and acknowledges it.
    pub async fn take_any(&mut self) -> DeltaDiscoveryResponse {
        let response = self.next().await.unwrap();
        self.answer(&response, None).await;
        response
    }

    /// Takes the next response, which must be of this type, and acknowledges it.
    pub async fn take(&mut self, url: &str) -> DeltaDiscoveryResponse {
        let response = self.next().await.unwrap();
        assert_eq!(response.type_url, url);
        self.answer(&response, None).await;
        response
    }
}

/// A state-of-the-world stream.
pub struct Sotw {
    pub requests: mpsc::Sender<DiscoveryRequest>,
    pub responses: Streaming<DiscoveryResponse>,
    node: Option<core::Node>,
}

impl Sotw {
    pub async fn open(channel: Channel, node: core::Node) -> Self {
        let (requests, receiver) = mpsc::channel(16);
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let responses = client.stream_aggregated_resources(ReceiverStream::new(receiver)).await.unwrap().into_inner();
        Self { requests, responses, node: Some(node) }
    }

    pub async fn ask(&mut self, url: &str, names: &[&str], last: Option<&DiscoveryResponse>, error: Option<&str>) {
        let request = DiscoveryRequest {
            node: self.node.take(),
            type_url: url.to_owned(),
            resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
            response_nonce: last.map(|one| one.nonce.clone()).unwrap_or_default(),
            version_info: last.map(|one| one.version_info.clone()).unwrap_or_default(),
            error_detail: error.map(status),
            ..Default::default()
        };
        self.requests.send(request).await.unwrap();
    }

    pub async fn next(&mut self) -> Result<DiscoveryResponse, Status> {
        let next = tokio::time::timeout(Duration::from_secs(20), self.responses.message()).await.expect("a response");
        next.map(|response| response.expect("the stream is open"))
    }
}

fn status(message: &str) -> rpc::Status {
    rpc::Status { code: 3, message: message.to_owned(), details: Vec::new() }
}

/// Asks for a certificate.
pub async fn sign(
    channel: Channel,
    token: Option<&str>,
    request: IstioCertificateRequest,
) -> Result<IstioCertificateResponse, Status> {
    let mut client = IstioCertificateServiceClient::new(channel);
    client.create_certificate(with_token(request, token)).await.map(tonic::Response::into_inner)
}

/// A key and a request for it.
pub fn request() -> (rcgen::KeyPair, IstioCertificateRequest) {
    let key = rcgen::KeyPair::generate().unwrap();
    let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    (key, IstioCertificateRequest { csr, ..Default::default() })
}

/// A certificate of a workload, got by a token over TLS.
pub async fn credentials(plane: &ControlPlane, namespace: &str, account: &str) -> Credentials {
    let token = plane.issue_token(namespace, account, HOUR);
    let channel = secure(plane.secure_grpc_addr(), &plane.root_pem(), None).await.unwrap();
    let (key, request) = request();
    let response = sign(channel, Some(&token), request).await.unwrap();
    let leaf_and_above = response.cert_chain[..response.cert_chain.len() - 1].concat();
    let chain = CertificateDer::pem_slice_iter(leaf_and_above.as_bytes()).map(Result::unwrap).collect();
    Credentials { chain, key: PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap() }
}

/// Status and body of a page.
pub async fn page(plane: &ControlPlane, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(plane.monitoring_addr()).await.unwrap();
    let request = format!("GET {path} HTTP/1.0\r\nhost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// The JSON of a page.
pub async fn json(plane: &ControlPlane, path: &str) -> serde_json::Value {
    let (status, body) = page(plane, path).await;
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

/// Polls until a page's JSON is as wanted.
pub async fn eventually(plane: &ControlPlane, path: &str, wanted: impl Fn(&serde_json::Value) -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        let found = json(plane, path).await;
        if wanted(&found) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{path}: {found:#}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub const CDS: &str = type_url::CLUSTER;
pub const EDS: &str = type_url::ENDPOINT;
pub const LDS: &str = type_url::LISTENER;
pub const RDS: &str = type_url::ROUTE;

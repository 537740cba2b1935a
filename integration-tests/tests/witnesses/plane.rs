//! A control plane, what it is told, and what it says of its clients.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use mesh_controlplane::app::{ControlPlane, Settings};
use mesh_controlplane::model::Change;
use mesh_controlplane::source::{self, Outcome};
use mesh_proto::istio::auth::IstioCertificateRequest;
use mesh_proto::istio::auth::istio_certificate_service_client::IstioCertificateServiceClient;
use serde_json::Value;

/// How long anything may take.
pub const DEADLINE: Duration = Duration::from_secs(30);

pub async fn start(yaml: &str) -> ControlPlane {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let plane = ControlPlane::start(Settings::default()).await.unwrap();
    plane.apply(objects(yaml)).await;
    plane
}

/// The objects of a text, each of which must be right.
pub fn objects(yaml: &str) -> Vec<Change> {
    let mut changes = Vec::new();
    for document in source::read(None, yaml.as_bytes()) {
        match document.outcome {
            Outcome::Object(object) => changes.push(Change::Set(object)),
            Outcome::Nothing => {}
            Outcome::Broken(key) => panic!("{key:?} is refused: {:?}", document.findings),
        }
    }
    changes
}

/// A certificate of the mesh and its key, PEM.
#[derive(Debug, Clone)]
pub struct Identity {
    pub chain: String,
    pub key: String,
    pub roots: String,
}

/// Has the authority sign a workload's certificate, as the agent beside a stock proxy does.
pub async fn identity(plane: &ControlPlane, namespace: &str, account: &str) -> Identity {
    let key = rcgen::KeyPair::generate().unwrap();
    let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    let mut request = tonic::Request::new(IstioCertificateRequest { csr, ..Default::default() });
    let token = plane.issue_token(namespace, account, Duration::from_secs(3600));
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    let address = format!("http://{}", plane.grpc_addr());
    let mut client = IstioCertificateServiceClient::connect(address).await.unwrap();
    let mut chain = client.create_certificate(request).await.unwrap().into_inner().cert_chain;
    chain.pop();
    Identity { chain: chain.concat(), key: key.serialize_pem(), roots: plane.root_pem() }
}

/// What the control plane says of the proxies that are connected (`/debug/syncz`).
pub async fn clients(plane: &ControlPlane) -> Vec<Value> {
    let (_, body) =
        crate::client::get(&plane.monitoring_addr().to_string(), "localhost", "/debug/syncz").await.unwrap();
    serde_json::from_str(&body).unwrap()
}

/// What was refused or is not yet taken, in words; empty if all is in force.
pub fn behind(client: &Value) -> String {
    let types = client["types"].as_object().unwrap();
    let late = types.iter().filter(|(_, state)| state["status"] != "SYNCED" || !state["nack"].is_null());
    late.map(|(kind, state)| format!("{kind}: {state}\n")).collect()
}

/// An address of this machine that nobody else has: ports on it are free.
pub fn address() -> Ipv4Addr {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let [high, low] = u16::try_from(std::process::id() % 65_000).unwrap().to_be_bytes();
    let next = u8::try_from(NEXT.fetch_add(1, Ordering::Relaxed)).expect("a test program needs few addresses");
    Ipv4Addr::new(127, 64 + (high % 128), low, next)
}

/// Polls until `look` finds what is wanted; the error of its last look tells what was found instead.
pub async fn eventually<T, F: Future<Output = Result<T, String>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let until = tokio::time::Instant::now() + DEADLINE;
    loop {
        match look().await {
            Ok(found) => return found,
            Err(error) => assert!(tokio::time::Instant::now() < until, "{what}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

//! The keeper against an authority that is a real gRPC server over real TLS, but misbehaves when told to.
#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use mesh_proto::istio::auth::istio_certificate_service_server::{
    IstioCertificateService, IstioCertificateServiceServer,
};
use mesh_proto::istio::auth::{IstioCertificateRequest, IstioCertificateResponse};
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, IsCa, KeyPair};
use rcgen::{ExtendedKeyUsagePurpose, SanType};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tonic::{Response, Status};
use tower::ServiceExt;

use super::*;
use crate::route::matcher::StringMatcher;
use crate::telemetry::peer::Peer;
use crate::telemetry::stats::Metrics;
use crate::tls::secrets::Cell;
use crate::tls::verify::{SanKind, SanMatcher};
use crate::tls::{AlpnUse, ClientTls, Parameters, ServerTls, TlsInfo, Trust};

const ID: &str = "spiffe://cluster.local/ns/default/sa/reviews";

struct Double {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// What each call showed: `token …`, or the id in the certificate.
    shown: Mutex<Vec<String>>,
    down: AtomicBool,
    refuse_certificates: AtomicBool,
    sign_for: Mutex<Option<&'static str>>,
}

#[derive(Clone)]
struct Caller(Option<String>);

struct Service(Arc<Double>);

#[tonic::async_trait]
impl IstioCertificateService for Service {
    async fn create_certificate(
        &self,
        request: tonic::Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let double = &*self.0;
        let token = request.metadata().get("authorization").map(|value| value.to_str().unwrap().to_owned());
        let caller = request.extensions().get::<Caller>().unwrap().0.clone();
        let certificate_only = token.is_none() && caller.is_some();
        double.shown.lock().push(token.or(caller).unwrap_or_else(|| "nothing".to_owned()));
        if double.down.load(Ordering::SeqCst) {
            return Err(Status::unavailable("the authority is being repaired"));
        }
        if certificate_only && double.refuse_certificates.load(Ordering::SeqCst) {
            return Err(Status::unauthenticated("who are you"));
        }
        let request = request.into_inner();
        let mut csr = CertificateSigningRequestParams::from_pem(&request.csr).unwrap();
        assert_eq!(csr.params.subject_alt_names, [SanType::URI(ID.try_into().unwrap())]);
        if let Some(other) = *double.sign_for.lock() {
            csr.params.subject_alt_names = vec![SanType::URI(other.try_into().unwrap())];
        }
        let lifetime = Duration::from_secs(request.validity_duration.try_into().unwrap());
        csr.params.not_before = (SystemTime::now() - Duration::from_secs(120)).into();
        csr.params.not_after = (SystemTime::now() + lifetime).into();
        csr.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let leaf = csr.signed_by(&double.issuer).unwrap();
        Ok(Response::new(IstioCertificateResponse { cert_chain: vec![leaf.pem(), double.issuer.pem()] }))
    }
}

fn issuer(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::OrganizationName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

impl Double {
    async fn start(tls: bool) -> (Arc<Self>, String) {
        let double = Arc::new(Self {
            issuer: issuer("mesh"),
            shown: Mutex::default(),
            down: AtomicBool::default(),
            refuse_certificates: AtomicBool::default(),
            sign_for: Mutex::default(),
        });
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["istiod.istio-system.svc".to_owned()]).unwrap();
        let serving = params.signed_by(&key, &double.issuer).unwrap();
        let server = Arc::new(ServerTls {
            certificates: vec![Cell::fixed(
                "serving",
                Certificate::from_pem(&serving.pem(), &key.serialize_pem()).unwrap(),
            )],
            trust: Some(Cell::fixed("clients", Trust::from_pem(&double.issuer.pem()).unwrap())),
            sans: vec![],
            require_client: false,
            alpn: vec![b"h2".to_vec()],
            parameters: Parameters::default(),
            cache: Default::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = double.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (server, double) = (server.clone(), shared.clone());
                tokio::spawn(async move {
                    if !tls {
                        return serve(stream, Caller(None), double).await;
                    }
                    let Ok((stream, info)) = server.accept(stream).await else { return };
                    let id = info.peer.and_then(|peer| peer.spiffe.as_deref().map(str::to_owned));
                    serve(stream, Caller(id), double).await;
                });
            }
        });
        (double, if tls { address.to_string() } else { format!("http://{address}") })
    }

    fn calls(&self) -> usize {
        self.shown.lock().len()
    }
}

async fn serve<I>(stream: I, caller: Caller, double: Arc<Double>)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = IstioCertificateServiceServer::new(Service(double)).map_request(
        move |mut request: http::Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(caller.clone());
            request
        },
    );
    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
        .await;
}

fn settings(address: &str, double: &Double) -> Settings {
    Settings {
        ca_address: address.to_owned(),
        ca_root: Root::Pem(double.issuer.pem()),
        token: Token::Text("one\n".into()),
        service_account: "reviews".into(),
        ttl: Duration::from_secs(3600),
        // 3600 s × 10⁻⁵: every 36 ms.
        grace_ratio: 0.999_99,
        grace_jitter: 0.0,
        ..Settings::default()
    }
}

struct Running {
    secrets: Arc<SecretStore>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), IdentityError>>,
}

fn start(settings: Settings) -> Running {
    let (secrets, stop) = (Arc::new(SecretStore::default()), CancellationToken::new());
    let task = tokio::spawn(run(settings, secrets.clone(), stop.clone()));
    Running { secrets, stop, task }
}

impl Running {
    fn certificate(&self) -> Option<Arc<Certificate>> {
        self.secrets.certificate("default").load()
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "not within 30 s: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn the_token_is_shown_first_and_the_certificate_afterwards() {
    let (double, address) = Double::start(true).await;
    let metrics = Arc::new(Metrics::new(Peer::default()));
    let running = start(Settings { metrics: Some(metrics.clone()), ..settings(&address, &double) });
    eventually("three rounds", || double.calls() >= 3).await;
    assert_eq!(double.shown.lock()[..3], ["Bearer one", ID, ID]);
    let certificate = running.certificate().unwrap();
    assert_eq!(&*certificate.uri_sans, ID);
    assert_eq!(running.secrets.trust("ROOTCA").load().unwrap().roots.len(), 1, "the same root is there once");
    let text = metrics.render();
    assert!(text.contains(r#"istio_agent_cert_expiry_seconds{resource_name="default"} 3"#), "{text}");
    assert!(!text.contains("num_failed"), "{text}");
    running.end().await;
}

#[tokio::test]
async fn while_the_authority_is_away_the_old_certificate_stays() {
    let (double, address) = Double::start(true).await;
    let running = start(settings(&address, &double));
    eventually("a certificate", || running.certificate().is_some()).await;
    double.down.store(true, Ordering::SeqCst);
    let calls = double.calls();
    eventually("three failures", || double.calls() >= calls + 3).await;
    let old = running.certificate().unwrap();
    let shown = double.shown.lock()[calls..].to_vec();
    assert!(shown.iter().any(|one| one == "Bearer one"), "the token gets a chance too: {shown:?}");
    double.down.store(false, Ordering::SeqCst);
    eventually("a new one", || !Arc::ptr_eq(&old, &running.certificate().unwrap())).await;
    running.end().await;
}

#[tokio::test]
async fn an_authority_that_no_longer_knows_our_certificate_gets_the_token() {
    let (double, address) = Double::start(true).await;
    double.refuse_certificates.store(true, Ordering::SeqCst);
    let running = start(settings(&address, &double));
    eventually("five rounds", || double.calls() >= 5).await;
    assert_eq!(double.shown.lock()[..5], ["Bearer one", ID, "Bearer one", ID, "Bearer one"]);
    running.end().await;
}

#[tokio::test]
async fn a_certificate_for_another_is_refused() {
    let (double, address) = Double::start(true).await;
    *double.sign_for.lock() = Some("spiffe://cluster.local/ns/default/sa/ratings");
    let metrics = Arc::new(Metrics::new(Peer::default()));
    let running = start(Settings { metrics: Some(metrics.clone()), ..settings(&address, &double) });
    eventually("three rounds", || double.calls() >= 3).await;
    assert!(running.certificate().is_none());
    assert!(metrics.render().contains("istio_agent_num_failed_outgoing_requests"));
    *double.sign_for.lock() = None;
    eventually("our own", || running.certificate().is_some()).await;
    running.end().await;
}

#[tokio::test]
async fn a_server_that_is_not_the_authority_never_sees_the_token() {
    for change in [
        (|settings: &mut Settings| settings.ca_root = Root::Pem(issuer("stranger").pem())) as fn(&mut Settings),
        |settings: &mut Settings| settings.server_name = Some("istiod.elsewhere.svc".into()),
    ] {
        let (double, address) = Double::start(true).await;
        let metrics = Arc::new(Metrics::new(Peer::default()));
        let mut settings = Settings { metrics: Some(metrics.clone()), ..settings(&address, &double) };
        change(&mut settings);
        let running = start(settings);
        eventually("a failure", || metrics.render().contains("num_failed_outgoing_requests")).await;
        assert_eq!(double.calls(), 0);
        running.end().await;
    }
}

#[tokio::test]
async fn plaintext_on_loopback_shows_the_token_each_time_and_files_are_read_anew() {
    let (double, address) = Double::start(false).await;
    let folder = tempfile::tempdir().unwrap();
    let (token, root) = (folder.path().join("token"), folder.path().join("root"));
    std::fs::write(&token, "first\n").unwrap();
    std::fs::write(&root, double.issuer.pem()).unwrap();
    let running = start(Settings {
        token: Token::File(token.clone()),
        ca_root: Root::File(root.clone()),
        ..settings(&address, &double)
    });
    eventually("two rounds", || double.calls() >= 2).await;
    assert!(double.shown.lock().iter().all(|shown| shown == "Bearer first"));
    std::fs::write(&token, "second").unwrap();
    eventually("the new token", || double.shown.lock().last().unwrap() == "Bearer second").await;
    std::fs::write(&root, [double.issuer.pem(), issuer("next").pem()].concat()).unwrap();
    eventually("both roots", || running.secrets.trust("ROOTCA").load().unwrap().roots.len() == 2).await;
    running.end().await;
}

#[tokio::test]
async fn settings_that_can_never_work_end_at_once() {
    for (settings, reason) in [
        (Settings { ca_address: "http://10.0.0.1:15010".into(), ..Settings::default() }, "only loopback"),
        (Settings { ca_address: "http://[::1]:1".into(), namespace: "a/b".into(), ..Settings::default() }, "SPIFFE"),
        (Settings { ca_address: "http://[::1]:1".into(), grace_ratio: 1.5, ..Settings::default() }, "grace_ratio"),
        (Settings { ca_address: "http://[::1]:1".into(), ttl: Duration::ZERO, ..Settings::default() }, "ttl"),
    ] {
        let error = run(settings, Arc::default(), CancellationToken::new()).await.unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}

fn mesh_tls(secrets: &SecretStore) -> (ServerTls, ClientTls) {
    let sans = vec![SanMatcher {
        kind: SanKind::Uri,
        name: StringMatcher::Prefix { text: "spiffe://cluster.local/".into(), ignore_case: false },
    }];
    let server = ServerTls {
        certificates: vec![secrets.certificate("default")],
        trust: Some(secrets.trust("ROOTCA")),
        sans: sans.clone(),
        require_client: true,
        alpn: vec![],
        parameters: Parameters::default(),
        cache: Default::default(),
    };
    let client = ClientTls {
        certificate: Some(secrets.certificate("default")),
        trust: Some(secrets.trust("ROOTCA")),
        sans,
        sni: Some("outbound_.80_._.reviews.default.svc.cluster.local".into()),
        auto_sni: false,
        check_name: false,
        alpn: vec![],
        parameters: Parameters::default(),
        cache: Default::default(),
    };
    (server, client)
}

async fn echo(listener: TcpListener, server: Arc<ServerTls>, failed: Arc<AtomicU32>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (server, failed) = (server.clone(), failed.clone());
        tokio::spawn(async move {
            let Ok((mut stream, _)) = server.accept(stream).await else {
                failed.fetch_add(1, Ordering::SeqCst);
                return;
            };
            while let Ok(byte) = stream.read_u8().await {
                if stream.write_u8(byte).await.is_err() {
                    return;
                }
            }
        });
    }
}

type Stream = tokio_rustls::client::TlsStream<tokio::net::TcpStream>;

async fn dial(address: SocketAddr, client: &ClientTls) -> Result<(Stream, TlsInfo), String> {
    let stream = tokio::net::TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
    client.connect(stream, None, ip, AlpnUse::Configured).await.map_err(|error| error.to_string())
}

async fn exchange(stream: &mut Stream) -> Result<(), String> {
    stream.write_u8(7).await.map_err(|error| error.to_string())?;
    let byte = stream.read_u8().await.map_err(|error| error.to_string())?;
    if byte == 7 { Ok(()) } else { Err(format!("{byte} came back")) }
}

/// Connections that stand and connections that are being made: fifty rotations disturb neither.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_rotations_under_concurrent_handshakes_lose_no_connection() {
    let (double, address) = Double::start(true).await;
    let running = start(settings(&address, &double));
    eventually("a certificate", || running.certificate().is_some()).await;
    let (server, client) = mesh_tls(&running.secrets);
    let client = Arc::new(client);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, refused) = (listener.local_addr().unwrap(), Arc::new(AtomicU32::new(0)));
    let serving = tokio::spawn(echo(listener, Arc::new(server), refused.clone()));

    let (over, handshakes) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (client, over, handshakes) = (client.clone(), over.clone(), handshakes.clone());
        tasks.spawn(async move {
            let (mut standing, _) = dial(address, &client).await?;
            while !over.is_cancelled() {
                let (mut fresh, info) = dial(address, &client).await?;
                exchange(&mut fresh).await?;
                assert_eq!(info.peer.unwrap().spiffe.as_deref(), Some(ID));
                exchange(&mut standing).await?;
                handshakes.fetch_add(1, Ordering::SeqCst);
            }
            exchange(&mut standing).await
        });
    }
    let before = double.calls();
    eventually("fifty rotations", || double.calls() > before + 50).await;
    over.cancel();
    while let Some(result) = tasks.join_next().await {
        result.unwrap().unwrap();
    }
    assert_eq!(refused.load(Ordering::SeqCst), 0);
    assert!(handshakes.load(Ordering::SeqCst) > 50, "{handshakes:?} handshakes");
    serving.abort();
    running.end().await;
}

//! The composition root: the whole control plane in one value, for the binary, for `meshctl` and for tests.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use mesh_proto::crd::MeshConfig;
use mesh_proto::istio::auth::istio_certificate_service_server::IstioCertificateServiceServer;
use mesh_proto::xds::discovery::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::ca::service::CertificateService;
use crate::ca::serving::ServingTls;
use crate::ca::{Authority, AuthorityHandle, TokenKey, reload};
use crate::debug::{self, Pages};
use crate::metrics::Metrics;
use crate::model::{Change, Model};
use crate::push::engine::{self, Event};
use crate::push::knowledge::Known;
use crate::push::{Debounce, Published};
use crate::source::Update;
use crate::source::file::FileSource;
use crate::validate::Finding;
use crate::webhook::{self, Injector, Own};
use crate::xds::auth::Authenticator;
use crate::xds::connection::Streams;
use crate::xds::server::{Discovery, MAX_REQUEST, Shared};
use crate::xds::transport;

/// Batches of changes that may wait for the engine.
const EVENTS: usize = 256;
/// Pings of idle connections, Istio's.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// The wait for their answer.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest wait for open streams at the end.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// What a control plane is started with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Files and directories of YAML, watched.
    pub config_dirs: Vec<PathBuf>,
    /// Plaintext xDS, and certificates for this machine. A free port of the loopback address if absent, as for the other two.
    pub grpc_addr: Option<SocketAddr>,
    /// xDS and certificates over TLS.
    pub secure_grpc_addr: Option<SocketAddr>,
    /// Metrics, version, debug pages.
    pub monitoring_addr: Option<SocketAddr>,
    /// DNS domain of Kubernetes services.
    pub domain: String,
    /// Who signs certificates.
    pub ca: CaSettings,
    /// How long changes are gathered.
    pub debounce: Debounce,
    /// How many streams may make resources at a time; as many as there are processors if absent.
    pub push_throttle: Option<usize>,
    /// More names and addresses in the certificate of the TLS port.
    pub serving_hosts: Vec<String>,
    /// What the API server calls; absent without Kubernetes.
    pub webhooks: Option<Webhooks>,
}

/// The webhooks that a control plane serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhooks {
    /// Where; a free port of the loopback address if absent.
    pub addr: Option<SocketAddr>,
    /// Settings of injection in YAML, followed.
    pub injection: Option<PathBuf>,
    /// Revision of this control plane.
    pub revision: String,
    /// Its namespace.
    pub namespace: String,
}

/// Where the authority's key comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CaSettings {
    /// A self-signed root, kept in a directory or as long as the process lives. The key of tokens is kept beside it.
    SelfSigned {
        /// Where it is kept.
        dir: Option<PathBuf>,
    },
    /// Certificates and key of an authority outside (CA5).
    PluggedIn {
        /// Holds `ca-cert.pem`, `ca-key.pem`, `root-cert.pem` and `cert-chain.pem`.
        dir: PathBuf,
    },
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            config_dirs: Vec::new(),
            grpc_addr: None,
            secure_grpc_addr: None,
            monitoring_addr: None,
            domain: "cluster.local".to_owned(),
            ca: CaSettings::SelfSigned { dir: None },
            debounce: Debounce::default(),
            push_throttle: None,
            serving_hosts: Vec::new(),
            webhooks: None,
        }
    }
}

/// A running control plane. It stops when it is dropped.
#[derive(Debug)]
pub struct ControlPlane {
    grpc: SocketAddr,
    secure: SocketAddr,
    monitoring: SocketAddr,
    webhooks: Option<SocketAddr>,
    authority: AuthorityHandle,
    tokens: TokenKey,
    findings: Arc<ArcSwap<Vec<Finding>>>,
    events: mpsc::Sender<Event>,
    published: watch::Receiver<Arc<Published>>,
    tasks: TaskTracker,
    stop: CancellationToken,
    _stop: DropGuard,
}

impl ControlPlane {
    /// Starts everything, and returns when what is in `config_dirs` has been read.
    pub async fn start(settings: Settings) -> anyhow::Result<Self> {
        let stop = CancellationToken::new();
        let guard = stop.clone().drop_guard();
        let tasks = TaskTracker::new();
        let metrics = Metrics::new();
        let (authority, tokens) = authority(&settings.ca)?;
        if let CaSettings::PluggedIn { dir } = &settings.ca {
            tasks.spawn(until(stop.clone(), reload::run(dir.clone(), authority.clone())));
        }
        watch_expiry(&authority, &metrics, &tasks, &stop);
        let authenticator = Authenticator::new(tokens.clone(), &MeshConfig::default().trust_domain);

        let model = Model::with_domain(MeshConfig::default(), &settings.domain);
        let shown = Arc::new(ArcSwap::new(model.context()));
        let known =
            Known { model, shown: shown.clone(), authenticator: authenticator.clone(), metrics: metrics.clone() };
        let (events, receiver) = mpsc::channel(EVENTS);
        let (sender, published) = watch::channel(Arc::new(Published::nothing()));
        tasks.spawn(engine::run(known, receiver, sender, settings.debounce, metrics.clone(), stop.clone()));
        tasks.spawn(until(stop.clone(), metrics.clone().upkeep()));

        let streams = Streams::default();
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let shared = Shared {
            published: published.clone(),
            authenticator: authenticator.clone(),
            streams: streams.clone(),
            metrics: metrics.clone(),
            throttle: Semaphore::new(settings.push_throttle.unwrap_or(processors).max(1)),
            stop: stop.clone(),
        };
        let discovery = Discovery(Arc::new(shared));
        let certificates = CertificateService {
            authority: authority.clone(),
            authenticator: authenticator.clone(),
            metrics: metrics.clone(),
        };
        let tls = ServingTls::start(authority.clone(), settings.serving_hosts, stop.clone())
            .context("the control plane's own certificate")?;
        let grpc = bind(settings.grpc_addr).await?;
        let secure = bind(settings.secure_grpc_addr).await?;
        let monitoring = bind(settings.monitoring_addr).await?;
        let webhooks = match &settings.webhooks {
            Some(wanted) => {
                let own = Own {
                    revision: wanted.revision.clone(),
                    namespace: wanted.namespace.clone(),
                    domain: settings.domain.clone(),
                };
                let injector = Injector::start(wanted.injection.clone(), own, shown.clone(), stop.clone())?;
                let listener = bind(wanted.addr).await?;
                let address = listener.local_addr()?;
                let (tls, stop) = (tls.clone(), stop.clone());
                tasks.spawn(async move { webhook::serve(listener, &tls, webhook::injection(injector), stop).await });
                Some(address)
            }
            None => None,
        };
        let findings = Arc::new(ArcSwap::from_pointee(Vec::new()));
        let plane = Self {
            grpc: grpc.local_addr()?,
            secure: secure.local_addr()?,
            monitoring: monitoring.local_addr()?,
            webhooks,
            authority,
            tokens,
            findings: findings.clone(),
            events: events.clone(),
            published: published.clone(),
            tasks: tasks.clone(),
            stop: stop.clone(),
            _stop: guard,
        };
        for (listener, tls) in [(grpc, None), (secure, Some(tls))] {
            tasks.spawn(serve(listener, tls, discovery.clone(), certificates.clone(), stop.clone()));
        }
        let pages = Pages { metrics, streams, published, shown, findings, events, authenticator };
        tasks.spawn(debug::serve(monitoring, pages, stop));
        plane.read(settings.config_dirs).await?;
        Ok(plane)
    }

    /// Where plaintext xDS is served.
    pub fn grpc_addr(&self) -> SocketAddr {
        self.grpc
    }

    /// Where xDS and certificates are served over TLS.
    pub fn secure_grpc_addr(&self) -> SocketAddr {
        self.secure
    }

    /// Where metrics and debug pages are served.
    pub fn monitoring_addr(&self) -> SocketAddr {
        self.monitoring
    }

    /// Where webhooks are served, if they are.
    pub fn webhook_addr(&self) -> Option<SocketAddr> {
        self.webhooks
    }

    /// A token by which a workload may ask for its certificate and configuration.
    pub fn issue_token(&self, namespace: &str, service_account: &str, ttl: Duration) -> String {
        let token = self.tokens.issue(namespace, service_account, ttl, SystemTime::now());
        token.unwrap_or_else(|error| {
            // An empty token is refused wherever it is shown, with a message that says so.
            tracing::error!(%error, "a token could not be made");
            String::new()
        })
    }

    /// The roots that the mesh trusts, PEM.
    pub fn root_pem(&self) -> String {
        self.authority.load().root_pem()
    }

    /// What the sources found wrong.
    pub fn findings(&self) -> Vec<Finding> {
        self.findings.load().to_vec()
    }

    /// The authority, which may be replaced.
    pub fn authority(&self) -> AuthorityHandle {
        self.authority.clone()
    }

    /// Applies changes at once, beside those of files; they are published when it returns.
    pub async fn apply(&self, changes: Vec<Change>) {
        let (done, published) = oneshot::channel();
        if self.events.send(Event::Apply(changes, done)).await.is_ok() {
            // The engine is gone only after a stop, when nothing is published any more.
            let _ = published.await;
        }
    }

    /// Ends streams, so that proxies look for another control plane, and waits until everything is closed.
    pub async fn shutdown(self) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(SHUTDOWN, self.tasks.wait()).await.is_err() {
            tracing::warn!("connections are still open at the end");
        }
    }

    /// Starts the sources and waits for their first word.
    async fn read(&self, paths: Vec<PathBuf>) -> anyhow::Result<()> {
        if paths.is_empty() {
            self.apply(Vec::new()).await;
            return Ok(());
        }
        let (sender, mut updates) = mpsc::channel::<Update>(EVENTS);
        let source = FileSource::new(paths)?;
        let source = self.tasks.spawn(source.run(sender, self.stop.clone()));
        let (events, findings) = (self.events.clone(), self.findings.clone());
        self.tasks.spawn(async move {
            while let Some(update) = updates.recv().await {
                findings.store(Arc::new(update.findings));
                if events.send(Event::Changes(update.changes)).await.is_err() {
                    return;
                }
            }
        });
        let mut published = self.published.clone();
        tokio::select! {
            first = published.wait_for(|published| published.number > 0) => {
                first.context("the control plane stopped while it read its configuration")?;
                Ok(())
            }
            ended = source => {
                ended.context("the file source failed")??;
                anyhow::bail!("the file source ended before it had read anything")
            }
        }
    }
}

/// The authority and the key of tokens.
fn authority(settings: &CaSettings) -> anyhow::Result<(AuthorityHandle, TokenKey)> {
    let now = SystemTime::now();
    let organization = MeshConfig::default().trust_domain;
    let (authority, tokens) = match settings {
        CaSettings::SelfSigned { dir: None } => (Authority::self_signed(&organization, now)?, TokenKey::generate()?),
        CaSettings::SelfSigned { dir: Some(dir) } => (Authority::kept(dir, &organization, now)?, TokenKey::kept(dir)?),
        CaSettings::PluggedIn { dir } => (Authority::plugged_in(dir)?, TokenKey::found(dir)?),
    };
    Ok((AuthorityHandle::new(authority), tokens))
}

/// Keeps the expiry of the authority in the metrics.
fn watch_expiry(authority: &AuthorityHandle, metrics: &Metrics, tasks: &TaskTracker, stop: &CancellationToken) {
    let (authority, metrics) = (authority.clone(), metrics.clone());
    let mut changed = authority.subscribe();
    tasks.spawn(until(stop.clone(), async move {
        loop {
            let until = authority.load().not_after().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            metrics.root_expiry.set(until.as_secs_f64());
            if changed.changed().await.is_err() {
                return;
            }
        }
    }));
}

async fn until(stop: CancellationToken, work: impl Future<Output = ()>) {
    stop.run_until_cancelled(work).await;
}

async fn bind(address: Option<SocketAddr>) -> anyhow::Result<TcpListener> {
    let address = address.unwrap_or_else(|| (Ipv4Addr::LOCALHOST, 0).into());
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

async fn serve(
    listener: TcpListener,
    tls: Option<ServingTls>,
    discovery: Discovery,
    certificates: CertificateService,
    stop: CancellationToken,
) {
    let incoming = transport::incoming(listener, tls, stop.clone());
    // What is sent has no limit of its own: a mesh is as large as it is.
    let discovery = AggregatedDiscoveryServiceServer::new(discovery)
        .max_decoding_message_size(MAX_REQUEST)
        .max_encoding_message_size(usize::MAX);
    let result = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_service(discovery)
        .add_service(IstioCertificateServiceServer::new(certificates))
        .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
        .await;
    if let Err(error) = result {
        tracing::error!(%error, "a gRPC listener failed");
    }
}

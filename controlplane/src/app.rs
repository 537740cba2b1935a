//! The composition root: the whole control plane in one value, for the binary, for `meshctl` and for tests.

mod writers;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ::kube::Client;
use anyhow::Context as _;
use arc_swap::ArcSwap;
use mesh_proto::crd::MeshConfig;
use mesh_proto::istio::auth::istio_certificate_service_server::IstioCertificateServiceServer;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::ca::authority::ROOT_TTL;
use crate::ca::cluster::{self, Keeper};
use crate::ca::review::Reviewer;
use crate::ca::service::CertificateService;
use crate::ca::serving::ServingTls;
use crate::ca::{Authority, AuthorityHandle, TokenKey, reload};
use crate::debug::{self, Pages};
use crate::metrics::Metrics;
use crate::model::{Change, Kind, Model, PushContext};
use crate::own::Own;
use crate::push::engine::{self, Event};
use crate::push::knowledge::Known;
use crate::push::state::State;
use crate::push::{Debounce, Published};
use crate::register::{self, Registrar};
use crate::source::{FileSource, KubeSettings, KubeSource, Merge, Update, kube};
use crate::status::Judged;
use crate::validate::{Finding, admission};
use crate::webhook::{self, Injector, ca_bundle};
use crate::xds::auth::Authenticator;
use crate::xds::connection::Streams;
use crate::xds::server::{Discovery, Shared};
use crate::xds::transport;

use self::writers::{Told, Writers};

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
    /// The API server whose objects are watched, beside the files; what both have is the files'.
    pub kubernetes: Option<KubeSettings>,
    /// Plaintext xDS, and certificates for this machine. A free port of the loopback address if absent, as for the other two.
    pub grpc_addr: Option<SocketAddr>,
    /// xDS and certificates over TLS.
    pub secure_grpc_addr: Option<SocketAddr>,
    /// Metrics, version, debug pages.
    pub monitoring_addr: Option<SocketAddr>,
    /// What this control plane is among others.
    pub own: Own,
    /// Who signs certificates.
    pub ca: CaSettings,
    /// How long changes are gathered.
    pub debounce: Debounce,
    /// How many streams may make resources at a time; as many as there are processors if absent.
    pub push_throttle: Option<usize>,
    /// More names and addresses in the certificate of the TLS port.
    pub serving_hosts: Vec<String>,
    /// Whether this replica may write to the cluster, when it is the one that leads: the status of objects, and the mesh's roots.
    pub writes: bool,
    /// How long the WorkloadEntry of a workload that registered itself outlives its proxy's connection.
    pub entry_grace: Duration,
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
}

/// Where the authority's key comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CaSettings {
    /// A self-signed root, kept in a directory or as long as the process lives. The key of tokens is kept beside it.
    SelfSigned {
        /// Where it is kept.
        dir: Option<PathBuf>,
    },
    /// Secret `cacerts` of the control plane's namespace if there is one (CA5), else a self-signed root that all replicas share in secret
    /// `istio-ca-secret` (CA4). Needs [`Settings::kubernetes`].
    Cluster,
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
            kubernetes: None,
            grpc_addr: None,
            secure_grpc_addr: None,
            monitoring_addr: None,
            own: Own::default(),
            ca: CaSettings::SelfSigned { dir: None },
            debounce: Debounce::default(),
            push_throttle: None,
            serving_hosts: Vec::new(),
            writes: true,
            entry_grace: register::GRACE,
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
    sources: JoinSet<anyhow::Result<()>>,
    tasks: TaskTracker,
    stop: CancellationToken,
    _stop: DropGuard,
}

impl ControlPlane {
    /// Starts everything, and returns when all sources have been read once.
    pub async fn start(settings: Settings) -> anyhow::Result<Self> {
        let mut plane = Self::open(settings).await?;
        plane.is_read().await?;
        Ok(plane)
    }

    /// Starts everything without a wait for the sources: until they have been read, `/ready` says no and proxies get nothing.
    pub async fn open(settings: Settings) -> anyhow::Result<Self> {
        let stop = CancellationToken::new();
        let guard = stop.clone().drop_guard();
        let tasks = TaskTracker::new();
        let metrics = Metrics::new();
        let client = match &settings.kubernetes {
            Some(settings) => Some(kube::connect(settings).await?),
            None => None,
        };
        let (authority, tokens, keeper) = authority(&settings.ca, &settings.own.namespace, client.clone()).await?;
        if let CaSettings::PluggedIn { dir } = &settings.ca {
            tasks.spawn(until(stop.clone(), reload::run(dir.clone(), authority.clone())));
        }
        if let Some(keeper) = keeper {
            tasks.spawn(until(stop.clone(), keeper.follow(authority.clone())));
        }
        watch_expiry(&authority, &metrics, &tasks, &stop);
        let reviewer = client.clone().map(Reviewer::new);
        let authenticator = Authenticator::new(tokens.clone(), reviewer, &MeshConfig::default().trust_domain);

        let own = settings.own;
        let model = Model::with_domain(own.mesh(), &own.domain);
        let shown = Arc::new(ArcSwap::new(model.context()));
        let known = Known {
            state: Arc::new(State::new(model.context())),
            model,
            own: own.clone(),
            shown: shown.clone(),
            authenticator: authenticator.clone(),
            metrics: metrics.clone(),
        };
        let (events, receiver) = mpsc::channel(EVENTS);
        let (sender, published) = watch::channel(Arc::new(Published::nothing()));
        tasks.spawn(engine::run(known, receiver, sender, settings.debounce, metrics.clone(), stop.clone()));
        tasks.spawn(until(stop.clone(), metrics.clone().upkeep()));

        let streams = Streams::default();
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let identity = identity();
        // Only a replica that may write has one.
        let writing = client.clone().filter(|_| settings.writes);
        let registration = writing.clone().map(|client| Registrar::new(client, &identity, settings.entry_grace));
        let (registrar, desk) = registration.unzip();
        let shared = Shared {
            registrar,
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
        let hosts = own.hosts().into_iter().chain(settings.serving_hosts).collect();
        let tls =
            ServingTls::start(authority.clone(), hosts, stop.clone()).context("the control plane's own certificate")?;
        let grpc = bind(settings.grpc_addr).await?;
        let secure = bind(settings.secure_grpc_addr).await?;
        let monitoring = bind(settings.monitoring_addr).await?;
        let webhooks = match settings.webhooks {
            Some(wanted) => {
                if let Some(client) = writing.clone() {
                    let (authority, revision) = (authority.clone(), own.revision.clone());
                    tasks.spawn(ca_bundle::run(client, authority, revision, stop.clone()));
                }
                Some(serve_webhooks(wanted, &own, shown.clone(), tls.clone(), &tasks, &stop).await?)
            }
            None => None,
        };
        let findings = Arc::new(ArcSwap::from_pointee(Vec::new()));
        let files = match &settings.config_dirs[..] {
            [] => None,
            paths => Some(FileSource::new(paths)?.of(own.clone())),
        };
        let told = Told::default();
        if let Some(client) = writing {
            let (own, authority) = (own.clone(), authority.clone());
            let (published, shown) = (published.clone(), shown.clone());
            let writers = Writers { client, own, identity, authority, published, shown };
            writers.start(&told, desk, &tasks, &stop);
        }
        let sources = Sources { files, cluster: client.map(|client| KubeSource::new(client, own.clone())) };
        let mut plane = Self {
            grpc: grpc.local_addr()?,
            secure: secure.local_addr()?,
            monitoring: monitoring.local_addr()?,
            webhooks,
            authority,
            tokens,
            findings: findings.clone(),
            events: events.clone(),
            published: published.clone(),
            sources: JoinSet::new(),
            tasks: tasks.clone(),
            stop: stop.clone(),
            _stop: guard,
        };
        for (listener, tls) in [(grpc, None), (secure, Some(tls))] {
            tasks.spawn(serve(listener, tls, discovery.clone(), certificates.clone(), stop.clone()));
        }
        let pages = Pages { metrics, streams, published, shown, findings, events, authenticator };
        tasks.spawn(debug::serve(monitoring, pages, stop));
        plane.read(sources, own, told);
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

    /// Returns once all sources have been read.
    ///
    /// # Errors
    /// A source failed for good.
    pub async fn is_read(&mut self) -> anyhow::Result<()> {
        let mut published = self.published.clone();
        tokio::select! {
            first = published.wait_for(|published| published.number > 0) => {
                first.context("the control plane stopped while it read its configuration")?;
                // They go on, and end with `stop`.
                self.sources.detach_all();
                Ok(())
            }
            Some(ended) = self.sources.join_next() => {
                ended.context("a source failed")??;
                anyhow::bail!("a source ended before it had read everything")
            }
        }
    }

    /// Starts the sources.
    fn read(&mut self, sources: Sources, own: Own, told: Told) {
        let Sources { files, cluster } = sources;
        let mut merge = Merge::new(usize::from(files.is_some()) + usize::from(cluster.is_some()), own);
        let (sender, mut updates) = mpsc::channel::<(usize, Update)>(EVENTS);
        let mut count = 0;
        if let Some(source) = files {
            let own = numbered(count, sender.clone(), &self.tasks);
            let stop = self.stop.clone();
            self.sources.spawn(async move { Ok(source.run(own, stop).await?) });
            count += 1;
        }
        if let Some(source) = cluster {
            let own = numbered(count, sender.clone(), &self.tasks);
            let stop = self.stop.clone();
            self.sources.spawn(async move {
                source.run(own, stop).await;
                Ok(())
            });
            count += 1;
        }
        let (events, findings) = (self.events.clone(), self.findings.clone());
        self.tasks.spawn(async move {
            if count == 0 {
                // Nothing will be read, so everything has been.
                let _ = events.send(Event::Changes(Vec::new())).await;
            }
            while let Some((source, update)) = updates.recv().await {
                let news = update.findings.is_some() || update.verdicts.is_some();
                let changes = merge.take(source, update);
                if news || changes.as_ref().is_some_and(|changes| changes.iter().any(selects)) {
                    let judged = Judged { findings: merge.findings(), verdicts: merge.verdicts() };
                    findings.store(Arc::new(judged.findings.clone()));
                    told.judged.send_replace(Arc::new(judged));
                }
                told.look(&merge);
                if let Some(changes) = changes
                    && events.send(Event::Changes(changes)).await.is_err()
                {
                    return;
                }
            }
        });
    }
}

/// True for changes by which namespaces may come or go, and with them what was found there, and for those of which findings are made late.
fn selects(change: &Change) -> bool {
    let kind = match change {
        Change::Set(object) => object.key.kind,
        Change::Remove(key) => key.kind,
    };
    matches!(kind, Kind::Namespace | Kind::ConfigMap | Kind::Ingress | Kind::IngressClass)
}

/// What tells this replica from all others: in a pod its name, which is no other pod's; always a part that no other process has.
fn identity() -> String {
    let name = std::env::var("POD_NAME").or_else(|_| std::env::var("HOSTNAME")).unwrap_or_default();
    format!("{name}_{}", uuid::Uuid::new_v4())
}

/// The sources that the settings name.
struct Sources {
    files: Option<FileSource>,
    cluster: Option<KubeSource>,
}

/// Where a source speaks, so that all are heard at one place and told apart.
fn numbered(number: usize, all: mpsc::Sender<(usize, Update)>, tasks: &TaskTracker) -> mpsc::Sender<Update> {
    let (sender, mut updates) = mpsc::channel(EVENTS);
    tasks.spawn(async move {
        while let Some(update) = updates.recv().await {
            if all.send((number, update)).await.is_err() {
                return;
            }
        }
    });
    sender
}

/// The authority, the key of tokens, and the secret that keeps the authority if one does.
async fn authority(
    settings: &CaSettings,
    namespace: &str,
    client: Option<Client>,
) -> anyhow::Result<(AuthorityHandle, TokenKey, Option<Keeper>)> {
    let now = SystemTime::now();
    let organization = MeshConfig::default().trust_domain;
    let mut kept = None;
    let (authority, tokens) = match settings {
        CaSettings::SelfSigned { dir: None } => (Authority::self_signed(&organization, now)?, TokenKey::generate()?),
        CaSettings::SelfSigned { dir: Some(dir) } => (Authority::kept(dir, &organization, now)?, TokenKey::kept(dir)?),
        CaSettings::PluggedIn { dir } => (Authority::plugged_in(dir)?, TokenKey::found(dir)?),
        CaSettings::Cluster => {
            let client = client.context("an authority of the cluster needs an API server: give --kubeconfig FILE")?;
            let (authority, keeper) = cluster::load(client, namespace, &organization, ROOT_TTL, now).await?;
            kept = Some(keeper);
            // Workloads show tokens of Kubernetes; those of this key are for this process alone.
            (authority, TokenKey::generate()?)
        }
    };
    Ok((AuthorityHandle::new(authority), tokens, kept))
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

/// Serves what the API server calls; returns where.
async fn serve_webhooks(
    wanted: Webhooks,
    own: &Own,
    shown: Arc<ArcSwap<PushContext>>,
    tls: ServingTls,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> anyhow::Result<SocketAddr> {
    let injector = Injector::start(wanted.injection, own.clone(), shown, stop.clone())?;
    let judge = admission::Settings { revision: own.revision.clone() };
    let routes = webhook::injection(injector).merge(webhook::validation(judge));
    let listener = bind(wanted.addr).await?;
    let address = listener.local_addr()?;
    let stop = stop.clone();
    tasks.spawn(async move { webhook::serve(listener, &tls, routes, stop).await });
    Ok(address)
}

async fn serve(
    listener: TcpListener,
    tls: Option<ServingTls>,
    discovery: Discovery,
    certificates: CertificateService,
    stop: CancellationToken,
) {
    let incoming = transport::incoming(listener, tls, stop.clone());
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

//! The one composition root: a whole proxy in this process. Used by `mesh-proxy`, `mesh-gateway`, `meshctl` and tests.
//!
//! Workers have threads of their own; everything else (xDS, identity, DNS, admin) runs on one control thread, so that nothing of
//! it ever stands in the way of a request.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail};
use http::HeaderValue;
use mesh_proto::names::{SECRET_DEFAULT, SECRET_ROOT};
use tokio_util::sync::CancellationToken;

use crate::admin::{self, Door};
use crate::bootstrap::Bootstrap;
use crate::dns;
use crate::drain::{Drain, Phase};
use crate::identity;
use crate::memory;
use crate::runtime::{Shared, Workers};
use crate::snapshot::{Snapshot, Store};
use crate::tcp::exchange;
use crate::telemetry::peer::Peer;
use crate::telemetry::stats::Metrics;
use crate::tls::SecretStore;
use crate::worker::NodeTold;
use crate::xds::client::Protocol;
use crate::xds::decode::{At, Context};
use crate::xds::kind::Kind;
use crate::xds::publisher::Publisher;
use crate::xds::state::{Origin, Resource, State, Update};
use crate::xds::{client, file};

/// How often metrics are tidied.
const UPKEEP: Duration = Duration::from_secs(5);

/// What is not part of the configuration.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Worker threads; 0 is one for each processor.
    pub workers: usize,
}

/// The parts of a running proxy, as its admin server sees them.
#[derive(Debug)]
pub struct Running {
    /// With what it started.
    pub bootstrap: Bootstrap,
    /// Configuration as workers see it.
    pub store: Arc<Store>,
    /// Configuration as it came.
    pub publisher: Arc<Publisher>,
    /// Workers and their sockets.
    pub workers: Arc<Workers>,
    /// Worker threads.
    pub concurrency: usize,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Secrets.
    pub secrets: Arc<SecretStore>,
    /// The shutdown switch.
    pub drain: Drain,
    /// When it started.
    pub started: (Instant, SystemTime),
    /// Cancelled by `/quitquitquit`.
    pub quit: CancellationToken,
}

impl Running {
    /// True when it can serve: the first configuration is there and listened for, and so is the identity, if one is wanted.
    pub fn is_ready(&self) -> bool {
        *self.publisher.ready().borrow() && self.has_identity() && self.drain.phase() == Phase::Running
    }

    fn has_identity(&self) -> bool {
        !self.wants_identity()
            || (self.secrets.certificate(SECRET_DEFAULT).load().is_some()
                && self.secrets.trust(SECRET_ROOT).load().is_some())
    }

    fn wants_identity(&self) -> bool {
        self.bootstrap.identity.is_some() || self.bootstrap.mounted.is_some()
    }
}

/// Where our own servers really listen.
#[derive(Debug)]
struct Doors {
    admin: admin::Addresses,
    dns: Vec<SocketAddr>,
}

/// A running proxy. Dropping it stops it at once, without waiting.
#[derive(Debug)]
pub struct Proxy {
    running: Arc<Running>,
    doors: Doors,
    stop: CancellationToken,
    control: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Starts one. Returns when the bootstrap's own resources are in use and the admin servers listen; [`Proxy::ready`] waits for the rest.
    pub async fn start(bootstrap: Bootstrap, options: Options) -> Result<Self> {
        let stop = CancellationToken::new();
        let (told, hears) = tokio::sync::oneshot::channel();
        let stopped = stop.clone();
        let control = std::thread::Builder::new().name("control".into()).spawn(move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => {
                    let _ = told.send(Err(error.into()));
                    return;
                }
            };
            runtime.block_on(async move {
                match set_up(bootstrap, &options, &stopped).await {
                    Ok((running, doors)) => {
                        let workers = running.workers.clone();
                        // Whoever started this may have gone already; then there is nothing to do either.
                        let _ = told.send(Ok((running, doors)));
                        stopped.cancelled().await;
                        workers.join();
                    }
                    Err(error) => {
                        let _ = told.send(Err(error));
                    }
                }
            });
        })?;
        let started = hears.await.context("the control thread ended")?;
        let (running, doors) = started?;
        Ok(Self { running, doors, stop, control: Some(control) })
    }

    /// Where a listener really listens; `None` if it does not (yet).
    pub fn listener_addr(&self, name: &str) -> Option<SocketAddr> {
        self.running.workers.listener_addr(name)
    }

    /// Where the admin server listens.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.doors.admin.admin
    }

    /// Where readiness is told.
    pub fn status_addr(&self) -> Option<SocketAddr> {
        self.doors.admin.status
    }

    /// Where our metrics are.
    pub fn prometheus_addr(&self) -> Option<SocketAddr> {
        self.doors.admin.prometheus
    }

    /// Where our metrics and the application's are.
    pub fn merged_addr(&self) -> Option<SocketAddr> {
        self.doors.admin.merged
    }

    /// Where the workload's DNS is answered, by UDP and by TCP; empty if it is not.
    pub fn dns_addrs(&self) -> &[SocketAddr] {
        &self.doors.dns
    }

    /// Returns once it can serve: the first configuration has come and is listened for, and so has the identity, if one is wanted.
    pub async fn ready(&self) {
        let mut ready = self.running.publisher.ready();
        let mut secrets = self.running.secrets.subscribe();
        // Their senders live as long as `self`.
        let _ = ready.wait_for(|ready| *ready).await;
        while !self.running.has_identity() {
            if secrets.changed().await.is_err() {
                return;
            }
        }
    }

    /// Its parts.
    pub fn running(&self) -> &Arc<Running> {
        &self.running
    }

    /// The configuration that workers see now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.running.store.load()
    }

    /// Goes on, but tells whoever asks that it will go: the first step of an end that loses no request.
    pub fn leave(&self) {
        self.running.drain.advance(Phase::Leaving);
    }

    /// Takes no new connections and lets those that stand finish for as long as `patience`; returns how many were left.
    pub async fn drain(&self, patience: Duration) -> usize {
        self.running.drain.drain(patience).await
    }

    /// Resolves when `/quitquitquit` was asked for.
    pub async fn quit_requested(&self) {
        self.running.quit.cancelled().await;
    }

    /// Cuts what is left and ends all threads.
    pub async fn stop(mut self) {
        self.cut();
        if let Some(control) = self.control.take() {
            let _ = tokio::task::spawn_blocking(move || control.join()).await;
        }
    }

    fn cut(&self) {
        self.running.drain.advance(Phase::Stopped);
        self.running.workers.close();
        self.stop.cancel();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
    }
}

/// Puts the parts together; runs on the control thread.
async fn set_up(bootstrap: Bootstrap, options: &Options, stop: &CancellationToken) -> Result<(Arc<Running>, Doors)> {
    let metadata = bootstrap.metadata();
    let metrics = Arc::new(Metrics::new(Peer::from_metadata(&metadata)));
    let store = Arc::new(Store::default());
    let drain = Drain::default();
    let message = Peer::message(&metadata);
    let node = NodeTold {
        metadata: HeaderValue::try_from(Peer::encode(&message)).context("node metadata")?,
        id: HeaderValue::try_from(bootstrap.node.id.as_str()).context("node.id")?,
        preamble: exchange::preamble(message, &bootstrap.node.id),
    };
    let shared = Shared {
        store: store.clone(),
        metrics: metrics.clone(),
        drain: drain.clone(),
        node: Arc::new(node),
        listener_drain: bootstrap.listener_drain,
    };
    let concurrency = match options.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        some => some,
    };
    let mut context = Context::default();
    if let Some(dns) = &bootstrap.dns {
        context.place = dns.place.clone();
    }
    context.delta = bootstrap.ads.as_ref().is_some_and(|ads| ads.protocol == Protocol::Delta);
    let secrets = context.secrets.clone();
    let own = bootstrap.identity.is_some() || bootstrap.mounted.is_some();
    let own = own.then(|| [SECRET_DEFAULT.into(), SECRET_ROOT.into()]).into_iter().flatten();
    let mut state = State::new(context, own);
    fixed(&bootstrap, &mut state)?;
    let workers = Arc::new(Workers::start(concurrency, &shared).context("workers")?);
    let mut expected: BTreeSet<Kind> = bootstrap.files.iter().map(|(kind, _)| *kind).collect();
    let by_ads = bootstrap.ads.iter().flat_map(|ads| &ads.kinds).filter(|kind| kind.is_wildcard());
    expected.extend(by_ads.copied());
    let publisher = Publisher::new(state, store.clone(), workers.clone(), expected);
    publisher.publish();
    let running = Arc::new(Running {
        bootstrap,
        store,
        publisher: publisher.clone(),
        workers,
        concurrency,
        metrics: metrics.clone(),
        secrets: secrets.clone(),
        drain,
        started: (Instant::now(), SystemTime::now()),
        quit: CancellationToken::new(),
    });
    let doors = match open(&running, stop).await {
        Ok(doors) => doors,
        Err(error) => {
            // The workers run already.
            running.drain.advance(Phase::Stopped);
            running.workers.join();
            return Err(error);
        }
    };
    spawn_sources(&running, stop);
    Ok((running, doors))
}

/// Takes the resources that the bootstrap itself holds. Here a bad one is an error.
fn fixed(bootstrap: &Bootstrap, state: &mut State) -> Result<()> {
    let mut seen = std::collections::HashMap::new();
    for (kind, body) in &bootstrap.resources {
        let index = seen.entry(*kind).and_modify(|index| *index += 1).or_insert(0_usize);
        let resource = Resource { name: None, version: String::new(), body: body.clone() };
        let update = Update { resources: vec![resource], ..Update::default() };
        let refused = state.update(*kind, update, Origin::Static, tokio::time::Instant::now());
        if let Some(refused) = refused.into_iter().next() {
            let path = Bootstrap::path_of(*kind, *index);
            let refusal = Err::<(), _>(refused.refusal).at(path);
            return refusal.with_context(|| format!("bootstrap: `{}`", refused.name));
        }
    }
    Ok(())
}

async fn open(running: &Arc<Running>, stop: &CancellationToken) -> Result<Doors> {
    let wanted = running.bootstrap.servers;
    let mut doors = admin::Addresses::default();
    for (door, address, actual) in [
        (Door::Admin, wanted.admin, &mut doors.admin),
        (Door::Status, wanted.status, &mut doors.status),
        (Door::Prometheus, wanted.prometheus, &mut doors.prometheus),
        (Door::Merged, wanted.merged, &mut doors.merged),
    ] {
        if let Some(address) = address {
            let bound = admin::serve(door, address, running.clone(), stop.clone()).await;
            *actual = Some(bound.with_context(|| format!("cannot listen on {address} ({door:?})"))?);
        }
    }
    if running.bootstrap.ads.is_none() && running.bootstrap.resources.is_empty() && running.bootstrap.files.is_empty() {
        bail!("there is nothing to serve: neither resources nor a source of them");
    }
    let dns = match &running.bootstrap.dns {
        Some(settings) => dns::server::serve(settings.clone(), running.store.clone(), &running.metrics, stop)
            .await
            .context("cannot answer DNS")?,
        None => Vec::new(),
    };
    Ok(Doors { admin: doors, dns })
}

fn spawn_sources(running: &Arc<Running>, stop: &CancellationToken) {
    let (bootstrap, publisher, secrets) = (&running.bootstrap, &running.publisher, &running.secrets);
    tokio::spawn(publisher.clone().run(secrets.clone(), stop.clone()));
    tokio::spawn(identity::files::run(bootstrap.mounted.clone(), secrets.clone(), stop.clone()));
    if let Some(mut settings) = bootstrap.identity.clone() {
        settings.metrics.get_or_insert_with(|| running.metrics.clone());
        let (secrets, stop) = (secrets.clone(), stop.clone());
        tokio::spawn(async move {
            if let Err(error) = identity::run(settings, secrets, stop).await {
                tracing::error!(%error, "there will be no identity");
            }
        });
    }
    for (kind, path) in &bootstrap.files {
        tokio::spawn(file::watch(path.clone(), *kind, publisher.clone(), stop.clone()));
    }
    if let Some(settings) = bootstrap.ads.clone() {
        let node = bootstrap.node.clone();
        tokio::spawn(client::run(settings, node, publisher.clone(), secrets.clone(), stop.clone()));
    }
    let (metrics, stop) = (running.metrics.clone(), stop.clone());
    tokio::spawn(async move {
        let mut every = tokio::time::interval(UPKEEP);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = every.tick() => {
                    metrics.upkeep();
                    if mesh_proto::descriptor::forget_unused() {
                        memory::give_back();
                        memory::forget_program();
                    }
                }
            }
        }
    });
}

//! Between what is held ([`State`]) and what workers see: builds a snapshot whenever something came, publishes it, opens its sockets.
//!
//! Sources of configuration ([`super::client`], [`super::file`], the bootstrap) call [`Publisher::update`]; changes of secrets, DNS and time
//! are noticed by [`Publisher::run`].

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::kind::Kind;
use super::state::{Origin, Refused, State, Update};
use crate::Name;
use crate::balance::dns;
use crate::runtime::Workers;
use crate::snapshot::Store;
use crate::tls::SecretStore;

/// How long until a listener whose address was taken is tried again.
const BIND_AGAIN: Duration = Duration::from_millis(500);

/// What became of the updates of a kind: Envoy's `cds.update_*` and `lds.update_*`.
#[derive(Debug, Default)]
pub struct Counts {
    /// Updates that were taken whole.
    pub success: AtomicU64,
    /// Updates with a refused resource.
    pub rejected: AtomicU64,
}

/// The way from resources to workers.
#[derive(Debug)]
pub struct Publisher {
    state: Mutex<State>,
    store: Arc<Store>,
    workers: Arc<Workers>,
    resolved: Arc<Notify>,
    /// Kinds of which everything is expected once before we are ready.
    expected: Mutex<BTreeSet<Kind>>,
    unbound: Mutex<Vec<(Name, String)>>,
    ready: watch::Sender<bool>,
    changed: watch::Sender<u64>,
    counts: [Counts; Kind::ALL.len()],
    connected: AtomicBool,
}

impl Publisher {
    /// `expected` are the kinds that a source will send; readiness waits for their first update.
    pub fn new(state: State, store: Arc<Store>, workers: Arc<Workers>, expected: BTreeSet<Kind>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(state),
            store,
            workers,
            resolved: Arc::default(),
            expected: Mutex::new(expected),
            unbound: Mutex::default(),
            ready: watch::channel(false).0,
            changed: watch::channel(0).0,
            counts: Default::default(),
            connected: AtomicBool::default(),
        })
    }

    /// What is held. Not to be kept across an await.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Takes an update, publishes what follows from it, and returns what was refused.
    pub fn update(&self, kind: Kind, update: Update, origin: Origin) -> Vec<Refused> {
        let refused = self.state.lock().update(kind, update, origin, Instant::now());
        let counts = self.counts(kind);
        if refused.is_empty() { &counts.success } else { &counts.rejected }.fetch_add(1, Ordering::Relaxed);
        for one in &refused {
            tracing::warn!(kind = ?kind, name = &*one.name, reason = %one.refusal, "resource refused; the last good one stays");
        }
        if origin == Origin::Dynamic {
            self.expected.lock().remove(&kind);
        }
        self.publish();
        refused
    }

    /// How updates of a kind went.
    pub fn counts(&self, kind: Kind) -> &Counts {
        &self.counts[kind as usize]
    }

    /// Notes whether there is a stream to the control plane.
    pub fn connected(&self, connected: bool) {
        self.connected.store(connected, Ordering::Relaxed);
    }

    /// True while there is a stream to the control plane, as far as is known.
    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// Publishes a snapshot if there is a new one.
    pub fn publish(&self) {
        let (next, to_resolve, settled) = {
            let mut state = self.state.lock();
            let next = state.build(Instant::now());
            (next, state.take_to_resolve(), state.is_settled())
        };
        for (cluster, specs) in to_resolve {
            tokio::spawn(dns::resolve(cluster, specs, self.resolved.clone()));
        }
        if let Some(next) = next {
            let version = self.store.publish(next);
            tracing::debug!(version, "configuration published");
            self.bind();
        }
        let ready = settled && self.expected.lock().is_empty() && self.unbound.lock().is_empty();
        if ready && !*self.ready.borrow() {
            self.ready.send_replace(true);
        }
        self.changed.send_modify(|version| *version += 1);
    }

    fn bind(&self) {
        let errors = self.workers.bind(&self.store);
        let mut unbound = self.unbound.lock();
        let errors: Vec<(Name, String)> = errors.into_iter().map(|(name, error)| (name, error.to_string())).collect();
        for (name, error) in errors.iter().filter(|one| !unbound.contains(one)) {
            tracing::error!(listener = &**name, error, "cannot listen; will try again");
        }
        *unbound = errors;
    }

    /// Listeners whose sockets could not be opened, and why.
    pub fn unbound(&self) -> Vec<(Name, String)> {
        self.unbound.lock().clone()
    }

    /// Told once all that was expected has come, is usable, and is listened for; it stays so.
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// Marked changed whenever what is wanted of a control plane may have changed.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Notices what changes without an update: secrets, addresses of names, time that is up.
    pub async fn run(self: Arc<Self>, secrets: Arc<SecretStore>, stop: CancellationToken) {
        let mut secrets = secrets.subscribe();
        let mut changed = self.changed();
        loop {
            let deadline = self.state.lock().deadline(Instant::now());
            let again = !self.unbound.lock().is_empty();
            let timer = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                // An update moved the deadline.
                _ = changed.changed() => {}
                _ = secrets.changed() => self.publish(),
                () = self.resolved.notified() => self.publish(),
                () = timer => self.publish(),
                () = tokio::time::sleep(BIND_AGAIN), if again => {
                    self.bind();
                    self.publish();
                }
            }
        }
    }
}

//! What one worker thread has for itself: a view of the snapshot, upstream pools, metric handles, randomness. No locks.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;

use crate::connect::Pools;
use crate::drain::{Drain, Phase};
use crate::listener::place::Places;
use crate::memory;
use crate::runtime::{Counts, Shared};
use crate::snapshot::{Snapshot, Store};
use crate::telemetry::stats;

/// How often pools are looked through for what is idle or of no more use.
const SWEEP: Duration = Duration::from_secs(1);

/// State of a worker, shared by its tasks.
#[derive(Debug)]
pub struct Worker {
    store: Arc<Store>,
    snapshot: RefCell<Arc<Snapshot>>,
    /// Connections to endpoints.
    pub pools: Pools,
    /// Connections of clients.
    pub places: Rc<Places>,
    /// How long a connection may take to finish whose chain is gone.
    pub listener_drain: Duration,
    /// Metric handles.
    pub metrics: stats::Local,
    /// The shutdown switch.
    pub drain: Drain,
    /// Who this proxy is, as it tells other proxies.
    pub node: Arc<NodeTold>,
    /// Connections have given back their buffers: see [`crate::memory`].
    pub freed_much: Cell<bool>,
    random: RefCell<fastrand::Rng>,
    ids: Cell<u64>,
}

/// What a proxy tells others of itself.
#[derive(Debug)]
pub struct NodeTold {
    /// `x-envoy-peer-metadata`.
    pub metadata: HeaderValue,
    /// `x-envoy-peer-metadata-id`.
    pub id: HeaderValue,
    /// Both, before the bytes of a TCP connection ([`crate::tcp::exchange`]).
    pub preamble: bytes::Bytes,
}

impl Worker {
    /// A worker; `index` makes connection ids unique in the process.
    pub fn new(index: usize, shared: Shared) -> Rc<Self> {
        let Shared { store, metrics, drain, node, listener_drain } = shared;
        Rc::new(Self {
            snapshot: RefCell::new(store.load()),
            store,
            pools: Pools::default(),
            places: Rc::default(),
            listener_drain,
            metrics: stats::Local::new(metrics),
            drain,
            node,
            freed_much: false.into(),
            random: RefCell::new(fastrand::Rng::new()),
            ids: Cell::new((index as u64) << 48),
        })
    }

    /// Follows configuration and shutdown for all connections of the worker, and keeps its pools tidy; returns when all must stop.
    pub async fn attend(&self, counts: &Counts) {
        let mut changed = self.store.subscribe();
        let mut phase = self.drain.subscribe();
        let mut sweep = tokio::time::interval(SWEEP);
        loop {
            tokio::select! {
                // Both senders live as long as `self`.
                _ = phase.changed() => {
                    let phase = *phase.borrow_and_update();
                    self.places.enter(phase);
                    if phase == Phase::Stopped {
                        return;
                    }
                }
                _ = changed.changed() => {
                    self.places.look(self);
                    self.pools.follow(&self.snapshot());
                }
                _ = sweep.tick() => {
                    self.pools.follow(&self.snapshot());
                    self.pools.sweep();
                    if self.freed_much.take() {
                        memory::give_back();
                    }
                }
            }
            counts.pools(self.pools.counts());
        }
    }

    /// The newest snapshot; costs one atomic load unless it changed.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        let mut current = self.snapshot.borrow_mut();
        if current.version != self.store.version() {
            *current = self.store.load();
        }
        current.clone()
    }

    /// Version of the newest snapshot.
    pub fn version(&self) -> u64 {
        self.store.version()
    }

    /// A random number.
    pub fn random(&self) -> u64 {
        self.random.borrow_mut().u64(..)
    }

    /// Uses the worker's generator.
    pub fn with_random<R>(&self, f: impl FnOnce(&mut fastrand::Rng) -> R) -> R {
        f(&mut self.random.borrow_mut())
    }

    /// An id for a connection.
    pub fn next_id(&self) -> u64 {
        let id = self.ids.get() + 1;
        self.ids.set(id);
        id
    }
}

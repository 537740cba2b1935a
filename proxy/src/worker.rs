//! What one worker thread has for itself: a view of the snapshot, upstream pools, metric handles, randomness. No locks.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use http::HeaderValue;

use crate::connect::Pools;
use crate::drain::Drain;
use crate::snapshot::{Snapshot, Store};
use crate::telemetry::stats;

/// State of a worker, shared by its tasks.
#[derive(Debug)]
pub struct Worker {
    store: Arc<Store>,
    snapshot: RefCell<Arc<Snapshot>>,
    /// Connections to endpoints.
    pub pools: Pools,
    /// Metric handles.
    pub metrics: stats::Local,
    /// The shutdown switch.
    pub drain: Drain,
    /// Who this proxy is, as it tells other proxies.
    pub node: Arc<NodeHeaders>,
    random: RefCell<fastrand::Rng>,
    ids: Cell<u64>,
}

/// Headers by which a proxy tells who it is.
#[derive(Debug)]
pub struct NodeHeaders {
    /// `x-envoy-peer-metadata`.
    pub metadata: HeaderValue,
    /// `x-envoy-peer-metadata-id`.
    pub id: HeaderValue,
}

impl Worker {
    /// A worker; `index` makes connection ids unique in the process.
    pub fn new(
        index: usize,
        store: Arc<Store>,
        metrics: Arc<stats::Metrics>,
        drain: Drain,
        node: Arc<NodeHeaders>,
    ) -> Rc<Self> {
        Rc::new(Self {
            snapshot: RefCell::new(store.load()),
            store,
            pools: Pools::default(),
            metrics: stats::Local::new(metrics),
            drain,
            node,
            random: RefCell::new(fastrand::Rng::new()),
            ids: Cell::new((index as u64) << 48),
        })
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

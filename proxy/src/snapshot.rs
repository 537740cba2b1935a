//! The configuration a request sees: one immutable value, published whole.
//!
//! Written by [`crate::xds`] (one xDS response is one publish) or by the bootstrap, read by workers. A snapshot does no I/O.
//! Endpoints live one level below, in [`Cluster::endpoints`], so that endpoint churn neither republishes the world
//! nor loses load-balancer or outlier state; certificates live in [`crate::tls::SecretStore`] for the same reason.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use indexmap::IndexMap;
use tokio::sync::watch;

use crate::Name;
use crate::balance::Cluster;
use crate::dns;
use crate::listener::Listener;
use crate::route::RouteTable;

/// Resources by name. They are looked up for each request, and clients have no part in which names there are.
pub type Table<T> = IndexMap<Name, Arc<T>, foldhash::fast::RandomState>;

/// Everything that listeners, routes and clusters say, at one moment. Snapshots share what is the same in them.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Grows by one with each publish; 0 before the first.
    pub version: u64,
    /// Listeners by name.
    pub listeners: Arc<Table<Listener>>,
    /// Route tables that were named by RDS. Inline route tables live in their filter chain.
    pub routes: Arc<Table<RouteTable>>,
    /// Clusters by name.
    pub clusters: Arc<Table<Cluster>>,
    /// Names that the workload's DNS knows; absent until the control plane has sent them.
    pub names: Option<Arc<dns::Table>>,
    /// Shared by all published snapshots of a store, which counts them by it.
    pub living: Arc<()>,
}

/// Holds the current snapshot and tells who waits that it changed.
#[derive(Debug)]
pub struct Store {
    current: ArcSwap<Snapshot>,
    version: AtomicU64,
    changed: watch::Sender<u64>,
    living: Arc<()>,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            current: ArcSwap::default(),
            version: AtomicU64::new(0),
            changed: watch::channel(0).0,
            living: Arc::default(),
        }
    }
}

impl Store {
    /// The newest snapshot. Workers keep it and compare [`Store::version`] rather than call this for every request.
    pub fn load(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// The version of the newest snapshot: one relaxed load, cheap enough for every request.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Makes `snapshot` the current one and gives it the next version. One writer only (the xDS client).
    pub fn publish(&self, mut snapshot: Snapshot) -> u64 {
        let version = self.version() + 1;
        snapshot.version = version;
        snapshot.living = self.living.clone();
        self.current.store(Arc::new(snapshot));
        self.version.store(version, Ordering::Release);
        self.changed.send_replace(version);
        version
    }

    /// Published snapshots that somebody still uses: the current one, and those of requests that began with an older one.
    pub fn living(&self) -> usize {
        Arc::strong_count(&self.living) - 1
    }

    /// A receiver of versions; it is marked changed by each publish.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

//! The streams that are open now, for the debug pages.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use mesh_proto::spiffe::Identity;
use parking_lot::Mutex;

use super::session::Session;
use crate::metrics::Metrics;
use crate::model::Node;

/// An open stream.
#[derive(Debug)]
pub struct Stream {
    /// Number, unique in the process.
    pub id: u64,
    /// Who.
    pub node: Arc<Node>,
    /// From where.
    pub remote: SocketAddr,
    /// Proven identity; none on plaintext.
    pub identity: Option<Identity>,
    /// Since when.
    pub since: SystemTime,
    /// What it was told.
    pub session: Mutex<Session>,
    /// Number of the newest published state of which it has been sent all.
    pub offered: AtomicU64,
}

impl Stream {
    /// `NAME.NAMESPACE`, as the debug pages call proxies.
    pub fn proxy_id(&self) -> String {
        format!("{}.{}", self.node.name, self.node.namespace)
    }
}

/// All open streams.
#[derive(Debug, Clone, Default)]
pub struct Streams {
    open: Arc<Mutex<BTreeMap<u64, Arc<Stream>>>>,
    next: Arc<AtomicU64>,
}

/// An open stream, forgotten on drop.
#[derive(Debug)]
pub struct Open {
    stream: Arc<Stream>,
    streams: Streams,
    metrics: Metrics,
}

impl std::ops::Deref for Open {
    type Target = Stream;

    fn deref(&self) -> &Stream {
        &self.stream
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.streams.open.lock().remove(&self.stream.id);
        self.metrics.connected.decrement(1.0);
    }
}

impl Streams {
    /// Remembers a stream.
    pub fn open(
        &self,
        node: Node,
        remote: SocketAddr,
        identity: Option<Identity>,
        session: Session,
        metrics: &Metrics,
    ) -> Open {
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let since = SystemTime::now();
        let (node, session, offered) = (Arc::new(node), Mutex::new(session), AtomicU64::new(0));
        let stream = Arc::new(Stream { id, node, remote, identity, since, session, offered });
        self.open.lock().insert(id, stream.clone());
        metrics.connected.increment(1.0);
        Open { stream, streams: self.clone(), metrics: metrics.clone() }
    }

    /// Those that are open, oldest first.
    pub fn all(&self) -> Vec<Arc<Stream>> {
        self.open.lock().values().cloned().collect()
    }

    /// The newest stream of a proxy, by `NAME.NAMESPACE` or the whole id of its node.
    pub fn find(&self, proxy: &str) -> Option<Arc<Stream>> {
        self.open.lock().values().rev().find(|one| one.proxy_id() == proxy || *one.node.id == *proxy).cloned()
    }
}

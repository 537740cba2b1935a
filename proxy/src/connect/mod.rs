//! Connections to endpoints: a pool for each worker, without locks.
//!
//! Comes after [`crate::balance`]; the last stage before the wire. `dial` makes connections, this file keeps them. A connection is
//! looked at before it is used again, so that one which the endpoint has closed meanwhile costs no request (BX11).

pub mod dial;
pub mod io;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::{http1, http2};
use tokio::time::Instant;

use crate::Name;
use crate::balance::{
    Address, Cluster, Discovery, Endpoint, EndpointSet, Permit, Resource, Transport, UpstreamProtocol,
};
use crate::http::body::RequestBody;
use crate::http::error::Error;
use crate::http::names;
use crate::runtime::PoolCounts;
use crate::snapshot::Snapshot;
use crate::tls::TlsInfo;

/// Streams on one HTTP/2 connection unless configured; the peer's own limit holds besides.
const MAX_STREAMS: u32 = 1024;

/// Which HTTP version a request needs upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Want {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// Whatever TLS agrees on.
    Alpn,
}

impl Want {
    /// By the cluster, and what the client speaks.
    pub fn of(protocol: UpstreamProtocol, downstream: http::Version, upgrade: bool) -> Self {
        match protocol {
            // An upgrade needs a connection of its own; a meshed peer takes both versions on every port.
            _ if upgrade => Self::Http1,
            UpstreamProtocol::Http1 => Self::Http1,
            UpstreamProtocol::Http2 => Self::Http2,
            UpstreamProtocol::Downstream if downstream == http::Version::HTTP_2 => Self::Http2,
            UpstreamProtocol::Downstream => Self::Http1,
            UpstreamProtocol::Alpn => Self::Alpn,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    cluster: Name,
    address: Address,
    /// Other TLS settings, other connections.
    tls: usize,
    server_name: Option<Name>,
    want: Want,
}

/// What is known of a connection.
#[derive(Debug)]
pub struct Meta {
    /// Our address.
    pub local: Option<SocketAddr>,
    /// TLS.
    pub tls: Option<Arc<TlsInfo>>,
    socket: Option<Arc<tokio::net::TcpStream>>,
    created: Instant,
    requests: Cell<u32>,
    streams: Cell<u32>,
    /// How long the endpoint keeps it without a request, if it told.
    kept: Cell<Option<Duration>>,
}

/// A connection taken for one request.
#[derive(Debug)]
pub enum Taken {
    /// HTTP/1, exclusively.
    Http1(Http1),
    /// A stream of HTTP/2.
    Http2(Http2),
}

/// An HTTP/1 connection. Given back by [`Http1::give_back`]; closed when dropped.
#[derive(Debug)]
pub struct Http1 {
    /// To send with.
    pub sender: http1::SendRequest<RequestBody>,
    /// About the connection.
    pub meta: Rc<Meta>,
    /// False for a new connection.
    pub reused: bool,
    pool: Rc<Pool>,
}

/// A stream's share of an HTTP/2 connection.
#[derive(Debug)]
pub struct Http2 {
    /// To send with.
    pub sender: http2::SendRequest<RequestBody>,
    /// About the connection.
    pub meta: Rc<Meta>,
    /// False for a new connection.
    pub reused: bool,
    room: Rc<Room>,
}

impl Drop for Http2 {
    fn drop(&mut self) {
        self.meta.streams.set(self.meta.streams.get().saturating_sub(1));
        self.room.returned.notify_one();
    }
}

/// How many connections a pool has, and who waits for one.
#[derive(Debug, Default)]
struct Room {
    open: Cell<u32>,
    returned: tokio::sync::Notify,
}

/// Held by a connection for as long as it lives: its place in the pool and its share of the cluster's limit.
#[derive(Debug)]
pub(super) struct Hold {
    room: Rc<Room>,
    _permit: Permit,
}

impl Hold {
    fn new(room: Rc<Room>, permit: Permit) -> Self {
        room.open.set(room.open.get() + 1);
        Self { room, _permit: permit }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.room.open.set(self.room.open.get().saturating_sub(1));
        self.room.returned.notify_one();
    }
}

#[derive(Debug)]
struct Idle {
    sender: http1::SendRequest<RequestBody>,
    meta: Rc<Meta>,
    since: Instant,
}

#[derive(Debug)]
struct Shared {
    sender: http2::SendRequest<RequestBody>,
    meta: Rc<Meta>,
    used: Instant,
}

/// Connections of one key.
#[derive(Debug)]
struct Pool {
    cluster: RefCell<Arc<Cluster>>,
    idle: RefCell<Vec<Idle>>,
    shared: RefCell<Vec<Shared>>,
    /// Held while an HTTP/2 connection is dialed: a burst of requests shares one handshake.
    dialing: tokio::sync::Mutex<()>,
    room: Rc<Room>,
    used: Cell<Instant>,
    /// The endpoints that the pool's was last looked for among, and true if it is none of them any more.
    known: RefCell<Option<Arc<EndpointSet>>>,
    obsolete: Cell<bool>,
    /// Keeps the address in the key from being given to other settings.
    _transport: Transport,
}

/// All pools of a worker.
#[derive(Debug, Default)]
pub struct Pools {
    pools: RefCell<foldhash::HashMap<Key, Rc<Pool>>>,
}

impl Taken {
    /// About its connection.
    pub fn meta(&self) -> &Rc<Meta> {
        match self {
            Self::Http1(connection) => &connection.meta,
            Self::Http2(connection) => &connection.meta,
        }
    }
}

impl Pools {
    /// A connection to `endpoint`, pooled or new.
    pub async fn take(
        &self,
        cluster: &Arc<Cluster>,
        endpoint: &Endpoint,
        want: Want,
        host: Option<&str>,
    ) -> Result<Taken, Error> {
        let pool = self.pool(cluster, endpoint, want, host);
        if let Some(taken) = pool.reuse(want) {
            return Ok(taken);
        }
        let _waiting = cluster.acquire(Resource::Pending)?;
        let _turn = match want {
            Want::Http1 => None,
            Want::Http2 | Want::Alpn => Some(pool.dialing.lock().await),
        };
        if want != Want::Http1
            && let Some(taken) = pool.reuse(want)
        {
            return Ok(taken);
        }
        let permit = loop {
            // A pool without any connection may always have one, else its requests would wait for ever (as in Envoy).
            if pool.room.open.get() == 0 {
                break cluster.acquire_anyway(Resource::Connections);
            }
            if let Some(permit) = cluster.try_acquire(Resource::Connections) {
                break permit;
            }
            pool.room.returned.notified().await;
            if let Some(taken) = pool.reuse(want) {
                return Ok(taken);
            }
        };
        let hold = Hold::new(pool.room.clone(), permit);
        pool.clone().dial(cluster, endpoint, want, host, hold).await
    }

    fn pool(&self, cluster: &Arc<Cluster>, endpoint: &Endpoint, want: Want, host: Option<&str>) -> Rc<Pool> {
        let server_name = match &endpoint.transport {
            Transport::Tls(tls) if tls.auto_sni => tls.server_name(host).map(Name::from),
            Transport::Tls(_) | Transport::Plain => None,
        };
        let key = Key {
            cluster: cluster.config.name.clone(),
            address: endpoint.spec.address.clone(),
            tls: tls_of(endpoint),
            server_name,
            want,
        };
        let mut pools = self.pools.borrow_mut();
        let pool = pools.entry(key).or_insert_with(|| {
            Rc::new(Pool {
                cluster: RefCell::new(cluster.clone()),
                idle: RefCell::default(),
                shared: RefCell::default(),
                dialing: tokio::sync::Mutex::new(()),
                room: Rc::default(),
                used: Instant::now().into(),
                known: RefCell::default(),
                obsolete: Cell::default(),
                _transport: endpoint.transport.clone(),
            })
        });
        pool.used.set(Instant::now());
        if !Arc::ptr_eq(&pool.cluster.borrow(), cluster) {
            *pool.cluster.borrow_mut() = cluster.clone();
        }
        pool.clone()
    }

    /// Closes what was idle for too long, and idle connections that may take no more requests. Called every second or so.
    pub fn sweep(&self) {
        let now = Instant::now();
        self.pools.borrow_mut().retain(|_, pool| {
            let cluster = pool.cluster.borrow();
            let limit = cluster.config.idle_timeout;
            let fresh = |since: Instant, meta: &Meta| {
                limit.is_none_or(|limit| now.duration_since(since) < limit) && fits(&cluster, meta)
            };
            pool.idle
                .borrow_mut()
                .retain(|one| !one.sender.is_closed() && !one.meta.may_close(one.since) && fresh(one.since, &one.meta));
            pool.shared
                .borrow_mut()
                .retain(|one| !one.sender.is_closed() && (one.meta.streams.get() > 0 || fresh(one.used, &one.meta)));
            let empty = pool.idle.borrow().is_empty() && pool.shared.borrow().is_empty();
            let old = pool.obsolete.get() || now.duration_since(pool.used.get()).as_secs() > 60;
            !(empty && Rc::strong_count(pool) == 1 && old)
        });
    }

    /// Looks which endpoints the configuration still has, reached as they were. Connections to others are closed when no request is on
    /// them, as in Envoy; they would stand until the endpoint or the idle timeout ends them.
    pub fn follow(&self, snapshot: &Snapshot) {
        for (key, pool) in &*self.pools.borrow() {
            match snapshot.clusters.get(&key.cluster) {
                None => {
                    pool.obsolete.set(true);
                    pool.known.take();
                }
                Some(cluster) => pool.look(key, cluster),
            }
            if pool.obsolete.get() {
                pool.idle.borrow_mut().clear();
                pool.shared.borrow_mut().retain(|one| one.meta.streams.get() > 0);
            }
        }
    }

    /// What there is now.
    pub fn counts(&self) -> PoolCounts {
        let pools = self.pools.borrow();
        let mut counts = PoolCounts { pools: pools.len(), ..PoolCounts::default() };
        for pool in pools.values() {
            counts.connections += pool.room.open.get() as usize;
            counts.idle += pool.idle.borrow().len();
            counts.shared += pool.shared.borrow().len();
        }
        counts
    }
}

/// Tells settings of TLS apart: 0 is plaintext.
fn tls_of(endpoint: &Endpoint) -> usize {
    match &endpoint.transport {
        Transport::Plain => 0,
        Transport::Tls(tls) => Arc::as_ptr(tls).cast::<()>() as usize,
    }
}

impl Pool {
    /// Looks for its endpoint in the newest configuration of its cluster.
    fn look(&self, key: &Key, cluster: &Arc<Cluster>) {
        if !Arc::ptr_eq(&self.cluster.borrow(), cluster) {
            *self.cluster.borrow_mut() = cluster.clone();
        }
        let set = cluster.endpoints.load();
        if self.known.borrow().as_ref().is_some_and(|known| Arc::ptr_eq(known, &set)) {
            return;
        }
        let is_there = |one: &Arc<Endpoint>| one.spec.address == key.address && tls_of(one) == key.tls;
        let fixed = cluster.config.discovery == Discovery::OriginalDst;
        self.obsolete.set(!fixed && !set.iter().any(is_there));
        *self.known.borrow_mut() = Some(set.clone());
    }

    fn reuse(self: &Rc<Self>, want: Want) -> Option<Taken> {
        if want != Want::Http1 {
            let cluster = self.cluster.borrow();
            let streams = cluster.config.max_concurrent_streams.unwrap_or(MAX_STREAMS);
            let mut shared = self.shared.borrow_mut();
            shared.retain(|one| !one.sender.is_closed());
            let usable = shared.iter_mut().find(|one| one.meta.streams.get() < streams && fits(&cluster, &one.meta));
            if let Some(one) = usable {
                one.used = Instant::now();
                one.meta.streams.set(one.meta.streams.get() + 1);
                one.meta.requests.set(one.meta.requests.get() + 1);
                return Some(Taken::Http2(Http2 {
                    sender: one.sender.clone(),
                    meta: one.meta.clone(),
                    reused: true,
                    room: self.room.clone(),
                }));
            }
        }
        if want != Want::Http2 {
            let cluster = self.cluster.borrow();
            let mut idle = self.idle.borrow_mut();
            let mut at = idle.len();
            while at > 0 {
                at -= 1;
                if idle[at].sender.is_closed() {
                    idle.remove(at);
                } else if idle[at].sender.is_ready() {
                    let one = idle.remove(at);
                    if one.meta.may_close(one.since) || !one.meta.is_alive() || !fits(&cluster, &one.meta) {
                        continue;
                    }
                    one.meta.requests.set(one.meta.requests.get() + 1);
                    return Some(Taken::Http1(Http1 {
                        sender: one.sender,
                        meta: one.meta,
                        reused: true,
                        pool: self.clone(),
                    }));
                }
            }
        }
        None
    }

    async fn dial(
        self: Rc<Self>,
        cluster: &Arc<Cluster>,
        endpoint: &Endpoint,
        want: Want,
        host: Option<&str>,
        hold: Hold,
    ) -> Result<Taken, Error> {
        let dialed = dial::dial(cluster, endpoint, want, host, hold).await?;
        let meta = Rc::new(Meta {
            local: dialed.local,
            tls: dialed.tls,
            socket: dialed.socket,
            created: Instant::now(),
            requests: 1.into(),
            streams: 1.into(),
            kept: Cell::default(),
        });
        Ok(match dialed.sender {
            dial::Sender::Http1(sender) => Taken::Http1(Http1 { sender, meta, reused: false, pool: self }),
            dial::Sender::Http2(sender) => {
                let shared = Shared { sender: sender.clone(), meta: meta.clone(), used: Instant::now() };
                self.shared.borrow_mut().push(shared);
                Taken::Http2(Http2 { sender, meta, reused: false, room: self.room.clone() })
            }
        })
    }
}

/// True if a connection may take one more request.
fn fits(cluster: &Cluster, meta: &Meta) -> bool {
    cluster.config.max_requests_per_connection.is_none_or(|limit| meta.requests.get() < limit)
        && cluster.config.max_connection_duration.is_none_or(|limit| meta.created.elapsed() < limit)
}

/// What `keep-alive: timeout=5, max=100` promises.
fn kept(headers: &http::HeaderMap) -> Option<Duration> {
    let value = headers.get(names::KEEP_ALIVE)?.to_str().ok()?;
    let parameters = value.split(',').filter_map(|one| one.trim().split_once('='));
    let mut timeouts = parameters.filter(|(name, _)| name.trim().eq_ignore_ascii_case("timeout"));
    timeouts.next()?.1.trim().parse().ok().map(Duration::from_secs)
}

impl Meta {
    /// Learns from an answer how long the endpoint keeps the connection (BX11).
    pub fn learn(&self, headers: &http::HeaderMap) {
        if let Some(told) = kept(headers) {
            self.kept.set(Some(told));
        }
    }

    /// True if the endpoint may close a connection that is idle since then before it has a request: what it promised is nearly over. A tenth
    /// is left for the way there.
    fn may_close(&self, since: Instant) -> bool {
        self.kept.get().is_some_and(|kept| since.elapsed() >= kept - kept / 10)
    }

    /// False if the endpoint has closed the connection or sent something unasked.
    ///
    /// hyper learns of a close only when the reactor has run; between two requests it may not have. One `recv` with
    /// `MSG_PEEK` asks the kernel.
    fn is_alive(&self) -> bool {
        let Some(socket) = &self.socket else { return true };
        let mut byte = [std::mem::MaybeUninit::uninit()];
        let peeked = socket2::SockRef::from(&**socket).peek(&mut byte);
        matches!(peeked, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    }
}

impl Http1 {
    /// Puts the connection back after its response was read to the end.
    pub fn give_back(self) {
        let cluster = self.pool.cluster.borrow();
        if self.sender.is_closed() || self.pool.obsolete.get() || !fits(&cluster, &self.meta) {
            return;
        }
        drop(cluster);
        self.pool.idle.borrow_mut().push(Idle { sender: self.sender, meta: self.meta, since: Instant::now() });
        self.pool.room.returned.notify_one();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_an_endpoint_will_close_soon_is_not_used() {
        for (header, kept) in [
            ("timeout=5", Some(5)),
            ("max=100, Timeout = 10", Some(10)),
            ("timeout=0", Some(0)),
            ("max=3", None),
            ("timeout=soon", None),
        ] {
            let headers = [(names::KEEP_ALIVE, http::HeaderValue::from_static(header))].into_iter().collect();
            let meta = Meta {
                local: None,
                tls: None,
                socket: None,
                created: Instant::now(),
                requests: Cell::default(),
                streams: Cell::default(),
                kept: Cell::default(),
            };
            meta.learn(&headers);
            let since = Instant::now();
            assert_eq!(meta.may_close(since), kept == Some(0), "{header}");
            tokio::time::advance(Duration::from_millis(4_400)).await;
            assert_eq!(meta.may_close(since), kept == Some(0), "{header}");
            tokio::time::advance(Duration::from_millis(100)).await;
            assert_eq!(meta.may_close(since), kept.is_some_and(|kept| kept <= 5), "{header}");
        }
    }
}

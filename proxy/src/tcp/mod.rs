//! Opaque bytes: a chain that copies both ways between a client and an endpoint.
//!
//! Comes after [`crate::listener`] (and [`crate::tls`]); uses [`crate::balance`] and [`crate::connect`] as HTTP does.

pub mod copy;
pub mod exchange;
mod tunnel;

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use mesh_proto::names::PEER_EXCHANGE;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;

use crate::Name;
use crate::balance::{Cluster, Observation, Permit, PickRequest, Picked, Resource};
use crate::connect::{Taken, dial};
use crate::http::error::Error;
use crate::listener::ConnInfo;
use crate::listener::accept::{Downstream, refused};
use crate::listener::place::{Ending, Place};
use crate::policy::authz::Rbac;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::record::{Flags, Record};
use crate::telemetry::stats::StatsFilter;
use crate::tls::{AlpnUse, TlsInfo};
use crate::worker::Worker;

use copy::Moved;
use exchange::{Exchange, Heard};

/// How often the bytes of a connection that is still open are counted: Istio's default (`reportingInterval` of Telemetry).
const REPORT: Duration = Duration::from_secs(5);

/// Envoy's `TcpProxy`, resolved.
#[derive(Debug)]
pub struct TcpChain {
    /// For statistics.
    pub stat_prefix: Name,
    /// Clusters with weights; one with weight 1 when not weighted. The sum is kept beside.
    pub clusters: Vec<(Name, u32)>,
    /// Sum of all weights, never 0.
    pub total_weight: u64,
    /// Ends a connection on which nothing moved for so long; 1 h by Envoy's default, `None` never.
    pub idle_timeout: Option<Duration>,
    /// Ends a connection that lives longer.
    pub max_duration: Option<Duration>,
    /// Attempts to connect, at least 1.
    pub max_connect_attempts: u32,
    /// Where connections are logged.
    pub access_logs: Vec<Arc<AccessLog>>,
    /// Istio's standard TCP metrics, when asked for.
    pub stats: Option<Arc<StatsFilter>>,
    /// Carry the bytes in an HTTP CONNECT for this authority (`tunneling_config`).
    pub tunnel: Option<http::uri::Authority>,
}

impl TcpChain {
    /// True if both sides have agreed to tell of themselves first.
    fn exchanges_over(&self, tls: Option<&TlsInfo>) -> bool {
        self.exchanges() && tls.is_some_and(|tls| tls.alpn.as_deref() == Some(PEER_EXCHANGE.as_bytes()))
    }

    fn exchanges(&self) -> bool {
        self.stats.as_ref().is_some_and(|stats| stats.metadata_exchange)
    }

    fn choose(&self, random: u64) -> Option<&Name> {
        let mut point = random % self.total_weight.max(1);
        for (name, weight) in &self.clusters {
            match point.checked_sub(u64::from(*weight)) {
                None => return Some(name),
                Some(rest) => point = rest,
            }
        }
        None
    }
}

/// Serves a connection: policy, cluster, endpoint, copy, account.
pub async fn serve(
    worker: Rc<Worker>,
    chain: Arc<TcpChain>,
    rbac: &[Arc<Rbac>],
    place: &Place,
    client: Downstream,
) -> io::Result<()> {
    let conn = &place.conn;
    let mut record = Record::begin(conn.clone(), chain.stats.clone());
    let moved = Moved::default();
    if let Some(detail) = refused(rbac, conn) {
        record.termination = Some(detail.into());
    } else {
        let joined = join(&worker, &chain, conn, client, &mut record, &moved);
        tokio::select! {
            result = joined => {
                if let Err(error) = result {
                    record.fail(&error);
                    // Details are of HTTP.
                    record.details = None;
                }
            }
            ending = place.over() => {
                record.termination = Some(if ending == Ending::Stopped { "drain" } else { "filter_chain_removed" }.into());
            }
        }
    }
    note(&mut record, &moved);
    worker.metrics.tcp(&mut record, true);
    for log in &chain.access_logs {
        log.write(&record);
    }
    Ok(())
}

fn note(record: &mut Record, moved: &Moved) {
    record.bytes_received = moved.up.get();
    record.bytes_sent = moved.down.get();
}

async fn join(
    worker: &Worker,
    chain: &TcpChain,
    conn: &ConnInfo,
    client: Downstream,
    record: &mut Record,
    moved: &Moved,
) -> Result<(), Error> {
    let name = chain.choose(worker.random()).cloned().unwrap_or_else(|| "".into());
    let cluster = worker.snapshot().clusters.get(&name).cloned().ok_or(Error::NoCluster(name))?;
    record.cluster = Some(cluster.clone());
    let (way, _picked) = reach(worker, chain, conn, &cluster, record).await?;
    let preamble = |tls: Option<&TlsInfo>| chain.exchanges_over(tls).then(|| worker.node.preamble.clone());
    let (client, heard) = exchanging(client, preamble(conn.tls.as_deref()));
    match way {
        Way::Plain(raw, _permit) => {
            record.upstream_local = raw.local;
            record.upstream_tls = raw.tls;
            // What the server's side tells is known of its endpoint already.
            let (endpoint, _) = exchanging(raw.stream, preamble(record.upstream_tls.as_deref()));
            carry(worker, chain, client, endpoint, record, moved, heard).await;
        }
        Way::Tunnel(stream, taken) => {
            let meta = taken.meta();
            record.upstream_local = meta.local;
            record.upstream_tls = meta.tls.clone();
            carry(worker, chain, client, *stream, record, moved, heard).await;
        }
    }
    Ok(())
}

type Hears = Option<oneshot::Receiver<Heard>>;

fn exchanging<I>(io: I, preamble: Option<Bytes>) -> (Exchange<I>, Hears) {
    match preamble {
        Some(preamble) => {
            let (io, heard) = Exchange::with(io, preamble);
            (io, Some(heard))
        }
        None => (Exchange::none(io), None),
    }
}

/// Copies until the end, and counts meanwhile. The connection counts as opened once the client has told who it is, or had its time to.
async fn carry<A, B>(
    worker: &Worker,
    chain: &TcpChain,
    client: A,
    endpoint: B,
    record: &mut Record,
    moved: &Moved,
    mut heard: Hears,
) where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    if heard.is_none() {
        worker.metrics.tcp(record, false);
    }
    let copying = copy::both(client, endpoint, chain.idle_timeout, chain.max_duration, moved);
    let mut copying = std::pin::pin!(copying);
    let mut report = tokio::time::interval(REPORT);
    report.reset();
    let copied = loop {
        tokio::select! {
            biased;
            peer = hear(&mut heard), if heard.is_some() => {
                record.source_peer = peer;
                worker.metrics.tcp(record, false);
                heard = None;
            }
            copied = &mut copying => break copied,
            _ = report.tick(), if chain.stats.is_some() => {
                note(record, moved);
                worker.metrics.tcp(record, false);
            }
        }
    };
    if let Some(Ok(peer)) = heard.as_mut().map(oneshot::Receiver::try_recv) {
        record.source_peer = peer;
    }
    // As in Envoy, no flag tells of a connection that was idle for too long.
    if copied.error.is_some() && !copied.idle {
        record.flags.set(Flags::UC);
    }
}

async fn hear(heard: &mut Hears) -> Heard {
    match heard {
        Some(heard) => heard.await.ok().flatten(),
        None => std::future::pending().await,
    }
}

/// How the endpoint is reached.
enum Way {
    Plain(Box<dial::Raw>, Permit),
    Tunnel(Box<TokioIo<Upgraded>>, Taken),
}

/// A connection to an endpoint, after as many tries as the chain allows.
async fn reach(
    worker: &Worker,
    chain: &TcpChain,
    conn: &ConnInfo,
    cluster: &Arc<Cluster>,
    record: &mut Record,
) -> Result<(Way, Picked), Error> {
    let mut failed = Vec::new();
    loop {
        let request = PickRequest { avoid: &failed, original_dst: Some(conn.local), ..PickRequest::default() };
        let picked = worker.with_random(|random| cluster.pick(&request, random))?;
        let endpoint = picked.endpoint().clone();
        record.endpoint = Some(endpoint.clone());
        record.attempts += 1;
        let reached = match &chain.tunnel {
            Some(authority) => tunnel::open(worker, cluster, &endpoint, authority)
                .await
                .map(|(stream, taken)| Way::Tunnel(Box::new(stream), taken)),
            None => {
                let permit = cluster.acquire(Resource::Connections)?;
                let name = conn.server_name.as_deref();
                let alpn = if chain.exchanges() { AlpnUse::Exchange } else { AlpnUse::Tcp };
                dial::raw(cluster, &endpoint, name, alpn).await.map(|raw| Way::Plain(Box::new(raw), permit))
            }
        };
        match reached {
            Ok(way) => {
                cluster.observe(&endpoint, Observation::Connected);
                return Ok((way, picked));
            }
            Err(error) => {
                cluster.observe(&endpoint, Observation::LocalFailure);
                if record.attempts >= chain.max_connect_attempts {
                    record.flags.set(Flags::URX);
                    return Err(error);
                }
                failed.push(endpoint);
            }
        }
    }
}

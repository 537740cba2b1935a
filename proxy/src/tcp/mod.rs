//! Opaque bytes: a chain that copies both ways between a client and an endpoint.
//!
//! Comes after [`crate::listener`] (and [`crate::tls`]); uses [`crate::balance`] and [`crate::connect`] as HTTP does.

pub mod copy;
mod tunnel;

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;

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
use crate::worker::Worker;

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
    if let Some(detail) = refused(rbac, conn) {
        record.termination = Some(detail.into());
    } else {
        let joined = join(&worker, &chain, conn, client, &mut record);
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
    worker.metrics.tcp_closed(&mut record);
    for log in &chain.access_logs {
        log.write(&record);
    }
    Ok(())
}

async fn join(
    worker: &Worker,
    chain: &TcpChain,
    conn: &ConnInfo,
    client: Downstream,
    record: &mut Record,
) -> Result<(), Error> {
    let name = chain.choose(worker.random()).cloned().unwrap_or_else(|| "".into());
    let cluster = worker.snapshot().clusters.get(&name).cloned().ok_or(Error::NoCluster(name))?;
    record.cluster = Some(cluster.clone());
    let (way, _picked) = reach(worker, chain, conn, &cluster, record).await?;
    let copied = match way {
        Way::Plain(stream, _permit) => {
            record.upstream_local = stream.local;
            record.upstream_tls = stream.tls;
            worker.metrics.tcp_opened(record);
            copy::both(client, stream.stream, chain.idle_timeout, chain.max_duration).await
        }
        Way::Tunnel(stream, taken) => {
            let meta = taken.meta();
            record.upstream_local = meta.local;
            record.upstream_tls = meta.tls.clone();
            worker.metrics.tcp_opened(record);
            copy::both(client, *stream, chain.idle_timeout, chain.max_duration).await
        }
    };
    record.bytes_received = copied.up;
    record.bytes_sent = copied.down;
    // As in Envoy, no flag tells of a connection that was idle for too long.
    if copied.error.is_some() && !copied.idle {
        record.flags.set(Flags::UC);
    }
    Ok(())
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
                dial::raw(cluster, &endpoint, name, crate::tls::AlpnUse::Tcp)
                    .await
                    .map(|raw| Way::Plain(Box::new(raw), permit))
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

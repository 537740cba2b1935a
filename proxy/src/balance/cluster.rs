//! A cluster: what configuration says, its endpoints, and its limits (circuit breakers).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::Instant;

use super::endpoint::{Endpoint, EndpointSet, EndpointSpec, Live};
use super::outlier::{Observation, OutlierConfig};
use super::pick::Algorithm;
use super::recent::Recent;
use crate::Name;
use crate::http::error::Error;
use crate::telemetry::answers::Answers;
use crate::tls::ClientTls;

/// What configuration says of a cluster.
#[derive(Debug)]
pub struct ClusterConfig {
    /// Unique name.
    pub name: Name,
    /// Name for statistics; the cluster's when absent.
    pub alt_stat_name: Option<Name>,
    /// Where endpoints come from.
    pub discovery: Discovery,
    /// How one is chosen.
    pub algorithm: Algorithm,
    /// Localities have weights of their own (`locality_weighted_lb_config`).
    pub locality_weighted: bool,
    /// Share of healthy endpoints below which health is ignored, percent; 0 never.
    pub panic_threshold: u32,
    /// Longest time to connect, TLS included.
    pub connect_timeout: Duration,
    /// HTTP version towards endpoints.
    pub protocol: UpstreamProtocol,
    /// A connection without requests for so long is closed.
    pub idle_timeout: Option<Duration>,
    /// A connection that is older takes no more requests.
    pub max_connection_duration: Option<Duration>,
    /// Requests that one connection takes; no limit when absent.
    pub max_requests_per_connection: Option<u32>,
    /// Streams at a time on one HTTP/2 connection.
    pub max_concurrent_streams: Option<u32>,
    /// HTTP/2 windows in bytes: stream, connection.
    pub windows: (Option<u32>, Option<u32>),
    /// HTTP/2 keep-alive: interval, timeout.
    pub http2_keepalive: Option<(Duration, Duration)>,
    /// Circuit breakers.
    pub limits: Limits,
    /// Outlier detection.
    pub outlier: Option<OutlierConfig>,
    /// The statuses that it counts as failures; 5xx when absent.
    pub outlier_errors: Option<Vec<u16>>,
    /// TCP keep-alive: probes, time, interval.
    pub tcp_keepalive: Option<(Option<u32>, Option<Duration>, Option<Duration>)>,
    /// Address that connections to endpoints come from (`upstream_bind_config`); the system's choice when absent.
    pub source: Option<std::net::SocketAddr>,
    /// Transport for endpoints that no match claims.
    pub transport: Transport,
    /// By labels of the endpoint, the first that it has all of.
    pub transport_matches: Vec<(Vec<(String, String)>, Transport)>,
    /// The service behind it, for metrics: host, name, namespace.
    pub service: Option<crate::telemetry::stats::DestinationService>,
    /// How often names are resolved.
    pub dns_refresh: Duration,
    /// Which address families are asked for.
    pub dns_family: DnsFamily,
}

/// Where endpoints come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Discovery {
    /// EDS under this name.
    Eds(Name),
    /// In the cluster itself.
    Static,
    /// DNS: all addresses.
    StrictDns,
    /// DNS: the first address.
    LogicalDns,
    /// The address that the client wanted.
    OriginalDst,
}

/// Which addresses of a name are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DnsFamily {
    /// IPv6 if there are any, else IPv4.
    #[default]
    Auto,
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
    /// IPv4 if there are any, else IPv6.
    V4Preferred,
    /// All.
    All,
}

/// HTTP version towards endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// What the client speaks.
    Downstream,
    /// What TLS agrees on (ALPN); HTTP/1.1 without.
    Alpn,
}

/// How an endpoint is spoken to.
#[derive(Debug, Clone)]
pub enum Transport {
    /// Plaintext.
    Plain,
    /// TLS.
    Tls(Arc<ClientTls>),
}

/// Circuit breakers; Envoy's defaults are 1024, 1024, 1024, 3.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Connections.
    pub connections: u32,
    /// Requests waiting for a connection.
    pub pending: u32,
    /// Requests under way.
    pub requests: u32,
    /// Retries under way.
    pub retries: u32,
    /// Instead of `retries`.
    pub retry_budget: Option<RetryBudget>,
}

/// How many retries may be under way, by how many requests there are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryBudget {
    /// Percent of the requests.
    pub percent: f64,
    /// Always allowed.
    pub least: u32,
    /// The requests that count are those that began within this time; without it, those that are under way.
    pub interval: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 1024, pending: 1024, requests: 1024, retries: 3, retry_budget: None }
    }
}

/// What a circuit breaker counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// Connections.
    Connections,
    /// Requests waiting for a connection.
    Pending,
    /// Requests under way.
    Requests,
    /// Retries under way.
    Retries,
}

/// A cluster with its live state.
#[derive(Debug)]
pub struct Cluster {
    /// As configured.
    pub config: ClusterConfig,
    /// Endpoints now; replaced without a new snapshot.
    pub endpoints: ArcSwap<EndpointSet>,
    /// Told when endpoints were replaced.
    pub replaced: tokio::sync::Notify,
    /// True once endpoints were received, resolved or configured, even if there are none.
    pub warm: std::sync::atomic::AtomicBool,
    /// What the circuit breakers count, shared by successive configurations of the same name.
    pub usage: Arc<Usage>,
    /// Turns of round robin.
    pub(super) turn: AtomicU64,
    epoch: Instant,
}

/// What is under way to a cluster.
#[derive(Debug, Default)]
pub struct Usage {
    counts: [AtomicU32; 4],
    /// Requests that began within the retry budget's interval.
    recent: Recent,
    /// Requests refused by a circuit breaker.
    pub overflows: AtomicU64,
    /// Endpoints ejected so far.
    pub ejections: AtomicU64,
    /// Requests that have ended.
    pub answers: Answers,
    /// Connections made or tried.
    pub connections: AtomicU64,
    /// Of these, those that failed.
    pub connect_failures: AtomicU64,
}

impl Usage {
    /// Counts a connection.
    pub fn dialed(&self, failed: bool) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        if failed {
            self.connect_failures.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How much of a resource is in use.
    pub fn count(&self, resource: Resource) -> u32 {
        self.counts[resource as usize].load(Ordering::Relaxed)
    }
}

/// A share of a limited resource, given back when dropped.
#[derive(Debug)]
pub struct Permit {
    usage: Arc<Usage>,
    resource: Resource,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.usage.counts[self.resource as usize].fetch_sub(1, Ordering::Relaxed);
    }
}

impl Cluster {
    /// A cluster. One that succeeds another of the same name takes over its usage and, if they come from discovery, its endpoints.
    pub fn new(config: ClusterConfig, endpoints: Vec<EndpointSpec>, before: Option<&Cluster>) -> Self {
        let fixed = matches!(config.discovery, Discovery::Static | Discovery::OriginalDst);
        let cluster = Self {
            usage: before.map_or_else(Arc::default, |before| before.usage.clone()),
            endpoints: before.map_or_else(ArcSwap::default, |before| ArcSwap::new(before.endpoints.load_full())),
            replaced: tokio::sync::Notify::new(),
            warm: fixed.into(),
            turn: AtomicU64::new(0),
            epoch: before.map_or_else(Instant::now, |before| before.epoch),
            config,
        };
        if fixed {
            cluster.apply(endpoints);
        } else if before.is_some_and(|before| before.config.discovery == cluster.config.discovery && before.is_warm()) {
            let same = before.map(|before| before.endpoints.load().iter().map(|one| one.spec.clone()).collect());
            cluster.apply(same.unwrap_or_default());
        }
        cluster
    }

    /// True once its endpoints are known.
    pub fn is_warm(&self) -> bool {
        self.warm.load(Ordering::Acquire)
    }

    /// Milliseconds of this cluster's clock.
    pub fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// Replaces the endpoints; an address that stays keeps its live state.
    pub fn apply(&self, specs: Vec<EndpointSpec>) {
        let before = self.endpoints.load();
        let known: std::collections::HashMap<_, _> =
            before.iter().map(|endpoint| (&endpoint.spec.address, &endpoint.live)).collect();
        let endpoints = specs
            .into_iter()
            .map(|mut spec| {
                if let Some(weight) = spec.locality_weight.filter(|_| self.config.locality_weighted) {
                    spec.weight = weight;
                }
                let live = known.get(&spec.address).map_or_else(|| Arc::new(Live::default()), |live| (*live).clone());
                Arc::new(Endpoint { transport: self.transport_of(&spec), spec, live })
            })
            .collect();
        self.endpoints.store(Arc::new(EndpointSet::new(endpoints)));
        self.warm.store(true, Ordering::Release);
        self.replaced.notify_waiters();
    }

    /// Waits until discovery has brought an endpoint that is none of these; for ever where endpoints do not come from it.
    pub async fn has_other_than(&self, tried: &[Arc<Endpoint>]) {
        loop {
            // Asked for before the look, so that no change in between is missed.
            let replaced = self.replaced.notified();
            let is_new = |one: &Arc<Endpoint>| tried.iter().all(|other| other.spec.address != one.spec.address);
            if self.endpoints.load().iter().any(is_new) {
                return;
            }
            replaced.await;
        }
    }

    fn transport_of(&self, spec: &EndpointSpec) -> Transport {
        let fits = |labels: &Vec<(String, String)>| labels.iter().all(|label| spec.transport_labels.contains(label));
        let matched = self.config.transport_matches.iter().find(|(labels, _)| fits(labels));
        matched.map_or_else(|| self.config.transport.clone(), |(_, transport)| transport.clone())
    }

    /// Takes a share of a resource, or says which limit is reached.
    pub fn acquire(&self, resource: Resource) -> Result<Permit, Error> {
        self.try_acquire(resource).ok_or_else(|| {
            self.usage.overflows.fetch_add(1, Ordering::Relaxed);
            let limit = match resource {
                Resource::Connections => "max_connections",
                Resource::Pending => "max_pending_requests",
                Resource::Requests => "max_requests",
                Resource::Retries => "max_retries",
            };
            Error::Overflow { cluster: self.config.name.clone(), limit }
        })
    }

    /// Takes a share if there is one; nothing is counted as refused.
    pub fn try_acquire(&self, resource: Resource) -> Option<Permit> {
        let limit = match resource {
            Resource::Connections => self.config.limits.connections,
            Resource::Pending => self.config.limits.pending,
            Resource::Requests => self.config.limits.requests,
            Resource::Retries => self.retry_limit(),
        };
        let counter = &self.usage.counts[resource as usize];
        if counter.fetch_add(1, Ordering::Relaxed) >= limit {
            counter.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        if resource == Resource::Requests
            && let Some(RetryBudget { interval: Some(interval), .. }) = self.config.limits.retry_budget
        {
            self.usage.recent.add(self.now(), interval);
        }
        Some(Permit { usage: self.usage.clone(), resource })
    }

    /// Takes a share, beyond the limit if need be.
    pub fn acquire_anyway(&self, resource: Resource) -> Permit {
        self.usage.counts[resource as usize].fetch_add(1, Ordering::Relaxed);
        Permit { usage: self.usage.clone(), resource }
    }

    fn retry_limit(&self) -> u32 {
        match self.config.limits.retry_budget {
            None => self.config.limits.retries,
            Some(RetryBudget { percent, least, interval }) => {
                let requests = match interval {
                    None => self.usage.count(Resource::Requests),
                    Some(interval) => self.usage.recent.count(self.now(), interval),
                };
                (f64::from(requests) * percent / 100.0).max(least.into()) as u32
            }
        }
    }

    /// An answer as outlier detection sees it: by the statuses that the cluster names, if it names any (OD8).
    pub fn judge(&self, status: u16) -> Observation {
        match &self.config.outlier_errors {
            None => Observation::Status(status),
            Some(errors) => Observation::Judged { status, failed: errors.contains(&status) },
        }
    }

    /// Tells outlier detection how a request went.
    pub fn observe(&self, endpoint: &Endpoint, seen: Observation) {
        endpoint.live.count(seen);
        let Some(config) = &self.config.outlier else { return };
        if !endpoint.live.outlier.observe(config, seen) {
            return;
        }
        let now = self.now();
        let set = self.endpoints.load();
        let ejected = set.iter().filter(|one| one.live.outlier.is_ejected(now)).count();
        let allowed = ejected == 0 || (ejected + 1) * 100 <= set.len() * config.max_percent as usize;
        if allowed && !endpoint.live.outlier.is_ejected(now) {
            endpoint.live.outlier.eject(config, now);
            self.usage.ejections.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(cluster = &*self.config.name, endpoint = %endpoint.spec.address, "endpoint ejected");
        }
    }
}

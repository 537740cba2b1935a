//! Endpoints: what configuration says of them, and their live state, which outlasts configuration.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::cluster::Transport;
use super::outlier::{Observation, OutlierState};
use crate::Name;
use crate::telemetry::peer::Peer;

/// Where an endpoint listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// TCP.
    Ip(SocketAddr),
    /// A Unix socket.
    Pipe(PathBuf),
    /// A DNS name and port, to be resolved (DNS clusters only).
    Name(Name, u16),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => write!(f, "{address}"),
            Self::Pipe(path) => write!(f, "{}", path.display()),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

/// What configuration says of an endpoint.
#[derive(Debug, Clone)]
pub struct EndpointSpec {
    /// Address.
    pub address: Address,
    /// Host name, for automatic host rewrites.
    pub hostname: Option<Name>,
    /// Share, at least 1.
    pub weight: u32,
    /// Share in clusters that weigh localities: the locality's weight, divided among its endpoints.
    pub locality_weight: Option<u32>,
    /// 0 is the highest; lower ones take what higher ones cannot.
    pub priority: u32,
    /// False if configuration says it is unhealthy or draining.
    pub healthy: bool,
    /// Labels by which the transport is chosen (`envoy.transport_socket_match`).
    pub transport_labels: Vec<(String, String)>,
    /// Who it is, for metrics.
    pub peer: Arc<Peer>,
}

/// An endpoint with its live state.
#[derive(Debug)]
pub struct Endpoint {
    /// As configured.
    pub spec: EndpointSpec,
    /// Plain or TLS, as the cluster's transport matches say for its labels.
    pub transport: Transport,
    /// Live counters, shared by successive configurations of the same address.
    pub live: Arc<Live>,
}

/// What is known of an address from using it.
#[derive(Debug, Default)]
pub struct Live {
    /// Requests (HTTP) or connections (TCP) under way.
    pub active: AtomicU32,
    /// Failures and ejection.
    pub outlier: OutlierState,
    /// Requests or connections so far.
    pub total: AtomicU64,
    /// Of these, those that failed.
    pub failed: AtomicU64,
    /// Of these, those that found no connection.
    pub connect_failures: AtomicU64,
}

impl Live {
    /// Counts how a request or connection went.
    pub(super) fn count(&self, seen: Observation) {
        self.total.fetch_add(1, Ordering::Relaxed);
        match seen {
            Observation::Status(status) | Observation::Judged { status, .. } if status < 500 => {}
            Observation::Connected => {}
            Observation::Status(_) | Observation::Judged { .. } => {
                self.failed.fetch_add(1, Ordering::Relaxed);
            }
            Observation::LocalFailure => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                self.connect_failures.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// The endpoints of a cluster at one moment.
#[derive(Debug, Default)]
pub struct EndpointSet {
    /// By priority, none of which is empty.
    pub priorities: Vec<Priority>,
}

/// Endpoints of one priority.
#[derive(Debug, Default)]
pub struct Priority {
    /// The endpoints.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// Sum of weights.
    pub total_weight: u64,
    /// True if all weights are equal.
    pub uniform: bool,
}

impl EndpointSet {
    /// Sorts endpoints into priorities.
    pub fn new(mut endpoints: Vec<Arc<Endpoint>>) -> Self {
        endpoints.sort_by_key(|endpoint| endpoint.spec.priority);
        let mut set = Self::default();
        let mut current = None;
        for endpoint in endpoints {
            if current != Some(endpoint.spec.priority) {
                current = Some(endpoint.spec.priority);
                set.priorities.push(Priority { uniform: true, ..Priority::default() });
            }
            if let Some(priority) = set.priorities.last_mut() {
                priority.total_weight += u64::from(endpoint.spec.weight);
                priority.uniform &=
                    priority.endpoints.first().is_none_or(|first| first.spec.weight == endpoint.spec.weight);
                priority.endpoints.push(endpoint);
            }
        }
        set
    }

    /// All endpoints.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.priorities.iter().flat_map(|priority| &priority.endpoints)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.priorities.iter().map(|priority| priority.endpoints.len()).sum()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.priorities.is_empty()
    }
}

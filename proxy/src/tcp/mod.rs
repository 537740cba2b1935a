//! Opaque bytes: a chain that copies both ways between a client and an endpoint.
//!
//! Comes after [`crate::listener`] (and [`crate::tls`]); uses [`crate::balance`] and [`crate::connect`] as HTTP does.

use std::sync::Arc;
use std::time::Duration;

use crate::Name;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::stats::StatsFilter;

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
}

//! What one request (or TCP connection) gathers on its way, for the access log, the metrics and the trace.
//!
//! Begun by `http::handle` (or `tcp`), filled by the stages, finished when the last byte of the response has gone.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::Name;
use crate::balance::{Cluster, Endpoint};
use crate::listener::ConnInfo;
use crate::telemetry::stats::StatsFilter;
use crate::tls::TlsInfo;

/// Envoy's response flags as bits; `flags.rs`-style names are in [`Flags::NAMES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Flags(pub u32);

impl Flags {
    /// No healthy upstream.
    pub const UH: Self = Self(1);
    /// Upstream connection failure.
    pub const UF: Self = Self(1 << 1);
    /// Upstream overflow (circuit breaker).
    pub const UO: Self = Self(1 << 2);
    /// No route.
    pub const NR: Self = Self(1 << 3);
    /// Upstream retry limit exceeded.
    pub const URX: Self = Self(1 << 4);
    /// No cluster.
    pub const NC: Self = Self(1 << 5);
    /// Downstream connection termination.
    pub const DC: Self = Self(1 << 6);
    /// Upstream connection termination.
    pub const UC: Self = Self(1 << 7);
    /// Upstream request timeout.
    pub const UT: Self = Self(1 << 8);
    /// Connection local reset.
    pub const LR: Self = Self(1 << 9);
    /// Upstream remote reset.
    pub const UR: Self = Self(1 << 10);
    /// Unauthorized by external service.
    pub const UAEX: Self = Self(1 << 11);
    /// Downstream protocol error.
    pub const DPE: Self = Self(1 << 12);
    /// Upstream protocol error.
    pub const UPE: Self = Self(1 << 13);
    /// Stream idle timeout.
    pub const SI: Self = Self(1 << 14);
    /// Rate limited.
    pub const RL: Self = Self(1 << 15);
    /// Stream duration or route max duration reached.
    pub const DT: Self = Self(1 << 16);
    /// Local service failed a health check.
    pub const LH: Self = Self(1 << 17);
    /// Fault injected: delay.
    pub const DI: Self = Self(1 << 18);
    /// Fault injected: abort.
    pub const FI: Self = Self(1 << 19);

    /// Bit and short name. Envoy writes flags in the order in which they were set: why there is no further try comes before how
    /// the last one ended.
    pub const NAMES: &[(Self, &str)] = &[
        (Self::URX, "URX"),
        (Self::UO, "UO"),
        (Self::LH, "LH"),
        (Self::UH, "UH"),
        (Self::UT, "UT"),
        (Self::LR, "LR"),
        (Self::UR, "UR"),
        (Self::UF, "UF"),
        (Self::UC, "UC"),
        (Self::NR, "NR"),
        (Self::DI, "DI"),
        (Self::FI, "FI"),
        (Self::RL, "RL"),
        (Self::UAEX, "UAEX"),
        (Self::DC, "DC"),
        (Self::SI, "SI"),
        (Self::DPE, "DPE"),
        (Self::UPE, "UPE"),
        (Self::NC, "NC"),
        (Self::DT, "DT"),
    ];

    /// Adds a flag.
    pub fn set(&mut self, flag: Self) {
        self.0 |= flag.0;
    }

    /// True if all bits of `flag` are set.
    pub fn has(self, flag: Self) -> bool {
        self.0 & flag.0 == flag.0
    }
}

impl std::fmt::Display for Flags {
    /// Short names joined by commas; `-` for none.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0 == 0 {
            return f.write_str("-");
        }
        let mut first = true;
        for (flag, name) in Self::NAMES {
            if self.has(*flag) {
                f.write_str(if first { "" } else { "," })?;
                f.write_str(name)?;
                first = false;
            }
        }
        Ok(())
    }
}

/// What one request gathers. Fields that only an access log reads are filled only when a log asks for them.
#[derive(Debug)]
pub struct Record {
    /// Wall-clock start.
    pub start_time: SystemTime,
    /// Start, for durations.
    pub start: Instant,
    /// The connection it came on.
    pub conn: Rc<ConnInfo>,
    /// Metrics wanted.
    pub stats: Option<Arc<StatsFilter>>,
    /// The request head as it came, when an access log wants it: method, path, authority and headers.
    pub request_head: Option<Box<http::request::Parts>>,
    /// `HTTP/1.1`, `HTTP/2`, …; `None` for TCP.
    pub protocol: Option<http::Version>,
    /// True for `content-type: application/grpc…`.
    pub grpc: bool,
    /// `grpc-status` of trailers or headers.
    pub grpc_status: Option<u32>,
    /// Messages counted on a gRPC stream: request, response.
    pub grpc_messages: (u64, u64),
    /// Name of the route.
    pub route_name: Option<Name>,
    /// Counters of the route, if it is to be told apart.
    pub route_counts: Option<Arc<crate::route::RouteCounts>>,
    /// Cluster chosen.
    pub cluster: Option<Arc<Cluster>>,
    /// Name of the cluster that the route names, also of one that was not used.
    pub cluster_name: Option<Name>,
    /// The client as trusted headers tell, if that is not the peer.
    pub client: Option<std::net::IpAddr>,
    /// Endpoint of the last attempt.
    pub endpoint: Option<Arc<Endpoint>>,
    /// Local address towards the endpoint.
    pub upstream_local: Option<SocketAddr>,
    /// TLS towards the endpoint.
    pub upstream_tls: Option<Arc<TlsInfo>>,
    /// Peer's workload as it told by metadata exchange (destination side).
    pub source_peer: Option<Arc<crate::telemetry::peer::Peer>>,
    /// True once a TCP connection was counted as opened.
    pub opened: bool,
    /// Bytes of a TCP connection that were counted already: received, sent.
    pub counted: (u64, u64),
    /// Attempts made, 1 for no retry.
    pub attempts: u32,
    /// Status sent; 0 if none was.
    pub status: u16,
    /// Response flags.
    pub flags: Flags,
    /// Envoy's `RESPONSE_CODE_DETAILS`.
    pub details: Option<Cow<'static, str>>,
    /// Envoy's `CONNECTION_TERMINATION_DETAILS`.
    pub termination: Option<Cow<'static, str>>,
    /// Envoy's `UPSTREAM_TRANSPORT_FAILURE_REASON`.
    pub upstream_failure: Option<Arc<str>>,
    /// Body bytes from the client.
    pub bytes_received: u64,
    /// Body bytes to the client.
    pub bytes_sent: u64,
    /// Head bytes of request and response, estimated as Envoy's metric does.
    pub head_bytes: (u64, u64),
    /// Time from the last request byte sent upstream to the response head.
    pub upstream_service_time: Option<Duration>,
    /// Response headers when an access log wants them.
    pub response_headers: Option<Box<http::HeaderMap>>,
    /// Response trailers when an access log wants them.
    pub response_trailers: Option<Box<http::HeaderMap>>,
}

impl Record {
    /// A record that begins now.
    pub fn begin(conn: Rc<ConnInfo>, stats: Option<Arc<StatsFilter>>) -> Self {
        Self {
            start_time: SystemTime::now(),
            start: Instant::now(),
            conn,
            stats,
            request_head: None,
            protocol: None,
            grpc: false,
            grpc_status: None,
            grpc_messages: (0, 0),
            route_name: None,
            route_counts: None,
            cluster: None,
            cluster_name: None,
            client: None,
            endpoint: None,
            upstream_local: None,
            upstream_tls: None,
            source_peer: None,
            opened: false,
            counted: (0, 0),
            attempts: 0,
            status: 0,
            flags: Flags::default(),
            details: None,
            termination: None,
            upstream_failure: None,
            bytes_received: 0,
            bytes_sent: 0,
            head_bytes: (0, 0),
            upstream_service_time: None,
            response_headers: None,
            response_trailers: None,
        }
    }

    /// Address of the last attempt's endpoint.
    pub fn upstream_address(&self) -> Option<SocketAddr> {
        match self.endpoint.as_ref()?.spec.address {
            crate::balance::Address::Ip(address) => Some(address),
            _ => None,
        }
    }

    /// Notes why there is no answer from upstream.
    pub fn fail(&mut self, error: &crate::http::error::Error) {
        self.flags.set(error.flag());
        self.details = Some(error.details());
        self.upstream_failure = error.transport_failure().map(Into::into);
    }
}

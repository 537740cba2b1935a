//! Why a request got no answer from upstream: one type, one mapping to status, response flag and plain words.
//!
//! Made by every stage of the request path; turned into a response by `handle`.

use crate::Name;

/// Whose doing it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The client's.
    Downstream,
    /// The endpoint's or the way to it.
    Upstream,
    /// Configuration or policy here.
    Internal,
}

/// A failure of the request path.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The request breaks HTTP or a limit of ours; the text names which.
    #[error("bad request: {0}")]
    BadRequest(std::borrow::Cow<'static, str>),
    /// No virtual host or route matched.
    #[error("no route for this host and path")]
    NoRoute,
    /// The chosen cluster does not exist.
    #[error("cluster {0} does not exist")]
    NoCluster(Name),
    /// A policy refused; the text is Envoy's response code detail.
    #[error("RBAC: access denied ({0})")]
    Denied(std::borrow::Cow<'static, str>),
    /// The cluster has no healthy endpoint.
    #[error("no healthy upstream in {0}")]
    NoHealthyUpstream(Name),
    /// A circuit breaker is open.
    #[error("{limit} of {cluster} reached")]
    Overflow {
        /// The cluster.
        cluster: Name,
        /// Which limit: `max_connections`, `max_pending_requests`, `max_requests`, `max_retries`.
        limit: &'static str,
    },
    /// Connecting failed.
    #[error("connecting to upstream failed: {0}")]
    Connect(std::sync::Arc<str>),
    /// Connecting took longer than the cluster's `connect_timeout`.
    #[error("connecting to upstream timed out")]
    ConnectTimeout,
    /// TLS with the upstream failed.
    #[error("TLS with upstream failed: {0}")]
    UpstreamTls(std::sync::Arc<str>),
    /// The upstream closed the connection before a response.
    #[error("upstream closed the connection before a response")]
    UpstreamClosed,
    /// The upstream reset the stream before a response; the HTTP/2 reason if there was one.
    #[error("upstream reset the stream before a response")]
    UpstreamReset(Option<u32>),
    /// The upstream's answer is not valid HTTP.
    #[error("upstream protocol error: {0}")]
    UpstreamProtocol(std::sync::Arc<str>),
    /// The route's or the attempt's time is up.
    #[error("upstream request timed out")]
    Timeout {
        /// True if `per_try_timeout` was it.
        per_try: bool,
    },
    /// Nothing moved for too long.
    #[error("stream idle for too long")]
    StreamIdle,
    /// The client went away.
    #[error("client went away")]
    ClientGone,
}

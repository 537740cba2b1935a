//! Why a request got no answer from upstream: one type, one mapping to status, response flag and plain words.
//!
//! Made by every stage of the request path; turned into a response by `handle`.

use std::borrow::Cow;

use http::StatusCode;

use crate::Name;
use crate::telemetry::record::Flags;

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
    /// The client took longer to send its request than `request_timeout`.
    #[error("the request did not arrive in time")]
    RequestTimeout,
    /// The stream lived longer than `max_stream_duration`, or than the client's own `grpc-timeout`.
    #[error("the stream lived for too long")]
    StreamDuration,
    /// Nothing moved for too long.
    #[error("stream idle for too long")]
    StreamIdle,
    /// The client went away.
    #[error("client went away")]
    ClientGone,
}

impl Error {
    /// Whose doing it was.
    pub fn side(&self) -> Side {
        match self {
            Self::BadRequest(_) | Self::RequestTimeout | Self::ClientGone => Side::Downstream,
            Self::NoRoute
            | Self::NoCluster(_)
            | Self::Denied(_)
            | Self::Overflow { .. }
            | Self::StreamDuration
            | Self::StreamIdle => Side::Internal,
            Self::NoHealthyUpstream(_)
            | Self::Connect(_)
            | Self::ConnectTimeout
            | Self::UpstreamTls(_)
            | Self::UpstreamClosed
            | Self::UpstreamReset(_)
            | Self::UpstreamProtocol(_)
            | Self::Timeout { .. } => Side::Upstream,
        }
    }

    /// True for failures of the endpoint or of the way to it.
    pub fn is_upstream(&self) -> bool {
        self.side() == Side::Upstream && !matches!(self, Self::NoHealthyUpstream(_) | Self::Timeout { per_try: false })
    }

    /// The status that the client gets.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::Denied(_) => StatusCode::FORBIDDEN,
            Self::Timeout { .. } | Self::StreamDuration => StatusCode::GATEWAY_TIMEOUT,
            Self::RequestTimeout | Self::StreamIdle => StatusCode::REQUEST_TIMEOUT,
            Self::UpstreamProtocol(_) => StatusCode::BAD_GATEWAY,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Envoy's response flag.
    pub fn flag(&self) -> Flags {
        match self {
            Self::BadRequest(_) => Flags::DPE,
            Self::NoRoute => Flags::NR,
            Self::NoCluster(_) => Flags::NC,
            Self::Denied(_) => Flags::default(),
            Self::NoHealthyUpstream(_) => Flags::UH,
            Self::Overflow { .. } => Flags::UO,
            Self::Connect(_) | Self::ConnectTimeout | Self::UpstreamTls(_) => Flags::UF,
            Self::UpstreamClosed => Flags::UC,
            Self::UpstreamReset(_) => Flags::UR,
            Self::UpstreamProtocol(_) => Flags::UPE,
            Self::Timeout { .. } => Flags::UT,
            Self::RequestTimeout => Flags::default(),
            Self::StreamDuration => Flags::DT,
            Self::StreamIdle => Flags::SI,
            Self::ClientGone => Flags::DC,
        }
    }

    /// Envoy's response code details.
    pub fn details(&self) -> Cow<'static, str> {
        match self {
            Self::BadRequest(_) => "http1.codec_error".into(),
            Self::NoRoute => "route_not_found".into(),
            Self::NoCluster(_) => "cluster_not_found".into(),
            Self::Denied(detail) => detail.clone(),
            Self::NoHealthyUpstream(_) => "no_healthy_upstream".into(),
            Self::Overflow { .. } => "upstream_reset_before_response_started{overflow}".into(),
            Self::Connect(_) => "upstream_reset_before_response_started{remote_connection_failure}".into(),
            Self::ConnectTimeout => "upstream_reset_before_response_started{connection_timeout}".into(),
            Self::UpstreamTls(_) => {
                "upstream_reset_before_response_started{remote_connection_failure|TLS_error}".into()
            }
            Self::UpstreamClosed => "upstream_reset_before_response_started{connection_termination}".into(),
            Self::UpstreamReset(_) => "upstream_reset_before_response_started{remote_reset}".into(),
            Self::UpstreamProtocol(_) => "upstream_reset_before_response_started{protocol_error}".into(),
            Self::Timeout { per_try: false } => "response_timeout".into(),
            Self::Timeout { per_try: true } => "upstream_per_try_timeout".into(),
            Self::RequestTimeout => "request_overall_timeout".into(),
            Self::StreamDuration => "max_duration_timeout".into(),
            Self::StreamIdle => "stream_idle_timeout".into(),
            Self::ClientGone => "downstream_remote_disconnect".into(),
        }
    }

    /// What the client reads; Envoy's words where it has some, so that users' tools know them.
    pub fn body(&self) -> Cow<'static, str> {
        match self {
            Self::NoRoute => "".into(),
            Self::NoCluster(_) => "".into(),
            Self::Denied(_) => "RBAC: access denied".into(),
            Self::NoHealthyUpstream(_) => "no healthy upstream".into(),
            Self::Overflow { .. } => {
                format!("upstream connect error or disconnect/reset before headers. reset reason: overflow ({self})")
                    .into()
            }
            Self::Timeout { .. } => "upstream request timeout".into(),
            Self::RequestTimeout => "request timeout".into(),
            Self::StreamDuration => "downstream duration timeout".into(),
            Self::StreamIdle => "stream timeout".into(),
            Self::BadRequest(reason) => reason.clone(),
            other => format!("upstream connect error or disconnect/reset before headers. {other}").into(),
        }
    }
}

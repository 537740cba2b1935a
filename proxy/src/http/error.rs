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
    /// The path cannot be made canonical, or may not be so written.
    #[error("bad path: {0}")]
    Path(&'static str),
    /// The head has more bytes or fields than allowed.
    #[error("request head too large")]
    HeadTooLarge,
    /// A transfer coding that we do not speak.
    #[error("unknown transfer coding")]
    TransferCoding,
    /// A change of protocols that is not allowed here.
    #[error("this upgrade is not allowed here")]
    Upgrade,
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
    StreamIdle {
        /// True if it was the client that had more to send.
        receiving: bool,
    },
    /// The client went away.
    #[error("client went away")]
    ClientGone,
}

impl Error {
    /// Whose doing it was.
    pub fn side(&self) -> Side {
        match self {
            Self::BadRequest(_)
            | Self::Path(_)
            | Self::HeadTooLarge
            | Self::TransferCoding
            | Self::RequestTimeout
            | Self::ClientGone => Side::Downstream,
            Self::NoRoute
            | Self::NoCluster(_)
            | Self::Denied(_)
            | Self::Upgrade
            | Self::Overflow { .. }
            | Self::StreamIdle { .. }
            | Self::StreamDuration => Side::Internal,
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
            Self::BadRequest(_) | Self::Path(_) => StatusCode::BAD_REQUEST,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TransferCoding => StatusCode::NOT_IMPLEMENTED,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::Denied(_) | Self::Upgrade => StatusCode::FORBIDDEN,
            Self::Timeout { .. } | Self::StreamIdle { receiving: false } | Self::StreamDuration => {
                StatusCode::GATEWAY_TIMEOUT
            }
            Self::StreamIdle { receiving: true } | Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::UpstreamProtocol(_) => StatusCode::BAD_GATEWAY,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Envoy's response flag.
    pub fn flag(&self) -> Flags {
        match self {
            Self::BadRequest(_) | Self::HeadTooLarge | Self::TransferCoding => Flags::DPE,
            Self::Path(_) | Self::Upgrade | Self::RequestTimeout | Self::StreamDuration => Flags::default(),
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
            Self::StreamIdle { .. } => Flags::SI,
            Self::ClientGone => Flags::DC,
        }
    }

    /// Envoy's response code details.
    pub fn details(&self) -> Cow<'static, str> {
        match self {
            Self::BadRequest(_) => "http1.codec_error".into(),
            Self::Path(_) => "path_normalization_failed".into(),
            Self::HeadTooLarge => "http1.headers_too_large".into(),
            Self::TransferCoding => "http1.invalid_transfer_encoding".into(),
            Self::Upgrade => "upgrade_failed".into(),
            Self::RequestTimeout => "request_overall_timeout".into(),
            Self::StreamDuration => "max_duration_timeout".into(),
            Self::NoRoute => "route_not_found".into(),
            Self::NoCluster(_) => "cluster_not_found".into(),
            Self::Denied(detail) => detail.clone(),
            Self::NoHealthyUpstream(_) => "no_healthy_upstream".into(),
            Self::Overflow { .. }
            | Self::Connect(_)
            | Self::ConnectTimeout
            | Self::UpstreamTls(_)
            | Self::UpstreamClosed
            | Self::UpstreamReset(_)
            | Self::UpstreamProtocol(_) => {
                let reason = self.reset_reason().replace(' ', "_");
                match self.transport_failure() {
                    Some(failure) => format!("upstream_reset_before_response_started{{{reason}|{failure}}}").into(),
                    None => format!("upstream_reset_before_response_started{{{reason}}}").into(),
                }
            }
            Self::Timeout { per_try: false } => "response_timeout".into(),
            Self::Timeout { per_try: true } => "upstream_per_try_timeout".into(),
            Self::StreamIdle { .. } => "stream_idle_timeout".into(),
            Self::ClientGone => "downstream_remote_disconnect".into(),
        }
    }

    /// Envoy's name of how a try came to nothing.
    pub fn reset_reason(&self) -> &'static str {
        match self {
            Self::Overflow { .. } => "overflow",
            Self::Connect(_) | Self::UpstreamTls(_) => "remote connection failure",
            Self::ConnectTimeout => "connection timeout",
            Self::UpstreamReset(Some(crate::policy::retry::REFUSED_STREAM)) => "remote refused stream reset",
            Self::UpstreamReset(_) => "remote reset",
            Self::UpstreamProtocol(_) => "protocol error",
            _ => "connection termination",
        }
    }

    /// Envoy's `UPSTREAM_TRANSPORT_FAILURE_REASON`: what the operating system or TLS said, without spaces.
    pub fn transport_failure(&self) -> Option<String> {
        match self {
            Self::Connect(reason) => {
                // The system's own words, without the number that Rust adds to them.
                let words = reason.split(" (os error").next().unwrap_or_default();
                Some(format!("delayed connect error: {words}").replace(' ', "_"))
            }
            Self::UpstreamTls(reason) => Some(format!("TLS_error:|{reason}").replace(' ', "_")),
            _ => None,
        }
    }

    /// What the client reads; Envoy's words where it has some, so that users' tools know them. `retried` if there was an earlier try.
    pub fn body(&self, retried: bool) -> Cow<'static, str> {
        match self {
            Self::NoRoute | Self::NoCluster(_) | Self::Path(_) | Self::Upgrade => "".into(),
            Self::Denied(_) => "RBAC: access denied".into(),
            Self::NoHealthyUpstream(_) => "no healthy upstream".into(),
            Self::Timeout { .. } => "upstream request timeout".into(),
            Self::StreamIdle { .. } => "stream timeout".into(),
            Self::RequestTimeout => "request timeout".into(),
            Self::StreamDuration => "downstream duration timeout".into(),
            Self::HeadTooLarge => "Request Header Fields Too Large".into(),
            Self::TransferCoding => "Not Implemented".into(),
            Self::BadRequest(reason) => reason.clone(),
            other => {
                let retried = if retried { "retried and the latest " } else { "" };
                let reason = other.reset_reason();
                format!("upstream connect error or disconnect/reset before headers. {retried}reset reason: {reason}")
                    .into()
            }
        }
    }
}

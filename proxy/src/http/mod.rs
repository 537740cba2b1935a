//! HTTP: from a connection's bytes to requests, and the one request function (`handle`).
//!
//! Comes after [`crate::listener`] and [`crate::tls`]; this file holds the resolved `HttpConnectionManager`.

use std::sync::Arc;
use std::time::Duration;

use crate::Name;
use crate::policy::HttpPolicy;
use crate::route::RouteTable;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::stats::StatsFilter;

pub mod body;
pub mod error;
pub mod forward;
pub mod handle;
pub mod headers;
mod linger;
pub mod names;
pub mod normalize;
mod reply;
pub mod serve;
mod time_limit;
pub mod upgrade;

/// The largest request or response head in bytes unless configured (Envoy's `max_request_headers_kb` default).
pub const DEFAULT_MAX_HEAD_BYTES: u32 = 60 * 1024;

/// Envoy's `HttpConnectionManager`, resolved.
#[derive(Debug)]
pub struct HttpChain {
    /// For statistics.
    pub stat_prefix: Name,
    /// Which versions are served.
    pub codec: Codec,
    /// Where routes come from.
    pub routes: RouteSource,
    /// Policies in configured order; the router itself is not among them.
    pub policies: Vec<HttpPolicy>,
    /// Istio's standard metrics, when asked for.
    pub stats: Option<Arc<StatsFilter>>,
    /// Where requests are logged.
    pub access_logs: Vec<Arc<AccessLog>>,
    /// How path and headers are made canonical before route and policy.
    pub normalize: Normalize,
    /// How the client's address is found and told.
    pub forwarded: Forwarded,
    /// `Server` response header: what is written and when.
    pub server_header: ServerHeader,
    /// Protocols that `Upgrade` (lower case: `websocket`, …) or `CONNECT` may switch to, unless the route says otherwise.
    pub upgrades: Vec<(String, bool)>,
    /// Time for the request head to arrive (`request_headers_timeout`).
    pub headers_timeout: Option<Duration>,
    /// Time for the whole request to arrive (`request_timeout`).
    pub request_timeout: Option<Duration>,
    /// A stream on which nothing moves for so long is reset; 5 min by Envoy's default, `None` never.
    pub stream_idle_timeout: Option<Duration>,
    /// A connection without requests for so long is closed; 1 h by Envoy's default, `None` never.
    pub idle_timeout: Option<Duration>,
    /// A connection that lives longer is drained.
    pub max_connection_duration: Option<Duration>,
    /// A stream that lives longer is reset.
    pub max_stream_duration: Option<Duration>,
    /// Requests on one connection before it is drained; none when absent.
    pub max_requests_per_connection: Option<u32>,
    /// Concurrent HTTP/2 streams.
    pub max_concurrent_streams: Option<u32>,
    /// HTTP/2 receive window of a stream, bytes.
    pub stream_window: Option<u32>,
    /// HTTP/2 receive window of the connection, bytes.
    pub connection_window: Option<u32>,
    /// HTTP/2 keep-alive: interval, timeout.
    pub http2_keepalive: Option<(Duration, Duration)>,
    /// Largest request head, bytes.
    pub max_head_bytes: u32,
    /// Most header fields of a request; Envoy's default is 100.
    pub max_headers: u32,
    /// Accept HTTP/1.0 (we do by default, BX14).
    pub accept_http_10: bool,
    /// Keep the case of HTTP/1 header names (we do by default, BX14).
    pub preserve_header_case: bool,
    /// Give requests without one an `x-request-id`.
    pub generate_request_id: bool,
    /// Keep an `x-request-id` that an outside client sent.
    pub preserve_external_request_id: bool,
    /// Add `via` of this name.
    pub via: Option<String>,
    /// Removes the port of `Host` before routing.
    pub strip_port: StripPort,
}

/// Envoy's `codec_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// By ALPN, else by the client's first bytes.
    Auto,
    /// HTTP/1 only.
    Http1,
    /// HTTP/2 only.
    Http2,
}

/// Where a chain's routes come from.
#[derive(Debug, Clone)]
pub enum RouteSource {
    /// Written in the chain.
    Inline(Arc<RouteTable>),
    /// By name in [`crate::snapshot::Snapshot::routes`].
    Named(Name),
}

/// Path and header canonicalisation, done once, before route and policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Normalize {
    /// RFC 3986 normalisation of dot segments and unreserved escapes.
    pub path: bool,
    /// Adjacent slashes become one.
    pub merge_slashes: bool,
    /// `%2F`, `%5C`.
    pub escaped_slashes: EscapedSlashes,
    /// Header names with underscores.
    pub underscores: Underscores,
}

/// Envoy's `path_with_escaped_slashes_action`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EscapedSlashes {
    /// As they are.
    #[default]
    Keep,
    /// 400.
    Reject,
    /// 307 to the unescaped path.
    UnescapeAndRedirect,
    /// Unescape, then go on.
    UnescapeAndForward,
}

/// Envoy's `headers_with_underscores_action`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Underscores {
    /// As they are.
    #[default]
    Allow,
    /// 400 (HTTP/1) or stream reset (HTTP/2).
    Reject,
    /// The header is removed.
    Drop,
}

/// Client address and client certificate headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Forwarded {
    /// `use_remote_address`: we are the edge, the socket's peer is the client, and outside `x-envoy-*` headers are removed.
    pub use_remote_address: bool,
    /// Trusted proxies in front of us.
    pub trusted_hops: u32,
    /// Leave `x-forwarded-for` as it is.
    pub skip_append: bool,
    /// `x-forwarded-client-cert`.
    pub client_cert: ForwardClientCert,
    /// Details of the current client's certificate to write.
    pub client_cert_details: ClientCertDetails,
}

/// Envoy's `forward_client_cert_details`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ForwardClientCert {
    /// Remove the header.
    #[default]
    Sanitize,
    /// Keep it when the connection is mTLS.
    ForwardOnly,
    /// Append the current client when the connection is mTLS.
    AppendForward,
    /// Replace it by the current client when the connection is mTLS.
    SanitizeSet,
    /// Keep it always.
    AlwaysForwardOnly,
}

/// Envoy's `set_current_client_cert_details`. `By` and `Hash` are always written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClientCertDetails {
    /// `Subject`.
    pub subject: bool,
    /// `Cert`.
    pub cert: bool,
    /// `DNS`.
    pub dns: bool,
    /// `URI`.
    pub uri: bool,
}

/// The `server` response header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerHeader {
    /// Always ours.
    Overwrite(http::HeaderValue),
    /// Ours if the upstream sent none.
    AppendIfAbsent(http::HeaderValue),
    /// The upstream's, or none.
    PassThrough,
}

/// Which ports are stripped of `Host`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StripPort {
    /// None.
    #[default]
    Keep,
    /// The listener's own.
    Matching,
    /// Any.
    Any,
}

//! VirtualService. Source: <https://istio.io/latest/docs/reference/config/networking/virtual-service/>.

use std::collections::BTreeMap;

use super::destination_rule::RetryBudget;
use super::scalar::{base64_bytes, number, optional_number};
use super::{Duration, Percent, PortSelector, StringMatch};

message! {
    /// Routing rules of one or several hosts.
    pub struct VirtualService {
        /// Destination hosts; empty only in a delegate (VS1).
        pub hosts: Vec<String>,
        /// Gateways, `namespace/name`; `mesh` is all sidecars and the default.
        pub gateways: Vec<String>,
        /// Ordered HTTP routes.
        pub http: Vec<HttpRoute>,
        /// Ordered routes of TLS that is not ended, by SNI.
        pub tls: Vec<TlsRoute>,
        /// Ordered routes of opaque TCP.
        pub tcp: Vec<TcpRoute>,
        /// Namespaces that see it: `.`, `*`, `~` or names.
        pub export_to: Vec<String>,
    }

    /// One HTTP rule: exactly one of route, redirect, directResponse, delegate.
    pub struct HttpRoute {
        /// Shown in access logs.
        pub name: String,
        /// Any of these; empty matches all.
        #[serde(rename = "match")]
        pub matches: Vec<HttpMatchRequest>,
        /// Weighted destinations.
        pub route: Vec<HttpRouteDestination>,
        /// Answers with a redirect.
        pub redirect: Option<HttpRedirect>,
        /// Answers with a fixed response.
        pub direct_response: Option<HttpDirectResponse>,
        /// Continues in another VirtualService.
        pub delegate: Option<Delegate>,
        /// Rewrites of path and authority.
        pub rewrite: Option<HttpRewrite>,
        /// For the whole request; off by default.
        pub timeout: Option<Duration>,
        /// Retry policy.
        pub retries: Option<HttpRetry>,
        /// Fault injection.
        pub fault: Option<HttpFaultInjection>,
        /// One mirror (superseded by `mirrors`).
        pub mirror: Option<Destination>,
        /// Mirrors.
        pub mirrors: Vec<HttpMirrorPolicy>,
        /// Deprecated whole percentage of the mirror.
        #[serde(deserialize_with = "optional_number")]
        pub mirror_percent: Option<u32>,
        /// Percentage of the mirror.
        pub mirror_percentage: Option<Percent>,
        /// Cross-origin resource sharing.
        pub cors_policy: Option<CorsPolicy>,
        /// Header operations.
        pub headers: Option<Headers>,
    }

    /// The VirtualService a rule continues in.
    pub struct Delegate {
        /// Its name.
        pub name: String,
        /// Its namespace; the root's own when empty.
        pub namespace: String,
    }

    /// Operations on headers.
    pub struct Headers {
        /// Of the request.
        pub request: Option<HeaderOperations>,
        /// Of the response.
        pub response: Option<HeaderOperations>,
    }

    /// Set overwrites, add appends, remove removes.
    pub struct HeaderOperations {
        /// Overwrites.
        pub set: BTreeMap<String, String>,
        /// Appends.
        pub add: BTreeMap<String, String>,
        /// Removes.
        pub remove: Vec<String>,
    }

    /// Conditions that must all hold.
    pub struct HttpMatchRequest {
        /// Shown in access logs after the route's name.
        pub name: String,
        /// Path.
        pub uri: Option<StringMatch>,
        /// Scheme.
        pub scheme: Option<StringMatch>,
        /// Method.
        pub method: Option<StringMatch>,
        /// Authority.
        pub authority: Option<StringMatch>,
        /// Headers by lower-case name; `{}` is presence.
        pub headers: BTreeMap<String, StringMatch>,
        /// Port of the service or gateway that the request came to.
        #[serde(deserialize_with = "optional_number")]
        pub port: Option<u32>,
        /// Labels of the client workload.
        pub source_labels: BTreeMap<String, String>,
        /// Gateways where this match holds; overrides the resource's.
        pub gateways: Vec<String>,
        /// Query parameters.
        pub query_params: BTreeMap<String, StringMatch>,
        /// Exact and prefix matches of `uri` ignore case.
        pub ignore_uri_case: bool,
        /// Headers that must not match.
        pub without_headers: BTreeMap<String, StringMatch>,
        /// Namespace of the client workload.
        pub source_namespace: String,
        /// Prefix of this route's statistics.
        pub stat_prefix: String,
    }

    /// A destination with its share.
    pub struct HttpRouteDestination {
        /// Where.
        pub destination: Destination,
        /// Share of the sum of weights; all when it is the only one.
        #[serde(deserialize_with = "number")]
        pub weight: i32,
        /// Header operations for this destination.
        pub headers: Option<Headers>,
    }

    /// A service, a subset of it, and a port.
    pub struct Destination {
        /// Host in the registry; short names resolve in the rule's namespace.
        pub host: String,
        /// Subset of its DestinationRule.
        pub subset: String,
        /// Port; may be left out when the service has one only.
        pub port: Option<PortSelector>,
    }

    /// A redirect.
    pub struct HttpRedirect {
        /// Replaces the whole path.
        pub uri: Option<String>,
        /// Replaces the matched prefix.
        pub prefix_rewrite: Option<String>,
        /// Replaces the authority.
        pub authority: Option<String>,
        /// Replaces the port.
        #[serde(deserialize_with = "optional_number")]
        pub port: Option<u32>,
        /// Takes the port from the scheme or the request.
        pub derive_port: Option<RedirectPortSelection>,
        /// Replaces the scheme.
        pub scheme: Option<String>,
        /// 301 by default.
        #[serde(deserialize_with = "number")]
        pub redirect_code: u32,
    }

    /// A fixed response.
    pub struct HttpDirectResponse {
        /// Status.
        #[serde(deserialize_with = "number")]
        pub status: u32,
        /// Body.
        pub body: Option<HttpBody>,
    }

    /// Exactly one of string and bytes.
    pub struct HttpBody {
        /// Text.
        pub string: Option<String>,
        /// Base64.
        #[serde(with = "base64_bytes")]
        #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
        pub bytes: Option<Vec<u8>>,
    }

    /// Rewrites before forwarding.
    pub struct HttpRewrite {
        /// Replaces the matched prefix, or the whole path of other matches.
        pub uri: Option<String>,
        /// Replaces the authority.
        pub authority: Option<String>,
        /// Replaces by regular expression.
        pub uri_regex_rewrite: Option<RegexRewrite>,
    }

    /// RE2 match, and a replacement with `\1` groups.
    pub struct RegexRewrite {
        /// Expression.
        #[serde(rename = "match")]
        pub matches: String,
        /// Replacement.
        pub rewrite: String,
    }

    /// Retry policy.
    pub struct HttpRetry {
        /// Retries beside the first try; 0 disables.
        #[serde(deserialize_with = "number")]
        pub attempts: i32,
        /// Time for each try; the route's timeout by default.
        pub per_try_timeout: Option<Duration>,
        /// Comma-separated conditions of Envoy and gRPC, and status codes.
        pub retry_on: String,
        /// Retry in other localities.
        pub retry_remote_localities: Option<bool>,
        /// Do not retry on hosts that failed already; true by default.
        pub retry_ignore_previous_hosts: Option<bool>,
        /// Smallest back-off.
        pub backoff: Option<Duration>,
        /// Budget of this route's retries.
        pub retry_budget: Option<RetryBudget>,
    }

    /// Fault injection.
    pub struct HttpFaultInjection {
        /// Delay.
        pub delay: Option<FaultDelay>,
        /// Abort.
        pub abort: Option<FaultAbort>,
    }

    /// Delay before forwarding.
    pub struct FaultDelay {
        /// Deprecated whole percentage.
        #[serde(deserialize_with = "number")]
        pub percent: i32,
        /// How long.
        pub fixed_delay: Option<Duration>,
        /// Reserved by Istio.
        pub exponential_delay: Option<Duration>,
        /// Share of requests; none when absent.
        pub percentage: Option<Percent>,
    }

    /// Answer with an error instead of forwarding.
    pub struct FaultAbort {
        /// HTTP status.
        #[serde(deserialize_with = "optional_number")]
        pub http_status: Option<u32>,
        /// gRPC status name.
        pub grpc_status: Option<String>,
        /// Reserved by Istio.
        pub http2_error: Option<String>,
        /// Share of requests; none when absent.
        pub percentage: Option<Percent>,
        /// Deprecated whole percentage.
        #[serde(deserialize_with = "number")]
        pub percent: i32,
    }

    /// A mirror.
    pub struct HttpMirrorPolicy {
        /// Where.
        pub destination: Destination,
        /// Share; all when absent.
        pub percentage: Option<Percent>,
    }

    /// CORS.
    pub struct CorsPolicy {
        /// Deprecated exact origins.
        pub allow_origin: Vec<String>,
        /// Origins.
        pub allow_origins: Vec<StringMatch>,
        /// Methods.
        pub allow_methods: Vec<String>,
        /// Request headers.
        pub allow_headers: Vec<String>,
        /// Response headers that scripts may read.
        pub expose_headers: Vec<String>,
        /// How long a preflight may be cached.
        pub max_age: Option<Duration>,
        /// Credentials.
        pub allow_credentials: Option<bool>,
        /// What to do with preflights that no origin matches.
        pub unmatched_preflights: Option<UnmatchedPreflights>,
    }

    /// A rule for TLS that is not ended here.
    pub struct TlsRoute {
        /// Any of these.
        #[serde(rename = "match")]
        pub matches: Vec<TlsMatchAttributes>,
        /// Weighted destinations.
        pub route: Vec<RouteDestination>,
    }

    /// Conditions on a TLS hello.
    pub struct TlsMatchAttributes {
        /// Server names, required; wildcards allowed.
        pub sni_hosts: Vec<String>,
        /// Destination addresses.
        pub destination_subnets: Vec<String>,
        /// Port.
        #[serde(deserialize_with = "optional_number")]
        pub port: Option<u32>,
        /// Labels of the client workload.
        pub source_labels: BTreeMap<String, String>,
        /// Gateways.
        pub gateways: Vec<String>,
        /// Namespace of the client workload.
        pub source_namespace: String,
    }

    /// A rule for opaque TCP.
    pub struct TcpRoute {
        /// Any of these; empty matches all.
        #[serde(rename = "match")]
        pub matches: Vec<L4MatchAttributes>,
        /// Weighted destinations.
        pub route: Vec<RouteDestination>,
    }

    /// Conditions on a connection.
    pub struct L4MatchAttributes {
        /// Destination addresses.
        pub destination_subnets: Vec<String>,
        /// Port.
        #[serde(deserialize_with = "optional_number")]
        pub port: Option<u32>,
        /// Reserved by Istio.
        pub source_subnet: String,
        /// Labels of the client workload.
        pub source_labels: BTreeMap<String, String>,
        /// Gateways.
        pub gateways: Vec<String>,
        /// Namespace of the client workload.
        pub source_namespace: String,
    }

    /// A destination of TLS or TCP.
    pub struct RouteDestination {
        /// Where.
        pub destination: Destination,
        /// Share of the sum of weights.
        #[serde(deserialize_with = "number")]
        pub weight: i32,
    }
}

choice! {
    /// Where a redirect's port comes from.
    pub enum RedirectPortSelection {
        /// 80 or 443 by scheme.
        #[default]
        FromProtocolDefault,
        /// The request's own.
        FromRequestPort,
    }

    /// Preflights that no origin matches.
    pub enum UnmatchedPreflights {
        /// FORWARD.
        #[default]
        Unspecified,
        /// To the upstream.
        Forward,
        /// Answered here without CORS headers.
        Ignore,
    }
}

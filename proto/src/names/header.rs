//! Headers that proxies write and read, lower case. Source: <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/headers>.

/// Identifies a request through the mesh.
pub const REQUEST_ID: &str = "x-request-id";
/// Clients and proxies passed through.
pub const FORWARDED_FOR: &str = "x-forwarded-for";
/// Scheme of the original request.
pub const FORWARDED_PROTO: &str = "x-forwarded-proto";
/// Host of the original request.
pub const FORWARDED_HOST: &str = "x-forwarded-host";
/// Port of the original request.
pub const FORWARDED_PORT: &str = "x-forwarded-port";
/// Certificates of clients passed through.
pub const FORWARDED_CLIENT_CERT: &str = "x-forwarded-client-cert";
/// Address of the trusted client.
pub const EXTERNAL_ADDRESS: &str = "x-envoy-external-address";
/// `true` when the request came from inside.
pub const INTERNAL: &str = "x-envoy-internal";
/// Path before a rewrite.
pub const ORIGINAL_PATH: &str = "x-envoy-original-path";
/// Host before a rewrite.
pub const ORIGINAL_HOST: &str = "x-envoy-original-host";
/// Try of this request, 1 for the first.
pub const ATTEMPT_COUNT: &str = "x-envoy-attempt-count";
/// Milliseconds that the upstream took.
pub const UPSTREAM_SERVICE_TIME: &str = "x-envoy-upstream-service-time";
/// Milliseconds that the upstream is given.
pub const EXPECTED_RQ_TIMEOUT: &str = "x-envoy-expected-rq-timeout-ms";
/// Timeout asked for by the client, milliseconds.
pub const UPSTREAM_RQ_TIMEOUT: &str = "x-envoy-upstream-rq-timeout-ms";
/// Timeout of a try asked for by the client, milliseconds.
pub const UPSTREAM_RQ_PER_TRY_TIMEOUT: &str = "x-envoy-upstream-rq-per-try-timeout-ms";
/// Retry conditions asked for by the client.
pub const RETRY_ON: &str = "x-envoy-retry-on";
/// gRPC retry conditions asked for by the client.
pub const RETRY_GRPC_ON: &str = "x-envoy-retry-grpc-on";
/// Retries asked for by the client.
pub const MAX_RETRIES: &str = "x-envoy-max-retries";
/// Response of a request that a circuit breaker refused.
pub const OVERLOADED: &str = "x-envoy-overloaded";
/// Peer metadata: base64 of a `google.protobuf.Struct` (MT4).
pub const PEER_METADATA: &str = "x-envoy-peer-metadata";
/// Identifier of the peer whose metadata it is (MT4).
pub const PEER_METADATA_ID: &str = "x-envoy-peer-metadata-id";
/// Response of the sidecar of a server that did not reach its application, to a client's proxy: the request was not processed, and may
/// be sent again whatever its method. The value is [`UNPROCESSED_CONNECT_FAILURE`]. Between proxies only (docs/xds.md).
pub const UNPROCESSED: &str = "x-ferromesh-unprocessed";
/// The application took no connection.
pub const UNPROCESSED_CONNECT_FAILURE: &str = "connect-failure";
/// Cluster's alternative statistics name.
pub const UPSTREAM_ALT_STAT_NAME: &str = "x-envoy-upstream-alt-stat-name";
/// Decorator operation of a span.
pub const DECORATOR_OPERATION: &str = "x-envoy-decorator-operation";

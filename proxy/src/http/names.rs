//! Names of headers that proxies read and write, ready for use: a name that is given as text is parsed each time.

use http::HeaderName;
use mesh_proto::names::header;

/// Try of this request, 1 for the first.
pub const ATTEMPT_COUNT: HeaderName = HeaderName::from_static(header::ATTEMPT_COUNT);
/// Milliseconds that the upstream is given.
pub const EXPECTED_RQ_TIMEOUT: HeaderName = HeaderName::from_static(header::EXPECTED_RQ_TIMEOUT);
/// Address of the trusted client.
pub const EXTERNAL_ADDRESS: HeaderName = HeaderName::from_static(header::EXTERNAL_ADDRESS);
/// Certificates of clients passed through.
pub const FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static(header::FORWARDED_CLIENT_CERT);
/// Clients and proxies passed through.
pub const FORWARDED_FOR: HeaderName = HeaderName::from_static(header::FORWARDED_FOR);
/// Host of the original request.
pub const FORWARDED_HOST: HeaderName = HeaderName::from_static(header::FORWARDED_HOST);
/// Scheme of the original request.
pub const FORWARDED_PROTO: HeaderName = HeaderName::from_static(header::FORWARDED_PROTO);
/// `true` when the request came from inside.
pub const INTERNAL: HeaderName = HeaderName::from_static(header::INTERNAL);
/// Host before a rewrite.
pub const ORIGINAL_HOST: HeaderName = HeaderName::from_static(header::ORIGINAL_HOST);
/// Path before a rewrite.
pub const ORIGINAL_PATH: HeaderName = HeaderName::from_static(header::ORIGINAL_PATH);
/// Response of a request that a circuit breaker refused.
pub const OVERLOADED: HeaderName = HeaderName::from_static(header::OVERLOADED);
/// Peer metadata: base64 of a `google.protobuf.Struct` (MT4).
pub const PEER_METADATA: HeaderName = HeaderName::from_static(header::PEER_METADATA);
/// Identifier of the peer whose metadata it is (MT4).
pub const PEER_METADATA_ID: HeaderName = HeaderName::from_static(header::PEER_METADATA_ID);
/// Identifies a request through the mesh.
pub const REQUEST_ID: HeaderName = HeaderName::from_static(header::REQUEST_ID);
/// A server's sidecar did not reach its application.
pub const UNPROCESSED: HeaderName = HeaderName::from_static(header::UNPROCESSED);
/// Milliseconds that the upstream took.
pub const UPSTREAM_SERVICE_TIME: HeaderName = HeaderName::from_static(header::UPSTREAM_SERVICE_TIME);
/// Status of a gRPC call.
pub const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// How long a gRPC call may take.
pub const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// How long a connection of HTTP/1 is kept that has no request (RFC 9112, appendix C.2.2).
pub const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

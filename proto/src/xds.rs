//! Short paths into Envoy's v3 API, and packing into and out of `Any`.
//!
//! The generated types come from the crate `envoy-types`; no `.proto` file of Envoy's is copied here.
//! Source: <https://www.envoyproxy.io/docs/envoy/latest/api-v3/api>.

use envoy_types::pb::envoy;

pub use envoy::config::accesslog::v3 as accesslog;
pub use envoy::config::bootstrap::v3 as bootstrap;
pub use envoy::config::cluster::v3 as cluster;
pub use envoy::config::common::matcher::v3 as common_matcher;
pub use envoy::config::core::v3 as core;
pub use envoy::config::endpoint::v3 as endpoint;
pub use envoy::config::listener::v3 as listener;
pub use envoy::config::rbac::v3 as rbac;
pub use envoy::config::route::v3 as route;
pub use envoy::extensions::access_loggers::file::v3 as file_access_log;
pub use envoy::extensions::access_loggers::stream::v3 as stream_access_log;
pub use envoy::extensions::filters::http::cors::v3 as http_cors;
pub use envoy::extensions::filters::http::fault::v3 as http_fault;
pub use envoy::extensions::filters::http::rbac::v3 as http_rbac;
pub use envoy::extensions::filters::http::router::v3 as http_router;
pub use envoy::extensions::filters::listener::http_inspector::v3 as http_inspector;
pub use envoy::extensions::filters::listener::original_dst::v3 as original_dst;
pub use envoy::extensions::filters::listener::proxy_protocol::v3 as proxy_protocol;
pub use envoy::extensions::filters::listener::tls_inspector::v3 as tls_inspector;
pub use envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
pub use envoy::extensions::filters::network::rbac::v3 as network_rbac;
pub use envoy::extensions::filters::network::tcp_proxy::v3 as tcp_proxy;
pub use envoy::extensions::retry::host::previous_hosts::v3 as previous_hosts;
pub use envoy::extensions::retry::priority::previous_priorities::v3 as previous_priorities;
pub use envoy::extensions::transport_sockets::raw_buffer::v3 as raw_buffer;
pub use envoy::extensions::transport_sockets::tls::v3 as tls;
pub use envoy::extensions::upstreams::http::v3 as http_protocol_options;
pub use envoy::service::discovery::v3 as discovery;
pub use envoy::service::secret::v3 as secret_service;
pub use envoy::r#type::matcher::v3 as matcher;
pub use envoy::r#type::v3 as envoy_type;
pub use envoy_types::pb::google::protobuf as wkt;
pub use envoy_types::pb::google::rpc;

/// The type URLs of the xDS resources that are served and subscribed to.
pub mod type_url {
    /// `envoy.config.listener.v3.Listener`.
    pub const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
    /// `envoy.config.route.v3.RouteConfiguration`.
    pub const ROUTE: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
    /// `envoy.config.route.v3.VirtualHost`, one host of a route table (VHDS).
    pub const VIRTUAL_HOST: &str = "type.googleapis.com/envoy.config.route.v3.VirtualHost";
    /// `envoy.config.cluster.v3.Cluster`.
    pub const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
    /// `envoy.config.endpoint.v3.ClusterLoadAssignment`.
    pub const ENDPOINT: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
    /// `envoy.extensions.transport_sockets.tls.v3.Secret`.
    pub const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
    /// `istio.networking.nds.v1.NameTable`, the names that the proxy's DNS server answers.
    pub const NAME_TABLE: &str = "type.googleapis.com/istio.networking.nds.v1.NameTable";
}

/// Packs a message into an `Any` under its own type URL.
pub fn pack<M: prost::Name>(message: &M) -> wkt::Any {
    wkt::Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

/// Why an `Any` could not be read as the wanted message.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The `Any` holds a message of another type.
    #[error("expected {expected}, found {found}")]
    Type {
        /// The type URL that was wanted.
        expected: String,
        /// The type URL that was there.
        found: String,
    },
    /// The bytes are not a valid message of the type they claim to be.
    #[error("malformed {type_url}: {source}")]
    Malformed {
        /// The type URL of the message.
        type_url: String,
        /// What the decoder said.
        source: prost::DecodeError,
    },
}

/// Reads an `Any` as the message `M`, refusing any other type.
pub fn unpack<M: prost::Name + Default>(any: &wkt::Any) -> Result<M, UnpackError> {
    let expected = M::type_url();
    if any.type_url != expected {
        return Err(UnpackError::Type { expected, found: any.type_url.clone() });
    }
    M::decode(any.value.as_slice()).map_err(|source| UnpackError::Malformed { type_url: expected, source })
}

//! What stands before the protocol in a chain of a client's side: policies, metrics, logs. One place for outbound and gateway chains.

use mesh_proto::xds::{accesslog, listener};

use crate::model::{Direction, Node, NodeKind, PushContext};
use crate::translate::http::{self, Http, Place, Routes};
use crate::translate::{authz, telemetry};

/// The HTTP filter of an outbound or gateway chain, with the routes of a table.
pub fn http(context: &PushContext, node: &Node, stat_prefix: String, table: String) -> listener::Filter {
    // Policies are the server's: a sidecar judges what comes in, a gateway everything.
    let (place, mut filters) = match node.kind {
        NodeKind::Sidecar => (Place::SidecarOutbound, Vec::new()),
        NodeKind::Router => (Place::Gateway, authz::http_filters(context, node)),
    };
    filters.extend(telemetry::http_stats(node, Direction::Outbound, None));
    let settings = Http { place, stat_prefix, routes: Routes::Named(table), filters, access_log: logs(context, node) };
    http::connection_manager(&context.mesh, node, settings)
}

/// Network filters before `tcp_proxy`.
pub fn network(context: &PushContext, node: &Node) -> Vec<listener::Filter> {
    let mut filters = match node.kind {
        NodeKind::Sidecar => Vec::new(),
        NodeKind::Router => authz::network_filters(context, node),
    };
    filters.extend(metrics(node));
    filters
}

/// Those of them that only watch.
pub fn metrics(node: &Node) -> Vec<listener::Filter> {
    telemetry::tcp_stats(node, Direction::Outbound, None).into_iter().collect()
}

/// Logs of `tcp_proxy` and of connection managers.
pub fn logs(context: &PushContext, node: &Node) -> Vec<accesslog::AccessLog> {
    telemetry::access_logs(context, node, Direction::Outbound)
}

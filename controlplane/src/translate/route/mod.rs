//! VirtualServices and services as route tables: what an HTTP request meets after its listener.
//!
//! [`table`] answers a proxy that asks for a table by name; the names are the contract of docs/xds.md. `rule` makes the routes
//! of one VirtualService at one [`Site`], `sidecar` and `gateway` put them into virtual hosts.

use std::sync::Arc;

use mesh_proto::xds::route;

use crate::model::{Node, NodeKind, PushContext, Service};

pub mod action;
pub mod condition;
pub mod destination;
pub mod domain;
pub mod gateway;
pub mod hash;
pub mod headers;
pub mod redirect;
pub mod retry;
pub mod rule;
pub mod sidecar;
#[cfg(test)]
mod tests;
pub mod virtual_hosts;

/// The table of every HTTP service, chosen by `Host` alone.
pub const HTTP_PROXY: &str = "http_proxy";
/// Longest body of a `directResponse`, bytes; Envoy's own default of 4096 is less than Istio allows.
const MAX_DIRECT_RESPONSE: u32 = 1024 * 1024;

/// The route table of this name for a proxy; `None` if it has none of that name.
pub fn table(context: &PushContext, node: &Node, name: &str) -> Option<route::RouteConfiguration> {
    match node.kind {
        NodeKind::Sidecar => sidecar::table(context, node, name),
        NodeKind::Router => gateway::table(context, node, name),
    }
}

/// Where routes are made for: what conditions that do not depend on the request are judged by.
#[derive(Clone, Copy)]
pub struct Site<'a> {
    /// What is known.
    pub context: &'a PushContext,
    /// The proxy.
    pub node: &'a Node,
    /// `mesh`, or `namespace/name` of a Gateway.
    pub gateway: &'a str,
    /// The port that clients call: of the service, or of the Gateway's server.
    pub port: u16,
    /// TLS ends here.
    pub tls: bool,
}

impl<'a> Site<'a> {
    /// The service of this host that the proxy sees.
    pub fn service(&self, host: &str) -> Option<&'a Arc<Service>> {
        self.context.service(&self.node.namespace, host)
    }
}

/// A table of these virtual hosts with the settings that all have.
fn configuration(name: &str, virtual_hosts: Vec<route::VirtualHost>, ignore_port: bool) -> route::RouteConfiguration {
    route::RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts,
        // A route may be known before its cluster is; the request then fails, not the table.
        validate_clusters: super::wire::boolean(false),
        max_direct_response_body_size_bytes: super::wire::number(MAX_DIRECT_RESPONSE),
        ignore_port_in_host_matching: ignore_port,
        ..Default::default()
    }
}

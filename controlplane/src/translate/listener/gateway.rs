//! Listeners of gateways: one for each port of the merged Gateways (GW2–GW5, GT1–GT5, IG1–IG3).

use mesh_proto::crd::virtual_service::L4MatchAttributes;
use mesh_proto::names::{MESH_ALPN, cluster};
use mesh_proto::xds::tls::DownstreamTlsContext;
use mesh_proto::xds::{core, listener};

use super::chain::Chain;
use super::outbound::listener_filter;
use super::{filters, tcp, tls};
use crate::model::{Node, NodeKind, Protocol, PushContext, host};
use crate::translate::http;
use crate::translate::route::{Site, destination};
use crate::translate::servers::{self, Port, Server};
use crate::translate::wire;

/// The listeners of a gateway, by address.
pub fn listeners(context: &PushContext, node: &Node) -> Vec<listener::Listener> {
    if node.kind != NodeKind::Router {
        return Vec::new();
    }
    servers::merge(context, node).iter().filter_map(|port| build(context, node, port)).collect()
}

fn build(context: &PushContext, node: &Node, port: &Port) -> Option<listener::Listener> {
    let name = format!("{}_{}", port.bind, port.number);
    let chains = chains(context, node, port, &name);
    // A listener without chains would take connections only to close them.
    if chains.is_empty() {
        return None;
    }
    let mut inspectors = Vec::new();
    if http::expects_proxy_protocol(&context.mesh, node) {
        inspectors.push(listener_filter::proxy_protocol());
    }
    let looks_at_tls =
        |chain: &Chain| chain.tls.is_some() || !chain.server_names.is_empty() || !chain.protocols.is_empty();
    if chains.iter().any(looks_at_tls) {
        inspectors.push(listener_filter::tls_inspector());
    }
    Some(listener::Listener {
        address: Some(wire::bind_address(&port.bind, port.number)),
        name,
        traffic_direction: core::TrafficDirection::Outbound.into(),
        listener_filters: inspectors,
        filter_chains: chains.iter().map(Chain::build).collect(),
        // Clients of a gateway speak first: without a hello there is nothing to route by.
        listener_filters_timeout: Some(wire::duration(std::time::Duration::ZERO)),
        ..Default::default()
    })
}

fn chains(context: &PushContext, node: &Node, port: &Port, name: &str) -> Vec<Chain> {
    let stat_prefix = format!("outbound_{name}");
    let Some(first) = port.servers.first() else { return Vec::new() };
    if first.protocol.is_http() {
        let table = first.route_name.clone().unwrap_or_default();
        return vec![Chain { filters: vec![filters::http(context, node, stat_prefix, table)], ..Chain::default() }];
    }
    let mut chains = Vec::new();
    for server in &port.servers {
        let more = match &server.route_name {
            Some(table) => https(context, node, server, stat_prefix.clone(), table.clone()),
            None if server.is_passthrough() => passthrough(context, node, server),
            None => terminated_or_plain(context, node, server),
        };
        super::chain::merge(&mut chains, more);
    }
    chains
}

fn https(context: &PushContext, node: &Node, server: &Server, stat_prefix: String, table: String) -> Vec<Chain> {
    let Some(settings) = server_tls(node, server, true) else { return Vec::new() };
    vec![Chain {
        server_names: server.server_names(),
        tls: Some(settings),
        filters: vec![filters::http(context, node, stat_prefix, table)],
        ..Chain::default()
    }]
}

/// TLS that ends here. A server whose clients' certificates are pinned is left out for our own proxy, which cannot check pins yet: the
/// server is closed rather than open to clients that it means to keep out.
fn server_tls(node: &Node, server: &Server, http: bool) -> Option<DownstreamTlsContext> {
    let settings = server.spec().tls.as_ref().filter(|_| server.is_tls())?;
    let pinned = !settings.verify_certificate_spki.is_empty() || !settings.verify_certificate_hash.is_empty();
    if pinned && node.ferromesh { None } else { tls::context(node, settings, http) }
}

/// Opaque TCP, with TLS ended first where the server says so: the first TCP route of a VirtualService takes it.
fn terminated_or_plain(context: &PushContext, node: &Node, server: &Server) -> Vec<Chain> {
    let gateway = server.gateway_name();
    let site = Site { context, node, gateway: &gateway, port: server.number(), tls: server.is_tls() };
    let found = context.virtual_services(node, &gateway).iter().find_map(|config| {
        if server.shared_hosts(config).is_empty() {
            return None;
        }
        let rule = config.spec.tcp.iter().find(|rule| {
            let any = rule.matches.is_empty() || rule.matches.iter().any(|one| applies(&site, one));
            any && !rule.route.is_empty()
        })?;
        let to = destination::clusters(&site, &rule.route)?;
        let (host, subset) = tcp::first(&rule.route);
        let name = format!("{}.{}", config.key.name, config.key.namespace);
        Some((tcp::filters(&site, &to, host, subset, &name), wire::config_metadata(&config.key)))
    });
    let Some((filters, metadata)) = found else { return Vec::new() };
    let settings = server_tls(node, server, false);
    if server.is_tls() && settings.is_none() {
        return Vec::new();
    }
    vec![Chain {
        server_names: if server.is_tls() { server.server_names() } else { Vec::new() },
        tls: settings,
        filters,
        metadata: Some(metadata),
        ..Chain::default()
    }]
}

fn applies(site: &Site<'_>, condition: &L4MatchAttributes) -> bool {
    condition.port.is_none_or(|port| port == 0 || port == u32::from(site.port))
        && (condition.gateways.is_empty() || condition.gateways.iter().any(|gateway| gateway == site.gateway))
}

/// TLS that is not ended here: a chain for each `tls` route, by server name.
fn passthrough(context: &PushContext, node: &Node, server: &Server) -> Vec<Chain> {
    use mesh_proto::crd::gateway::ServerTlsMode;
    if server.spec().tls.as_ref().is_some_and(|settings| settings.mode == ServerTlsMode::AutoPassthrough) {
        return auto_passthrough(context, node, server);
    }
    let gateway = server.gateway_name();
    let site = Site { context, node, gateway: &gateway, port: server.number(), tls: true };
    let mut chains = Vec::new();
    for config in context.virtual_services(node, &gateway).iter() {
        if server.shared_hosts(config).is_empty() {
            continue;
        }
        for rule in &config.spec.tls {
            let Some(to) = destination::clusters(&site, &rule.route) else { continue };
            let (host, subset) = tcp::first(&rule.route);
            let name = format!("{}.{}", config.key.name, config.key.namespace);
            for one in &rule.matches {
                let here = one.port.is_none_or(|port| port == 0 || port == u32::from(site.port))
                    && (one.gateways.is_empty() || one.gateways.contains(&gateway));
                if !here {
                    continue;
                }
                chains.push(Chain {
                    server_names: one.sni_hosts.clone(),
                    filters: tcp::filters(&site, &to, host, subset, &name),
                    metadata: Some(wire::config_metadata(&config.key)),
                    ..Chain::default()
                });
            }
        }
    }
    chains
}

/// Mesh TLS that is passed on by the server name that its client made of the cluster (G8): a chain for each cluster that the server's
/// hosts allow. Only mesh ALPNs are taken, so that nothing gets in without a mesh certificate.
fn auto_passthrough(context: &PushContext, node: &Node, server: &Server) -> Vec<Chain> {
    let gateway = server.gateway_name();
    let mut chains = Vec::new();
    for service in context.services(node).iter().filter(|service| !service.external) {
        if !server.hosts.iter().any(|allowed| host::is_within(&service.host, &allowed.name)) {
            continue;
        }
        let rule = context.destination_rule(node, service);
        let subsets = rule.iter().flat_map(|rule| &rule.spec.subsets).map(|subset| subset.name.as_str());
        let subsets: Vec<&str> = std::iter::once("").chain(subsets).collect();
        for port in service.ports.iter().filter(|port| port.protocol != Protocol::Udp) {
            let site = Site { context, node, gateway: &gateway, port: port.number, tls: true };
            for subset in &subsets {
                let name = cluster::sni(port.number, subset, &service.host);
                let to = destination::Clusters::One(name.clone());
                chains.push(Chain {
                    server_names: vec![name.clone()],
                    protocols: MESH_ALPN.iter().map(|name| (*name).to_owned()).collect(),
                    filters: tcp::unjudged(&site, &to, &service.host, subset),
                    ..Chain::default()
                });
            }
        }
    }
    chains
}

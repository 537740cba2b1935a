//! Route tables of gateways: where a server's hosts and a VirtualService's meet (GW3, VS4, GT1).

use std::collections::BTreeMap;

use mesh_proto::crd::VirtualService;
use mesh_proto::xds::route;

use super::{Site, condition, configuration, rule};
use crate::model::context::Config;
use crate::model::{Key, Node, PushContext};
use crate::translate::http;
use crate::translate::servers::{self, Server};

/// A VirtualService at a Gateway's server: what the routes of a host are made of.
type Source = (Key, String, u16);

/// A virtual host in the making.
#[derive(Default)]
struct Host {
    routes: Vec<route::Route>,
    /// What its routes were made of, in order; equal lists mean equal routes.
    sources: Vec<Source>,
    tls_only: bool,
    port: u16,
}

/// The table of this name. A name that no server has gets an empty table: a listener that is being drained may still ask.
pub fn table(context: &PushContext, node: &Node, name: &str) -> Option<route::RouteConfiguration> {
    let merged = servers::merge(context, node);
    let servers: Vec<&Server> = merged
        .iter()
        .flat_map(|port| &port.servers)
        .filter(|server| server.route_name.as_deref() == Some(name))
        .collect();
    let Some(first) = servers.first() else { return Some(configuration(name, Vec::new(), true)) };
    let mut hosts: BTreeMap<String, Host> = BTreeMap::new();
    for server in &servers {
        for config in context.virtual_services(node, &server.gateway_name()).iter() {
            add(context, node, server, config, &mut hosts);
        }
        if server.redirects() {
            // Hosts of the server are redirected even where no VirtualService speaks of them.
            for host in &server.hosts {
                let entry = hosts.entry(host.name.to_ascii_lowercase()).or_default();
                entry.tls_only = true;
                entry.port = server.number();
            }
        }
    }
    let attempts = http::attempt_count(&context.mesh, node);
    let mut virtual_hosts = collapse(hosts, attempts);
    if virtual_hosts.is_empty() {
        // Without routes every request is answered with 404 and `NR`.
        virtual_hosts.push(route::VirtualHost {
            name: format!("blackhole:{}", first.number()),
            domains: vec!["*".to_owned()],
            ..Default::default()
        });
    }
    virtual_hosts.sort_by(|one, other| one.name.cmp(&other.name));
    Some(configuration(name, virtual_hosts, !node.grpc))
}

fn add(
    context: &PushContext,
    node: &Node,
    server: &Server,
    config: &Config<VirtualService>,
    hosts: &mut BTreeMap<String, Host>,
) {
    let shared = server.shared_hosts(config);
    if shared.is_empty() {
        return;
    }
    let gateway = server.gateway_name();
    let site = Site { context, node, gateway: &gateway, port: server.number(), tls: server.is_tls() };
    let routes = rule::routes(&site, config);
    if routes.is_empty() {
        return;
    }
    for name in shared {
        let host = hosts.entry(name).or_default();
        host.port = server.number();
        host.tls_only |= server.redirects();
        let source = (config.key.clone(), gateway.clone(), server.number());
        // Two servers of one Gateway may share a host; its routes are the same.
        if !host.sources.contains(&source) {
            host.routes.extend(routes.iter().cloned());
            host.sources.push(source);
        }
    }
}

/// Hosts with the same routes become one virtual host, as in Istio: routes are long, domains are short.
fn collapse(hosts: BTreeMap<String, Host>, attempts: bool) -> Vec<route::VirtualHost> {
    use route::virtual_host::TlsRequirementType as Tls;
    let mut made: Vec<((Vec<Source>, bool), route::VirtualHost)> = Vec::new();
    for (domain, host) in hosts {
        let signature = (host.sources, host.tls_only);
        if let Some((_, known)) = made.iter_mut().find(|(known, _)| *known == signature) {
            known.domains.push(domain);
            continue;
        }
        let tls = if host.tls_only { Tls::All } else { Tls::None };
        let made_host = route::VirtualHost {
            name: format!("{domain}:{}", host.port),
            domains: vec![domain],
            routes: catch_all_last(host.routes),
            require_tls: tls.into(),
            include_request_attempt_count: attempts,
            ..Default::default()
        };
        made.push((signature, made_host));
    }
    made.into_iter().map(|(_, host)| host).collect()
}

/// Routes of several VirtualServices follow each other in order of creation, but what takes every request comes last (VS4).
fn catch_all_last(routes: Vec<route::Route>) -> Vec<route::Route> {
    let is_last = |route: &route::Route| route.r#match.as_ref().is_some_and(condition::is_catch_all);
    let (last, mut first): (Vec<_>, Vec<_>) = routes.into_iter().partition(is_last);
    first.extend(last);
    first
}

//! Outbound listeners of sidecars (G10–G12, VT1, VC1, SC2): one for each HTTP port, one for each address of a TCP service, and the
//! captured rest.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use mesh_proto::crd::VirtualService;
use mesh_proto::crd::virtual_service::{L4MatchAttributes, TlsMatchAttributes};
use mesh_proto::names::{MESH_GATEWAY, cluster};
use mesh_proto::xds::{core, listener};

use super::chain::{self, Chain, PLAINTEXT_HTTP, RAW_BUFFER};
use super::egress::{self, Egress};
use super::{filters, tcp};
use crate::model::context::Config;
use crate::model::{
    Address, Interception, Node, NodeKind, Protocol, PushContext, Registry, Resolution, Service, ServicePort, host,
};
use crate::translate::route::destination::{self, Clusters};
use crate::translate::route::{HTTP_PROXY, Site, condition};
use crate::translate::wire;

const WILDCARD: &str = "0.0.0.0";
const LOOPBACK: &str = "127.0.0.1";
/// Chain for what no other chain takes.
const PASSTHROUGH_CHAIN: &str = "PassthroughFilterChain";

/// The outbound listeners of a sidecar, by name; `virtualOutbound` last.
pub fn listeners(context: &PushContext, node: &Node) -> Vec<listener::Listener> {
    if node.kind != NodeKind::Sidecar {
        return Vec::new();
    }
    let rules = context.virtual_services(node, MESH_GATEWAY);
    let mut builder = Builder { context, node, rules, entries: BTreeMap::new() };
    for listener in egress::listeners(context, node) {
        builder.add(&listener);
    }
    builder.http_proxy();
    let captured = node.interception != Interception::None;
    let mut listeners: Vec<_> =
        builder.entries.into_iter().map(|((bind, port), entry)| build(context, node, &bind, port, &entry)).collect();
    if captured {
        listeners.push(virtual_outbound(context, node));
    }
    listeners
}

/// What a listener's port speaks, as far as conflicts go (G11).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speaks {
    Http,
    Tcp,
    /// Both, told apart by looking.
    Either,
}

/// A listener in the making.
struct Entry {
    speaks: Speaks,
    /// It opens its port.
    bound: bool,
    /// A Sidecar spelled it out: nothing is added by listeners without a port.
    locked: bool,
    chains: Vec<Chain>,
}

/// One service on one port, and where its listener is to be.
struct Wanted<'a> {
    service: &'a Service,
    port: &'a ServicePort,
    bound: bool,
    /// Address; by the service's addresses when absent.
    bind: Option<String>,
    /// Endpoints' own addresses need no server name to be told apart.
    single: bool,
}

struct Builder<'a> {
    context: &'a PushContext,
    node: &'a Node,
    rules: Arc<[Arc<Config<VirtualService>>]>,
    entries: BTreeMap<(String, u16), Entry>,
}

impl Builder<'_> {
    fn add(&mut self, listener: &Egress) {
        let bind = match (&listener.bind, &listener.port) {
            (Some(bind), _) => Some(bind.clone()),
            (None, Some(_)) if listener.bound => Some(LOOPBACK.to_owned()),
            // A listener for every port of every service would take the ports of other proxies on this machine.
            (None, None) if self.node.interception == Interception::None => return,
            (None, None) if listener.bound => Some(LOOPBACK.to_owned()),
            (None, _) => None,
        };
        if listener.is_http_proxy() {
            if let Some(port) = listener.port {
                self.add_http_proxy(bind.unwrap_or_else(|| LOOPBACK.to_owned()), port.number);
            }
            return;
        }
        if let Some(port) = listener.port {
            for service in listener.services.iter() {
                let port = ServicePort {
                    name: "".into(),
                    number: port.number,
                    protocol: port.protocol,
                    target: None,
                    target_name: None,
                };
                let wanted = Wanted { service, port: &port, bound: listener.bound, bind: bind.clone(), single: false };
                self.service(&wanted);
            }
            return;
        }
        for entry in self.entries.values_mut() {
            entry.locked = true;
        }
        for service in listener.services.iter() {
            for port in &service.ports {
                let wanted = Wanted { service, port, bound: listener.bound, bind: bind.clone(), single: false };
                match self.headless_binds(&wanted) {
                    None => self.service(&wanted),
                    Some(binds) => {
                        for bind in binds {
                            self.service(&Wanted { bind: Some(bind), single: true, ..wanted });
                        }
                    }
                }
            }
        }
    }

    /// The endpoints' addresses of a service that clients reach by them, if its port is not HTTP; `None` for every other service.
    fn headless_binds(&self, wanted: &Wanted<'_>) -> Option<Vec<String>> {
        let service = wanted.service;
        let by_address = service.headless || service.resolution == Resolution::Passthrough;
        let addressed = !service.addresses_for(self.node).is_empty() || !service.ranges.is_empty();
        if wanted.bind.is_some() || !by_address || addressed || wanted.port.protocol.is_http() {
            return None;
        }
        let endpoints = self.context.endpoints(service, wanted.port);
        // A ServiceEntry of unknown endpoints stays one listener for its port; a Kubernetes service without any has nothing to listen for.
        if endpoints.is_empty() && service.registry == Registry::External && service.selector.is_none() {
            return None;
        }
        let mut binds: Vec<String> = endpoints
            .iter()
            .filter_map(|endpoint| match &endpoint.address {
                // A workload that calls itself by its own address does not come through here.
                Address::Ip(address) if !self.node.addresses.contains(address) => Some(address.to_string()),
                _ => None,
            })
            .collect();
        binds.sort();
        binds.dedup();
        Some(binds)
    }

    /// `meshConfig.proxyHttpPort`.
    fn http_proxy(&mut self) {
        if let Some(port) = egress::http_proxy_port(self.context) {
            self.add_http_proxy(LOOPBACK.to_owned(), port);
        }
    }

    fn add_http_proxy(&mut self, bind: String, port: u16) {
        let chain = self.http_chain(&bind, port, HTTP_PROXY.to_owned());
        self.entries.entry((bind, port)).or_insert(Entry {
            speaks: Speaks::Http,
            bound: true,
            locked: true,
            chains: vec![chain],
        });
    }

    fn http_chain(&self, bind: &str, port: u16, table: String) -> Chain {
        let filter = filters::http(self.context, self.node, format!("outbound_{bind}_{port}"), table);
        Chain { filters: vec![filter], ..Chain::default() }
    }

    fn service(&mut self, wanted: &Wanted<'_>) {
        let number = wanted.port.number;
        match wanted.port.protocol {
            Protocol::Udp => {}
            protocol if protocol.is_http() => {
                let bind = wanted.bind.clone().unwrap_or_else(|| WILDCARD.to_owned());
                // Virtual hosts tell services apart: the first made the chain for all.
                if self.entries.get(&(bind.clone(), number)).is_some_and(|entry| entry.speaks != Speaks::Tcp) {
                    return;
                }
                let mut chain = self.http_chain(&bind, number, number.to_string());
                let mut speaks = Speaks::Http;
                if bind == WILDCARD {
                    // What is not HTTP on an HTTP port falls through to the catch-all.
                    look_for_http(&mut chain);
                    speaks = Speaks::Either;
                }
                self.insert(bind, wanted, speaks, vec![chain]);
            }
            protocol => {
                for (bind, ranges) in binds(wanted, self.node) {
                    let mut chains = self.opaque_chains(wanted, &bind, &ranges);
                    let mut speaks = Speaks::Tcp;
                    if protocol == Protocol::Unknown {
                        speaks = Speaks::Either;
                        if self.entries.get(&(bind.clone(), number)).is_some_and(|entry| entry.speaks == Speaks::Either)
                        {
                            continue;
                        }
                        let table = if bind == WILDCARD {
                            number.to_string()
                        } else {
                            format!("{}:{number}", wanted.service.host)
                        };
                        let mut http = self.http_chain(&bind, number, table);
                        look_for_http(&mut http);
                        chains.push(http);
                    }
                    self.insert(bind, wanted, speaks, chains);
                }
            }
        }
    }

    /// Makes the listener, or merges into one that is there: HTTP and TCP on one port are told apart by looking (G11).
    fn insert(&mut self, bind: String, wanted: &Wanted<'_>, speaks: Speaks, chains: Vec<Chain>) {
        let entry = match self.entries.entry((bind, wanted.port.number)) {
            std::collections::btree_map::Entry::Vacant(vacant) => {
                vacant.insert(Entry { speaks, bound: wanted.bound, locked: false, chains });
                return;
            }
            std::collections::btree_map::Entry::Occupied(occupied) => occupied.into_mut(),
        };
        if entry.locked {
            return;
        }
        match (entry.speaks, speaks) {
            // Looking covers what was declared.
            (Speaks::Http, Speaks::Either) => {
                entry.chains = chains;
                entry.speaks = Speaks::Either;
            }
            (Speaks::Tcp, Speaks::Tcp) | (Speaks::Either, Speaks::Tcp) => chain::merge(&mut entry.chains, chains),
            (Speaks::Tcp, Speaks::Http | Speaks::Either) | (Speaks::Http, Speaks::Tcp) => {
                if entry.speaks == Speaks::Http {
                    entry.chains.iter_mut().for_each(look_for_http);
                }
                let mut chains = chains;
                if speaks == Speaks::Http {
                    chains.iter_mut().for_each(look_for_http);
                }
                chain::merge(&mut entry.chains, chains);
                entry.speaks = Speaks::Either;
            }
            (_, Speaks::Http) | (Speaks::Either, Speaks::Either) => {}
        }
    }

    /// The chains of a TCP or TLS port.
    fn opaque_chains(&self, wanted: &Wanted<'_>, bind: &str, ranges: &[IpNet]) -> Vec<Chain> {
        let (context, node) = (self.context, self.node);
        let site = Site { context, node, gateway: MESH_GATEWAY, port: wanted.port.number, tls: false };
        let rules: Vec<&Config<VirtualService>> = self
            .rules
            .iter()
            .map(|config| &**config)
            .filter(|config| config.spec.hosts.iter().any(|pattern| host::is_within(&wanted.service.host, pattern)))
            .collect();
        if wanted.port.protocol.is_tls() {
            tls_chains(&site, wanted, bind, ranges, &rules)
        } else {
            tcp_chains(&site, wanted, ranges, &rules)
        }
    }
}

/// A chain that takes plaintext HTTP only.
fn look_for_http(chain: &mut Chain) {
    chain.protocols = PLAINTEXT_HTTP.iter().map(|name| (*name).to_owned()).collect();
    chain.transport = RAW_BUFFER.to_owned();
}

/// Addresses for a TCP service: its own, or all with its ranges.
fn binds(wanted: &Wanted<'_>, node: &Node) -> Vec<(String, Vec<IpNet>)> {
    if let Some(bind) = &wanted.bind {
        return vec![(bind.clone(), Vec::new())];
    }
    let service = wanted.service;
    let mut binds: Vec<_> =
        service.addresses_for(node).iter().map(|address| (address.to_string(), Vec::new())).collect();
    if !service.ranges.is_empty() || binds.is_empty() {
        binds.push((WILDCARD.to_owned(), service.ranges.clone()));
    }
    binds
}

/// The cluster of a service without rules. A Sidecar's port that is none of a service with one port means that one.
fn default_cluster(wanted: &Wanted<'_>) -> String {
    let number = match wanted.service.ports.as_slice() {
        [only] => only.number,
        _ => wanted.port.number,
    };
    cluster::outbound(number, "", &wanted.service.host)
}

fn subnets(texts: &[String]) -> Vec<IpNet> {
    let parse = |text: &String| text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    texts.iter().filter_map(parse).collect()
}

/// TLS that is not ended here: by server name where a VirtualService has `tls` routes, else to the service (VT1).
fn tls_chains(
    site: &Site<'_>,
    wanted: &Wanted<'_>,
    bind: &str,
    ranges: &[IpNet],
    rules: &[&Config<VirtualService>],
) -> Vec<Chain> {
    let mut chains = Vec::new();
    for config in rules {
        for rule in &config.spec.tls {
            let Some(to) = destination::clusters(site, &rule.route) else { continue };
            for one in rule.matches.iter().filter(|one| tls_applies(site, one)) {
                let own = subnets(&one.destination_subnets);
                let (host, subset) = tcp::first(&rule.route);
                let name = format!("{}.{}", config.key.name, config.key.namespace);
                let chain = Chain {
                    server_names: one.sni_hosts.clone(),
                    ranges: if own.is_empty() { ranges.to_vec() } else { own },
                    filters: tcp::filters(site, &to, host, subset, &name),
                    metadata: Some(wire::config_metadata(&config.key)),
                    ..Chain::default()
                };
                chain::merge(&mut chains, vec![chain]);
            }
        }
    }
    if chains.is_empty() {
        // An address of its own says which service is meant; a shared one leaves only the server name to tell.
        let own_address =
            wanted.single || wanted.service.addresses_for(site.node).iter().any(|address| address.to_string() == bind);
        let to = Clusters::One(default_cluster(wanted));
        chains.push(Chain {
            server_names: if own_address { Vec::new() } else { vec![wanted.service.host.to_string()] },
            ranges: ranges.to_vec(),
            filters: tcp::filters(site, &to, &wanted.service.host, "", ""),
            ..Chain::default()
        });
    }
    chains
}

/// Opaque TCP: the first `tcp` route without an address condition ends the list, else the service itself does (VC1).
fn tcp_chains(site: &Site<'_>, wanted: &Wanted<'_>, ranges: &[IpNet], rules: &[&Config<VirtualService>]) -> Vec<Chain> {
    let mut chains = Vec::new();
    for config in rules {
        for rule in &config.spec.tcp {
            let Some(to) = destination::clusters(site, &rule.route) else { continue };
            let (host, subset) = tcp::first(&rule.route);
            let name = format!("{}.{}", config.key.name, config.key.namespace);
            let chain = |ranges: Vec<IpNet>| Chain {
                ranges,
                filters: tcp::filters(site, &to, host, subset, &name),
                metadata: Some(wire::config_metadata(&config.key)),
                ..Chain::default()
            };
            let here: Vec<_> = rule.matches.iter().filter(|one| tcp_applies(site, one)).collect();
            if rule.matches.is_empty() || here.iter().any(|one| one.destination_subnets.is_empty()) {
                chain::merge(&mut chains, vec![chain(ranges.to_vec())]);
                return chains;
            }
            let own: Vec<IpNet> = here.iter().flat_map(|one| subnets(&one.destination_subnets)).collect();
            if !own.is_empty() {
                chain::merge(&mut chains, vec![chain(own)]);
            }
        }
    }
    let to = Clusters::One(default_cluster(wanted));
    let default = Chain {
        ranges: ranges.to_vec(),
        filters: tcp::filters(site, &to, &wanted.service.host, "", ""),
        ..Chain::default()
    };
    chain::merge(&mut chains, vec![default]);
    chains
}

fn tls_applies(site: &Site<'_>, one: &TlsMatchAttributes) -> bool {
    applies(site, one.port, &one.gateways) && condition::source_applies(site, &one.source_labels, &one.source_namespace)
}

fn tcp_applies(site: &Site<'_>, one: &L4MatchAttributes) -> bool {
    applies(site, one.port, &one.gateways) && condition::source_applies(site, &one.source_labels, &one.source_namespace)
}

fn applies(site: &Site<'_>, port: Option<u32>, gateways: &[String]) -> bool {
    port.is_none_or(|port| port == 0 || port == u32::from(site.port))
        && (gateways.is_empty() || gateways.iter().any(|gateway| gateway == site.gateway))
}

fn build(context: &PushContext, node: &Node, bind: &str, port: u16, entry: &Entry) -> listener::Listener {
    let looks_for_http = entry.chains.iter().any(|chain| !chain.protocols.is_empty());
    let looks_at_tls = looks_for_http || entry.chains.iter().any(|chain| !chain.server_names.is_empty());
    let mut inspectors = Vec::new();
    if looks_at_tls {
        inspectors.push(listener_filter::tls_inspector());
    }
    let mut timeout = Duration::ZERO;
    if looks_for_http {
        inspectors.push(listener_filter::http_inspector());
        timeout = context.mesh.protocol_detection_timeout.0;
    }
    let mut chains = Vec::new();
    let mut default = None;
    for chain in &entry.chains {
        if chain.is_match_all() && default.is_none() {
            default = Some(chain.build());
        } else {
            chains.push(chain.build());
        }
    }
    if chains.is_empty() {
        chains.extend(default.take());
    } else if default.is_none() {
        default = Some(listener::FilterChain {
            name: PASSTHROUGH_CHAIN.to_owned(),
            filters: tcp::catch_all(context, node, entry.bound),
            ..Default::default()
        });
    }
    let (address, additional_addresses) = match bind {
        WILDCARD if !entry.bound => wire::any_address(node, port),
        _ => (wire::bind_address(bind, port), Vec::new()),
    };
    listener::Listener {
        name: format!("{bind}_{port}"),
        address: Some(address),
        additional_addresses,
        traffic_direction: core::TrafficDirection::Outbound.into(),
        bind_to_port: if entry.bound { None } else { wire::boolean(false) },
        listener_filters: inspectors,
        listener_filters_timeout: Some(wire::duration(timeout)),
        continue_on_listener_filters_timeout: true,
        filter_chains: chains,
        default_filter_chain: default,
        ..Default::default()
    }
}

/// The listener that all captured connections come to, and its chain for those that no other listener takes.
fn virtual_outbound(context: &PushContext, node: &Node) -> listener::Listener {
    let port = u16::try_from(context.mesh.proxy_listen_port).unwrap_or(mesh_proto::names::port::OUTBOUND);
    // Who dials this port itself is not captured; passed on, the connection would come back for ever.
    let direct = listener::FilterChain {
        name: "virtualOutbound-blackhole".to_owned(),
        filter_chain_match: Some(listener::FilterChainMatch {
            destination_port: wire::number(port.into()),
            ..Default::default()
        }),
        filters: tcp::to_cluster(context, node, cluster::BLACK_HOLE),
        ..Default::default()
    };
    let rest = listener::FilterChain {
        name: "virtualOutbound-catchall-tcp".to_owned(),
        filters: tcp::catch_all(context, node, false),
        ..Default::default()
    };
    let (address, additional_addresses) = wire::any_address(node, port);
    listener::Listener {
        name: "virtualOutbound".to_owned(),
        address: Some(address),
        additional_addresses,
        traffic_direction: core::TrafficDirection::Outbound.into(),
        use_original_dst: wire::boolean(true),
        filter_chains: vec![direct, rest],
        ..Default::default()
    }
}

/// Listener filters: what is looked at before a chain is chosen.
pub mod listener_filter {
    use mesh_proto::xds::{http_inspector, listener, pack, proxy_protocol, tls_inspector};

    fn filter<M: prost::Name>(name: &str, config: &M) -> listener::ListenerFilter {
        listener::ListenerFilter {
            name: name.to_owned(),
            config_type: Some(listener::listener_filter::ConfigType::TypedConfig(pack(config))),
            ..Default::default()
        }
    }

    /// Server name and ALPN of a TLS hello.
    pub fn tls_inspector() -> listener::ListenerFilter {
        filter("envoy.filters.listener.tls_inspector", &tls_inspector::TlsInspector::default())
    }

    /// Whether plaintext is HTTP.
    pub fn http_inspector() -> listener::ListenerFilter {
        filter("envoy.filters.listener.http_inspector", &http_inspector::HttpInspector::default())
    }

    /// The PROXY header that a load balancer writes.
    pub fn proxy_protocol() -> listener::ListenerFilter {
        filter("envoy.filters.listener.proxy_protocol", &proxy_protocol::ProxyProtocol::default())
    }
}

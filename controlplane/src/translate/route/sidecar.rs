//! Route tables of sidecars: a virtual host for each HTTP service of a port, and one for everything else (G13, VS4, SC2, SC5).

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_proto::crd::VirtualService;
use mesh_proto::names::{MESH_GATEWAY, cluster};
use mesh_proto::xds::route;

use super::domain::{self, Domains, Form, Taken};
use super::{HTTP_PROXY, Site, action, configuration, rule};
use crate::model::context::Config;
use crate::model::scope::Scope;
use crate::model::{Interception, Node, NodeKind, Protocol, PushContext, Service, ServicePort, host};
use crate::translate::http;
use crate::translate::listener::egress::{self, Egress};

/// The port on which hosts are served that are no services, such as `VirtualService` hosts outside the mesh.
const PLAIN_HTTP: u16 = 80;

/// What a table's name asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted<'a> {
    /// `http_proxy`: every HTTP service.
    Proxy,
    /// `80`: the services of a port.
    Port(u16),
    /// `HOST:80`: one service, whose protocol was found out by looking.
    Sniffed(&'a str, u16),
}

impl<'a> Wanted<'a> {
    fn parse(name: &'a str) -> Option<Self> {
        if name == HTTP_PROXY {
            return Some(Self::Proxy);
        }
        match name.rsplit_once(':') {
            Some((host, port)) => Some(Self::Sniffed(host, port.parse().ok()?)),
            None => name.parse().ok().map(Self::Port),
        }
    }

    fn port(self) -> Option<u16> {
        match self {
            Self::Proxy => None,
            Self::Port(port) | Self::Sniffed(_, port) => Some(port),
        }
    }
}

/// The table of this name; `None` if the sidecar has no listener that would ask for it.
pub fn table(context: &PushContext, node: &Node, name: &str) -> Option<route::RouteConfiguration> {
    Some(table_and_claims(context, node, name)?.0)
}

/// The table of this name, and who has which domains in it.
pub fn table_and_claims(
    context: &PushContext,
    node: &Node,
    name: &str,
) -> Option<(route::RouteConfiguration, domain::Taken)> {
    let wanted = Wanted::parse(name)?;
    let services = services(context, node, wanted)?;
    let mut builder = Builder {
        context,
        node,
        attempts: http::attempt_count(&context.mesh, node),
        taken: Taken::default(),
        hosts: Vec::new(),
    };
    let mut ports: BTreeMap<u16, Vec<(Arc<Service>, ServicePort)>> = BTreeMap::new();
    if wanted.port().is_none_or(|port| port == PLAIN_HTTP) {
        ports.entry(PLAIN_HTTP).or_default();
    }
    for service in services.iter() {
        for port in service
            .ports
            .iter()
            .filter(|port| is_served(port))
            .filter(|port| wanted.port().is_none_or(|number| number == port.number))
        {
            ports.entry(port.number).or_default().push((service.clone(), port.clone()));
        }
    }
    ports.values().flatten().for_each(|(service, _)| builder.taken.reserve(service));
    for (port, services) in &ports {
        let form = match wanted {
            Wanted::Proxy if *port != PLAIN_HTTP => Form::Ported,
            Wanted::Proxy => Form::Both,
            // gRPC's own client does not ignore ports.
            _ if node.grpc => Form::Both,
            _ => Form::Bare,
        };
        builder.port(*port, services, form);
    }
    let mut hosts = builder.hosts;
    let ignore_port = wanted != Wanted::Proxy && !node.grpc;
    if let Wanted::Sniffed(host, _) = wanted {
        // The listener is the service's own, so any `Host` means it.
        hosts.retain(|one| one.domains.iter().any(|domain| domain == host));
        hosts.truncate(1);
        hosts.iter_mut().for_each(|one| one.domains = vec!["*".to_owned()]);
        return Some((configuration(name, hosts, ignore_port), builder.taken));
    }
    hosts.sort_by(|one, other| one.name.cmp(&other.name));
    if !builder.taken.everything() {
        hosts.push(catch_all(context, node, wanted == Wanted::Proxy, builder.attempts));
    }
    Some((configuration(name, hosts, ignore_port), builder.taken))
}

/// The port of a table whose virtual hosts can be made one by one by [`virtual_host`]: one for all that a sidecar may reach.
pub fn port_of(node: &Node, scope: &Scope, name: &str) -> Option<u16> {
    match Wanted::parse(name)? {
        Wanted::Port(port) if scope.everything && !node.grpc && node.kind == NodeKind::Sidecar => Some(port),
        _ => None,
    }
}

/// A virtual host as it would be if no other wanted its domains.
pub struct Made {
    /// Its domains, and which of them are short.
    pub domains: Domains,
    /// Its routes.
    pub routes: Vec<route::Route>,
}

/// Why a virtual host cannot be made alone: a wildcard stands for hosts that only the whole table knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wildcard;

/// The virtual host of one host in the table of a port, by the same rules as [`table`]; none if it has none.
pub fn virtual_host(
    context: &PushContext,
    node: &Node,
    scope: &Scope,
    port: u16,
    host: &str,
) -> Result<Option<Made>, Wildcard> {
    let site = Site { context, node, gateway: MESH_GATEWAY, port, tls: false };
    let rules_for = |host: &str| -> Vec<(Arc<Config<VirtualService>>, Vec<route::Route>)> {
        let speaking = scope
            .virtual_services
            .iter()
            .filter(|config| config.spec.hosts.iter().any(|pattern| host::is_within(host, pattern)));
        let rules = speaking.map(|config| (config.clone(), rule::routes(&site, config)));
        rules.filter(|(_, routes)| !routes.is_empty()).collect()
    };
    let served = |host: &str| {
        let service = scope.service(host)?;
        Some((service, service.ports.iter().find(|one| one.number == port && is_served(one))?))
    };
    let mut rules = rules_for(host);
    if let Some((service, service_port)) = served(host) {
        let domains = domain::of_service(service, node, port, Form::Bare);
        let routes = match owner(host, &rules) {
            Some(index) => rules.swap_remove(index).1,
            None => vec![rule::default_route(&site, service, service_port)],
        };
        return Ok(Some(Made { domains, routes }));
    }
    for (config, routes) in rules {
        if !config.spec.hosts.iter().any(|one| one == host) {
            continue;
        }
        let mut owns = port == PLAIN_HTTP;
        for other in &config.spec.hosts {
            if other.starts_with('*') {
                return Err(Wildcard);
            }
            if !owns && served(other).is_some() {
                let rules = rules_for(other);
                owns = owner(other, &rules).is_some_and(|index| Arc::ptr_eq(&rules[index].0, &config));
            }
        }
        if owns {
            let domains = Domains { all: domain::of_host(host, port, Form::Bare), ..Domains::default() };
            return Ok(Some(Made { domains, routes }));
        }
    }
    Ok(None)
}

/// True if a table of the port has the service's host.
fn is_served(port: &ServicePort) -> bool {
    port.protocol.is_http() || port.protocol == Protocol::Unknown
}

/// The services that the asking listener serves.
fn services(context: &PushContext, node: &Node, wanted: Wanted<'_>) -> Option<Arc<[Arc<Service>]>> {
    let listeners = egress::listeners(context, node);
    if wanted == Wanted::Proxy {
        let mut found: BTreeMap<_, Arc<Service>> = BTreeMap::new();
        let proxies = listeners.into_iter().filter(|one| one.is_http_proxy());
        for service in proxies.flat_map(|one| one.services.to_vec()) {
            found.entry(service.host.clone()).or_insert(service);
        }
        let all = found.is_empty() && egress::http_proxy_port(context).is_some();
        return Some(if all { context.services(node) } else { found.into_values().collect() });
    }
    let port = wanted.port();
    let own = |one: &&Egress| one.port.as_ref().map(|port| port.number) == port && !one.is_http_proxy();
    let listener = listeners.iter().find(own).or_else(|| listeners.iter().find(|one| one.port.is_none()))?;
    Some(listener.services.clone())
}

struct Builder<'a> {
    context: &'a PushContext,
    node: &'a Node,
    attempts: bool,
    taken: Taken,
    hosts: Vec<route::VirtualHost>,
}

impl Builder<'_> {
    /// The virtual hosts of a port: of VirtualServices in their order, then of services without.
    fn port(&mut self, port: u16, services: &[(Arc<Service>, ServicePort)], form: Form) {
        let site = Site { context: self.context, node: self.node, gateway: MESH_GATEWAY, port, tls: false };
        let rules: Vec<(Arc<Config<VirtualService>>, Vec<route::Route>)> = self
            .context
            .virtual_services(self.node, MESH_GATEWAY)
            .iter()
            .map(|config| (config.clone(), rule::routes(&site, config)))
            .filter(|(_, routes)| !routes.is_empty())
            .collect();
        let owners: Vec<Option<usize>> = services.iter().map(|(service, _)| owner(&service.host, &rules)).collect();
        for (index, (config, routes)) in rules.iter().enumerate() {
            let own = || services.iter().zip(&owners).filter(move |(_, owner)| **owner == Some(index));
            if own().next().is_none() && port != PLAIN_HTTP {
                continue;
            }
            for name in config.spec.hosts.iter().filter(|name| is_no_service(name, services)) {
                let domains = Domains { all: domain::of_host(name, port, form), ..Domains::default() };
                self.push(name, port, domains, routes.clone());
            }
            for ((service, _), _) in own() {
                let domains = domain::of_service(service, self.node, port, form);
                self.push(&service.host, port, domains, routes.clone());
            }
        }
        for ((service, service_port), _) in services.iter().zip(&owners).filter(|(_, owner)| owner.is_none()) {
            let domains = domain::of_service(service, self.node, port, form);
            self.push(&service.host, port, domains, vec![rule::default_route(&site, service, service_port)]);
        }
    }

    fn push(&mut self, host: &str, port: u16, domains: Domains, routes: Vec<route::Route>) {
        let name = format!("{host}:{port}");
        let Some(domains) = self.taken.claim(&name, domains) else { return };
        self.hosts.push(route::VirtualHost {
            name,
            domains,
            routes,
            include_request_attempt_count: self.attempts,
            ..Default::default()
        });
    }
}

/// The VirtualService that speaks of a service: of the most specific host (G3), the oldest. Those of one host are never merged (VS4).
fn owner(service: &str, rules: &[(Arc<Config<VirtualService>>, Vec<route::Route>)]) -> Option<usize> {
    let mut best: Option<(usize, usize)> = None;
    for (index, (config, _)) in rules.iter().enumerate() {
        let specific = config
            .spec
            .hosts
            .iter()
            .filter(|pattern| host::is_within(service, pattern))
            .map(|pattern| if **pattern == *service { usize::MAX } else { pattern.len() });
        if let Some(length) = specific.max()
            && best.is_none_or(|(longest, _)| length > longest)
        {
            best = Some((length, index));
        }
    }
    best.map(|(_, index)| index)
}

/// True if a host of a VirtualService stands for itself and not for services of this port.
fn is_no_service(name: &str, services: &[(Arc<Service>, ServicePort)]) -> bool {
    !services.iter().any(|(service, _)| host::is_within(&service.host, name))
}

/// True if it is what [`catch_all`] makes: names of others hold their port.
pub fn is_catch_all(host: &route::VirtualHost) -> bool {
    !host.name.contains(':')
}

/// What happens to hosts that the mesh does not know.
fn catch_all(context: &PushContext, node: &Node, local: bool, attempts: bool) -> route::VirtualHost {
    use route::route::Action;
    let to = egress::catch_all_cluster(context, node);
    // A listener with a port of its own has no original destination to pass on to: the request would come back to it.
    let nowhere =
        to == cluster::BLACK_HOLE || (to == cluster::PASSTHROUGH && (local || node.interception == Interception::None));
    let (name, action) = if nowhere {
        ("block_all", Action::DirectResponse(route::DirectResponseAction { status: 502, ..Default::default() }))
    } else {
        ("allow_any", Action::Route(action::plain(node, to)))
    };
    route::VirtualHost {
        name: name.to_owned(),
        domains: vec!["*".to_owned()],
        routes: vec![route::Route {
            name: name.to_owned(),
            r#match: super::condition::route_match(None),
            action: Some(action),
            ..Default::default()
        }],
        include_request_attempt_count: attempts,
        ..Default::default()
    }
}

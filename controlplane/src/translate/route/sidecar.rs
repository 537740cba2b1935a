//! Route tables of sidecars: a virtual host for each HTTP service of a port, and one for everything else (G13, VS4, SC2, SC5).

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_proto::crd::VirtualService;
use mesh_proto::names::{MESH_GATEWAY, cluster};
use mesh_proto::xds::route;

use super::domain::{self, Domains, Form, Taken};
use super::{HTTP_PROXY, Site, action, configuration, rule};
use crate::model::context::Config;
use crate::model::{Interception, Node, Protocol, PushContext, Service, ServicePort, host};
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
    for service in &services {
        let served = service.ports.iter().filter(|port| port.protocol.is_http() || port.protocol == Protocol::Unknown);
        for port in served.filter(|port| wanted.port().is_none_or(|number| number == port.number)) {
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
        return Some(configuration(name, hosts, ignore_port));
    }
    hosts.sort_by(|one, other| one.name.cmp(&other.name));
    if !builder.taken.everything() {
        hosts.push(catch_all(context, node, wanted == Wanted::Proxy, builder.attempts));
    }
    Some(configuration(name, hosts, ignore_port))
}

/// The services that the asking listener serves.
fn services(context: &PushContext, node: &Node, wanted: Wanted<'_>) -> Option<Vec<Arc<Service>>> {
    let listeners = egress::listeners(context, node);
    if wanted == Wanted::Proxy {
        let mut found: BTreeMap<_, Arc<Service>> = BTreeMap::new();
        let proxies = listeners.into_iter().filter(|one| one.is_http_proxy());
        for service in proxies.flat_map(|one| one.services) {
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
            .into_iter()
            .map(|config| (config.clone(), rule::routes(&site, &config)))
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

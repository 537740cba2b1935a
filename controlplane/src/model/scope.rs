//! What a client may reach: services and VirtualServices that its namespace sees and its Sidecar imports (G4, SC1, SC2, SC6).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_proto::crd;
use mesh_proto::crd::sidecar::IstioEgressListener;
use mesh_proto::names::MESH_GATEWAY;

use super::context::{Config, PushContext};
use super::host::{is_within, overlaps};
use super::{Name, Node, NodeKind, Registry, Service, endpoints, virtual_service};

/// What proxies of one namespace under one Sidecar may reach.
#[derive(Debug, Clone)]
pub struct Scope {
    /// By host.
    pub services: Arc<[Arc<Service>]>,
    /// VirtualServices of sidecars, older first.
    pub virtual_services: Arc<[Arc<Config<crd::VirtualService>>]>,
    /// Everything that the namespace sees: no Sidecar says what is imported.
    pub everything: bool,
}

impl Scope {
    /// The service of this host.
    pub fn service(&self, host: &str) -> Option<&Arc<Service>> {
        let index = self.services.binary_search_by(|service| (*service.host).cmp(host)).ok()?;
        Some(&self.services[index])
    }
}

/// The scope of everything after the services of some hosts changed.
pub fn refresh(before: &Scope, context: &PushContext, namespace: &str, hosts: &BTreeSet<Name>) -> Scope {
    let mut services = Vec::with_capacity(before.services.len() + hosts.len());
    let mut rest = &*before.services;
    for host in hosts {
        let (kept, after) = rest.split_at(rest.partition_point(|service| service.host < *host));
        services.extend_from_slice(kept);
        services.extend(context.service(namespace, host).cloned());
        rest = if after.first().is_some_and(|service| service.host == *host) { &after[1..] } else { after };
    }
    services.extend_from_slice(rest);
    Scope { services: services.into(), ..before.clone() }
}

/// Which of several services with one host a namespace means: its own, Kubernetes', the oldest.
pub fn preferred<'a>(namespace: &str, candidates: impl Iterator<Item = &'a Arc<Service>>) -> Option<&'a Arc<Service>> {
    candidates.filter(|service| service.export_to.allows(namespace)).min_by_key(|service| {
        (
            *service.namespace != *namespace,
            service.registry != Registry::Kubernetes,
            service.created,
            &service.name,
            &service.namespace,
        )
    })
}

/// The Sidecar of a node: by its labels, else its namespace's, else the root's (SC1). `all` has the older first.
pub fn sidecar<'a>(
    all: &'a [Arc<Config<crd::Sidecar>>],
    node: &Node,
    root: &str,
) -> Option<&'a Arc<Config<crd::Sidecar>>> {
    if node.kind == NodeKind::Router {
        return None;
    }
    let selector = |one: &'a Config<crd::Sidecar>| {
        one.spec.workload_selector.as_ref().map(|selector| &selector.labels).filter(|labels| !labels.is_empty())
    };
    let within = |namespace: Name| all.iter().filter(move |one| one.key.namespace == namespace);
    let own = within(node.namespace.clone())
        .find(|one| selector(one).is_some_and(|labels| endpoints::selects(labels, &node.labels)));
    let wide = |namespace: Name| within(namespace).find(|one| selector(one).is_none());
    own.or_else(|| wide(node.namespace.clone())).or_else(|| wide(root.into()))
}

/// The hosts that an egress listener imports.
struct Imports<'a> {
    namespace: &'a str,
    hosts: Vec<(&'a str, &'a str)>,
    excluded: Vec<(&'a str, &'a str)>,
}

impl<'a> Imports<'a> {
    fn new(namespace: &'a str, hosts: &'a [String]) -> Self {
        let mut imports = Self { namespace, hosts: Vec::new(), excluded: Vec::new() };
        for (place, host) in hosts.iter().filter_map(|entry| entry.split_once('/')) {
            match place.strip_prefix('~') {
                // `~/*` imports nothing.
                Some("") => {}
                Some(place) => imports.excluded.push((place, host)),
                None => imports.hosts.push((place, host)),
            }
        }
        imports
    }

    fn place_matches(&self, place: &str, namespace: &str) -> bool {
        place == "*" || (place == "." && namespace == self.namespace) || place == namespace
    }

    fn has_service(&self, service: &Service) -> bool {
        let listed = |list: &[(&str, &str)]| {
            list.iter()
                .any(|(place, host)| self.place_matches(place, &service.namespace) && is_within(&service.host, host))
        };
        listed(&self.hosts) && !listed(&self.excluded)
    }

    fn has_virtual_service(&self, config: &Config<crd::VirtualService>) -> bool {
        let listed = |list: &[(&str, &str)], matches: fn(&str, &str) -> bool| {
            list.iter().any(|(place, pattern)| {
                let hosts = &config.spec.hosts;
                self.place_matches(place, &config.key.namespace) && hosts.iter().any(|host| matches(host, pattern))
            })
        };
        listed(&self.hosts, overlaps) && !listed(&self.excluded, is_within)
    }
}

/// The port that restricts a listener's services: its own, unless it is a generic HTTP proxy.
fn listener_port(listener: &IstioEgressListener) -> Option<u16> {
    let port = listener.port.as_ref().filter(|port| port.number != 0)?;
    if port.protocol.eq_ignore_ascii_case("HTTP_PROXY") { None } else { u16::try_from(port.number).ok() }
}

/// The services of one egress listener of a Sidecar, by host; a listener with a port has services of that port, with that port only.
pub fn listener_services(context: &PushContext, namespace: &str, listener: &IstioEgressListener) -> Vec<Arc<Service>> {
    let imports = Imports::new(namespace, &listener.hosts);
    let port = listener_port(listener);
    let services = context.service_hosts().filter_map(|(_, candidates)| {
        let imported = candidates.iter().filter(|service| {
            imports.has_service(service) && port.is_none_or(|port| service.ports.iter().any(|one| one.number == port))
        });
        let service = preferred(namespace, imported)?;
        Some(match port {
            Some(port) if service.ports.len() > 1 => Arc::new(restricted(service, &BTreeSet::from([port]))),
            _ => service.clone(),
        })
    });
    services.collect()
}

fn restricted(service: &Service, ports: &BTreeSet<u16>) -> Service {
    let mut service = service.clone();
    service.ports.retain(|port| ports.contains(&port.number));
    service
}

/// The scope of a namespace under a Sidecar, or without one.
pub fn build(context: &PushContext, namespace: &Name, sidecar: Option<&Config<crd::Sidecar>>) -> Scope {
    let egress = sidecar.map(|sidecar| sidecar.spec.egress.as_slice()).unwrap_or_default();
    let visible = context.virtual_services_for(namespace, MESH_GATEWAY);
    // No egress at all means everything.
    if egress.is_empty() {
        let services = context.service_hosts();
        let services = services.filter_map(|(_, candidates)| preferred(namespace, candidates.iter()).cloned());
        return Scope { services: services.collect(), virtual_services: visible.into(), everything: true };
    }
    let virtual_services = visible.into_iter().filter(|config| {
        egress.iter().any(|listener| Imports::new(namespace, &listener.hosts).has_virtual_service(config))
    });
    let virtual_services: Vec<_> = virtual_services.collect();
    let mut found: BTreeMap<Name, (Arc<Service>, BTreeSet<u16>)> = BTreeMap::new();
    for listener in egress {
        for service in listener_services(context, namespace, listener) {
            let numbers: Vec<u16> = service.ports.iter().map(|port| port.number).collect();
            let whole = context.service(namespace, &service.host).cloned().unwrap_or_else(|| service.clone());
            // Two listeners may import one host from two namespaces; the first wins.
            let whole = if whole.namespace == service.namespace { whole } else { service.clone() };
            found.entry(service.host.clone()).or_insert_with(|| (whole, BTreeSet::new())).1.extend(numbers);
        }
    }
    // What an imported VirtualService sends to can be reached, whether or not it is imported itself.
    for host in virtual_services.iter().flat_map(|config| virtual_service::destination_hosts(&config.spec)) {
        if !found.contains_key(host)
            && let Some(service) = context.service(namespace, host)
        {
            let numbers = service.ports.iter().map(|port| port.number).collect();
            found.insert(service.host.clone(), (service.clone(), numbers));
        }
    }
    let services = found.into_values().map(|(service, ports)| {
        if service.ports.iter().all(|port| ports.contains(&port.number)) {
            service
        } else {
            Arc::new(restricted(&service, &ports))
        }
    });
    Scope { services: services.collect(), virtual_services: virtual_services.into(), everything: false }
}

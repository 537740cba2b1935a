//! What objects refer to, and whether it exists: destinations, subsets, gateways, delegates, and hosts that two VirtualServices claim.
//!
//! The objects stay in force: what is missing may come later, and until then requests get an error that says so (G18).

use std::collections::{BTreeMap, BTreeSet};

use mesh_proto::crd::service_entry::ServiceEntry;
use mesh_proto::crd::virtual_service::{Destination, VirtualService};

use super::check::At;
use super::finding::{Finding, Severity, code};
use super::metadata::is_suppressed;
use super::virtual_service::MESH;
use crate::model::{Kind, Object, Spec};

/// Domain of the cluster's services (G2).
const DOMAIN: &str = "svc.cluster.local";

/// Findings over how `objects`, which are all that there are, refer to each other.
pub fn references<'a>(objects: impl IntoIterator<Item = &'a Object>) -> Vec<Finding> {
    let objects: Vec<&Object> = objects.into_iter().collect();
    let world = World::new(&objects);
    let mut findings = Vec::new();
    let mut claims: BTreeMap<String, &Object> = BTreeMap::new();
    for object in &objects {
        if let Spec::VirtualService(spec) = &object.spec {
            let mut report = Report { object, findings: &mut findings };
            virtual_service(&mut report, &world, spec);
            conflicts(&mut report, &mut claims, spec);
        }
        if let Spec::ServiceEntry(spec) = &object.spec {
            service_entry(&mut Report { object, findings: &mut findings }, &world, spec);
        }
    }
    findings
}

/// Indexes of what can be referred to.
struct World {
    /// Ports by host; those of wildcard ServiceEntries stand under `*.domain`.
    hosts: BTreeMap<String, BTreeSet<u32>>,
    /// Hosts of Services.
    kubernetes: BTreeSet<String>,
    /// (host, subset) of DestinationRules.
    subsets: BTreeSet<(String, String)>,
    /// Hosts that have DestinationRules.
    ruled: BTreeSet<String>,
    /// (namespace, name).
    gateways: BTreeSet<(String, String)>,
    virtual_services: BTreeMap<(String, String), bool>,
    /// (namespace, name) that a VirtualService delegates to.
    delegated: BTreeSet<(String, String)>,
}

impl World {
    fn new(objects: &[&Object]) -> Self {
        let mut world = Self {
            hosts: BTreeMap::new(),
            kubernetes: BTreeSet::new(),
            subsets: BTreeSet::new(),
            ruled: BTreeSet::new(),
            gateways: BTreeSet::new(),
            virtual_services: BTreeMap::new(),
            delegated: BTreeSet::new(),
        };
        for object in objects {
            world.add(object);
        }
        world
    }

    fn add(&mut self, object: &Object) {
        let (namespace, name) = (&*object.key.namespace, &*object.key.name);
        match &object.spec {
            Spec::Service(service) => {
                let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
                let ports = ports.filter_map(|port| u32::try_from(port.port).ok()).collect();
                self.hosts.insert(full(name, namespace), ports);
                self.kubernetes.insert(full(name, namespace));
            }
            Spec::ServiceEntry(entry) => {
                for host in &entry.hosts {
                    let ports = self.hosts.entry(full(host, namespace)).or_default();
                    ports.extend(entry.ports.iter().map(|port| port.number));
                }
            }
            Spec::DestinationRule(rule) => {
                let host = full(&rule.host, namespace);
                for subset in &rule.subsets {
                    self.subsets.insert((host.clone(), subset.name.clone()));
                }
                self.ruled.insert(host);
            }
            Spec::Gateway(_) => {
                self.gateways.insert((namespace.to_owned(), name.to_owned()));
            }
            Spec::VirtualService(spec) => {
                let delegate = spec.hosts.is_empty();
                self.virtual_services.insert((namespace.to_owned(), name.to_owned()), delegate);
                for delegate in spec.http.iter().filter_map(|route| route.delegate.as_ref()) {
                    let namespace = if delegate.namespace.is_empty() { namespace } else { &delegate.namespace };
                    self.delegated.insert((namespace.to_owned(), delegate.name.clone()));
                }
            }
            _ => {}
        }
    }

    /// Ports of a host: its own, else those of the wildcard that covers it.
    fn ports(&self, host: &str) -> Option<&BTreeSet<u32>> {
        if let Some(ports) = self.hosts.get(host) {
            return Some(ports);
        }
        let mut rest = host;
        while let Some((_, parent)) = rest.split_once('.') {
            if let Some(ports) = self.hosts.get(&format!("*.{parent}")) {
                return Some(ports);
            }
            rest = parent;
        }
        None
    }
}

/// A host in full: names without dots are of the namespace (G2).
fn full(host: &str, namespace: &str) -> String {
    let host = host.to_ascii_lowercase();
    if host.contains('.') || host == "*" { host } else { format!("{host}.{namespace}.{DOMAIN}") }
}

/// Where findings of an object go.
struct Report<'a, 'f> {
    object: &'a Object,
    findings: &'f mut Vec<Finding>,
}

impl Report<'_, '_> {
    fn add(&mut self, severity: Severity, code: Option<&'static str>, at: &At, message: String) {
        if is_suppressed(&self.object.meta.annotations, code) {
            return;
        }
        self.findings.push(Finding {
            severity,
            code,
            key: Some(self.object.key.clone()),
            origin: self.object.origin.clone(),
            field: Some(at.to_string()),
            message,
        });
    }

    fn missing(&mut self, at: &At, message: String) {
        self.add(Severity::Error, Some(code::NOT_FOUND), at, message);
    }
}

fn virtual_service(report: &mut Report<'_, '_>, world: &World, spec: &VirtualService) {
    let (namespace, name) = (&*report.object.key.namespace, &*report.object.key.name);
    if spec.hosts.is_empty() && !world.delegated.contains(&(namespace.to_owned(), name.to_owned())) {
        let example = spec.http.iter().flat_map(|route| &route.route).map(|to| to.destination.host.as_str()).next();
        let message = format!(
            "has no hosts, so it is a delegate, and no VirtualService delegates to it: its routes are not in force; \
             add `hosts: [{}]`, or give another VirtualService a route with `delegate: {{name: {name}, namespace: {namespace}}}`",
            example.unwrap_or("HOST"),
        );
        report.add(Severity::Warning, None, &At::top("hosts"), message);
    }
    gateways(report, world, &At::top("gateways"), &spec.gateways);
    for (index, route) in spec.http.iter().enumerate() {
        let at = At::top("http").index(index);
        for (index, matched) in route.matches.iter().enumerate() {
            gateways(report, world, &at.field("match").index(index).field("gateways"), &matched.gateways);
        }
        for (index, to) in route.route.iter().enumerate() {
            destination(report, world, &at.field("route").index(index).field("destination"), &to.destination);
        }
        if let Some(delegate) = &route.delegate {
            let namespace = if delegate.namespace.is_empty() { namespace } else { &delegate.namespace };
            let at = at.field("delegate");
            match world.virtual_services.get(&(namespace.to_owned(), delegate.name.clone())) {
                Some(true) => {}
                Some(false) => {
                    let name = &delegate.name;
                    report.missing(
                        &at,
                        format!(
                            "VirtualService {namespace}/{name} has hosts, so it is not a delegate; remove its hosts"
                        ),
                    );
                }
                None => {
                    let name = &delegate.name;
                    report.missing(
                        &at,
                        format!("there is no VirtualService {namespace}/{name}; create it, or correct the name"),
                    );
                }
            }
        }
    }
    for (kind, routes) in [
        ("tls", spec.tls.iter().map(|route| &route.route).collect::<Vec<_>>()),
        ("tcp", spec.tcp.iter().map(|route| &route.route).collect()),
    ] {
        for (index, routes) in routes.into_iter().enumerate() {
            let at = At::top(kind).index(index).field("route");
            for (index, to) in routes.iter().enumerate() {
                destination(report, world, &at.index(index).field("destination"), &to.destination);
            }
        }
    }
}

/// A Service of the same host and namespace decides where requests go (SE7).
fn service_entry(report: &mut Report<'_, '_>, world: &World, spec: &ServiceEntry) {
    let own = format!(".{}.{DOMAIN}", report.object.key.namespace);
    for (index, host) in spec.hosts.iter().enumerate() {
        let host = full(host, &report.object.key.namespace);
        if host.ends_with(&own) && world.kubernetes.contains(&host) {
            let message = format!(
                "{host} is a Service of Kubernetes too, which has the say: of this entry only subjectAltNames have an effect"
            );
            report.add(Severity::Warning, None, &At::top("hosts").index(index), message);
        }
    }
}

fn gateways(report: &mut Report<'_, '_>, world: &World, at: &At, names: &[String]) {
    for (index, gateway) in names.iter().enumerate() {
        let own = &*report.object.key.namespace;
        let (namespace, name) = match gateway.split_once('/') {
            Some((".", name)) => (own, name),
            Some(parts) => parts,
            None => (own, gateway.as_str()),
        };
        if gateway != MESH && !world.gateways.contains(&(namespace.to_owned(), name.to_owned())) {
            let message = format!(
                "there is no Gateway {namespace}/{name}; create it, or write namespace/name of one that exists"
            );
            report.missing(&at.index(index), message);
        }
    }
}

fn destination(report: &mut Report<'_, '_>, world: &World, at: &At, to: &Destination) {
    let host = full(&to.host, &report.object.key.namespace);
    if host.contains('*') {
        return;
    }
    let Some(ports) = world.ports(&host) else {
        let guess = format!("{host}.{DOMAIN}");
        let advice = if world.hosts.contains_key(&guess) {
            format!("write {guess}")
        } else {
            "create one, or correct the name".to_owned()
        };
        return report.missing(&at.field("host"), format!("no Service or ServiceEntry has the host {host}; {advice}"));
    };
    match &to.port {
        None if ports.len() > 1 => {
            let message = format!("{host} has several ports ({}); add port.number", list(ports));
            report.add(Severity::Error, Some(code::PORT_REQUIRED), at, message);
        }
        Some(port) if !ports.is_empty() && !ports.contains(&port.number) => {
            let message = format!("{host} has no port {}; its ports are {}", port.number, list(ports));
            report.missing(&at.field("port").field("number"), message);
        }
        _ => {}
    }
    if !to.subset.is_empty() && !world.subsets.contains(&(host.clone(), to.subset.clone())) {
        let advice = if world.ruled.contains(&host) {
            "add it to the subsets of its DestinationRule"
        } else {
            "create a DestinationRule for the host with that subset"
        };
        report.missing(&at.field("subset"), format!("{host} has no subset {}; {advice}", to.subset));
    }
}

fn list(ports: &BTreeSet<u32>) -> String {
    ports.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
}

/// Two VirtualServices for one host are not merged in sidecars: the older one wins (VS4).
fn conflicts<'a>(report: &mut Report<'a, '_>, claims: &mut BTreeMap<String, &'a Object>, spec: &VirtualService) {
    let mesh = spec.gateways.is_empty() || spec.gateways.iter().any(|gateway| gateway == MESH);
    let everywhere = spec.export_to.is_empty() || spec.export_to.iter().any(|value| value == "*");
    if !mesh || !everywhere {
        return;
    }
    debug_assert_eq!(report.object.key.kind, Kind::VirtualService);
    for (index, host) in spec.hosts.iter().enumerate() {
        let host = full(host, &report.object.key.namespace);
        match claims.get(&host) {
            Some(other) if other.key != report.object.key => {
                let message = format!(
                    "{host} is also a host of {} ({}), and sidecars use the older one only; merge them, or use delegates",
                    other.key, other.origin,
                );
                report.add(Severity::Warning, Some(code::CONFLICTING_HOSTS), &At::top("hosts").index(index), message);
            }
            _ => {
                claims.insert(host, report.object);
            }
        }
    }
}

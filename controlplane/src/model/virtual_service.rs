//! VirtualServices with every name made full, delegates merged in, in the order in which they win (G2, VS2, VS3, VS5, G7).

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_proto::crd;
use mesh_proto::crd::virtual_service::{Destination, HttpRoute};
use mesh_proto::names::MESH_GATEWAY;

use super::context::Config;
use super::{ExportTo, Name, delegate, host};

/// A VirtualService and who may see it.
#[derive(Debug, PartialEq)]
pub struct Entry {
    /// Resolved.
    pub config: Arc<Config<crd::VirtualService>>,
    /// Who sees it.
    pub export_to: ExportTo,
}

/// One with its names made full.
pub fn resolve(config: &Config<crd::VirtualService>, export_default: &[String], domain: &str) -> Entry {
    let export_to = ExportTo::of(&config.spec.export_to, export_default, &config.key.namespace);
    let spec = resolve_one(&config.spec, &config.key.namespace, domain);
    Entry { config: Arc::new(Config { spec, ..config.clone() }), export_to }
}

/// All roots (those with hosts) with their delegates, older first. Those without delegates are shared.
pub fn merge<'a>(resolved: impl Iterator<Item = &'a Arc<Entry>>) -> Vec<Arc<Entry>> {
    let (mut roots, delegates): (Vec<_>, Vec<_>) =
        resolved.cloned().partition(|entry| !entry.config.spec.hosts.is_empty());
    roots.sort_by(|one, other| one.config.age().cmp(&other.config.age()));
    let delegates: BTreeMap<(Name, Name), Arc<Entry>> = delegates
        .into_iter()
        .map(|entry| ((entry.config.key.namespace.clone(), entry.config.key.name.clone()), entry))
        .collect();
    let merged = roots.into_iter().map(|root| {
        if !root.config.spec.http.iter().any(|route| route.delegate.is_some()) {
            return root;
        }
        let mut spec = root.config.spec.clone();
        spec.http = delegate::merge(&root.config.key, spec.http, &delegates);
        let config = Arc::new(Config { spec, ..(*root.config).clone() });
        Arc::new(Entry { config, export_to: root.export_to.clone() })
    });
    merged.collect()
}

fn resolve_one(raw: &crd::VirtualService, namespace: &Name, domain: &str) -> crd::VirtualService {
    let mut spec = raw.clone();
    for host in &mut spec.hosts {
        *host = host::full_host(host, namespace, domain).to_string();
    }
    gateways(&mut spec.gateways, namespace);
    if spec.gateways.is_empty() {
        spec.gateways.push(MESH_GATEWAY.to_owned());
    }
    let full = |destination: &mut Destination| {
        destination.host = host::full_host(&destination.host, namespace, domain).to_string();
    };
    for route in &mut spec.http {
        destinations(route).for_each(full);
        for condition in &mut route.matches {
            gateways(&mut condition.gateways, namespace);
        }
        if let Some(delegate) = &mut route.delegate
            && delegate.namespace.is_empty()
        {
            delegate.namespace = namespace.to_string();
        }
    }
    for route in &mut spec.tls {
        route.route.iter_mut().for_each(|one| full(&mut one.destination));
        route.matches.iter_mut().for_each(|condition| gateways(&mut condition.gateways, namespace));
    }
    for route in &mut spec.tcp {
        route.route.iter_mut().for_each(|one| full(&mut one.destination));
        route.matches.iter_mut().for_each(|condition| gateways(&mut condition.gateways, namespace));
    }
    spec
}

fn destinations(route: &mut HttpRoute) -> impl Iterator<Item = &mut Destination> {
    let mirrors = route.mirrors.iter_mut().map(|mirror| &mut mirror.destination);
    route.route.iter_mut().map(|one| &mut one.destination).chain(&mut route.mirror).chain(mirrors)
}

/// Gateway names as `namespace/name`.
fn gateways(names: &mut [String], namespace: &str) {
    for name in names {
        if let Some(rest) = name.strip_prefix("./") {
            *name = format!("{namespace}/{rest}");
        } else if name != MESH_GATEWAY && !name.contains('/') {
            *name = format!("{namespace}/{name}");
        }
    }
}

/// Every host that a VirtualService sends to.
pub fn destination_hosts(spec: &crd::VirtualService) -> impl Iterator<Item = &str> {
    let http = spec.http.iter().flat_map(|route| {
        let mirrors = route.mirrors.iter().map(|mirror| &mirror.destination);
        route.route.iter().map(|one| &one.destination).chain(&route.mirror).chain(mirrors)
    });
    let tls = spec.tls.iter().flat_map(|route| route.route.iter().map(|one| &one.destination));
    let tcp = spec.tcp.iter().flat_map(|route| route.route.iter().map(|one| &one.destination));
    http.chain(tls).chain(tcp).map(|destination| destination.host.as_str())
}

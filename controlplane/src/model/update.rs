//! From one context to the next: what a batch of changed objects alters in the indexes, and what that means for proxies.
//!
//! Called by [`super::store`] alone. Indexes that the batch does not touch are shared with the context before.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use mesh_proto::crd;

use super::context::{Config, PushContext};
use super::destination_rule::DestinationRules;
use super::endpoints::{self, HostEndpoints, Inputs, NamespaceEndpoints, Touched};
use super::store::{Objects, sliced};
use super::virtual_service::Entry;
use super::{
    Address, Changes, Endpoint, Key, Kind, Name, Object, Registry, Resolution, Service, Spec, auto_address, host,
    kubernetes, service_entry, virtual_service,
};

/// The objects that a batch touches, as they were before it; those that were not have none.
pub type Batch = BTreeMap<Key, Option<Arc<Object>>>;

/// What is kept beside the context so that one object can be changed alone.
#[derive(Debug, Default)]
pub struct Resolved {
    /// VirtualServices with full names, before delegates are merged in.
    virtual_services: BTreeMap<Key, Arc<Entry>>,
    /// Localities of nodes.
    localities: BTreeMap<Name, Name>,
}

/// Alters `next`, which still is as before the batch. `objects` are those after it.
pub fn update(objects: &Objects, resolved: &mut Resolved, next: &mut PushContext, batch: &Batch) -> Changes {
    let mut update = Update { objects, next, batch, changes: Changes::default(), depended: BTreeSet::new() };
    update.services();
    update.endpoints(resolved);
    update.virtual_services(resolved);
    update.destination_rules();
    update.plain();
    update.follow();
    update.changes
}

struct Update<'a> {
    objects: &'a Objects,
    next: &'a mut PushContext,
    batch: &'a Batch,
    changes: Changes,
    /// Hosts whose service or DestinationRule changed: routes that lead to them may differ.
    depended: BTreeSet<Name>,
}

impl Update<'_> {
    fn changed(&self, kind: Kind) -> impl Iterator<Item = (&Key, Option<&Arc<Object>>)> {
        let of_kind = self.batch.iter().filter(move |(key, _)| key.kind == kind);
        of_kind.map(|(key, before)| (key, before.as_ref()))
    }

    fn has(&self, kind: Kind) -> bool {
        self.changed(kind).next().is_some()
    }

    fn now(&self, key: &Key) -> Option<&Arc<Object>> {
        self.objects.get(key.kind, &key.namespace, &key.name)
    }

    fn services(&mut self) {
        let mut made: Vec<(Registry, Key, Vec<Arc<Service>>)> = Vec::new();
        for (key, _) in self.changed(Kind::Service) {
            let default = &self.next.mesh.default_service_export_to;
            let service = self.now(key).and_then(|object| match &object.spec {
                Spec::Service(raw) => Some(Arc::new(kubernetes::service(object, raw, default, &self.next.domain))),
                _ => None,
            });
            made.push((Registry::Kubernetes, key.clone(), service.into_iter().collect()));
        }
        if self.has(Kind::ServiceEntry) {
            made.extend(self.external().into_iter().map(|(key, services)| (Registry::External, key, services)));
        }
        if made.is_empty() {
            return;
        }
        let index = Arc::make_mut(&mut self.next.services);
        for (registry, key, new) in made {
            let old = index.of_object(registry, &key.namespace, &key.name).to_vec();
            if old == new {
                continue;
            }
            index.set(registry, &key.namespace, &key.name, &new);
            for service in old.into_iter().chain(new) {
                self.changes.services.insert(service.host.clone());
                self.changes.served.push(service);
            }
        }
        self.changes.listeners |= !self.changes.services.is_empty();
        self.depended.extend(self.changes.services.iter().cloned());
    }

    /// The services of every ServiceEntry, also of those that the batch removes. Addresses that the mesh gives depend on all.
    fn external(&self) -> BTreeMap<Key, Vec<Arc<Service>>> {
        let default = &self.next.mesh.default_service_export_to;
        let (mut all, mut counts) = (Vec::new(), Vec::new());
        let mut recorded = auto_address::Recorded::new();
        for object in self.objects.of(Kind::ServiceEntry) {
            if let Spec::ServiceEntry(raw) = &object.spec {
                let services = service_entry::services(object, raw, default);
                counts.push((object.key.clone(), services.len()));
                all.extend(services);
            }
            for (host, address) in &object.recorded {
                recorded.entry((object.key.namespace.clone(), host.clone())).or_default().push(*address);
            }
        }
        auto_address::allocate(&mut all, &recorded);
        let mut all = all.into_iter().map(Arc::new);
        let mut made: BTreeMap<Key, Vec<Arc<Service>>> =
            self.changed(Kind::ServiceEntry).map(|(key, _)| (key.clone(), Vec::new())).collect();
        made.extend(counts.into_iter().map(|(key, count)| (key, all.by_ref().take(count).collect())));
        made
    }

    fn endpoints(&mut self, resolved: &mut Resolved) {
        let mut everywhere = false;
        if self.has(Kind::Node) {
            let localities = endpoints::localities(self.objects);
            everywhere = localities != resolved.localities;
            // Proxies take their own place from their node.
            self.changes.full |= everywhere;
            resolved.localities = localities;
        }
        let mut touched = self.touched_endpoints(&resolved.localities);
        if everywhere {
            for object in self.objects.all() {
                touched.entry(object.key.namespace.clone()).or_default().all = true;
            }
        }
        let mut index = (*self.next.endpoints).clone();
        for (namespace, touched) in &touched {
            let inputs =
                Inputs { objects: self.objects, services: &self.next.services, localities: &resolved.localities };
            let before = index.get(namespace).cloned();
            let built = endpoints::rebuild(&inputs, namespace, before.as_deref(), touched);
            let before = before.unwrap_or_default();
            compare(&before, built.as_ref(), touched, namespace, self.next, &mut self.changes);
            let addresses: Vec<IpAddr> = [Some(&*before), built.as_ref()]
                .into_iter()
                .flatten()
                .flat_map(|endpoints| self.addresses_of_changed(namespace, endpoints))
                .collect();
            self.changes.workload_addresses.extend(addresses);
            match built {
                Some(built) => index.insert(namespace.clone(), Arc::new(built)),
                None => index.remove(namespace),
            };
        }
        if !touched.is_empty() {
            self.next.endpoints = Arc::new(index);
        }
        for kind in [Kind::Pod, Kind::WorkloadEntry] {
            let keys: Vec<_> = self.changed(kind).map(|(key, _)| (key.namespace.clone(), key.name.clone())).collect();
            self.changes.workloads.extend(keys);
        }
    }

    /// Addresses of the workloads that the batch touches.
    fn addresses_of_changed(&self, namespace: &Name, endpoints: &NamespaceEndpoints) -> Vec<IpAddr> {
        let changed = [Kind::Pod, Kind::WorkloadEntry].into_iter().flat_map(|kind| self.changed(kind));
        let names = changed.filter(|(key, _)| key.namespace == *namespace).map(|(key, _)| &key.name);
        names.flat_map(|name| endpoints.workloads.all_named(name)).flat_map(|one| one.addresses.clone()).collect()
    }

    /// The hosts of each namespace whose endpoints are made anew.
    fn touched_endpoints(&self, localities: &BTreeMap<Name, Name>) -> BTreeMap<Name, Touched> {
        let services = &self.next.services;
        let mut touched: BTreeMap<Name, Touched> = BTreeMap::new();
        for service in &self.changes.served {
            touched.entry(service.namespace.clone()).or_default().hosts.insert(service.host.clone());
        }
        // What is read of these beside the service itself: names of ExternalName services, endpoints of ServiceEntries.
        for (kind, registry) in [(Kind::Service, Registry::Kubernetes), (Kind::ServiceEntry, Registry::External)] {
            for (key, _) in self.changed(kind) {
                let own = services.of_object(registry, &key.namespace, &key.name);
                let hosts = own.iter().map(|service| service.host.clone());
                touched.entry(key.namespace.clone()).or_default().hosts.extend(hosts);
            }
        }
        for (key, before) in self.changed(Kind::EndpointSlice) {
            for object in before.into_iter().chain(self.now(key)) {
                let Some(service) = sliced(object) else { continue };
                let own = services.of_object(Registry::Kubernetes, &key.namespace, service);
                let hosts = own.iter().map(|service| service.host.clone());
                touched.entry(key.namespace.clone()).or_default().hosts.extend(hosts);
            }
        }
        let mut workloads: BTreeMap<Name, Vec<&Object>> = BTreeMap::new();
        for kind in [Kind::Pod, Kind::WorkloadEntry] {
            for (key, before) in self.changed(kind) {
                let both = before.into_iter().chain(self.now(key)).map(|object| &**object);
                workloads.entry(key.namespace.clone()).or_default().extend(both);
            }
        }
        let inputs = Inputs { objects: self.objects, services, localities };
        for (namespace, changed) in workloads {
            endpoints::touched(&inputs, &namespace, &changed, touched.entry(namespace.clone()).or_default());
        }
        touched
    }

    fn virtual_services(&mut self, resolved: &mut Resolved) {
        if !self.has(Kind::VirtualService) {
            return;
        }
        for (key, _) in self.changed(Kind::VirtualService) {
            let config = self.now(key).and_then(|object| match &object.spec {
                Spec::VirtualService(spec) => Some(config(object, spec.clone())),
                _ => None,
            });
            let default = &self.next.mesh.default_virtual_service_export_to;
            match config {
                Some(config) => {
                    let entry = virtual_service::resolve(&config, default, &self.next.domain);
                    resolved.virtual_services.insert(key.clone(), Arc::new(entry))
                }
                None => resolved.virtual_services.remove(key),
            };
        }
        let mut before: BTreeMap<Key, Arc<Entry>> =
            self.next.virtual_services.iter().map(|entry| (entry.config.key.clone(), entry.clone())).collect();
        let mut merged = virtual_service::merge(resolved.virtual_services.values());
        let mut differing: Vec<Arc<Entry>> = Vec::new();
        for entry in &mut merged {
            match before.remove(&entry.config.key) {
                Some(old) if Arc::ptr_eq(&old, entry) || old == *entry => *entry = old,
                old => differing.extend(old.into_iter().chain([entry.clone()])),
            }
        }
        differing.extend(before.into_values());
        for entry in &differing {
            let spec = &entry.config.spec;
            self.touch_virtual_hosts(spec);
            self.changes.listeners |= !spec.tls.is_empty() || !spec.tcp.is_empty();
            self.changes.rules = true;
        }
        self.next.virtual_services = Arc::new(merged);
    }

    /// The virtual hosts of a VirtualService; of one with wildcards, which are services', all.
    fn touch_virtual_hosts(&mut self, spec: &crd::VirtualService) {
        for host in &spec.hosts {
            if host.starts_with('*') {
                self.changes.tables = true;
            } else {
                self.changes.virtual_hosts.insert(host.as_str().into());
            }
        }
    }

    fn destination_rules(&mut self) {
        let mut hosts = BTreeSet::new();
        for (key, before) in self.changed(Kind::DestinationRule) {
            for object in before.into_iter().chain(self.now(key)) {
                if let Spec::DestinationRule(rule) = &object.spec {
                    hosts.insert(host::full_host(&rule.host, &key.namespace, &self.next.domain));
                }
            }
        }
        if hosts.is_empty() {
            return;
        }
        let all = configs(self.objects, Kind::DestinationRule, |spec| match spec {
            Spec::DestinationRule(spec) => Some(spec.clone()),
            _ => None,
        });
        let default = &self.next.mesh.default_destination_rule_export_to;
        self.next.destination_rules = Arc::new(DestinationRules::new(all, default, &self.next.domain));
        if hosts.iter().any(|host| host.starts_with('*')) {
            self.changes.full = true;
            return;
        }
        for host in &hosts {
            let services = self.next.services.of_host(host);
            self.changes.listeners |= services.iter().flat_map(|one| &one.ports).any(|port| !port.protocol.is_http());
            self.changes.served.extend(services.iter().cloned());
        }
        self.changes.clusters.extend(hosts.iter().cloned());
        self.depended.extend(hosts);
    }

    /// Kinds whose changes are not followed to hosts: most of them may touch anything.
    fn plain(&mut self) {
        macro_rules! plain {
            ($($kind:ident => $field:ident),*) => {$(
                if self.has(Kind::$kind) {
                    self.next.$field = Arc::new(configs(self.objects, Kind::$kind, |spec| match spec {
                        Spec::$kind(spec) => Some(spec.clone()),
                        _ => None,
                    }));
                }
            )*};
        }
        plain!(
            Gateway => gateways, Sidecar => sidecars, PeerAuthentication => peer_authentications,
            AuthorizationPolicy => authorization_policies, Telemetry => telemetries
        );
        self.changes.policies = self.has(Kind::AuthorizationPolicy);
        let others = [Kind::Gateway, Kind::Sidecar, Kind::PeerAuthentication, Kind::Telemetry];
        self.changes.full |= others.into_iter().any(|kind| self.has(kind));
        if self.has(Kind::Secret) {
            self.changes.secrets = true;
            let secrets = self.objects.of(Kind::Secret);
            let secrets = secrets.map(|one| ((one.key.namespace.clone(), one.key.name.clone()), one.clone()));
            self.next.secrets = Arc::new(secrets.collect());
        }
    }

    /// What depends on what changed: VirtualServices that lead to a changed service (its only port, its affinity), and, of VirtualServices that
    /// speak of a changed host, the other hosts, which they may win or lose with it.
    fn follow(&mut self) {
        if self.changes.full {
            self.changes = Changes::full();
            return;
        }
        self.changes.clusters.extend(self.changes.services.iter().cloned());
        self.changes.endpoints.extend(self.changes.clusters.iter().cloned());
        self.changes.virtual_hosts.extend(self.depended.iter().cloned());
        if self.changes.virtual_hosts.is_empty() {
            return;
        }
        let entries = self.next.virtual_services.clone();
        for entry in entries.iter() {
            let spec = &entry.config.spec;
            if virtual_service::destination_hosts(spec).any(|host| self.depended.contains(host)) {
                self.touch_virtual_hosts(spec);
                self.changes.listeners |= !spec.tls.is_empty() || !spec.tcp.is_empty();
            }
        }
        let touched = self.changes.virtual_hosts.clone();
        for entry in entries.iter() {
            let spec = &entry.config.spec;
            let speaks = spec.hosts.iter().any(|host| match host.starts_with('*') {
                true => touched.iter().any(|name| host::is_within(name, host)),
                false => touched.contains(host.as_str()),
            });
            if speaks {
                self.touch_virtual_hosts(spec);
                self.changes.listeners |= !spec.tls.is_empty() || !spec.tcp.is_empty();
            }
        }
    }
}

/// Says whose endpoints differ, and where clusters, listeners or what workloads serve are made from endpoints.
fn compare(
    before: &NamespaceEndpoints,
    after: Option<&NamespaceEndpoints>,
    touched: &Touched,
    namespace: &str,
    context: &PushContext,
    changes: &mut Changes,
) {
    let none = NamespaceEndpoints::default();
    let after = after.unwrap_or(&none);
    let all: BTreeSet<Name>;
    let hosts = match touched.all {
        true => {
            all = before.hosts.keys().chain(after.hosts.keys()).cloned().collect();
            &all
        }
        false => &touched.hosts,
    };
    for host in hosts {
        let (old, new) = (before.hosts.get(host), after.hosts.get(host));
        if old == new {
            continue;
        }
        changes.endpoints.insert(host.clone());
        changes.addresses.extend(differing(old, new));
        let services = context.services.of_host(host);
        // Clusters hold the identities behind a service, and the endpoints of some.
        let accounts =
            |found: Option<&Arc<HostEndpoints>>| found.map(|found| found.accounts.clone()).unwrap_or_default();
        if accounts(old) != accounts(new) || services.iter().any(|one| one.resolution != Resolution::Static) {
            changes.clusters.insert(host.clone());
        }
        let dialed = |one: &Arc<Service>| one.headless || one.resolution == Resolution::Passthrough;
        changes.listeners |= services.iter().any(|one| *one.namespace == *namespace && dialed(one));
    }
}

/// Addresses of the endpoints that only one of both has.
fn differing(old: Option<&Arc<HostEndpoints>>, new: Option<&Arc<HostEndpoints>>) -> BTreeSet<IpAddr> {
    let all = |found: Option<&Arc<HostEndpoints>>| -> Vec<Endpoint> {
        found.into_iter().flat_map(|found| found.ports.values()).flat_map(|list| list.iter().cloned()).collect()
    };
    let (old, new) = (all(old), all(new));
    let key = |endpoint: &Endpoint| (endpoint.address.clone(), endpoint.port, endpoint.port_name.clone());
    let index = |list: &[Endpoint]| list.iter().map(|one| (key(one), one.clone())).collect::<BTreeMap<_, _>>();
    let (by_old, by_new) = (index(&old), index(&new));
    let only = |list: &[Endpoint], other: &BTreeMap<_, Endpoint>| -> Vec<IpAddr> {
        let only = list.iter().filter(|one| other.get(&key(one)) != Some(one));
        let addresses = only.filter_map(|one| match one.address {
            Address::Ip(address) => Some(address),
            Address::Dns(_) | Address::Unix(_) => None,
        });
        addresses.collect()
    };
    only(&old, &by_new).into_iter().chain(only(&new, &by_old)).collect()
}

fn config<T>(object: &Object, spec: T) -> Config<T> {
    Config { key: object.key.clone(), meta: object.meta.clone(), origin: object.origin.clone(), spec }
}

/// The objects of a kind, older first (G7).
fn configs<T>(objects: &Objects, kind: Kind, spec: impl Fn(&Spec) -> Option<T>) -> Vec<Arc<Config<T>>> {
    let configs = objects.of(kind).filter_map(|object| Some(Arc::new(config(object, spec(&object.spec)?))));
    let mut configs: Vec<_> = configs.collect();
    configs.sort_by(|one, other| one.age().cmp(&other.age()));
    configs
}

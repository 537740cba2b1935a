//! Every object by its key, and the indexes over them. A batch of changes makes one new [`PushContext`]; indexes that it does not
//! touch are shared with the one before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_proto::crd;

use super::context::{Config, PushContext, Services};
use super::destination_rule::DestinationRules;
use super::endpoints::{self, NamespaceEndpoints};
use super::{
    Change, Key, Kind, Name, Object, Resolution, Spec, auto_address, kubernetes, service_entry, virtual_service,
};

/// Objects by key.
#[derive(Debug, Default)]
pub struct Objects(BTreeMap<Key, Arc<Object>>);

impl Objects {
    /// All of a kind, by namespace and name.
    pub fn of(&self, kind: Kind) -> impl Iterator<Item = &Arc<Object>> {
        let first = Key { kind, namespace: "".into(), name: "".into() };
        self.0.range(first..).take_while(move |(key, _)| key.kind == kind).map(|(_, object)| object)
    }

    /// Those of one namespace.
    pub fn within<'a>(&'a self, kind: Kind, namespace: &str) -> impl Iterator<Item = &'a Arc<Object>> + use<'a> {
        let first = Key { kind, namespace: namespace.into(), name: "".into() };
        let namespace = first.namespace.clone();
        let found = self.0.range(first..).take_while(move |(key, _)| key.kind == kind && key.namespace == namespace);
        found.map(|(_, object)| object)
    }

    /// One object.
    pub fn get(&self, kind: Kind, namespace: &str, name: &str) -> Option<&Arc<Object>> {
        self.0.get(&Key { kind, namespace: namespace.into(), name: name.into() })
    }

    /// Every object.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.0.values()
    }
}

/// What a batch of changes means for proxies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// More than endpoints changed.
    pub full: bool,
    /// Hosts whose endpoints changed. When `full` is false these are all that changed, beside what a node's own pod
    /// (whose key is in `keys`) says about the node itself.
    pub endpoints: BTreeSet<Name>,
    /// Objects that were set anew or removed.
    pub keys: Vec<Key>,
}

impl Changes {
    /// True if nothing changed.
    pub fn is_empty(&self) -> bool {
        !self.full && self.endpoints.is_empty() && self.keys.is_empty()
    }
}

/// The mutable side of the model: only the task that applies changes has it.
#[derive(Debug)]
pub struct Model {
    objects: Objects,
    context: Arc<PushContext>,
}

impl Default for Model {
    fn default() -> Self {
        Self::new(crd::MeshConfig::default())
    }
}

impl Model {
    /// An empty model of a mesh whose DNS domain is `cluster.local`.
    pub fn new(mesh: crd::MeshConfig) -> Self {
        Self::with_domain(mesh, "cluster.local")
    }

    /// An empty model.
    pub fn with_domain(mesh: crd::MeshConfig, domain: &str) -> Self {
        Self { objects: Objects::default(), context: Arc::new(PushContext::empty(Arc::new(mesh), domain.into())) }
    }

    /// What is known now. It never changes; later changes make another.
    pub fn context(&self) -> Arc<PushContext> {
        self.context.clone()
    }

    /// The objects.
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// Replaces the mesh's settings. Returns false if they are the same.
    pub fn set_mesh(&mut self, mesh: crd::MeshConfig) -> bool {
        if *self.context.mesh == mesh {
            return false;
        }
        let mut next = self.context.successor();
        next.mesh = Arc::new(mesh);
        // Export defaults and the root namespace shape every index.
        let kinds: BTreeSet<Kind> = self.objects.all().map(|object| object.key.kind).collect();
        let namespaces = self.objects.all().map(|object| object.key.namespace.clone()).collect();
        self.rebuild(&mut next, &kinds, &namespaces);
        self.context = Arc::new(next);
        true
    }

    /// Applies a batch as one. Objects that are as before count for nothing.
    pub fn apply(&mut self, changes: Vec<Change>) -> Changes {
        let mut result = Changes::default();
        let (mut kinds, mut namespaces) = (BTreeSet::new(), BTreeSet::new());
        for change in changes {
            let key = match change {
                Change::Set(object) => {
                    let key = object.key.clone();
                    let known = self.objects.0.get(&key);
                    if known.is_some_and(|known| **known == *object) {
                        continue;
                    }
                    // The addresses in force, written down by the mesh itself, are no news.
                    let written =
                        known.is_some_and(|known| known.is_but_recorded(&object)) && self.has_recorded(&object);
                    self.objects.0.insert(key.clone(), object);
                    if written {
                        continue;
                    }
                    key
                }
                Change::Remove(key) => {
                    if self.objects.0.remove(&key).is_none() {
                        continue;
                    }
                    key
                }
            };
            kinds.insert(key.kind);
            namespaces.insert(key.namespace.clone());
            result.keys.push(key);
        }
        if result.keys.is_empty() {
            return result;
        }
        let before = self.context.clone();
        let mut next = before.successor();
        self.rebuild(&mut next, &kinds, &namespaces);
        result.full = kinds.iter().any(|kind| !kind.is_of_endpoints() && is_read(*kind));
        compare(&before, &next, &mut result);
        self.context = Arc::new(next);
        result
    }

    /// True if the hosts of a ServiceEntry have the addresses that it records.
    fn has_recorded(&self, object: &Object) -> bool {
        object.recorded.iter().all(|(host, address)| {
            let services = self.context.services.by_host.get(host).into_iter().flatten();
            let mut own = services.filter(|service| service.namespace == object.key.namespace);
            own.any(|service| service.auto_addresses.contains(address))
        })
    }

    fn rebuild(&self, next: &mut PushContext, kinds: &BTreeSet<Kind>, namespaces: &BTreeSet<Name>) {
        let changed = |kind: Kind| kinds.contains(&kind);
        let mesh = next.mesh.clone();
        let services = changed(Kind::Service) || changed(Kind::ServiceEntry);
        if services {
            next.services = Arc::new(self.services(&mesh, &next.domain));
        }
        if services || kinds.iter().any(|kind| kind.is_of_endpoints()) {
            self.rebuild_endpoints(next, changed(Kind::Node), namespaces);
        }
        if changed(Kind::VirtualService) {
            let all = self.configs(Kind::VirtualService, |spec| match spec {
                Spec::VirtualService(spec) => Some(spec.clone()),
                _ => None,
            });
            let default = &mesh.default_virtual_service_export_to;
            next.virtual_services = Arc::new(virtual_service::resolve(all, default, &next.domain));
        }
        if changed(Kind::DestinationRule) {
            let all = self.configs(Kind::DestinationRule, |spec| match spec {
                Spec::DestinationRule(spec) => Some(spec.clone()),
                _ => None,
            });
            let default = &mesh.default_destination_rule_export_to;
            next.destination_rules = Arc::new(DestinationRules::new(all, default, &next.domain));
        }
        macro_rules! plain {
            ($($kind:ident => $field:ident),*) => {$(
                if changed(Kind::$kind) {
                    next.$field = Arc::new(self.configs(Kind::$kind, |spec| match spec {
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
        if changed(Kind::Secret) {
            let secrets = self.objects.of(Kind::Secret);
            let secrets = secrets.map(|one| ((one.key.namespace.clone(), one.key.name.clone()), one.clone()));
            next.secrets = Arc::new(secrets.collect());
        }
    }

    fn services(&self, mesh: &crd::MeshConfig, domain: &str) -> Services {
        let default = &mesh.default_service_export_to;
        let mut services = Services::default();
        for object in self.objects.of(Kind::Service) {
            if let Spec::Service(raw) = &object.spec {
                services.insert(kubernetes::service(object, raw, default, domain));
            }
        }
        let mut external = Vec::new();
        let mut recorded = auto_address::Recorded::new();
        for object in self.objects.of(Kind::ServiceEntry) {
            if let Spec::ServiceEntry(raw) = &object.spec {
                external.extend(service_entry::services(object, raw, default));
            }
            for (host, address) in &object.recorded {
                recorded.entry((object.key.namespace.clone(), host.clone())).or_default().push(*address);
            }
        }
        auto_address::allocate(&mut external, &recorded);
        external.into_iter().for_each(|one| services.insert(one));
        services
    }

    fn rebuild_endpoints(&self, next: &mut PushContext, everywhere: bool, namespaces: &BTreeSet<Name>) {
        let localities = endpoints::localities(&self.objects);
        let all: BTreeSet<Name>;
        let namespaces = if everywhere {
            all = self.objects.all().map(|object| object.key.namespace.clone()).collect();
            &all
        } else {
            namespaces
        };
        let mut index = (*next.endpoints).clone();
        for namespace in namespaces {
            let none = Vec::new();
            let services = next.services.by_namespace.get(namespace).unwrap_or(&none);
            let built = endpoints::build(&self.objects, namespace, services, &localities);
            if built.workloads.is_empty() && built.hosts.is_empty() {
                index.remove(namespace);
            } else {
                index.insert(namespace.clone(), Arc::new(built));
            }
        }
        next.endpoints = Arc::new(index);
    }

    /// The objects of a kind, older first (G7).
    fn configs<T>(&self, kind: Kind, spec: impl Fn(&Spec) -> Option<T>) -> Vec<Arc<Config<T>>> {
        let configs = self.objects.of(kind).filter_map(|object| {
            let spec = spec(&object.spec)?;
            let (key, meta, origin) = (object.key.clone(), object.meta.clone(), object.origin.clone());
            Some(Arc::new(Config { key, meta, origin, spec }))
        });
        let mut configs: Vec<_> = configs.collect();
        configs.sort_by(|one, other| {
            let order =
                |config: &Config<T>| (config.meta.created, config.key.name.clone(), config.key.namespace.clone());
            order(one).cmp(&order(other))
        });
        configs
    }
}

/// Kinds that translation reads.
fn is_read(kind: Kind) -> bool {
    !matches!(
        kind,
        Kind::Namespace
            | Kind::ConfigMap
            | Kind::EnvoyFilter
            | Kind::ProxyConfig
            | Kind::RequestAuthentication
            | Kind::TrafficExtension
            | Kind::WasmPlugin
            | Kind::WorkloadGroup
    )
}

/// Says whose endpoints differ; where clusters or listeners are made from endpoints, the change is a full one.
fn compare(before: &PushContext, after: &PushContext, result: &mut Changes) {
    let namespaces: BTreeSet<&Name> = before.endpoints.keys().chain(after.endpoints.keys()).collect();
    let none = Arc::new(NamespaceEndpoints::default());
    for namespace in namespaces {
        let old = before.endpoints.get(namespace).unwrap_or(&none);
        let new = after.endpoints.get(namespace).unwrap_or(&none);
        if Arc::ptr_eq(old, new) {
            continue;
        }
        let hosts: BTreeSet<&Name> = old.hosts.keys().chain(new.hosts.keys()).collect();
        for host in hosts {
            let (old, new) = (old.hosts.get(host), new.hosts.get(host));
            if old == new {
                continue;
            }
            result.endpoints.insert(host.clone());
            // Clusters hold the identities behind a service.
            let accounts = |found: Option<&super::endpoints::HostEndpoints>| found.map(|found| found.accounts.clone());
            let services = after.services.by_host.get(host).into_iter().flatten();
            let mut inline = services.filter(|service| service.resolution != Resolution::Static);
            if accounts(old) != accounts(new) || inline.next().is_some() {
                result.full = true;
            }
        }
    }
}

//! Every object by its key. A batch of changes makes one new [`PushContext`], which [`super::update`] makes of the one before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_proto::names::label;
use mesh_proto::{crd, kube};

use super::context::PushContext;
use super::update::{self, Batch, Resolved};
use super::{Change, Changes, Key, Kind, Name, Object, Spec};

/// Objects by key.
#[derive(Debug, Default)]
pub struct Objects {
    all: BTreeMap<Key, Arc<Object>>,
    /// Names of EndpointSlices by namespace and service.
    slices: BTreeMap<Name, BTreeMap<Name, BTreeSet<Name>>>,
}

/// The service that an EndpointSlice is of.
pub(super) fn sliced(object: &Object) -> Option<&str> {
    let slice = matches!(object.spec, Spec::EndpointSlice(_));
    object.meta.labels.get(label::ENDPOINT_SLICE_SERVICE).map(String::as_str).filter(|_| slice)
}

impl Objects {
    /// All of a kind, by namespace and name.
    pub fn of(&self, kind: Kind) -> impl Iterator<Item = &Arc<Object>> {
        let first = Key { kind, namespace: "".into(), name: "".into() };
        self.all.range(first..).take_while(move |(key, _)| key.kind == kind).map(|(_, object)| object)
    }

    /// Those of one namespace.
    pub fn within<'a>(&'a self, kind: Kind, namespace: &str) -> impl Iterator<Item = &'a Arc<Object>> + use<'a> {
        let first = Key { kind, namespace: namespace.into(), name: "".into() };
        let namespace = first.namespace.clone();
        let found = self.all.range(first..).take_while(move |(key, _)| key.kind == kind && key.namespace == namespace);
        found.map(|(_, object)| object)
    }

    /// One object.
    pub fn get(&self, kind: Kind, namespace: &str, name: &str) -> Option<&Arc<Object>> {
        self.all.get(&Key { kind, namespace: namespace.into(), name: name.into() })
    }

    /// Every object.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.all.values()
    }

    /// The EndpointSlices of a service, by name.
    pub fn slices<'a>(&'a self, namespace: &'a str, service: &str) -> impl Iterator<Item = &'a kube::EndpointSlice> {
        let names = self.slices.get(namespace).and_then(|services| services.get(service));
        names.into_iter().flatten().filter_map(|name| self.slice(namespace, name))
    }

    /// The EndpointSlices of a namespace, each with its service.
    pub fn slices_within<'a>(
        &'a self,
        namespace: &'a str,
    ) -> impl Iterator<Item = (&'a Name, &'a kube::EndpointSlice)> {
        let services = self.slices.get(namespace).into_iter().flatten();
        services.flat_map(move |(service, names)| {
            names.iter().filter_map(move |name| Some((service, self.slice(namespace, name)?)))
        })
    }

    fn slice(&self, namespace: &str, name: &str) -> Option<&kube::EndpointSlice> {
        match &self.get(Kind::EndpointSlice, namespace, name)?.spec {
            Spec::EndpointSlice(slice) => Some(slice),
            _ => None,
        }
    }

    fn insert(&mut self, object: Arc<Object>) -> Option<Arc<Object>> {
        let before = self.remove(&object.key);
        if let Some(service) = sliced(&object) {
            let services = self.slices.entry(object.key.namespace.clone()).or_default();
            services.entry(service.into()).or_default().insert(object.key.name.clone());
        }
        self.all.insert(object.key.clone(), object);
        before
    }

    fn remove(&mut self, key: &Key) -> Option<Arc<Object>> {
        let removed = self.all.remove(key)?;
        if let Some(service) = sliced(&removed)
            && let Some(services) = self.slices.get_mut(&key.namespace)
            && let Some(names) = services.get_mut(service)
        {
            names.remove(&key.name);
            if names.is_empty() {
                services.remove(service);
            }
            if services.is_empty() {
                self.slices.remove(&key.namespace);
            }
        }
        Some(removed)
    }
}

/// The mutable side of the model: only the task that applies changes has it.
#[derive(Debug)]
pub struct Model {
    objects: Objects,
    resolved: Resolved,
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
        let context = Arc::new(PushContext::empty(Arc::new(mesh), domain.into()));
        Self { objects: Objects::default(), resolved: Resolved::default(), context }
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
        // Export defaults and the root namespace shape every index.
        let mut next = PushContext::empty(Arc::new(mesh), self.context.domain.clone());
        next.version = self.context.version + 1;
        self.resolved = Resolved::default();
        let all: Batch = self.objects.all().map(|object| (object.key.clone(), None)).collect();
        update::update(&self.objects, &mut self.resolved, &mut next, &all);
        self.context = Arc::new(next);
        true
    }

    /// Applies a batch as one. Objects that are as before count for nothing.
    pub fn apply(&mut self, changes: Vec<Change>) -> Changes {
        let mut batch = Batch::new();
        for change in changes {
            let (key, before) = match change {
                Change::Set(object) => {
                    let key = object.key.clone();
                    let known = self.objects.all.get(&key);
                    if known.is_some_and(|known| **known == *object) {
                        continue;
                    }
                    // The addresses in force, written down by the mesh itself, are no news.
                    let written =
                        known.is_some_and(|known| known.is_but_recorded(&object)) && self.has_recorded(&object);
                    let before = self.objects.insert(object);
                    if written {
                        continue;
                    }
                    (key, before)
                }
                Change::Remove(key) => match self.objects.remove(&key) {
                    None => continue,
                    removed => (key, removed),
                },
            };
            // Of several changes of one object the first knows what was before the batch.
            batch.entry(key).or_insert(before);
        }
        if batch.is_empty() {
            return Changes::default();
        }
        let mut next = self.context.successor();
        let result = update::update(&self.objects, &mut self.resolved, &mut next, &batch);
        next.keep_scopes(&self.context, &result);
        self.context = Arc::new(next);
        result
    }

    /// True if the hosts of a ServiceEntry have the addresses that it records.
    fn has_recorded(&self, object: &Object) -> bool {
        object.recorded.iter().all(|(host, address)| {
            let services = self.context.services.of_host(host).iter();
            let mut own = services.filter(|service| service.namespace == object.key.namespace);
            own.any(|service| service.auto_addresses.contains(address))
        })
    }
}

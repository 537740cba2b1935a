//! Services by host and by namespace, replaced object by object: what does not change is shared with the index before.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Name, Registry, Service};

/// A list that is shared until it changes.
type List = Arc<Vec<Arc<Service>>>;

/// See the module.
#[derive(Debug, Default, Clone)]
pub struct Services {
    /// Those of one host: Kubernetes' first, by namespace and name.
    by_host: BTreeMap<Name, List>,
    /// Those of one namespace: Kubernetes' first, by name.
    by_namespace: BTreeMap<Name, List>,
}

impl Services {
    /// Those of a host.
    pub fn of_host(&self, host: &str) -> &[Arc<Service>] {
        self.by_host.get(host).map_or(&[], |list| list.as_slice())
    }

    /// Those of a namespace.
    pub fn of_namespace(&self, namespace: &str) -> &[Arc<Service>] {
        self.by_namespace.get(namespace).map_or(&[], |list| list.as_slice())
    }

    /// Those of one object.
    pub fn of_object(&self, registry: Registry, namespace: &str, name: &str) -> &[Arc<Service>] {
        let all = self.of_namespace(namespace);
        let first = all.partition_point(|one| (one.registry, &*one.name) < (registry, name));
        let count = all[first..].partition_point(|one| (one.registry, &*one.name) == (registry, name));
        &all[first..first + count]
    }

    /// All, by host.
    pub fn hosts(&self) -> impl Iterator<Item = (&Name, &[Arc<Service>])> {
        self.by_host.iter().map(|(host, list)| (host, list.as_slice()))
    }

    /// Puts `new` in the place of the services that an object had. All are of that object.
    pub fn set(&mut self, registry: Registry, namespace: &Name, name: &Name, new: &[Arc<Service>]) {
        let old = self.of_object(registry, namespace, name).to_vec();
        let order = |one: &Service| (one.registry, one.namespace.clone(), one.name.clone());
        let key = (registry, namespace.clone(), name.clone());
        for host in old.iter().chain(new).map(|service| service.host.clone()) {
            let own = new.iter().filter(|service| service.host == host).cloned().collect();
            replace(&mut self.by_host, &host, &key, order, own);
        }
        replace(&mut self.by_namespace, namespace, &key, order, new.to_vec());
    }
}

fn replace<K: Ord>(
    index: &mut BTreeMap<Name, List>,
    at: &Name,
    key: &K,
    order: impl Fn(&Service) -> K,
    new: Vec<Arc<Service>>,
) {
    let list = Arc::make_mut(index.entry(at.clone()).or_default());
    let first = list.partition_point(|one| order(one) < *key);
    let count = list[first..].partition_point(|one| order(one) == *key);
    list.splice(first..first + count, new);
    if list.is_empty() {
        index.remove(at);
    }
}

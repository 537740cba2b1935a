//! What was installed: one ConfigMap a revision, beside its control plane. Upgrades prune by it and uninstall removes by it.
//!
//! It is written before the first object is (with what is there and what will be), and again at the end, so that an installation
//! that was cut short leaves nothing that nobody remembers.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ListParams};
use serde_json::{Value, json};

use super::manifest::MANAGER;
use super::object::Id;
use crate::cluster::{Cluster, id};

/// Marks inventories; the value is the revision.
const LABEL: &str = "install.ferromesh.io/inventory";

/// What is remembered of one revision.
#[derive(Debug, Clone, PartialEq)]
pub struct Inventory {
    /// The revision.
    pub revision: String,
    /// Namespace of its control plane.
    pub namespace: String,
    /// Version of the `meshctl` that installed it.
    pub version: String,
    /// What the user said.
    pub said: Value,
    /// Its objects, in the order in which they were applied.
    pub objects: Vec<Id>,
}

impl Inventory {
    fn id(&self) -> Id {
        id("v1", "ConfigMap", Some(&self.namespace), &format!("ferromesh-install-{}", self.revision))
    }

    fn body(&self) -> Result<Value> {
        let id = self.id();
        Ok(json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {
                "name": id.name, "namespace": id.namespace,
                "labels": {LABEL: self.revision, "app.kubernetes.io/managed-by": MANAGER, "app.kubernetes.io/part-of": "istio"},
            },
            "data": {
                "version": self.version,
                "values": yaml_serde::to_string(&self.said)?,
                "objects": yaml_serde::to_string(&self.objects)?,
            },
        }))
    }

    fn read(map: ConfigMap) -> Result<Self> {
        let name = map.metadata.name.unwrap_or_default();
        let field = |field: &str| map.data.as_ref().and_then(|data| data.get(field));
        let required = |name: &'static str| field(name).with_context(|| format!("data.{name} is missing"));
        let read = || -> Result<Self> {
            Ok(Self {
                revision: map
                    .metadata
                    .labels
                    .as_ref()
                    .and_then(|labels| labels.get(LABEL))
                    .cloned()
                    .unwrap_or_default(),
                namespace: map.metadata.namespace.clone().unwrap_or_default(),
                version: required("version")?.clone(),
                said: yaml_serde::from_str(required("values")?).context("data.values")?,
                objects: yaml_serde::from_str(required("objects")?).context("data.objects")?,
            })
        };
        read().with_context(|| format!("ConfigMap {name}, which remembers what was installed, cannot be read"))
    }

    /// Writes it.
    pub async fn write(&self, cluster: &Cluster) -> Result<()> {
        cluster.apply(&self.id(), &self.body()?, false).await?;
        Ok(())
    }

    /// Forgets it.
    pub async fn remove(&self, cluster: &Cluster) -> Result<()> {
        cluster.delete(&self.id(), false).await?;
        Ok(())
    }
}

/// The inventories of a namespace, by revision.
pub async fn all(cluster: &Cluster, namespace: &str) -> Result<Vec<Inventory>> {
    let api: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), namespace);
    let list = api.list(&ListParams::default().labels(LABEL)).await;
    let list = list.map_err(|error| cluster.explain("list", &format!("ConfigMaps of {namespace}"), error))?;
    list.items.into_iter().map(Inventory::read).collect()
}

/// What of `before` is neither in `now` nor another revision's, last applied first: what an upgrade or a removal takes away.
pub fn gone(before: &[Id], now: &[Id], others: &[Inventory]) -> Vec<Id> {
    let kept: BTreeSet<&Id> = now.iter().chain(others.iter().flat_map(|other| &other.objects)).collect();
    before.iter().rev().filter(|id| !kept.contains(id)).cloned().collect()
}

/// Both, each object once, in order.
pub fn union(before: &[Id], now: &[Id]) -> Vec<Id> {
    let known: BTreeSet<&Id> = now.iter().collect();
    now.iter().chain(before.iter().filter(|id| !known.contains(id))).cloned().collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn ids(names: &str) -> Vec<Id> {
        names.split_whitespace().map(|name| id("v1", "Service", Some("n"), name)).collect()
    }

    #[test]
    fn an_inventory_is_read_as_it_was_written() {
        let inventory = Inventory {
            revision: "canary".to_owned(),
            namespace: "istio-system".to_owned(),
            version: "1".to_owned(),
            said: json!({"profile": "demo"}),
            objects: ids("a b"),
        };
        let map = serde_json::from_value(inventory.body().unwrap()).unwrap();
        assert_eq!(Inventory::read(map).unwrap(), inventory);
    }

    #[test]
    fn what_goes_is_what_nobody_has_any_more() {
        let other = Inventory {
            revision: "other".to_owned(),
            namespace: String::new(),
            version: String::new(),
            said: Value::Null,
            objects: ids("shared"),
        };
        assert_eq!(gone(&ids("a b shared c"), &ids("b d"), &[other]), ids("c a"));
        assert_eq!(union(&ids("a b"), &ids("b c")), ids("b c a"));
    }
}

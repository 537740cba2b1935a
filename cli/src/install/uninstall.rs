//! Takes away what was installed, and nothing else: the inventory says what that is.

use anyhow::{Result, bail};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ListParams};

use super::inventory::{self, Inventory};
use super::manifest::{MANAGER, REVISION_LABEL, TAG_LABEL};
use super::object::{Id, Stage};
use super::permissions;
use super::progress::Progress;
use crate::cluster::{Cluster, id};

/// The ConfigMap by which the control plane gives the mesh's roots to every namespace.
const ROOTS: &str = "istio-ca-root-cert";

/// What is to be removed.
#[derive(Debug)]
pub struct Removal {
    /// The objects, in the order in which they go.
    pub objects: Vec<Id>,
    inventories: Vec<Inventory>,
}

impl Removal {
    /// Finds out what goes with a revision; with `purge`, with all of them, their definitions and what control planes made.
    pub async fn new(cluster: &Cluster, namespace: &str, revision: Option<&str>, purge: bool) -> Result<Self> {
        let all = inventory::all(cluster, namespace).await?;
        let tags = tags(cluster).await?;
        let (mine, others) = if purge { (all, Vec::new()) } else { choose(all, namespace, revision)? };
        if let ([one], false) = (&mine[..], others.is_empty()) {
            in_use(cluster, one, &tags).await?;
        }
        let mut objects: Vec<Id> =
            mine.iter().flat_map(|inventory| inventory::gone(&inventory.objects, &[], &others)).collect();
        let ours = |revision: &str| mine.iter().any(|inventory| inventory.revision == revision);
        // A tag may have been moved since it was installed with a revision.
        objects.retain(|id| tags.iter().all(|tag| tag.id != *id || ours(&tag.revision)));
        objects.extend(tags.into_iter().filter(|tag| ours(&tag.revision)).map(|tag| tag.id));
        if purge {
            objects.extend(leftovers(cluster, namespace).await?);
        } else {
            objects.retain(|id| id.kind != "CustomResourceDefinition");
        }
        // What the API server would ask goes first, so that nothing is refused meanwhile; a namespace last.
        objects.sort_by_key(|id| {
            let stage = id.kind().map(|kind| kind.stage);
            (id.kind == "Namespace", stage != Some(Stage::Webhooks), std::cmp::Reverse(stage))
        });
        let mut known = std::collections::HashSet::new();
        objects.retain(|id| known.insert(id.clone()));
        permissions::require(cluster, &permissions::needed(&objects, &["delete"], namespace)).await?;
        Ok(Self { objects, inventories: mine })
    }

    /// Removes everything. What is gone already is no error, so that a removal that was cut short can be run again.
    pub async fn run(self, cluster: &Cluster) -> Result<()> {
        let progress = Progress::start("removal", self.objects.len());
        let mut removed = 0;
        let namespaced = |id: &&Id| id.kind != "Namespace";
        for id in self.objects.iter().filter(namespaced) {
            progress.now(id);
            removed += usize::from(cluster.delete(id, false).await?);
            progress.step();
        }
        for inventory in &self.inventories {
            inventory.remove(cluster).await?;
        }
        for id in self.objects.iter().filter(|id| !namespaced(id)) {
            progress.now(id);
            removed += usize::from(cluster.delete(id, false).await?);
            progress.step();
        }
        progress.finish(format!("{removed} removed"));
        Ok(())
    }
}

fn choose(all: Vec<Inventory>, namespace: &str, revision: Option<&str>) -> Result<(Vec<Inventory>, Vec<Inventory>)> {
    let names: Vec<String> = all.iter().map(|inventory| inventory.revision.clone()).collect();
    let revision = match (revision, &names[..]) {
        (_, []) => {
            bail!("nothing is installed in namespace {namespace} by meshctl; --istio-namespace names another one")
        }
        (Some(revision), _) if !names.iter().any(|name| name == revision) => {
            bail!("--revision {revision}: is not installed in namespace {namespace}; there are {}", names.join(", "))
        }
        (Some(revision), _) => revision.to_owned(),
        (None, [one]) => one.clone(),
        (None, _) => {
            bail!("say which one goes with --revision NAME, or all with --purge; there are {}", names.join(", "))
        }
    };
    Ok(all.into_iter().partition(|inventory| inventory.revision == revision))
}

/// A revision that others rely on does not go before they have been moved.
async fn in_use(cluster: &Cluster, inventory: &Inventory, tags: &[Tag]) -> Result<()> {
    let revision = &inventory.revision;
    let pointing: Vec<&str> =
        tags.iter().filter(|tag| tag.revision == *revision).map(|tag| tag.name.as_str()).collect();
    if !pointing.is_empty() {
        bail!(
            "revision {revision} is what tags point to ({}); move them first: meshctl tag set TAG --revision OTHER --overwrite",
            pointing.join(", ")
        );
    }
    let id = id("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", None, "istiod-default-validator");
    let labels = cluster.get(&id).await?.and_then(|object| object.metadata.labels).unwrap_or_default();
    if labels.get(REVISION_LABEL) == Some(revision) {
        bail!(
            "revision {revision} judges all objects that name no revision; let another one do so first: \
             meshctl tag set default --revision OTHER --overwrite"
        );
    }
    Ok(())
}

/// A tag and the revision that it points to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    /// Its name.
    pub name: String,
    /// Where it points to.
    pub revision: String,
    /// The webhook configuration that it is.
    pub id: Id,
}

/// All tags.
pub async fn tags(cluster: &Cluster) -> Result<Vec<Tag>> {
    let api: Api<MutatingWebhookConfiguration> = Api::all(cluster.client.clone());
    let list = api.list(&ListParams::default().labels(TAG_LABEL)).await;
    let list = list.map_err(|error| cluster.explain("list", "MutatingWebhookConfigurations", error))?;
    let tags = list.items.into_iter().filter_map(|object| {
        let labels = object.metadata.labels?;
        Some(Tag {
            name: labels.get(TAG_LABEL)?.clone(),
            revision: labels.get(REVISION_LABEL)?.clone(),
            id: id("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration", None, &object.metadata.name?),
        })
    });
    Ok(tags.collect())
}

/// What control planes made, and the namespace if it was made for them.
async fn leftovers(cluster: &Cluster, namespace: &str) -> Result<Vec<Id>> {
    let api: Api<ConfigMap> = Api::all(cluster.client.clone());
    let list = api.list(&ListParams::default().fields(&format!("metadata.name={ROOTS}"))).await;
    let list = list.map_err(|error| cluster.explain("list", "ConfigMaps", error))?;
    let roots = list.items.into_iter().filter_map(|map| map.metadata.namespace);
    let mut leftovers: Vec<Id> = roots.map(|namespace| id("v1", "ConfigMap", Some(&namespace), ROOTS)).collect();
    leftovers.push(id("v1", "Secret", Some(namespace), "istio-ca-secret"));
    let home = id("v1", "Namespace", None, namespace);
    let labels = cluster.get(&home).await?.and_then(|object| object.metadata.labels).unwrap_or_default();
    if labels.get("app.kubernetes.io/managed-by").is_some_and(|manager| manager == MANAGER) {
        leftovers.push(home);
    }
    Ok(leftovers)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::Value;

    use super::*;

    #[test]
    fn which_revision_goes_is_never_guessed() {
        let inventories = |names: &str| {
            let one = |name: &str| Inventory {
                revision: name.to_owned(),
                namespace: String::new(),
                version: String::new(),
                said: Value::Null,
                objects: Vec::new(),
            };
            names.split_whitespace().map(one).collect::<Vec<_>>()
        };
        for (installed, asked, outcome) in [
            ("a", None, Ok((1, 0))),
            ("a b", Some("b"), Ok((1, 1))),
            ("", None, Err("nothing is installed")),
            ("a b", None, Err("say which one goes with --revision NAME, or all with --purge; there are a, b")),
            ("a", Some("c"), Err("--revision c: is not installed in namespace n; there are a")),
        ] {
            match (choose(inventories(installed), "n", asked), outcome) {
                (Ok((mine, others)), Ok(expected)) => assert_eq!((mine.len(), others.len()), expected),
                (Err(error), Err(reason)) => assert!(error.to_string().contains(reason), "{error}"),
                (found, expected) => panic!("{found:?}, {expected:?}"),
            }
        }
    }
}

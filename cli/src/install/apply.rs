//! Brings a cluster to a manifest: looks, asks for rights, applies stage by stage, waits, prunes, remembers. A second run changes nothing.
//!
//! [`crate::install::manifest`] → here → the API server.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use futures_util::future::try_join_all;
use kube::api::DynamicObject;
use serde_json::json;

use super::inventory::{self, Inventory};
use super::manifest::{MANAGER, Manifest, REVISION_LABEL};
use super::object::{Id, Object, Stage};
use super::permissions;
use super::progress::Progress;
use super::uninstall::tags;
use super::values::Installation;
use super::wait;
use crate::cluster::{Cluster, id};

/// The oldest minor version of Kubernetes 1 that is served: native sidecars are there by default.
pub const OLDEST_MINOR: u32 = 29;

/// How to go about it.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Wait until workloads are ready and webhooks are trusted.
    pub wait: bool,
    /// How long, altogether.
    pub patience: Duration,
}

/// What is to be done to a cluster, found out without changing it.
#[derive(Debug)]
pub struct Plan {
    installation: Installation,
    manifest: Manifest,
    namespaces: Vec<Id>,
    found: HashMap<Id, DynamicObject>,
    before: Option<Inventory>,
    gone: Vec<Id>,
    /// What a user should know before it begins.
    pub notes: Vec<String>,
}

/// What became of an object, or would become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is new.
    Created,
    /// It is another one now.
    Changed,
    /// It was so already.
    Unchanged,
    /// It is gone.
    Removed,
}

/// How many objects changed how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    created: usize,
    changed: usize,
    unchanged: usize,
    removed: usize,
}

impl Counts {
    fn count(&mut self, change: Change) {
        *match change {
            Change::Created => &mut self.created,
            Change::Changed => &mut self.changed,
            Change::Unchanged => &mut self.unchanged,
            Change::Removed => &mut self.removed,
        } += 1;
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = [
            (self.created, "created"),
            (self.changed, "changed"),
            (self.unchanged, "unchanged"),
            (self.removed, "removed"),
        ];
        let parts: Vec<String> =
            parts.iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}")).collect();
        f.write_str(&parts.join(", "))
    }
}

impl Plan {
    /// Looks at the cluster. Fails where going on would harm: a cluster too old, objects of somebody else, rights that are lacking.
    pub async fn new(cluster: &Cluster, mut installation: Installation) -> Result<Self> {
        version(cluster).await?;
        let (mine, others): (Vec<_>, Vec<_>) = inventory::all(cluster, &installation.namespace)
            .await?
            .into_iter()
            .partition(|inventory| inventory.revision == installation.revision);
        tagged(cluster, &installation.revision).await?;
        let mut notes = Vec::new();
        leave_gateways(&mut installation, &others, &mut notes);
        let default_revision = default_revision(cluster, &installation.revision, &others).await?;
        let manifest = Manifest::new(&installation, &default_revision)?;
        let before = mine.into_iter().next();
        let gone = inventory::gone(before.as_ref().map_or(&[], |before| &before.objects), &manifest.ids(), &others);
        // Definitions hold users' configuration, so only a purge removes them.
        let gone: Vec<Id> = gone.into_iter().filter(|id| id.kind != "CustomResourceDefinition").collect();

        let mut needed = permissions::needed(&manifest.ids(), VERBS, &installation.namespace);
        needed.extend(permissions::needed(&gone, &["delete"], &installation.namespace));
        permissions::require(cluster, &needed).await?;

        let found = look(cluster, &manifest).await?;
        foreign(&manifest, &found)?;
        let names: BTreeSet<&str> = manifest.objects().filter_map(|object| object.id.namespace.as_deref()).collect();
        let mut namespaces = Vec::new();
        for name in names {
            let id = id("v1", "Namespace", None, name);
            if cluster.get(&id).await?.is_none() {
                namespaces.push(id);
            }
        }
        Ok(Self { installation, manifest, namespaces, found, before, gone, notes })
    }

    /// One line of what this is.
    pub fn title(&self) -> String {
        let Installation { profile, revision, namespace, .. } = &self.installation;
        format!("profile {profile}, revision {revision}, namespace {namespace}")
    }

    /// What would become of every object. Asks the API server, which validates and changes nothing.
    pub async fn dry_run(&self, cluster: &Cluster) -> Result<Vec<(Id, Change)>> {
        let mut changes: Vec<_> = self.namespaces.iter().map(|id| (id.clone(), Change::Created)).collect();
        for object in self.manifest.objects() {
            let absent = |id: &Id| Some(&id.name) == object.id.namespace.as_ref();
            // An object in a namespace that is not there yet cannot be asked for.
            let change = if self.namespaces.iter().any(absent) {
                Change::Created
            } else {
                let after = cluster.apply(&object.id, &object.body, true).await?;
                self.change(object, &after, |a, b| settled(a) == settled(b))
            };
            changes.push((object.id.clone(), change));
        }
        changes.extend(self.gone.iter().map(|id| (id.clone(), Change::Removed)));
        Ok(changes)
    }

    /// Does it.
    pub async fn run(self, cluster: &Cluster, options: Options) -> Result<()> {
        let deadline = Instant::now() + options.patience;
        for id in &self.namespaces {
            let body = json!({"apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": id.name, "labels": {"app.kubernetes.io/managed-by": MANAGER}}});
            cluster.apply(id, &body, false).await?;
        }
        let before = self.before.as_ref().map_or(&[][..], |before| &before.objects);
        let mut inventory = Inventory {
            revision: self.installation.revision.clone(),
            namespace: self.installation.namespace.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            said: self.installation.said.clone(),
            objects: inventory::union(before, &self.manifest.ids()),
        };
        if inventory.objects.len() != before.len() {
            inventory.write(cluster).await?;
        }
        self.stages(cluster, "", &self.manifest.control_plane, options, deadline).await?;
        self.stages(cluster, "gateways: ", &self.manifest.gateways, options, deadline).await?;
        if !self.gone.is_empty() {
            let progress = Progress::start("what is not wanted any more", self.gone.len());
            let mut counts = Counts::default();
            for id in &self.gone {
                progress.now(id);
                cluster.delete(id, false).await?;
                counts.count(Change::Removed);
                progress.step();
            }
            progress.finish(counts);
        }
        inventory.objects = self.manifest.ids();
        inventory.write(cluster).await
    }

    async fn stages(
        &self,
        cluster: &Cluster,
        of: &str,
        objects: &[Object],
        options: Options,
        deadline: Instant,
    ) -> Result<()> {
        for stage in Stage::ALL {
            let objects: Vec<&Object> = objects.iter().filter(|object| object.stage == stage).collect();
            if objects.is_empty() {
                continue;
            }
            let progress = Progress::start(format!("{of}{stage}"), objects.len());
            let mut counts = Counts::default();
            for object in &objects {
                progress.now(&object.id);
                let after = cluster.apply(&object.id, &object.body, false).await?;
                counts.count(
                    self.change(object, &after, |a, b| a.metadata.resource_version == b.metadata.resource_version),
                );
                progress.step();
            }
            // Without the definitions established nothing else can be done; all other waits are for the user's comfort.
            if options.wait || stage == Stage::Definitions {
                let ids: Vec<Id> = objects.iter().map(|object| object.id.clone()).collect();
                wait::ready(cluster, &ids, deadline, &progress).await?;
            }
            progress.finish(counts);
        }
        Ok(())
    }

    fn change(
        &self,
        object: &Object,
        after: &DynamicObject,
        same: impl Fn(&DynamicObject, &DynamicObject) -> bool,
    ) -> Change {
        match self.found.get(&object.id) {
            None => Change::Created,
            Some(before) if same(before, after) => Change::Unchanged,
            Some(_) => Change::Changed,
        }
    }
}

/// An object without what every write touches.
fn settled(object: &DynamicObject) -> DynamicObject {
    let mut object = object.clone();
    object.metadata.managed_fields = None;
    object.metadata.resource_version = None;
    object.metadata.generation = None;
    object
}

/// What the user must be allowed to do with every object.
pub const VERBS: &[&str] = &["create", "get", "patch"];

/// The cluster's version; refuses one that is too old.
pub async fn version(cluster: &Cluster) -> Result<String> {
    let version = cluster.client.apiserver_version().await;
    let version = version.map_err(|error| cluster.explain("ask", "the version of Kubernetes", error))?;
    let digits: String = version.minor.chars().take_while(char::is_ascii_digit).collect();
    if version.major == "1" && digits.parse::<u32>().is_ok_and(|minor| minor < OLDEST_MINOR) {
        bail!("the cluster is Kubernetes {}; 1.{OLDEST_MINOR} or later is needed", version.git_version);
    }
    Ok(version.git_version)
}

/// Refuses a revision that is called as a tag is: both would inject the same pods.
async fn tagged(cluster: &Cluster, revision: &str) -> Result<()> {
    let tags = tags(cluster).await?;
    let Some(tag) = tags.iter().find(|tag| tag.name == revision && tag.revision != revision) else { return Ok(()) };
    bail!(
        "revision {revision}: is a tag that points to revision {}; choose another --revision, or take the tag away first: \
         meshctl tag remove {revision}",
        tag.revision
    )
}

/// A gateway that another revision has stays with it, unless the user names it: a control plane can be tried beside the first without
/// moving traffic.
fn leave_gateways(installation: &mut Installation, others: &[Inventory], notes: &mut Vec<String>) {
    let revision = installation.revision.clone();
    installation.gateways.retain(|gateway| {
        let is_gateway = |id: &Id| {
            matches!(id.kind.as_str(), "Deployment" | "DaemonSet")
                && id.name == gateway.name
                && id.namespace.as_ref() == Some(&gateway.namespace)
        };
        let owner = others.iter().find(|other| other.objects.iter().any(is_gateway));
        let Some(owner) = owner.filter(|_| !gateway.said) else { return true };
        notes.push(format!(
            "gateway {} stays with revision {}; --set gateways.{}.revision={revision} moves it",
            gateway.name, owner.revision, gateway.name
        ));
        false
    });
}

/// Which revision judges objects that name none: the one that does already, if it is still there, else this one.
async fn default_revision(cluster: &Cluster, revision: &str, others: &[Inventory]) -> Result<String> {
    let id = id("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", None, "istiod-default-validator");
    let found = cluster.get(&id).await?;
    let labels = found.and_then(|found| found.metadata.labels).unwrap_or_default();
    Ok(match labels.get(REVISION_LABEL) {
        Some(current) if others.iter().any(|other| other.revision == *current) => current.clone(),
        _ => revision.to_owned(),
    })
}

/// The objects of a manifest that are there.
pub async fn look(cluster: &Cluster, manifest: &Manifest) -> Result<HashMap<Id, DynamicObject>> {
    let looks =
        manifest.objects().map(|object| async { anyhow::Ok((object.id.clone(), cluster.get(&object.id).await?)) });
    let found = try_join_all(looks).await?;
    Ok(found.into_iter().filter_map(|(id, object)| Some((id, object?))).collect())
}

/// Refuses to take over what somebody else installed. Definitions are the same for all who run Istio's configuration.
pub fn foreign(manifest: &Manifest, found: &HashMap<Id, DynamicObject>) -> Result<()> {
    for object in manifest.objects().filter(|object| object.stage != Stage::Definitions) {
        let Some(there) = found.get(&object.id) else { continue };
        let labels = there.metadata.labels.as_ref();
        match labels.and_then(|labels| labels.get("app.kubernetes.io/managed-by")).map(String::as_str) {
            Some(MANAGER) => {}
            other => bail!(
                "{}: is there already, installed by {}: upgrade it by the same means, uninstall it first, or install beside it with --revision NAME or in \
                 another namespace with --istio-namespace NAME",
                object.id,
                other.unwrap_or("somebody else")
            ),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::Value;

    use super::super::values::Wishes;
    use super::*;

    #[test]
    fn a_gateway_stays_with_its_revision_unless_it_is_named() {
        let other = Inventory {
            revision: "default".to_owned(),
            namespace: "istio-system".to_owned(),
            version: String::new(),
            said: Value::Null,
            objects: vec![id("apps/v1", "Deployment", Some("istio-system"), "istio-ingressgateway")],
        };
        for (set, kept) in [("profile=default", 0), ("gateways.istio-ingressgateway.revision=canary", 1)] {
            let wishes =
                Wishes { sets: vec![set.to_owned()], revision: Some("canary".to_owned()), ..Wishes::default() };
            let mut installation = wishes.installation(&Value::Null, "istio-system").unwrap();
            let mut notes = Vec::new();
            leave_gateways(&mut installation, std::slice::from_ref(&other), &mut notes);
            assert_eq!((installation.gateways.len(), notes.len()), (kept, 1 - kept), "{set}");
        }
    }

    #[test]
    fn what_somebody_else_installed_is_left_alone() {
        let installation = Wishes::default().installation(&Value::Null, "istio-system").unwrap();
        let manifest = Manifest::new(&installation, "default").unwrap();
        let deployment = id("apps/v1", "Deployment", Some("istio-system"), "istiod");
        for (labels, refused) in [(json!({"app.kubernetes.io/managed-by": "meshctl"}), false), (json!({}), true)] {
            let body = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "istiod", "labels": labels}});
            let found = HashMap::from([(deployment.clone(), serde_json::from_value(body).unwrap())]);
            assert_eq!(foreign(&manifest, &found).is_err(), refused);
        }
    }
}

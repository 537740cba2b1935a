//! All sources as one: an object that two of them have is the first one's, and namespaces that `discoverySelectors` leave out (DS1) do not exist.
//!
//! Nothing comes out before every source has read everything once. Fed by sources, read by [`crate::push`]. Synchronous and free of I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_proto::crd::MeshConfig;

use super::ingress::{self, Derived, Exposed};
use super::kinds::cluster_wide;
use super::namespaces::Namespaces;
use super::{Update, Verdict};
use crate::model::{Change, Key, Kind, Name, Object, Spec};
use crate::own::Own;
use crate::validate::{self, Finding, MESH_CONFIG_KEY, MESH_CONFIG_NAME, Severity};

/// What all sources together say.
#[derive(Debug)]
pub struct Merge {
    own: Own,
    sources: Vec<Source>,
    held: BTreeMap<Key, Held>,
    namespaces: Namespaces,
    mesh: MeshConfig,
    /// What Ingresses mean: a source of its own, believed last.
    derived: Derived,
    /// Keys of which something may have changed since the last [`Merge::take`].
    touched: BTreeSet<Key>,
    started: bool,
}

/// What is known of a source.
#[derive(Debug, Default)]
struct Source {
    complete: bool,
    findings: Vec<Finding>,
    verdicts: Vec<Verdict>,
}

/// An object by the sources that have it.
#[derive(Debug, Default)]
struct Held {
    /// By index of the source, in order.
    by: Vec<(usize, Arc<Object>)>,
    /// What the model was told.
    told: Option<Arc<Object>>,
}

impl Merge {
    /// Of so many sources; the first is believed first.
    pub fn new(sources: usize, own: Own) -> Self {
        Self {
            namespaces: Namespaces::new(&own.namespace),
            mesh: own.mesh(),
            derived: Derived::default(),
            own,
            sources: (0..sources).map(|_| Source::default()).collect(),
            held: BTreeMap::new(),
            touched: BTreeSet::new(),
            started: false,
        }
    }

    /// Takes in what a source says. Returns what the model is to be told, if anything; the first answer, which may be empty, comes once
    /// every source has spoken.
    pub fn take(&mut self, source: usize, update: Update) -> Option<Vec<Change>> {
        if let Some(known) = self.sources.get_mut(source) {
            known.complete |= update.complete;
            if let Some(findings) = update.findings {
                known.findings = findings;
            }
            if let Some(verdicts) = update.verdicts {
                known.verdicts = verdicts;
            }
        }
        for change in update.changes {
            let (key, object) = match change {
                Change::Set(object) => (object.key.clone(), Some(object)),
                Change::Remove(key) => (key, None),
            };
            let held = self.held.entry(key.clone()).or_default();
            held.by.retain(|(index, _)| *index != source);
            held.by.extend(object.map(|object| (source, object)));
            held.by.sort_by_key(|(index, _)| *index);
            self.touched.insert(key);
        }
        if !self.sources.iter().all(|source| source.complete) {
            return None;
        }
        let changes = self.changes();
        let first = !std::mem::replace(&mut self.started, true);
        (first || !changes.is_empty()).then_some(changes)
    }

    /// What all sources find wrong, in namespaces that are looked at, and which objects stand in two of them.
    pub fn findings(&self) -> Vec<Finding> {
        let seen = |finding: &&Finding| finding.key.as_ref().is_none_or(|key| self.is_selected(key));
        let mut all: Vec<Finding> =
            self.sources.iter().flat_map(|source| &source.findings).filter(seen).cloned().collect();
        all.extend(self.derived.findings.iter().cloned());
        for held in self.held.values() {
            let Some((_, first)) = held.by.first() else { continue };
            all.extend(held.by.iter().skip(1).map(|(_, other)| Finding {
                severity: Severity::Error,
                code: None,
                key: Some(other.key.clone()),
                origin: other.origin.clone(),
                field: None,
                message: format!("is also defined at {}, which is used; remove one of them", first.origin),
            }));
        }
        all
    }

    /// What was judged of objects in namespaces that are looked at, of sources whose objects are not another's.
    pub fn verdicts(&self) -> Vec<Verdict> {
        let first = |key: &Key| self.held.get(key).and_then(|held| held.by.first()).map(|(source, _)| *source);
        let all = self
            .sources
            .iter()
            .enumerate()
            .flat_map(|(number, source)| source.verdicts.iter().map(move |one| (number, one)));
        let own = all
            .filter(|(number, one)| self.is_selected(&one.key) && first(&one.key).is_none_or(|first| first == *number));
        own.map(|(_, one)| one.clone()).collect()
    }

    /// The namespaces that there are and that are looked at.
    pub fn namespaces(&self) -> Vec<Name> {
        self.namespaces.existing()
    }

    /// The Ingresses that are the mesh's.
    pub fn exposed(&self) -> &Exposed {
        &self.derived.exposed
    }

    /// Says what differs from what the model was told, and takes it as told.
    fn changes(&mut self) -> Vec<Change> {
        let mut touched = std::mem::take(&mut self.touched);
        self.look_at_namespaces(&mut touched);
        self.look_at_ingresses(&mut touched);
        let mut changes = Vec::new();
        for key in touched {
            let selected = self.is_selected(&key);
            let Some(held) = self.held.get_mut(&key) else { continue };
            let now = held.by.first().map(|(_, object)| object).filter(|_| selected).cloned();
            match (&held.told, &now) {
                (Some(before), Some(now)) if before == now => {}
                (None, None) => {}
                (_, Some(now)) => changes.push(Change::Set(now.clone())),
                (Some(_), None) => changes.push(Change::Remove(key.clone())),
            }
            held.told = now;
            if held.by.is_empty() {
                self.held.remove(&key);
            }
        }
        changes
    }

    /// Learns labels and selectors from what was touched; adds everything in namespaces that come or go.
    fn look_at_namespaces(&mut self, touched: &mut BTreeSet<Key>) {
        let about: Vec<Key> =
            touched.iter().filter(|key| key.kind == Kind::Namespace || self.is_mesh_config(key)).cloned().collect();
        if about.is_empty() {
            return;
        }
        let before = self.namespaces.selected();
        for key in &about {
            let object = self.held.get(key).and_then(|held| held.by.first()).map(|(_, object)| object);
            if key.kind == Kind::Namespace {
                self.namespaces.set(&key.name, object.map(|object| object.meta.labels.clone()));
            } else {
                let text = object.and_then(|object| match &object.spec {
                    Spec::ConfigMap(map) => map.data.as_ref()?.get(MESH_CONFIG_KEY),
                    _ => None,
                });
                // What cannot be read does not come here; its settings of before stay.
                let mesh = text.map(|text| validate::mesh_config(text, &self.own.namespace).map(|(mesh, _)| mesh));
                if let Ok(mesh) = mesh.unwrap_or_else(|| Ok(self.own.mesh())) {
                    self.namespaces.select(mesh.discovery_selectors.clone());
                    self.mesh = mesh;
                }
            }
        }
        let after = self.namespaces.selected();
        let turned = |name: &Name| before.has(name) != after.has(name);
        touched.extend(self.held.keys().filter(|key| !key.namespace.is_empty() && turned(&key.namespace)).cloned());
    }

    /// Derives anew what Ingresses mean if something of it was touched; adds what is another then.
    fn look_at_ingresses(&mut self, touched: &mut BTreeSet<Key>) {
        let some = !self.derived.exposed.ingresses.is_empty();
        let about = |key: &Key| match key.kind {
            Kind::Ingress | Kind::IngressClass => true,
            Kind::Service => some,
            _ => self.is_mesh_config(key),
        };
        if !touched.iter().any(about) {
            return;
        }
        let first = |held: &'_ Held| held.by.first().map(|(_, object)| object.clone());
        let start = Key { kind: Kind::Ingress, namespace: "".into(), name: "".into() };
        let all = self.held.range(start..).take_while(|(key, _)| key.kind == Kind::Ingress);
        let all: Vec<Arc<Object>> =
            all.filter(|(key, _)| self.is_selected(key)).filter_map(|(_, held)| first(held)).collect();
        let look_up = |kind: Kind, namespace: &str, name: &str| {
            let held = self.held.get(&Key { kind, namespace: namespace.into(), name: name.into() })?;
            held.by.first().map(|(_, object)| &**object)
        };
        let now = ingress::derive(&self.own, &self.mesh, all.iter().map(|object| &**object), look_up);
        let before = std::mem::replace(&mut self.derived, now);
        let last = self.sources.len();
        let keys: BTreeSet<&Key> = before.objects.keys().chain(self.derived.objects.keys()).collect();
        for key in keys {
            let object = self.derived.objects.get(key);
            if before.objects.get(key) == object {
                continue;
            }
            let held = self.held.entry(key.clone()).or_default();
            held.by.retain(|(index, _)| *index != last);
            held.by.extend(object.map(|object| (last, object.clone())));
            touched.insert(key.clone());
        }
    }

    fn is_mesh_config(&self, key: &Key) -> bool {
        key.kind == Kind::ConfigMap && *key.namespace == self.own.namespace && &*key.name == MESH_CONFIG_NAME
    }

    fn is_selected(&self, key: &Key) -> bool {
        cluster_wide(key.kind) || self.namespaces.has(&key.namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::super::document::{Outcome, read};
    use super::*;

    fn update(yaml: &str) -> Update {
        let changes = read(None, yaml.as_bytes()).into_iter().filter_map(|document| match document.outcome {
            Outcome::Object(object) => Some(Change::Set(object)),
            _ => None,
        });
        Update { changes: changes.collect(), complete: true, ..Update::default() }
    }

    fn text(changes: Option<Vec<Change>>) -> String {
        let Some(changes) = changes else { return "nothing".to_owned() };
        let words = changes.iter().map(|change| match change {
            Change::Set(object) => format!("+{}", object.key),
            Change::Remove(key) => format!("-{key}"),
        });
        words.collect::<Vec<_>>().join(", ")
    }

    fn pod(namespace: &str, name: &str) -> String {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{containers: []}}\n"
        )
    }

    fn namespace(name: &str, labels: &str) -> String {
        format!("---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{{labels}}}}}\n")
    }

    fn mesh(text: &str) -> String {
        format!(
            "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata: {{mesh: '{text}'}}\n"
        )
    }

    #[test]
    fn nothing_comes_out_before_every_source_has_read_everything() {
        let mut merge = Merge::new(2, Own::default());
        assert_eq!(text(merge.take(0, update(&pod("a", "one")))), "nothing");
        let half = Update { complete: false, ..update(&pod("a", "two")) };
        assert_eq!(text(merge.take(1, half)), "nothing");
        assert_eq!(text(merge.take(1, update(""))), "+Pod a/one, +Pod a/two");
        assert_eq!(text(merge.take(1, update(&pod("a", "two")))), "nothing");
        assert_eq!(
            text(Merge::new(1, Own::default()).take(0, update(""))),
            "",
            "the first word counts, even if it is empty"
        );
    }

    #[test]
    fn an_object_of_two_sources_is_the_first_ones() {
        let mut merge = Merge::new(2, Own::default());
        merge.take(0, update(""));
        merge.take(1, update(&pod("a", "one")));
        let labelled =
            "apiVersion: v1\nkind: Pod\nmetadata: {name: one, namespace: a, labels: {x: y}}\nspec: {containers: []}\n";
        assert_eq!(text(merge.take(0, update(labelled))), "+Pod a/one");
        assert_eq!(text(merge.take(1, update(&(pod("a", "one"))))), "nothing");
        let found: Vec<String> = merge.findings().iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            ["(cluster): error: Pod a/one: is also defined at (cluster), which is used; remove one of them"]
        );
        let key = Key { kind: Kind::Pod, namespace: "a".into(), name: "one".into() };
        let gone = || Update { changes: vec![Change::Remove(key.clone())], ..update("") };
        assert_eq!(text(merge.take(0, gone())), "+Pod a/one", "the other's comes back");
        assert_eq!(text(merge.take(1, gone())), "-Pod a/one");
    }

    #[test]
    fn namespaces_are_selected_while_it_runs() {
        let mut merge = Merge::new(1, Own::default());
        let all = [
            namespace("a", "mesh: yes"),
            namespace("b", "env: dev"),
            pod("a", "p"),
            pod("b", "p"),
            pod("c", "p"),
            pod("istio-system", "p"),
        ];
        assert_eq!(
            text(merge.take(0, update(&all.concat()))),
            "+Pod a/p, +Pod b/p, +Pod c/p, +Pod istio-system/p, +Namespace a, +Namespace b"
        );
        let select = mesh("discoverySelectors: [{matchLabels: {mesh: \"yes\"}}]");
        assert_eq!(text(merge.take(0, update(&select))), "-Pod b/p, -Pod c/p, +ConfigMap istio-system/istio");
        assert_eq!(text(merge.take(0, update(&pod("b", "q")))), "nothing");
        assert_eq!(text(merge.take(0, update(&namespace("b", "mesh: yes")))), "+Pod b/p, +Pod b/q, +Namespace b");
        let broken = Update { changes: Vec::new(), ..update(&mesh("discoverySelectors: 1")) };
        assert_eq!(text(merge.take(0, broken)), "nothing", "what cannot be read changes nothing");
        assert_eq!(text(merge.take(0, update(&mesh("{}")))), "+Pod c/p, +ConfigMap istio-system/istio");
    }
}

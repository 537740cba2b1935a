//! Which secrets are read: those whose name a Gateway or DestinationRule gives as a credential, in whatever namespace they are, since a
//! proxy looks for them in its own. Only names and versions of the others are known.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Key, Kind, Name};

/// Names and versions of all secrets, and what is needed of them.
#[derive(Debug, Default)]
pub(super) struct Secrets {
    /// Versions by name, then by namespace.
    known: BTreeMap<Name, BTreeMap<Name, String>>,
    needed: BTreeSet<Name>,
    /// What was asked for, at which version.
    asked: BTreeMap<Key, String>,
    /// What was asked for and has not come.
    open: BTreeSet<Key>,
}

impl Secrets {
    /// A secret is there in this version.
    pub(super) fn set(&mut self, key: &Key, version: String) {
        self.known.entry(key.name.clone()).or_default().insert(key.namespace.clone(), version);
    }

    /// A secret is gone.
    pub(super) fn remove(&mut self, key: &Key) {
        if let Some(namespaces) = self.known.get_mut(&key.name) {
            namespaces.remove(&key.namespace);
            if namespaces.is_empty() {
                self.known.remove(&key.name);
            }
        }
    }

    /// These are all that there are.
    pub(super) fn replace(&mut self, all: Vec<(Key, String)>) {
        self.known.clear();
        for (key, version) in all {
            self.set(&key, version);
        }
    }

    /// Secrets of these names are needed, and no others.
    pub(super) fn need(&mut self, names: BTreeSet<Name>) {
        self.needed = names;
    }

    /// What was asked for has come, or is not there.
    pub(super) fn came(&mut self, key: &Key) {
        self.open.remove(key);
    }

    /// True for one that something needs and that is there.
    pub(super) fn wants(&self, key: &Key) -> bool {
        self.asked.contains_key(key)
    }

    /// True if nothing is asked for that has not come.
    pub(super) fn is_settled(&self) -> bool {
        self.open.is_empty()
    }

    /// Brings what is asked for up to date: secrets to read now, and those that are of no use any more.
    pub(super) fn step(&mut self) -> (Vec<Key>, Vec<Key>) {
        let found = self.needed.iter().filter_map(|name| self.known.get_key_value(name));
        let wanted = found.flat_map(|(name, namespaces)| {
            namespaces.iter().map(|(namespace, version)| {
                let key = Key { kind: Kind::Secret, namespace: namespace.clone(), name: name.clone() };
                (key, version.clone())
            })
        });
        let wanted: BTreeMap<Key, String> = wanted.collect();
        let due: Vec<Key> = wanted
            .iter()
            .filter(|(key, version)| self.asked.get(*key) != Some(*version))
            .map(|(key, _)| key.clone())
            .collect();
        let useless: Vec<Key> = self.asked.keys().filter(|key| !wanted.contains_key(*key)).cloned().collect();
        for key in &useless {
            self.open.remove(key);
        }
        self.open.extend(due.iter().cloned());
        self.asked = wanted;
        (due, useless)
    }
}

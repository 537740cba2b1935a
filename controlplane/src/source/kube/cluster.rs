//! What is known of a cluster: of each object its last good version, and what is wrong. Watches report; changes and findings come out.
//! Synchronous and free of I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::Verdict;
use super::super::kinds::is_of_mesh;
use super::secrets::Secrets;
use crate::model::{Change, Key, Kind, Name, Object, Origin, Spec, credentials};
use crate::validate::{self, Finding, Severity};

/// An object that was read.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) key: Key,
    /// Tells one object from another that had its name before.
    pub(super) uid: String,
    /// Counts the changes of its spec.
    pub(super) generation: i64,
    /// It names a revision.
    pub(super) named: bool,
    /// Absent if it was refused.
    pub(super) good: Option<Arc<Object>>,
    pub(super) findings: Vec<Finding>,
}

/// What a watch says.
#[derive(Debug)]
pub(super) enum Report {
    /// All objects of a kind.
    Listed(Kind, Vec<Item>),
    /// One that is new or changed.
    Set(Item),
    /// One that is gone.
    Gone(Key),
    /// Names and versions of all secrets.
    SecretsListed(Vec<(Key, String)>),
    /// A secret that is new or changed.
    SecretSeen(Key, String),
    /// A secret was read; absent if it was gone before.
    SecretRead(Key, Option<Item>),
    /// The server does not serve the kind. What is known of it stays: before a kind goes, its objects do.
    Absent(Kind),
    /// It still does not, and no restart of the server takes this long.
    Forgotten(Kind),
    /// The kind cannot be listed or watched, in words.
    Trouble(Kind, String),
}

/// Everything that is known.
#[derive(Debug)]
pub(super) struct Cluster {
    kinds: BTreeMap<Kind, Known>,
    secrets: Secrets,
    changes: Vec<Change>,
    needs_touched: bool,
    findings_touched: bool,
    complete: bool,
}

/// What is known of a kind.
#[derive(Debug, Default)]
struct Known {
    /// It was listed once, or is not served.
    settled: bool,
    trouble: Option<String>,
    entries: BTreeMap<Key, Entry>,
}

#[derive(Debug)]
struct Entry {
    uid: String,
    generation: i64,
    named: bool,
    good: Option<Arc<Object>>,
    findings: Vec<Finding>,
}

impl Cluster {
    /// Nothing is known yet of these kinds.
    pub(super) fn new(kinds: impl IntoIterator<Item = Kind>) -> Self {
        Self {
            kinds: kinds.into_iter().map(|kind| (kind, Known::default())).collect(),
            secrets: Secrets::default(),
            changes: Vec::new(),
            needs_touched: false,
            findings_touched: false,
            complete: false,
        }
    }

    /// Takes a report in.
    pub(super) fn take(&mut self, report: Report) {
        match report {
            Report::Listed(kind, items) => {
                let there: BTreeSet<Key> = items.iter().map(|item| item.key.clone()).collect();
                items.into_iter().for_each(|item| self.set(item));
                self.remove_others(kind, &there);
                self.settle(kind);
            }
            Report::Set(item) => self.set(item),
            Report::Gone(key) => {
                if key.kind == Kind::Secret {
                    self.secrets.remove(&key);
                    self.needs_touched = true;
                }
                self.remove(&key);
            }
            Report::SecretsListed(all) => {
                self.secrets.replace(all);
                self.needs_touched = true;
                self.settle(Kind::Secret);
            }
            Report::SecretSeen(key, version) => {
                self.secrets.set(&key, version);
                self.needs_touched = true;
            }
            Report::SecretRead(key, item) => {
                self.secrets.came(&key);
                self.settle(Kind::Secret);
                // Meanwhile it may be of no use any more.
                match item.filter(|_| self.secrets.wants(&key)) {
                    Some(item) => self.set(item),
                    None => self.remove(&key),
                }
            }
            Report::Absent(kind) => self.settle(kind),
            Report::Forgotten(kind) => {
                self.remove_others(kind, &BTreeSet::new());
                self.settle(kind);
            }
            Report::Trouble(kind, message) => {
                let known = self.kinds.entry(kind).or_default();
                if known.trouble.as_ref() != Some(&message) {
                    known.trouble = Some(message);
                    self.findings_touched = true;
                }
            }
        }
    }

    /// Secrets to be read now.
    pub(super) fn secrets_due(&mut self) -> Vec<Key> {
        // What was listed first may need none of what is listed last.
        if !std::mem::take(&mut self.needs_touched) {
            return Vec::new();
        }
        self.secrets.need(self.needed());
        let (due, useless) = self.secrets.step();
        useless.iter().for_each(|key| self.remove(key));
        due
    }

    /// True once: when everything was read, and not before.
    pub(super) fn just_completed(&mut self) -> bool {
        let complete = self.kinds.values().all(|known| known.settled) && self.secrets.is_settled();
        complete && !std::mem::replace(&mut self.complete, true)
    }

    /// True from then on.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// What changed since the last call; nothing before everything was read.
    pub(super) fn changes(&mut self) -> Vec<Change> {
        if self.complete { std::mem::take(&mut self.changes) } else { Vec::new() }
    }

    /// True once after something changed that findings depend on.
    pub(super) fn findings_touched(&mut self) -> bool {
        std::mem::take(&mut self.findings_touched)
    }

    /// All that is wrong now.
    pub(super) fn findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        for known in self.kinds.values() {
            findings.extend(known.trouble.iter().map(|message| Finding {
                severity: Severity::Error,
                code: None,
                key: None,
                origin: Origin::default(),
                field: None,
                message: message.clone(),
            }));
            for entry in known.entries.values() {
                let broken = validate::refused(&entry.findings);
                findings.extend(entry.findings.iter().cloned().map(|mut finding| {
                    if broken && entry.good.is_some() && finding.severity == Severity::Error {
                        finding.message.push_str(" (the last good version stays in force)");
                    }
                    finding
                }));
            }
        }
        if self.complete {
            let good =
                self.kinds.values().flat_map(|known| known.entries.values()).filter_map(|entry| entry.good.as_deref());
            findings.extend(validate::references(good.filter(|object| is_referred(object.key.kind))));
        }
        findings
    }

    /// What was judged of each object that has a status.
    pub(super) fn verdicts(&self) -> Vec<Verdict> {
        let kinds = self.kinds.iter().filter(|(kind, _)| is_of_mesh(**kind));
        let entries = kinds.flat_map(|(_, known)| &known.entries);
        let verdict = |(key, entry): (&Key, &Entry)| Verdict {
            key: key.clone(),
            generation: entry.generation,
            accepted: !validate::refused(&entry.findings),
            named: entry.named,
        };
        entries.map(verdict).collect()
    }

    fn settle(&mut self, kind: Kind) {
        let known = self.kinds.entry(kind).or_default();
        known.settled = true;
        self.findings_touched |= known.trouble.take().is_some();
    }

    fn set(&mut self, item: Item) {
        let Item { key, uid, generation, named, good, findings } = item;
        let known = self.kinds.entry(key.kind).or_default();
        let entry = known.entries.entry(key.clone()).or_insert_with(|| Entry {
            uid: uid.clone(),
            generation: -1,
            named,
            good: None,
            findings: Vec::new(),
        });
        // A refused version leaves the last good one of the same object in force.
        let stays = good.is_none() && entry.uid == uid;
        let now = if stays { entry.good.clone() } else { good };
        let changed = entry.good != now;
        self.findings_touched |= entry.findings != findings || (changed && is_referred(key.kind));
        self.findings_touched |= (entry.generation, entry.named) != (generation, named) && is_of_mesh(key.kind);
        self.needs_touched |= changed && names_secrets(key.kind);
        match (&now, &entry.good) {
            (Some(object), _) if changed => self.changes.push(Change::Set(object.clone())),
            (None, Some(_)) => self.changes.push(Change::Remove(key)),
            _ => {}
        }
        *entry = Entry { uid, generation, named, good: now, findings };
    }

    fn remove(&mut self, key: &Key) {
        let Some(entry) = self.kinds.get_mut(&key.kind).and_then(|known| known.entries.remove(key)) else { return };
        self.findings_touched |= !entry.findings.is_empty() || is_referred(key.kind) || is_of_mesh(key.kind);
        self.needs_touched |= names_secrets(key.kind);
        if entry.good.is_some() {
            self.changes.push(Change::Remove(key.clone()));
        }
    }

    fn remove_others(&mut self, kind: Kind, there: &BTreeSet<Key>) {
        let Some(known) = self.kinds.get(&kind) else { return };
        let gone: Vec<Key> = known.entries.keys().filter(|key| !there.contains(*key)).cloned().collect();
        gone.iter().for_each(|key| self.remove(key));
    }

    /// Names of secrets that something gives as its credential.
    fn needed(&self) -> BTreeSet<Name> {
        let mut names = BTreeSet::new();
        let mut add = |credential: &str| names.extend(credentials::secrets(credential).map(Name::from));
        for kind in [Kind::Gateway, Kind::DestinationRule, Kind::Ingress] {
            let entries = self.kinds.get(&kind).into_iter().flat_map(|known| known.entries.values());
            for object in entries.filter_map(|entry| entry.good.as_ref()) {
                match &object.spec {
                    Spec::Gateway(spec) => credentials::of_gateway(spec).for_each(&mut add),
                    Spec::DestinationRule(spec) => credentials::of_rule(spec).for_each(&mut add),
                    Spec::Ingress(ingress) => {
                        let all = ingress.spec.iter().flat_map(|spec| spec.tls.iter().flatten());
                        all.filter_map(|tls| tls.secret_name.as_deref()).for_each(&mut add);
                    }
                    _ => {}
                }
            }
        }
        names
    }
}

fn names_secrets(kind: Kind) -> bool {
    matches!(kind, Kind::Gateway | Kind::DestinationRule | Kind::Ingress)
}

/// Kinds that [`validate::references`] looks at.
fn is_referred(kind: Kind) -> bool {
    matches!(kind, Kind::Service | Kind::ServiceEntry | Kind::VirtualService | Kind::DestinationRule | Kind::Gateway)
}

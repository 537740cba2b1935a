//! Which namespaces the mesh looks at: `discoverySelectors` of MeshConfig against the labels of namespaces (DS1). Asked by [`super::merge`].

use std::collections::{BTreeMap, BTreeSet};

use mesh_proto::kube::{LabelSelector, LabelSelectorRequirement};

use crate::model::Name;

type Labels = BTreeMap<String, String>;

/// Selectors, and what they select among.
#[derive(Debug, Clone)]
pub(super) struct Namespaces {
    /// The control plane's own, which is always looked at: the policies of the whole mesh are there.
    root: Name,
    selectors: Vec<LabelSelector>,
    labels: BTreeMap<Name, Labels>,
}

/// Namespaces that are looked at.
#[derive(Debug)]
pub(super) enum Selected {
    /// All.
    All,
    /// Those that a selector matches, and the control plane's own.
    Some(BTreeSet<Name>),
}

impl Selected {
    /// True if this one is looked at.
    pub(super) fn has(&self, namespace: &str) -> bool {
        match self {
            Self::All => true,
            Self::Some(names) => names.contains(namespace),
        }
    }
}

impl Namespaces {
    /// Nothing is known but the control plane's own namespace.
    pub(super) fn new(root: &str) -> Self {
        Self { root: root.into(), selectors: Vec::new(), labels: BTreeMap::new() }
    }

    /// A namespace has these labels; without any it does not exist.
    pub(super) fn set(&mut self, name: &Name, labels: Option<Labels>) {
        match labels {
            Some(labels) => self.labels.insert(name.clone(), labels),
            None => self.labels.remove(name),
        };
    }

    /// Looks at what any of these matches, or at everything if there is none.
    pub(super) fn select(&mut self, selectors: Vec<LabelSelector>) {
        self.selectors = selectors;
    }

    /// True if a namespace is looked at.
    pub(super) fn has(&self, namespace: &Name) -> bool {
        if self.selectors.is_empty() || *namespace == self.root {
            return true;
        }
        self.labels.get(namespace).is_some_and(|labels| self.selectors.iter().any(|one| matches(one, labels)))
    }

    /// Those that exist and are looked at.
    pub(super) fn existing(&self) -> Vec<Name> {
        self.labels.keys().filter(|name| self.has(name)).cloned().collect()
    }

    /// Those that are looked at now.
    pub(super) fn selected(&self) -> Selected {
        if self.selectors.is_empty() {
            return Selected::All;
        }
        let selected = self.labels.keys().filter(|name| self.has(name));
        Selected::Some(selected.chain([&self.root]).cloned().collect())
    }
}

/// As Kubernetes means it: all parts must hold, and an empty selector matches everything.
fn matches(selector: &LabelSelector, labels: &Labels) -> bool {
    let equal = |(key, value): (&String, &String)| labels.get(key) == Some(value);
    let exact = selector.match_labels.iter().flatten().all(equal);
    exact && selector.match_expressions.iter().flatten().all(|one| holds(one, labels))
}

fn holds(requirement: &LabelSelectorRequirement, labels: &Labels) -> bool {
    let value = labels.get(&requirement.key);
    let listed = || value.is_some_and(|value| requirement.values.iter().flatten().any(|one| one == value));
    match requirement.operator.as_str() {
        "In" => listed(),
        "NotIn" => !listed(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        // Validation refuses other words.
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn any_selector_selects_and_all_its_parts_must_hold() {
        let labels = |text: &str| -> Labels { yaml_serde::from_str(text).unwrap() };
        for (selectors, given, expected) in [
            ("[]", "{}", true),
            ("[{}]", "{}", true),
            ("[{matchLabels: {a: b}}]", "{a: b, c: d}", true),
            ("[{matchLabels: {a: b}}]", "{a: c}", false),
            ("[{matchLabels: {a: b}}, {matchLabels: {c: d}}]", "{c: d}", true),
            ("[{matchLabels: {a: b, c: d}}]", "{c: d}", false),
            ("[{matchExpressions: [{key: a, operator: In, values: [x, y]}]}]", "{a: y}", true),
            ("[{matchExpressions: [{key: a, operator: NotIn, values: [x, y]}]}]", "{a: y}", false),
            ("[{matchExpressions: [{key: a, operator: NotIn, values: [x]}]}]", "{}", true),
            ("[{matchExpressions: [{key: a, operator: Exists}]}]", "{a: ''}", true),
            ("[{matchExpressions: [{key: a, operator: DoesNotExist}]}]", "{a: ''}", false),
            ("[{matchLabels: {a: b}, matchExpressions: [{key: c, operator: Exists}]}]", "{a: b}", false),
        ] {
            let mut namespaces = Namespaces::new("istio-system");
            namespaces.select(yaml_serde::from_str(selectors).unwrap());
            namespaces.set(&"n".into(), Some(labels(given)));
            assert_eq!(namespaces.has(&"n".into()), expected, "{selectors} {given}");
            assert_eq!(namespaces.selected().has("n"), expected, "{selectors} {given}");
            assert!(namespaces.has(&"istio-system".into()) && namespaces.selected().has("istio-system"));
        }
    }
}

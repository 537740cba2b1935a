//! Which DestinationRule holds for a service: lookup order, merging, visibility (DR1–DR3).

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_proto::crd;

use super::context::Config;
use super::host::{HostMap, full_host};
use super::{ExportTo, Name, Node, Service, endpoints};

/// Rules by namespace and host.
#[derive(Debug, Default)]
pub struct DestinationRules(BTreeMap<Name, HostMap<Vec<Entry>>>);

#[derive(Debug)]
struct Entry {
    config: Arc<Config<crd::DestinationRule>>,
    export_to: ExportTo,
}

impl DestinationRules {
    /// Makes the index; `all` has the older rules first.
    pub fn new(all: Vec<Arc<Config<crd::DestinationRule>>>, export_default: &[String], domain: &str) -> Self {
        let mut index: BTreeMap<Name, HostMap<Vec<Entry>>> = BTreeMap::new();
        for config in all {
            let namespace = config.key.namespace.clone();
            let host = full_host(&config.spec.host, &namespace, domain);
            let export_to = ExportTo::of(&config.spec.export_to, export_default, &namespace);
            let entries = index.entry(namespace).or_default().entry(&host, Vec::new);
            let selector = config.spec.workload_selector.clone();
            let same =
                |entry: &&mut Entry| entry.export_to == export_to && entry.config.spec.workload_selector == selector;
            match entries.iter_mut().find(same) {
                Some(entry) => entry.config = Arc::new(merge(&entry.config, &config.spec)),
                None => {
                    let mut resolved = (*config).clone();
                    resolved.spec.host = host.to_string();
                    entries.push(Entry { config: Arc::new(resolved), export_to });
                }
            }
        }
        Self(index)
    }

    /// The rule for a client: of its own namespace, else the service's, else the root's; in each the most specific host (DR2).
    pub fn find<'a>(
        &'a self,
        node: &Node,
        service: &Service,
        root: &str,
    ) -> Option<&'a Arc<Config<crd::DestinationRule>>> {
        let client: &str = &node.namespace;
        // A rule of the root namespace comes last, even for clients that live there, unless the service lives there too.
        let own = (client != root).then(|| self.within(client, node, service)).flatten();
        own.or_else(|| self.within(&service.namespace, node, service)).or_else(|| self.within(root, node, service))
    }

    fn within<'a>(
        &'a self,
        namespace: &str,
        node: &Node,
        service: &Service,
    ) -> Option<&'a Arc<Config<crd::DestinationRule>>> {
        let rules = self.0.get(namespace)?;
        let mut visible = rules.covering(&service.host).filter_map(|entries| {
            let visible = || entries.iter().filter(|entry| entry.export_to.allows(&node.namespace));
            let selecting = visible().find(|entry| {
                let selector = entry.config.spec.workload_selector.as_ref();
                // Selectors hold in the rule's own namespace only (DR1).
                *namespace == *node.namespace
                    && selector.is_some_and(|selector| endpoints::selects(&selector.match_labels, &node.labels))
            });
            let general = || visible().find(|entry| entry.config.spec.workload_selector.is_none());
            selecting.or_else(general).map(|entry| &entry.config)
        });
        visible.next()
    }
}

/// Subsets that are new by name are added; the first policy stays (DR3).
fn merge(first: &Config<crd::DestinationRule>, second: &crd::DestinationRule) -> Config<crd::DestinationRule> {
    let mut merged = first.clone();
    for subset in &second.subsets {
        if !merged.spec.subsets.iter().any(|known| known.name == subset.name) {
            merged.spec.subsets.push(subset.clone());
        }
    }
    if merged.spec.traffic_policy.is_none() {
        merged.spec.traffic_policy = second.traffic_policy.clone();
    }
    merged
}

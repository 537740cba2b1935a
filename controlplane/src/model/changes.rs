//! What a batch of changes means for proxies: the hosts, and the kinds of resources, that may differ from before.
//!
//! Made by [`super::update`], which may name too much and never too little; read by [`crate::push`], so that a change costs what changed.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::{Name, Node, Service, endpoints};

/// See the module.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Changes {
    /// Anything.
    pub full: bool,
    /// Hosts of services that came, went or changed: who sees what must be looked at again, and listeners.
    pub services: BTreeSet<Name>,
    /// Hosts whose clusters may differ.
    pub clusters: BTreeSet<Name>,
    /// Hosts whose endpoints may differ.
    pub endpoints: BTreeSet<Name>,
    /// Hosts, of services or of VirtualServices, whose virtual hosts in sidecars' tables may differ.
    pub virtual_hosts: BTreeSet<Name>,
    /// Any virtual host may differ.
    pub tables: bool,
    /// VirtualServices came, went or changed: what gateways and scopes of Sidecars hold may differ.
    pub rules: bool,
    /// Outbound listeners may differ.
    pub listeners: bool,
    /// AuthorizationPolicies changed: what servers and gateways let through.
    pub policies: bool,
    /// Secrets changed.
    pub secrets: bool,
    /// Services whose own workloads may serve differently, as they were and as they are.
    pub served: Vec<Arc<Service>>,
    /// Addresses of endpoints that came, went or changed.
    pub addresses: BTreeSet<IpAddr>,
    /// Workloads that changed themselves, namespace and name: for their own proxies it is anything.
    pub workloads: BTreeSet<(Name, Name)>,
    /// Their addresses, by which proxies of other names are known as theirs.
    pub workload_addresses: BTreeSet<IpAddr>,
}

impl Changes {
    /// Anything.
    pub fn full() -> Self {
        Self { full: true, ..Self::default() }
    }

    /// The endpoints of these services.
    pub fn endpoints(hosts: impl IntoIterator<Item = Name>) -> Self {
        Self { endpoints: hosts.into_iter().collect(), ..Self::default() }
    }

    /// True if nothing is touched.
    pub fn is_none(&self) -> bool {
        self.is_of_endpoints() && self.endpoints.is_empty() && self.workloads.is_empty()
    }

    /// True if no more is touched than endpoints, and workloads for their own proxies.
    pub fn is_of_endpoints(&self) -> bool {
        let hosts = [&self.services, &self.clusters, &self.virtual_hosts];
        !(self.full || self.tables || self.rules || self.listeners || self.policies || self.secrets)
            && hosts.into_iter().all(BTreeSet::is_empty)
    }

    /// Both.
    pub fn merge(&mut self, other: &Self) {
        if self.full || other.full {
            *self = Self::full();
            return;
        }
        self.services.extend(other.services.iter().cloned());
        self.clusters.extend(other.clusters.iter().cloned());
        self.endpoints.extend(other.endpoints.iter().cloned());
        self.virtual_hosts.extend(other.virtual_hosts.iter().cloned());
        self.tables |= other.tables;
        self.rules |= other.rules;
        self.listeners |= other.listeners;
        self.policies |= other.policies;
        self.secrets |= other.secrets;
        self.served.extend(other.served.iter().cloned());
        self.addresses.extend(&other.addresses);
        self.workloads.extend(other.workloads.iter().cloned());
        self.workload_addresses.extend(&other.workload_addresses);
    }

    /// True if the workload of this proxy changed itself.
    pub fn is_about(&self, node: &Node) -> bool {
        self.full
            || self.workloads.contains(&(node.namespace.clone(), node.name.clone()))
            || node.addresses.iter().any(|address| self.workload_addresses.contains(address))
    }

    /// True if what this proxy serves may differ.
    pub fn touches_served(&self, node: &Node) -> bool {
        // A proxy that says no labels has those of its workload, which are not known here.
        let serves = |service: &Arc<Service>| {
            let selected = |selector| node.labels.is_empty() || endpoints::selects(selector, &node.labels);
            service.namespace == node.namespace && service.selector.as_ref().is_none_or(selected)
        };
        self.is_about(node)
            || self.policies
            || node.addresses.iter().any(|address| self.addresses.contains(address))
            || self.served.iter().any(serves)
    }
}

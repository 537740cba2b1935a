//! Virtual hosts as resources of their own (VHDS), and a table's bookkeeping that lets one of them change alone.
//!
//! Proxies that announce it are sent a sidecar's tables without their hosts, and the hosts one by one, named `TABLE/HOST`: what a
//! VirtualService or a service changes is then as large as what changed, and not as large as the mesh.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use mesh_proto::xds::route;

use super::domain::Taken;
use super::sidecar::{self, Made};
use crate::model::scope::Scope;
use crate::model::{Name, Node, NodeKind, PushContext};
use crate::translate::{http, wire};

/// `TABLE/HOST`.
pub fn resource_name(table: &str, host: &str) -> Name {
    format!("{table}/{host}").into()
}

/// The table of a resource's name, or of a table's own name, by which all its hosts are asked for.
pub fn table_of(name: &str) -> &str {
    name.split_once('/').map_or(name, |(table, _)| table)
}

/// True if the hosts of this table are resources of their own. The table of a service whose protocol was found out by looking
/// (`HOST:PORT`) has only one.
pub fn are_apart(node: &Node, table: &str) -> bool {
    node.vhds && node.kind == NodeKind::Sidecar && !table.contains(':')
}

/// A table as it is sent, and those of its hosts that are sent on their own: all or none, so that a domain can move from one to another in
/// one response.
pub fn apart(
    node: &Node,
    name: &str,
    mut table: route::RouteConfiguration,
) -> (route::RouteConfiguration, Vec<route::VirtualHost>) {
    if !are_apart(node, name) {
        return (table, Vec::new());
    }
    let hosts = std::mem::take(&mut table.virtual_hosts);
    table.vhds = Some(route::Vhds { config_source: Some(wire::ads()) });
    (table, hosts)
}

/// A table's hosts that changed, by name; those that are gone have none.
pub type Changed = Vec<(Name, Option<route::VirtualHost>)>;

/// Who has which domains in a table of one port.
#[derive(Debug, Clone)]
pub struct Claims {
    port: u16,
    /// Hashes of domains, and the virtual hosts that have them. Two domains of one hash count as contested, which costs time only.
    owners: HashMap<u64, Name>,
    /// Hashes of domains that more than one virtual host wants.
    contested: HashSet<u64>,
    /// What each virtual host has.
    hosts: BTreeMap<Name, Box<[u64]>>,
}

fn hash(domain: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64(domain.as_bytes())
}

impl Claims {
    /// Of a table that was just made.
    pub fn new(port: u16, taken: &Taken) -> Self {
        let mut claims = Self { port, owners: HashMap::new(), contested: HashSet::new(), hosts: BTreeMap::new() };
        claims.contested.extend(taken.contested().map(|domain| hash(domain)));
        // With a host for everything the table has no catch-all.
        claims.contested.insert(hash("*"));
        for (name, domains) in taken.claims() {
            let name: Name = name.as_str().into();
            let own: Box<[u64]> = domains.iter().map(|domain| hash(domain)).collect();
            for domain in &own {
                if claims.owners.insert(*domain, name.clone()).is_some() {
                    claims.contested.insert(*domain);
                }
            }
            claims.hosts.insert(name, own);
        }
        claims
    }

    /// Makes the virtual hosts of these hosts anew; `None` if one shares a domain with another or a wildcard is in play: then the table has
    /// to be made as a whole, and these claims with it.
    pub fn update(
        &mut self,
        context: &PushContext,
        node: &Node,
        scope: &Scope,
        hosts: &BTreeSet<Name>,
    ) -> Option<Changed> {
        for host in hosts {
            let name: Name = format!("{host}:{}", self.port).into();
            for domain in self.hosts.remove(&name).iter().flat_map(|own| own.iter()) {
                if self.contested.contains(domain) {
                    return None;
                }
                self.owners.remove(domain);
            }
        }
        let attempts = http::attempt_count(&context.mesh, node);
        let mut changed = Changed::new();
        for host in hosts {
            let name: Name = format!("{host}:{}", self.port).into();
            let made = sidecar::virtual_host(context, node, scope, self.port, host).ok()?;
            let Some(made) = made else {
                changed.push((name, None));
                continue;
            };
            let domains = self.claim(&name, scope, &made)?;
            let host = route::VirtualHost {
                name: name.to_string(),
                domains,
                routes: made.routes,
                include_request_attempt_count: attempts,
                ..Default::default()
            };
            changed.push((name, Some(host)));
        }
        Some(changed)
    }

    /// All domains of a host; `None` if one of them is not for it alone.
    fn claim(&mut self, name: &Name, scope: &Scope, made: &Made) -> Option<Vec<String>> {
        let (mut domains, mut own) = (Vec::new(), Vec::new());
        for domain in &made.domains.all {
            let hash = hash(&domain.to_ascii_lowercase());
            if own.contains(&hash) {
                continue;
            }
            // The full name of one service may be the short one of another.
            let reserved = made.domains.short.contains(domain) && scope.service(domain).is_some();
            if reserved || self.contested.contains(&hash) || self.owners.contains_key(&hash) {
                return None;
            }
            self.owners.insert(hash, name.clone());
            own.push(hash);
            domains.push(domain.clone());
        }
        self.hosts.insert(name.clone(), own.into());
        (!domains.is_empty()).then_some(domains)
    }
}

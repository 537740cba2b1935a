//! The names of the mesh and what they stand for. Immutable; made whole from each name table that comes.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use hickory_proto::rr::Name;

/// A host as the control plane knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Full name; `*.example.com` stands for all below it.
    pub host: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Short name and namespace, of a Kubernetes service or one of its pods.
    pub short: Option<(String, String)>,
}

/// What short names mean to a workload.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// Its namespace.
    pub namespace: String,
    /// What follows the namespace in full names of services: `svc.cluster.local`.
    pub domain: String,
    /// The domain that the system's resolver appends first, in lower case.
    pub search: Option<String>,
}

impl Place {
    /// The place of a node whose `dns_domain` is `NAMESPACE.svc.DOMAIN`, or only the rest of it.
    pub fn new(namespace: &str, dns_domain: &str) -> Self {
        let own = dns_domain.strip_prefix(namespace).and_then(|rest| rest.strip_prefix('.'));
        let domain = own.unwrap_or(dns_domain).to_ascii_lowercase();
        Self { namespace: namespace.to_owned(), domain, search: None }
    }
}

/// Addresses of a host.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// `A`.
    pub v4: Vec<Ipv4Addr>,
    /// `AAAA`.
    pub v6: Vec<Ipv6Addr>,
}

/// All names.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// By name without the last dot, in lower case.
    hosts: HashMap<String, Arc<Addresses>>,
    /// What the system's resolver appends, with a dot before it.
    suffix: Option<String>,
}

/// A name that is known.
#[derive(Debug, PartialEq, Eq)]
pub struct Found<'t> {
    /// The name that the one asked for is an alias of: the system's resolver appended its domain to it.
    pub alias_of: Option<String>,
    /// Its addresses.
    pub addresses: &'t Addresses,
}

impl Table {
    /// The table of these hosts. Hosts without any address are left out: whoever else knows the name may say.
    pub fn new(entries: &[Entry], place: &Place) -> Self {
        let mut hosts = HashMap::new();
        let mut short = HashMap::new();
        for entry in entries {
            let mut addresses = Addresses::default();
            for address in &entry.addresses {
                match address {
                    IpAddr::V4(address) => addresses.v4.push(*address),
                    IpAddr::V6(address) => addresses.v6.push(*address),
                }
            }
            if addresses == Addresses::default() {
                continue;
            }
            let host = entry.host.trim_end_matches('.').to_ascii_lowercase();
            let addresses = Arc::new(addresses);
            for name in short_names(&host, entry, place) {
                short.insert(name, addresses.clone());
            }
            hosts.insert(host, addresses);
        }
        // Full names first: a host may be called what another is called for short.
        for (name, addresses) in short {
            hosts.entry(name).or_insert(addresses);
        }
        Self { hosts, suffix: place.search.as_ref().map(|search| format!(".{search}")) }
    }

    /// How many names it has.
    pub fn len(&self) -> usize {
        self.hosts.len()
    }

    /// True if it has none.
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }

    /// Its names with their addresses, by name, for dumps.
    pub fn names(&self) -> Vec<(&str, &Addresses)> {
        let mut all: Vec<_> = self.hosts.iter().map(|(name, addresses)| (name.as_str(), &**addresses)).collect();
        all.sort_unstable_by_key(|(name, _)| *name);
        all
    }

    /// What is known of a name, in lower case and without the last dot: itself, then without what the system's resolver appended, each
    /// before the wildcards that cover it.
    pub fn find(&self, name: &str) -> Option<Found<'_>> {
        let direct = |addresses| Found { alias_of: None, addresses };
        let shorter = self.suffix.as_deref().and_then(|suffix| name.strip_suffix(suffix));
        let alias = |addresses| Found { alias_of: shorter.map(str::to_owned), addresses };
        let exact = |name: &str| self.hosts.get(name).map(|addresses| &**addresses);
        let exactly = exact(name).map(direct).or_else(|| shorter.and_then(exact).map(alias));
        exactly
            .or_else(|| shorter.and_then(|name| self.covering(name)).map(alias))
            .or_else(|| self.covering(name).map(direct))
    }

    /// The most specific wildcard that a name lies below.
    fn covering(&self, name: &str) -> Option<&Addresses> {
        let mut rest = name;
        while let Some((_, parent)) = rest.split_once('.') {
            if let Some(addresses) = self.hosts.get(&format!("*.{parent}")) {
                return Some(addresses);
            }
            rest = parent;
        }
        None
    }
}

/// `NAME.NAMESPACE`, `NAME.NAMESPACE.svc`, and `NAME` in its own namespace; none of another cluster's domain, where they could mean two things.
fn short_names(host: &str, entry: &Entry, place: &Place) -> Vec<String> {
    let Some((name, namespace)) = &entry.short else { return Vec::new() };
    let ours = !place.domain.is_empty()
        && host.strip_suffix(place.domain.as_str()).is_some_and(|before| before.ends_with('.'));
    if !ours || name.is_empty() {
        return Vec::new();
    }
    let (name, namespace) = (name.to_ascii_lowercase(), namespace.to_ascii_lowercase());
    let first = place.domain.split('.').next().unwrap_or_default();
    let mut names = vec![format!("{name}.{namespace}"), format!("{name}.{namespace}.{first}")];
    if namespace == place.namespace.to_ascii_lowercase() {
        names.push(name);
    }
    names
}

/// A name as the table has it.
pub fn plain(name: &Name) -> String {
    let mut text = name.to_lowercase().to_ascii();
    if text.ends_with('.') {
        text.pop();
    }
    text
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// `HOST[=SHORT/NAMESPACE]: ADDRESS, …`, one a line.
    pub(in crate::dns) fn table(text: &str, place: &Place) -> Table {
        let entries = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(|line| {
            let (name, addresses) = line.split_once(": ").unwrap_or((line, ""));
            let (host, short) = name.split_once('=').unwrap_or((name, ""));
            let addresses = addresses.split(", ").filter(|text| !text.is_empty());
            Entry {
                host: host.to_owned(),
                addresses: addresses.map(|text| text.parse().unwrap()).collect(),
                short: short.split_once('/').map(|(name, namespace)| (name.to_owned(), namespace.to_owned())),
            }
        });
        Table::new(&entries.collect::<Vec<_>>(), place)
    }

    pub(in crate::dns) fn shop() -> Place {
        Place { search: Some("shop.svc.cluster.local".to_owned()), ..Place::new("shop", "shop.svc.cluster.local") }
    }

    pub(in crate::dns) const NAMES: &str = "
        reviews.shop.svc.cluster.local=reviews/shop: 10.0.0.1
        reviews.bank.svc.cluster.local=reviews/bank: 10.0.0.2
        db.shop.svc.cluster.local=db/shop: 10.1.0.1, 10.1.0.2, fd00::1
        db-0.db.shop.svc.cluster.local=db-0.db/shop: 10.1.0.1
        far.shop.svc.other.domain=far/shop: 10.9.0.1
        api.example.com: 240.240.1.2
        only.six.example: 2001:2::f0f0:102
        *.wild.example: 10.3.0.1
        *.deep.wild.example: 10.3.0.2
        Case.Example: 10.4.0.1
        empty.example
        bank.shop=x/y: 10.5.0.1";

    #[test]
    fn names_are_found_in_every_form() {
        let table = table(NAMES, &shop());
        for (name, expected) in [
            ("reviews.shop.svc.cluster.local", "10.0.0.1"),
            ("reviews", "10.0.0.1"),
            ("reviews.shop", "10.0.0.1"),
            ("reviews.shop.svc", "10.0.0.1"),
            ("reviews.bank", "10.0.0.2"),
            ("reviews.bank.svc", "10.0.0.2"),
            ("reviews.shop.svc.cluster", "-"),
            ("reviews.other", "-"),
            ("db-0.db", "10.1.0.1"),
            ("db-0.db.shop.svc.cluster.local", "10.1.0.1"),
            ("db-9.db", "-"),
            ("far", "-"),
            ("far.shop", "-"),
            ("far.shop.svc.other.domain", "10.9.0.1"),
            ("api.example.com", "240.240.1.2"),
            ("example.com", "-"),
            ("wild.example", "-"),
            ("a.wild.example", "10.3.0.1"),
            ("b.a.wild.example", "10.3.0.1"),
            ("a.deep.wild.example", "10.3.0.2"),
            ("case.example", "10.4.0.1"),
            ("empty.example", "-"),
            // What the system's resolver appends first is an alias; what it appends second is not ours.
            ("api.example.com.shop.svc.cluster.local", "api.example.com 240.240.1.2"),
            ("reviews.bank.shop.svc.cluster.local", "reviews.bank 10.0.0.2"),
            ("x.wild.example.shop.svc.cluster.local", "x.wild.example 10.3.0.1"),
            ("api.example.com.svc.cluster.local", "-"),
            ("unknown.shop.svc.cluster.local", "-"),
        ] {
            let found = table.find(name).map(|found| {
                let alias = found.alias_of.map(|name| name + " ").unwrap_or_default();
                alias + &found.addresses.v4[0].to_string()
            });
            assert_eq!(found.as_deref().unwrap_or("-"), expected, "{name}");
        }
    }

    #[test]
    fn a_full_name_is_stronger_than_a_short_one() {
        let place = Place::new("shop", "shop.svc.cluster.local");
        let names = "a.b.svc.cluster.local=a/b: 10.0.0.1\na.b: 10.0.0.2";
        assert_eq!(table(names, &place).find("a.b").unwrap().addresses.v4, [Ipv4Addr::new(10, 0, 0, 2)]);
    }

    #[test]
    fn a_place_is_read_from_either_form_of_domain() {
        for domain in ["shop.svc.cluster.local", "svc.cluster.local"] {
            assert_eq!(Place::new("shop", domain).domain, "svc.cluster.local");
        }
        assert_eq!(Place::new("shop", "shopping.svc.x").domain, "shopping.svc.x");
    }
}

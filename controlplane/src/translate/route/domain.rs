//! The hosts that a virtual host answers to (G13), and who has them: proxies refuse a table in which two hosts share a domain.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::model::{Node, Service};

/// In which forms a domain is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Without port: the table ignores the port of `Host`.
    Bare,
    /// Without and with the port.
    Both,
    /// With the port only: the name alone means port 80.
    Ported,
}

/// The domains of a service, and which of them are short forms.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Domains {
    /// All.
    pub all: Vec<String>,
    /// Those that stand for the service only while no service has that very name.
    pub short: BTreeSet<String>,
}

/// Domains of a service as this proxy's workload may write them: its full name, the names that its namespace allows to shorten, and its addresses.
pub fn of_service(service: &Service, node: &Node, port: u16, form: Form) -> Domains {
    let mut domains = Domains::default();
    push(&mut domains.all, &service.host, port, form);
    let mut short = Vec::new();
    for name in short_names(&service.host, &node.dns_domain) {
        push(&mut short, &name, port, form);
    }
    domains.all.extend(short.iter().cloned());
    domains.short.extend(short);
    if service.headless {
        // Pods of a headless service have names below the service's.
        let below: Vec<String> = domains.all.iter().map(|domain| format!("*.{domain}")).collect();
        domains.all.extend(below);
    }
    for address in service.addresses_for(node) {
        push(&mut domains.all, &literal(address), port, form);
    }
    domains
}

/// The domains of a host that is no service.
pub fn of_host(host: &str, port: u16, form: Form) -> Vec<String> {
    let mut domains = Vec::new();
    let host = host.parse::<IpAddr>().map_or_else(|_| host.to_owned(), literal);
    push(&mut domains, &host, port, form);
    domains
}

fn push(domains: &mut Vec<String>, host: &str, port: u16, form: Form) {
    if form != Form::Ported {
        domains.push(host.to_owned());
    }
    // `*` with a port would be read as a prefix that ends there.
    if form != Form::Bare && host != "*" {
        domains.push(format!("{host}:{port}"));
    }
}

fn literal(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

/// `NAME`, `NAME.NAMESPACE` and `NAME.NAMESPACE.svc` for a proxy of the same namespace; without the first for others; none for
/// services outside the cluster's domain.
fn short_names(host: &str, proxy_domain: &str) -> Vec<String> {
    const MIDDLE: &str = ".svc.";
    let Some((namespace, _)) = proxy_domain.split_once(MIDDLE) else { return Vec::new() };
    if !host.ends_with(&proxy_domain[namespace.len()..]) {
        return Vec::new();
    }
    let Some((qualified, _)) = host.split_once(MIDDLE) else { return Vec::new() };
    let Some((name, own)) = qualified.split_once('.') else { return Vec::new() };
    let mut names = Vec::new();
    if own == namespace {
        names.push(name.to_owned());
    }
    names.push(qualified.to_owned());
    names.push(format!("{qualified}.svc"));
    names
}

/// Which domains and virtual hosts of a table are taken. The first has them.
#[derive(Debug, Default)]
pub struct Taken {
    /// Names of virtual hosts, and the domains that each has, lower case.
    names: BTreeMap<String, Vec<String>>,
    /// Domains, lower case.
    domains: BTreeSet<String>,
    /// Those of them, and others, that a host wanted in vain.
    contested: BTreeSet<String>,
    /// Full names of services: no other service's short form may take them.
    services: BTreeSet<String>,
}

impl Taken {
    /// Keeps the full name of a service for it.
    pub fn reserve(&mut self, service: &Service) {
        self.services.insert(service.host.to_string());
    }

    /// Takes a virtual host's name and those of its domains that are free; `None` if nothing is left.
    pub fn claim(&mut self, name: &str, wanted: Domains) -> Option<Vec<String>> {
        if self.names.contains_key(name) {
            self.contested.extend(wanted.all.iter().map(|domain| domain.to_ascii_lowercase()));
            return None;
        }
        let (mut free, mut own) = (Vec::new(), Vec::new());
        for domain in wanted.all {
            let lower = domain.to_ascii_lowercase();
            let reserved = wanted.short.contains(&domain) && self.services.contains(&domain);
            if own.contains(&lower) {
                continue;
            }
            if reserved || !self.domains.insert(lower.clone()) {
                self.contested.insert(lower);
                continue;
            }
            own.push(lower);
            free.push(domain);
        }
        self.names.insert(name.to_owned(), own);
        (!free.is_empty()).then_some(free)
    }

    /// Virtual hosts by name, and the domains that each has.
    pub fn claims(&self) -> impl Iterator<Item = (&String, &Vec<String>)> {
        self.names.iter()
    }

    /// Domains that more than one wanted.
    pub fn contested(&self) -> impl Iterator<Item = &String> {
        self.contested.iter()
    }

    /// True if a virtual host takes every host.
    pub fn everything(&self) -> bool {
        self.domains.contains("*")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_depend_on_the_namespace_of_the_client() {
        for (host, domain, expected) in [
            ("reviews.shop.svc.cluster.local", "shop.svc.cluster.local", "reviews reviews.shop reviews.shop.svc"),
            ("reviews.shop.svc.cluster.local", "other.svc.cluster.local", "reviews.shop reviews.shop.svc"),
            ("api.example.com", "shop.svc.cluster.local", ""),
            ("reviews.shop.svc.other", "shop.svc.cluster.local", ""),
            ("reviews.shop.svc.cluster.local", "example.com", ""),
            ("a.svc.cluster.local", "a.svc.cluster.local", ""),
        ] {
            assert_eq!(short_names(host, domain).join(" "), expected, "{host} for {domain}");
        }
    }

    #[test]
    fn a_domain_belongs_to_the_first() {
        let mut taken = Taken::default();
        let domains = |all: &[&str], short: &[&str]| Domains {
            all: all.iter().map(|text| (*text).to_owned()).collect(),
            short: short.iter().map(|text| (*text).to_owned()).collect(),
        };
        assert_eq!(taken.claim("a:80", domains(&["a", "a.b"], &[])), Some(vec!["a".to_owned(), "a.b".to_owned()]));
        assert_eq!(taken.claim("A:80", domains(&["A", "c"], &[])), Some(vec!["c".to_owned()]));
        assert_eq!(taken.claim("a:80", domains(&["d"], &[])), None);
        taken.services.insert("foo.com".to_owned());
        assert_eq!(taken.claim("x:80", domains(&["foo.com"], &["foo.com"])), None);
        assert_eq!(taken.claim("y:80", domains(&["foo.com"], &[])), Some(vec!["foo.com".to_owned()]));
    }
}

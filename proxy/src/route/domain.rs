//! Which virtual host an authority belongs to: exact, then the longest suffix wildcard, the longest prefix wildcard, `*`.
//!
//! Source: <https://www.envoyproxy.io/docs/envoy/latest/api-v3/config/route/v3/route_components.proto> (`domains`).

use std::sync::Arc;

use crate::Name;

/// Into how many parts exact domains are split, each shared with the tables before and after until it is changed: of the 32,000
/// domains of 4,000 services, a change copies the parts that it touches, 500 domains each.
const SHARDS: usize = 64;

/// Domains compiled for lookup, in lower case; what a clone does not change it shares.
#[derive(Debug, Clone)]
pub struct DomainIndex {
    exact: Box<[Arc<foldhash::HashMap<Name, usize>>]>,
    hasher: foldhash::fast::FixedState,
    /// `*.b`: by what follows the star.
    suffixes: Wildcards,
    /// `a.*`: by what precedes the star.
    prefixes: Wildcards,
    any: Option<usize>,
}

/// The texts beside the star, longest first.
type Wildcards = Arc<Vec<(Name, usize)>>;

/// Where a domain belongs.
enum Place<'d> {
    Any,
    Suffix(&'d str),
    Prefix(&'d str),
    Exact,
}

impl<'d> Place<'d> {
    fn of(domain: &'d str) -> Self {
        match (domain.strip_prefix('*'), domain.strip_suffix('*')) {
            (Some(""), _) => Self::Any,
            (Some(suffix), _) => Self::Suffix(suffix),
            (None, Some(prefix)) => Self::Prefix(prefix),
            (None, None) => Self::Exact,
        }
    }
}

impl Default for DomainIndex {
    fn default() -> Self {
        let empty = Arc::default();
        Self {
            exact: (0..SHARDS).map(|_| Arc::clone(&empty)).collect(),
            hasher: foldhash::fast::FixedState::default(),
            suffixes: Arc::default(),
            prefixes: Arc::default(),
            any: None,
        }
    }
}

impl DomainIndex {
    /// The virtual host that has exactly this domain, which is in lower case.
    pub fn holder(&self, domain: &str) -> Option<usize> {
        let wildcard = |all: &Wildcards, text: &str| Some(all[position(all, text).ok()?].1);
        match Place::of(domain) {
            Place::Any => self.any,
            Place::Suffix(text) => wildcard(&self.suffixes, text),
            Place::Prefix(text) => wildcard(&self.prefixes, text),
            Place::Exact => self.exact[self.shard(domain)].get(domain).copied(),
        }
    }

    /// Gives a domain, which is in lower case, to the virtual host at `index`, whoever has had it.
    pub fn set(&mut self, domain: &Name, index: usize) {
        let wildcard = |all: &mut Wildcards, text: &str| match position(all, text) {
            Ok(at) => Arc::make_mut(all)[at].1 = index,
            Err(at) => Arc::make_mut(all).insert(at, (text.into(), index)),
        };
        match Place::of(domain) {
            Place::Any => self.any = Some(index),
            Place::Suffix(text) => wildcard(&mut self.suffixes, text),
            Place::Prefix(text) => wildcard(&mut self.prefixes, text),
            Place::Exact => {
                let shard = self.shard(domain);
                Arc::make_mut(&mut self.exact[shard]).insert(domain.clone(), index);
            }
        }
    }

    /// Takes a domain, which is in lower case, from whoever has it.
    pub fn free(&mut self, domain: &str) {
        let wildcard = |all: &mut Wildcards, text: &str| {
            if let Ok(at) = position(all, text) {
                Arc::make_mut(all).remove(at);
            }
        };
        match Place::of(domain) {
            Place::Any => self.any = None,
            Place::Suffix(text) => wildcard(&mut self.suffixes, text),
            Place::Prefix(text) => wildcard(&mut self.prefixes, text),
            Place::Exact => {
                let shard = self.shard(domain);
                Arc::make_mut(&mut self.exact[shard]).remove(domain);
            }
        }
    }

    fn shard(&self, domain: &str) -> usize {
        use std::hash::BuildHasher;
        // Not the bits by which the maps themselves choose, whose hash has another seed besides.
        (self.hasher.hash_one(domain) >> 32) as usize % SHARDS
    }

    /// The virtual host of `host`, which may be in any case.
    pub fn find(&self, host: &str) -> Option<usize> {
        if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return self.find_lower(&host.to_ascii_lowercase());
        }
        self.find_lower(host)
    }

    fn find_lower(&self, host: &str) -> Option<usize> {
        if let Some(index) = self.exact[self.shard(host)].get(host) {
            return Some(*index);
        }
        // A wildcard stands for at least one character.
        let longer = |text: &str| host.len() > text.len();
        let suffix = self.suffixes.iter().find(|(text, _)| longer(text) && host.ends_with(&**text));
        let found = suffix.or_else(|| self.prefixes.iter().find(|(text, _)| longer(text) && host.starts_with(&**text)));
        found.map(|(_, index)| *index).or(self.any)
    }
}

/// Where a text stands among the longest first, or would stand.
fn position(all: &Wildcards, text: &str) -> Result<usize, usize> {
    all.binary_search_by(|(known, _)| text.len().cmp(&known.len()).then_with(|| (**known).cmp(text)))
}

/// An authority without its port; brackets of IPv6 stay.
pub fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !host.ends_with(':') => {
            // A bare IPv6 address has colons of its own and no port.
            if host.contains(':') && !host.ends_with(']') { authority } else { host }
        }
        _ => authority,
    }
}

/// As [`without_port`], but whatever follows the last colon counts as the port, as in Envoy's `ignore_port_in_host_matching`.
pub fn before_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => host,
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_domain_wins() {
        let mut index = DomainIndex::default();
        for (at, domain) in ["*", "*.com", "*.foo.com", "www.foo.com", "www.*", "Bar.com"].iter().enumerate() {
            index.set(&domain.to_ascii_lowercase().into(), at);
        }
        for (host, expected) in [
            ("www.foo.com", 3),
            ("a.foo.com", 2),
            (".foo.com", 1),
            ("a.com", 1),
            ("www.org", 4),
            ("www.", 0),
            ("BAR.COM", 5),
            ("else", 0),
        ] {
            assert_eq!(index.find(host), Some(expected), "{host}");
        }
        for (domain, holder) in [("www.foo.com", Some(3)), ("*.com", Some(1)), ("*", Some(0)), ("a.com", None)] {
            assert_eq!(index.holder(domain), holder, "{domain}");
        }
    }

    #[test]
    fn a_clone_changes_alone() {
        let mut index = DomainIndex::default();
        let domains = ["*", "*.com", "www.*", "a.com"];
        for domain in domains {
            index.set(&domain.into(), 1);
        }
        let (mut freed, mut moved) = (index.clone(), index.clone());
        for domain in domains {
            freed.free(domain);
            moved.set(&domain.into(), 2);
        }
        for domain in domains {
            let holders = [&index, &freed, &moved].map(|index| index.holder(domain));
            assert_eq!(holders, [Some(1), None, Some(2)], "{domain}");
        }
    }

    #[test]
    fn ports_are_stripped_of_hosts_only() {
        for (authority, host) in [("a:80", "a"), ("a", "a"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]"), ("::1", "::1")]
        {
            assert_eq!(without_port(authority), host);
        }
    }
}

//! Which virtual host an authority belongs to: exact, then the longest suffix wildcard, the longest prefix wildcard, `*`.
//!
//! Source: <https://www.envoyproxy.io/docs/envoy/latest/api-v3/config/route/v3/route_components.proto> (`domains`).

/// Domains compiled for lookup. All are kept in lower case.
#[derive(Debug, Default)]
pub struct DomainIndex {
    exact: foldhash::HashMap<Box<str>, usize>,
    /// `*.b`: by what follows the star, longest first.
    suffixes: Vec<(Box<str>, usize)>,
    /// `a.*`: by what precedes the star, longest first.
    prefixes: Vec<(Box<str>, usize)>,
    any: Option<usize>,
}

impl DomainIndex {
    /// Adds a domain of the virtual host at `index`; `Err` if another has it already.
    pub fn insert(&mut self, domain: &str, index: usize) -> Result<(), String> {
        let domain = domain.to_ascii_lowercase();
        let taken = || Err(format!("domain `{domain}` is in two virtual hosts"));
        if domain == "*" {
            return if self.any.replace(index).is_some() { taken() } else { Ok(()) };
        }
        let list = if let Some(suffix) = domain.strip_prefix('*') {
            (&mut self.suffixes, suffix)
        } else if let Some(prefix) = domain.strip_suffix('*') {
            (&mut self.prefixes, prefix)
        } else {
            return if self.exact.insert(domain.clone().into(), index).is_some() { taken() } else { Ok(()) };
        };
        let (list, text) = list;
        if list.iter().any(|(known, _)| **known == *text) {
            return taken();
        }
        list.push((text.into(), index));
        list.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
        Ok(())
    }

    /// The virtual host of `host`, which may be in any case.
    pub fn find(&self, host: &str) -> Option<usize> {
        if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return self.find_lower(&host.to_ascii_lowercase());
        }
        self.find_lower(host)
    }

    fn find_lower(&self, host: &str) -> Option<usize> {
        if let Some(index) = self.exact.get(host) {
            return Some(*index);
        }
        // A wildcard stands for at least one character.
        let longer = |text: &str| host.len() > text.len();
        let suffix = self.suffixes.iter().find(|(text, _)| longer(text) && host.ends_with(&**text));
        let found = suffix.or_else(|| self.prefixes.iter().find(|(text, _)| longer(text) && host.starts_with(&**text)));
        found.map(|(_, index)| *index).or(self.any)
    }
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
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_most_specific_domain_wins() {
        let mut index = DomainIndex::default();
        for (at, domain) in ["*", "*.com", "*.foo.com", "www.foo.com", "www.*", "Bar.com"].iter().enumerate() {
            index.insert(domain, at).unwrap();
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
        assert!(index.insert("www.foo.com", 9).is_err());
        assert!(index.insert("*.com", 9).is_err());
    }

    #[test]
    fn ports_are_stripped_of_hosts_only() {
        for (authority, host) in [("a:80", "a"), ("a", "a"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]"), ("::1", "::1")]
        {
            assert_eq!(without_port(authority), host);
        }
    }
}

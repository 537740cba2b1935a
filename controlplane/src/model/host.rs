//! Hosts: short names made full (G2), wildcards and which of several is the most specific (G3).

use std::collections::BTreeMap;

use super::Name;

/// The full name of `host` as written in an object of `namespace` (G2). Hosts with a dot, wildcards and addresses stand for themselves.
pub fn full_host(host: &str, namespace: &str, domain: &str) -> Name {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    // An IPv6 address has colons and no dot.
    if host.is_empty() || host.contains(['.', '*', ':']) {
        return host.into();
    }
    format!("{host}.{namespace}.svc.{domain}").into()
}

/// True if every name that `host` stands for is one that `pattern` stands for.
pub fn is_within(host: &str, pattern: &str) -> bool {
    match pattern.strip_prefix('*') {
        None => host == pattern,
        Some(suffix) => host.strip_prefix('*').unwrap_or(host).ends_with(suffix),
    }
}

/// True if there is a name that both stand for.
pub fn overlaps(one: &str, other: &str) -> bool {
    is_within(one, other) || is_within(other, one)
}

/// Values by host; a look-up finds the most specific: exact, then the longest wildcard (G3).
#[derive(Debug, Clone)]
pub struct HostMap<T> {
    exact: BTreeMap<Name, T>,
    /// Longest first.
    wildcards: Vec<(Name, T)>,
}

impl<T> Default for HostMap<T> {
    fn default() -> Self {
        Self { exact: BTreeMap::new(), wildcards: Vec::new() }
    }
}

impl<T> HostMap<T> {
    /// The value of exactly this host, made if absent.
    pub fn entry(&mut self, host: &Name, make: impl FnOnce() -> T) -> &mut T {
        if !host.starts_with('*') {
            return self.exact.entry(host.clone()).or_insert_with(make);
        }
        let index = match self.wildcards.iter().position(|(pattern, _)| pattern == host) {
            Some(index) => index,
            None => {
                let index = self.wildcards.partition_point(|(pattern, _)| pattern.len() >= host.len());
                self.wildcards.insert(index, (host.clone(), make()));
                index
            }
        };
        &mut self.wildcards[index].1
    }

    /// The values whose host covers `host`, the most specific first.
    pub fn covering<'a, 'h>(&'a self, host: &'h str) -> impl Iterator<Item = &'a T> + use<'a, 'h, T> {
        let exact = self.exact.get(host);
        exact
            .into_iter()
            .chain(self.wildcards.iter().filter(move |(pattern, _)| is_within(host, pattern)).map(|(_, value)| value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_resolve_in_the_namespace_of_the_rule() {
        for (host, expected) in [
            ("reviews", "reviews.shop.svc.cluster.local"),
            ("Reviews", "reviews.shop.svc.cluster.local"),
            ("reviews.default", "reviews.default"),
            ("*.example.com", "*.example.com"),
            ("*", "*"),
            ("::1", "::1"),
            ("api.example.com.", "api.example.com"),
        ] {
            assert_eq!(&*full_host(host, "shop", "cluster.local"), expected);
        }
    }

    #[test]
    fn wildcards_cover_what_lies_below_them() {
        for (host, pattern, expected) in [
            ("a.b", "a.b", true),
            ("a.b", "*", true),
            ("x.foo.com", "*.foo.com", true),
            ("foo.com", "*.foo.com", false),
            ("*.x.foo.com", "*.foo.com", true),
            ("*.foo.com", "x.foo.com", false),
            ("*", "*.foo.com", false),
            ("*", "*", true),
        ] {
            assert_eq!(is_within(host, pattern), expected, "{host} in {pattern}");
        }
        assert!(overlaps("*.foo.com", "x.foo.com"));
    }

    #[test]
    fn the_most_specific_host_comes_first() {
        let mut map = HostMap::default();
        for host in ["*", "*.foo.com", "*.a.foo.com", "b.a.foo.com"] {
            *map.entry(&host.into(), String::new) = host.to_owned();
        }
        let found: Vec<_> = map.covering("b.a.foo.com").cloned().collect();
        assert_eq!(found, ["b.a.foo.com", "*.a.foo.com", "*.foo.com", "*"]);
        assert_eq!(map.covering("bar.com").cloned().collect::<Vec<_>>(), ["*"]);
    }
}

//! Virtual hosts come into a table, change and leave it, several at once.
//!
//! A table that requests see never changes: the next one is made of it, and shares with it what stays. [`crate::xds`] decides when it is used.

use std::fmt;
use std::sync::Arc;

use super::{RouteTable, VirtualHost};
use crate::Name;

/// A domain that two virtual hosts want.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    domain: Name,
    holder: Name,
    host: Name,
}

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { domain, holder, host } = self;
        write!(f, "domain `{domain}` is in two virtual hosts, `{holder}` and `{host}`")
    }
}

/// A virtual host, and the place of the one that it replaces; a new one has none and is put behind all others.
pub type Change = (Option<usize>, Arc<VirtualHost>);

impl RouteTable {
    /// The table without the virtual hosts at `removed`, the last taking the place of each in turn, and then with `changes`; beside it, for
    /// each change, why it was left out, if it was.
    ///
    /// A domain may go from one to another. One that two want stays with whoever has it, else goes to the first of `changes`.
    pub fn with(&self, removed: &[usize], changes: &[Change]) -> (Self, Vec<Option<Taken>>) {
        let mut refused: Vec<Option<Taken>> = vec![None; changes.len()];
        // Who is left out and has a place stays as it was, so that others may have to be left out instead: from the start.
        'again: loop {
            let mut next = self.clone();
            removed.iter().for_each(|place| next.remove(*place));
            let mut open: Vec<usize> = Vec::new();
            for (index, (place, host)) in changes.iter().enumerate() {
                match *place {
                    Some(_) if refused[index].is_some() => {}
                    Some(place) if next.virtual_hosts[place].domains == host.domains => {
                        next.virtual_hosts[place] = host.clone();
                    }
                    Some(place) => {
                        let before = next.virtual_hosts[place].clone();
                        before.domains.iter().for_each(|domain| next.domains.free(domain));
                        open.push(index);
                    }
                    None => open.push(index),
                }
            }
            for index in open {
                let (place, host) = &changes[index];
                refused[index] = next.taken(host);
                match (place, &refused[index]) {
                    (Some(_), Some(_)) => continue 'again,
                    (None, Some(_)) => {}
                    (place, None) => next.put(*place, host.clone()),
                }
            }
            return (next, refused);
        }
    }

    fn taken(&self, host: &VirtualHost) -> Option<Taken> {
        host.domains.iter().find_map(|domain| {
            let holder = self.virtual_hosts[self.domains.holder(domain)?].name.clone();
            Some(Taken { domain: domain.clone(), holder, host: host.name.clone() })
        })
    }

    fn put(&mut self, place: Option<usize>, host: Arc<VirtualHost>) {
        let place = place.unwrap_or(self.virtual_hosts.len());
        host.domains.iter().for_each(|domain| self.domains.set(domain, place));
        match self.virtual_hosts.get_mut(place) {
            Some(before) => *before = host,
            None => self.virtual_hosts.push(host),
        }
    }

    fn remove(&mut self, place: usize) {
        let gone = self.virtual_hosts.swap_remove(place);
        gone.domains.iter().for_each(|domain| self.domains.free(domain));
        if let Some(moved) = self.virtual_hosts.get(place) {
            moved.domains.iter().for_each(|domain| self.domains.set(domain, place));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::headers::HeaderOps;

    /// `name: domain domain`.
    fn host(text: &str) -> Arc<VirtualHost> {
        let (name, domains) = text.split_once(": ").unwrap_or((text, ""));
        Arc::new(VirtualHost {
            name: name.into(),
            domains: domains.split_whitespace().map(Name::from).collect(),
            routes: Vec::new(),
            require_tls: false,
            request_headers: HeaderOps::default(),
            response_headers: HeaderOps::default(),
            attempt_count: false,
            retry: None,
            rbac: None,
        })
    }

    fn show(table: &RouteTable) -> String {
        let hosts = table.virtual_hosts.iter().enumerate().map(|(place, host)| {
            for domain in &host.domains {
                assert_eq!(table.domains.holder(domain), Some(place), "{domain}");
            }
            format!("{}: {}", host.name, host.domains.join(" "))
        });
        hosts.collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn hosts_change_all_at_once() {
        let hosts = ["a: a a.x", "b: b", "c: c *.c"].map(|text| (None, host(text)));
        let (table, _) = RouteTable::default().with(&[], &hosts);
        // What goes, what comes (at a place or behind), the table afterwards, and what was left out.
        for (removed, changes, after, refusals) in [
            ([].as_slice(), "", "a: a a.x, b: b, c: c *.c", ""),
            (&[0], "", "c: c *.c, b: b", ""),
            (&[0, 0], "", "b: b", ""),
            (&[0], "b: a", "c: c *.c, b: b, b: a", ""),
            (&[], "d: d", "a: a a.x, b: b, c: c *.c, d: d", ""),
            (&[], "1 b: b b.x", "a: a a.x, b: b b.x, c: c *.c", ""),
            // Domains that are swapped, and one that goes over.
            (&[], "0 a: b, 1 b: a a.x", "a: b, b: a a.x, c: c *.c", ""),
            (&[], "1 b: b a.x, 0 a: a", "a: a, b: b a.x, c: c *.c", ""),
            // Another has it.
            (&[], "d: d b", "a: a a.x, b: b, c: c *.c", "`b` is in two virtual hosts, `b` and `d`"),
            (&[], "0 a: a *.c, d: d", "a: a a.x, b: b, c: c *.c, d: d", "`*.c` is in two virtual hosts, `c` and `a`"),
            (&[], "d: d, e: d", "a: a a.x, b: b, c: c *.c, d: d", "`d` is in two virtual hosts, `d` and `e`"),
            // A change that is left out keeps what it had, which another of them wanted.
            (
                &[],
                "1 b: a.x, 0 a: c, d: b",
                "a: a a.x, b: b, c: c *.c",
                "`a.x` is in two virtual hosts, `a` and `b`; `c` is in two virtual hosts, `c` and `a`; `b` is in two virtual hosts, `b` and `d`",
            ),
        ] {
            let changes: Vec<Change> = changes
                .split(", ")
                .filter(|text| !text.is_empty())
                .map(|text| match text.split_once(' ') {
                    Some((place, rest)) if !place.ends_with(':') => (place.parse().ok(), host(rest)),
                    _ => (None, host(text)),
                })
                .collect();
            let (next, refused) = table.with(removed, &changes);
            assert_eq!(show(&next), after);
            let refused: Vec<String> =
                refused.iter().flatten().map(|taken| taken.to_string().replacen("domain ", "", 1)).collect();
            assert_eq!(refused.join("; "), refusals, "{after}");
            assert_eq!(show(&table), "a: a a.x, b: b, c: c *.c", "the table itself stays");
        }
    }
}

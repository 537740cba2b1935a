//! Which filter chain takes a connection: Envoy's order, most specific first at each step.
//!
//! Destination port, destination address, server name, transport, application protocols, direct source, source, source port. Source:
//! <https://www.envoyproxy.io/docs/envoy/latest/api-v3/config/listener/v3/listener_components.proto> (`FilterChainMatch`).

use std::sync::Arc;

use ipnet::IpNet;

use super::{ConnInfo, FilterChain, Listener, Transport};

/// What was seen of a connection before its chain is chosen.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// TLS or not; `None` if nobody looked.
    pub transport: Option<Transport>,
    /// Protocols that the TLS hello offers, or the detected HTTP version.
    pub protocols: Vec<String>,
    /// Server name of the hello, lower case.
    pub server_name: Option<Arc<str>>,
}

impl Listener {
    /// The chain of a connection. At each step only the most specific matches stay.
    pub fn chain_for(&self, conn: &ConnInfo, seen: &Seen) -> Option<&Arc<FilterChain>> {
        let mut candidates: Vec<&Arc<FilterChain>> = self.chains.iter().collect();
        let local = conn.local;
        narrow(&mut candidates, |chain| match chain.matcher.destination_port {
            None => Some(0),
            Some(port) => (port == local.port()).then_some(1),
        });
        narrow(&mut candidates, |chain| in_ranges(&chain.matcher.destination_ranges, local.ip()));
        let name = seen.server_name.as_deref().unwrap_or("");
        narrow(&mut candidates, |chain| server_name(&chain.matcher.server_names, name));
        let transport = seen.transport.unwrap_or(Transport::RawBuffer);
        narrow(&mut candidates, |chain| match chain.matcher.transport {
            None => Some(0),
            Some(wanted) => (wanted == transport).then_some(1),
        });
        narrow(&mut candidates, |chain| {
            let wanted = &chain.matcher.application_protocols;
            match wanted.is_empty() {
                true => Some(0),
                false => seen.protocols.iter().any(|protocol| wanted.contains(protocol)).then_some(1),
            }
        });
        narrow(&mut candidates, |chain| in_ranges(&chain.matcher.direct_source_ranges, conn.direct_peer.ip()));
        narrow(&mut candidates, |chain| in_ranges(&chain.matcher.source_ranges, conn.peer.ip()));
        narrow(&mut candidates, |chain| match chain.matcher.source_ports.is_empty() {
            true => Some(0),
            false => chain.matcher.source_ports.contains(&conn.peer.port()).then_some(1),
        });
        candidates.first().copied().or(self.default_chain.as_ref())
    }

    /// All chains, the default one last.
    pub fn all_chains(&self) -> impl Iterator<Item = &Arc<FilterChain>> {
        self.chains.iter().chain(&self.default_chain)
    }

    /// The chain of this name, in a newer version of the listener.
    pub fn chain_named(&self, name: &str) -> Option<&Arc<FilterChain>> {
        self.all_chains().find(|chain| *chain.name == *name)
    }
}

/// Keeps the candidates with the best score; `None` is no match.
fn narrow(candidates: &mut Vec<&Arc<FilterChain>>, score: impl Fn(&FilterChain) -> Option<usize>) {
    let best = candidates.iter().filter_map(|chain| score(chain)).max();
    candidates.retain(|chain| best.is_some() && score(chain) == best);
}

fn in_ranges(ranges: &[IpNet], address: std::net::IpAddr) -> Option<usize> {
    if ranges.is_empty() {
        return Some(0);
    }
    let address = address.to_canonical();
    ranges.iter().filter(|range| range.contains(&address)).map(|range| usize::from(range.prefix_len()) + 1).max()
}

fn server_name(wanted: &[String], name: &str) -> Option<usize> {
    if wanted.is_empty() {
        return Some(0);
    }
    wanted
        .iter()
        .filter_map(|pattern| match pattern.strip_prefix('*') {
            Some(suffix) => (name.len() > suffix.len() && name.ends_with(suffix)).then_some(suffix.len() + 1),
            None => (pattern == name).then_some(usize::MAX),
        })
        .max()
}

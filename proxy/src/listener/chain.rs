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
                // The client's order counts, as in Envoy: its first protocol that any chain wants decides.
                false => {
                    let first = seen.protocols.iter().position(|protocol| wanted.contains(protocol));
                    first.map(|position| usize::MAX - position)
                }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::listener::Direction;
    use crate::xds::decode::{Context, listener};

    const LISTENER: &str = r#"
name: inbound
address: {socket_address: {address: 127.0.0.1, port_value: 0}}
filter_chains:
- {name: http, filter_chain_match: {destination_port: 80, transport_protocol: tls, application_protocols: [istio-http/1.1, istio-h2]}, filters: [TCP]}
- {name: mesh, filter_chain_match: {destination_port: 80, transport_protocol: tls, application_protocols: [istio, istio-peer-exchange]}, filters: [TCP]}
- {name: own-tls, filter_chain_match: {destination_port: 80, transport_protocol: tls}, filters: [TCP]}
- {name: plain, filter_chain_match: {destination_port: 80}, filters: [TCP]}
- {name: named, filter_chain_match: {server_names: [a.b]}, filters: [TCP]}
- {name: wildcard, filter_chain_match: {server_names: ["*.b"]}, filters: [TCP]}
- {name: range, filter_chain_match: {prefix_ranges: [{address_prefix: 10.0.0.0, prefix_len: 8}]}, filters: [TCP]}
default_filter_chain: {name: rest, filters: [TCP]}
"#;

    /// A connection to `destination`, what it began with (`tls:ALPN,ALPN@SERVER`, `raw:HTTP`), and the chain that takes it.
    #[test]
    fn the_most_specific_chain_takes_a_connection() {
        let tcp = "{name: t, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: t, cluster: c}}";
        let raw = mesh_proto::yaml::from_yaml(&LISTENER.replace("TCP", tcp)).unwrap();
        let listener = listener::listener(&raw, &Context::default()).unwrap().listener;
        for (destination, seen, expected) in [
            ("127.0.0.1:80", "tls:istio-h2,istio,h2", "http"),
            ("127.0.0.1:80", "tls:istio,istio-h2", "mesh"),
            ("127.0.0.1:80", "tls:istio-http/1.1,istio,http/1.1", "http"),
            ("127.0.0.1:80", "tls:istio", "mesh"),
            ("127.0.0.1:80", "tls:h2,http/1.1", "own-tls"),
            ("127.0.0.1:80", "tls:", "own-tls"),
            ("127.0.0.1:80", "raw:http/1.1", "plain"),
            ("127.0.0.1:81", "tls:h2@a.b", "named"),
            ("127.0.0.1:81", "tls:h2@c.b", "wildcard"),
            ("127.0.0.1:81", "tls:h2@b", "rest"),
            ("10.1.2.3:81", "raw:", "range"),
            ("11.1.2.3:81", "raw:", "rest"),
        ] {
            let (transport, rest) = seen.split_once(':').unwrap();
            let (protocols, name) = rest.split_once('@').unwrap_or((rest, ""));
            let seen = Seen {
                transport: Some(if transport == "tls" { Transport::Tls } else { Transport::RawBuffer }),
                protocols: protocols.split(',').filter(|one| !one.is_empty()).map(str::to_owned).collect(),
                server_name: (!name.is_empty()).then(|| name.into()),
            };
            let peer = "192.0.2.1:1000".parse().unwrap();
            let conn = ConnInfo {
                id: 0,
                listener: listener.name.clone(),
                direction: Direction::Inbound,
                direct_peer: peer,
                peer,
                local: destination.parse().unwrap(),
                local_restored: true,
                tls: None,
                server_name: seen.server_name.clone(),
            };
            let chain = listener.chain_for(&conn, &seen).map(|chain| &*chain.name);
            assert_eq!(chain, Some(expected), "{destination} {seen:?}");
        }
    }
}

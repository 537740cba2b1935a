//! Filter chains in the making: what they match, and whether two of them would conflict.

use std::collections::BTreeSet;

use ipnet::IpNet;
use mesh_proto::xds::{core, listener, tls};

use super::tls as sockets;

/// Protocols that the HTTP inspector finds in plaintext.
pub const PLAINTEXT_HTTP: &[&str] = &["http/1.0", "http/1.1", "h2c"];
/// Transport of plaintext in chain matches.
pub const RAW_BUFFER: &str = "raw_buffer";

/// A filter chain and what it matches. Empty conditions match everything.
#[derive(Debug, Clone, Default)]
pub struct Chain {
    /// Name; empty for none.
    pub name: String,
    /// Server names of TLS hellos.
    pub server_names: Vec<String>,
    /// Destination addresses.
    pub ranges: Vec<IpNet>,
    /// Protocols that are offered or found.
    pub protocols: Vec<String>,
    /// `raw_buffer` or `tls`; empty for any.
    pub transport: String,
    /// TLS that ends here.
    pub tls: Option<tls::DownstreamTlsContext>,
    /// What it was made of.
    pub metadata: Option<core::Metadata>,
    /// The filters.
    pub filters: Vec<listener::Filter>,
}

impl Chain {
    /// True if it takes every connection.
    pub fn is_match_all(&self) -> bool {
        self.names().is_empty() && self.ranges.is_empty() && self.protocols.is_empty() && self.transport.is_empty()
    }

    /// True if proxies could not tell which of the two is meant.
    pub fn conflicts_with(&self, other: &Self) -> bool {
        self.transport == other.transport
            && self.protocols == other.protocols
            && self.names() == other.names()
            && self.networks() == other.networks()
    }

    /// Server names without `*`, which stands for none.
    fn names(&self) -> BTreeSet<String> {
        if self.server_names.iter().any(|name| name == "*") {
            return BTreeSet::new();
        }
        self.server_names.iter().filter(|name| is_server_name(name)).map(|name| name.to_ascii_lowercase()).collect()
    }

    /// True if it names servers, but none that a proxy understands: it must not become a chain for all.
    fn is_nonsense(&self) -> bool {
        !self.server_names.is_empty() && !self.server_names.iter().any(|name| name == "*" || is_server_name(name))
    }

    /// Gives up what `other` has already; false if nothing is left.
    fn yields_to(&mut self, other: &Self) -> bool {
        if self.conflicts_with(other) {
            return false;
        }
        if self.transport != other.transport || self.protocols != other.protocols {
            return true;
        }
        // Proxies compare each name and each range: one that stands in two chains is refused with the whole listener.
        let (names, ranges) = (self.names(), self.networks());
        let (their_names, their_ranges) = (other.names(), other.networks());
        if ranges == their_ranges && !names.is_disjoint(&their_names) {
            self.server_names = names.difference(&their_names).cloned().collect();
            return !self.server_names.is_empty();
        }
        if names == their_names && !ranges.is_disjoint(&their_ranges) {
            self.ranges = ranges.difference(&their_ranges).copied().collect();
            return !self.ranges.is_empty();
        }
        true
    }

    fn networks(&self) -> BTreeSet<IpNet> {
        self.ranges.iter().map(IpNet::trunc).collect()
    }

    /// The chain as it is sent.
    pub fn build(&self) -> listener::FilterChain {
        listener::FilterChain {
            name: self.name.clone(),
            filter_chain_match: (!self.is_match_all()).then(|| self.conditions()),
            filters: self.filters.clone(),
            transport_socket: self.tls.as_ref().map(sockets::socket),
            metadata: self.metadata.clone(),
            ..Default::default()
        }
    }

    fn conditions(&self) -> listener::FilterChainMatch {
        let ranges = self.networks().into_iter().map(|range| core::CidrRange {
            address_prefix: range.addr().to_string(),
            prefix_len: super::super::wire::number(range.prefix_len().into()),
        });
        listener::FilterChainMatch {
            server_names: self.names().into_iter().collect(),
            prefix_ranges: ranges.collect(),
            application_protocols: self.protocols.clone(),
            transport_protocol: self.transport.clone(),
            ..Default::default()
        }
    }
}

/// Adds chains, or what is left of them, that differ from all before; the first wins (G11).
pub fn merge(chains: &mut Vec<Chain>, more: Vec<Chain>) {
    for mut chain in more {
        if !chain.is_nonsense() && chains.iter().all(|known| chain.yields_to(known)) {
            chains.push(chain);
        }
    }
}

/// A name, or whole labels below a name: what a chain can be chosen by.
fn is_server_name(name: &str) -> bool {
    let rest = name.strip_prefix("*.").unwrap_or(name);
    !rest.is_empty() && !rest.contains('*')
}

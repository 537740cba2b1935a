//! The workload's DNS (AG9): names of the mesh are answered from the control plane's name table, all others by the resolvers of
//! `/etc/resolv.conf`.
//!
//! `table` holds the names, `answer` decides what a question gets, `forward` asks others, `server` has the sockets. The table is part of the
//! [`crate::snapshot::Snapshot`] that requests see; everything here runs on the control thread. Capture sends the workload's
//! questions here ([`crate::redirect`]); on a laptop a program asks the address directly.
//!
//! Source: Istio's [DNS proxying](https://istio.io/latest/docs/ops/configuration/traffic-management/dns-proxy/) and `pkg/dns/client`.

pub mod answer;
pub mod forward;
pub mod server;
pub mod table;

use std::net::SocketAddr;

pub use table::{Entry, Place, Table};

/// Where the system says who resolves names.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";
/// The port of resolvers.
const PORT: u16 = 53;

/// How a workload's questions are answered.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Where questions come in, by UDP and by TCP; port 0 lets the system choose.
    pub listen: Vec<SocketAddr>,
    /// Who is asked for names that are not the mesh's, in this order.
    pub resolvers: Vec<SocketAddr>,
    /// All of them are asked at once, and the first good answer counts.
    pub parallel: bool,
    /// What short names mean here.
    pub place: Place,
}

impl Settings {
    /// Takes resolvers and the first search domain from the text of a `resolv.conf`; lines that are malformed are passed over, as the
    /// system's own resolver does.
    pub fn take_resolv_conf(&mut self, text: &str) {
        let (config, wrong) = resolv_conf::Config::parse_with_errors(text.as_bytes());
        for error in wrong {
            tracing::warn!(%error, "{RESOLV_CONF}");
        }
        self.resolvers = config.nameservers.iter().map(|server| SocketAddr::new(server.into(), PORT)).collect();
        let search = config.get_last_search_or_domain().next();
        self.place.search = search.map(|domain| domain.trim_matches('.').to_ascii_lowercase());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn resolvers_and_the_first_search_domain_are_read() {
        let mut settings = Settings::default();
        let text = "search Shop.svc.cluster.local svc.cluster.local\nnameserver 10.96.0.10\nnameserver fd00::a\noptions ndots:5\n";
        settings.take_resolv_conf(text);
        assert_eq!(settings.resolvers, ["10.96.0.10:53".parse().unwrap(), "[fd00::a]:53".parse().unwrap()]);
        assert_eq!(settings.place.search.as_deref(), Some("shop.svc.cluster.local"));
        settings.take_resolv_conf("nonsense\nsearch Lan.\nnameserver nowhere\n");
        assert_eq!((settings.resolvers.len(), settings.place.search.as_deref()), (0, Some("lan")));
    }
}

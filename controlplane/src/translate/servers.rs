//! The servers of all Gateways of a proxy, merged by port (GW1, GW3–GW5). Read by listeners and route tables alike.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_proto::crd::gateway::{self, ServerTlsMode};
use mesh_proto::crd::{Gateway, VirtualService};

use crate::model::context::Config;
use crate::model::{Node, Protocol, PushContext, host};

/// Where a server listens unless it says otherwise.
const ANY: &str = "0.0.0.0";

/// The servers of one address.
#[derive(Debug)]
pub struct Port {
    /// Address, or `unix://PATH`.
    pub bind: String,
    /// The port that is opened: the Service's target port, where there is a Service (GW4).
    pub number: u16,
    /// All plaintext HTTP, or one of plaintext TCP, or all TLS.
    pub servers: Vec<Server>,
}

/// A server of a Gateway.
#[derive(Debug)]
pub struct Server {
    gateway: Arc<Config<Gateway>>,
    index: usize,
    /// Protocol.
    pub protocol: Protocol,
    /// Hosts.
    pub hosts: Vec<Host>,
    /// Name of its route table, if it serves HTTP.
    pub route_name: Option<String>,
}

/// A host of a server: `namespace/host`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Namespace whose VirtualServices may have it; all if absent.
    pub namespace: Option<String>,
    /// Name, perhaps a wildcard.
    pub name: String,
}

impl Server {
    /// As written.
    pub fn spec(&self) -> &gateway::Server {
        &self.gateway.spec.servers[self.index]
    }

    /// `namespace/name` of its Gateway.
    pub fn gateway_name(&self) -> String {
        format!("{}/{}", self.gateway.key.namespace, self.gateway.key.name)
    }

    /// The port as written: what clients call, and what rules mean by a port.
    pub fn number(&self) -> u16 {
        u16::try_from(self.spec().port.number).unwrap_or(0)
    }

    /// True if TLS, ended here or passed through.
    pub fn is_tls(&self) -> bool {
        is_tls(self.protocol, self.spec())
    }

    /// True if TLS is passed through.
    pub fn is_passthrough(&self) -> bool {
        self.is_tls() && self.spec().tls.as_ref().is_some_and(is_passthrough)
    }

    /// True if plaintext requests are redirected to https.
    pub fn redirects(&self) -> bool {
        self.spec().tls.as_ref().is_some_and(|tls| tls.https_redirect)
    }

    /// Server names of its chain; none takes every name.
    pub fn server_names(&self) -> Vec<String> {
        let names: BTreeSet<String> = self.hosts.iter().map(|host| host.name.to_ascii_lowercase()).collect();
        if names.contains("*") { Vec::new() } else { names.into_iter().collect() }
    }

    /// The hosts that a VirtualService and this server share, the more specific of each two (GW3). Lower case.
    pub fn shared_hosts(&self, config: &Config<VirtualService>) -> Vec<String> {
        let mut shared: Vec<String> = Vec::new();
        let open = self
            .hosts
            .iter()
            .filter(|host| host.namespace.as_ref().is_none_or(|namespace| **namespace == *config.key.namespace));
        for one in open {
            for other in &config.spec.hosts {
                let (one, other) = (one.name.to_ascii_lowercase(), other.to_ascii_lowercase());
                let narrow = if host::is_within(&one, &other) {
                    one
                } else if host::is_within(&other, &one) {
                    other
                } else {
                    continue;
                };
                if !shared.contains(&narrow) {
                    shared.push(narrow);
                }
            }
        }
        shared
    }
}

fn is_tls(protocol: Protocol, spec: &gateway::Server) -> bool {
    spec.tls.is_some() && !protocol.is_http()
}

fn is_passthrough(tls: &gateway::ServerTlsSettings) -> bool {
    matches!(tls.mode, ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough)
}

/// The ports of a gateway. Gateways come older first; a server that conflicts with an earlier one is left out (GW5), which
/// validation reports.
pub fn merge(context: &PushContext, node: &Node) -> Vec<Port> {
    let targets = context.targets(node);
    let mut ports: BTreeMap<(String, u16), Port> = BTreeMap::new();
    // Server names of TLS servers by address: each may stand in one chain only.
    let mut names: BTreeMap<(String, u16), BTreeSet<String>> = BTreeMap::new();
    for config in context.gateways(node) {
        for (index, spec) in config.spec.servers.iter().enumerate() {
            let Some(written) = u16::try_from(spec.port.number).ok() else { continue };
            let target = targets.iter().find(|target| target.port.number == written);
            let number = target.map_or(written, |target| target.target_port);
            let bind = if spec.bind.is_empty() { ANY } else { spec.bind.as_str() };
            let Some(server) = resolve(&config, index, number) else { continue };
            let place = (bind.to_owned(), number);
            let port = ports.entry(place.clone()).or_insert_with(|| Port {
                bind: bind.to_owned(),
                number,
                servers: Vec::new(),
            });
            if !port.servers.first().is_none_or(|first| may_share(first, &server)) {
                continue;
            }
            if server.is_tls() {
                let taken = names.entry(place).or_default();
                let own: BTreeSet<String> = server.hosts.iter().map(|host| host.name.to_ascii_lowercase()).collect();
                if !taken.is_disjoint(&own) {
                    continue;
                }
                taken.extend(own);
            }
            port.servers.push(server);
        }
    }
    ports.into_values().filter(|port| !port.servers.is_empty()).collect()
}

/// Plaintext HTTP shares with plaintext HTTP, TLS with TLS; anything else is alone on its port.
fn may_share(first: &Server, second: &Server) -> bool {
    match (first.is_tls(), second.is_tls()) {
        (true, true) => true,
        (false, false) => first.protocol.is_http() && second.protocol.is_http(),
        _ => false,
    }
}

fn resolve(config: &Arc<Config<Gateway>>, index: usize, number: u16) -> Option<Server> {
    let spec = &config.spec.servers[index];
    let protocol = Protocol::parse(&spec.port.protocol)?;
    if protocol == Protocol::Udp || (protocol == Protocol::Https && spec.tls.is_none()) {
        return None;
    }
    let suffix = if spec.bind.is_empty() { String::new() } else { format!(".{}", spec.bind) };
    let ends_tls = spec.tls.as_ref().is_some_and(|tls| !is_passthrough(tls));
    let route_name = if protocol.is_http() {
        Some(format!("http.{number}{suffix}"))
    } else if protocol == Protocol::Https && ends_tls {
        let (name, namespace) = (&config.key.name, &config.key.namespace);
        Some(format!("https.{}.{}.{name}.{namespace}{suffix}", spec.port.number, spec.port.name))
    } else {
        None
    };
    let hosts = spec.hosts.iter().map(|host| server_host(host, &config.key.namespace)).collect();
    Some(Server { gateway: config.clone(), index, protocol, hosts, route_name })
}

fn server_host(text: &str, own: &str) -> Host {
    match text.split_once('/') {
        None | Some(("*", _)) => {
            Host { namespace: None, name: text.split_once('/').map_or(text, |(_, name)| name).to_owned() }
        }
        Some((".", name)) => Host { namespace: Some(own.to_owned()), name: name.to_owned() },
        Some((namespace, name)) => Host { namespace: Some(namespace.to_owned()), name: name.to_owned() },
    }
}

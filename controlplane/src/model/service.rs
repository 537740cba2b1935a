//! Services of the mesh, wherever they come from (Kubernetes Service, ServiceEntry), and the endpoints behind them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::{Name, Node, Origin};

/// A host that clients call. One for each Kubernetes Service, one for each host of a ServiceEntry.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    /// Fully qualified host, lower case; `*.example.com` for wildcard ServiceEntries.
    pub host: Name,
    /// Name of the object.
    pub name: Name,
    /// Namespace of the object.
    pub namespace: Name,
    /// Where it comes from.
    pub registry: Registry,
    /// Creation time in seconds since 1970.
    pub created: i64,
    /// Where it stands.
    pub origin: Origin,
    /// Labels of the object.
    pub labels: BTreeMap<String, String>,
    /// Ports, in order.
    pub ports: Vec<ServicePort>,
    /// Virtual addresses (cluster IPs, external IPs, ServiceEntry addresses); CIDRs apart in [`Service::ranges`]. Empty if headless.
    pub addresses: Vec<IpAddr>,
    /// ServiceEntry addresses that are ranges.
    pub ranges: Vec<ipnet::IpNet>,
    /// Addresses that the mesh gave a host of a ServiceEntry without any (SE8): one of each IP version, or none.
    pub auto_addresses: Vec<IpAddr>,
    /// How clients find endpoints.
    pub resolution: Resolution,
    /// True for `MESH_EXTERNAL` ServiceEntries and ExternalName services.
    pub external: bool,
    /// True for Kubernetes services without a cluster IP.
    pub headless: bool,
    /// Labels of the workloads behind it; absent where endpoints are written down.
    pub selector: Option<BTreeMap<String, String>>,
    /// Who may see it; resolved: `.` is replaced by the namespace.
    pub export_to: ExportTo,
    /// Only endpoints on the client's own node are called (`internalTrafficPolicy: Local`, G15).
    pub node_local: bool,
    /// Nearer endpoints are called first, whether failing ones are noticed or not (`trafficDistribution`, G15).
    pub prefers_near: bool,
    /// Subject names that certificates of endpoints may have (SE5); empty leaves it to the endpoints' service accounts.
    pub subject_alt_names: Vec<String>,
}

impl Service {
    /// The addresses by which the workload of `node` calls it. Those that the mesh gave are known only to clients whose DNS the proxy
    /// answers, and of these only the IP versions that they have.
    pub fn addresses_for(&self, node: &Node) -> Vec<IpAddr> {
        if !self.addresses.is_empty() || !self.ranges.is_empty() || !node.dns_capture {
            return self.addresses.clone();
        }
        let reachable = |address: &IpAddr| if address.is_ipv4() { node.has_ipv4() } else { node.has_ipv6() };
        self.auto_addresses.iter().copied().filter(reachable).collect()
    }
}

/// Where a service comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Registry {
    /// A Kubernetes Service.
    Kubernetes,
    /// A ServiceEntry.
    External,
}

/// How clients find a service's endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Resolution {
    /// Endpoints are told (EDS).
    Static,
    /// DNS, all addresses (STRICT_DNS).
    Dns,
    /// DNS, one address (LOGICAL_DNS).
    DnsRoundRobin,
    /// The address that the client dialed (ORIGINAL_DST).
    Passthrough,
}

/// A port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Name; may be empty.
    pub name: Name,
    /// Number that clients call.
    pub number: u16,
    /// Protocol, by G9 and G10.
    pub protocol: Protocol,
    /// Port of endpoints where the service says it by number; the endpoints' own otherwise.
    pub target: Option<u16>,
    /// Name of the container port where the service says it by name.
    pub target_name: Option<Name>,
}

/// What a port speaks (G9).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// HTTP/1.1.
    Http,
    /// HTTP/2 in plaintext.
    Http2,
    /// gRPC.
    Grpc,
    /// gRPC-Web.
    GrpcWeb,
    /// An HTTP proxy.
    HttpProxy,
    /// TLS with HTTP inside.
    Https,
    /// TLS.
    Tls,
    /// Opaque, Mongo, Redis and MySQL too.
    Tcp,
    /// Not served by the mesh.
    Udp,
    /// Not declared: found out by looking at the first bytes (G10).
    Unknown,
}

impl Protocol {
    /// The protocol of a name as users write it in ports and port names, ignoring case; `None` for other words (G9).
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "http" => Self::Http,
            "http2" => Self::Http2,
            "grpc" => Self::Grpc,
            "grpc-web" => Self::GrpcWeb,
            "http_proxy" => Self::HttpProxy,
            "https" => Self::Https,
            "tls" => Self::Tls,
            "tcp" | "mongo" | "redis" | "mysql" => Self::Tcp,
            "udp" => Self::Udp,
            _ => return None,
        })
    }

    /// The protocol of a Kubernetes port: by `appProtocol`, by the prefix of its name, by a number that is never guessed (G9, G10).
    pub fn of_port(app_protocol: Option<&str>, name: &str, number: u16) -> Self {
        let declared = app_protocol.and_then(|word| match word {
            "kubernetes.io/h2c" => Some(Self::Http2),
            "kubernetes.io/ws" => Some(Self::Http),
            "kubernetes.io/wss" => Some(Self::Https),
            _ => Self::parse(word),
        });
        let by_name = || {
            // `grpc-web` is the one name that holds the separator itself.
            let lower = name.to_ascii_lowercase();
            if lower == "grpc-web" || lower.starts_with("grpc-web-") {
                return Some(Self::GrpcWeb);
            }
            Self::parse(lower.split('-').next().unwrap_or_default())
        };
        let by_number = || mesh_proto::names::port::NEVER_SNIFFED.contains(&number).then_some(Self::Tcp);
        declared.or_else(by_name).or_else(by_number).unwrap_or(Self::Unknown)
    }

    /// Declared as a kind of plaintext HTTP.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Grpc | Self::GrpcWeb | Self::HttpProxy)
    }

    /// HTTP/2 towards the application.
    pub fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Grpc | Self::GrpcWeb)
    }

    /// TLS that the mesh passes on by server name.
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Tls)
    }
}

/// Which namespaces see something (G4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExportTo {
    /// All.
    All,
    /// These; none if empty.
    Namespaces(Vec<Name>),
}

impl ExportTo {
    /// What `list` says in an object of `namespace`; `default` is the mesh's and stands for an empty list (G4).
    pub fn of<S: AsRef<str>>(list: &[S], default: &[String], namespace: &Name) -> Self {
        let words: Vec<&str> = match list {
            [] => default.iter().map(String::as_str).collect(),
            list => list.iter().map(AsRef::as_ref).collect(),
        };
        if (words.is_empty() && list.is_empty()) || words.contains(&"*") {
            return Self::All;
        }
        let named = words.into_iter().filter(|word| *word != "~");
        let mut names: Vec<Name> =
            named.map(|word| if word == "." { namespace.clone() } else { word.into() }).collect();
        names.sort();
        names.dedup();
        Self::Namespaces(names)
    }

    /// True if `namespace` may see it.
    pub fn allows(&self, namespace: &str) -> bool {
        match self {
            Self::All => true,
            Self::Namespaces(names) => names.iter().any(|name| **name == *namespace),
        }
    }
}

/// The address of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// An IP address.
    Ip(IpAddr),
    /// A DNS name (ServiceEntries with DNS resolution).
    Dns(Name),
    /// A Unix socket.
    Unix(Name),
}

/// A workload behind a service, for one port.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    /// Where.
    pub address: Address,
    /// Port of the workload.
    pub port: u16,
    /// Name of the service port that it serves.
    pub port_name: Name,
    /// Weight, at least 1.
    pub weight: u32,
    /// False while it is not ready; sent only where a service publishes such.
    pub healthy: bool,
    /// The workload.
    pub workload: Arc<Workload>,
}

/// A workload: a pod, a WorkloadEntry, or an endpoint written in a ServiceEntry.
#[derive(Debug, Clone, PartialEq)]
pub struct Workload {
    /// Pod or WorkloadEntry name; empty if anonymous.
    pub name: Name,
    /// Namespace.
    pub namespace: Name,
    /// Name of the owner (deployment), for metric labels.
    pub workload_name: Name,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
    /// Labels, by which DestinationRules make subsets and policies select.
    pub labels: BTreeMap<String, String>,
    /// Service account; empty if unknown.
    pub service_account: Name,
    /// `region/zone/subzone`; empty parts unknown.
    pub locality: Name,
    /// Node that it runs on; empty if unknown.
    pub node: Name,
    /// Network.
    pub network: Name,
    /// Kubernetes cluster.
    pub cluster: Name,
    /// Speaks mesh mTLS (label `security.istio.io/tlsMode: istio`).
    pub mtls: bool,
    /// Ready to serve.
    pub ready: bool,
    /// Container ports by name, for `targetPort` names.
    pub named_ports: BTreeMap<String, u16>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_come_from_app_protocol_then_name_then_number() {
        for (app, name, number, expected) in [
            (None, "http", 80, Protocol::Http),
            (None, "http-web", 80, Protocol::Http),
            (None, "grpc-web", 80, Protocol::GrpcWeb),
            (None, "grpc-web-x", 80, Protocol::GrpcWeb),
            (None, "grpc-x", 80, Protocol::Grpc),
            (None, "HTTP2-x", 80, Protocol::Http2),
            (None, "mongo-db", 1, Protocol::Tcp),
            (None, "web", 80, Protocol::Unknown),
            (None, "", 3306, Protocol::Tcp),
            (Some("kubernetes.io/h2c"), "http", 80, Protocol::Http2),
            (Some("kubernetes.io/wss"), "", 80, Protocol::Https),
            (Some("example.com/own"), "tcp-x", 80, Protocol::Tcp),
            (Some("TLS"), "http", 80, Protocol::Tls),
        ] {
            assert_eq!(Protocol::of_port(app, name, number), expected, "{app:?} {name} {number}");
        }
    }

    #[test]
    fn export_lists_name_namespaces() {
        let here = Name::from("here");
        for (list, default, seen) in [
            (&[][..], &[][..], [true, true]),
            (&[], &["."], [true, false]),
            (&["*"], &["."], [true, true]),
            (&["."], &["*"], [true, false]),
            (&["~"], &["*"], [false, false]),
            (&["there"], &["*"], [false, true]),
        ] {
            let default: Vec<String> = default.iter().map(|word: &&str| (*word).to_owned()).collect();
            let export = ExportTo::of(list, &default, &here);
            assert_eq!([export.allows("here"), export.allows("there")], seen, "{list:?} {default:?}");
        }
    }
}

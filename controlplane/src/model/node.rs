//! A connected proxy, from the node of its first discovery request. The contract is docs/xds.md, "The node".

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::Name;

/// What kind of proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NodeKind {
    /// Beside a workload.
    Sidecar,
    /// A gateway (`router`).
    Router,
}

/// How a sidecar gets its traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Interception {
    /// Transparent capture on 15001 and 15006.
    #[default]
    Redirect,
    /// The same, keeping source addresses.
    Tproxy,
    /// None: listeners bind their own ports.
    None,
}

/// A proxy that asks for configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// `node.id` as sent.
    pub id: Name,
    /// Kind.
    pub kind: NodeKind,
    /// `NAME` of the pod.
    pub name: Name,
    /// `NAMESPACE`.
    pub namespace: Name,
    /// `SERVICE_ACCOUNT`.
    pub service_account: Name,
    /// `WORKLOAD_NAME`.
    pub workload_name: Name,
    /// Address in the id, then `INSTANCE_IPS`.
    pub addresses: Vec<IpAddr>,
    /// `LABELS`.
    pub labels: BTreeMap<String, String>,
    /// `ANNOTATIONS`.
    pub annotations: BTreeMap<String, String>,
    /// `CLUSTER_ID`.
    pub cluster: Name,
    /// `NETWORK`.
    pub network: Name,
    /// DNS domain of the namespace (`NAMESPACE.svc.cluster.local`), the last part of the id.
    pub dns_domain: Name,
    /// `INTERCEPTION_MODE`.
    pub interception: Interception,
    /// `region/zone/subzone` of `node.locality`.
    pub locality: Name,
    /// Understands `ferromesh.v1.*` messages (`FERROMESH`).
    pub ferromesh: bool,
    /// `PROXY_CONFIG` as injected.
    pub proxy_config: serde_json::Value,
    /// The proxy answers its workload's DNS questions (`DNS_CAPTURE`), unless `DNS_AUTO_ALLOCATE` is `false`: then without addresses
    /// that the mesh gave (SE8).
    pub dns_capture: bool,
    /// Takes the virtual hosts of route tables one by one (`FERROMESH_VHDS`).
    pub vhds: bool,
    /// gRPC's own xDS client (`user_agent_name` begins with `gRPC`, or `GENERATOR: grpc`).
    pub grpc: bool,
}

impl Node {
    /// True if the workload has an IPv4 address, or none that is known.
    pub fn has_ipv4(&self) -> bool {
        self.addresses.is_empty() || self.addresses.iter().any(IpAddr::is_ipv4)
    }

    /// True if the workload has an IPv6 address.
    pub fn has_ipv6(&self) -> bool {
        self.addresses.iter().any(IpAddr::is_ipv6)
    }
}

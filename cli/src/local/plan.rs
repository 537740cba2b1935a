//! Which workloads a local mesh has, and which addresses and ports each of them and its sidecar use.
//!
//! Each workload gets an address of its own in 127.0.0.0/8, as a pod has one: the control plane tells workloads apart by
//! their addresses. Ports are the system's choice unless the user fixed them.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use anyhow::{Context, Result, bail};
use mesh_proto::names::{ROOT_NAMESPACE, label};

use super::ports::Port;

/// Service account of the ingress gateway, as Istio's charts name it.
pub const GATEWAY_ACCOUNT: &str = "istio-ingressgateway-service-account";
/// Name and label of the ingress gateway.
pub const GATEWAY_NAME: &str = "istio-ingressgateway";
/// Value of the label `istio` by which Gateways select the ingress gateway.
pub const GATEWAY_SELECTOR: &str = "ingressgateway";

/// A workload and its sidecar.
#[derive(Debug)]
pub struct Workload {
    /// Name; unique in its namespace.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// Service account, the last part of its identity.
    pub service_account: String,
    /// Labels, by which services, subsets and policies select it.
    pub labels: BTreeMap<String, String>,
    /// Where its sidecar listens.
    pub address: Ipv4Addr,
    /// Ports that it serves; none for a mere client.
    pub ports: Vec<WorkloadPort>,
    /// Where the process reaches every service of the mesh, by `Host`.
    pub outbound: SocketAddrV4,
    /// Held so that nobody else is given them.
    _reserved: Vec<Port>,
}

/// A port of a workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadPort {
    /// Name, to which services' `targetPort` refers.
    pub name: String,
    /// Protocol, as in a `Sidecar`.
    pub protocol: String,
    /// The sidecar's port, that others are told.
    pub inbound: u16,
    /// Where the process listens.
    pub application: SocketAddr,
}

/// The ingress gateway.
#[derive(Debug)]
pub struct Ingress {
    /// Where it listens for others: its pod's address.
    pub address: Ipv4Addr,
    /// Ports that Gateways name, and the ports that are really opened for them.
    pub ports: BTreeMap<u16, u16>,
    /// Held so that nobody else is given them.
    _reserved: Vec<Port>,
}

/// Gives out loopback addresses and free ports.
#[derive(Debug)]
pub struct Allocator {
    next: u16,
}

impl Default for Allocator {
    fn default() -> Self {
        Self { next: 1 }
    }
}

impl Allocator {
    /// The next workload's address: 127.0.1.1, 127.0.1.2, …
    pub fn address(&mut self) -> Result<Ipv4Addr> {
        let [high, low] = self.next.to_be_bytes();
        let Some(high) = high.checked_add(1) else { bail!("a local mesh has room for 65,000 workloads") };
        self.next = self.next.checked_add(1).context("a local mesh has room for 65,000 workloads")?;
        Ok(Ipv4Addr::new(127, 0, high, low))
    }
}

impl Workload {
    /// A workload without ports yet.
    pub fn new(allocator: &mut Allocator, namespace: &str, name: &str, service_account: &str) -> Result<Self> {
        let address = allocator.address()?;
        let outbound = reserve(Ipv4Addr::LOCALHOST)?;
        Ok(Self {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            service_account: service_account.to_owned(),
            labels: BTreeMap::from([(label::TLS_MODE.to_owned(), "istio".to_owned())]),
            address,
            ports: Vec::new(),
            outbound: SocketAddrV4::new(Ipv4Addr::LOCALHOST, outbound.number()),
            _reserved: vec![outbound],
        })
    }

    /// Adds a label.
    pub fn label(&mut self, name: &str, value: &str) {
        self.labels.insert(name.to_owned(), value.to_owned());
    }

    /// Adds a port whose process listens at `application`; its sidecar's port is the system's choice.
    pub fn serve(&mut self, name: &str, protocol: &str, application: SocketAddr) -> Result<u16> {
        let port = reserve(self.address)?;
        let inbound = port.number();
        self._reserved.push(port);
        let (name, protocol) = (name.to_owned(), protocol.to_owned());
        self.ports.push(WorkloadPort { name, protocol, inbound, application });
        Ok(inbound)
    }

    /// A free port of loopback for the process itself, held until the workload is dropped.
    pub fn reserve_application(&mut self) -> Result<SocketAddrV4> {
        let port = reserve(Ipv4Addr::LOCALHOST)?;
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port.number());
        self._reserved.push(port);
        Ok(address)
    }

    /// Fixes the outbound port instead of the system's choice.
    pub fn fix_outbound(&mut self, port: u16) {
        self.outbound.set_port(port);
    }
}

impl Ingress {
    /// A gateway that opens a port of the system's choice for each of `wanted`, or the one given with it.
    pub fn new(allocator: &mut Allocator, wanted: &[(u16, Option<u16>)]) -> Result<Self> {
        let address = allocator.address()?;
        let mut ports = BTreeMap::new();
        let mut reserved = Vec::new();
        for (named, fixed) in wanted {
            let number = match fixed {
                Some(fixed) => *fixed,
                None => {
                    // Gateways listen on every address, so the port must be free on all.
                    let port = reserve(Ipv4Addr::UNSPECIFIED)?;
                    let number = port.number();
                    reserved.push(port);
                    number
                }
            };
            ports.insert(*named, number);
        }
        Ok(Self { address, ports, _reserved: reserved })
    }

    /// Namespace of the gateway.
    pub fn namespace(&self) -> &'static str {
        ROOT_NAMESPACE
    }

    /// Labels of the gateway.
    pub fn labels(&self) -> BTreeMap<String, String> {
        let pairs = [(label::APP, GATEWAY_NAME), (label::ISTIO, GATEWAY_SELECTOR), (label::TLS_MODE, "istio")];
        pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }
}

fn reserve(address: Ipv4Addr) -> Result<Port> {
    Port::reserve_at(address).with_context(|| format!("cannot take a port of {address}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_workload_has_an_address_of_its_own() {
        let mut allocator = Allocator::default();
        assert_eq!(allocator.address().unwrap(), Ipv4Addr::new(127, 0, 1, 1));
        let addresses: std::collections::BTreeSet<_> = (0..600).map(|_| allocator.address().unwrap()).collect();
        assert_eq!(addresses.len(), 600);
        assert!(addresses.contains(&Ipv4Addr::new(127, 0, 2, 0)));
    }
}

//! The outbound side of a sidecar as its Sidecar resource says: listeners and the services of each (SC2, SC5).

use std::sync::Arc;

use mesh_proto::crd::sidecar::{CaptureMode, IstioEgressListener};
use mesh_proto::crd::virtual_service::Destination;
use mesh_proto::names::{MESH_GATEWAY, cluster};

use crate::model::{Interception, Node, NodeKind, OutboundPolicy, Protocol, PushContext, Service, host};
use crate::translate::route::{Site, destination};

/// An outbound listener as wanted, or, without a port, one for every port of its services.
#[derive(Debug)]
pub struct Egress {
    /// Its port; every port of the services when absent.
    pub port: Option<EgressPort>,
    /// Address to bind, or `unix://PATH`.
    pub bind: Option<String>,
    /// It opens its port itself: traffic does not reach it by capture.
    pub bound: bool,
    /// What it serves, by host.
    pub services: Arc<[Arc<Service>]>,
}

/// A port of a Sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EgressPort {
    /// Number.
    pub number: u16,
    /// Protocol.
    pub protocol: Protocol,
}

impl Egress {
    /// True if it serves every HTTP service by `Host`.
    pub fn is_http_proxy(&self) -> bool {
        self.port.is_some_and(|port| port.protocol == Protocol::HttpProxy)
    }
}

/// The outbound listeners of a sidecar; one for everything that it may reach if no Sidecar says otherwise. Those with a port come first.
pub fn listeners(context: &PushContext, node: &Node) -> Vec<Egress> {
    let captured = node.interception != Interception::None;
    let sidecar = context.sidecar(node);
    let written = sidecar.as_ref().map(|sidecar| sidecar.spec.egress.as_slice()).unwrap_or_default();
    if written.is_empty() {
        return vec![Egress { port: None, bind: None, bound: !captured, services: context.services(node) }];
    }
    let mut listeners: Vec<Egress> = written
        .iter()
        .map(|one| Egress {
            port: port(one),
            bind: Some(one.bind.clone()).filter(|bind| !bind.is_empty()),
            bound: !captured || one.capture_mode == CaptureMode::None || one.bind.starts_with("unix://"),
            services: context.listener_services(node, one),
        })
        .collect();
    listeners.sort_by_key(|one| one.port.is_none());
    listeners
}

fn port(listener: &IstioEgressListener) -> Option<EgressPort> {
    let port = listener.port.as_ref()?;
    let number = u16::try_from(port.number).ok()?;
    Some(EgressPort { number, protocol: Protocol::parse(&port.protocol).unwrap_or(Protocol::Unknown) })
}

/// `meshConfig.proxyHttpPort`, if it is on.
pub fn http_proxy_port(context: &PushContext) -> Option<u16> {
    u16::try_from(context.mesh.proxy_http_port).ok().filter(|port| *port != 0)
}

/// Where traffic to destinations goes that the mesh does not know (MC4, SC5).
pub fn catch_all_cluster(context: &PushContext, node: &Node) -> String {
    if context.outbound_policy(node) == OutboundPolicy::RegistryOnly {
        return cluster::BLACK_HOLE.to_owned();
    }
    let sidecar = context.sidecar(node).filter(|_| node.kind == NodeKind::Sidecar);
    let proxy =
        sidecar.as_ref().and_then(|sidecar| sidecar.spec.outbound_traffic_policy.as_ref()?.egress_proxy.as_ref());
    let (Some(sidecar), Some(proxy)) = (sidecar.as_ref(), proxy) else { return cluster::PASSTHROUGH.to_owned() };
    let full = host::full_host(&proxy.host, &sidecar.key.namespace, &context.domain).to_string();
    let site = Site { context, node, gateway: MESH_GATEWAY, port: 0, tls: false };
    destination::cluster(&site, &Destination { host: full, ..proxy.clone() })
}

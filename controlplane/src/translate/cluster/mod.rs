//! Clusters: where traffic goes. Outbound for each port and subset of each service in sight, inbound for each port that the workload
//! serves, and those for what the mesh does not know. The shapes are those of docs/xds.md, "Clusters and endpoints".

pub mod policy;
pub mod tls;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use mesh_proto::crd::destination_rule::{ConnectionPoolSettings, TrafficPolicy};
use mesh_proto::crd::sidecar::IstioIngressListener;
use mesh_proto::names::cluster as names;
use mesh_proto::xds::cluster::Cluster;
use mesh_proto::xds::cluster::cluster::{
    ClusterDiscoveryType, DiscoveryType, DnsLookupFamily, EdsClusterConfig, LbPolicy,
};
use mesh_proto::xds::{core, endpoint as eds, wkt};

use super::locality::Failover;
use super::{Names, endpoint, telemetry, wire};
use crate::model::{Interception, Node, NodeKind, Protocol, PushContext, Resolution, Service, ServicePort, Target};
use policy::Speaks;

/// The clusters of a node, of those that are wanted.
pub fn clusters(context: &PushContext, node: &Node, wanted: Names<'_>) -> Vec<Cluster> {
    let mut all = Vec::new();
    for service in context.services(node).iter() {
        outbound(context, node, service, wanted, &mut all);
    }
    let rest = inbound(context, node).into_iter().chain(fixed_clusters(context, node));
    all.extend(rest.filter(|cluster| wanted.contains(&cluster.name)));
    all
}

/// The clusters of one service.
pub fn of_service(context: &PushContext, node: &Node, service: &Service) -> Vec<Cluster> {
    let mut all = Vec::new();
    outbound(context, node, service, Names::All, &mut all);
    all
}

/// The clusters that depend on no service.
pub fn fixed_clusters(context: &PushContext, node: &Node) -> Vec<Cluster> {
    match node.kind {
        NodeKind::Sidecar => vec![black_hole(), passthrough(context), inbound_passthrough(context, node)],
        // Gateways pass nothing on that they do not know.
        NodeKind::Router => vec![black_hole()],
    }
}

fn outbound(context: &PushContext, node: &Node, service: &Service, wanted: Names<'_>, all: &mut Vec<Cluster>) {
    let rule = context.destination_rule(node, service);
    let first = all.len();
    for port in service.ports.iter().filter(|port| port.protocol != Protocol::Udp) {
        let subsets = rule.iter().flat_map(|rule| rule.spec.subsets.iter());
        let subsets = subsets.map(|subset| (subset.name.as_str(), Some(&subset.labels)));
        for (subset, labels) in std::iter::once(("", None)).chain(subsets) {
            let name = names::outbound(port.number, subset, &service.host);
            if !wanted.contains(&name) || all[first..].iter().any(|known| known.name == name) {
                continue;
            }
            let spec = rule.as_ref().map(|rule| &rule.spec);
            let traffic = policy::effective(spec, (!subset.is_empty()).then_some(subset), port.number);
            let built = Outbound { context, node, service, port, subset, labels, traffic: &traffic }.build(name);
            if let Some(mut cluster) = built {
                cluster.metadata = Some(metadata(&[service], rule.as_ref().map(|rule| &rule.key), subset));
                all.push(cluster);
            }
        }
    }
}

/// One outbound cluster in the making.
struct Outbound<'a> {
    context: &'a PushContext,
    node: &'a Node,
    service: &'a Service,
    port: &'a ServicePort,
    subset: &'a str,
    labels: Option<&'a BTreeMap<String, String>>,
    traffic: &'a TrafficPolicy,
}

impl Outbound<'_> {
    /// `None` for a name that resolves to nothing: no endpoint is written down.
    #[allow(deprecated)] // Envoy moved DNS settings into an extension; the contract keeps the fields that every version reads.
    fn build(&self, name: String) -> Option<Cluster> {
        let mesh = &self.context.mesh;
        let http = self.traffic.connection_pool.as_ref().and_then(|pool| pool.http.as_ref());
        let speaks = Speaks::of(self.port.protocol, http, mesh);
        let mut cluster = Cluster { name, ..Default::default() };
        let keeps_address = policy::load_balancer(&mut cluster, self.traffic, self.node);
        let kind = if keeps_address && self.node.kind == NodeKind::Sidecar {
            DiscoveryType::OriginalDst
        } else {
            discovery(self.node, self.service)
        };
        match kind {
            DiscoveryType::Eds => {
                cluster.eds_cluster_config =
                    Some(EdsClusterConfig { eds_config: Some(wire::ads()), service_name: cluster.name.clone() });
            }
            DiscoveryType::StrictDns | DiscoveryType::LogicalDns => {
                let inline = self.inline(&cluster.name)?;
                cluster.load_assignment = Some(inline);
                cluster.dns_refresh_rate = Some(wire::duration(mesh.dns_refresh_rate.0));
                cluster.dns_lookup_family = lookup_family(self.node).into();
            }
            _ => cluster.lb_policy = LbPolicy::ClusterProvided.into(),
        }
        let kind = match (&cluster.load_assignment, kind) {
            // One name only may stand in a LOGICAL_DNS cluster.
            (Some(inline), DiscoveryType::LogicalDns) if endpoints_of(inline) != 1 => DiscoveryType::StrictDns,
            (_, kind) => kind,
        };
        cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(kind.into()));
        if kind != DiscoveryType::OriginalDst && cluster.lb_policy == i32::from(LbPolicy::ClusterProvided) {
            cluster.lb_policy = LbPolicy::LeastRequest.into();
        }
        policy::connection_pool(&mut cluster, self.traffic, speaks, mesh);
        if self.node.ferromesh && speaks != Speaks::Tcp {
            policy::default_retry_budget(&mut cluster, self.traffic);
        }
        policy::outlier_detection(&mut cluster, self.traffic.outlier_detection.as_ref());
        let Self { context, node, service, port, subset, .. } = self;
        let towards = tls::Towards { context, node, service, port, subset, speaks };
        tls::apply(&mut cluster, self.traffic.tls.as_ref(), &towards, kind);
        Some(cluster)
    }

    fn inline(&self, name: &str) -> Option<eds::ClusterLoadAssignment> {
        let failover = Failover::of(self.traffic, self.context, self.node, self.service);
        let part = endpoint::Part { service: self.service, port: self.port, labels: self.labels, failover };
        let assignment = endpoint::assignment(self.context, self.node, &part, name);
        (!assignment.endpoints.is_empty()).then_some(assignment)
    }
}

fn endpoints_of(assignment: &eds::ClusterLoadAssignment) -> usize {
    assignment.endpoints.iter().map(|group| group.lb_endpoints.len()).sum()
}

/// How endpoints are found. Gateways and proxies without capture have no original destination to keep.
pub fn discovery(node: &Node, service: &Service) -> DiscoveryType {
    let captured = node.kind == NodeKind::Sidecar && node.interception != Interception::None && !node.grpc;
    match service.resolution {
        Resolution::Dns => DiscoveryType::StrictDns,
        Resolution::DnsRoundRobin => DiscoveryType::LogicalDns,
        Resolution::Passthrough if captured => DiscoveryType::OriginalDst,
        Resolution::Passthrough | Resolution::Static => DiscoveryType::Eds,
    }
}

/// The addresses that a node can reach, by those that it has.
fn lookup_family(node: &Node) -> DnsLookupFamily {
    match (node.addresses.iter().any(IpAddr::is_ipv4), node.addresses.iter().any(IpAddr::is_ipv6)) {
        (true, true) => DnsLookupFamily::All,
        (false, true) => DnsLookupFamily::V6Only,
        (true, false) => DnsLookupFamily::V4Only,
        (false, false) => DnsLookupFamily::Auto,
    }
}

/// `istio.services`, `istio.config`, `istio.subset`.
fn metadata(services: &[&Service], rule: Option<&crate::model::Key>, subset: &str) -> core::Metadata {
    let structure = |service: &&Service| {
        let fields =
            [("host", &*service.host), ("name", telemetry::service_name(service)), ("namespace", &*service.namespace)];
        let fields = fields.into_iter().map(|(key, text)| (key.to_owned(), wire::string(text))).collect();
        wkt::Value { kind: Some(wkt::value::Kind::StructValue(wkt::Struct { fields })) }
    };
    let mut metadata = rule.map(wire::config_metadata).unwrap_or_default();
    let istio = metadata.filter_metadata.entry("istio".to_owned()).or_default();
    let list = wkt::ListValue { values: services.iter().map(structure).collect() };
    istio.fields.insert("services".to_owned(), wkt::Value { kind: Some(wkt::value::Kind::ListValue(list)) });
    if !subset.is_empty() {
        istio.fields.insert("subset".to_owned(), wire::string(subset));
    }
    metadata
}

/// A port that a workload serves, from its services or its Sidecar.
#[derive(Debug, Clone)]
pub struct InboundPort {
    /// Port that clients come to.
    pub number: u16,
    /// What is spoken.
    pub protocol: Protocol,
    /// Services behind it, the one that names it first.
    pub targets: Vec<Target>,
    /// The listener of the Sidecar that it comes from.
    pub ingress: Option<IstioIngressListener>,
    /// Limits: of the Sidecar's listener, of the Sidecar, or of the service's rule, in this order (SC4, DR10).
    pub pool: Option<ConnectionPoolSettings>,
}

/// The ports that a workload serves: those of its Sidecar if that names any, else of its services.
pub fn inbound_ports(context: &PushContext, node: &Node) -> Vec<InboundPort> {
    let sidecar = context.sidecar(node);
    let pool = sidecar.as_ref().and_then(|sidecar| sidecar.spec.inbound_connection_pool.clone());
    let targets = context.targets(node);
    let of_rule = |targets: &[Target]| {
        let target = targets.first()?;
        let rule = context.destination_rule(node, &target.service)?;
        policy::effective(Some(&rule.spec), None, target.port.number).connection_pool
    };
    let ingress = sidecar.iter().flat_map(|sidecar| sidecar.spec.ingress.iter());
    let from_sidecar = ingress.filter_map(|listener| {
        let number = u16::try_from(listener.port.number).ok().filter(|number| *number > 0)?;
        let targets: Vec<Target> = targets.iter().filter(|target| target.target_port == number).cloned().collect();
        Some(InboundPort {
            number,
            protocol: Protocol::parse(&listener.port.protocol).unwrap_or(Protocol::Unknown),
            pool: listener.connection_pool.clone().or_else(|| pool.clone()).or_else(|| of_rule(&targets)),
            targets,
            ingress: Some(listener.clone()),
        })
    });
    let from_sidecar: Vec<_> = from_sidecar.collect();
    if !from_sidecar.is_empty() {
        return from_sidecar;
    }
    let mut ports: BTreeMap<u16, Vec<Target>> = BTreeMap::new();
    for target in targets.into_iter().filter(|target| target.port.protocol != Protocol::Udp) {
        ports.entry(target.target_port).or_default().push(target);
    }
    let ports = ports.into_iter().map(|(number, targets)| InboundPort {
        number,
        protocol: targets.first().map_or(Protocol::Unknown, |target| target.port.protocol),
        pool: pool.clone().or_else(|| of_rule(&targets)),
        targets,
        ingress: None,
    });
    ports.collect()
}

/// The clusters of what the workload serves.
pub fn inbound(context: &PushContext, node: &Node) -> Vec<Cluster> {
    if node.kind != NodeKind::Sidecar {
        return Vec::new();
    }
    let ports = inbound_ports(context, node).into_iter().map(|port| {
        let name = names::inbound(port.number);
        let traffic = TrafficPolicy { connection_pool: port.pool.clone(), ..Default::default() };
        let mut cluster = Cluster {
            load_assignment: Some(eds::ClusterLoadAssignment {
                cluster_name: name.clone(),
                endpoints: vec![eds::LocalityLbEndpoints {
                    lb_endpoints: vec![endpoint::plain(application(node, &port))],
                    ..Default::default()
                }],
                ..Default::default()
            }),
            name,
            cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Static.into())),
            ..Default::default()
        };
        // What the client spoke is what the application hears, whatever upgrades clients make.
        let speaks = match port.protocol {
            protocol if protocol.is_http2() => Speaks::Http2,
            protocol if protocol.is_http() => Speaks::Http1,
            Protocol::Unknown => Speaks::Downstream,
            _ => Speaks::Tcp,
        };
        policy::connection_pool(&mut cluster, &traffic, speaks, &context.mesh);
        let services: Vec<&Service> = port.targets.iter().map(|target| &*target.service).collect();
        if !services.is_empty() {
            cluster.metadata = Some(metadata(&services, None, ""));
        }
        cluster
    });
    ports.collect()
}

/// Where the application listens: on the loopback address, unless a Sidecar names a Unix socket or another port (SC3). The workload's own
/// address would lead back into the proxy where traffic is captured.
fn application(node: &Node, port: &InboundPort) -> core::Address {
    let loopback = match node.addresses.first() {
        Some(address) if address.is_ipv6() => "::1",
        _ => "127.0.0.1",
    };
    let endpoint = port.ingress.as_ref().map_or("", |ingress| ingress.default_endpoint.as_str());
    if let Some(path) = endpoint.strip_prefix("unix://") {
        let pipe = core::Pipe { path: path.to_owned(), ..Default::default() };
        return core::Address { address: Some(core::address::Address::Pipe(pipe)) };
    }
    match endpoint.rsplit_once(':').and_then(|(host, number)| Some((host, number.parse::<u16>().ok()?))) {
        Some(("127.0.0.1", number)) => wire::socket_address("127.0.0.1", number),
        Some(("[::1]", number)) => wire::socket_address("::1", number),
        Some((_, number)) => wire::socket_address(loopback, number),
        None => wire::socket_address(loopback, port.number),
    }
}

fn fixed(name: &str, kind: DiscoveryType) -> Cluster {
    let balancer = if kind == DiscoveryType::OriginalDst { LbPolicy::ClusterProvided } else { LbPolicy::RoundRobin };
    Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(kind.into())),
        connect_timeout: Some(wire::duration(Duration::from_secs(10))),
        lb_policy: balancer.into(),
        ..Default::default()
    }
}

fn black_hole() -> Cluster {
    fixed(names::BLACK_HOLE, DiscoveryType::Static)
}

fn passthrough(context: &PushContext) -> Cluster {
    let mut cluster = fixed(names::PASSTHROUGH, DiscoveryType::OriginalDst);
    policy::connection_pool(&mut cluster, &TrafficPolicy::default(), Speaks::Downstream, &context.mesh);
    cluster
}

fn inbound_passthrough(context: &PushContext, node: &Node) -> Cluster {
    let mut cluster = fixed(names::INBOUND_PASSTHROUGH, DiscoveryType::OriginalDst);
    policy::connection_pool(&mut cluster, &TrafficPolicy::default(), Speaks::Downstream, &context.mesh);
    // Capture leaves this source alone, else the connection would come back to the proxy (AG2).
    let ipv6 = node.addresses.first().is_some_and(IpAddr::is_ipv6);
    cluster.upstream_bind_config = Some(core::BindConfig {
        source_address: Some(core::SocketAddress {
            address: if ipv6 { "::6" } else { "127.0.0.6" }.to_owned(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(0)),
            ..Default::default()
        }),
        ..Default::default()
    });
    cluster
}

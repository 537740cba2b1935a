//! Endpoints of a cluster, grouped by locality, with what the proxy must know of each: its workload and whether it speaks mesh mTLS.

use std::collections::BTreeMap;

use mesh_proto::names::{cluster as names, label};
use mesh_proto::xds::cluster::cluster::DiscoveryType;
use mesh_proto::xds::endpoint::{
    ClusterLoadAssignment, Endpoint as Place, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier,
};
use mesh_proto::xds::{core, wkt};

use super::locality::{self, Failover};
use super::{Names, cluster, wire};
use crate::model::{Address, Endpoint, Mode, Name, Node, PushContext, Service, ServicePort, Workload};
use crate::translate::cluster::policy;

/// A part of a service: a port, and the labels of a subset.
#[derive(Debug, Clone)]
pub struct Part<'a> {
    /// The service.
    pub service: &'a Service,
    /// Its port.
    pub port: &'a ServicePort,
    /// Labels of the subset.
    pub labels: Option<&'a BTreeMap<String, String>>,
    /// How endpoints farther away are held back; absent where all are alike.
    pub failover: Option<Failover<'a>>,
}

/// The assignments that are wanted. `All` is every EDS cluster in sight.
pub fn assignments(context: &PushContext, node: &Node, wanted: Names<'_>) -> Vec<ClusterLoadAssignment> {
    let all: Vec<Name>;
    let list = match wanted {
        Names::Some(list) => list,
        Names::All => {
            let clusters = cluster::clusters(context, node, Names::All).into_iter();
            all = clusters.filter(|one| one.eds_cluster_config.is_some()).map(|one| one.name.into()).collect();
            &all
        }
    };
    list.iter().filter_map(|name| named(context, node, name)).collect()
}

/// The assignment of this name.
pub fn named(context: &PushContext, node: &Node, name: &str) -> Option<ClusterLoadAssignment> {
    let parsed = names::parse(name).filter(|parsed| parsed.direction == names::Direction::Outbound)?;
    let service = &*context.reachable(node, parsed.host)?;
    if cluster::discovery(node, service) != DiscoveryType::Eds {
        return None;
    }
    let port = service.ports.iter().find(|port| port.number == parsed.port)?;
    let rule = context.destination_rule(node, service);
    let labels = match parsed.subset {
        "" => None,
        subset => Some(&rule.as_ref()?.spec.subsets.iter().find(|known| known.name == subset)?.labels),
    };
    let subset = (!parsed.subset.is_empty()).then_some(parsed.subset);
    let traffic = policy::effective(rule.as_ref().map(|rule| &rule.spec), subset, port.number);
    let failover = locality::Failover::of(&traffic, context, node, service);
    Some(assignment(context, node, &Part { service, port, labels, failover }, name))
}

/// The endpoints of a part of a service, under the name of its cluster.
pub fn assignment(context: &PushContext, node: &Node, part: &Part<'_>, name: &str) -> ClusterLoadAssignment {
    let endpoints = context.endpoints(part.service, part.port);
    let own = context.workload(node).map_or("", |workload| &*workload.node);
    let near = |endpoint: &&Endpoint| !part.service.node_local || *endpoint.workload.node == *own;
    let mut groups: BTreeMap<&str, Vec<LbEndpoint>> = BTreeMap::new();
    for endpoint in endpoints.iter().filter(near) {
        let labels = &endpoint.workload.labels;
        let chosen =
            |wanted: &BTreeMap<String, String>| wanted.iter().all(|(key, value)| labels.get(key) == Some(value));
        if part.labels.is_none_or(chosen) {
            groups.entry(&endpoint.workload.locality).or_default().push(one(context, node, part.service, endpoint));
        }
    }
    let priorities = part.failover.as_ref().map(|failover| failover.priorities(groups.keys().copied()));
    let endpoints = groups.into_iter().map(|(locality, lb_endpoints)| {
        let weight = lb_endpoints.iter().map(|one| one.load_balancing_weight.as_ref().map_or(1, |weight| weight.value));
        LocalityLbEndpoints {
            locality: self::message(locality),
            load_balancing_weight: wire::number(weight.fold(0, u32::saturating_add)),
            priority: priorities.as_ref().and_then(|known| known.get(locality).copied()).unwrap_or(0),
            lb_endpoints,
            ..Default::default()
        }
    });
    ClusterLoadAssignment { cluster_name: name.to_owned(), endpoints: endpoints.collect(), ..Default::default() }
}

fn message(text: &str) -> Option<core::Locality> {
    let mut parts = text.split('/').map(str::to_owned);
    let mut next = || parts.next().unwrap_or_default();
    let locality = core::Locality { region: next(), zone: next(), sub_zone: next() };
    (!text.is_empty()).then_some(locality)
}

/// An endpoint of which only the address is known.
pub fn plain(address: core::Address) -> LbEndpoint {
    LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(Place { address: Some(address), ..Default::default() })),
        ..Default::default()
    }
}

fn one(context: &PushContext, node: &Node, service: &Service, endpoint: &Endpoint) -> LbEndpoint {
    let (address, hostname) = match &endpoint.address {
        Address::Ip(address) => (wire::socket_address(address.to_string(), endpoint.port), String::new()),
        Address::Dns(name) => (wire::socket_address(&**name, endpoint.port), name.to_string()),
        Address::Unix(path) => {
            let pipe = core::Pipe { path: path.to_string(), ..Default::default() };
            (core::Address { address: Some(core::address::Address::Pipe(pipe)) }, String::new())
        }
    };
    let place = Place { address: Some(address), hostname, ..Default::default() };
    LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(place)),
        load_balancing_weight: wire::number(endpoint.weight),
        metadata: metadata(context, node, service, endpoint),
        ..Default::default()
    }
}

/// `istio.workload`, `ferromesh`, and the mark of mesh mTLS. Anonymous endpoints have none but the mark.
fn metadata(context: &PushContext, node: &Node, service: &Service, endpoint: &Endpoint) -> Option<core::Metadata> {
    let workload = &*endpoint.workload;
    let mut metadata = core::Metadata::default();
    let mut add = |filter: &str, fields: Vec<(&str, String)>| {
        let fields = fields.into_iter().map(|(key, text)| (key.to_owned(), wire::string(text))).collect();
        metadata.filter_metadata.insert(filter.to_owned(), wkt::Struct { fields });
    };
    // A workload that accepts plaintext only is not spoken mTLS to, whatever it can (PA4).
    let accepts = || context.mtls(&workload.namespace, &workload.labels).port(endpoint.port) != Mode::Disable;
    if workload.mtls && !service.external && accepts() {
        add("envoy.transport_socket_match", vec![("tlsMode", "istio".to_owned())]);
    }
    let get = |key: &str| workload.labels.get(key).map(String::as_str);
    if !workload.workload_name.is_empty() || !workload.labels.is_empty() {
        add("istio", vec![("workload", described(workload))]);
    }
    if node.ferromesh {
        let known = [
            ("app", get(label::APP).unwrap_or_default()),
            ("version", get(label::VERSION).unwrap_or_default()),
            ("service_account", &*workload.service_account),
        ];
        let known = known.into_iter().filter(|(_, text)| !text.is_empty()).map(|(key, text)| (key, text.to_owned()));
        let known: Vec<_> = known.collect();
        if !known.is_empty() {
            add("ferromesh", known);
        }
    }
    (!metadata.filter_metadata.is_empty()).then_some(metadata)
}

/// `WORKLOAD;NAMESPACE;CANONICAL_NAME;CANONICAL_REVISION;CLUSTER`.
fn described(workload: &Workload) -> String {
    let get = |key: &str| workload.labels.get(key).map(String::as_str);
    let (name, revision) = label::canonical(get, &workload.workload_name);
    let cluster = if workload.cluster.is_empty() { "Kubernetes" } else { &workload.cluster };
    format!("{};{};{name};{revision};{cluster}", workload.workload_name, workload.namespace)
}

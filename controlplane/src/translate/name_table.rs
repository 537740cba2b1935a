//! The names that the proxy's DNS server answers by itself (AG9): services with addresses, and the pods of headless ones.
//! Source: Istio's `pkg/dns/server/name_table.go`.

use std::collections::HashMap;

use mesh_proto::istio::nds::{NameTable, name_table::NameInfo};

use crate::model::{Address, Node, PushContext, Registry, Service};

/// The one name of this resource.
pub const NAME: &str = "name-table";

/// The names in sight of a node.
pub fn name_table(context: &PushContext, node: &Node) -> NameTable {
    let mut table = HashMap::new();
    for service in context.services(node).iter() {
        let addresses = addresses(context, node, service);
        if addresses.is_empty() {
            continue;
        }
        let kubernetes = service.registry == Registry::Kubernetes;
        let info = |ips: Vec<String>| NameInfo {
            ips,
            registry: if kubernetes { "Kubernetes" } else { "External" }.to_owned(),
            // The proxy makes the short forms `NAME` and `NAME.NAMESPACE` from these.
            shortname: if kubernetes { service.name.to_string() } else { String::new() },
            namespace: if kubernetes { service.namespace.to_string() } else { String::new() },
        };
        if service.headless {
            // Each pod of a headless service has a name of its own: POD.SERVICE.NAMESPACE.svc.DOMAIN.
            for (pod, ip) in pods(context, service) {
                let short = format!("{pod}.{}", service.name);
                let own = NameInfo { shortname: short, ..info(vec![ip]) };
                table.insert(format!("{pod}.{}", service.host), own);
            }
        }
        table.insert(service.host.to_string(), info(addresses));
    }
    NameTable { table }
}

fn addresses(context: &PushContext, node: &Node, service: &Service) -> Vec<String> {
    if service.headless {
        let mut all: Vec<String> = pods(context, service).into_iter().map(|(_, ip)| ip).collect();
        all.sort();
        all.dedup();
        return all;
    }
    service.addresses_for(node).iter().map(ToString::to_string).collect()
}

fn pods(context: &PushContext, service: &Service) -> Vec<(String, String)> {
    let endpoints = service.ports.iter().flat_map(|port| context.endpoints(service, port).to_vec());
    let pods = endpoints.filter_map(|endpoint| match endpoint.address {
        Address::Ip(address) => Some((endpoint.workload.name.to_string(), address.to_string())),
        Address::Dns(_) | Address::Unix(_) => None,
    });
    let mut pods: Vec<_> = pods.collect();
    pods.sort();
    pods.dedup();
    pods
}

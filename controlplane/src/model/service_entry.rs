//! ServiceEntry → [`Service`]s, one for each host; WorkloadEntry → [`Workload`] (SE1–SE5, WE1).

use std::net::IpAddr;

use mesh_proto::crd::{self, service_entry as raw};
use mesh_proto::names::{annotation, label};

use super::kubernetes::prefers_near;
use super::{
    Address, Endpoint, ExportTo, Key, Meta, Name, Object, Protocol, Registry, Resolution, Service, ServicePort,
    Workload,
};

/// The services of an entry.
pub fn services(object: &Object, entry: &crd::ServiceEntry, export_default: &[String]) -> Vec<Service> {
    let Key { namespace, name, .. } = &object.key;
    let ports: Vec<ServicePort> = entry.ports.iter().filter_map(port).collect();
    let addresses = entry.addresses.iter().filter_map(|text| text.parse::<IpAddr>().ok());
    let ranges = entry.addresses.iter().filter_map(|text| text.parse::<ipnet::IpNet>().ok());
    // A range of one address is that address.
    let (single, ranges): (Vec<_>, Vec<_>) = ranges.partition(|range| range.prefix_len() == range.max_prefix_len());
    let addresses: Vec<IpAddr> = addresses.chain(single.into_iter().map(|range| range.addr())).collect();
    let export_to = ExportTo::of(&entry.export_to, export_default, namespace);
    let make = |host: &String| Service {
        host: host.trim_end_matches('.').to_ascii_lowercase().into(),
        name: name.clone(),
        namespace: namespace.clone(),
        registry: Registry::External,
        created: object.meta.created,
        origin: object.origin.clone(),
        labels: object.meta.labels.clone(),
        ports: ports.clone(),
        addresses: addresses.clone(),
        ranges: ranges.clone(),
        auto_addresses: Vec::new(),
        resolution: match entry.resolution {
            raw::Resolution::None => Resolution::Passthrough,
            raw::Resolution::Static => Resolution::Static,
            // Validation refuses DYNAMIC_DNS; an object that reached the model unvalidated is resolved as a whole name.
            raw::Resolution::Dns | raw::Resolution::DynamicDns => Resolution::Dns,
            raw::Resolution::DnsRoundRobin => Resolution::DnsRoundRobin,
        },
        external: entry.location == raw::Location::MeshExternal,
        headless: false,
        node_local: false,
        prefers_near: object
            .meta
            .annotations
            .get(annotation::TRAFFIC_DISTRIBUTION)
            .is_some_and(|word| prefers_near(word)),
        selector: entry.workload_selector.as_ref().map(|selector| selector.labels.clone()),
        export_to: export_to.clone(),
        subject_alt_names: entry.subject_alt_names.clone(),
    };
    entry.hosts.iter().map(make).collect()
}

fn port(raw: &crd::Port) -> Option<ServicePort> {
    let number = u16::try_from(raw.number).ok().filter(|number| *number > 0)?;
    let target = raw.target_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
    let protocol = match raw.protocol.as_str() {
        "" => Protocol::of_port(None, &raw.name, number),
        word => Protocol::parse(word).unwrap_or(Protocol::Unknown),
    };
    let target = Some(target.unwrap_or(number));
    Some(ServicePort { name: raw.name.as_str().into(), number, protocol, target, target_name: None })
}

/// A WorkloadEntry, or an endpoint written in a ServiceEntry (which has no name). Labels of the object's metadata win.
pub fn workload(name: &Name, namespace: &Name, meta: &Meta, entry: &crd::WorkloadEntry) -> Workload {
    let mut labels = entry.labels.clone();
    labels.extend(meta.labels.iter().map(|(key, value)| (key.clone(), value.clone())));
    let network = if entry.network.is_empty() { labels.get(label::NETWORK) } else { Some(&entry.network) };
    // Istio's rule: the label says it; without it, a service account means a sidecar.
    let mtls = labels.get(label::TLS_MODE).map_or(!entry.service_account.is_empty(), |mode| mode == "istio");
    let owner = labels.get(label::WORKLOAD_NAME).map_or_else(|| name.clone(), |owner| owner.as_str().into());
    let ports = entry.ports.iter().filter_map(|(name, port)| Some((name.clone(), u16::try_from(*port).ok()?)));
    Workload {
        name: name.clone(),
        namespace: namespace.clone(),
        workload_name: owner,
        addresses: entry.address.parse().into_iter().collect(),
        service_account: entry.service_account.as_str().into(),
        locality: entry.locality.trim_end_matches('/').into(),
        node: "".into(),
        network: network.map_or("", String::as_str).into(),
        cluster: labels.get(label::CLUSTER).map_or("", String::as_str).into(),
        mtls,
        ready: true,
        named_ports: ports.collect(),
        labels,
    }
}

/// Where an entry listens for `port`; its own port of that name wins over the service's.
pub fn endpoint(workload: &std::sync::Arc<Workload>, entry: &crd::WorkloadEntry, port: &ServicePort) -> Endpoint {
    let (address, number) = match entry.address.strip_prefix("unix://") {
        Some(path) => (Address::Unix(path.into()), 0),
        None => {
            let named = port.target_name.as_ref().and_then(|name| workload.named_ports.get(&**name));
            let named = named.or_else(|| workload.named_ports.get(&*port.name)).copied();
            let address = match entry.address.parse() {
                Ok(address) => Address::Ip(address),
                Err(_) => Address::Dns(entry.address.to_ascii_lowercase().into()),
            };
            (address, named.or(port.target).unwrap_or(port.number))
        }
    };
    Endpoint {
        address,
        port: number,
        port_name: port.name.clone(),
        weight: entry.weight.max(1),
        healthy: true,
        workload: workload.clone(),
    }
}

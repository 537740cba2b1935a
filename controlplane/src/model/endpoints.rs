//! Which workloads stand behind which service, by namespace: an object changes the endpoints of its own namespace only, so
//! the other namespaces of the index are shared with the one before.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use mesh_proto::names::label;
use mesh_proto::{crd, kube};

use super::store::Objects;
use super::{
    Address, Endpoint, Kind, Meta, Name, Registry, Resolution, Service, ServicePort, Spec, Workload, kubernetes,
    service_entry,
};

/// Endpoints and workloads of a namespace.
#[derive(Debug, Default)]
pub struct NamespaceEndpoints {
    /// Pods and WorkloadEntries, by name.
    pub workloads: Vec<Arc<Workload>>,
    /// Endpoints by host.
    pub hosts: BTreeMap<Name, HostEndpoints>,
}

/// Endpoints of a host.
#[derive(Debug, Default, PartialEq)]
pub struct HostEndpoints {
    /// By name of the service port.
    pub ports: BTreeMap<Name, Arc<[Endpoint]>>,
    /// Namespaces and service accounts of workloads that speak for it.
    pub accounts: BTreeSet<(Name, Name)>,
}

/// An entry of the namespace with its address as written.
struct Entry<'a> {
    raw: &'a crd::WorkloadEntry,
    workload: Arc<Workload>,
}

/// What is known in a namespace before services come into it.
struct Known<'a> {
    pods: Vec<Arc<Workload>>,
    entries: Vec<Entry<'a>>,
    localities: &'a BTreeMap<Name, Name>,
}

/// Localities of nodes by name.
pub fn localities(objects: &Objects) -> BTreeMap<Name, Name> {
    let nodes = objects.of(Kind::Node);
    nodes.map(|object| (object.key.name.clone(), kubernetes::node_locality(&object.meta.labels))).collect()
}

/// The endpoints of `namespace`, from its objects. `services` are those of the namespace.
pub fn build(
    objects: &Objects,
    namespace: &str,
    services: &[Arc<Service>],
    localities: &BTreeMap<Name, Name>,
) -> NamespaceEndpoints {
    let pods = objects.within(Kind::Pod, namespace).filter_map(|object| match &object.spec {
        Spec::Pod(pod) => kubernetes::workload(object, pod, localities).map(Arc::new),
        _ => None,
    });
    let entries = objects.within(Kind::WorkloadEntry, namespace).filter_map(|object| match &object.spec {
        Spec::WorkloadEntry(raw) => {
            let workload = service_entry::workload(&object.key.name, &object.key.namespace, &object.meta, raw);
            Some(Entry { raw, workload: Arc::new(workload) })
        }
        _ => None,
    });
    let known = Known { pods: pods.collect(), entries: entries.collect(), localities };
    let mut found: BTreeMap<Name, BTreeMap<Name, Vec<Endpoint>>> = BTreeMap::new();
    for service in services {
        let ports = found.entry(service.host.clone()).or_default();
        for port in &service.ports {
            let list = ports.entry(port.name.clone()).or_default();
            match service.registry {
                Registry::Kubernetes => of_kubernetes(objects, service, port, &known, list),
                Registry::External => of_entry(objects, service, port, &known, list),
            }
        }
    }
    let hosts = found.into_iter().map(|(host, ports)| {
        let mut result = HostEndpoints::default();
        for (name, mut list) in ports {
            list.sort_by(|one, other| (&one.address, one.port).cmp(&(&other.address, other.port)));
            list.dedup_by(|one, other| one.address == other.address && one.port == other.port);
            let accounts = list.iter().filter(|endpoint| !endpoint.workload.service_account.is_empty());
            let accounts = accounts.map(|one| (one.workload.namespace.clone(), one.workload.service_account.clone()));
            result.accounts.extend(accounts);
            result.ports.insert(name, list.into());
        }
        (host, result)
    });
    let hosts = hosts.collect();
    let mut workloads = known.pods;
    workloads.extend(known.entries.into_iter().map(|entry| entry.workload));
    workloads.sort_by(|one, other| one.name.cmp(&other.name));
    NamespaceEndpoints { workloads, hosts }
}

/// True if `labels` hold all of the selector's, which must not be empty.
pub fn selects(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// The port of a workload that a service port means.
pub fn target_port(port: &ServicePort, workload: &Workload) -> Option<u16> {
    match &port.target_name {
        Some(name) => workload.named_ports.get(&**name).copied(),
        None => port.target.or(Some(port.number)),
    }
}

fn of_kubernetes(
    objects: &Objects,
    service: &Service,
    port: &ServicePort,
    known: &Known<'_>,
    list: &mut Vec<Endpoint>,
) {
    let object = objects.get(Kind::Service, &service.namespace, &service.name);
    let Some(Spec::Service(raw)) = object.map(|object| &object.spec) else { return };
    let spec = raw.spec.clone().unwrap_or_default();
    if service.resolution == Resolution::Dns {
        if let Some(name) = spec.external_name.filter(|name| !name.is_empty()) {
            list.push(named(service, port, &name));
        }
        return;
    }
    let unready_too = spec.publish_not_ready_addresses.unwrap_or(false);
    let slices = objects.within(Kind::EndpointSlice, &service.namespace).filter_map(|object| match &object.spec {
        Spec::EndpointSlice(slice) => {
            let named = object.meta.labels.get(label::ENDPOINT_SLICE_SERVICE)?;
            (**named == *service.name).then_some(slice)
        }
        _ => None,
    });
    let mut sliced = false;
    for slice in slices {
        sliced = true;
        of_slice(slice, service, port, known, unready_too, list);
    }
    let Some(selector) = &service.selector else { return };
    if !sliced {
        let pods = known.pods.iter().filter(|pod| selects(selector, &pod.labels) && (pod.ready || unready_too));
        list.extend(pods.filter_map(|pod| of_pod(pod, port)));
    }
    let entries = known.entries.iter().filter(|entry| selects(selector, &entry.workload.labels));
    list.extend(entries.map(|entry| service_entry::endpoint(&entry.workload, entry.raw, port)));
}

fn of_pod(pod: &Arc<Workload>, port: &ServicePort) -> Option<Endpoint> {
    Some(Endpoint {
        address: Address::Ip(*pod.addresses.first()?),
        port: target_port(port, pod)?,
        port_name: port.name.clone(),
        weight: 1,
        healthy: true,
        workload: pod.clone(),
    })
}

fn of_slice(
    slice: &kube::EndpointSlice,
    service: &Service,
    port: &ServicePort,
    known: &Known<'_>,
    unready_too: bool,
    list: &mut Vec<Endpoint>,
) {
    let (pods, localities) = (&known.pods, known.localities);
    let numbers = slice.ports.iter().flatten().filter(|one| one.name.as_deref().unwrap_or_default() == &*port.name);
    let Some(number) = numbers.filter_map(|one| u16::try_from(one.port?).ok()).next() else { return };
    for endpoint in slice.endpoints.iter().flatten() {
        // An absent condition is taken as ready, as the API says.
        let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready);
        if ready == Some(false) && !unready_too {
            continue;
        }
        let Some(address) = endpoint.addresses.iter().find_map(|text| text.parse::<IpAddr>().ok()) else { continue };
        let target = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"));
        let by_name = target.and_then(|target| pods.iter().find(|pod| Some(&*pod.name) == target.name.as_deref()));
        let workload = by_name.or_else(|| pods.iter().find(|pod| pod.addresses.contains(&address)));
        let workload = workload.cloned().unwrap_or_else(|| {
            let locality = endpoint.node_name.as_deref().and_then(|node| localities.get(node).cloned());
            Arc::new(anonymous(&service.namespace, vec![address], locality.unwrap_or_default()))
        });
        list.push(Endpoint {
            address: Address::Ip(address),
            port: number,
            port_name: port.name.clone(),
            weight: 1,
            healthy: true,
            workload,
        });
    }
}

fn of_entry(objects: &Objects, service: &Service, port: &ServicePort, known: &Known<'_>, list: &mut Vec<Endpoint>) {
    if service.resolution == Resolution::Passthrough {
        return;
    }
    let object = objects.get(Kind::ServiceEntry, &service.namespace, &service.name);
    let Some(Spec::ServiceEntry(raw)) = object.map(|object| &object.spec) else { return };
    let before = list.len();
    if let Some(selector) = &service.selector {
        let pods = known.pods.iter().filter(|pod| selects(selector, &pod.labels) && pod.ready);
        list.extend(pods.filter_map(|pod| of_pod(pod, port)));
        let entries = known.entries.iter().filter(|entry| selects(selector, &entry.workload.labels));
        list.extend(entries.map(|entry| service_entry::endpoint(&entry.workload, entry.raw, port)));
    }
    let (anonymous, meta) = (Name::from(""), Meta::default());
    for entry in &raw.endpoints {
        let workload = Arc::new(service_entry::workload(&anonymous, &service.namespace, &meta, entry));
        list.push(service_entry::endpoint(&workload, entry, port));
    }
    // A name without endpoints stands for itself.
    let by_name = matches!(service.resolution, Resolution::Dns | Resolution::DnsRoundRobin);
    if by_name && list.len() == before && service.selector.is_none() && !service.host.starts_with('*') {
        list.push(named(service, port, &service.host));
    }
}

/// An endpoint that is a name, or an address written as one.
fn named(service: &Service, port: &ServicePort, name: &str) -> Endpoint {
    Endpoint {
        address: match name.parse() {
            Ok(address) => Address::Ip(address),
            Err(_) => Address::Dns(name.trim_end_matches('.').to_ascii_lowercase().into()),
        },
        port: port.target.unwrap_or(port.number),
        port_name: port.name.clone(),
        weight: 1,
        healthy: true,
        workload: Arc::new(anonymous(&service.namespace, Vec::new(), Name::from(""))),
    }
}

fn anonymous(namespace: &Name, addresses: Vec<IpAddr>, locality: Name) -> Workload {
    Workload {
        name: "".into(),
        namespace: namespace.clone(),
        workload_name: "".into(),
        addresses,
        labels: BTreeMap::new(),
        service_account: "".into(),
        locality,
        node: "".into(),
        network: "".into(),
        cluster: "".into(),
        mtls: false,
        ready: true,
        named_ports: BTreeMap::new(),
    }
}

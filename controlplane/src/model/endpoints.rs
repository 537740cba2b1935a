//! Which workloads stand behind which service, by namespace and host. An object changes endpoints of its own namespace only, and [`touched`]
//! says of which hosts, so the rest of the index is shared with the one before.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use mesh_proto::{crd, kube};

use super::services::Services;
use super::store::Objects;
use super::{
    Address, Endpoint, Kind, Meta, Name, Object, Registry, Resolution, Service, ServicePort, Spec, Workload,
    kubernetes, service_entry,
};

/// From how many changed workloads on a namespace is looked at as a whole, which then costs less than to look for each of them.
const MANY: usize = 16;

/// Endpoints and workloads of a namespace.
#[derive(Debug, Default, Clone)]
pub struct NamespaceEndpoints {
    /// Pods and WorkloadEntries.
    pub workloads: Arc<Workloads>,
    /// Endpoints by host.
    pub hosts: BTreeMap<Name, Arc<HostEndpoints>>,
}

/// Endpoints of a host.
#[derive(Debug, Default, PartialEq)]
pub struct HostEndpoints {
    /// By name of the service port.
    pub ports: BTreeMap<Name, Arc<[Endpoint]>>,
    /// Namespaces and service accounts of workloads that speak for it.
    pub accounts: BTreeSet<(Name, Name)>,
}

/// Workloads of a namespace.
#[derive(Debug, Default)]
pub struct Workloads {
    pods: BTreeMap<Name, Arc<Workload>>,
    entries: BTreeMap<Name, Arc<Workload>>,
    /// Of several pods with one address the first by name.
    pods_by_address: BTreeMap<IpAddr, Arc<Workload>>,
}

impl Workloads {
    fn new(objects: &Objects, namespace: &str, localities: &BTreeMap<Name, Name>) -> Self {
        let pods = objects.within(Kind::Pod, namespace).filter_map(|object| workload(object, localities));
        let entries = objects.within(Kind::WorkloadEntry, namespace).filter_map(|object| workload(object, localities));
        let named = |workload: Workload| (workload.name.clone(), Arc::new(workload));
        let mut workloads =
            Self { pods: pods.map(named).collect(), entries: entries.map(named).collect(), ..Self::default() };
        for pod in workloads.pods.values() {
            for address in &pod.addresses {
                workloads.pods_by_address.entry(*address).or_insert_with(|| pod.clone());
            }
        }
        workloads
    }

    /// All; those of one name follow each other.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.pods.values().chain(self.entries.values())
    }

    /// The pod of this name, or the WorkloadEntry.
    pub fn named(&self, name: &str) -> Option<&Arc<Workload>> {
        self.pods.get(name).or_else(|| self.entries.get(name))
    }

    /// The pod and the WorkloadEntry of this name.
    pub fn all_named(&self, name: &str) -> impl Iterator<Item = &Arc<Workload>> {
        self.pods.get(name).into_iter().chain(self.entries.get(name))
    }

    fn is_empty(&self) -> bool {
        self.pods.is_empty() && self.entries.is_empty()
    }
}

/// The workload of a Pod or a WorkloadEntry.
fn workload(object: &Object, localities: &BTreeMap<Name, Name>) -> Option<Workload> {
    match &object.spec {
        Spec::Pod(pod) => kubernetes::workload(object, pod, localities),
        Spec::WorkloadEntry(raw) => {
            Some(service_entry::workload(&object.key.name, &object.key.namespace, &object.meta, raw))
        }
        _ => None,
    }
}

/// Localities of nodes by name.
pub fn localities(objects: &Objects) -> BTreeMap<Name, Name> {
    let nodes = objects.of(Kind::Node);
    nodes.map(|object| (object.key.name.clone(), kubernetes::node_locality(&object.meta.labels))).collect()
}

/// What is known when the endpoints of a namespace are made.
pub struct Inputs<'a> {
    /// Every object.
    pub objects: &'a Objects,
    /// Every service.
    pub services: &'a Services,
    /// Localities of nodes.
    pub localities: &'a BTreeMap<Name, Name>,
}

/// Which hosts of a namespace are made anew.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Touched {
    /// All.
    pub all: bool,
    /// The workloads themselves.
    pub workloads: bool,
    /// These.
    pub hosts: BTreeSet<Name>,
}

/// What changed workloads, as they were and as they are, touch in their namespace.
pub fn touched(inputs: &Inputs<'_>, namespace: &str, changed: &[&Object], touched: &mut Touched) {
    touched.workloads = true;
    if changed.len() > MANY {
        touched.all = true;
        return;
    }
    let workloads: Vec<Workload> = changed.iter().filter_map(|object| workload(object, inputs.localities)).collect();
    for service in inputs.services.of_namespace(namespace) {
        let selected = |selector| workloads.iter().any(|workload| selects(selector, &workload.labels));
        if service.selector.as_ref().is_some_and(selected) {
            touched.hosts.insert(service.host.clone());
        }
    }
    // Slices name workloads of services without a selector too.
    for (service, slice) in inputs.objects.slices_within(namespace) {
        let named = slice.endpoints.iter().flatten().any(|endpoint| {
            let target = endpoint.target_ref.as_ref().and_then(|target| target.name.as_deref());
            let addresses = || endpoint.addresses.iter().filter_map(|text| text.parse::<IpAddr>().ok());
            changed.iter().any(|object| Some(&*object.key.name) == target)
                || addresses().any(|address| workloads.iter().any(|workload| workload.addresses.contains(&address)))
        });
        if named {
            let services = inputs.services.of_object(Registry::Kubernetes, namespace, service);
            touched.hosts.extend(services.iter().map(|service| service.host.clone()));
        }
    }
}

/// The endpoints of `namespace` with what is touched made anew; `None` if there is nothing in it.
pub fn rebuild(
    inputs: &Inputs<'_>,
    namespace: &str,
    before: Option<&NamespaceEndpoints>,
    touched: &Touched,
) -> Option<NamespaceEndpoints> {
    let mut next = before.cloned().unwrap_or_default();
    if touched.workloads || touched.all {
        next.workloads = Arc::new(Workloads::new(inputs.objects, namespace, inputs.localities));
    }
    let mut hosts = touched.hosts.clone();
    if touched.all {
        hosts.extend(next.hosts.keys().cloned());
        hosts.extend(inputs.services.of_namespace(namespace).iter().map(|service| service.host.clone()));
    }
    let known = Known {
        workloads: &next.workloads,
        entries: entries(inputs.objects, namespace, &next.workloads),
        localities: inputs.localities,
    };
    for host in hosts {
        let services = inputs.services.of_host(&host).iter().filter(|service| *service.namespace == *namespace);
        match build(inputs.objects, services, &known) {
            None => drop(next.hosts.remove(&host)),
            Some(built) => {
                // What is as before stays the same allocation, by which others see at once that it is.
                if next.hosts.get(&host).is_none_or(|before| **before != built) {
                    next.hosts.insert(host, Arc::new(built));
                }
            }
        }
    }
    (!next.workloads.is_empty() || !next.hosts.is_empty()).then_some(next)
}

/// An entry of the namespace with its address as written.
struct Entry<'a> {
    raw: &'a crd::WorkloadEntry,
    workload: Arc<Workload>,
}

/// What is known in a namespace before services come into it.
struct Known<'a> {
    workloads: &'a Workloads,
    entries: Vec<Entry<'a>>,
    localities: &'a BTreeMap<Name, Name>,
}

fn entries<'a>(objects: &'a Objects, namespace: &str, workloads: &Workloads) -> Vec<Entry<'a>> {
    let entries = objects.within(Kind::WorkloadEntry, namespace).filter_map(|object| match &object.spec {
        Spec::WorkloadEntry(raw) => Some(Entry { raw, workload: workloads.entries.get(&object.key.name)?.clone() }),
        _ => None,
    });
    entries.collect()
}

/// The endpoints of the services of one host and namespace; `None` if there is no such service.
fn build<'a>(
    objects: &Objects,
    services: impl Iterator<Item = &'a Arc<Service>>,
    known: &Known<'_>,
) -> Option<HostEndpoints> {
    let mut found: Option<BTreeMap<Name, Vec<Endpoint>>> = None;
    for service in services {
        let ports = found.get_or_insert_default();
        for port in &service.ports {
            let list = ports.entry(port.name.clone()).or_default();
            match service.registry {
                Registry::Kubernetes => of_kubernetes(objects, service, port, known, list),
                Registry::External => of_entry(objects, service, port, known, list),
            }
        }
    }
    let mut result = HostEndpoints::default();
    for (name, mut list) in found? {
        list.sort_by(|one, other| (&one.address, one.port).cmp(&(&other.address, other.port)));
        list.dedup_by(|one, other| one.address == other.address && one.port == other.port);
        let accounts = list.iter().filter(|endpoint| !endpoint.workload.service_account.is_empty());
        let accounts = accounts.map(|one| (one.workload.namespace.clone(), one.workload.service_account.clone()));
        result.accounts.extend(accounts);
        result.ports.insert(name, list.into());
    }
    Some(result)
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
    let slices = objects.slices(&service.namespace, &service.name);
    let mut sliced = false;
    for slice in slices {
        sliced = true;
        of_slice(slice, service, port, known, unready_too, list);
    }
    let Some(selector) = &service.selector else { return };
    if !sliced {
        let pods =
            known.workloads.pods.values().filter(|pod| selects(selector, &pod.labels) && (pod.ready || unready_too));
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
    let (workloads, localities) = (known.workloads, known.localities);
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
        let by_name = target.and_then(|target| workloads.pods.get(target.name.as_deref()?));
        let workload = by_name.or_else(|| workloads.pods_by_address.get(&address));
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
        let pods = known.workloads.pods.values().filter(|pod| selects(selector, &pod.labels) && pod.ready);
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

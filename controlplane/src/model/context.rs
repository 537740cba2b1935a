//! An immutable view of everything known: what translation reads.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use mesh_proto::crd::sidecar::{IstioEgressListener, OutboundMode};
use mesh_proto::names::MESH_GATEWAY;
use mesh_proto::{crd, kube};
use parking_lot::Mutex;

use super::destination_rule::DestinationRules;
use super::endpoints::{self, NamespaceEndpoints};
use super::logging::{self, AccessLog};
use super::scope::{self, Scope};
use super::security::{self, Authorization, Mode, Mtls};
use super::services::Services;
use super::virtual_service::Entry;
use super::{
    Address, Changes, Endpoint, Key, Meta, Name, Node, NodeKind, Object, Origin, Registry, Resolution, Service,
    ServicePort, Spec, Workload,
};

/// An object of Istio's, traceable to its source.
#[derive(Debug, Clone, PartialEq)]
pub struct Config<T> {
    /// Kind, namespace, name.
    pub key: Key,
    /// Labels and the like.
    pub meta: Meta,
    /// Where it stands.
    pub origin: Origin,
    /// Its body.
    pub spec: T,
}

impl<T> Config<T> {
    /// By this the older of two wins (G7).
    pub fn age(&self) -> (i64, &Name, &Name) {
        (self.meta.created, &self.key.name, &self.key.namespace)
    }
}

/// Which side of a connection a proxy stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The workload serves.
    Inbound,
    /// The workload, or the gateway, is the client.
    Outbound,
}

/// What happens to traffic to destinations that the mesh does not know (MC4, SC5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutboundPolicy {
    /// Passed through.
    AllowAny,
    /// Dropped.
    RegistryOnly,
}

/// A port of a service that a node serves.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// The service.
    pub service: Arc<Service>,
    /// Its port.
    pub port: ServicePort,
    /// The port of the workload.
    pub target_port: u16,
}

/// Secrets by namespace and name.
type Secrets = BTreeMap<(Name, Name), Arc<Object>>;

/// Scopes by namespace and Sidecar, each with the hosts of services that changed since it was made.
type Scopes = BTreeMap<(Name, Option<Key>), (Arc<Scope>, BTreeSet<Name>)>;

/// Everything known at one time. See the module.
#[derive(Debug)]
pub struct PushContext {
    /// Counts up by one with each change.
    pub version: u64,
    /// The mesh's settings.
    pub mesh: Arc<crd::MeshConfig>,
    /// DNS domain of Kubernetes services, `cluster.local`.
    pub domain: Name,
    pub(super) services: Arc<Services>,
    pub(super) endpoints: Arc<BTreeMap<Name, Arc<NamespaceEndpoints>>>,
    pub(super) virtual_services: Arc<Vec<Arc<Entry>>>,
    pub(super) destination_rules: Arc<DestinationRules>,
    pub(super) gateways: Arc<Vec<Arc<Config<crd::Gateway>>>>,
    pub(super) sidecars: Arc<Vec<Arc<Config<crd::Sidecar>>>>,
    pub(super) peer_authentications: Arc<Vec<Arc<Config<crd::PeerAuthentication>>>>,
    pub(super) authorization_policies: Arc<Vec<Arc<Config<crd::AuthorizationPolicy>>>>,
    pub(super) telemetries: Arc<Vec<Arc<Config<crd::Telemetry>>>>,
    pub(super) secrets: Arc<Secrets>,
    /// Scopes are made when the first proxy of a namespace and Sidecar asks.
    scopes: Mutex<Scopes>,
    /// Addresses of endpoints that clients reach by them; made when first asked for.
    dialed: OnceLock<BTreeSet<IpAddr>>,
}

impl PushContext {
    pub(super) fn empty(mesh: Arc<crd::MeshConfig>, domain: Name) -> Self {
        Self {
            version: 0,
            mesh,
            domain,
            services: Arc::default(),
            endpoints: Arc::default(),
            virtual_services: Arc::default(),
            destination_rules: Arc::default(),
            gateways: Arc::default(),
            sidecars: Arc::default(),
            peer_authentications: Arc::default(),
            authorization_policies: Arc::default(),
            telemetries: Arc::default(),
            secrets: Arc::default(),
            scopes: Mutex::default(),
            dialed: OnceLock::new(),
        }
    }

    /// The same under the next version, without what was derived; scopes are kept by [`PushContext::keep_scopes`].
    pub(super) fn successor(&self) -> Self {
        Self {
            version: self.version + 1,
            mesh: self.mesh.clone(),
            domain: self.domain.clone(),
            services: self.services.clone(),
            endpoints: self.endpoints.clone(),
            virtual_services: self.virtual_services.clone(),
            destination_rules: self.destination_rules.clone(),
            gateways: self.gateways.clone(),
            sidecars: self.sidecars.clone(),
            peer_authentications: self.peer_authentications.clone(),
            authorization_policies: self.authorization_policies.clone(),
            telemetries: self.telemetries.clone(),
            secrets: self.secrets.clone(),
            scopes: Mutex::default(),
            dialed: OnceLock::new(),
        }
    }

    /// Takes over the scopes of the context before, after a change. Those of a Sidecar with its own egress depend on more than one host each,
    /// so they are made anew.
    pub(super) fn keep_scopes(&mut self, before: &Self, changes: &Changes) {
        if changes.full {
            return;
        }
        let untouched = changes.services.is_empty() && !changes.rules;
        let kept = before.scopes.lock();
        let kept = kept.iter().filter(|(_, (scope, _))| untouched || scope.everything);
        let kept = kept.map(|(key, (scope, stale))| {
            let mut stale = stale.clone();
            stale.extend(changes.services.iter().cloned());
            let mut scope = scope.clone();
            if changes.rules {
                let virtual_services = self.virtual_services_for(&key.0, MESH_GATEWAY).into();
                scope = Arc::new(Scope { virtual_services, ..(*scope).clone() });
            }
            (key.clone(), (scope, stale))
        });
        self.scopes = Mutex::new(kept.collect());
    }

    fn root(&self) -> &str {
        &self.mesh.root_namespace
    }

    /// What a node may reach.
    pub fn scope(&self, node: &Node) -> Arc<Scope> {
        let sidecar = scope::sidecar(&self.sidecars, node, self.root());
        let key = (node.namespace.clone(), sidecar.map(|sidecar| sidecar.key.clone()));
        let known = self.scopes.lock().get(&key).cloned();
        let made = match known {
            Some((scope, stale)) if stale.is_empty() => return scope,
            Some((scope, stale)) => Arc::new(scope::refresh(&scope, self, &node.namespace, &stale)),
            None => Arc::new(scope::build(self, &node.namespace, sidecar.map(|sidecar| &**sidecar))),
        };
        self.scopes.lock().insert(key, (made.clone(), BTreeSet::new()));
        made
    }

    /// The addresses of endpoints that clients reach by these, because their services have none of their own.
    pub fn dialed(&self) -> &BTreeSet<IpAddr> {
        self.dialed.get_or_init(|| {
            let services = self.all_services();
            let by_address =
                services.filter(|service| service.headless || service.resolution == Resolution::Passthrough);
            let endpoints = by_address
                .flat_map(|service| service.ports.iter().flat_map(|port| self.endpoints(service, port).to_vec()));
            let addresses = endpoints.filter_map(|endpoint| match endpoint.address {
                Address::Ip(address) => Some(address),
                Address::Dns(_) | Address::Unix(_) => None,
            });
            addresses.collect()
        })
    }

    pub(super) fn service_hosts(&self) -> impl Iterator<Item = (&Name, &[Arc<Service>])> {
        self.services.hosts()
    }

    /// What all services are kept in. It is another after any of them changes; endpoints are kept elsewhere.
    pub fn service_index(&self) -> Arc<Services> {
        self.services.clone()
    }

    /// Every service, by host; several of one host in no certain order.
    pub fn all_services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.hosts().flat_map(|(_, services)| services)
    }

    /// Every workload that is known by name, by namespace.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.endpoints.values().flat_map(|namespace| namespace.workloads.all())
    }

    /// The services that a node may reach, by host: visible to its namespace and imported by its Sidecar. Of several with one host, the
    /// one of the node's namespace, then Kubernetes', then the oldest.
    pub fn services(&self, node: &Node) -> Arc<[Arc<Service>]> {
        self.scope(node).services.clone()
    }

    /// The service of this host among those that a node may reach.
    pub fn reachable(&self, node: &Node, host: &str) -> Option<Arc<Service>> {
        self.scope(node).service(host).cloned()
    }

    /// The services of one egress listener of the node's Sidecar, with the listener's port only if it has one.
    pub fn listener_services(&self, node: &Node, listener: &IstioEgressListener) -> Arc<[Arc<Service>]> {
        scope::listener_services(self, &node.namespace, listener).into()
    }

    /// The service of exactly this host that `namespace` means by it.
    pub fn service(&self, namespace: &str, host: &str) -> Option<&Arc<Service>> {
        scope::preferred(namespace, self.services.of_host(host).iter())
    }

    /// The endpoints of a port, by address.
    pub fn endpoints(&self, service: &Service, port: &ServicePort) -> Arc<[Endpoint]> {
        let host = self.endpoints.get(&service.namespace).and_then(|namespace| namespace.hosts.get(&service.host));
        host.and_then(|host| host.ports.get(&port.name)).cloned().unwrap_or_else(|| Arc::from([]))
    }

    /// The SPIFFE ids that may answer for a service: of the workloads behind it, in every trust domain, and those that a ServiceEntry of
    /// the same host and namespace names (SE5, SE7). Sorted.
    pub fn identities(&self, service: &Service) -> Vec<String> {
        let host = self.endpoints.get(&service.namespace).and_then(|namespace| namespace.hosts.get(&service.host));
        let accounts = host.map(|host| &host.accounts).into_iter().flatten();
        let domains = || std::iter::once(&self.mesh.trust_domain).chain(&self.mesh.trust_domain_aliases);
        let accounts = accounts.flat_map(|(namespace, account)| {
            domains().map(move |domain| format!("spiffe://{domain}/ns/{namespace}/sa/{account}"))
        });
        let same_host = self.services.of_host(&service.host).iter();
        let named = same_host.filter(|other| other.namespace == service.namespace);
        let named = named.flat_map(|other| other.subject_alt_names.iter().cloned());
        let mut all: Vec<String> = accounts.chain(named).collect();
        all.sort();
        all.dedup();
        all
    }

    /// The workload of a node: the pod or entry of its name, else one at its address whose labels the node has.
    pub fn workload(&self, node: &Node) -> Option<&Arc<Workload>> {
        let workloads = &self.endpoints.get(&node.namespace)?.workloads;
        workloads.named(&node.name).or_else(|| workloads.all().find(|workload| is_of(workload, node)))
    }

    /// Where a node is: as it says itself, else as its workload says (G16).
    pub fn locality<'a>(&'a self, node: &'a Node) -> &'a str {
        if !node.locality.is_empty() {
            return &node.locality;
        }
        self.workload(node).map_or("", |workload| &workload.locality)
    }

    /// What a node serves: the services of its namespace that select it, or that have it as an endpoint, whether it is ready or not.
    pub fn targets(&self, node: &Node) -> Vec<Target> {
        let workload = self.workload(node);
        let labels = match workload {
            Some(workload) if node.labels.is_empty() => &workload.labels,
            _ => &node.labels,
        };
        let mut targets = Vec::new();
        for service in self.services.of_namespace(&node.namespace) {
            let selected = service.selector.as_ref().map(|selector| endpoints::selects(selector, labels));
            if selected == Some(false) || (service.external && service.registry == Registry::Kubernetes) {
                continue;
            }
            for port in &service.ports {
                let by_endpoint = || {
                    let all = self.endpoints(service, port);
                    let mut own = all.iter().filter(|endpoint| is_of(&endpoint.workload, node));
                    own.next().map(|endpoint| endpoint.port)
                };
                let target_port = match (selected, workload) {
                    // The entry's own ports by name are in its endpoint.
                    (Some(_), Some(workload)) => by_endpoint().or_else(|| endpoints::target_port(port, workload)),
                    (Some(_), None) => port.target.or_else(by_endpoint).or(Some(port.number)),
                    (None, _) => by_endpoint(),
                };
                if let Some(target_port) = target_port {
                    targets.push(Target { service: service.clone(), port: port.clone(), target_port });
                }
            }
        }
        targets.sort_by(|one, other| {
            let order = |target: &Target| (target.target_port, target.service.registry, target.service.created);
            (order(one), &one.service.host).cmp(&(order(other), &other.service.host))
        });
        targets
    }

    /// The VirtualServices that hold for a node at a gateway (`mesh`, or `namespace/name`), older first. Names of hosts, destinations
    /// and gateways are full, delegates are merged in.
    pub fn virtual_services(&self, node: &Node, gateway: &str) -> Arc<[Arc<Config<crd::VirtualService>>]> {
        if gateway == MESH_GATEWAY && node.kind == NodeKind::Sidecar {
            return self.scope(node).virtual_services.clone();
        }
        self.virtual_services_for(&node.namespace, gateway).into()
    }

    pub(super) fn virtual_services_for(&self, namespace: &str, gateway: &str) -> Vec<Arc<Config<crd::VirtualService>>> {
        let visible = self.virtual_services.iter().filter(|entry| {
            entry.export_to.allows(namespace) && entry.config.spec.gateways.iter().any(|name| name == gateway)
        });
        visible.map(|entry| entry.config.clone()).collect()
    }

    /// The DestinationRule that holds for a client of a service (DR2), rules of one host merged (DR3).
    pub fn destination_rule(&self, node: &Node, service: &Service) -> Option<Arc<Config<crd::DestinationRule>>> {
        self.destination_rules.find(node, service, self.root()).cloned()
    }

    /// The Gateways that select a gateway node, older first (GW1).
    pub fn gateways(&self, node: &Node) -> Vec<Arc<Config<crd::Gateway>>> {
        if node.kind != NodeKind::Router {
            return Vec::new();
        }
        let selected = self.gateways.iter().filter(|gateway| {
            let selector = &gateway.spec.selector;
            selector.is_empty() || endpoints::selects(selector, &node.labels)
        });
        selected.cloned().collect()
    }

    /// The Sidecar of a sidecar (SC1).
    pub fn sidecar(&self, node: &Node) -> Option<Arc<Config<crd::Sidecar>>> {
        scope::sidecar(&self.sidecars, node, self.root()).cloned()
    }

    /// What happens to traffic of a node to unknown destinations (SC5, MC4).
    pub fn outbound_policy(&self, node: &Node) -> OutboundPolicy {
        let sidecar = self.sidecar(node);
        let own = sidecar.as_ref().and_then(|sidecar| sidecar.spec.outbound_traffic_policy.as_ref());
        match own.unwrap_or(&self.mesh.outbound_traffic_policy).mode {
            OutboundMode::RegistryOnly => OutboundPolicy::RegistryOnly,
            OutboundMode::AllowAny | OutboundMode::AllowAnyDynamicDns => OutboundPolicy::AllowAny,
        }
    }

    /// Which TLS a workload accepts (PA1, PA2).
    pub fn mtls(&self, namespace: &str, labels: &BTreeMap<String, String>) -> Mtls {
        security::mtls(&self.peer_authentications, namespace, labels, self.root())
    }

    /// The PeerAuthentications by which it accepts that, the nearest first: the workload's, its namespace's, the mesh's.
    pub fn peer_authentications(
        &self,
        namespace: &str,
        labels: &BTreeMap<String, String>,
    ) -> Vec<Arc<Config<crd::PeerAuthentication>>> {
        security::peer_authentications(&self.peer_authentications, namespace, labels, self.root())
    }

    /// Which TLS clients may expect in a namespace, without regard to single workloads (PA4).
    pub fn namespace_mtls(&self, namespace: &str) -> Mode {
        security::namespace_mode(&self.peer_authentications, namespace, self.root())
    }

    /// The AuthorizationPolicies that hold for a node (AP8).
    pub fn authorization(&self, node: &Node) -> Authorization {
        security::authorization(&self.authorization_policies, node, self.root())
    }

    /// The access logs of a node's side (TE1, TE4).
    pub fn access_logging(&self, node: &Node, direction: Direction) -> Vec<AccessLog> {
        logging::access_logs(&self.telemetries, &self.mesh, node, direction)
    }

    /// A secret.
    pub fn secret(&self, namespace: &str, name: &str) -> Option<&kube::Secret> {
        match &self.secrets.get(&(namespace.into(), name.into()))?.spec {
            Spec::Secret(secret) => Some(secret),
            _ => None,
        }
    }
}

/// True if a workload at one of the node's addresses has no label that the node lacks. Addresses alone do not tell workloads apart
/// where many share a machine.
fn is_of(workload: &Workload, node: &Node) -> bool {
    let named = workload.name.is_empty() || workload.name == node.name || workload.labels == node.labels;
    let labelled = || workload.labels.iter().all(|(key, value)| node.labels.get(key) == Some(value));
    named && workload.addresses.iter().any(|address| node.addresses.contains(address)) && labelled()
}

//! What is shown of a service, whether a pod or the service itself is described: ports, the DestinationRule, routes, gateways.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Pod;
use mesh_controlplane::model::endpoints::selects;
use mesh_controlplane::model::host::is_within;
use mesh_controlplane::model::virtual_service::destination_hosts;
use mesh_controlplane::model::{Key, Kind, Mode, Node, NodeKind, Protocol, Registry, Service};
use mesh_proto::crd::destination_rule::ClientTlsMode;
use mesh_proto::crd::{self};
use mesh_proto::names::MESH_GATEWAY;
use serde::Serialize;

use super::route::{Routes, words};
use super::{Known, client, key, node};

/// A service as clients of one namespace see it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceView {
    /// Full name.
    pub host: String,
    /// Its ports.
    pub ports: Vec<PortView>,
    /// The DestinationRule that holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_rule: Option<RuleView>,
    /// The VirtualServices that sidecars use for it: of the most specific host first, then older ones.
    pub routes: Vec<Routes>,
    /// By which gateways it is reached from outside.
    pub exposed: Vec<Exposure>,
}

/// A port of a service.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PortView {
    /// Number.
    pub number: u16,
    /// Name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Protocol by `appProtocol` or name; `auto` if it is found out by looking.
    pub protocol: String,
    /// Port of the pod that is described.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_port: Option<u16>,
    /// Endpoints that are ready.
    pub endpoints: usize,
}

/// A DestinationRule.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleView {
    /// `DestinationRule NAMESPACE/NAME`.
    pub object: String,
    /// What its trafficPolicy says, a phrase a field.
    pub policy: Vec<String>,
    /// Its subsets.
    pub subsets: Vec<SubsetView>,
}

/// A subset.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SubsetView {
    /// Name.
    pub name: String,
    /// Labels of its pods.
    pub labels: BTreeMap<String, String>,
    /// Pods in it that are ready.
    pub pods: usize,
    /// Whether the pod that is described is one of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holds_pod: Option<bool>,
}

/// A way in from outside.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Exposure {
    /// `Gateway NAMESPACE/NAME`.
    pub gateway: String,
    /// Its ports.
    pub ports: Vec<u32>,
    /// The rules that lead to the service.
    pub routes: Routes,
}

/// What a view is made for.
pub(super) struct Viewer<'a> {
    pub(super) known: &'a Known,
    /// Who looks.
    pub(super) node: &'a Node,
    /// The pod that is described, and its labels are the node's.
    pub(super) pod: Option<&'a Pod>,
}

impl Viewer<'_> {
    /// The view, the objects that it shows, and what is to be warned of.
    pub(super) fn service(&self, service: &Service, shown: &mut Vec<Key>, warnings: &mut Vec<String>) -> ServiceView {
        let kind = match service.registry {
            Registry::Kubernetes => Kind::Service,
            Registry::External => Kind::ServiceEntry,
        };
        shown.push(key(kind, &service.namespace, &service.name));
        let destination_rule = self.destination_rule(service, shown);
        let routes = self.routes(service, shown);
        for rule in routes.iter().flat_map(|routes| &routes.rules) {
            for share in rule.to.iter().filter(|share| share.host == *service.host && !share.subset.is_empty()) {
                let mut subsets = destination_rule.iter().flat_map(|rule| &rule.subsets);
                if subsets.any(|subset| subset.name == share.subset && subset.pods == 0) && share.percent > 0.0 {
                    let (name, subset) = (&rule.name, &share.subset);
                    warnings.push(format!(
                        "{name} sends {}% to subset {subset} of {}, which has no pods that are ready: such requests fail",
                        share.percent, service.host
                    ));
                }
            }
        }
        let ports = self.ports(service, warnings);
        ServiceView {
            host: service.host.to_string(),
            ports,
            destination_rule,
            routes,
            exposed: self.exposed(service, shown),
        }
    }

    fn ports(&self, service: &Service, warnings: &mut Vec<String>) -> Vec<PortView> {
        let context = &self.known.context;
        let at_edge = self.pod.is_some() && self.node.kind == NodeKind::Router;
        let targets = if self.pod.is_some() { context.targets(self.node) } else { Vec::new() };
        let view = |port: &mesh_controlplane::model::ServicePort| {
            let target = targets.iter().find(|one| one.service.host == service.host && one.port == *port);
            // What a gateway's ports speak is said by Gateways.
            if port.protocol == Protocol::Unknown && !at_edge {
                warnings.push(format!(
                    "port {} of {} names no protocol, so that it is found out by looking at each connection; set appProtocol or begin its name \
                     with one, such as http-{}",
                    port.number,
                    service.host,
                    if port.name.is_empty() { "web" } else { &port.name }
                ));
            }
            PortView {
                number: port.number,
                name: port.name.to_string(),
                protocol: protocol(port.protocol).to_owned(),
                pod_port: target.map(|target| target.target_port),
                endpoints: context.endpoints(service, port).iter().filter(|endpoint| endpoint.healthy).count(),
            }
        };
        service.ports.iter().map(view).collect()
    }

    fn destination_rule(&self, service: &Service, shown: &mut Vec<Key>) -> Option<RuleView> {
        let context = &self.known.context;
        let rule = context.destination_rule(self.node, service)?;
        shown.push(rule.key.clone());
        let subsets = rule.spec.subsets.iter().map(|subset| {
            let holds = |labels: &BTreeMap<String, String>| subset.labels.is_empty() || selects(&subset.labels, labels);
            let endpoints = service.ports.iter().map(|port| context.endpoints(service, port));
            let pods: BTreeSet<_> = endpoints
                .flat_map(|all| all.iter().map(|one| one.workload.clone()).collect::<Vec<_>>())
                .filter(|workload| holds(&workload.labels))
                .map(|workload| (workload.name.clone(), workload.addresses.clone()))
                .collect();
            SubsetView {
                name: subset.name.clone(),
                labels: subset.labels.clone(),
                pods: pods.len(),
                holds_pod: self.pod.map(|_| holds(&self.node.labels)),
            }
        });
        let mut policy = Vec::new();
        words("", &serde_json::to_value(&rule.spec.traffic_policy).unwrap_or_default(), &mut policy);
        Some(RuleView { object: rule.key.to_string(), policy, subsets: subsets.collect() })
    }

    fn routes(&self, service: &Service, shown: &mut Vec<Key>) -> Vec<Routes> {
        let sidecar = Node { kind: NodeKind::Sidecar, ..self.node.clone() };
        let held = self.known.context.virtual_services(&sidecar, MESH_GATEWAY);
        let covering = held.iter().filter_map(|config| {
            let covering = config.spec.hosts.iter().filter(|host| is_within(&service.host, host));
            // An exact host has no wildcard, and a longer one is more specific.
            let best = covering.map(|host| (host.starts_with('*'), usize::MAX - host.len())).min()?;
            Some((best, config))
        });
        let mut found: Vec<_> = covering.collect();
        found.sort_by_key(|(best, _)| *best);
        shown.extend(found.iter().map(|(_, config)| config.key.clone()));
        found.iter().map(|(_, config)| Routes::of(config)).collect()
    }

    /// Gateways whose VirtualServices lead to the service, as the proxies see them that the Gateways select.
    fn exposed(&self, service: &Service, shown: &mut Vec<Key>) -> Vec<Exposure> {
        let mut found = Vec::new();
        for (name, gateway) in &self.known.gateways {
            let selected = self
                .known
                .pods
                .iter()
                .find(|pod| pod.metadata.labels.as_ref().is_some_and(|labels| selects(&gateway.selector, labels)));
            let namespace = name.split('/').next().unwrap_or_default();
            let edge = selected.map_or_else(|| client(namespace, "gateway"), node);
            let router = Node { kind: NodeKind::Router, ..edge.clone() };
            for config in self.known.context.virtual_services(&router, name).iter() {
                if !destination_hosts(&config.spec).any(|host| *host == *service.host) {
                    continue;
                }
                shown.push(config.key.clone());
                found.push(Exposure {
                    gateway: format!("Gateway {name}"),
                    ports: ports(gateway),
                    routes: Routes::of(config).to(service),
                });
            }
        }
        found
    }
}

fn ports(gateway: &crd::Gateway) -> Vec<u32> {
    let ports: BTreeSet<u32> = gateway.servers.iter().map(|server| server.port.number).collect();
    ports.into_iter().collect()
}

/// Which TLS a workload accepts, and by which objects.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MtlsView {
    /// `STRICT`, `PERMISSIVE` or `DISABLE`.
    pub mode: &'static str,
    /// Ports of the pod where it is another.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub ports: BTreeMap<u16, &'static str>,
    /// PeerAuthentications that have a say, the nearest first.
    pub by: Vec<String>,
}

impl MtlsView {
    /// Of a sidecar; what a gateway accepts is said by its Gateways.
    pub(super) fn of(known: &Known, node: &Node, shown: &mut Vec<Key>) -> Option<Self> {
        if node.kind == NodeKind::Router {
            return None;
        }
        let mtls = known.context.mtls(&node.namespace, &node.labels);
        let by = known.context.peer_authentications(&node.namespace, &node.labels);
        shown.extend(by.iter().map(|one| one.key.clone()));
        Some(Self {
            mode: mode(mtls.default),
            ports: mtls.ports.iter().map(|(port, one)| (*port, mode(*one))).collect(),
            by: by.iter().map(|one| one.key.to_string()).collect(),
        })
    }

    /// What a client's DestinationRule does to it, where both do not fit.
    pub(super) fn conflict(&self, known: &Known, node: &Node, service: &Service, view: &ServiceView) -> Option<String> {
        let rule = known.context.destination_rule(node, service)?;
        let tls = rule.spec.traffic_policy.as_ref()?.tls.as_ref()?;
        let port = view.ports.iter().filter_map(|port| port.pod_port);
        let modes: BTreeSet<&str> = port.map(|port| *self.ports.get(&port).unwrap_or(&self.mode)).collect();
        match tls.mode {
            ClientTlsMode::Disable | ClientTlsMode::Simple if modes.contains("STRICT") => Some(format!(
                "{} makes clients send {}, and the pod takes mesh mTLS only: such requests fail; write tls.mode ISTIO_MUTUAL or leave it out",
                rule.key,
                if tls.mode == ClientTlsMode::Disable { "plaintext" } else { "TLS of their own" }
            )),
            ClientTlsMode::IstioMutual if modes.contains("DISABLE") => Some(format!(
                "{} makes clients send mesh mTLS, and the pod takes plaintext only: such requests fail; leave tls.mode out",
                rule.key
            )),
            _ => None,
        }
    }
}

/// An AuthorizationPolicy that holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyView {
    /// `DENY` or `ALLOW`.
    pub action: &'static str,
    /// `AuthorizationPolicy NAMESPACE/NAME`.
    pub object: String,
    /// How many rules it has; one without never matches.
    pub rules: usize,
}

/// Those of a node, in the order in which they are asked.
pub(super) fn policies(known: &Known, node: &Node, shown: &mut Vec<Key>) -> Vec<PolicyView> {
    let found = known.context.authorization(node);
    let all = found.deny.iter().map(|one| ("DENY", one)).chain(found.allow.iter().map(|one| ("ALLOW", one)));
    let view = all.map(|(action, policy)| {
        shown.push(policy.key.clone());
        PolicyView { action, object: policy.key.to_string(), rules: policy.spec.rules.len() }
    });
    view.collect()
}

fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Disable => "DISABLE",
        Mode::Permissive => "PERMISSIVE",
        Mode::Strict => "STRICT",
    }
}

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Http => "HTTP",
        Protocol::Http2 => "HTTP2",
        Protocol::Grpc => "GRPC",
        Protocol::GrpcWeb => "GRPC-WEB",
        Protocol::HttpProxy => "HTTP_PROXY",
        Protocol::Https => "HTTPS",
        Protocol::Tls => "TLS",
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Unknown => "auto",
    }
}

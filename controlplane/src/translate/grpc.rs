//! What gRPC's own xDS client and server understand (EX8), for nodes that say they are one: `HOST:PORT` is a listener with an
//! `api_listener`, its table and clusters are named as a sidecar's, and a server's listener is asked for by Istio's template.
//!
//! gRPC refuses a whole resource for one part of it that it does not know, so these are made apart. Source: gRPC's proposals A27, A28, A29, A36 and A41.

use mesh_proto::crd::destination_rule::{ClientTlsMode, ClientTlsSettings};
use mesh_proto::names::{SECRET_DEFAULT, SECRET_ROOT, cluster as names, label};
use mesh_proto::xds::cluster::cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig, LbConfig, LbPolicy};
use mesh_proto::xds::cluster::{Cluster, circuit_breakers};
use mesh_proto::xds::endpoint::ClusterLoadAssignment;
use mesh_proto::xds::hcm::{self, http_connection_manager as manager};
use mesh_proto::xds::{core, http_fault, http_router, listener, matcher, pack, route, tls};

use super::cluster::{policy, tls as sockets};
use super::endpoint::Part;
use super::locality::Failover;
use super::route::domain::{self, Form};
use super::{Names, authz, endpoint, http, wire};
use crate::model::{Mode, Node, Protocol, PushContext, Service, ServicePort};

/// Before the address in the name of a server's listener (`server_listener_resource_name_template` of Istio's bootstrap).
pub const SERVER: &str = "xds.istio.io/grpc/lds/inbound/";
const FAULT: &str = "envoy.filters.http.fault";
const ROUTER: &str = "envoy.filters.http.router";
/// The certificate provider of Istio's bootstrap for gRPC.
const PROVIDER: &str = "default";

/// The listeners of these names. There is no wildcard: gRPC asks for what it dials and for what it listens on.
pub fn listeners(context: &PushContext, node: &Node, wanted: Names<'_>) -> Vec<listener::Listener> {
    let Names::Some(wanted) = wanted else { return Vec::new() };
    let of = |name: &str| match name.strip_prefix(SERVER) {
        Some(address) => server(context, node, name, address),
        None => client(context, node, name),
    };
    wanted.iter().filter_map(|name| of(name)).collect()
}

/// `HOST:PORT`, in every form in which the workload may write the host.
fn client(context: &PushContext, node: &Node, name: &str) -> Option<listener::Listener> {
    let (host, port) = name.rsplit_once(':')?;
    let port: u16 = port.parse().ok()?;
    let services = context.services(node);
    let service = services.iter().find(|service| *service.host == *host).or_else(|| {
        let answers = |service: &Service| domain::of_service(service, node, port, Form::Bare).all;
        services.iter().find(|service| answers(service).iter().any(|domain| domain == host))
    })?;
    service.ports.iter().find(|one| one.number == port && is_served(one))?;
    let rds =
        hcm::Rds { config_source: Some(wire::ads()), route_config_name: names::outbound(port, "", &service.host) };
    let manager = hcm::HttpConnectionManager {
        stat_prefix: name.to_owned(),
        route_specifier: Some(manager::RouteSpecifier::Rds(rds)),
        http_filters: vec![http::filter(FAULT, &http_fault::HttpFault::default()), router()],
        ..Default::default()
    };
    Some(listener::Listener {
        name: name.to_owned(),
        api_listener: Some(listener::ApiListener { api_listener: Some(pack(&manager)) }),
        ..Default::default()
    })
}

fn router() -> hcm::HttpFilter {
    http::filter(ROUTER, &http_router::Router::default())
}

fn is_served(port: &ServicePort) -> bool {
    port.protocol.is_http() || port.protocol == Protocol::Unknown
}

/// The listener of a gRPC server at `IP:PORT`; it must name the very address. gRPC has no permissive mode: where clients are told that the
/// workload speaks mesh TLS, it is all that is spoken. Source: `buildInboundListeners` of Istio's `grpcgen`.
fn server(context: &PushContext, node: &Node, name: &str, address: &str) -> Option<listener::Listener> {
    let (host, port) = address.rsplit_once(':')?;
    let (host, port) = (host.trim_start_matches('[').trim_end_matches(']'), port.parse::<u16>().ok()?);
    context.targets(node).iter().find(|target| target.target_port == port)?;
    let announced = node.labels.get(label::TLS_MODE).is_some_and(|mode| mode == "istio");
    let secure = match context.mtls(&node.namespace, &node.labels).port(port) {
        Mode::Strict => true,
        Mode::Permissive => announced,
        Mode::Disable => false,
    };
    let served = route::Route {
        r#match: Some(route::RouteMatch {
            path_specifier: Some(route::route_match::PathSpecifier::Prefix("/".to_owned())),
            ..Default::default()
        }),
        action: Some(route::route::Action::NonForwardingAction(route::NonForwardingAction {})),
        ..Default::default()
    };
    let table = route::RouteConfiguration {
        name: names::inbound(port),
        virtual_hosts: vec![route::VirtualHost {
            name: names::inbound(port),
            domains: vec!["*".to_owned()],
            routes: vec![served],
            ..Default::default()
        }],
        ..Default::default()
    };
    let mut http_filters = authz::http_filters(context, node);
    http_filters.push(router());
    let manager = hcm::HttpConnectionManager {
        stat_prefix: names::inbound(port),
        route_specifier: Some(manager::RouteSpecifier::RouteConfig(table)),
        http_filters,
        ..Default::default()
    };
    let filter = listener::Filter {
        name: http::FILTER.to_owned(),
        config_type: Some(listener::filter::ConfigType::TypedConfig(pack(&manager))),
    };
    let chain = listener::FilterChain {
        name: names::inbound(port),
        filters: vec![filter],
        transport_socket: secure.then(|| {
            let context = tls::DownstreamTlsContext {
                common_tls_context: Some(identity(tls::CertificateValidationContext::default())),
                require_client_certificate: wire::boolean(true),
                ..Default::default()
            };
            sockets::socket(&context)
        }),
        ..Default::default()
    };
    Some(listener::Listener {
        name: name.to_owned(),
        address: Some(wire::socket_address(host, port)),
        filter_chains: vec![chain],
        traffic_direction: core::TrafficDirection::Inbound.into(),
        ..Default::default()
    })
}

/// The table `outbound|PORT||HOST`: the virtual host of that service alone.
pub fn table(context: &PushContext, node: &Node, name: &str) -> Option<route::RouteConfiguration> {
    let parsed =
        names::parse(name).filter(|one| one.direction == names::Direction::Outbound && one.subset.is_empty())?;
    let mut table = super::route::sidecar::table(context, node, &parsed.port.to_string())?;
    let wanted = format!("{}:{}", parsed.host, parsed.port);
    table.virtual_hosts.retain(|host| host.name == wanted);
    let host = table.virtual_hosts.first_mut()?;
    keep_known_filters(&mut host.typed_per_filter_config);
    host.routes.iter_mut().for_each(adapt);
    let virtual_hosts = table.virtual_hosts;
    Some(route::RouteConfiguration { name: name.to_owned(), virtual_hosts, ..Default::default() })
}

/// gRPC refuses settings of filters that it does not have.
fn keep_known_filters(settings: &mut std::collections::HashMap<String, mesh_proto::xds::wkt::Any>) {
    settings.retain(|filter, _| filter == FAULT);
}

/// A route for gRPC: its time limit has another name there, and nothing retries at another host by Envoy's extensions.
#[allow(deprecated)]
fn adapt(one: &mut route::Route) {
    keep_known_filters(&mut one.typed_per_filter_config);
    let Some(route::route::Action::Route(action)) = &mut one.action else { return };
    let limit = action.timeout.take().filter(|limit| limit.seconds > 0 || limit.nanos > 0);
    action.max_grpc_timeout = None;
    action.max_stream_duration = limit
        .map(|limit| route::route_action::MaxStreamDuration { max_stream_duration: Some(limit), ..Default::default() });
    if let Some(retry) = &mut action.retry_policy {
        retry.retry_host_predicate.clear();
        retry.retry_priority = None;
        retry.host_selection_retry_max_attempts = 0;
    }
    if let Some(route::route_action::ClusterSpecifier::WeightedClusters(weighted)) = &mut action.cluster_specifier {
        weighted.clusters.iter_mut().for_each(|one| keep_known_filters(&mut one.typed_per_filter_config));
    }
}

/// The clusters that are wanted.
pub fn clusters(context: &PushContext, node: &Node, wanted: Names<'_>) -> Vec<Cluster> {
    let mut all: Vec<Cluster> = Vec::new();
    for service in context.services(node).iter() {
        let rule = context.destination_rule(node, service);
        let spec = rule.as_ref().map(|rule| &rule.spec);
        for port in service.ports.iter().filter(|port| is_served(port)) {
            let subsets = spec.iter().flat_map(|spec| &spec.subsets);
            let subsets = subsets.map(|subset| (subset.name.as_str(), Some(&subset.labels)));
            for (subset, labels) in std::iter::once(("", None)).chain(subsets) {
                let name = names::outbound(port.number, subset, &service.host);
                if !wanted.contains(&name) || all.iter().any(|known| known.name == name) {
                    continue;
                }
                let traffic = policy::effective(spec, (!subset.is_empty()).then_some(subset), port.number);
                let failover = Failover::of(&traffic, context, node, service);
                let part = Part { service, port, labels, failover };
                all.extend(cluster(context, node, &part, name, &traffic));
            }
        }
    }
    all
}

/// `None` for one that gRPC cannot use; calls to it then fail, rather than go another way than they should.
#[allow(deprecated)] // The field of DNS names that every version of gRPC reads.
fn cluster(
    context: &PushContext,
    node: &Node,
    part: &Part<'_>,
    name: String,
    traffic: &mesh_proto::crd::destination_rule::TrafficPolicy,
) -> Option<Cluster> {
    // What others would be told of the balancer and of limits.
    let mut usual = Cluster::default();
    policy::load_balancer(&mut usual, traffic, node);
    policy::connection_pool(&mut usual, traffic, policy::Speaks::Http2, &context.mesh);
    let hashed = [LbPolicy::RingHash, LbPolicy::Maglev].iter().any(|one| usual.lb_policy == i32::from(*one));
    // gRPC balances by turns or by a ring; any other policy it refuses.
    let (lb_policy, lb_config) = match usual.lb_config {
        config @ Some(LbConfig::RingHashLbConfig(_)) => (LbPolicy::RingHash, config),
        _ if hashed => (LbPolicy::RingHash, None),
        _ => (LbPolicy::RoundRobin, None),
    };
    let requests = usual.circuit_breakers.and_then(|limits| limits.thresholds.first()?.max_requests);
    let mut cluster = Cluster {
        lb_policy: lb_policy.into(),
        lb_config,
        circuit_breakers: Some(mesh_proto::xds::cluster::CircuitBreakers {
            thresholds: vec![circuit_breakers::Thresholds { max_requests: requests, ..Default::default() }],
            ..Default::default()
        }),
        ..Default::default()
    };
    let kind = match super::cluster::discovery(node, part.service) {
        DiscoveryType::Eds => {
            cluster.eds_cluster_config =
                Some(EdsClusterConfig { eds_config: Some(wire::ads()), service_name: name.clone() });
            DiscoveryType::Eds
        }
        // One name is all that gRPC looks up for a cluster.
        _ => {
            let mut inline = endpoint::assignment(context, node, part, &name);
            let count: usize = inline.endpoints.iter().map(|group| group.lb_endpoints.len()).sum();
            if count != 1 {
                return None;
            }
            inline.endpoints.iter_mut().for_each(|group| _ = group.locality.get_or_insert_default());
            cluster.load_assignment = Some(inline);
            DiscoveryType::LogicalDns
        }
    };
    cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(kind.into()));
    cluster.transport_socket = client_tls(context, part.service, traffic.tls.as_ref())?;
    cluster.name = name;
    Some(cluster)
}

/// TLS is spoken only where a DestinationRule says so, as in Istio; mesh TLS alone is possible: gRPC reads no files that configuration names.
#[allow(clippy::option_option)] // Outside: it cannot be; inside: plaintext.
fn client_tls(
    context: &PushContext,
    service: &Service,
    settings: Option<&ClientTlsSettings>,
) -> Option<Option<core::TransportSocket>> {
    match settings.map(|settings| (settings.mode, settings)) {
        None | Some((ClientTlsMode::Disable, _)) => Some(None),
        Some((ClientTlsMode::Simple | ClientTlsMode::Mutual, _)) => None,
        Some((ClientTlsMode::IstioMutual, settings)) => {
            let names = match settings.subject_alt_names.as_slice() {
                [] => context.identities(service),
                names => names.to_vec(),
            };
            // gRPC knows the older of the two fields only.
            let exact = names.into_iter().map(|name| matcher::StringMatcher {
                match_pattern: Some(matcher::string_matcher::MatchPattern::Exact(name)),
                ..Default::default()
            });
            #[allow(deprecated)]
            let expected =
                tls::CertificateValidationContext { match_subject_alt_names: exact.collect(), ..Default::default() };
            let context =
                tls::UpstreamTlsContext { common_tls_context: Some(identity(expected)), ..Default::default() };
            Some(Some(sockets::socket(&context)))
        }
    }
}

/// The workload's own certificate and the mesh's roots, of the provider that the bootstrap names.
fn identity(expected: tls::CertificateValidationContext) -> tls::CommonTlsContext {
    let of = |name: &str| {
        Some(tls::CertificateProviderPluginInstance {
            instance_name: PROVIDER.to_owned(),
            certificate_name: name.to_owned(),
        })
    };
    let validation =
        tls::CertificateValidationContext { ca_certificate_provider_instance: of(SECRET_ROOT), ..expected };
    tls::CommonTlsContext {
        tls_certificate_provider_instance: of(SECRET_DEFAULT),
        validation_context_type: Some(tls::common_tls_context::ValidationContextType::ValidationContext(validation)),
        ..Default::default()
    }
}

/// The endpoints that are wanted, as gRPC takes them: each group has a locality, each endpoint is an IP address, and none comes twice.
pub fn assignments(context: &PushContext, node: &Node, wanted: Names<'_>) -> Vec<ClusterLoadAssignment> {
    let mut all = endpoint::assignments(context, node, wanted);
    for assignment in &mut all {
        let mut seen = std::collections::BTreeSet::new();
        for group in &mut assignment.endpoints {
            group.locality.get_or_insert_default();
            group.lb_endpoints.retain(|one| address(one).is_some_and(|address| seen.insert(address)));
        }
        assignment.endpoints.retain(|group| !group.lb_endpoints.is_empty());
    }
    all
}

fn address(endpoint: &mesh_proto::xds::endpoint::LbEndpoint) -> Option<std::net::SocketAddr> {
    use mesh_proto::xds::endpoint::lb_endpoint::HostIdentifier;
    let Some(HostIdentifier::Endpoint(place)) = &endpoint.host_identifier else { return None };
    let Some(core::address::Address::SocketAddress(socket)) = &place.address.as_ref()?.address else { return None };
    let Some(core::socket_address::PortSpecifier::PortValue(port)) = socket.port_specifier else { return None };
    Some((socket.address.parse::<std::net::IpAddr>().ok()?, u16::try_from(port).ok()?).into())
}

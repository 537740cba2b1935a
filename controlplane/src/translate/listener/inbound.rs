//! Inbound listeners of a sidecar: `virtualInbound` with chains for each port that the workload serves, or listeners of their own where
//! nothing is captured or a Sidecar asks for it. Which TLS a port accepts is PeerAuthentication's (PA1–PA3).

use std::sync::Arc;
use std::time::Duration;

use mesh_proto::crd::sidecar::CaptureMode;
use mesh_proto::names::{MESH_ALPN, PEER_EXCHANGE, SECRET_DEFAULT, SECRET_ROOT, cluster as names, port as ports};
use mesh_proto::xds::listener::listener_filter_chain_match_predicate as predicate;
use mesh_proto::xds::{
    core, http_inspector, listener, matcher, original_dst, pack, route, tcp_proxy, tls, tls_inspector,
};

use super::chain::{PLAINTEXT_HTTP, RAW_BUFFER};
use super::tls as sockets;
use crate::model::{Direction, Interception, Mode, Node, NodeKind, Protocol, PushContext, Service};
use crate::translate::cluster::{self, InboundPort};
use crate::translate::http::{self, Http, Place, Routes};
use crate::translate::{authz, telemetry, wire};

/// Name of the captured listener.
pub const VIRTUAL_INBOUND: &str = "virtualInbound";

const TLS: &str = "tls";
/// ALPNs of mesh TLS that say that HTTP is inside.
const MESH_HTTP: &[&str] = &["istio-http/1.0", "istio-http/1.1", "istio-h2"];

/// The inbound listeners of a node.
pub fn listeners(context: &PushContext, node: &Node) -> Vec<listener::Listener> {
    if node.kind != NodeKind::Sidecar {
        return Vec::new();
    }
    let labels = context.workload(node).map(|workload| workload.labels.clone());
    let labels = if node.labels.is_empty() { labels.unwrap_or_default() } else { node.labels.clone() };
    let inbound = Inbound { context, node, mtls: context.mtls(&node.namespace, &labels) };
    let captured = node.interception != Interception::None;
    let (own, shared): (Vec<_>, Vec<_>) = cluster::inbound_ports(context, node).into_iter().partition(|port| {
        !captured || port.ingress.as_ref().is_some_and(|ingress| ingress.capture_mode == CaptureMode::None)
    });
    let mut all: Vec<_> = own.iter().filter_map(|port| inbound.bound(port)).collect();
    if captured {
        all.push(inbound.captured(&shared));
    }
    all
}

struct Inbound<'a> {
    context: &'a PushContext,
    node: &'a Node,
    mtls: crate::model::Mtls,
}

/// A port as its chains need it.
struct Serve<'a> {
    /// Destination port; absent for ports that nothing names.
    number: Option<u16>,
    protocol: Protocol,
    cluster: String,
    service: Option<&'a Arc<Service>>,
    port: Option<&'a InboundPort>,
    mode: Mode,
    /// The listener has no other port.
    alone: bool,
}

/// How a chain takes connections.
struct Way {
    transport: &'static str,
    protocols: &'static [&'static str],
    /// Ends mesh TLS.
    mesh: bool,
    http: bool,
}

const fn way(transport: &'static str, protocols: &'static [&'static str], mesh: bool, http: bool) -> Way {
    Way { transport, protocols, mesh, http }
}

/// The chains of a port, in order. Source: Istio's `inbound` filter chain match options.
fn ways(protocol: Protocol, mode: Mode) -> Vec<Way> {
    let sniffed = protocol == Protocol::Unknown;
    match (protocol.is_http(), sniffed, mode) {
        (true, _, Mode::Permissive) => vec![way(TLS, MESH_ALPN, true, true), way(RAW_BUFFER, &[], false, true)],
        (true, _, Mode::Strict) => vec![way(TLS, &[], true, true)],
        (true, _, Mode::Disable) => vec![way("", &[], false, true)],
        (_, true, Mode::Permissive) => vec![
            way(TLS, MESH_HTTP, true, true),
            way(TLS, &[PEER_EXCHANGE, "istio"], true, false),
            way(RAW_BUFFER, PLAINTEXT_HTTP, false, true),
            way(RAW_BUFFER, &[], false, false),
            // TLS of the application's own passes through.
            way(TLS, &[], false, false),
        ],
        (_, true, Mode::Strict) => vec![way(TLS, MESH_HTTP, true, true), way(TLS, &[], true, false)],
        (_, true, Mode::Disable) => vec![way(RAW_BUFFER, PLAINTEXT_HTTP, false, true), way("", &[], false, false)],
        (_, _, Mode::Permissive) => {
            vec![way(TLS, MESH_ALPN, true, false), way(RAW_BUFFER, &[], false, false), way(TLS, &[], false, false)]
        }
        (_, _, Mode::Strict) => vec![way(TLS, &[], true, false)],
        (_, _, Mode::Disable) => vec![way("", &[], false, false)],
    }
}

impl Inbound<'_> {
    fn serve<'a>(&self, port: &'a InboundPort, alone: bool) -> Serve<'a> {
        Serve {
            number: Some(port.number),
            protocol: port.protocol,
            cluster: names::inbound(port.number),
            service: port.targets.first().map(|target| &target.service),
            port: Some(port),
            mode: self.mtls.port(port.number),
            alone,
        }
    }

    /// The listener of everything that is captured.
    fn captured(&self, ports: &[InboundPort]) -> listener::Listener {
        let number = u16::try_from(self.context.mesh.proxy_inbound_listen_port).unwrap_or(ports::INBOUND);
        let mut served: Vec<Serve<'_>> = ports.iter().map(|port| self.serve(port, false)).collect();
        // Ports that only PeerAuthentication names, then all others, are passed on as they are.
        let named = self.mtls.ports.keys().filter(|number| !ports.iter().any(|port| port.number == **number));
        for number in named.map(|number| Some(*number)).chain([None]) {
            served.push(Serve {
                number,
                protocol: Protocol::Unknown,
                cluster: names::INBOUND_PASSTHROUGH.to_owned(),
                service: None,
                port: None,
                mode: number.map_or(self.mtls.default, |number| self.mtls.port(number)),
                alone: false,
            });
        }
        let mut filters =
            vec![listener_filter("envoy.filters.listener.original_dst", &original_dst::OriginalDst::default())];
        filters.extend(inspectors(&served));
        let mut chains = vec![self.loop_guard(number)];
        chains.extend(served.iter().flat_map(|serve| self.chains(serve)));
        let (address, additional_addresses) = wire::any_address(self.node, number);
        listener::Listener {
            name: VIRTUAL_INBOUND.to_owned(),
            address: Some(address),
            additional_addresses,
            filter_chains: chains,
            ..self.listener(filters)
        }
    }

    /// A listener of one port. `None` where it would take the application's own address.
    fn bound(&self, port: &InboundPort) -> Option<listener::Listener> {
        let own = self.node.addresses.first();
        let address = match port.ingress.as_ref().map(|ingress| ingress.bind.as_str()) {
            Some(bind) if !bind.is_empty() => bind.to_owned(),
            // A Sidecar that names a port means it; without one the application has the loopback address already.
            Some(_) => own.map_or_else(|| "0.0.0.0".to_owned(), ToString::to_string),
            None => own.filter(|address| !is_application(address)).map(ToString::to_string)?,
        };
        let serve = self.serve(port, true);
        let filters = inspectors(std::slice::from_ref(&serve));
        Some(listener::Listener {
            name: format!("{address}_{}", port.number),
            address: Some(wire::socket_address(address, port.number)),
            filter_chains: self.chains(&serve),
            ..self.listener(filters)
        })
    }

    fn listener(&self, listener_filters: Vec<listener::ListenerFilter>) -> listener::Listener {
        listener::Listener {
            traffic_direction: core::TrafficDirection::Inbound.into(),
            listener_filters,
            listener_filters_timeout: Some(wire::duration(self.context.mesh.protocol_detection_timeout.0)),
            continue_on_listener_filters_timeout: true,
            ..Default::default()
        }
    }

    /// A connection to the capture port itself would come back for ever.
    fn loop_guard(&self, number: u16) -> listener::FilterChain {
        listener::FilterChain {
            name: "virtualInbound-blackhole".to_owned(),
            filter_chain_match: Some(listener::FilterChainMatch {
                destination_port: wire::number(number.into()),
                ..Default::default()
            }),
            filters: vec![self.tcp_proxy(names::BLACK_HOLE, None)],
            ..Default::default()
        }
    }

    fn chains(&self, serve: &Serve<'_>) -> Vec<listener::FilterChain> {
        let own_tls = serve.port.and_then(|port| port.ingress.as_ref()?.tls.as_ref());
        // TLS of a Sidecar's listener takes the place of mesh TLS, where that is off (SC3).
        if let Some(settings) = own_tls.filter(|_| serve.mode == Mode::Disable) {
            let http = serve.protocol.is_http() || matches!(serve.protocol, Protocol::Https | Protocol::Unknown);
            let mut chain = self.chain(serve, &way(TLS, &[], false, http));
            chain.transport_socket = sockets::context(self.node, settings, http).as_ref().map(sockets::socket);
            return vec![chain];
        }
        ways(serve.protocol, serve.mode).iter().map(|way| self.chain(serve, way)).collect()
    }

    fn chain(&self, serve: &Serve<'_>, way: &Way) -> listener::FilterChain {
        let place = match serve.number {
            Some(number) => format!("0.0.0.0_{number}"),
            None => "virtualInbound-catchall".to_owned(),
        };
        let security = match (way.mesh, way.transport) {
            (true, _) => "-mtls",
            (false, TLS) => "-tls",
            (false, _) => "",
        };
        let matched = listener::FilterChainMatch {
            destination_port: serve.number.filter(|_| !serve.alone).and_then(|number| wire::number(number.into())),
            transport_protocol: way.transport.to_owned(),
            application_protocols: way.protocols.iter().map(|protocol| (*protocol).to_owned()).collect(),
            ..Default::default()
        };
        listener::FilterChain {
            name: format!("{place}{}{security}", if way.http { "-http" } else { "" }),
            filter_chain_match: (matched != listener::FilterChainMatch::default()).then_some(matched),
            filters: if way.http { vec![self.http(serve)] } else { self.tcp(serve) },
            transport_socket: way.mesh.then(|| sockets::socket(&self.mesh_context(way.http))),
            ..Default::default()
        }
    }

    fn http(&self, serve: &Serve<'_>) -> listener::Filter {
        let (context, node) = (self.context, self.node);
        let mut filters = authz::http_filters(context, node);
        filters.extend(telemetry::http_stats(node, Direction::Inbound, serve.service.map(|service| &**service)));
        let prefix = match serve.number {
            Some(number) => format!("inbound_0.0.0.0_{number}"),
            None => "inbound_passthrough".to_owned(),
        };
        let settings = Http {
            place: Place::SidecarInbound,
            stat_prefix: prefix,
            routes: Routes::Inline(Box::new(routes(serve))),
            filters,
            access_log: telemetry::access_logs(context, node, Direction::Inbound),
        };
        http::connection_manager(&context.mesh, node, settings)
    }

    fn tcp(&self, serve: &Serve<'_>) -> Vec<listener::Filter> {
        let (context, node) = (self.context, self.node);
        let mut filters = authz::network_filters(context, node);
        filters.extend(telemetry::tcp_stats(node, Direction::Inbound, serve.service.map(|service| &**service)));
        filters.push(self.tcp_proxy(&serve.cluster, serve.port));
        filters
    }

    fn tcp_proxy(&self, cluster: &str, port: Option<&InboundPort>) -> listener::Filter {
        let tcp = port.and_then(|port| port.pool.as_ref()?.tcp.as_ref());
        let duration = |value: Option<mesh_proto::crd::Duration>| value.map(|value| wire::duration(value.0));
        let config = tcp_proxy::TcpProxy {
            stat_prefix: cluster.to_owned(),
            cluster_specifier: Some(tcp_proxy::tcp_proxy::ClusterSpecifier::Cluster(cluster.to_owned())),
            idle_timeout: duration(tcp.and_then(|tcp| tcp.idle_timeout)),
            max_downstream_connection_duration: duration(tcp.and_then(|tcp| tcp.max_connection_duration)),
            access_log: telemetry::access_logs(self.context, self.node, Direction::Inbound),
            ..Default::default()
        };
        telemetry::network_filter("envoy.filters.network.tcp_proxy", &config)
    }

    /// Mesh TLS: the peer must show a certificate of the mesh's trust domain or an alias.
    fn mesh_context(&self, http: bool) -> tls::DownstreamTlsContext {
        let domains = std::iter::once(&self.context.mesh.trust_domain).chain(&self.context.mesh.trust_domain_aliases);
        let names = domains.map(|domain| tls::SubjectAltNameMatcher {
            san_type: tls::subject_alt_name_matcher::SanType::Uri.into(),
            matcher: Some(matcher::StringMatcher {
                match_pattern: Some(matcher::string_matcher::MatchPattern::Prefix(format!("spiffe://{domain}/"))),
                ..Default::default()
            }),
            ..Default::default()
        });
        let combined = tls::common_tls_context::CombinedCertificateValidationContext {
            default_validation_context: Some(tls::CertificateValidationContext {
                match_typed_subject_alt_names: names.collect(),
                ..Default::default()
            }),
            validation_context_sds_secret_config: Some(wire::secret(self.node, SECRET_ROOT)),
            ..Default::default()
        };
        // Only a proxy that takes peer metadata off the stream may agree to it.
        let exchanges = !http && self.node.ferromesh;
        let alpn: &[&str] = if exchanges { &[PEER_EXCHANGE, "h2", "http/1.1"] } else { &["h2", "http/1.1"] };
        tls::DownstreamTlsContext {
            common_tls_context: Some(tls::CommonTlsContext {
                tls_params: Some(versions()),
                tls_certificate_sds_secret_configs: vec![wire::secret(self.node, SECRET_DEFAULT)],
                validation_context_type: Some(
                    tls::common_tls_context::ValidationContextType::CombinedValidationContext(combined),
                ),
                alpn_protocols: alpn.iter().map(|name| (*name).to_owned()).collect(),
                ..Default::default()
            }),
            require_client_certificate: wire::boolean(true),
            ..Default::default()
        }
    }
}

/// The address where applications listen beside a proxy that captures nothing.
fn is_application(address: &std::net::IpAddr) -> bool {
    *address == std::net::IpAddr::from([127, 0, 0, 1])
        || *address == std::net::IpAddr::V6(std::net::Ipv6Addr::LOCALHOST)
}

/// TLS 1.2 and 1.3 (PA5).
fn versions() -> tls::TlsParameters {
    tls::TlsParameters {
        tls_minimum_protocol_version: tls::tls_parameters::TlsProtocol::TlSv12.into(),
        tls_maximum_protocol_version: tls::tls_parameters::TlsProtocol::TlSv13.into(),
        ..Default::default()
    }
}

/// The one route of an inbound chain. What did not reach the application is tried again (VR8).
fn routes(serve: &Serve<'_>) -> route::RouteConfiguration {
    let zero = || Some(wire::duration(Duration::ZERO));
    let action = route::RouteAction {
        cluster_specifier: Some(route::route_action::ClusterSpecifier::Cluster(serve.cluster.clone())),
        timeout: zero(),
        max_stream_duration: Some(route::route_action::MaxStreamDuration {
            max_stream_duration: zero(),
            grpc_timeout_header_max: zero(),
            ..Default::default()
        }),
        // The pass-through cluster's connections may be anyone's; nothing is sent twice there.
        retry_policy: serve.port.map(|_| route::RetryPolicy {
            retry_on: "reset-before-request".to_owned(),
            num_retries: wire::number(2),
            ..Default::default()
        }),
        ..Default::default()
    };
    let target = serve.port.and_then(|port| port.targets.first());
    let operation = match target {
        Some(target) => format!("{}:{}/*", target.service.host, target.port.number),
        None => ":0/*".to_owned(),
    };
    let only = route::Route {
        name: "default".to_owned(),
        r#match: Some(route::RouteMatch {
            path_specifier: Some(route::route_match::PathSpecifier::Prefix("/".to_owned())),
            ..Default::default()
        }),
        action: Some(route::route::Action::Route(action)),
        decorator: Some(route::Decorator { operation, ..Default::default() }),
        ..Default::default()
    };
    route::RouteConfiguration {
        name: serve.cluster.clone(),
        virtual_hosts: vec![route::VirtualHost {
            name: format!("inbound|http|{}", serve.number.unwrap_or(0)),
            domains: vec!["*".to_owned()],
            routes: vec![only],
            ..Default::default()
        }],
        validate_clusters: wire::boolean(false),
        ..Default::default()
    }
}

fn listener_filter<M: prost::Name>(name: &str, config: &M) -> listener::ListenerFilter {
    listener::ListenerFilter {
        name: name.to_owned(),
        config_type: Some(listener::listener_filter::ConfigType::TypedConfig(pack(config))),
        ..Default::default()
    }
}

/// Inspectors, each off on ports where no chain needs it: a server that speaks first would wait for a client that waits for it.
fn inspectors(served: &[Serve<'_>]) -> Vec<listener::ListenerFilter> {
    let without = |needs: fn(&Way) -> bool| -> Vec<u16> {
        let idle = served.iter().filter(|serve| !ways(serve.protocol, serve.mode).iter().any(needs));
        idle.filter_map(|serve| serve.number).collect()
    };
    let off_tls = without(|way| way.transport == TLS || !way.protocols.is_empty());
    let off_http = without(|way| way.transport != TLS && !way.protocols.is_empty());
    let alone = served.len() == 1;
    let mut filters = Vec::new();
    let own_tls =
        |serve: &Serve<'_>| serve.port.is_some_and(|port| port.ingress.as_ref().is_some_and(|one| one.tls.is_some()));
    if !alone || off_tls.is_empty() || served.iter().any(own_tls) {
        let inspector =
            listener_filter("envoy.filters.listener.tls_inspector", &tls_inspector::TlsInspector::default());
        let off: Vec<u16> = if served.iter().any(own_tls) { Vec::new() } else { off_tls };
        filters.push(listener::ListenerFilter { filter_disabled: disabled(&off), ..inspector });
    }
    if !alone || off_http.is_empty() {
        let inspector =
            listener_filter("envoy.filters.listener.http_inspector", &http_inspector::HttpInspector::default());
        filters.push(listener::ListenerFilter { filter_disabled: disabled(&off_http), ..inspector });
    }
    filters
}

fn disabled(numbers: &[u16]) -> Option<listener::ListenerFilterChainMatchPredicate> {
    use mesh_proto::xds::envoy_type::Int32Range;
    let one = |number: &u16| listener::ListenerFilterChainMatchPredicate {
        rule: Some(predicate::Rule::DestinationPortRange(Int32Range {
            start: i32::from(*number),
            end: i32::from(*number) + 1,
        })),
    };
    match numbers {
        [] => None,
        [number] => Some(one(number)),
        numbers => Some(listener::ListenerFilterChainMatchPredicate {
            rule: Some(predicate::Rule::OrMatch(predicate::MatchSet { rules: numbers.iter().map(one).collect() })),
        }),
    }
}

//! `Listener` → [`crate::listener::Listener`]: addresses, listener filters, filter chains.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh_proto::xds::{core, listener, network_rbac, tcp_proxy, tls};

use super::{At, Context, Decoded, Refusal, access_log, authz, cluster, each, http, limit, required, unpack};
use crate::Name;
use crate::balance::Address;
use crate::listener::{
    BindAddress, ChainMatch, ChainProtocol, Detect, Direction, FilterChain, Listener, Ports, Transport,
};
use crate::policy::authz::Rbac;
use crate::tcp::TcpChain;
use crate::telemetry::stats::StatsFilter;

/// Envoy's time for listener filters.
const DETECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Envoy's idle time-out of TCP connections.
const TCP_IDLE: Duration = Duration::from_secs(3600);

/// A listener, and for how long it may wait for what it refers to by name.
#[derive(Debug)]
pub struct DecodedListener {
    /// The listener.
    pub listener: Listener,
    /// Route tables that come by RDS; each with its `initial_fetch_timeout`, `None` for no limit.
    pub routes: Vec<(Name, Option<Duration>)>,
}

/// A whole listener.
#[allow(deprecated)]
pub fn listener(raw: &listener::Listener, context: &Context) -> Decoded<DecodedListener> {
    if raw.name.is_empty() {
        return Err(Refusal::field("name", "is required"));
    }
    let mut addresses = vec![bind_address(required("address", &raw.address)?).at("address")?];
    addresses.extend(each("additional_addresses", &raw.additional_addresses, |one| {
        bind_address(required("address", &one.address)?).at("address")
    })?);
    let mut routes = Vec::new();
    let mut chains = Vec::new();
    for (index, one) in raw.filter_chains.iter().enumerate() {
        let path = format!("filter_chains[{index}]");
        let chain = chain(one, &format!("{index}"), context, &mut routes).at(&path)?;
        if chains.iter().any(|before: &Arc<FilterChain>| before.matcher == chain.matcher) {
            return Err(Refusal::field(format!("{path}.filter_chain_match"), "an earlier chain has the same match"));
        }
        chains.push(Arc::new(chain));
    }
    let default_chain = match &raw.default_filter_chain {
        Some(one) => Some(Arc::new(chain(one, "default", context, &mut routes).at("default_filter_chain")?)),
        None => None,
    };
    if chains.is_empty() && default_chain.is_none() {
        return Err(Refusal::field("filter_chains", "is required"));
    }
    let legacy = raw.deprecated_v1.as_ref().and_then(|legacy| legacy.bind_to_port.as_ref());
    let bind = raw.bind_to_port.as_ref().or(legacy);
    let use_original_dst = raw.use_original_dst.as_ref().is_some_and(|wanted| wanted.value);
    let listener = Listener {
        name: raw.name.as_str().into(),
        addresses,
        bind_to_port: bind.is_none_or(|bind| bind.value),
        use_original_dst,
        direction: match core::TrafficDirection::try_from(raw.traffic_direction) {
            Ok(core::TrafficDirection::Inbound) => Direction::Inbound,
            Ok(core::TrafficDirection::Outbound) => Direction::Outbound,
            _ => Direction::Unspecified,
        },
        detect: detect(raw)?,
        chains,
        default_chain,
        access_logs: access_log::all(&raw.access_log, context)?,
        backlog: raw.tcp_backlog_size.as_ref().map(|size| size.value),
        stats: Arc::default(),
    };
    Ok(DecodedListener { listener, routes })
}

fn bind_address(raw: &core::Address) -> Decoded<BindAddress> {
    match cluster::address(raw)? {
        Address::Ip(address) => Ok(BindAddress::Ip(address)),
        Address::Pipe(path) => {
            Err(Refusal::field("pipe", format!("listening on Unix sockets ({}) is not supported", path.display())))
        }
        Address::Name(name, _) => {
            Err(Refusal::field("socket_address.address", format!("`{name}` is not an IP address")))
        }
    }
}

fn detect(raw: &listener::Listener) -> Decoded<Detect> {
    let mut detect = Detect {
        timeout: limit("listener_filters_timeout", &raw.listener_filters_timeout, Some(DETECT_TIMEOUT))?,
        continue_on_timeout: raw.continue_on_listener_filters_timeout,
        ..Detect::default()
    };
    for (index, filter) in raw.listener_filters.iter().enumerate() {
        listener_filter(filter, &mut detect).at(format_args!("listener_filters[{index}]"))?;
    }
    Ok(detect)
}

fn listener_filter(raw: &listener::ListenerFilter, detect: &mut Detect) -> Decoded<()> {
    use listener::listener_filter::ConfigType;
    let disabled = raw.filter_disabled.as_ref().map(ports).transpose().at("filter_disabled")?;
    let kind = match raw.config_type.as_ref() {
        Some(ConfigType::TypedConfig(any)) => any.type_url.rsplit('/').next().unwrap_or_default(),
        // The older form: a well-known name and no settings.
        None => raw.name.as_str(),
        Some(ConfigType::ConfigDiscovery(_)) => {
            return Err(Refusal::field("config_discovery", "is not supported; use typed_config"));
        }
    };
    let everywhere = |what: &mut bool| {
        *what = true;
        if disabled.is_some() {
            return Err(Refusal::field("filter_disabled", "is only supported for tls_inspector and http_inspector"));
        }
        Ok(())
    };
    match kind.rsplit('.').next().unwrap_or_default() {
        "OriginalDst" | "original_dst" => everywhere(&mut detect.original_dst),
        "ProxyProtocol" | "proxy_protocol" => everywhere(&mut detect.proxy_protocol),
        "TlsInspector" | "tls_inspector" => {
            detect.tls = true;
            detect.tls_disabled = disabled.unwrap_or_default();
            Ok(())
        }
        "HttpInspector" | "http_inspector" => {
            detect.http = true;
            detect.http_disabled = disabled.unwrap_or_default();
            Ok(())
        }
        _ => Err(Refusal::field("typed_config", format!("the listener filter `{kind}` is not supported"))),
    }
}

/// Ports on which a listener filter is off: a range, or several joined by "or".
fn ports(raw: &listener::ListenerFilterChainMatchPredicate) -> Decoded<Ports> {
    use listener::listener_filter_chain_match_predicate::Rule;
    match raw.rule.as_ref() {
        Some(Rule::DestinationPortRange(range)) => match (u16::try_from(range.start), u16::try_from(range.end - 1)) {
            (Ok(first), Ok(last)) => Ok(vec![first..=last]),
            _ => Err(Refusal::field("destination_port_range", "is not a range of ports")),
        },
        Some(Rule::OrMatch(set)) => Ok(each("or_match.rules", &set.rules, ports)?.into_iter().flatten().collect()),
        _ => Err(Refusal::new("only destination_port_range and or_match are supported")),
    }
}

fn chain(
    raw: &listener::FilterChain,
    position: &str,
    context: &Context,
    routes: &mut Vec<(Name, Option<Duration>)>,
) -> Decoded<FilterChain> {
    let tls = match &raw.transport_socket {
        None => None,
        Some(socket) => transport(socket, context).at("transport_socket")?,
    };
    let mut filters = Filters::default();
    for (index, filter) in raw.filters.iter().enumerate() {
        network_filter(filter, context, &mut filters, routes).at(format_args!("filters[{index}]"))?;
    }
    let protocol = match filters.terminal {
        None => return Err(Refusal::field("filters", "must end in http_connection_manager or tcp_proxy")),
        Some(ChainProtocol::Tcp(mut tcp)) => {
            if let Some(tcp) = Arc::get_mut(&mut tcp) {
                tcp.stats = filters.stats;
            }
            ChainProtocol::Tcp(tcp)
        }
        Some(ChainProtocol::Http(_)) if filters.stats.is_some() => {
            return Err(Refusal::field("filters", "ferromesh.stats of an HTTP chain belongs among its http_filters"));
        }
        Some(http) => http,
    };
    Ok(FilterChain {
        name: if raw.name.is_empty() { position.into() } else { raw.name.as_str().into() },
        matcher: match &raw.filter_chain_match {
            Some(one) => chain_match(one).at("filter_chain_match")?,
            None => ChainMatch::default(),
        },
        tls,
        handshake_timeout: limit(
            "transport_socket_connect_timeout",
            &raw.transport_socket_connect_timeout,
            Some(Duration::from_secs(15)),
        )?,
        rbac: filters.rbac,
        protocol,
    })
}

fn transport(raw: &core::TransportSocket, context: &Context) -> Decoded<Option<Arc<crate::tls::ServerTls>>> {
    use core::transport_socket::ConfigType;
    match raw.config_type.as_ref() {
        Some(ConfigType::TypedConfig(any)) if any.type_url.ends_with("raw_buffer.v3.RawBuffer") => Ok(None),
        Some(ConfigType::TypedConfig(any)) => {
            let raw: tls::DownstreamTlsContext = unpack(any).at("typed_config")?;
            super::tls::downstream(&raw, context).at("typed_config").map(Some)
        }
        None if raw.name == "envoy.transport_sockets.raw_buffer" => Ok(None),
        None => Err(Refusal::field("typed_config", "is required")),
    }
}

fn chain_match(raw: &listener::FilterChainMatch) -> Decoded<ChainMatch> {
    let ranges = |name: &str, list: &[core::CidrRange]| each(name, list, authz::cidr);
    let port = |port: u32| u16::try_from(port).map_err(|_| Refusal::new("must be at most 65535"));
    Ok(ChainMatch {
        destination_port: raw
            .destination_port
            .as_ref()
            .map(|number| port(number.value))
            .transpose()
            .at("destination_port")?,
        destination_ranges: ranges("prefix_ranges", &raw.prefix_ranges)?,
        server_names: each("server_names", &raw.server_names, |name| {
            let rest = name.strip_prefix('*').unwrap_or(name);
            if rest.contains('*') || (rest.len() < name.len() && !rest.is_empty() && !rest.starts_with('.')) {
                return Err(Refusal::new(format!("`{name}`: a wildcard stands for whole labels at the front only")));
            }
            Ok(name.to_ascii_lowercase())
        })?,
        transport: match raw.transport_protocol.as_str() {
            "" => None,
            "tls" => Some(Transport::Tls),
            "raw_buffer" => Some(Transport::RawBuffer),
            other => {
                return Err(Refusal::field("transport_protocol", format!("`{other}` is neither tls nor raw_buffer")));
            }
        },
        application_protocols: raw.application_protocols.clone(),
        source_ranges: ranges("source_prefix_ranges", &raw.source_prefix_ranges)?,
        direct_source_ranges: ranges("direct_source_prefix_ranges", &raw.direct_source_prefix_ranges)?,
        source_ports: each("source_ports", &raw.source_ports, |number| port(*number))?,
    })
}

#[derive(Default)]
struct Filters {
    rbac: Vec<Arc<Rbac>>,
    stats: Option<Arc<StatsFilter>>,
    terminal: Option<ChainProtocol>,
}

fn network_filter(
    raw: &listener::Filter,
    context: &Context,
    filters: &mut Filters,
    routes: &mut Vec<(Name, Option<Duration>)>,
) -> Decoded<()> {
    use listener::filter::ConfigType;
    let Some(ConfigType::TypedConfig(any)) = raw.config_type.as_ref() else {
        return Err(Refusal::field("typed_config", "is required"));
    };
    if filters.terminal.is_some() {
        return Err(Refusal::new("comes after the filter that ends the chain"));
    }
    let kind = any.type_url.rsplit('/').next().unwrap_or_default();
    match kind {
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager" => {
            let (chain, named) = http::chain(&unpack(any).at("typed_config")?, context).at("typed_config")?;
            routes.extend(named);
            filters.terminal = Some(ChainProtocol::Http(Arc::new(chain)));
        }
        "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy" => {
            let chain = tcp(&unpack(any).at("typed_config")?, context).at("typed_config")?;
            filters.terminal = Some(ChainProtocol::Tcp(Arc::new(chain)));
        }
        "envoy.extensions.filters.network.rbac.v3.RBAC" => {
            let raw: network_rbac::Rbac = unpack(any).at("typed_config")?;
            filters.rbac.extend(authz::network(&raw).at("typed_config")?);
        }
        "ferromesh.v1.Stats" => filters.stats = Some(stats(any).at("typed_config")?),
        other => {
            return Err(Refusal::field("typed_config", format!("the network filter `{other}` is not supported")));
        }
    }
    Ok(())
}

/// `ferromesh.v1.Stats`.
pub(super) fn stats(any: &mesh_proto::xds::wkt::Any) -> Decoded<Arc<StatsFilter>> {
    use crate::telemetry::stats::{DestinationService, Reporter};
    use mesh_proto::ferromesh::v1;
    let raw =
        <v1::Stats as prost::Message>::decode(any.value.as_slice()).map_err(|error| Refusal::new(error.to_string()))?;
    let reporter = match v1::stats::Reporter::try_from(raw.reporter) {
        Ok(v1::stats::Reporter::Source) => Reporter::Source,
        Ok(v1::stats::Reporter::Destination) => Reporter::Destination,
        _ => return Err(Refusal::field("reporter", "must be SOURCE or DESTINATION")),
    };
    let known = !raw.destination_service_host.is_empty();
    Ok(Arc::new(StatsFilter {
        reporter,
        metadata_exchange: raw.metadata_exchange,
        destination: known.then(|| DestinationService {
            host: raw.destination_service_host.into(),
            name: raw.destination_service_name.into(),
            namespace: raw.destination_service_namespace.into(),
        }),
    }))
}

fn tcp(raw: &tcp_proxy::TcpProxy, context: &Context) -> Decoded<TcpChain> {
    use tcp_proxy::tcp_proxy::ClusterSpecifier;
    let clusters: Vec<(Name, u32)> = match raw.cluster_specifier.as_ref() {
        Some(ClusterSpecifier::Cluster(name)) if !name.is_empty() => vec![(name.as_str().into(), 1)],
        Some(ClusterSpecifier::WeightedClusters(weighted)) => {
            weighted.clusters.iter().map(|one| (Name::from(one.name.as_str()), one.weight)).collect()
        }
        _ => return Err(Refusal::new("needs one of cluster, weighted_clusters")),
    };
    let total_weight = clusters.iter().map(|(_, weight)| u64::from(*weight)).sum();
    if total_weight == 0 {
        return Err(Refusal::field("weighted_clusters", "the sum of weights must not be 0"));
    }
    let tunnel = match &raw.tunneling_config {
        None => None,
        Some(tunnel) if tunnel.hostname.contains('%') => {
            return Err(Refusal::field("tunneling_config.hostname", "formatters are not supported here"));
        }
        Some(tunnel) => Some(
            http_authority(&tunnel.hostname)
                .ok_or_else(|| Refusal::field("tunneling_config.hostname", "is not HOST:PORT"))?,
        ),
    };
    Ok(TcpChain {
        stat_prefix: raw.stat_prefix.as_str().into(),
        clusters,
        total_weight,
        idle_timeout: limit("idle_timeout", &raw.idle_timeout, Some(TCP_IDLE))?,
        max_duration: limit("max_downstream_connection_duration", &raw.max_downstream_connection_duration, None)?,
        max_connect_attempts: raw.max_connect_attempts.as_ref().map_or(1, |number| number.value).max(1),
        access_logs: access_log::all(&raw.access_log, context)?,
        stats: None,
        tunnel,
    })
}

fn http_authority(text: &str) -> Option<::http::uri::Authority> {
    let authority: ::http::uri::Authority = text.parse().ok()?;
    authority.port().is_some().then_some(authority)
}

/// The address of a listener of our own, such as the admin's.
pub fn ip_address(raw: &core::Address) -> Decoded<SocketAddr> {
    match bind_address(raw)? {
        BindAddress::Ip(address) => Ok(address),
        BindAddress::Pipe(_) => Err(Refusal::new("must be an IP address and port")),
    }
}

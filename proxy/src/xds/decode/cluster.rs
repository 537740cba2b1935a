//! `Cluster` and `ClusterLoadAssignment` → [`crate::balance`].

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mesh_proto::xds::{cluster, common_matcher, core, endpoint, http_protocol_options as options, tls, wkt};

use super::{
    At, Context, Decoded, Refusal, duration, each, istio_metadata, limit, metadata_string, optional_duration, required,
    tls as decode_tls, unpack,
};
use crate::Name;
use crate::balance::cluster::DnsFamily;
use crate::balance::{
    Address, Algorithm, ClusterConfig, Discovery, EndpointSpec, Limits, OutlierConfig, RetryBudget, Transport,
    UpstreamProtocol,
};
use crate::telemetry::peer::Peer;
use crate::telemetry::stats::DestinationService;

/// Key of [`options::HttpProtocolOptions`] in a cluster.
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
const HOUR: Duration = Duration::from_secs(3600);

/// A cluster and the endpoints that stand in it.
#[allow(deprecated)]
pub fn cluster(raw: &cluster::Cluster, context: &Context) -> Decoded<(ClusterConfig, Vec<EndpointSpec>)> {
    if raw.name.is_empty() {
        return Err(Refusal::field("name", "is required"));
    }
    let name: Name = raw.name.as_str().into();
    let discovery = discovery(raw)?;
    let endpoints = match &raw.load_assignment {
        Some(assignment) => load_assignment(assignment).at("load_assignment")?,
        None => Vec::new(),
    };
    let named = matches!(discovery, Discovery::StrictDns | Discovery::LogicalDns);
    if !named && let Some(spec) = endpoints.iter().find(|spec| matches!(spec.address, Address::Name(..))) {
        let message = format!("`{}` is a name; only DNS clusters may hold names", spec.address);
        return Err(Refusal::field("load_assignment.endpoints", message));
    }
    let http = http(raw)?;
    let transport = match &raw.transport_socket {
        Some(socket) => transport(socket, context).at("transport_socket")?,
        None => Transport::Plain,
    };
    let transport_matches = each("transport_socket_matches", &raw.transport_socket_matches, |raw| {
        let labels = raw.r#match.as_ref().map(labels).unwrap_or_default();
        let socket = required("transport_socket", &raw.transport_socket)?;
        Ok((labels, self::transport(socket, context).at("transport_socket")?))
    })?;
    let keepalive = raw.upstream_connection_options.as_ref().and_then(|options| options.tcp_keepalive.as_ref());
    let config = ClusterConfig {
        alt_stat_name: (!raw.alt_stat_name.is_empty()).then(|| raw.alt_stat_name.as_str().into()),
        discovery,
        algorithm: algorithm(raw)?,
        locality_weighted: matches!(
            raw.common_lb_config.as_ref().and_then(|common| common.locality_config_specifier.as_ref()),
            Some(cluster::cluster::common_lb_config::LocalityConfigSpecifier::LocalityWeightedLbConfig(_))
        ),
        panic_threshold: match raw.common_lb_config.as_ref().and_then(|common| common.healthy_panic_threshold.as_ref())
        {
            Some(percent) => percent.value as u32,
            None => 50,
        },
        connect_timeout: limit("connect_timeout", &raw.connect_timeout, Some(Duration::from_secs(5)))?
            .unwrap_or(Duration::from_secs(5)),
        protocol: http.protocol,
        idle_timeout: http.idle_timeout,
        max_connection_duration: http.max_connection_duration,
        max_requests_per_connection: http
            .max_requests
            .or(raw.max_requests_per_connection.as_ref().map(|number| number.value))
            .filter(|number| *number > 0),
        max_concurrent_streams: http.max_streams,
        windows: http.windows,
        http2_keepalive: http.keepalive,
        limits: limits(raw)?,
        outlier: raw.outlier_detection.as_ref().map(outlier).transpose().at("outlier_detection")?,
        outlier_errors: http.errors,
        source: source(raw).at("upstream_bind_config")?,
        tcp_keepalive: keepalive.map(|keepalive| {
            let seconds =
                |value: &Option<wkt::UInt32Value>| value.as_ref().map(|value| Duration::from_secs(value.value.into()));
            (
                keepalive.keepalive_probes.as_ref().map(|probes| probes.value),
                seconds(&keepalive.keepalive_time),
                seconds(&keepalive.keepalive_interval),
            )
        }),
        transport,
        transport_matches,
        service: service(&raw.metadata),
        dns_refresh: limit("dns_refresh_rate", &raw.dns_refresh_rate, Some(Duration::from_secs(5)))?
            .unwrap_or(Duration::from_secs(5)),
        dns_family: match cluster::cluster::DnsLookupFamily::try_from(raw.dns_lookup_family) {
            Ok(cluster::cluster::DnsLookupFamily::V4Only) => DnsFamily::V4,
            Ok(cluster::cluster::DnsLookupFamily::V6Only) => DnsFamily::V6,
            Ok(cluster::cluster::DnsLookupFamily::V4Preferred) => DnsFamily::V4Preferred,
            Ok(cluster::cluster::DnsLookupFamily::All) => DnsFamily::All,
            _ => DnsFamily::Auto,
        },
        name,
    };
    Ok((config, endpoints))
}

/// The address that connections come from.
fn source(raw: &cluster::Cluster) -> Decoded<Option<SocketAddr>> {
    use core::socket_address::PortSpecifier;
    let Some(source) = raw.upstream_bind_config.as_ref().and_then(|bind| bind.source_address.as_ref()) else {
        return Ok(None);
    };
    let address: IpAddr =
        source.address.parse().map_err(|_| Refusal::field("source_address.address", "must be an IP address"))?;
    let port = match source.port_specifier {
        Some(PortSpecifier::PortValue(port)) => {
            u16::try_from(port).map_err(|_| Refusal::field("source_address.port_value", "must be at most 65535"))?
        }
        _ => 0,
    };
    Ok(Some(SocketAddr::new(address, port)))
}

fn discovery(raw: &cluster::Cluster) -> Decoded<Discovery> {
    use cluster::cluster::{ClusterDiscoveryType as C, DiscoveryType as T};
    let kind = match raw.cluster_discovery_type.as_ref() {
        None => T::Static,
        Some(C::Type(kind)) => T::try_from(*kind).map_err(|_| Refusal::field("type", "unknown"))?,
        Some(C::ClusterType(custom)) => {
            return Err(Refusal::field("cluster_type", format!("`{}` is not supported", custom.name)));
        }
    };
    Ok(match kind {
        T::Static => Discovery::Static,
        T::StrictDns => Discovery::StrictDns,
        T::LogicalDns => Discovery::LogicalDns,
        T::OriginalDst => Discovery::OriginalDst,
        T::Eds => {
            let name = raw.eds_cluster_config.as_ref().map_or("", |eds| eds.service_name.as_str());
            Discovery::Eds(if name.is_empty() { raw.name.as_str() } else { name }.into())
        }
    })
}

fn algorithm(raw: &cluster::Cluster) -> Decoded<Algorithm> {
    use cluster::cluster::{LbConfig, LbPolicy as L};
    Ok(match L::try_from(raw.lb_policy) {
        Ok(L::RoundRobin) => Algorithm::RoundRobin,
        Ok(L::Random) => Algorithm::Random,
        // Original destination clusters choose nothing.
        Ok(L::ClusterProvided) => Algorithm::Random,
        Ok(L::LeastRequest) => match raw.lb_config.as_ref() {
            Some(LbConfig::LeastRequestLbConfig(config)) => {
                Algorithm::LeastRequest(config.choice_count.as_ref().map_or(2, |count| count.value).max(2))
            }
            _ => Algorithm::LeastRequest(2),
        },
        _ => {
            return Err(Refusal::field(
                "lb_policy",
                "is not supported; use LEAST_REQUEST, ROUND_ROBIN, RANDOM or CLUSTER_PROVIDED",
            ));
        }
    })
}

fn limits(raw: &cluster::Cluster) -> Decoded<Limits> {
    let mut limits = Limits::default();
    let Some(breakers) = &raw.circuit_breakers else { return Ok(limits) };
    for (index, threshold) in breakers.thresholds.iter().enumerate() {
        if threshold.priority != 0 {
            return Err(Refusal::field(
                format!("circuit_breakers.thresholds[{index}].priority"),
                "only DEFAULT is supported",
            ));
        }
        let value = |value: &Option<wkt::UInt32Value>, default| value.as_ref().map_or(default, |value| value.value);
        limits.connections = value(&threshold.max_connections, limits.connections);
        limits.pending = value(&threshold.max_pending_requests, limits.pending);
        limits.requests = value(&threshold.max_requests, limits.requests);
        limits.retries = value(&threshold.max_retries, limits.retries);
        let Some(budget) = &threshold.retry_budget else { continue };
        let path = format!("circuit_breakers.thresholds[{index}].retry_budget");
        limits.retry_budget = Some(RetryBudget {
            percent: budget.budget_percent.as_ref().map_or(20.0, |percent| percent.value),
            least: value(&budget.min_retry_concurrency, 3),
            interval: limit("budget_interval", &budget.budget_interval, None).at(path)?,
        });
    }
    Ok(limits)
}

fn outlier(raw: &cluster::OutlierDetection) -> Decoded<OutlierConfig> {
    let number = |value: &Option<wkt::UInt32Value>, default| value.as_ref().map_or(default, |value| value.value);
    let enforced = |count: u32, share: &Option<wkt::UInt32Value>, default: u32| -> Decoded<u32> {
        match number(share, default) {
            0 => Ok(0),
            100 => Ok(count),
            _ => Err(Refusal::new("enforcing_* must be 0 or 100")),
        }
    };
    if number(&raw.enforcing_success_rate, 0) != 0 {
        return Err(Refusal::field("enforcing_success_rate", "ejection by success rate is not supported; set it to 0"));
    }
    if number(&raw.enforcing_failure_percentage, 0) != 0 {
        return Err(Refusal::field("enforcing_failure_percentage", "is not supported; set it to 0"));
    }
    let milliseconds = |name: &str, value: &Option<wkt::Duration>, default: u64| -> Decoded<u64> {
        let value = optional_duration(name, value)?;
        Ok(value.map_or(default, |value| u64::try_from(value.as_millis()).unwrap_or(u64::MAX)))
    };
    let base = milliseconds("base_ejection_time", &raw.base_ejection_time, 30_000)?;
    Ok(OutlierConfig {
        consecutive_5xx: enforced(number(&raw.consecutive_5xx, 5), &raw.enforcing_consecutive_5xx, 100)
            .at("enforcing_consecutive_5xx")?,
        consecutive_gateway: enforced(
            number(&raw.consecutive_gateway_failure, 5),
            &raw.enforcing_consecutive_gateway_failure,
            0,
        )
        .at("enforcing_consecutive_gateway_failure")?,
        split_local: raw.split_external_local_origin_errors,
        consecutive_local: enforced(
            number(&raw.consecutive_local_origin_failure, 5),
            &raw.enforcing_consecutive_local_origin_failure,
            100,
        )
        .at("enforcing_consecutive_local_origin_failure")?,
        interval: milliseconds("interval", &raw.interval, 10_000)?,
        base,
        max: milliseconds("max_ejection_time", &raw.max_ejection_time, 300_000)?.max(base),
        max_percent: number(&raw.max_ejection_percent, 10),
    })
}

struct Http {
    protocol: UpstreamProtocol,
    idle_timeout: Option<Duration>,
    max_connection_duration: Option<Duration>,
    max_requests: Option<u32>,
    max_streams: Option<u32>,
    windows: (Option<u32>, Option<u32>),
    keepalive: Option<(Duration, Duration)>,
    errors: Option<Vec<u16>>,
}

/// HTTP options, from the extension or from the older fields of the cluster itself.
#[allow(deprecated)]
fn http(raw: &cluster::Cluster) -> Decoded<Http> {
    use options::http_protocol_options::UpstreamProtocolOptions as U;
    use options::http_protocol_options::explicit_http_config::ProtocolConfig as P;
    let mut http = Http {
        protocol: if raw.http2_protocol_options.is_some() { UpstreamProtocol::Http2 } else { UpstreamProtocol::Http1 },
        idle_timeout: Some(HOUR),
        max_connection_duration: None,
        max_requests: None,
        max_streams: None,
        windows: (None, None),
        keepalive: None,
        errors: None,
    };
    if let Some(h2) = &raw.http2_protocol_options {
        http2(h2, &mut http).at("http2_protocol_options")?;
    }
    if let Some(name) = raw.typed_extension_protocol_options.keys().find(|name| *name != HTTP_OPTIONS) {
        return Err(Refusal::field(format!("typed_extension_protocol_options[\"{name}\"]"), "is not supported"));
    }
    let Some(any) = raw.typed_extension_protocol_options.get(HTTP_OPTIONS) else { return Ok(http) };
    let path = format!("typed_extension_protocol_options[\"{HTTP_OPTIONS}\"]");
    let extension: options::HttpProtocolOptions = unpack(any).at(&path)?;
    if let Some(common) = &extension.common_http_protocol_options {
        http.idle_timeout =
            limit("common_http_protocol_options.idle_timeout", &common.idle_timeout, Some(HOUR)).at(&path)?;
        http.max_connection_duration =
            limit("common_http_protocol_options.max_connection_duration", &common.max_connection_duration, None)
                .at(&path)?;
        http.max_requests = common.max_requests_per_connection.as_ref().map(|number| number.value);
    }
    if let Some(matcher) = extension.outlier_detection.as_ref().and_then(|raw| raw.error_matcher.as_ref()) {
        http.errors = Some(error_statuses(matcher).at("outlier_detection.error_matcher").at(&path)?);
    }
    match extension.upstream_protocol_options.as_ref() {
        None => {}
        Some(U::ExplicitHttpConfig(explicit)) => match explicit.protocol_config.as_ref() {
            Some(P::Http2ProtocolOptions(h2)) => {
                http.protocol = UpstreamProtocol::Http2;
                http2(h2, &mut http).at(&path)?;
            }
            Some(P::Http3ProtocolOptions(_)) => {
                return Err(Refusal::field("explicit_http_config.http3_protocol_options", "is not supported"))
                    .at(&path);
            }
            Some(P::HttpProtocolOptions(_)) | None => http.protocol = UpstreamProtocol::Http1,
        },
        Some(U::UseDownstreamProtocolConfig(config)) => {
            http.protocol = UpstreamProtocol::Downstream;
            if let Some(h2) = &config.http2_protocol_options {
                http2(h2, &mut http).at(&path)?;
            }
        }
        Some(U::AutoConfig(config)) => {
            http.protocol = UpstreamProtocol::Alpn;
            if let Some(h2) = &config.http2_protocol_options {
                http2(h2, &mut http).at(&path)?;
            }
        }
    }
    Ok(http)
}

/// The statuses that a matcher of answers names, which may name nothing else.
fn error_statuses(raw: &common_matcher::MatchPredicate) -> Decoded<Vec<u16>> {
    use common_matcher::match_predicate::Rule;
    use mesh_proto::xds::matcher::string_matcher::MatchPattern;
    use mesh_proto::xds::route::header_matcher::HeaderMatchSpecifier as H;
    match raw.rule.as_ref() {
        Some(Rule::OrMatch(set)) => Ok(each("or_match.rules", &set.rules, error_statuses)?.concat()),
        Some(Rule::HttpResponseHeadersMatch(raw)) => {
            let only = match raw.headers.as_slice() {
                [only] if only.name == ":status" && !only.invert_match => only.header_match_specifier.as_ref(),
                _ => None,
            };
            let status = match only {
                Some(H::StringMatch(string)) => match string.match_pattern.as_ref() {
                    Some(MatchPattern::Exact(status)) => status.parse().ok(),
                    _ => None,
                },
                _ => None,
            };
            let message = "only exact matches of `:status` are supported";
            Ok(vec![status.ok_or_else(|| Refusal::field("http_response_headers_match.headers", message))?])
        }
        _ => Err(Refusal::new("only or_match and http_response_headers_match are supported")),
    }
}

fn http2(raw: &core::Http2ProtocolOptions, http: &mut Http) -> Decoded<()> {
    let number = |value: &Option<wkt::UInt32Value>| value.as_ref().map(|value| value.value);
    http.max_streams = number(&raw.max_concurrent_streams);
    http.windows = (number(&raw.initial_stream_window_size), number(&raw.initial_connection_window_size));
    if let Some(keepalive) = &raw.connection_keepalive {
        let interval = optional_duration("interval", &keepalive.interval).at("connection_keepalive")?;
        let timeout = duration(required("timeout", &keepalive.timeout).at("connection_keepalive")?)
            .at("connection_keepalive.timeout")?;
        http.keepalive = interval.map(|interval| (interval, timeout));
    }
    Ok(())
}

fn transport(raw: &core::TransportSocket, context: &Context) -> Decoded<Transport> {
    use core::transport_socket::ConfigType;
    let Some(ConfigType::TypedConfig(any)) = raw.config_type.as_ref() else {
        // `envoy.transport_sockets.raw_buffer` needs no settings.
        return if raw.name == "envoy.transport_sockets.raw_buffer" {
            Ok(Transport::Plain)
        } else {
            Err(Refusal::field("typed_config", "is required"))
        };
    };
    if any.type_url.ends_with("raw_buffer.v3.RawBuffer") {
        return Ok(Transport::Plain);
    }
    let raw: tls::UpstreamTlsContext = unpack(any).at("typed_config")?;
    Ok(Transport::Tls(decode_tls::upstream(&raw, context).at("typed_config")?))
}

fn labels(raw: &wkt::Struct) -> Vec<(String, String)> {
    let mut labels: Vec<_> = raw
        .fields
        .iter()
        .filter_map(|(key, value)| match value.kind.as_ref()? {
            wkt::value::Kind::StringValue(text) => Some((key.clone(), text.clone())),
            wkt::value::Kind::BoolValue(truth) => Some((key.clone(), truth.to_string())),
            _ => None,
        })
        .collect();
    labels.sort();
    labels
}

/// `metadata.istio.services[0]`.
fn service(metadata: &Option<core::Metadata>) -> Option<DestinationService> {
    let fields = &metadata.as_ref()?.filter_metadata.get("istio")?.fields;
    let Some(wkt::value::Kind::ListValue(list)) = fields.get("services")?.kind.as_ref() else { return None };
    let Some(wkt::value::Kind::StructValue(first)) = list.values.first()?.kind.as_ref() else { return None };
    let text = |key: &str| match first.fields.get(key).and_then(|value| value.kind.as_ref()) {
        Some(wkt::value::Kind::StringValue(text)) => Name::from(text.as_str()),
        _ => Name::from(""),
    };
    Some(DestinationService { host: text("host"), name: text("name"), namespace: text("namespace") })
}

/// Endpoints.
pub fn load_assignment(raw: &endpoint::ClusterLoadAssignment) -> Decoded<Vec<EndpointSpec>> {
    let groups = each("endpoints", &raw.endpoints, |group| {
        let mut specs = each("lb_endpoints", &group.lb_endpoints, |one| self::endpoint(one, group.priority))?;
        if let Some(weight) = &group.load_balancing_weight {
            share_locality(weight.value, &mut specs);
        }
        Ok(specs)
    })?;
    Ok(groups.into_iter().flatten().collect())
}

/// Divides a locality's weight among its endpoints, finely enough that small weights do not round to nothing.
fn share_locality(weight: u32, specs: &mut [EndpointSpec]) {
    const PARTS: u64 = 1 << 12;
    let total: u64 = specs.iter().map(|spec| u64::from(spec.weight)).sum();
    for spec in specs {
        let share = u64::from(weight) * PARTS * u64::from(spec.weight) / total.max(1);
        spec.locality_weight = Some(u32::try_from(share).unwrap_or(u32::MAX).max(1));
    }
}

fn endpoint(raw: &endpoint::LbEndpoint, priority: u32) -> Decoded<EndpointSpec> {
    use endpoint::lb_endpoint::HostIdentifier;
    let Some(HostIdentifier::Endpoint(one)) = raw.host_identifier.as_ref() else {
        return Err(Refusal::field("endpoint", "is required"));
    };
    let address = address(required("address", &one.address).at("endpoint")?).at("endpoint.address")?;
    let hostname = (!one.hostname.is_empty()).then(|| Arc::from(one.hostname.as_str()));
    let health = core::HealthStatus::try_from(raw.health_status).unwrap_or(core::HealthStatus::Unknown);
    let match_labels = raw.metadata.as_ref().and_then(|meta| meta.filter_metadata.get("envoy.transport_socket_match"));
    Ok(EndpointSpec {
        address,
        hostname,
        weight: raw.load_balancing_weight.as_ref().map_or(1, |weight| weight.value).max(1),
        locality_weight: None,
        priority,
        healthy: matches!(
            health,
            core::HealthStatus::Unknown | core::HealthStatus::Healthy | core::HealthStatus::Degraded
        ),
        transport_labels: match_labels.map(labels).unwrap_or_default(),
        peer: Arc::new(peer(&raw.metadata)),
    })
}

/// `istio.workload` is `WORKLOAD;NAMESPACE;CANONICAL_NAME;CANONICAL_REVISION;CLUSTER`; the rest is ours.
fn peer(metadata: &Option<core::Metadata>) -> Peer {
    let mut peer = Peer::default();
    if let Some(workload) = istio_metadata(metadata, "workload") {
        let mut parts = workload.split(';').map(|part| (!part.is_empty()).then(|| Name::from(part)));
        let mut next = || parts.next().flatten();
        peer.workload = next();
        peer.namespace = next();
        peer.canonical_service = next();
        peer.canonical_revision = next();
        peer.cluster = next();
    }
    peer.app = metadata_string(metadata, "ferromesh", "app");
    peer.version = metadata_string(metadata, "ferromesh", "version");
    peer
}

/// Where something listens: an IP address and port, a name and port, or a Unix socket.
pub fn address(raw: &core::Address) -> Decoded<Address> {
    use core::address::Address as A;
    use core::socket_address::PortSpecifier;
    match raw.address.as_ref() {
        Some(A::SocketAddress(socket)) => {
            let port = match socket.port_specifier.as_ref() {
                Some(PortSpecifier::PortValue(port)) => u16::try_from(*port)
                    .map_err(|_| Refusal::field("socket_address.port_value", "must be at most 65535"))?,
                _ => return Err(Refusal::field("socket_address.port_value", "is required")),
            };
            Ok(match socket.address.parse::<IpAddr>() {
                Ok(ip) => Address::Ip(SocketAddr::new(ip, port)),
                Err(_) => Address::Name(socket.address.as_str().into(), port),
            })
        }
        Some(A::Pipe(pipe)) => Ok(Address::Pipe(pipe.path.clone().into())),
        _ => Err(Refusal::new("needs socket_address or pipe")),
    }
}

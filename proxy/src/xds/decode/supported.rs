//! Which fields of Envoy's messages are honoured: a resource that sets any other is refused with the path of that field.
//!
//! Runs before a resource is decoded, over its descriptor, so that no field is ever accepted and ignored. A message that is not in
//! the table is supported as a whole only if a star says so; decoders refuse what they cannot do with the values themselves.

use std::collections::HashMap;
use std::sync::LazyLock;

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, ReflectMessage, Value};

use super::{At, Decoded, Refusal};
use crate::Name;

/// Message → fields. `*` is all, below it too; `field=value` only that value, since it is what we do anyway. A key
/// `Message.field` holds for the message in that field instead of the message's own line.
const TABLE: &[(&str, &str)] = &[
    // Addresses, sources, sockets.
    ("core.Address", "socket_address pipe"),
    ("core.SocketAddress", "protocol=TCP address port_value"),
    ("core.BindConfig", "source_address"),
    ("core.Pipe", "path"),
    ("core.CidrRange", "*"),
    ("core.Metadata", "*"),
    ("core.Locality", "*"),
    ("core.DataSource", "filename inline_bytes inline_string environment_variable"),
    ("core.TransportSocket", "name typed_config"),
    ("core.TypedExtensionConfig", "name typed_config"),
    ("core.ConfigSource", "ads self resource_api_version initial_fetch_timeout"),
    ("core.AggregatedConfigSource", "*"),
    ("core.SelfConfigSource", "*"),
    ("core.TcpKeepalive", "*"),
    ("core.HeaderValueOption", "header append append_action keep_empty_value"),
    ("core.HeaderValue", "key value"),
    ("core.RuntimeFractionalPercent", "default_value runtime_key"),
    ("core.SubstitutionFormatString", "text_format text_format_source json_format omit_empty_values"),
    (
        "core.HttpProtocolOptions",
        "idle_timeout max_connection_duration max_headers_count max_stream_duration headers_with_underscores_action \
         max_requests_per_connection",
    ),
    ("core.Http1ProtocolOptions", "allow_absolute_url=true accept_http_10=true enable_trailers=true"),
    (
        "core.Http2ProtocolOptions",
        "max_concurrent_streams initial_stream_window_size initial_connection_window_size allow_connect=true \
         connection_keepalive",
    ),
    ("core.KeepaliveSettings", "interval timeout"),
    ("core.BackoffStrategy", "base_interval max_interval"),
    // Matchers and values, which their decoders take apart completely.
    ("type.matcher.StringMatcher", "*"),
    ("type.matcher.RegexMatcher", "*"),
    ("type.matcher.RegexMatchAndSubstitute", "*"),
    ("type.FractionalPercent", "*"),
    ("type.Percent", "*"),
    // Clusters.
    (
        "config.cluster.Cluster",
        "name alt_stat_name type eds_cluster_config connect_timeout lb_policy load_assignment max_requests_per_connection \
         circuit_breakers http_protocol_options http2_protocol_options common_http_protocol_options \
         typed_extension_protocol_options dns_refresh_rate dns_lookup_family outlier_detection least_request_lb_config \
         round_robin_lb_config common_lb_config transport_socket transport_socket_matches metadata \
         upstream_connection_options upstream_bind_config",
    ),
    (
        "config.cluster.Cluster.common_http_protocol_options",
        "idle_timeout max_connection_duration max_requests_per_connection",
    ),
    ("config.cluster.Cluster.EdsClusterConfig", "eds_config service_name"),
    ("config.cluster.Cluster.TransportSocketMatch", "name match transport_socket"),
    ("config.cluster.Cluster.LeastRequestLbConfig", "choice_count"),
    ("config.cluster.Cluster.RoundRobinLbConfig", ""),
    ("config.cluster.Cluster.CommonLbConfig", "healthy_panic_threshold locality_weighted_lb_config"),
    ("config.cluster.Cluster.CommonLbConfig.LocalityWeightedLbConfig", ""),
    ("config.cluster.UpstreamConnectionOptions", "tcp_keepalive"),
    ("config.cluster.CircuitBreakers", "thresholds"),
    (
        "config.cluster.CircuitBreakers.Thresholds",
        "priority max_connections max_pending_requests max_requests max_retries retry_budget track_remaining",
    ),
    ("config.cluster.CircuitBreakers.Thresholds.RetryBudget", "budget_percent min_retry_concurrency budget_interval"),
    (
        "config.cluster.OutlierDetection",
        "consecutive_5xx interval base_ejection_time max_ejection_percent enforcing_consecutive_5xx enforcing_success_rate \
         consecutive_gateway_failure enforcing_consecutive_gateway_failure split_external_local_origin_errors \
         consecutive_local_origin_failure enforcing_consecutive_local_origin_failure enforcing_local_origin_success_rate=0 \
         enforcing_failure_percentage enforcing_failure_percentage_local_origin=0 max_ejection_time",
    ),
    (
        "ext.upstreams.http.HttpProtocolOptions",
        "common_http_protocol_options explicit_http_config use_downstream_protocol_config auto_config outlier_detection",
    ),
    ("ext.upstreams.http.HttpProtocolOptions.OutlierDetection", "error_matcher"),
    ("config.common.matcher.MatchPredicate", "or_match http_response_headers_match"),
    ("config.common.matcher.MatchPredicate.MatchSet", "rules"),
    ("config.common.matcher.HttpHeadersMatch", "headers"),
    (
        "ext.upstreams.http.HttpProtocolOptions.common_http_protocol_options",
        "idle_timeout max_connection_duration max_requests_per_connection",
    ),
    (
        "ext.upstreams.http.HttpProtocolOptions.ExplicitHttpConfig",
        "http_protocol_options http2_protocol_options http3_protocol_options",
    ),
    ("ext.upstreams.http.HttpProtocolOptions.UseDownstreamHttpConfig", "http_protocol_options http2_protocol_options"),
    ("ext.upstreams.http.HttpProtocolOptions.AutoHttpConfig", "http_protocol_options http2_protocol_options"),
    ("core.Http3ProtocolOptions", "*"),
    ("config.endpoint.ClusterLoadAssignment", "cluster_name endpoints policy"),
    ("config.endpoint.ClusterLoadAssignment.Policy", "overprovisioning_factor=140"),
    ("config.endpoint.LocalityLbEndpoints", "locality metadata lb_endpoints load_balancing_weight priority"),
    ("config.endpoint.LbEndpoint", "endpoint health_status metadata load_balancing_weight"),
    ("config.endpoint.Endpoint", "address hostname"),
    // TLS.
    ("ext.transport_sockets.raw_buffer.RawBuffer", ""),
    (
        "ext.transport_sockets.tls.UpstreamTlsContext",
        "common_tls_context sni auto_host_sni auto_sni_san_validation max_session_keys=0",
    ),
    (
        "ext.transport_sockets.tls.DownstreamTlsContext",
        "common_tls_context require_client_certificate disable_stateless_session_resumption=true disable_stateful_session_resumption=true",
    ),
    (
        "ext.transport_sockets.tls.CommonTlsContext",
        "tls_params tls_certificates tls_certificate_sds_secret_configs validation_context validation_context_sds_secret_config \
         combined_validation_context alpn_protocols",
    ),
    (
        "ext.transport_sockets.tls.CommonTlsContext.CombinedCertificateValidationContext",
        "default_validation_context validation_context_sds_secret_config",
    ),
    (
        "ext.transport_sockets.tls.CertificateValidationContext",
        "trusted_ca system_root_certs match_typed_subject_alt_names match_subject_alt_names",
    ),
    ("ext.transport_sockets.tls.CertificateValidationContext.SystemRootCerts", ""),
    ("ext.transport_sockets.tls.SubjectAltNameMatcher", "san_type matcher"),
    ("ext.transport_sockets.tls.TlsCertificate", "certificate_chain private_key"),
    (
        "ext.transport_sockets.tls.TlsParameters",
        "tls_minimum_protocol_version tls_maximum_protocol_version cipher_suites",
    ),
    ("ext.transport_sockets.tls.SdsSecretConfig", "name sds_config"),
    // Secrets come over ADS, from the identity or from files, whatever server the source names.
    (
        "ext.transport_sockets.tls.SdsSecretConfig.sds_config",
        "ads self api_config_source resource_api_version initial_fetch_timeout",
    ),
    ("core.ApiConfigSource", "*"),
    ("ext.transport_sockets.tls.Secret", "name tls_certificate validation_context"),
    // Routes.
    (
        "config.route.RouteConfiguration",
        "name virtual_hosts vhds response_headers_to_add response_headers_to_remove request_headers_to_add \
         request_headers_to_remove most_specific_header_mutations_wins validate_clusters=false \
         max_direct_response_body_size_bytes ignore_port_in_host_matching metadata",
    ),
    ("config.route.Vhds", "config_source"),
    (
        "config.route.VirtualHost",
        "name domains routes matcher require_tls request_headers_to_add request_headers_to_remove response_headers_to_add \
         response_headers_to_remove typed_per_filter_config include_request_attempt_count retry_policy metadata",
    ),
    (
        "config.route.Route",
        "name match route redirect direct_response metadata decorator typed_per_filter_config request_headers_to_add \
         request_headers_to_remove response_headers_to_add response_headers_to_remove stat_prefix",
    ),
    // A name for spans; there are none.
    ("config.route.Decorator", "*"),
    (
        "config.route.RouteMatch",
        "prefix path safe_regex connect_matcher path_separated_prefix case_sensitive runtime_fraction headers query_parameters \
         grpc",
    ),
    ("config.route.RouteMatch.ConnectMatcher", ""),
    ("config.route.RouteMatch.GrpcRouteMatchOptions", ""),
    ("config.route.HeaderMatcher", "*"),
    ("config.route.QueryParameterMatcher", "*"),
    (
        "config.route.RouteAction",
        "cluster cluster_header weighted_clusters cluster_not_found_response_code prefix_rewrite regex_rewrite \
         host_rewrite_literal auto_host_rewrite host_rewrite_header append_x_forwarded_host timeout idle_timeout retry_policy \
         upgrade_configs max_stream_duration max_grpc_timeout",
    ),
    ("config.route.RouteAction.UpgradeConfig", "upgrade_type enabled connect_config"),
    ("config.route.RouteAction.UpgradeConfig.ConnectConfig", ""),
    ("config.route.RouteAction.MaxStreamDuration", "max_stream_duration grpc_timeout_header_max"),
    ("config.route.WeightedCluster", "clusters"),
    (
        "config.route.WeightedCluster.ClusterWeight",
        "name weight request_headers_to_add request_headers_to_remove response_headers_to_add response_headers_to_remove \
         typed_per_filter_config host_rewrite_literal",
    ),
    (
        "config.route.RetryPolicy",
        "retry_on num_retries per_try_timeout retry_host_predicate host_selection_retry_max_attempts retriable_status_codes \
         retry_back_off retriable_headers retry_priority",
    ),
    ("config.route.RetryPolicy.RetryBackOff", "*"),
    ("config.route.RetryPolicy.RetryHostPredicate", "name typed_config"),
    ("config.route.RetryPolicy.RetryPriority", "name typed_config"),
    ("ext.retry.host.previous_hosts.PreviousHostsPredicate", ""),
    ("ext.retry.priority.previous_priorities.PreviousPrioritiesConfig", "*"),
    ("config.route.RedirectAction", "*"),
    ("config.route.DirectResponseAction", "status body"),
    // Names.
    ("istio.networking.nds.v1.NameTable", "*"),
    // Listeners.
    (
        "config.listener.Listener",
        "name address additional_addresses filter_chains use_original_dst default_filter_chain metadata deprecated_v1 \
         listener_filters listener_filters_timeout continue_on_listener_filters_timeout transparent=false freebind=false \
         traffic_direction enable_reuse_port=true access_log tcp_backlog_size bind_to_port",
    ),
    ("config.listener.Listener.DeprecatedV1", "bind_to_port"),
    ("config.listener.AdditionalAddress", "address"),
    (
        "config.listener.FilterChain",
        "filter_chain_match filters metadata transport_socket transport_socket_connect_timeout name",
    ),
    (
        "config.listener.FilterChainMatch",
        "destination_port prefix_ranges direct_source_prefix_ranges source_prefix_ranges source_ports server_names \
         transport_protocol application_protocols",
    ),
    ("config.listener.Filter", "name typed_config"),
    ("config.listener.ListenerFilter", "name typed_config filter_disabled"),
    ("config.listener.ListenerFilterChainMatchPredicate", "or_match destination_port_range"),
    ("config.listener.ListenerFilterChainMatchPredicate.MatchSet", "rules"),
    ("type.Int32Range", "*"),
    ("ext.filters.listener.original_dst.OriginalDst", ""),
    ("ext.filters.listener.tls_inspector.TlsInspector", ""),
    ("ext.filters.listener.http_inspector.HttpInspector", ""),
    ("ext.filters.listener.proxy_protocol.ProxyProtocol", ""),
    (
        "ext.filters.network.http_connection_manager.HttpConnectionManager",
        "codec_type stat_prefix rds route_config http_filters common_http_protocol_options http_protocol_options \
         http2_protocol_options server_name server_header_transformation max_request_headers_kb stream_idle_timeout \
         request_timeout request_headers_timeout access_log use_remote_address xff_num_trusted_hops skip_xff_append via \
         generate_request_id preserve_external_request_id forward_client_cert_details set_current_client_cert_details \
         upgrade_configs normalize_path merge_slashes path_with_escaped_slashes_action strip_matching_host_port \
         strip_any_host_port strip_trailing_host_dot=true",
    ),
    (
        "ext.filters.network.http_connection_manager.HttpConnectionManager.SetCurrentClientCertDetails",
        "subject cert dns uri",
    ),
    ("ext.filters.network.http_connection_manager.HttpConnectionManager.UpgradeConfig", "upgrade_type enabled"),
    ("ext.filters.network.http_connection_manager.Rds", "config_source route_config_name"),
    ("ext.filters.network.http_connection_manager.HttpFilter", "name typed_config disabled=false"),
    (
        "ext.filters.network.tcp_proxy.TcpProxy",
        "stat_prefix cluster weighted_clusters idle_timeout access_log max_connect_attempts max_downstream_connection_duration \
         tunneling_config",
    ),
    ("ext.filters.network.tcp_proxy.TcpProxy.WeightedCluster", "clusters"),
    ("ext.filters.network.tcp_proxy.TcpProxy.WeightedCluster.ClusterWeight", "name weight"),
    ("ext.filters.network.tcp_proxy.TcpProxy.TunnelingConfig", "hostname"),
    (
        "ext.filters.network.rbac.RBAC",
        "rules shadow_rules stat_prefix shadow_rules_stat_prefix enforcement_type=ONE_TIME_ON_FIRST_BYTE",
    ),
    ("ext.filters.http.rbac.RBAC", "rules shadow_rules rules_stat_prefix shadow_rules_stat_prefix"),
    ("ext.filters.http.rbac.RBACPerRoute", "rbac"),
    ("config.rbac.RBAC", "action policies"),
    ("config.rbac.Policy", "permissions principals condition checked_condition"),
    ("config.rbac.Permission", "*"),
    ("config.rbac.Principal", "*"),
    ("google.api.expr.v1alpha1.Expr", "*"),
    ("google.api.expr.v1alpha1.CheckedExpr", "*"),
    ("ext.filters.http.router.Router", ""),
    // Without settings for a route these two do nothing.
    ("ext.filters.http.fault.HTTPFault", ""),
    ("ext.filters.http.cors.Cors", ""),
    ("ferromesh.v1.Stats", "*"),
    // Access logs.
    ("config.accesslog.AccessLog", "name filter typed_config"),
    ("config.accesslog.AccessLogFilter", "*"),
    ("ext.access_loggers.file.FileAccessLog", "path format json_format typed_json_format log_format"),
    ("ext.access_loggers.stream.StdoutAccessLog", "log_format"),
];

/// `*`, or field → the only value, if there is one.
enum Fields {
    All,
    These(HashMap<&'static str, Option<&'static str>>),
}

static SUPPORTED: LazyLock<HashMap<String, Fields>> = LazyLock::new(|| {
    let parse = |text: &'static str| match text {
        "*" => Fields::All,
        text => Fields::These(
            text.split_ascii_whitespace()
                .map(|field| field.split_once('=').map_or((field, None), |(field, value)| (field, Some(value))))
                .collect(),
        ),
    };
    TABLE.iter().map(|(key, fields)| ((*key).to_owned(), parse(fields))).collect()
});

/// `envoy.config.core.v3.Address` → `core.Address`: the form of the table's keys.
fn short(full: &str) -> String {
    let name = full.strip_prefix("envoy.").unwrap_or(full);
    let name = name.replacen(".v3.", ".", 1);
    if let Some(rest) = name.strip_prefix("config.core.") {
        return format!("core.{rest}");
    }
    match name.strip_prefix("extensions.") {
        Some(rest) => format!("ext.{rest}"),
        None => name,
    }
}

/// What a resource refers to by name.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Mentioned {
    /// Secrets (SDS).
    pub secrets: Vec<Name>,
}

/// Checks a resource whose bytes are those of message `type_name` (full name or type URL).
pub fn check(type_name: &str, bytes: &[u8]) -> Decoded<Mentioned> {
    let message = mesh_proto::descriptor::dynamic(type_name, bytes).map_err(Refusal::new)?;
    let mut mentioned = Mentioned::default();
    walk(&message, None, &mut mentioned)?;
    Ok(mentioned)
}

fn walk(message: &DynamicMessage, place: Option<&str>, mentioned: &mut Mentioned) -> Decoded<()> {
    let descriptor = message.descriptor();
    let full = descriptor.full_name();
    if full == "google.protobuf.Any" {
        return walk_any(message, mentioned);
    }
    if full.starts_with("google.protobuf.") {
        return Ok(());
    }
    let name = short(full);
    let fields = place.and_then(|place| SUPPORTED.get(place)).or_else(|| SUPPORTED.get(&name));
    let Some(fields) = fields else {
        return Err(Refusal::new(format!("`{full}` is not supported")));
    };
    let Fields::These(known) = fields else { return Ok(()) };
    if let Some(unknown) = message.unknown_fields().next() {
        let message = format!("field number {} of `{full}` is not known to this version", unknown.number());
        return Err(Refusal::new(message));
    }
    if name == "ext.transport_sockets.tls.SdsSecretConfig"
        && let Some(Value::String(secret)) = message.get_field_by_name("name").as_deref()
    {
        mentioned.secrets.push(secret.as_str().into());
    }
    for (field, value) in message.fields() {
        let wanted = match known.get(field.name()) {
            None => return Err(Refusal::field(field.name(), "is not supported")),
            Some(None) => None,
            Some(Some(wanted)) => Some(*wanted),
        };
        if let Some(wanted) = wanted
            && text(&field, value) != wanted
        {
            return Err(Refusal::field(field.name(), format!("only {wanted} is supported")));
        }
        descend(value, &format!("{name}.{}", field.name()), mentioned, field.name())?;
    }
    Ok(())
}

fn descend(value: &Value, place: &str, mentioned: &mut Mentioned, path: &str) -> Decoded<()> {
    match value {
        Value::Message(inner) => walk(inner, Some(place), mentioned).at(path),
        Value::List(list) => list
            .iter()
            .enumerate()
            .try_for_each(|(index, one)| descend(one, place, mentioned, &format!("{path}[{index}]"))),
        Value::Map(map) => map.iter().try_for_each(|(key, one)| {
            let key = match key {
                MapKey::String(text) => text.clone(),
                other => format!("{other:?}"),
            };
            descend(one, place, mentioned, &format!("{path}[\"{key}\"]"))
        }),
        _ => Ok(()),
    }
}

fn walk_any(any: &DynamicMessage, mentioned: &mut Mentioned) -> Decoded<()> {
    let (url, bytes) = (any.get_field_by_name("type_url"), any.get_field_by_name("value"));
    let (Some(Value::String(url)), Some(Value::Bytes(bytes))) = (url.as_deref(), bytes.as_deref()) else {
        return Ok(());
    };
    let message = mesh_proto::descriptor::dynamic(url, bytes).map_err(Refusal::new)?;
    walk(&message, None, mentioned)
}

/// A value as the table writes it; a wrapper is what it wraps.
fn text(field: &FieldDescriptor, value: &Value) -> String {
    match value {
        Value::Bool(truth) => truth.to_string(),
        Value::U32(number) => number.to_string(),
        Value::U64(number) => number.to_string(),
        Value::I32(number) => number.to_string(),
        Value::I64(number) => number.to_string(),
        Value::F32(number) => number.to_string(),
        Value::F64(number) => number.to_string(),
        Value::String(text) => text.clone(),
        Value::EnumNumber(number) => match field.kind() {
            Kind::Enum(kind) => kind.get_value(*number).map_or_else(String::new, |value| value.name().to_owned()),
            _ => number.to_string(),
        },
        Value::Message(wrapper) => match wrapper.descriptor().get_field_by_name("value") {
            Some(inner) => text(&inner, &wrapper.get_field(&inner)),
            None => String::new(),
        },
        Value::Bytes(_) | Value::List(_) | Value::Map(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use mesh_proto::yaml::dynamic_from_yaml;
    use prost::Message;

    fn verdict(name: &str, yaml: &str) -> Decoded<Mentioned> {
        let message = dynamic_from_yaml(name, yaml).unwrap();
        check(name, &message.encode_to_vec())
    }

    #[test]
    fn every_line_names_a_message_and_fields_that_exist() {
        let pool = mesh_proto::descriptor::pool();
        for (key, fields) in TABLE {
            let full = |key: &str| pool.all_messages().find(|message| short(message.full_name()) == key);
            let message = full(key).or_else(|| {
                let (parent, field) = key.rsplit_once('.')?;
                match full(parent)?.get_field_by_name(field)?.kind() {
                    Kind::Message(message) => Some(message),
                    _ => None,
                }
            });
            let message = message.unwrap_or_else(|| panic!("{key} is no message"));
            for field in fields.split_ascii_whitespace().filter(|field| *field != "*") {
                let field = field.split('=').next().unwrap();
                assert!(message.get_field_by_name(field).is_some(), "{key} has no field {field}");
            }
        }
    }

    #[test]
    fn a_field_that_is_not_honoured_is_refused_by_its_path() {
        let hcm = |inside: &str| {
            format!(
                "{{name: l, filter_chains: [{{}}, {{filters: [{{name: h, typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: x, {inside}}}}}]}}]}}"
            )
        };
        const LISTENER: &str = "envoy.config.listener.v3.Listener";
        const CLUSTER: &str = "envoy.config.cluster.v3.Cluster";
        for (name, yaml, path) in [
            (
                CLUSTER,
                "{name: a, health_checks: [{timeout: 1s, interval: 1s}]}".to_owned(),
                "health_checks: is not supported",
            ),
            (
                CLUSTER,
                "{name: a, outlier_detection: {success_rate_minimum_hosts: 3}}".to_owned(),
                "outlier_detection.success_rate_minimum_hosts: is not",
            ),
            (
                CLUSTER,
                "{name: a, outlier_detection: {enforcing_local_origin_success_rate: 3}}".to_owned(),
                "outlier_detection.enforcing_local_origin_success_rate: only 0",
            ),
            (LISTENER, "{name: l, enable_reuse_port: false}".to_owned(), "enable_reuse_port: only true is supported"),
            (
                "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "{max_session_keys: 5}".to_owned(),
                "max_session_keys: only 0 is supported",
            ),
            (
                LISTENER,
                hcm("add_user_agent: true"),
                "filter_chains[1].filters[0].typed_config.add_user_agent: is not supported",
            ),
            (
                LISTENER,
                hcm(
                    "route_config: {virtual_hosts: [{name: v, domains: ['*'], routes: [{match: {prefix: /}, route: {cluster: c, priority: HIGH}}]}]}",
                ),
                "filter_chains[1].filters[0].typed_config.route_config.virtual_hosts[0].routes[0].route.priority",
            ),
        ] {
            let refusal = verdict(name, &yaml).unwrap_err().to_string();
            assert!(refusal.starts_with(path), "{refusal}");
        }
    }

    #[test]
    fn secrets_are_found() {
        let yaml = "{name: a, transport_socket: {name: t, typed_config: {'@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, common_tls_context: {tls_certificate_sds_secret_configs: [{name: default, sds_config: {ads: {}}}], combined_validation_context: {default_validation_context: {}, validation_context_sds_secret_config: {name: ROOTCA}}}}}}";
        let found = verdict("envoy.config.cluster.v3.Cluster", yaml).unwrap();
        assert_eq!(found.secrets.iter().map(|name| &**name).collect::<Vec<_>>(), ["default", "ROOTCA"]);
        let file = yaml.replace("ads: {}", "path_config_source: {path: /x}");
        let refusal = verdict("envoy.config.cluster.v3.Cluster", &file).unwrap_err().to_string();
        assert!(refusal.contains("tls_certificate_sds_secret_configs[0].sds_config.path_config_source"), "{refusal}");
    }
}

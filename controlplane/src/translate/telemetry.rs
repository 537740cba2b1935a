//! What a chain tells the world: access logs (AL1, AL2) and Istio's standard metrics.

use mesh_proto::ferromesh::v1;
use mesh_proto::xds::{accesslog, core, file_access_log, hcm, listener, pack, wkt};

use super::{http, wire};
use crate::model::{AccessLog, Direction, LogFormat, Node, NodeKind, PushContext, Registry, Service};

const FILE_LOGGER: &str = "envoy.access_loggers.file";
const STATS: &str = "ferromesh.stats";

/// Istio's default line. Source: `EnvoyTextLogFormat` in Istio's `pilot/pkg/model/telemetry_logging.go`.
const TEXT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% \
%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" \
%BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \
\"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% \
%UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n";

/// Istio's default object. Source: `EnvoyJSONLogFormatIstio`, the same file.
const JSON: &[(&str, &str)] = &[
    ("authority", "%REQ(:AUTHORITY)%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("connection_termination_details", "%CONNECTION_TERMINATION_DETAILS%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("duration", "%DURATION%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("route_name", "%ROUTE_NAME%"),
    ("start_time", "%START_TIME%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    ("upstream_service_time", "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"),
    ("upstream_transport_failure_reason", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
];

/// The access logs of a node's side, for chains and connection managers.
pub fn access_logs(context: &PushContext, node: &Node, direction: Direction) -> Vec<accesslog::AccessLog> {
    context.access_logging(node, direction).iter().map(file_log).collect()
}

fn file_log(log: &AccessLog) -> accesslog::AccessLog {
    use core::substitution_format_string::Format;
    let text = |line: &str| {
        Format::TextFormatSource(core::DataSource {
            specifier: Some(core::data_source::Specifier::InlineString(line.to_owned())),
            ..Default::default()
        })
    };
    let format = match &log.format {
        LogFormat::DefaultText => text(TEXT),
        LogFormat::Text(line) => text(line),
        LogFormat::DefaultJson => Format::JsonFormat(wkt::Struct {
            fields: JSON.iter().map(|(key, value)| ((*key).to_owned(), wire::string(*value))).collect(),
        }),
        LogFormat::Json(fields) => Format::JsonFormat(object(fields)),
    };
    let config = file_access_log::FileAccessLog {
        path: log.path.to_string(),
        access_log_format: Some(file_access_log::file_access_log::AccessLogFormat::LogFormat(
            core::SubstitutionFormatString {
                format: Some(format),
                omit_empty_values: log.omit_empty,
                ..Default::default()
            },
        )),
    };
    accesslog::AccessLog {
        name: FILE_LOGGER.to_owned(),
        config_type: Some(accesslog::access_log::ConfigType::TypedConfig(pack(&config))),
        ..Default::default()
    }
}

fn object(fields: &serde_json::Map<String, serde_json::Value>) -> wkt::Struct {
    wkt::Struct { fields: fields.iter().map(|(key, field)| (key.clone(), value(field))).collect() }
}

fn value(json: &serde_json::Value) -> wkt::Value {
    use serde_json::Value as J;
    use wkt::value::Kind;
    let kind = match json {
        J::Null => Kind::NullValue(0),
        J::Bool(truth) => Kind::BoolValue(*truth),
        J::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        J::String(text) => Kind::StringValue(text.clone()),
        J::Array(list) => Kind::ListValue(wkt::ListValue { values: list.iter().map(value).collect() }),
        J::Object(fields) => Kind::StructValue(object(fields)),
    };
    wkt::Value { kind: Some(kind) }
}

/// The name that metrics show for a service: of a ServiceEntry it is the host.
pub fn service_name(service: &Service) -> &str {
    match service.registry {
        Registry::Kubernetes => &service.name,
        Registry::External => &service.host,
    }
}

/// Istio's metrics on an HTTP chain; `service` is the one behind an inbound chain. `None` for proxies that are not ours.
pub fn http_stats(node: &Node, direction: Direction, service: Option<&Service>) -> Option<hcm::HttpFilter> {
    node.ferromesh.then(|| http::filter(STATS, &stats(node, direction, service)))
}

/// The same on a TCP chain, before `tcp_proxy`.
pub fn tcp_stats(node: &Node, direction: Direction, service: Option<&Service>) -> Option<listener::Filter> {
    node.ferromesh.then(|| network_filter(STATS, &stats(node, direction, service)))
}

/// A network filter.
pub fn network_filter<M: prost::Name>(name: &str, config: &M) -> listener::Filter {
    listener::Filter {
        name: name.to_owned(),
        config_type: Some(listener::filter::ConfigType::TypedConfig(pack(config))),
    }
}

fn stats(node: &Node, direction: Direction, service: Option<&Service>) -> v1::Stats {
    // Gateways report as sources, as Istio's do.
    let source = direction == Direction::Outbound || node.kind == NodeKind::Router;
    let reporter = if source { v1::stats::Reporter::Source } else { v1::stats::Reporter::Destination };
    v1::Stats {
        reporter: reporter.into(),
        metadata_exchange: true,
        destination_service_host: service.map_or_else(String::new, |service| service.host.to_string()),
        destination_service_name: service.map_or_else(String::new, |service| service_name(service).to_owned()),
        destination_service_namespace: service.map_or_else(String::new, |service| service.namespace.to_string()),
    }
}

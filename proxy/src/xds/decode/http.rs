//! `HttpConnectionManager` → [`crate::http::HttpChain`].

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use mesh_proto::xds::{core, hcm, http_rbac};

use super::{
    At, Context, Decoded, Refusal, access_log, authz, duration, each, limit, listener, optional_duration, required,
    route, unpack,
};
use crate::Name;
use crate::http::{
    ClientCertDetails, Codec, DEFAULT_MAX_HEAD_BYTES, EscapedSlashes, ForwardClientCert, Forwarded, HttpChain,
    Normalize, RouteSource, ServerHeader, StripPort, Underscores,
};
use crate::policy::HttpPolicy;
use crate::telemetry::stats::StatsFilter;

/// Envoy's idle time-out of connections.
const IDLE: Duration = Duration::from_secs(3600);
/// Envoy's idle time-out of streams.
const STREAM_IDLE: Duration = Duration::from_secs(300);
/// Envoy's limit on header fields.
const MAX_HEADERS: u32 = 100;
/// How long something waits for a resource that it names (`initial_fetch_timeout`).
pub const FETCH_TIMEOUT: Duration = Duration::from_secs(15);

/// The route table that a chain waits for, and for how long.
pub type NamedRoutes = Option<(Name, Option<Duration>)>;

/// A chain, and the route table that it names.
pub fn chain(raw: &hcm::HttpConnectionManager, context: &Context) -> Decoded<(HttpChain, NamedRoutes)> {
    let filters = filters(&raw.http_filters)?;
    let (routes, named) = routes(raw)?;
    let common = raw.common_http_protocol_options.unwrap_or_default();
    let at_common = "common_http_protocol_options";
    let number = |value: &Option<mesh_proto::xds::wkt::UInt32Value>| value.as_ref().map(|value| value.value);
    let flag =
        |value: &Option<mesh_proto::xds::wkt::BoolValue>, default| value.as_ref().map_or(default, |one| one.value);
    let http2 = raw.http2_protocol_options.clone().unwrap_or_default();
    let head_bytes = number(&raw.max_request_headers_kb).map_or(DEFAULT_MAX_HEAD_BYTES, |kilobytes| kilobytes * 1024);
    let chain = HttpChain {
        stat_prefix: raw.stat_prefix.as_str().into(),
        codec: codec(raw)?,
        routes,
        policies: filters.policies,
        stats: filters.stats,
        access_logs: access_log::all(&raw.access_log, context)?,
        normalize: Normalize {
            path: flag(&raw.normalize_path, false),
            merge_slashes: raw.merge_slashes,
            escaped_slashes: escaped_slashes(raw)?,
            underscores: underscores(&common).at(at_common)?,
        },
        forwarded: forwarded(raw)?,
        server_header: server_header(raw)?,
        upgrades: raw
            .upgrade_configs
            .iter()
            .map(|one| (one.upgrade_type.to_ascii_lowercase(), flag(&one.enabled, true)))
            .collect(),
        headers_timeout: limit("request_headers_timeout", &raw.request_headers_timeout, None)?,
        request_timeout: limit("request_timeout", &raw.request_timeout, None)?,
        stream_idle_timeout: limit("stream_idle_timeout", &raw.stream_idle_timeout, Some(STREAM_IDLE))?,
        idle_timeout: limit("idle_timeout", &common.idle_timeout, Some(IDLE)).at(at_common)?,
        max_connection_duration: limit("max_connection_duration", &common.max_connection_duration, None)
            .at(at_common)?,
        max_stream_duration: limit("max_stream_duration", &common.max_stream_duration, None).at(at_common)?,
        max_requests_per_connection: number(&common.max_requests_per_connection).filter(|limit| *limit > 0),
        max_concurrent_streams: number(&http2.max_concurrent_streams),
        stream_window: number(&http2.initial_stream_window_size),
        connection_window: number(&http2.initial_connection_window_size),
        http2_keepalive: keepalive(&http2).at("http2_protocol_options.connection_keepalive")?,
        max_head_bytes: head_bytes,
        max_headers: number(&common.max_headers_count).unwrap_or(MAX_HEADERS),
        accept_http_10: true,
        preserve_header_case: true,
        generate_request_id: flag(&raw.generate_request_id, true),
        preserve_external_request_id: raw.preserve_external_request_id,
        via: (!raw.via.is_empty()).then(|| raw.via.clone()),
        strip_port: match raw.strip_port_mode.as_ref() {
            Some(hcm::http_connection_manager::StripPortMode::StripAnyHostPort(true)) => StripPort::Any,
            _ if raw.strip_matching_host_port => StripPort::Matching,
            _ => StripPort::Keep,
        },
    };
    Ok((chain, named))
}

fn codec(raw: &hcm::HttpConnectionManager) -> Decoded<Codec> {
    use hcm::http_connection_manager::CodecType as C;
    match C::try_from(raw.codec_type) {
        Ok(C::Auto) => Ok(Codec::Auto),
        Ok(C::Http1) => Ok(Codec::Http1),
        Ok(C::Http2) => Ok(Codec::Http2),
        _ => Err(Refusal::field("codec_type", "must be AUTO, HTTP1 or HTTP2")),
    }
}

fn routes(raw: &hcm::HttpConnectionManager) -> Decoded<(RouteSource, NamedRoutes)> {
    use hcm::http_connection_manager::RouteSpecifier as R;
    match raw.route_specifier.as_ref() {
        Some(R::RouteConfig(table)) => {
            Ok((RouteSource::Inline(Arc::new(route::route_config(table, None).at("route_config")?)), None))
        }
        Some(R::Rds(rds)) if rds.route_config_name.is_empty() => {
            Err(Refusal::field("rds.route_config_name", "is required"))
        }
        Some(R::Rds(rds)) => {
            let name: Name = rds.route_config_name.as_str().into();
            let timeout = fetch_timeout(&rds.config_source).at("rds.config_source")?;
            Ok((RouteSource::Named(name.clone()), Some((name, timeout))))
        }
        _ => Err(Refusal::new("needs one of rds, route_config")),
    }
}

/// `initial_fetch_timeout` of a source: absent is Envoy's 15 s, 0 is for ever.
pub fn fetch_timeout(source: &Option<core::ConfigSource>) -> Decoded<Option<Duration>> {
    match source.as_ref().and_then(|source| source.initial_fetch_timeout.as_ref()) {
        None => Ok(Some(FETCH_TIMEOUT)),
        Some(timeout) => Ok(Some(duration(timeout).at("initial_fetch_timeout")?).filter(|timeout| !timeout.is_zero())),
    }
}

fn keepalive(raw: &core::Http2ProtocolOptions) -> Decoded<Option<(Duration, Duration)>> {
    let Some(keepalive) = &raw.connection_keepalive else { return Ok(None) };
    let interval = optional_duration("interval", &keepalive.interval)?;
    let timeout = duration(required("timeout", &keepalive.timeout)?).at("timeout")?;
    Ok(interval.map(|interval| (interval, timeout)))
}

fn escaped_slashes(raw: &hcm::HttpConnectionManager) -> Decoded<EscapedSlashes> {
    use hcm::http_connection_manager::PathWithEscapedSlashesAction as A;
    Ok(match A::try_from(raw.path_with_escaped_slashes_action) {
        Ok(A::ImplementationSpecificDefault | A::KeepUnchanged) => EscapedSlashes::Keep,
        Ok(A::RejectRequest) => EscapedSlashes::Reject,
        Ok(A::UnescapeAndRedirect) => EscapedSlashes::UnescapeAndRedirect,
        Ok(A::UnescapeAndForward) => EscapedSlashes::UnescapeAndForward,
        Err(_) => return Err(Refusal::field("path_with_escaped_slashes_action", "unknown")),
    })
}

fn underscores(raw: &core::HttpProtocolOptions) -> Decoded<Underscores> {
    use core::http_protocol_options::HeadersWithUnderscoresAction as A;
    Ok(match A::try_from(raw.headers_with_underscores_action) {
        Ok(A::Allow) => Underscores::Allow,
        Ok(A::RejectRequest) => Underscores::Reject,
        Ok(A::DropHeader) => Underscores::Drop,
        Err(_) => return Err(Refusal::field("headers_with_underscores_action", "unknown")),
    })
}

fn forwarded(raw: &hcm::HttpConnectionManager) -> Decoded<Forwarded> {
    use hcm::http_connection_manager::ForwardClientCertDetails as F;
    let details = raw.set_current_client_cert_details.unwrap_or_default();
    Ok(Forwarded {
        use_remote_address: raw.use_remote_address.as_ref().is_some_and(|wanted| wanted.value),
        trusted_hops: raw.xff_num_trusted_hops,
        skip_append: raw.skip_xff_append,
        client_cert: match F::try_from(raw.forward_client_cert_details) {
            Ok(F::Sanitize) => ForwardClientCert::Sanitize,
            Ok(F::ForwardOnly) => ForwardClientCert::ForwardOnly,
            Ok(F::AppendForward) => ForwardClientCert::AppendForward,
            Ok(F::SanitizeSet) => ForwardClientCert::SanitizeSet,
            Ok(F::AlwaysForwardOnly) => ForwardClientCert::AlwaysForwardOnly,
            Err(_) => return Err(Refusal::field("forward_client_cert_details", "unknown")),
        },
        client_cert_details: ClientCertDetails {
            subject: details.subject.as_ref().is_some_and(|wanted| wanted.value),
            cert: details.cert,
            dns: details.dns,
            uri: details.uri,
        },
    })
}

fn server_header(raw: &hcm::HttpConnectionManager) -> Decoded<ServerHeader> {
    use hcm::http_connection_manager::ServerHeaderTransformation as T;
    let name = if raw.server_name.is_empty() { "ferromesh" } else { &raw.server_name };
    let name = HeaderValue::try_from(name).map_err(|_| Refusal::field("server_name", "is not a header value"))?;
    Ok(match T::try_from(raw.server_header_transformation) {
        Ok(T::Overwrite) => ServerHeader::Overwrite(name),
        Ok(T::AppendIfAbsent) => ServerHeader::AppendIfAbsent(name),
        Ok(T::PassThrough) => ServerHeader::PassThrough,
        Err(_) => return Err(Refusal::field("server_header_transformation", "unknown")),
    })
}

struct Filters {
    policies: Vec<HttpPolicy>,
    stats: Option<Arc<StatsFilter>>,
}

fn filters(raw: &[hcm::HttpFilter]) -> Decoded<Filters> {
    let mut filters = Filters { policies: Vec::new(), stats: None };
    let last = raw.len().checked_sub(1);
    let kinds = each("http_filters", raw, |filter| {
        use hcm::http_filter::ConfigType;
        let Some(ConfigType::TypedConfig(any)) = filter.config_type.as_ref() else {
            return Err(Refusal::field("typed_config", "is required"));
        };
        Ok(any.clone())
    })?;
    for (index, any) in kinds.iter().enumerate() {
        let path = format!("http_filters[{index}].typed_config");
        match any.type_url.rsplit('/').next().unwrap_or_default() {
            "envoy.extensions.filters.http.router.v3.Router" => {
                if Some(index) != last {
                    return Err(Refusal::field(path, "the router must be the last filter"));
                }
            }
            "envoy.extensions.filters.http.rbac.v3.RBAC" => {
                let raw: http_rbac::Rbac = unpack(any).at(&path)?;
                filters.policies.extend(authz::http(&raw).at(&path)?.map(HttpPolicy::Rbac));
            }
            "ferromesh.v1.Stats" => filters.stats = Some(listener::stats(any).at(&path)?),
            // Both act only by settings of a route, which are refused there.
            "envoy.extensions.filters.http.fault.v3.HTTPFault" | "envoy.extensions.filters.http.cors.v3.Cors" => {}
            other => return Err(Refusal::field(path, format!("the HTTP filter `{other}` is not supported"))),
        }
    }
    let ends = kinds.last().is_some_and(|any| any.type_url.ends_with("http.router.v3.Router"));
    if !ends {
        return Err(Refusal::field("http_filters", "must end in the router"));
    }
    Ok(filters)
}

//! `RouteConfiguration` → [`crate::route::RouteTable`].

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};
use mesh_proto::xds::{core, http_rbac, route, wkt};

use super::http::fetch_timeout;
use super::{
    At, Context, Decoded, Refusal, authz, duration, each, fraction, istio_metadata, limit, matcher, optional_duration,
    required, unpack,
};
use crate::Name;
use crate::policy::authz::RbacOverride;
use crate::policy::headers::{Addition, Append, HeaderOps, Value};
use crate::policy::retry::{Conditions, RetryPolicy};
use crate::route::action::{
    Action, Direct, Forward, HostRewrite, PathRewrite, Redirect, RedirectPath, Target, WeightedCluster,
};
use crate::route::matcher::{PathMatcher, QueryMatcher, Regex};
use crate::route::table::Change;
use crate::route::{Route, RouteCounts, RouteMatch, RouteTable, VirtualHost};
use crate::telemetry::answers::Answers;

/// Envoy's timeout of a route that names none.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);

/// For how long a table waits for its virtual hosts, for which it is asked apart (VHDS); without end when absent.
pub type HostsApart = Option<Duration>;

/// A route table that is whole.
///
/// Routes count on where the same of `before`, the table that this one replaces, left off.
pub fn route_config(raw: &route::RouteConfiguration, before: Option<&RouteTable>) -> Decoded<RouteTable> {
    if raw.vhds.is_some() {
        return Err(Refusal::field(
            "vhds",
            "is for tables that come by RDS; name this table in `rds`, or list all its hosts",
        ));
    }
    table(raw, before)
}

/// A route table that was asked for by its name: some of its virtual hosts may come apart from it.
pub fn named_route_config(
    raw: &route::RouteConfiguration,
    before: Option<&RouteTable>,
    context: &Context,
) -> Decoded<(RouteTable, Option<HostsApart>)> {
    let apart = raw.vhds.as_ref().map(|vhds| hosts_apart(vhds, context)).transpose().at("vhds")?;
    Ok((table(raw, before)?, apart))
}

fn hosts_apart(raw: &route::Vhds, context: &Context) -> Decoded<HostsApart> {
    if !context.delta {
        return Err(Refusal::new(
            "virtual hosts of their own need the delta form of the protocol; make `api_type` DELTA_GRPC, or list all hosts in the table",
        ));
    }
    let source = required("config_source", &raw.config_source)?;
    if source.config_source_specifier.is_none() {
        return Err(Refusal::field("config_source", "needs `ads`"));
    }
    fetch_timeout(&raw.config_source).at("config_source")
}

fn table(raw: &route::RouteConfiguration, before: Option<&RouteTable>) -> Decoded<RouteTable> {
    let counts = Counts::after(before.into_iter().flat_map(RouteTable::counts));
    let hosts = each("virtual_hosts", &raw.virtual_hosts, |host| virtual_host(host, &counts))?;
    let table = RouteTable {
        name: (!raw.name.is_empty()).then(|| raw.name.as_str().into()),
        ignore_port: raw.ignore_port_in_host_matching,
        request_headers: header_ops(&raw.request_headers_to_add, &raw.request_headers_to_remove, "request")?,
        response_headers: header_ops(&raw.response_headers_to_add, &raw.response_headers_to_remove, "response")?,
        most_specific_wins: raw.most_specific_header_mutations_wins,
        max_direct_body: raw.max_direct_response_body_size_bytes.as_ref().map(|limit| limit.value as usize),
        ..RouteTable::default()
    };
    for (index, host) in hosts.iter().enumerate() {
        direct_bodies(host, &table).at(format_args!("virtual_hosts[{index}]"))?;
    }
    let changes: Vec<Change> = hosts.into_iter().map(|host| (None, Arc::new(host))).collect();
    let (table, refused) = table.with(&[], &changes);
    for (index, taken) in refused.into_iter().enumerate() {
        if let Some(taken) = taken {
            return Err(Refusal::field(format!("virtual_hosts[{index}].domains"), taken.to_string()));
        }
    }
    Ok(table)
}

/// A virtual host that comes apart from its table; `before` is the one that it replaces.
pub fn host_apart(raw: &route::VirtualHost, before: Option<&VirtualHost>) -> Decoded<VirtualHost> {
    virtual_host(raw, &Counts::after(before.into_iter().flat_map(VirtualHost::counts)))
}

/// Refuses bodies that are larger than the table allows.
pub fn direct_bodies(host: &VirtualHost, table: &RouteTable) -> Decoded<()> {
    let Some(limit) = table.max_direct_body else { return Ok(()) };
    for (index, route) in host.routes.iter().enumerate() {
        if matches!(&route.action, Action::Direct(direct) if direct.body.len() > limit) {
            let path = format!("routes[{index}].direct_response.body");
            return Err(Refusal::field(path, format!("is larger than {limit} bytes")));
        }
    }
    Ok(())
}

/// Counters by virtual host and prefix: routes with the same of both share them.
struct Counts(RefCell<HashMap<(Name, Name), Arc<RouteCounts>>>);

impl Counts {
    /// Those of routes that are replaced.
    fn after<'c>(before: impl Iterator<Item = &'c Arc<RouteCounts>>) -> Self {
        Self(RefCell::new(before.cloned().map(|one| ((one.host.clone(), one.prefix.clone()), one)).collect()))
    }

    /// Those of a prefix; none if it is empty.
    fn of(&self, host: &Name, prefix: &str) -> Option<Arc<RouteCounts>> {
        let prefix: Name = Some(prefix).filter(|prefix| !prefix.is_empty())?.into();
        let new = || Arc::new(RouteCounts { host: host.clone(), prefix: prefix.clone(), answers: Answers::default() });
        Some(self.0.borrow_mut().entry((host.clone(), prefix.clone())).or_insert_with(new).clone())
    }
}

fn virtual_host(raw: &route::VirtualHost, counts: &Counts) -> Decoded<VirtualHost> {
    use route::virtual_host::TlsRequirementType as Tls;
    if raw.domains.is_empty() {
        return Err(Refusal::field("domains", "is required"));
    }
    if raw.matcher.is_some() {
        return Err(Refusal::field("matcher", "generic matchers are not supported; use routes"));
    }
    let name: Name = raw.name.as_str().into();
    let domains: Vec<Name> = raw.domains.iter().map(|domain| domain.to_ascii_lowercase().into()).collect();
    let mut seen = BTreeSet::new();
    if let Some(twice) = domains.iter().find(|domain| !seen.insert(*domain)) {
        return Err(Refusal::field("domains", format!("domain `{twice}` stands there twice")));
    }
    Ok(VirtualHost {
        domains,
        routes: each("routes", &raw.routes, |raw| route(raw, counts.of(&name, &raw.stat_prefix)).map(Arc::new))?,
        name,
        require_tls: matches!(Tls::try_from(raw.require_tls), Ok(Tls::All | Tls::ExternalOnly)),
        request_headers: header_ops(&raw.request_headers_to_add, &raw.request_headers_to_remove, "request")?,
        response_headers: header_ops(&raw.response_headers_to_add, &raw.response_headers_to_remove, "response")?,
        attempt_count: raw.include_request_attempt_count,
        retry: raw.retry_policy.as_ref().map(retry).transpose().at("retry_policy")?.map(Arc::new),
        rbac: per_filter(&raw.typed_per_filter_config)?,
    })
}

fn per_filter(raw: &HashMap<String, wkt::Any>) -> Decoded<Option<RbacOverride>> {
    let mut found = None;
    for (name, any) in raw {
        let path = format!("typed_per_filter_config[\"{name}\"]");
        let config: http_rbac::RbacPerRoute = unpack(any).at(&path)?;
        found = Some(authz::per_route(&config).at(&path)?);
    }
    Ok(found)
}

fn route(raw: &route::Route, counts: Option<Arc<RouteCounts>>) -> Decoded<Route> {
    let action = match raw.action.as_ref() {
        None => return Err(Refusal::field("action", "needs one of route, redirect, direct_response")),
        Some(route::route::Action::Route(raw)) => Action::Forward(Box::new(forward(raw).at("route")?)),
        Some(route::route::Action::Redirect(raw)) => Action::Redirect(Box::new(redirect(raw).at("redirect")?)),
        Some(route::route::Action::DirectResponse(raw)) => Action::Direct(direct(raw).at("direct_response")?),
        Some(_) => return Err(Refusal::new("only route, redirect and direct_response are supported")),
    };
    Ok(Route {
        name: (!raw.name.is_empty()).then(|| raw.name.as_str().into()),
        matches: route_match(required("match", &raw.r#match)?).at("match")?,
        action,
        request_headers: header_ops(&raw.request_headers_to_add, &raw.request_headers_to_remove, "request")?,
        response_headers: header_ops(&raw.response_headers_to_add, &raw.response_headers_to_remove, "response")?,
        config: istio_metadata(&raw.metadata, "config"),
        rbac: per_filter(&raw.typed_per_filter_config)?,
        counts,
    })
}

fn route_match(raw: &route::RouteMatch) -> Decoded<RouteMatch> {
    use route::route_match::PathSpecifier as P;
    let ignore_case = raw.case_sensitive.as_ref().is_some_and(|sensitive| !sensitive.value);
    let path = match raw.path_specifier.as_ref() {
        None => return Err(Refusal::new("needs one of prefix, path, safe_regex, path_separated_prefix")),
        Some(P::Prefix(text)) => PathMatcher::prefix(text, ignore_case),
        Some(P::Path(text)) => PathMatcher::exact(text, ignore_case),
        Some(P::PathSeparatedPrefix(text)) => PathMatcher::segments(text, ignore_case),
        Some(P::SafeRegex(raw)) => PathMatcher::Regex(matcher::regex(raw).at("safe_regex")?),
        Some(P::ConnectMatcher(_)) => PathMatcher::Connect,
        Some(P::PathMatchPolicy(_)) => return Err(Refusal::field("path_match_policy", "is not supported")),
    };
    let fraction = match &raw.runtime_fraction {
        Some(runtime) => {
            Some(fraction(required("default_value", &runtime.default_value)?).at("runtime_fraction.default_value")?)
        }
        None => None,
    };
    Ok(RouteMatch {
        path,
        headers: each("headers", &raw.headers, matcher::header)?,
        query: each("query_parameters", &raw.query_parameters, query)?,
        grpc: raw.grpc.is_some(),
        fraction,
    })
}

fn query(raw: &route::QueryParameterMatcher) -> Decoded<QueryMatcher> {
    use route::query_parameter_matcher::QueryParameterMatchSpecifier as Q;
    let (test, present) = match raw.query_parameter_match_specifier.as_ref() {
        Some(Q::StringMatch(raw)) => (Some(matcher::string(raw).at("string_match")?), true),
        Some(Q::PresentMatch(present)) => (None, *present),
        None => (None, true),
    };
    Ok(QueryMatcher { name: raw.name.clone(), test, present })
}

#[allow(deprecated)]
fn forward(raw: &route::RouteAction) -> Decoded<Forward> {
    use route::route_action::ClusterNotFoundResponseCode as N;
    use route::route_action::ClusterSpecifier as C;
    let target = match raw.cluster_specifier.as_ref() {
        None => return Err(Refusal::new("needs one of cluster, weighted_clusters, cluster_header")),
        Some(C::Cluster(name)) => weighted(vec![plain(name)]).at("cluster")?,
        Some(C::WeightedClusters(raw)) => {
            weighted(each("clusters", &raw.clusters, weight).at("weighted_clusters")?).at("weighted_clusters")?
        }
        Some(C::ClusterHeader(name)) => Target::Header(header_name(name).at("cluster_header")?),
        Some(_) => return Err(Refusal::new("cluster specifier plugins are not supported")),
    };
    let duration_limits = raw.max_stream_duration.as_ref();
    Ok(Forward {
        target,
        timeout: limit("timeout", &raw.timeout, Some(DEFAULT_TIMEOUT))?,
        idle_timeout: match optional_duration("idle_timeout", &raw.idle_timeout)? {
            None => None,
            Some(Duration::ZERO) => Some(None),
            some => Some(some),
        },
        grpc_timeout_max: match duration_limits {
            Some(limits) => optional_duration("grpc_timeout_header_max", &limits.grpc_timeout_header_max)?,
            // The older name of the same.
            None => optional_duration("max_grpc_timeout", &raw.max_grpc_timeout)?,
        },
        max_stream_duration: match duration_limits {
            Some(limits) => limit("max_stream_duration", &limits.max_stream_duration, None)?,
            None => None,
        },
        retry: raw.retry_policy.as_ref().map(retry).transpose().at("retry_policy")?.map(Arc::new),
        path: path_rewrite(&raw.prefix_rewrite, &raw.regex_rewrite)?,
        host: host_rewrite(raw)?,
        append_forwarded_host: raw.append_x_forwarded_host,
        upgrades: raw
            .upgrade_configs
            .iter()
            .map(|config| {
                (config.upgrade_type.to_ascii_lowercase(), config.enabled.as_ref().is_none_or(|enabled| enabled.value))
            })
            .collect(),
        terminate_connect: raw
            .upgrade_configs
            .iter()
            .any(|config| config.upgrade_type.eq_ignore_ascii_case("connect") && config.connect_config.is_some()),
        cluster_not_found: match N::try_from(raw.cluster_not_found_response_code) {
            Ok(N::NotFound) => StatusCode::NOT_FOUND,
            Ok(N::InternalServerError) => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        },
    })
}

fn plain(name: &str) -> WeightedCluster {
    WeightedCluster {
        cluster: name.into(),
        weight: 1,
        request_headers: HeaderOps::default(),
        response_headers: HeaderOps::default(),
        host: HostRewrite::Keep,
    }
}

fn weight(raw: &route::weighted_cluster::ClusterWeight) -> Decoded<WeightedCluster> {
    use route::weighted_cluster::cluster_weight::HostRewriteSpecifier as H;
    if raw.name.is_empty() {
        return Err(Refusal::field("name", "is required"));
    }
    if !raw.typed_per_filter_config.is_empty() {
        return Err(Refusal::field("typed_per_filter_config", "is not supported here; put it on the route"));
    }
    let host = match raw.host_rewrite_specifier.as_ref() {
        None => HostRewrite::Keep,
        Some(H::HostRewriteLiteral(host)) => HostRewrite::Literal(header_value(host).at("host_rewrite_literal")?),
    };
    Ok(WeightedCluster {
        cluster: raw.name.as_str().into(),
        weight: raw.weight.as_ref().map_or(0, |weight| weight.value),
        request_headers: header_ops(&raw.request_headers_to_add, &raw.request_headers_to_remove, "request")?,
        response_headers: header_ops(&raw.response_headers_to_add, &raw.response_headers_to_remove, "response")?,
        host,
    })
}

fn weighted(clusters: Vec<WeightedCluster>) -> Decoded<Target> {
    let total = clusters.iter().map(|cluster| u64::from(cluster.weight)).sum();
    if total == 0 {
        return Err(Refusal::new("the sum of weights must not be 0"));
    }
    Ok(Target::Weighted { clusters, total })
}

fn path_rewrite(
    prefix: &str,
    regex: &Option<mesh_proto::xds::matcher::RegexMatchAndSubstitute>,
) -> Decoded<PathRewrite> {
    match (prefix, regex) {
        ("", None) => Ok(PathRewrite::Keep),
        (prefix, None) => Ok(PathRewrite::Prefix(prefix.to_owned())),
        ("", Some(raw)) => {
            let pattern = required("pattern", &raw.pattern).at("regex_rewrite")?;
            let regex = Regex::anywhere(&pattern.regex)
                .map_err(|error| Refusal::field("regex_rewrite.pattern.regex", error))?;
            Ok(PathRewrite::Regex(regex, raw.substitution.clone()))
        }
        _ => Err(Refusal::field("regex_rewrite", "cannot stand beside prefix_rewrite")),
    }
}

fn host_rewrite(raw: &route::RouteAction) -> Decoded<HostRewrite> {
    use route::route_action::HostRewriteSpecifier as H;
    Ok(match raw.host_rewrite_specifier.as_ref() {
        None => HostRewrite::Keep,
        Some(H::HostRewriteLiteral(host)) => HostRewrite::Literal(header_value(host).at("host_rewrite_literal")?),
        Some(H::AutoHostRewrite(auto)) if auto.value => HostRewrite::Auto,
        Some(H::AutoHostRewrite(_)) => HostRewrite::Keep,
        Some(H::HostRewriteHeader(name)) => HostRewrite::Header(header_name(name).at("host_rewrite_header")?),
        Some(_) => return Err(Refusal::new("host_rewrite_path_regex is not supported")),
    })
}

/// A retry policy.
pub fn retry(raw: &route::RetryPolicy) -> Decoded<RetryPolicy> {
    let (conditions, mut statuses) =
        Conditions::parse(&raw.retry_on).map_err(|error| Refusal::field("retry_on", error))?;
    for status in &raw.retriable_status_codes {
        statuses.push(u16::try_from(*status).map_err(|_| Refusal::field("retriable_status_codes", "out of range"))?);
    }
    let default = RetryPolicy::default();
    let (mut base, mut max) = (default.base, default.max);
    if let Some(backoff) = &raw.retry_back_off {
        base = duration(required("base_interval", &backoff.base_interval).at("retry_back_off")?)
            .at("retry_back_off.base_interval")?;
        max = optional_duration("max_interval", &backoff.max_interval).at("retry_back_off")?.unwrap_or(base * 10);
        if base.is_zero() || max < base {
            return Err(Refusal::field("retry_back_off", "base_interval must be more than 0 and at most max_interval"));
        }
    }
    let mut avoid_previous = false;
    for (index, predicate) in raw.retry_host_predicate.iter().enumerate() {
        match predicate.name.as_str() {
            "envoy.retry_host_predicates.previous_hosts" => avoid_previous = true,
            other => {
                return Err(Refusal::field(
                    format!("retry_host_predicate[{index}].name"),
                    format!("`{other}` is not supported; only previous_hosts is"),
                ));
            }
        }
    }
    let priorities_after = raw.retry_priority.as_ref().map(previous_priorities).transpose().at("retry_priority")?;
    Ok(RetryPolicy {
        conditions,
        statuses,
        headers: each("retriable_headers", &raw.retriable_headers, matcher::header)?,
        retries: raw.num_retries.as_ref().map_or(1, |number| number.value),
        per_try_timeout: limit("per_try_timeout", &raw.per_try_timeout, None)?,
        per_try_idle_timeout: limit("per_try_idle_timeout", &raw.per_try_idle_timeout, None)?,
        base,
        max,
        avoid_previous,
        priorities_after,
        host_attempts: u32::try_from(raw.host_selection_retry_max_attempts).unwrap_or(1).max(1),
    })
}

/// After how many tries their priorities are left out.
fn previous_priorities(raw: &route::retry_policy::RetryPriority) -> Decoded<NonZeroUsize> {
    use mesh_proto::xds::previous_priorities::PreviousPrioritiesConfig;
    use route::retry_policy::retry_priority::ConfigType;
    if raw.name != "envoy.retry_priorities.previous_priorities" {
        let message = format!("`{}` is not supported; only previous_priorities is", raw.name);
        return Err(Refusal::field("name", message));
    }
    let Some(ConfigType::TypedConfig(config)) = &raw.config_type else {
        return Err(Refusal::field("typed_config", "is missing"));
    };
    let config = mesh_proto::xds::unpack::<PreviousPrioritiesConfig>(config)
        .map_err(|error| Refusal::field("typed_config", error.to_string()))?;
    usize::try_from(config.update_frequency)
        .ok()
        .and_then(NonZeroUsize::new)
        .ok_or_else(|| Refusal::field("typed_config.update_frequency", "must be more than 0"))
}

fn redirect(raw: &route::RedirectAction) -> Decoded<Redirect> {
    use route::redirect_action::{PathRewriteSpecifier as P, RedirectResponseCode as C, SchemeRewriteSpecifier as S};
    let status = match C::try_from(raw.response_code) {
        Ok(C::MovedPermanently) => StatusCode::MOVED_PERMANENTLY,
        Ok(C::Found) => StatusCode::FOUND,
        Ok(C::SeeOther) => StatusCode::SEE_OTHER,
        Ok(C::TemporaryRedirect) => StatusCode::TEMPORARY_REDIRECT,
        Ok(C::PermanentRedirect) => StatusCode::PERMANENT_REDIRECT,
        Err(_) => return Err(Refusal::field("response_code", "unknown")),
    };
    let scheme = match raw.scheme_rewrite_specifier.as_ref() {
        None | Some(S::HttpsRedirect(false)) => None,
        Some(S::HttpsRedirect(true)) => Some("https".to_owned()),
        Some(S::SchemeRedirect(scheme)) => Some(scheme.clone()),
    };
    let path = match raw.path_rewrite_specifier.as_ref() {
        None => RedirectPath::Keep,
        Some(P::PathRedirect(path)) => RedirectPath::Whole(path.clone()),
        Some(P::PrefixRewrite(prefix)) => RedirectPath::Rewrite(PathRewrite::Prefix(prefix.clone())),
        Some(P::PathRewrite(_)) => return Err(Refusal::field("path_rewrite", "is not supported")),
        Some(P::RegexRewrite(raw)) => RedirectPath::Rewrite(path_rewrite("", &Some(raw.clone()))?),
    };
    Ok(Redirect {
        status,
        scheme,
        host: (!raw.host_redirect.is_empty()).then(|| raw.host_redirect.clone()),
        port: match raw.port_redirect {
            0 => None,
            port => Some(u16::try_from(port).map_err(|_| Refusal::field("port_redirect", "must be at most 65535"))?),
        },
        path,
        strip_query: raw.strip_query,
    })
}

fn direct(raw: &route::DirectResponseAction) -> Decoded<Direct> {
    use core::data_source::Specifier as S;
    let status = u16::try_from(raw.status).ok().and_then(|status| StatusCode::from_u16(status).ok());
    let body = match raw.body.as_ref().and_then(|body| body.specifier.as_ref()) {
        None => bytes::Bytes::new(),
        Some(S::InlineString(text)) => text.clone().into(),
        Some(S::InlineBytes(bytes)) => bytes.clone().into(),
        Some(_) => return Err(Refusal::field("body", "only inline bodies are supported")),
    };
    if raw.body_format.is_some() {
        return Err(Refusal::field("body_format", "is not supported; use body"));
    }
    Ok(Direct { status: status.ok_or_else(|| Refusal::field("status", "is not an HTTP status"))?, body })
}

fn header_name(name: &str) -> Decoded<HeaderName> {
    HeaderName::try_from(name).map_err(|_| Refusal::new(format!("`{name}` is not a header name")))
}

fn header_value(value: &str) -> Decoded<HeaderValue> {
    HeaderValue::try_from(value).map_err(|_| Refusal::new("is not a header value"))
}

/// Header operations; `side` is `request` or `response` for paths.
#[allow(deprecated)]
pub fn header_ops(add: &[core::HeaderValueOption], remove: &[String], side: &str) -> Decoded<HeaderOps> {
    use core::header_value_option::HeaderAppendAction as A;
    let add = each(&format!("{side}_headers_to_add"), add, |raw| {
        let header = required("header", &raw.header)?;
        if header.key.starts_with(':') || header.key.eq_ignore_ascii_case("host") {
            return Err(Refusal::field("header.key", "pseudo headers and host cannot be set here"));
        }
        let append = match (&raw.append, A::try_from(raw.append_action)) {
            (Some(append), _) if !append.value => Append::Replace,
            (Some(_), _) | (None, Ok(A::AppendIfExistsOrAdd)) => Append::Always,
            (None, Ok(A::AddIfAbsent)) => Append::IfAbsent,
            (None, Ok(A::OverwriteIfExistsOrAdd)) => Append::Replace,
            (None, Ok(A::OverwriteIfExists)) => Append::ReplaceIfPresent,
            (None, Err(_)) => return Err(Refusal::field("append_action", "unknown")),
        };
        Ok(Addition {
            name: header_name(&header.key).at("header.key")?,
            value: Value::parse(&header.value).map_err(|error| Refusal::field("header.value", error))?,
            append,
            keep_empty: raw.keep_empty_value,
        })
    })?;
    let remove = each(&format!("{side}_headers_to_remove"), remove, |name| {
        if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
            return Err(Refusal::new("pseudo headers and host cannot be removed"));
        }
        header_name(name)
    })?;
    Ok(HeaderOps { add, remove })
}

//! VirtualService (VS, VM, VA, VR, VT, VC).

use std::collections::BTreeMap;
use std::net::IpAddr;

use mesh_proto::crd::StringMatch;
use mesh_proto::crd::virtual_service::{
    Destination, HeaderOperations, Headers, HttpDirectResponse, HttpMatchRequest, HttpRedirect, HttpRetry, HttpRewrite,
    HttpRoute, L4MatchAttributes, RouteDestination, TcpRoute, TlsRoute, VirtualService,
};

use super::check::{At, Check, is_dns_label, is_dns_name};
use super::finding::code;

/// The reserved gateway: all sidecars.
pub(super) const MESH: &str = "mesh";

/// The largest body of a direct response, in bytes (VA3).
const DIRECT_RESPONSE_BYTES: usize = 1 << 20;

/// Conditions of Envoy's `x-envoy-retry-on` and `x-envoy-retry-grpc-on` (VR3).
const RETRY_ON: &[&str] = &[
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "envoy-ratelimited",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];

/// Checks a VirtualService.
pub(super) fn check(check: &mut Check<'_>, spec: &VirtualService) {
    let delegate = spec.hosts.is_empty();
    hosts(check, spec);
    gateways(check, &At::top("gateways"), &spec.gateways);
    check.export_to(&spec.export_to, true);
    if spec.http.is_empty() && spec.tls.is_empty() && spec.tcp.is_empty() {
        check.error(&At::default(), "has no routes; give at least one of http, tls, tcp");
    }
    if delegate {
        if !spec.gateways.is_empty() {
            check.error(&At::top("gateways"), "a VirtualService without hosts is a delegate and takes the gateways of its root; remove gateways or add hosts");
        }
        for (name, set) in [("tls", !spec.tls.is_empty()), ("tcp", !spec.tcp.is_empty())] {
            if set {
                check.error(&At::top(name), "a VirtualService without hosts is a delegate, which has http routes only; add hosts or remove this");
            }
        }
    }
    for (index, route) in spec.http.iter().enumerate() {
        let at = At::top("http").index(index);
        http_route(check, &at, route, delegate);
        // A delegate's own matches decide, and what they do not take goes on to the next rule.
        let catch_all = route.matches.is_empty() && route.delegate.is_none();
        if catch_all && index + 1 < spec.http.len() {
            let next = At::top("http").index(index + 1);
            check.warning_of(
                code::UNREACHABLE_RULE,
                &next,
                format!(
                    "is never reached, because http[{index}] has no match and so takes every request; move it before"
                ),
            );
        }
    }
    for (index, route) in spec.tls.iter().enumerate() {
        tls_route(check, &At::top("tls").index(index), route, &spec.hosts);
    }
    for (index, route) in spec.tcp.iter().enumerate() {
        tcp_route(check, &At::top("tcp").index(index), route);
    }
}

fn hosts(check: &mut Check<'_>, spec: &VirtualService) {
    let mesh = spec.gateways.is_empty() || spec.gateways.iter().any(|gateway| gateway == MESH);
    for (index, host) in spec.hosts.iter().enumerate() {
        let at = At::top("hosts").index(index);
        if host.parse::<IpAddr>().is_ok() {
            if mesh {
                check.error(
                    &at,
                    format!("`{host}` is an address, which only gateways can serve; name a host, or bind to a gateway"),
                );
            }
        } else if host == "*" && mesh {
            check.error(&at, "`*` would take all traffic of the mesh; name hosts, or bind to a gateway by `gateways`");
        } else {
            check.host(&at, host, true);
        }
        if spec.hosts[..index].contains(host) {
            check.error(&at, format!("`{host}` is given twice; remove one"));
        }
    }
}

fn gateways(check: &mut Check<'_>, at: &At, names: &[String]) {
    for (index, name) in names.iter().enumerate() {
        let valid = match name.split_once('/') {
            Some((namespace, name)) => (is_dns_label(namespace) || namespace == ".") && is_dns_name(name),
            None => is_dns_name(name),
        };
        if !valid {
            check.error(
                &at.index(index),
                format!("`{name}` is not a gateway; write `name`, `namespace/name` or `mesh`"),
            );
        }
    }
}

fn http_route(check: &mut Check<'_>, at: &At, route: &HttpRoute, in_delegate: bool) {
    let actions = [
        ("route", !route.route.is_empty()),
        ("redirect", route.redirect.is_some()),
        ("directResponse", route.direct_response.is_some()),
        ("delegate", route.delegate.is_some()),
    ];
    let given: Vec<&str> = actions.iter().filter(|(_, set)| *set).map(|(name, _)| *name).collect();
    match given.as_slice() {
        [_] => {}
        [] => check.error(at, "does nothing; give one of route, redirect, directResponse, delegate"),
        more => check.error(at, format!("has {}; give only one of them", more.join(" and "))),
    }
    for (index, matched) in route.matches.iter().enumerate() {
        http_match(check, &at.field("match").index(index), matched);
    }
    let total: i64 = route.route.iter().map(|to| i64::from(to.weight.max(0))).sum();
    if route.route.len() > 1 && total == 0 {
        check.error(&at.field("route"), "all weights are 0, so no destination would get a request; give weights");
    }
    for (index, to) in route.route.iter().enumerate() {
        let at = at.field("route").index(index);
        check.not_negative(&at.field("weight"), to.weight);
        destination(check, &at.field("destination"), &to.destination);
        headers(check, &at.field("headers"), to.headers.as_ref());
    }
    if let Some(delegate) = &route.delegate {
        let at = at.field("delegate");
        if in_delegate {
            check.error(&at, "this VirtualService is a delegate itself, and delegates cannot delegate; give a route");
        }
        if delegate.name.is_empty() {
            check.error(&at, "names no VirtualService; give name");
        }
    }
    if let Some(value) = &route.redirect {
        redirect(check, &at.field("redirect"), value);
    }
    if let Some(value) = &route.direct_response {
        direct_response(check, &at.field("directResponse"), value);
    }
    if let Some(value) = &route.rewrite {
        rewrite(check, &at.field("rewrite"), value);
        if route.redirect.is_some() || route.direct_response.is_some() {
            check
                .error(&at.field("rewrite"), "has nothing to rewrite, because the request is not forwarded; remove it");
        }
    }
    check.duration(&at.field("timeout"), route.timeout, true);
    if let Some(value) = &route.retries {
        retries(check, &at.field("retries"), value);
    }
    headers(check, &at.field("headers"), route.headers.as_ref());
    check.unsupported(route.fault.is_some(), &at.field("fault"), "");
    check.unsupported(route.mirror.is_some(), &at.field("mirror"), "");
    check.unsupported(!route.mirrors.is_empty(), &at.field("mirrors"), "");
    check.unsupported(route.mirror_percent.is_some(), &at.field("mirrorPercent"), "");
    check.unsupported(route.mirror_percentage.is_some(), &at.field("mirrorPercentage"), "");
    let cors = " and let the application answer preflight requests";
    check.unsupported(route.cors_policy.is_some(), &at.field("corsPolicy"), cors);
}

fn http_match(check: &mut Check<'_>, at: &At, matched: &HttpMatchRequest) {
    for (name, matcher) in [
        ("uri", &matched.uri),
        ("scheme", &matched.scheme),
        ("method", &matched.method),
        ("authority", &matched.authority),
    ] {
        if let Some(matcher) = matcher {
            check.string_match(&at.field(name), matcher, false, false);
        }
    }
    if matched.ignore_uri_case && matches!(matched.uri, None | Some(StringMatch::Regex(_))) {
        check.warning(
            &at.field("ignoreUriCase"),
            "has an effect on exact and prefix matches of uri only; write (?i) in a regex",
        );
    }
    header_matches(check, &at.field("headers"), &matched.headers);
    header_matches(check, &at.field("withoutHeaders"), &matched.without_headers);
    for (name, matcher) in &matched.query_params {
        let at = at.field("queryParams").key(name);
        if name.is_empty() {
            check.error(&at, "the name of the parameter is empty");
        }
        check.string_match(&at, matcher, true, true);
    }
    if let Some(port) = matched.port {
        check.port(&at.field("port"), port);
    }
    source(check, at, &matched.source_labels, &matched.source_namespace, &matched.gateways);
    let prefix = at.field("statPrefix");
    if let Some(byte) = matched.stat_prefix.bytes().find(|byte| !byte.is_ascii_graphic()) {
        check.error(
            &prefix,
            format!("holds the character {:?}; use letters, digits, `.`, `-` and `_`", char::from(byte)),
        );
    }
}

fn header_matches(check: &mut Check<'_>, at: &At, headers: &BTreeMap<String, StringMatch>) {
    for (name, matcher) in headers {
        let at = at.key(name);
        if name.starts_with("@request.auth.claims") {
            check.error(&at, "matching on claims of a token is not supported yet; remove it, or match on a header that the application's login sets");
            continue;
        }
        if matches!(name.as_str(), "uri" | "scheme" | "method" | "authority") {
            check.warning(&at, format!("is ignored, as in Istio; use the field `{name}` of the match"));
            continue;
        }
        if let Some(pseudo) = name.strip_prefix(':') {
            let field = if pseudo == "path" { "uri" } else { pseudo };
            check.error(&at, format!("`{name}` is not a header; use the field `{field}` of the match"));
            continue;
        }
        check.header_name(&at, name);
        check.string_match(&at, matcher, true, true);
    }
}

/// The conditions on the client that all protocols share.
fn source(check: &mut Check<'_>, at: &At, labels: &BTreeMap<String, String>, namespace: &str, names: &[String]) {
    check.labels(&at.field("sourceLabels"), labels);
    if !namespace.is_empty() && !is_dns_label(namespace) {
        check.error(&at.field("sourceNamespace"), format!("`{namespace}` is not a namespace"));
    }
    gateways(check, &at.field("gateways"), names);
    let mesh = names.is_empty() || names.iter().any(|name| name == MESH);
    if !mesh {
        for (field, set) in [("sourceLabels", !labels.is_empty()), ("sourceNamespace", !namespace.is_empty())] {
            if set {
                check.warning(
                    &at.field(field),
                    "tells sidecars apart, but this match is for gateways only; add `mesh` to its gateways",
                );
            }
        }
    }
}

fn destination(check: &mut Check<'_>, at: &At, to: &Destination) {
    if to.host == "*" {
        check.error(&at.field("host"), "`*` is not a destination; name a host");
    } else {
        check.host(&at.field("host"), &to.host, true);
    }
    if !to.subset.is_empty() {
        check.dns_label(&at.field("subset"), &to.subset);
    }
    if let Some(port) = &to.port {
        check.port(&at.field("port").field("number"), port.number);
    }
}

fn redirect(check: &mut Check<'_>, at: &At, redirect: &HttpRedirect) {
    if redirect.uri.is_some() && redirect.prefix_rewrite.is_some() {
        check.error(at, "has both uri and prefixRewrite; give one: uri replaces the whole path, prefixRewrite what a prefix match took");
    }
    if redirect.port.is_some() && redirect.derive_port.is_some() {
        check.error(at, "has both port and derivePort; give one");
    }
    let somewhere = redirect.uri.is_some()
        || redirect.prefix_rewrite.is_some()
        || redirect.authority.is_some()
        || redirect.port.is_some()
        || redirect.derive_port.is_some()
        || redirect.scheme.is_some();
    if !somewhere {
        check.error(at, "would send the client to where it came from; give uri, authority, port or scheme");
    }
    if let Some(port) = redirect.port {
        check.port(&at.field("port"), port);
    }
    if let Some(scheme) = &redirect.scheme
        && http::uri::Scheme::try_from(scheme.as_str()).is_err()
    {
        check.error(&at.field("scheme"), format!("`{scheme}` is not a scheme; write http or https"));
    }
    if !matches!(redirect.redirect_code, 0 | 301 | 302 | 303 | 307 | 308) {
        check.error(
            &at.field("redirectCode"),
            format!("{} does not redirect; use 301, 302, 303, 307 or 308", redirect.redirect_code),
        );
    }
}

fn direct_response(check: &mut Check<'_>, at: &At, response: &HttpDirectResponse) {
    if !(200..=599).contains(&response.status) {
        check.error(&at.field("status"), format!("{} is not a final status of HTTP; use 200 to 599", response.status));
    }
    let Some(body) = &response.body else { return };
    let at = at.field("body");
    match (&body.string, &body.bytes) {
        (Some(_), Some(_)) => check.error(&at, "has both string and bytes; give one"),
        (None, None) => check.error(&at, "is empty; give string or bytes, or remove body"),
        _ => {}
    }
    let length = body.string.as_ref().map_or(0, String::len).max(body.bytes.as_ref().map_or(0, Vec::len));
    if length > DIRECT_RESPONSE_BYTES {
        check.error(&at, format!("has {length} bytes; the most is {DIRECT_RESPONSE_BYTES}"));
    }
}

fn rewrite(check: &mut Check<'_>, at: &At, rewrite: &HttpRewrite) {
    if rewrite.uri.is_none() && rewrite.authority.is_none() && rewrite.uri_regex_rewrite.is_none() {
        check.error(at, "rewrites nothing; give uri, uriRegexRewrite or authority");
    }
    if rewrite.uri.is_some() && rewrite.uri_regex_rewrite.is_some() {
        check.error(at, "has both uri and uriRegexRewrite; give one");
    }
    if let Some(regex) = &rewrite.uri_regex_rewrite {
        check.regex(&at.field("uriRegexRewrite").field("match"), &regex.matches);
        if regex.rewrite.is_empty() {
            check.error(&at.field("uriRegexRewrite"), "has no rewrite; give the replacement");
        }
    }
}

pub(super) fn retries(check: &mut Check<'_>, at: &At, retries: &HttpRetry) {
    check.not_negative(&at.field("attempts"), retries.attempts);
    if retries.attempts == 0 && (retries.per_try_timeout.is_some() || !retries.retry_on.is_empty()) {
        check.error(
            &at.field("attempts"),
            "0 turns retries off, so the rest has no effect; give attempts, or remove the rest",
        );
    }
    check.duration(&at.field("perTryTimeout"), retries.per_try_timeout, true);
    check.duration(&at.field("backoff"), retries.backoff, false);
    for condition in retries.retry_on.split(',').map(str::trim).filter(|condition| !condition.is_empty()) {
        let status = condition.parse::<u16>().is_ok_and(|status| (100..=599).contains(&status));
        if !status && !RETRY_ON.contains(&condition) {
            check.error(
                &at.field("retryOn"),
                format!("`{condition}` is not a condition to retry on; use status codes or {}", RETRY_ON.join(", ")),
            );
        }
    }
    let budget = " and give trafficPolicy.retryBudget in the DestinationRule of the host";
    check.unsupported(retries.retry_budget.is_some(), &at.field("retryBudget"), budget);
}

fn headers(check: &mut Check<'_>, at: &At, headers: Option<&Headers>) {
    let Some(headers) = headers else { return };
    for (name, operations) in [("request", &headers.request), ("response", &headers.response)] {
        if let Some(operations) = operations {
            header_operations(check, &at.field(name), operations, name == "request");
        }
    }
}

fn header_operations(check: &mut Check<'_>, at: &At, operations: &HeaderOperations, request: bool) {
    for (list, values) in [("set", &operations.set), ("add", &operations.add)] {
        for (name, value) in values {
            let at = at.field(list).key(name);
            match name.to_ascii_lowercase().as_str() {
                // They become a rewrite of the host (VA10).
                ":authority" if request => {}
                pseudo if pseudo.starts_with(':') => {
                    check.warning(
                        &at,
                        format!("`{name}` cannot be changed by header operations and is ignored; use rewrite"),
                    );
                }
                _ => check.header_name(&at, name),
            }
            if value.bytes().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
                check.error(&at, "the value holds a line break, which would end the header; remove it");
            }
        }
    }
    for (index, name) in operations.remove.iter().enumerate() {
        let at = at.field("remove").index(index);
        if name.starts_with(':') || (request && name.eq_ignore_ascii_case("host")) {
            check.warning(&at, format!("`{name}` cannot be removed and is ignored; use rewrite"));
        } else {
            check.header_name(&at, name);
        }
    }
}

fn tls_route(check: &mut Check<'_>, at: &At, route: &TlsRoute, hosts: &[String]) {
    if route.matches.is_empty() {
        check.error(at, "has no match; a TLS route needs match[].sniHosts");
    }
    for (index, matched) in route.matches.iter().enumerate() {
        let at = at.field("match").index(index);
        if matched.sni_hosts.is_empty() {
            check.error(&at.field("sniHosts"), "is empty; name the servers that clients ask for");
        }
        for (index, sni) in matched.sni_hosts.iter().enumerate() {
            let at = at.field("sniHosts").index(index);
            check.host(&at, sni, true);
            let covered = hosts.iter().any(|host| covers(host, sni));
            if !covered {
                check.error(&at, format!("`{sni}` is not among the hosts of the VirtualService; add it there"));
            }
        }
        subnets(check, &at, &matched.destination_subnets);
        if let Some(port) = matched.port {
            check.port(&at.field("port"), port);
        }
        source(check, &at, &matched.source_labels, &matched.source_namespace, &matched.gateways);
    }
    weighted(check, at, &route.route);
}

/// True if every name that `sni` can be is one of `host`. A short host stands for a longer name that is not known here.
fn covers(host: &str, sni: &str) -> bool {
    match host.strip_prefix('*') {
        Some(suffix) => sni.ends_with(suffix),
        None => host == sni || (!host.contains('.') && sni.starts_with(&format!("{host}."))),
    }
}

fn tcp_route(check: &mut Check<'_>, at: &At, route: &TcpRoute) {
    for (index, matched) in route.matches.iter().enumerate() {
        l4_match(check, &at.field("match").index(index), matched);
    }
    weighted(check, at, &route.route);
}

fn l4_match(check: &mut Check<'_>, at: &At, matched: &L4MatchAttributes) {
    subnets(check, at, &matched.destination_subnets);
    if let Some(port) = matched.port {
        check.port(&at.field("port"), port);
    }
    let advice = "; Istio reserves it, too. Use sourceLabels or sourceNamespace";
    check.unsupported(!matched.source_subnet.is_empty(), &at.field("sourceSubnet"), advice);
    source(check, at, &matched.source_labels, &matched.source_namespace, &matched.gateways);
}

fn subnets(check: &mut Check<'_>, at: &At, subnets: &[String]) {
    for (index, subnet) in subnets.iter().enumerate() {
        check.address_range(&at.field("destinationSubnets").index(index), subnet);
    }
}

fn weighted(check: &mut Check<'_>, at: &At, routes: &[RouteDestination]) {
    let at = at.field("route");
    if routes.is_empty() {
        check.error(&at, "has no destination; give at least one");
    }
    let total: i64 = routes.iter().map(|to| i64::from(to.weight.max(0))).sum();
    if routes.len() > 1 && total == 0 {
        check.error(&at, "all weights are 0, so no destination would get a connection; give weights");
    }
    for (index, to) in routes.iter().enumerate() {
        let at = at.index(index);
        check.not_negative(&at.field("weight"), to.weight);
        destination(check, &at.field("destination"), &to.destination);
    }
}

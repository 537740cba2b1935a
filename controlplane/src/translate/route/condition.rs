//! `http[].match`: what is decided here and now (port, gateway, client workload), and what is left to the request (VM1–VM7).

use mesh_proto::crd::StringMatch;
use mesh_proto::crd::virtual_service::HttpMatchRequest;
use mesh_proto::xds::{matcher, route};

use super::super::wire;
use super::Site;

/// Largest compiled expression that our proxy takes.
const MAX_REGEX_BYTES: usize = 1 << 20;
/// Header keys of this form name claims of a JWT (VM9). Nothing verifies tokens here, so a request never has such a claim.
const CLAIMS: &str = "@request.auth.claims";
/// Keys of `headers` that have fields of their own and are ignored there.
const OWN_FIELDS: &[&str] = &["uri", "scheme", "method", "authority"];

/// True if the conditions that do not depend on the request hold at this site. As in Istio, naming gateways takes the place of
/// naming client workloads.
pub fn applies(site: &Site<'_>, condition: &HttpMatchRequest) -> bool {
    if condition.port.is_some_and(|port| port != 0 && port != u32::from(site.port)) {
        return false;
    }
    if !condition.gateways.is_empty() {
        return condition.gateways.iter().any(|gateway| gateway == site.gateway);
    }
    source_applies(site, &condition.source_labels, &condition.source_namespace)
}

/// True if the proxy's workload is one of these clients (VM5).
pub fn source_applies(site: &Site<'_>, labels: &std::collections::BTreeMap<String, String>, namespace: &str) -> bool {
    labels.iter().all(|(name, value)| site.node.labels.get(name) == Some(value))
        && (namespace.is_empty() || *namespace == *site.node.namespace)
}

/// The conditions on the request; `None` if no request can meet them.
pub fn route_match(condition: Option<&HttpMatchRequest>) -> Option<route::RouteMatch> {
    use route::route_match::PathSpecifier as Path;
    let everything = Path::Prefix("/".to_owned());
    let Some(condition) = condition else {
        return Some(route::RouteMatch { path_specifier: Some(everything), ..Default::default() });
    };
    let path = match &condition.uri {
        None | Some(StringMatch::Present) => everything,
        Some(StringMatch::Exact(path)) => Path::Path(path.clone()),
        Some(StringMatch::Prefix(prefix)) => Path::Prefix(prefix.clone()),
        Some(StringMatch::Regex(pattern)) => Path::SafeRegex(regex(pattern)?),
    };
    let mut headers = header_conditions(condition)?;
    headers.sort_by(|one, other| one.name.cmp(&other.name));
    for (name, wanted) in
        [(":method", &condition.method), (":authority", &condition.authority), (":scheme", &condition.scheme)]
    {
        if let Some(wanted) = wanted {
            headers.push(header(name, wanted)?);
        }
    }
    let query = condition.query_params.iter().map(|(name, wanted)| query(name, wanted));
    Some(route::RouteMatch {
        path_specifier: Some(path),
        case_sensitive: wire::boolean(!condition.ignore_uri_case),
        headers,
        query_parameters: query.collect::<Option<Vec<_>>>()?,
        ..Default::default()
    })
}

/// True if a route takes every request, so that none after it is reached.
pub fn is_catch_all(condition: &route::RouteMatch) -> bool {
    use route::route_match::PathSpecifier as Path;
    let path = match &condition.path_specifier {
        Some(Path::Prefix(prefix)) => prefix == "/",
        Some(Path::SafeRegex(pattern)) => pattern.regex == ".*",
        _ => false,
    };
    path && condition.headers.is_empty() && condition.query_parameters.is_empty()
}

fn header_conditions(condition: &HttpMatchRequest) -> Option<Vec<route::HeaderMatcher>> {
    let mut list = Vec::new();
    let own_field = |name: &str| OWN_FIELDS.contains(&name);
    for (name, wanted) in condition.headers.iter().filter(|(name, _)| !own_field(name)) {
        if name.starts_with(CLAIMS) {
            return None;
        }
        list.push(header(name, wanted)?);
    }
    for (name, unwanted) in condition.without_headers.iter().filter(|(name, _)| !own_field(name)) {
        if name.starts_with(CLAIMS) {
            continue;
        }
        let mut matcher = header(name, unwanted)?;
        matcher.invert_match = true;
        // A header that is absent is not the unwanted one; without this Envoy lets an inverted match fail for it.
        matcher.treat_missing_header_as_empty = !is_presence(unwanted);
        list.push(matcher);
    }
    Some(list)
}

fn header(name: &str, wanted: &StringMatch) -> Option<route::HeaderMatcher> {
    let plain = name.strip_prefix(':').unwrap_or(name);
    http::HeaderName::try_from(plain).ok()?;
    use route::header_matcher::HeaderMatchSpecifier as H;
    let specifier = match is_presence(wanted) {
        true => H::PresentMatch(true),
        false => H::StringMatch(string(wanted)?),
    };
    Some(route::HeaderMatcher { name: name.to_owned(), header_match_specifier: Some(specifier), ..Default::default() })
}

fn query(name: &str, wanted: &StringMatch) -> Option<route::QueryParameterMatcher> {
    use route::query_parameter_matcher::QueryParameterMatchSpecifier as Q;
    let specifier = match is_presence(wanted) {
        true => Q::PresentMatch(true),
        false => Q::StringMatch(string(wanted)?),
    };
    Some(route::QueryParameterMatcher { name: name.to_owned(), query_parameter_match_specifier: Some(specifier) })
}

/// Any value will do. `*` is no regular expression but Istio's way to write that; an empty prefix says it too.
fn is_presence(wanted: &StringMatch) -> bool {
    match wanted {
        StringMatch::Present => true,
        StringMatch::Regex(pattern) => pattern == "*",
        StringMatch::Prefix(prefix) => prefix.is_empty(),
        StringMatch::Exact(_) => false,
    }
}

/// A string matcher; `None` if its expression is none.
fn string(wanted: &StringMatch) -> Option<matcher::StringMatcher> {
    use matcher::string_matcher::MatchPattern as M;
    let pattern = match wanted {
        StringMatch::Exact(text) => M::Exact(text.clone()),
        StringMatch::Prefix(text) => M::Prefix(text.clone()),
        StringMatch::Regex(pattern) => M::SafeRegex(regex(pattern)?),
        StringMatch::Present => M::Prefix(String::new()),
    };
    Some(matcher::StringMatcher { match_pattern: Some(pattern), ignore_case: false })
}

/// An expression that proxies can compile. One that is wrong would make them refuse the whole table, so its route is left out instead
/// and the user is told by validation.
pub fn regex(pattern: &str) -> Option<matcher::RegexMatcher> {
    // As the proxy compiles it: as a whole, and within its limit.
    regex::RegexBuilder::new(&format!("^(?:{pattern})$")).size_limit(MAX_REGEX_BYTES).build().ok()?;
    Some(matcher::RegexMatcher { regex: pattern.to_owned(), ..Default::default() })
}

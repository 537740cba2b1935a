//! Delegation: a root's rule continues in another VirtualService (VS5). Source: Istio's `pilot/pkg/model/virtualservice.go`.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_proto::crd::StringMatch;
use mesh_proto::crd::virtual_service::{HttpMatchRequest, HttpRoute};

use super::virtual_service::Entry;
use super::{Key, Name};

/// The root's rules, each delegating one replaced by the delegate's rules under the root's conditions.
/// A rule whose delegate is not there or not visible is dropped, as is a pair of conditions that contradict each other.
pub fn merge(root: &Key, routes: Vec<HttpRoute>, delegates: &BTreeMap<(Name, Name), Arc<Entry>>) -> Vec<HttpRoute> {
    let mut merged = Vec::new();
    for route in routes {
        let Some(target) = &route.delegate else {
            merged.push(route);
            continue;
        };
        let name = (Name::from(target.namespace.as_str()), Name::from(target.name.as_str()));
        let Some(delegate) = delegates.get(&name) else { continue };
        if !delegate.export_to.allows(&root.namespace) {
            continue;
        }
        // One level: a delegate's own delegates are not followed.
        let own = delegate.config.spec.http.iter().filter(|route| route.delegate.is_none());
        merged.extend(own.filter_map(|own| merge_route(&route, own)));
    }
    merged
}

/// The delegate's rule under the root's conditions; settings of the delegate win over those of the root.
fn merge_route(root: &HttpRoute, own: &HttpRoute) -> Option<HttpRoute> {
    let matches = merge_matches(&root.matches, &own.matches)?;
    let mut merged = own.clone();
    merged.delegate = None;
    merged.matches = matches;
    merged.name = match (root.name.as_str(), own.name.as_str()) {
        ("", name) | (name, "") => name.to_owned(),
        (root, own) => format!("{root}-{own}"),
    };
    merged.rewrite = merged.rewrite.or_else(|| root.rewrite.clone());
    merged.direct_response = merged.direct_response.or_else(|| root.direct_response.clone());
    merged.timeout = merged.timeout.or(root.timeout);
    merged.retries = merged.retries.or_else(|| root.retries.clone());
    merged.fault = merged.fault.or_else(|| root.fault.clone());
    merged.mirror = merged.mirror.or_else(|| root.mirror.clone());
    merged.mirror_percent = merged.mirror_percent.or(root.mirror_percent);
    merged.mirror_percentage = merged.mirror_percentage.or(root.mirror_percentage);
    merged.cors_policy = merged.cors_policy.or_else(|| root.cors_policy.clone());
    merged.headers = merged.headers.or_else(|| root.headers.clone());
    if merged.mirrors.is_empty() {
        merged.mirrors = root.mirrors.clone();
    }
    Some(merged)
}

/// Every pair that does not contradict; `None` if there are conditions but no pair is left.
fn merge_matches(root: &[HttpMatchRequest], own: &[HttpMatchRequest]) -> Option<Vec<HttpMatchRequest>> {
    match (root, own) {
        ([], own) => Some(own.to_vec()),
        (root, []) => Some(root.to_vec()),
        (root, own) => {
            let pairs = root.iter().flat_map(|root| own.iter().filter_map(|own| merge_match(root, own)));
            Some(pairs.collect::<Vec<_>>()).filter(|pairs| !pairs.is_empty())
        }
    }
}

fn merge_match(root: &HttpMatchRequest, own: &HttpMatchRequest) -> Option<HttpMatchRequest> {
    let mut merged = own.clone();
    merged.name = match (root.name.as_str(), own.name.as_str()) {
        ("", name) | (name, "") => name.to_owned(),
        (root, own) => format!("{root}-{own}"),
    };
    merged.uri = narrower(&root.uri, &own.uri)?;
    merged.scheme = narrower(&root.scheme, &own.scheme)?;
    merged.method = narrower(&root.method, &own.method)?;
    merged.authority = narrower(&root.authority, &own.authority)?;
    merged.headers = narrower_map(&root.headers, &own.headers)?;
    merged.query_params = narrower_map(&root.query_params, &own.query_params)?;
    for (name, value) in &root.without_headers {
        match merged.without_headers.get(name) {
            Some(other) if other != value => return None,
            _ => merged.without_headers.insert(name.clone(), value.clone()),
        };
    }
    merged.port = same(root.port, own.port)?;
    for (key, value) in &root.source_labels {
        match merged.source_labels.get(key) {
            Some(other) if other != value => return None,
            _ => merged.source_labels.insert(key.clone(), value.clone()),
        };
    }
    merged.source_namespace = match (root.source_namespace.as_str(), own.source_namespace.as_str()) {
        ("", name) | (name, "") => name.to_owned(),
        (root, own) if root == own => own.to_owned(),
        _ => return None,
    };
    if merged.gateways.is_empty() {
        merged.gateways = root.gateways.clone();
    } else if !root.gateways.is_empty() && !merged.gateways.iter().all(|name| root.gateways.contains(name)) {
        return None;
    }
    merged.ignore_uri_case = own.ignore_uri_case || root.ignore_uri_case;
    if merged.stat_prefix.is_empty() {
        merged.stat_prefix = root.stat_prefix.clone();
    }
    Some(merged)
}

fn same<T: PartialEq + Copy>(root: Option<T>, own: Option<T>) -> Option<Option<T>> {
    match (root, own) {
        (Some(root), Some(own)) if root != own => None,
        (root, own) => Some(own.or(root)),
    }
}

/// The delegate's condition where it lies within the root's; `None` where both cannot hold or that cannot be told.
#[allow(clippy::option_option)]
fn narrower(root: &Option<StringMatch>, own: &Option<StringMatch>) -> Option<Option<StringMatch>> {
    use StringMatch as M;
    let (Some(root), Some(own)) = (root, own) else { return Some(own.clone().or_else(|| root.clone())) };
    let within = match (root, own) {
        (M::Present, _) => true,
        (root, own) if root == own => !matches!(root, M::Regex(_)),
        (M::Prefix(prefix), M::Exact(text) | M::Prefix(text)) => text.starts_with(prefix.as_str()),
        _ => false,
    };
    within.then(|| Some(own.clone()))
}

fn narrower_map(
    root: &BTreeMap<String, StringMatch>,
    own: &BTreeMap<String, StringMatch>,
) -> Option<BTreeMap<String, StringMatch>> {
    let mut merged = own.clone();
    for (name, value) in root {
        let narrow = narrower(&Some(value.clone()), &own.get(name).cloned())?;
        merged.insert(name.clone(), narrow.unwrap_or_else(|| value.clone()));
    }
    Some(merged)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_delegate_narrows_its_root() {
        let prefix = "{uri: {prefix: /a}}";
        for (root, own, expected) in [
            (prefix, "{uri: {prefix: /a/b}}", Some("{uri: {prefix: /a/b}}")),
            (prefix, "{uri: {exact: /a/b}}", Some("{uri: {exact: /a/b}}")),
            (prefix, "{uri: {prefix: /c}}", None),
            (prefix, "{uri: {regex: /a.*}}", None),
            (prefix, "{method: {exact: GET}}", Some("{uri: {prefix: /a}, method: {exact: GET}}")),
            ("{uri: {exact: /a}}", "{uri: {prefix: /a}}", None),
            ("{port: 80}", "{port: 81}", None),
            ("{headers: {x: {exact: a}}}", "{headers: {y: {}}}", Some("{headers: {x: {exact: a}, y: {}}}")),
            ("{headers: {x: {exact: a}}}", "{headers: {x: {exact: b}}}", None),
            ("{sourceLabels: {a: b}}", "{sourceLabels: {a: c}}", None),
            ("{gateways: [mesh]}", "{}", Some("{gateways: [mesh]}")),
        ] {
            let read = |yaml: &str| yaml_serde::from_str::<HttpMatchRequest>(yaml).unwrap();
            assert_eq!(merge_match(&read(root), &read(own)), expected.map(read), "{root} + {own}");
        }
    }

    #[test]
    fn settings_of_the_delegate_win_and_contradictions_drop_the_rule() {
        let read = |yaml: &str| yaml_serde::from_str::<HttpRoute>(yaml).unwrap();
        let root = read("{name: r, match: [{uri: {prefix: /a}}], timeout: 1s, delegate: {name: d}}");
        let own = read("{name: d, match: [{uri: {prefix: /a/b}}], timeout: 2s, route: [{destination: {host: x}}]}");
        let merged = merge_route(&root, &own).unwrap();
        assert_eq!((merged.name.as_str(), merged.timeout), ("r-d", own.timeout));
        let other = read("{match: [{uri: {prefix: /c}}], route: [{destination: {host: x}}]}");
        assert_eq!(merge_route(&root, &other), None);
    }
}

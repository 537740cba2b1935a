//! Rows of `proxy-config route`: one for each route of each virtual host.

use serde_json::Value;

use super::{config_object, field, list, number, text, texts};

/// Headings; `DESTINATION` is beyond istioctl's.
pub const HEADINGS: &[&str] = &["NAME", "VHOST NAME", "DOMAINS", "MATCH", "VIRTUAL SERVICE", "DESTINATION"];

/// Domains that are shown before the rest is only counted.
const SHOWN: usize = 2;

/// The rows of a route table.
pub fn rows(table: &Value) -> Vec<[String; 6]> {
    let mut rows = Vec::new();
    for host in list(table, "virtual_hosts") {
        for route in list(host, "routes") {
            rows.push([
                text(table, "name").to_owned(),
                text(host, "name").to_owned(),
                domains(&texts(host, "domains")),
                describe_match(field(route, "match")),
                virtual_service(route),
                destination(route),
            ]);
        }
    }
    rows
}

fn domains(all: &[&str]) -> String {
    match all.len().checked_sub(SHOWN) {
        Some(more) if more > 0 => format!("{} + {more} more...", all[..SHOWN].join(", ")),
        _ => all.join(", "),
    }
}

/// A route's match in short: `/exact`, `/prefix*`, `regex /…/`.
pub fn describe_match(route_match: &Value) -> String {
    let path = if let Some(exact) = field(route_match, "path").as_str() {
        exact.to_owned()
    } else if let Some(prefix) = field(route_match, "prefix").as_str() {
        format!("{prefix}*")
    } else if let Some(prefix) = field(route_match, "path_separated_prefix").as_str() {
        format!("PathPrefix:{prefix}")
    } else {
        let regex = text(field(route_match, "safe_regex"), "regex");
        if regex.is_empty() { "/*".to_owned() } else { format!("regex {regex}") }
    };
    let more: Vec<&str> = list(route_match, "headers").iter().map(|header| text(header, "name")).collect();
    let parameters = list(route_match, "query_parameters").iter().map(|parameter| text(parameter, "name"));
    let mut described = path;
    if !more.is_empty() {
        described.push_str(&format!(" by {}", more.join(", ")));
    }
    for parameter in parameters {
        described.push_str(&format!(" ?{parameter}"));
    }
    described
}

fn virtual_service(route: &Value) -> String {
    let object = config_object(route);
    if object.is_empty() && field(route, "direct_response").is_object() {
        return number(field(field(route, "direct_response"), "status"))
            .map(|status| status.to_string())
            .unwrap_or_default();
    }
    object
}

fn destination(route: &Value) -> String {
    let action = field(route, "route");
    let cluster = text(action, "cluster");
    if !cluster.is_empty() {
        return cluster.to_owned();
    }
    let weights = weights(route);
    if !weights.is_empty() {
        let parts = weights.iter().map(|(cluster, weight)| format!("{cluster} {weight}"));
        return parts.collect::<Vec<_>>().join(", ");
    }
    match (field(route, "redirect").is_object(), field(route, "direct_response").is_object()) {
        (true, _) => "redirect".to_owned(),
        (_, true) => "direct response".to_owned(),
        _ => String::new(),
    }
}

/// Clusters and their weights, where a route splits its requests.
pub fn weights(route: &Value) -> Vec<(&str, u64)> {
    let clusters = list(field(field(route, "route"), "weighted_clusters"), "clusters");
    clusters.iter().map(|one| (text(one, "name"), number(field(one, "weight")).unwrap_or(0))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_row_for_each_route() {
        let table = json!({"name": "http_proxy", "virtual_hosts": [
        {"name": "reviews.default.svc.cluster.local:9080", "domains": ["reviews", "reviews:9080", "reviews.default"],
         "routes": [
            {"match": {"prefix": "/"}, "metadata": {"filter_metadata": {"istio": {
                "config": "/apis/networking.istio.io/v1/namespaces/default/virtual-service/reviews"}}},
             "route": {"weighted_clusters": {"clusters": [
                {"name": "outbound|9080|v1|reviews.default.svc.cluster.local", "weight": 75},
                {"name": "outbound|9080|v2|reviews.default.svc.cluster.local", "weight": 25}]}}},
            {"match": {"path": "/x", "headers": [{"name": "end-user"}]}, "route": {"cluster": "PassthroughCluster"}},
            {"match": {"safe_regex": {"regex": "/a+"}}, "direct_response": {"status": 404}}
        ]}]});
        let rows: Vec<String> = rows(&table).iter().map(|row| row[2..].join(" | ")).collect();
        assert_eq!(
            rows,
            [
                "reviews, reviews:9080 + 1 more... | /* | reviews.default | outbound|9080|v1|reviews.default.svc.cluster.local 75, \
                 outbound|9080|v2|reviews.default.svc.cluster.local 25",
                "reviews, reviews:9080 + 1 more... | /x by end-user |  | PassthroughCluster",
                "reviews, reviews:9080 + 1 more... | regex /a+ | 404 | direct response",
            ]
        );
    }
}

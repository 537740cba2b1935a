//! Rows of `proxy-config listener`: one for each filter chain, with what it matches and where it leads.

use serde_json::Value;

use super::{address, field, list, number, path, route, text, texts};

/// Headings.
pub const HEADINGS: &[&str] = &["ADDRESSES", "PORT", "MATCH", "DESTINATION"];

/// The ALPNs by which plaintext HTTP and mesh TLS are told, in Istio's words.
const APPLICATIONS: &[(&[&str], &str)] = &[
    (&["http/1.1", "h2c"], "HTTP"),
    (&["http/1.0", "http/1.1", "h2c"], "HTTP"),
    (&["istio-http/1.0", "istio-http/1.1", "istio-h2"], "HTTP TLS"),
    (&["istio", "istio-peer-exchange", "istio-http/1.0", "istio-http/1.1", "istio-h2"], "TCP TLS"),
    (&["istio-peer-exchange", "istio"], "TCP TLS"),
];

/// The rows of a listener.
pub fn rows(listener: &Value) -> Vec<[String; 4]> {
    let addresses = addresses(listener);
    let port = number(path(listener, &["address", "socket_address", "port_value"]));
    let port = port.map(|port| port.to_string()).unwrap_or_default();
    let mut rows: Vec<[String; 4]> = Vec::new();
    let mut push = |matched: String, chain: &Value| {
        rows.push([addresses.clone(), port.clone(), matched, destination(chain)]);
    };
    for chain in list(listener, "filter_chains") {
        push(describe_match(field(chain, "filter_chain_match")), chain);
    }
    let default = field(listener, "default_filter_chain");
    if default.is_object() {
        push("ALL".to_owned(), default);
    }
    rows
}

fn addresses(listener: &Value) -> String {
    let mut all = vec![address(field(listener, "address")).0];
    all.extend(list(listener, "additional_addresses").iter().map(|one| address(field(one, "address")).0));
    all.join(",")
}

fn describe_match(chain_match: &Value) -> String {
    let mut parts = Vec::new();
    let names = texts(chain_match, "server_names");
    if !names.is_empty() {
        parts.push(format!("SNI: {}", names.join(",")));
    }
    let transport = text(chain_match, "transport_protocol");
    if !transport.is_empty() {
        parts.push(format!("Trans: {transport}"));
    }
    let applications = texts(chain_match, "application_protocols");
    if !applications.is_empty() {
        let known = APPLICATIONS.iter().find(|(protocols, _)| *protocols == applications);
        parts.push(format!("App: {}", known.map_or_else(|| applications.join(","), |(_, name)| (*name).to_owned())));
    }
    let port = number(field(chain_match, "destination_port")).map(|port| format!(":{port}")).unwrap_or_default();
    let ranges = list(chain_match, "prefix_ranges").iter().map(|range| {
        let length = number(field(range, "prefix_len")).unwrap_or(0);
        format!("{}/{length}", text(range, "address_prefix"))
    });
    let ranges = ranges.collect::<Vec<_>>().join(",");
    if !ranges.is_empty() {
        parts.push(format!("Addr: {ranges}{port}"));
    } else if !port.is_empty() {
        parts.push(format!("Addr: *{port}"));
    }
    if parts.is_empty() { "ALL".to_owned() } else { parts.join("; ") }
}

fn destination(chain: &Value) -> String {
    for filter in list(chain, "filters") {
        let config = field(filter, "typed_config");
        let kind = text(config, "@type");
        if kind.ends_with("HttpConnectionManager") {
            let named = text(field(config, "rds"), "route_config_name");
            if !named.is_empty() {
                return format!("Route: {named}");
            }
            return inline(field(config, "route_config"));
        }
        if kind.ends_with("TcpProxy") {
            let cluster = text(config, "cluster");
            if !cluster.is_empty() {
                return format!("Cluster: {cluster}");
            }
            let weighted = list(field(config, "weighted_clusters"), "clusters").iter();
            let weighted =
                weighted.map(|one| format!("{} {}", text(one, "name"), number(field(one, "weight")).unwrap_or(0)));
            return format!("Cluster: {}", weighted.collect::<Vec<_>>().join(", "));
        }
    }
    "Non-HTTP/Non-TCP".to_owned()
}

/// An inline route table: its cluster when it leads everything to one, else what it matches.
fn inline(table: &Value) -> String {
    let routes: Vec<&Value> = list(table, "virtual_hosts").iter().flat_map(|host| list(host, "routes")).collect();
    if let [only] = routes.as_slice() {
        let cluster = text(field(only, "route"), "cluster");
        if !cluster.is_empty() {
            return format!("Cluster: {cluster}");
        }
    }
    let matches: Vec<String> = routes.iter().map(|one| route::describe_match(field(one, "match"))).collect();
    format!("Inline Route: {}", matches.join(", "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_row_for_each_chain_says_what_it_matches_and_where_it_leads() {
        let listener = json!({
            "name": "virtualInbound",
            "address": {"socket_address": {"address": "0.0.0.0", "port_value": 15006}},
            "filter_chains": [
                {"filter_chain_match": {"destination_port": 9080, "transport_protocol": "tls",
                    "application_protocols": ["istio-peer-exchange", "istio"]},
                 "filters": [{"name": "rbac"}, {"typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                    "cluster": "inbound|9080||"}}]},
                {"filter_chain_match": {"server_names": ["a.b"], "prefix_ranges": [{"address_prefix": "10.0.0.0", "prefix_len": 8}]},
                 "filters": [{"typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                    "rds": {"route_config_name": "9080"}}}]},
                {"filters": [{"typed_config": {"@type": "x/HttpConnectionManager", "route_config": {"virtual_hosts": [
                    {"routes": [{"match": {"prefix": "/"}, "route": {"cluster": "inbound|80||"}}]}]}}}]}
            ],
            "default_filter_chain": {"filters": []}
        });
        let rows: Vec<String> = rows(&listener).iter().map(|row| row.join(" | ")).collect();
        assert_eq!(
            rows,
            [
                "0.0.0.0 | 15006 | Trans: tls; App: TCP TLS; Addr: *:9080 | Cluster: inbound|9080||",
                "0.0.0.0 | 15006 | SNI: a.b; Addr: 10.0.0.0/8 | Route: 9080",
                "0.0.0.0 | 15006 | ALL | Cluster: inbound|80||",
                "0.0.0.0 | 15006 | ALL | Non-HTTP/Non-TCP",
            ]
        );
    }
}

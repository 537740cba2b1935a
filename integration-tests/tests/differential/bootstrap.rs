//! One bootstrap for all cases of an area: a listener for each, and the clusters that they share.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::backend::CASE;
use super::case::Case;
use super::certificates::Certificates;
use super::proxy::Kind;

/// Ports of one side: of backends and of listeners, by name.
pub type Ports = BTreeMap<String, u16>;

/// The bootstrap of `cases`, as JSON, which both proxies read as YAML.
pub fn bootstrap(kind: Kind, cases: &[Case], ports: &Ports, log: &str, certificates: &Certificates) -> String {
    let mut clusters: BTreeMap<String, Value> = BTreeMap::new();
    for (name, hosts) in [("a", "a"), ("b", "b"), ("h2", "h2"), ("dead", "dead"), ("empty", ""), ("echo", "echo")] {
        let hosts: Vec<&str> = hosts.split(',').filter(|host| !host.is_empty()).collect();
        clusters.insert(name.into(), cluster(&json!({"name": name, "hosts": hosts}), ports));
    }
    // Each request on a connection of its own.
    let fresh = json!({"name": "fresh", "hosts": ["a"], "max_requests_per_connection": 1});
    clusters.insert("fresh".into(), cluster(&fresh, ports));
    for case in cases {
        for raw in &case.clusters {
            let built = cluster(raw, ports);
            let name = raw["name"].as_str().unwrap_or_else(|| panic!("{}: a cluster needs a name", case.name));
            if let Some(before) = clusters.insert(name.to_owned(), built.clone()) {
                assert_eq!(before, built, "{}: cluster {name} is in two cases and not the same", case.name);
            }
        }
    }
    let listeners: Vec<Value> = cases.iter().map(|case| listener(kind, case, ports, log, certificates)).collect();
    let clusters: Vec<Value> = clusters.into_values().collect();
    let bootstrap = json!({
        "node": {"id": "sidecar~127.0.0.1~test.default~default.svc.cluster.local", "cluster": "test.default"},
        "static_resources": {"listeners": listeners, "clusters": clusters},
    });
    let mut text = serde_json::to_string_pretty(&bootstrap).expect("JSON is written");
    for (name, port) in ports {
        text = text.replace(&format!("\"{{{{{name}}}}}\""), &port.to_string());
        text = text.replace(&format!("{{{{{name}}}}}"), &port.to_string());
    }
    text
}

fn cluster(raw: &Value, ports: &Ports) -> Value {
    let mut own = raw.as_object().expect("a cluster is a map").clone();
    let name = own["name"].clone();
    let hosts: Vec<String> = own
        .remove("hosts")
        .map(|hosts| serde_json::from_value(hosts).expect("hosts are a list of backends"))
        .unwrap_or_default();
    let endpoints: Vec<Value> = hosts
        .iter()
        .map(|host| {
            let port = ports.get(host).unwrap_or_else(|| panic!("cluster {name}: no backend {host}"));
            json!({"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}})
        })
        .collect();
    let mut cluster = json!({
        "name": name, "type": "STATIC", "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
    });
    if hosts.iter().any(|host| host == "h2") {
        cluster["typed_extension_protocol_options"] = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }});
    }
    merge(&mut cluster, &Value::Object(own));
    cluster
}

fn listener(kind: Kind, case: &Case, ports: &Ports, log: &str, certificates: &Certificates) -> Value {
    let port = ports[&case.name];
    let fields = [
        ("status", "%RESPONSE_CODE%"),
        ("flags", "%RESPONSE_FLAGS%"),
        ("details", "%RESPONSE_CODE_DETAILS%"),
        ("termination", "%CONNECTION_TERMINATION_DETAILS%"),
        ("failure", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
        ("cluster", "%UPSTREAM_CLUSTER%"),
        ("host", "%UPSTREAM_HOST%"),
        ("route", "%ROUTE_NAME%"),
        ("received", "%BYTES_RECEIVED%"),
        ("sent", "%BYTES_SENT%"),
        ("attempts", "%UPSTREAM_REQUEST_ATTEMPT_COUNT%"),
        ("protocol", "%PROTOCOL%"),
        ("method", "%REQ(:METHOD)%"),
        ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
        ("authority", "%REQ(:AUTHORITY)%"),
        ("xff", "%REQ(X-FORWARDED-FOR)%"),
        ("remote", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"),
    ];
    let mut format: Map<String, Value> = fields.iter().map(|(name, value)| ((*name).into(), json!(value))).collect();
    format.insert("case".into(), json!(case.name));
    let access_log = json!([{
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": log,
            "log_format": {"json_format": format},
        },
    }]);
    let last = match &case.tcp {
        Some(own) => {
            let mut tcp = json!({
                "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                "stat_prefix": case.name, "access_log": access_log,
            });
            merge(&mut tcp, own);
            json!({"name": "envoy.filters.network.tcp_proxy", "typed_config": tcp})
        }
        None => {
            let mut filters = case.filters.clone();
            filters.push(json!({"name": "envoy.filters.http.router", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}));
            let mut manager = json!({
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": case.name, "codec_type": "AUTO", "route_config": routes(case),
                "access_log": access_log, "http_filters": filters,
            });
            if kind == Kind::Envoy {
                // Envoy keeps a connection that it has closed for another second; only the test would notice.
                manager["delayed_close_timeout"] = json!("0.02s");
            }
            merge(&mut manager, &case.hcm);
            json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": manager})
        }
    };
    let mut network = case.network.clone();
    network.push(last);
    let mut chain = json!({"filters": network});
    if case.mtls {
        chain["transport_socket"] = certificates.server_socket();
    }
    let mut listener = json!({
        "name": case.name,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [chain],
    });
    merge(&mut listener, &case.listener);
    let text = listener.to_string().replace("\"{{port}}\"", &port.to_string());
    serde_json::from_str(&text).expect("a port is a number")
}

fn routes(case: &Case) -> Value {
    let of_all = |routes: Value| json!({"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]});
    let mut table = match &case.routes {
        Value::Null => of_all(json!([{"match": {"prefix": "/"}, "route": {"cluster": "a"}}])),
        Value::Array(_) => of_all(case.routes.clone()),
        whole => whole.clone(),
    };
    let label = json!({"header": {"key": CASE, "value": case.name}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"});
    match table.get_mut("request_headers_to_add").and_then(Value::as_array_mut) {
        Some(own) => own.push(label),
        None => table["request_headers_to_add"] = json!([label]),
    }
    table
}

/// Fields of `over` replace those of `base`, maps are merged.
fn merge(base: &mut Value, over: &Value) {
    match (base, over) {
        (_, Value::Null) => {}
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                match base.get_mut(key) {
                    Some(known) if known.is_object() && value.is_object() => merge(known, value),
                    _ => {
                        base.insert(key.clone(), value.clone());
                    }
                }
            }
        }
        (base, over) => *base = over.clone(),
    }
}

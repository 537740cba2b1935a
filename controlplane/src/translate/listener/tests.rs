//! Tables: services, VirtualServices and Gateways as YAML in, listeners and chains out.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;

use mesh_proto::crd::MeshConfig;
use mesh_proto::xds::listener;
use mesh_proto::yaml;
use serde_json::Value;

use super::*;
use crate::model::tests::{node, objects};
use crate::model::{Interception, Model, Node, NodeKind, PushContext};

fn context(mesh: &str, yaml: &str) -> Arc<PushContext> {
    let mesh: MeshConfig = yaml_serde::from_str(mesh).unwrap();
    let mut model = Model::new(mesh);
    model.apply(objects(yaml));
    model.context()
}

/// A listener as lines: its head, then a line for each chain, `default` before the one for the rest.
fn lines(listener: &listener::Listener) -> Vec<String> {
    let json = yaml::to_json(listener).unwrap();
    let mut head = listener.name.clone();
    if json.get("bind_to_port").is_some_and(|bound| bound == false) {
        head += " unbound";
    }
    for filter in &listener.listener_filters {
        head = format!("{head} {}", filter.name.rsplit('.').next().unwrap());
    }
    let mut lines = vec![head];
    for chain in json["filter_chains"].as_array().into_iter().flatten() {
        lines.push(chain_line("", chain));
    }
    if let Some(chain) = json.get("default_filter_chain") {
        lines.push(chain_line("default ", chain));
    }
    lines
}

fn chain_line(mark: &str, chain: &Value) -> String {
    let mut line = format!("  {mark}");
    let words = |value: &Value| {
        let list = value.as_array().into_iter().flatten();
        list.map(|one| one.as_str().map_or_else(|| one.to_string(), str::to_owned)).collect::<Vec<_>>().join(",")
    };
    if let Some(found) = chain.get("filter_chain_match") {
        for key in ["server_names", "application_protocols"] {
            if let Some(list) = found.get(key) {
                line += &format!("{key}={} ", words(list));
            }
        }
        for range in found["prefix_ranges"].as_array().into_iter().flatten() {
            line += &format!("to={}/{} ", range["address_prefix"].as_str().unwrap(), range["prefix_len"]);
        }
        if let Some(port) = found.get("destination_port") {
            line += &format!("port={port} ");
        }
    }
    if let Some(socket) = chain.get("transport_socket") {
        let common = &socket["typed_config"]["common_tls_context"];
        let names = common["tls_certificate_sds_secret_configs"].as_array().into_iter().flatten();
        line += &format!("tls={} ", names.map(|one| one["name"].as_str().unwrap()).collect::<Vec<_>>().join(","));
    }
    for filter in chain["filters"].as_array().into_iter().flatten() {
        let config = &filter["typed_config"];
        if let Some(table) = config["rds"].get("route_config_name") {
            line += &format!("http {}", table.as_str().unwrap());
        } else if let Some(cluster) = config.get("cluster") {
            line += &format!("tcp {}", cluster.as_str().unwrap());
        } else if let Some(weighted) = config.get("weighted_clusters") {
            let list = weighted["clusters"].as_array().unwrap().iter();
            let list = list.map(|one| format!("{}={}", one["name"].as_str().unwrap(), one["weight"]));
            line += &format!("tcp {}", list.collect::<Vec<_>>().join(" "));
        }
    }
    line
}

fn outbound_of(mesh: &str, yaml: &str, client: &Node) -> Vec<String> {
    outbound::listeners(&context(mesh, yaml), client).iter().flat_map(lines).collect()
}

fn outbound(yaml: &str) -> Vec<String> {
    let mut all = outbound_of("{}", yaml, &node("shop", "client", "10.1.0.1"));
    // Every table below has it; it has a test of its own.
    let rest = all.iter().position(|line| line.starts_with("virtualOutbound")).unwrap();
    all.truncate(rest);
    all
}

fn service(name: &str, address: &str, ports: &str) -> String {
    format!(
        "\n---\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{clusterIP: {address}, selector: {{app: {name}}}, ports: [{ports}]}}"
    )
}

fn entry(name: &str, spec: &str) -> String {
    format!("\n---\nkind: ServiceEntry\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{{spec}}}")
}

fn virtual_service(name: &str, spec: &str) -> String {
    format!("\n---\nkind: VirtualService\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{{spec}}}")
}

const HTTP: &str = "application_protocols=http/1.0,http/1.1,h2c";

#[test]
fn http_ports_share_a_listener_and_tcp_services_have_their_own() {
    let services = service("reviews", "10.0.0.1", "{name: http, port: 9080}")
        + &service("ratings", "10.0.0.2", "{name: grpc, port: 9080}")
        + &service("db", "10.0.0.3", "{name: tcp, port: 5432}, {name: udp, port: 53, protocol: UDP}");
    assert_eq!(
        outbound(&services),
        [
            "0.0.0.0_9080 unbound tls_inspector http_inspector",
            &format!("  {HTTP} http 9080"),
            "  default tcp PassthroughCluster",
            "10.0.0.3_5432 unbound",
            "  tcp outbound|5432||db.shop.svc.cluster.local",
        ]
    );
}

#[test]
fn undeclared_ports_are_looked_at() {
    assert_eq!(
        outbound(&service("odd", "10.0.0.3", "{name: odd, port: 7000}, {name: mail, port: 25}")),
        [
            "10.0.0.3_25 unbound",
            "  tcp outbound|25||odd.shop.svc.cluster.local",
            "10.0.0.3_7000 unbound tls_inspector http_inspector",
            &format!("  {HTTP} http odd.shop.svc.cluster.local:7000"),
            "  default tcp outbound|7000||odd.shop.svc.cluster.local",
        ]
    );
}

#[test]
fn the_time_to_look_is_the_meshs() {
    let services = service("reviews", "10.0.0.1", "{name: http, port: 9080}");
    for (mesh, expected) in [("{}", "0s"), ("protocolDetectionTimeout: 5s", "5s")] {
        let found = outbound::listeners(&context(mesh, &services), &node("shop", "client", "10.1.0.1"));
        let json = yaml::to_json(&found[0]).unwrap();
        assert_eq!(json["listener_filters_timeout"], expected);
        assert_eq!(json["continue_on_listener_filters_timeout"], true);
    }
}

#[test]
fn captured_connections_come_to_one_listener() {
    for (mesh, rest) in
        [("{}", "PassthroughCluster"), ("outboundTrafficPolicy: {mode: REGISTRY_ONLY}", "BlackHoleCluster")]
    {
        let found = outbound::listeners(&context(mesh, ""), &node("shop", "client", "10.1.0.1"));
        assert_eq!(
            lines(&found[0]),
            ["virtualOutbound", "  port=15001 tcp BlackHoleCluster", &format!("  tcp {rest}")]
        );
        let json = yaml::to_json(&found[0]).unwrap();
        assert_eq!(json["use_original_dst"], true);
        assert_eq!(json["traffic_direction"], "OUTBOUND");
        assert_eq!(json["address"]["socket_address"]["port_value"], 15001);
    }
}

#[test]
fn tls_services_without_an_address_are_told_apart_by_server_name() {
    let entries =
        entry("a", "hosts: [a.example.com], ports: [{number: 443, name: tls, protocol: TLS}], resolution: DNS")
            + &entry(
                "b",
                "hosts: [b.example.com], ports: [{number: 443, name: https, protocol: HTTPS}], resolution: DNS",
            )
            + &service("secure", "10.0.0.3", "{name: https, port: 443}");
    assert_eq!(
        outbound(&entries),
        [
            "0.0.0.0_443 unbound tls_inspector",
            "  server_names=a.example.com tcp outbound|443||a.example.com",
            "  server_names=b.example.com tcp outbound|443||b.example.com",
            "  default tcp PassthroughCluster",
            "10.0.0.3_443 unbound",
            "  tcp outbound|443||secure.shop.svc.cluster.local",
        ]
    );
}

#[test]
fn tls_routes_go_by_server_name() {
    let yaml = entry(
        "all",
        "hosts: ['*.example.com'], ports: [{number: 443, name: tls, protocol: TLS}], resolution: NONE",
    ) + &virtual_service(
        "split",
        "hosts: ['*.example.com'], tls: [{match: [{port: 443, sniHosts: [a.example.com]}], route: [{destination: {host: x.svc, port: {number: 443}}, weight: 90}, {destination: {host: y.svc, port: {number: 443}}, weight: 10}]}, {match: [{sniHosts: [b.example.com], sourceLabels: {app: other}}], route: [{destination: {host: never}}]}, {match: [{sniHosts: ['*.example.com']}], route: [{destination: {host: '*.example.com'}}]}]",
    );
    assert_eq!(
        outbound(&yaml),
        [
            "0.0.0.0_443 unbound tls_inspector",
            "  server_names=a.example.com tcp outbound|443||x.svc=90 outbound|443||y.svc=10",
            "  server_names=*.example.com tcp outbound|443||*.example.com",
            "  default tcp PassthroughCluster",
        ]
    );
}

#[test]
fn tcp_routes_go_by_address_and_weight() {
    let db = service("db", "10.0.0.3", "{name: tcp, port: 5432}");
    let host = "db.shop.svc.cluster.local";
    for (tcp, expected) in [
        (
            "[{route: [{destination: {host: db, subset: v1}, weight: 80}, {destination: {host: db, subset: v2}, weight: 20}]}]",
            vec![format!("  tcp outbound|5432|v1|{host}=80 outbound|5432|v2|{host}=20")],
        ),
        ("[{match: [{port: 1}], route: [{destination: {host: never}}]}]", vec![format!("  tcp outbound|5432||{host}")]),
        (
            "[{match: [{destinationSubnets: [10.9.0.0/16]}], route: [{destination: {host: db, subset: v9}}]}]",
            vec![
                format!("  to=10.9.0.0/16 tcp outbound|5432|v9|{host}"),
                format!("  default tcp outbound|5432||{host}"),
            ],
        ),
        (
            "[{match: [{sourceLabels: {app: client}}], route: [{destination: {host: db, subset: mine}}]}]",
            vec![format!("  tcp outbound|5432|mine|{host}")],
        ),
    ] {
        let found = outbound(&(db.clone() + &virtual_service("db", &format!("hosts: [db], tcp: {tcp}"))));
        assert_eq!(found[1..], expected, "{tcp}");
    }
}

#[test]
fn ranges_are_matched_on_the_wildcard_address() {
    let yaml = entry(
        "range",
        "hosts: [range.example.com], addresses: [10.5.0.0/16, 10.7.0.1], ports: [{number: 3000, name: tcp, protocol: TCP}], resolution: STATIC, endpoints: [{address: 10.5.0.1}]",
    );
    assert_eq!(
        outbound(&yaml),
        [
            "0.0.0.0_3000 unbound",
            "  to=10.5.0.0/16 tcp outbound|3000||range.example.com",
            "  default tcp PassthroughCluster",
            "10.7.0.1_3000 unbound",
            "  tcp outbound|3000||range.example.com",
        ]
    );
}

#[test]
fn headless_tcp_services_listen_on_each_endpoint() {
    let pod = |name: &str, address: &str| {
        format!(
            "\n---\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: db}}}}\nspec: {{containers: []}}\nstatus: {{podIP: {address}, phase: Running, conditions: [{{type: Ready, status: 'True'}}]}}"
        )
    };
    let slice = "\n---\nkind: EndpointSlice\nmetadata: {name: db-1, namespace: shop, labels: {kubernetes.io/service-name: db}}\naddressType: IPv4\nports: [{name: tcp, port: 5432, protocol: TCP}]\nendpoints: [{addresses: [10.2.0.1], conditions: {ready: true}}, {addresses: [10.2.0.2], conditions: {ready: true}}, {addresses: [10.1.0.1], conditions: {ready: true}}]";
    let yaml =
        service("db", "None", "{name: tcp, port: 5432}") + &pod("db-0", "10.2.0.1") + &pod("db-1", "10.2.0.2") + slice;
    let cluster = "  tcp outbound|5432||db.shop.svc.cluster.local";
    assert_eq!(outbound(&yaml), ["10.2.0.1_5432 unbound", cluster, "10.2.0.2_5432 unbound", cluster]);
}

#[test]
fn conflicting_ports_are_merged_or_the_first_wins() {
    let entries = |first: &str, second: &str| {
        entry(
            "a",
            &format!("hosts: [a.example.com], ports: [{{number: 80, name: a, protocol: {first}}}], resolution: DNS"),
        ) + &entry(
            "b",
            &format!("hosts: [b.example.com], ports: [{{number: 80, name: b, protocol: {second}}}], resolution: DNS"),
        )
    };
    let http = format!("  {HTTP} http 80");
    for (first, second, expected) in [
        ("HTTP", "TCP", [http.as_str(), "  default tcp outbound|80||b.example.com"]),
        ("TCP", "HTTP", [http.as_str(), "  default tcp outbound|80||a.example.com"]),
        ("HTTP", "HTTP", [http.as_str(), "  default tcp PassthroughCluster"]),
    ] {
        assert_eq!(outbound(&entries(first, second))[1..], expected, "{first} {second}");
    }
    assert_eq!(outbound(&entries("TCP", "TCP")), ["0.0.0.0_80 unbound", "  tcp outbound|80||a.example.com"]);
}

fn sidecar(egress: &str) -> String {
    format!("\n---\nkind: Sidecar\nmetadata: {{name: s, namespace: shop}}\nspec: {{egress: [{egress}]}}")
}

#[test]
fn without_capture_only_what_the_sidecar_names_is_bound() {
    let base = service("reviews", "10.0.0.1", "{name: http, port: 9080}")
        + &service("db", "10.0.0.3", "{name: tcp, port: 5432}");
    let client = Node { interception: Interception::None, ..node("shop", "client", "10.1.0.1") };
    for (mesh, egress, expected) in [
        ("{}", String::new(), vec![]),
        ("proxyHttpPort: 15080", String::new(), vec!["127.0.0.1_15080", "  http http_proxy"]),
        (
            "{}",
            sidecar("{port: {number: 15081, protocol: HTTP_PROXY, name: p}, bind: 127.0.0.2, hosts: ['*/*']}"),
            vec!["127.0.0.2_15081", "  http http_proxy"],
        ),
        (
            "{}",
            sidecar("{port: {number: 9080, protocol: HTTP, name: h}, hosts: ['*/*']}"),
            vec!["127.0.0.1_9080", "  http 9080"],
        ),
        (
            "{}",
            sidecar(
                "{port: {number: 5432, protocol: TCP, name: t}, bind: 127.0.0.5, hosts: ['*/*']}, {hosts: ['*/*']}",
            ),
            vec!["127.0.0.5_5432", "  tcp outbound|5432||db.shop.svc.cluster.local"],
        ),
    ] {
        assert_eq!(outbound_of(mesh, &(base.clone() + &egress), &client), expected, "{mesh} {egress}");
    }
}

#[test]
fn a_sidecars_port_is_served_as_it_says() {
    let base = service("reviews", "10.0.0.1", "{name: http, port: 9080}")
        + &service("ratings", "10.0.0.2", "{name: http, port: 9080}");
    let captured = sidecar(
        "{port: {number: 9080, protocol: TCP, name: t}, hosts: ['./reviews.shop.svc.cluster.local']}, {hosts: ['*/*']}",
    );
    assert_eq!(
        outbound(&(base.clone() + &captured)),
        [
            "0.0.0.0_9080 unbound tls_inspector http_inspector",
            &format!("  {HTTP} http 9080"),
            "  default tcp PassthroughCluster",
            "10.0.0.1_9080 unbound",
            "  tcp outbound|9080||reviews.shop.svc.cluster.local",
        ]
    );
    let bound = sidecar("{port: {number: 9080, protocol: HTTP, name: t}, captureMode: NONE, hosts: ['*/*']}");
    assert_eq!(outbound(&(base + &bound)), ["127.0.0.1_9080", "  http 9080"]);
}

#[test]
fn the_rule_of_a_destination_limits_its_connections() {
    let yaml = service("db", "10.0.0.3", "{name: tcp, port: 5432}")
        + "\n---\nkind: DestinationRule\nmetadata: {name: db, namespace: shop}\nspec: {host: db, trafficPolicy: {connectionPool: {tcp: {idleTimeout: 30s, maxConnectionDuration: 1h}}}}";
    let found = outbound::listeners(&context("{}", &yaml), &node("shop", "client", "10.1.0.1"));
    let json = yaml::to_json(&found[0]).unwrap();
    let proxy = &json["filter_chains"][0]["filters"].as_array().unwrap().last().unwrap()["typed_config"];
    assert_eq!(proxy["idle_timeout"], "30s");
    assert_eq!(proxy["max_downstream_connection_duration"], "3600s");
}

fn router() -> Node {
    Node {
        kind: NodeKind::Router,
        labels: [("istio".to_owned(), "ingressgateway".to_owned())].into(),
        ..node("istio-system", "edge", "10.1.0.9")
    }
}

fn gateway_object(name: &str, created: u32, servers: &str) -> String {
    format!(
        "\n---\nkind: Gateway\nmetadata: {{name: {name}, namespace: shop, created: {created}}}\nspec: {{selector: {{istio: ingressgateway}}, servers: [{servers}]}}"
    )
}

fn gateway(yaml: &str) -> Vec<String> {
    gateway::listeners(&context("{}", yaml), &router()).iter().flat_map(lines).collect()
}

#[test]
fn servers_of_a_port_are_merged_and_conflicts_left_out() {
    let http = |host: &str| format!("{{port: {{number: 80, name: http, protocol: HTTP}}, hosts: [{host}]}}");
    let tls = |host: &str, name: &str| {
        format!(
            "{{port: {{number: 443, name: {name}, protocol: HTTPS}}, hosts: [{host}], tls: {{mode: SIMPLE, credentialName: {name}}}}}"
        )
    };
    let yaml = gateway_object("first", 1, &format!("{}, {}", http("a.com"), tls("a.com", "one")))
        + &gateway_object(
            "second",
            2,
            &format!("{}, {}, {}", http("b.com"), tls("b.com", "two"), tls("a.com", "late")),
        )
        + &gateway_object("third", 3, "{port: {number: 80, name: tcp, protocol: TCP}, hosts: ['*']}");
    assert_eq!(
        gateway(&yaml),
        [
            "0.0.0.0_80",
            "  http http.80",
            "0.0.0.0_443 tls_inspector",
            "  server_names=a.com tls=kubernetes://one http https.443.one.first.shop",
            "  server_names=b.com tls=kubernetes://two http https.443.two.second.shop",
        ]
    );
}

#[test]
fn a_gateway_listens_on_the_target_port_of_its_service() {
    let yaml = gateway_object(
        "edge",
        1,
        "{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}, {port: {number: 81, name: own, protocol: HTTP}, bind: 10.9.9.9, hosts: ['*']}",
    ) + "\n---\nkind: Service\nmetadata: {name: edge, namespace: istio-system}\nspec: {selector: {istio: ingressgateway}, ports: [{name: http, port: 80, targetPort: 8080}]}";
    assert_eq!(gateway(&yaml), ["0.0.0.0_8080", "  http http.8080", "10.9.9.9_81", "  http http.81.10.9.9.9"]);
}

#[test]
fn tls_of_a_server_is_ended_as_it_says() {
    let server = |tls: &str| {
        let yaml = gateway_object(
            "edge",
            1,
            &format!("{{port: {{number: 443, name: https, protocol: HTTPS}}, hosts: [a.com], tls: {{{tls}}}}}"),
        );
        let found = gateway::listeners(&context("{}", &yaml), &router());
        let json = yaml::to_json(&found[0]).unwrap();
        json["filter_chains"][0]["transport_socket"]["typed_config"].clone()
    };
    let validation =
        |found: &Value| found["common_tls_context"]["validation_context_sds_secret_config"]["name"].clone();
    let certificates = |found: &Value| {
        let list = found["common_tls_context"]["tls_certificate_sds_secret_configs"].as_array().unwrap().iter();
        list.map(|one| one["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    for (tls, names, authority, required) in [
        ("mode: SIMPLE, credentialName: c", &["kubernetes://c"][..], Value::Null, false),
        (
            "mode: SIMPLE, credentialNames: [rsa, ecdsa]",
            &["kubernetes://rsa", "kubernetes://ecdsa"],
            Value::Null,
            false,
        ),
        ("mode: MUTUAL, credentialName: c", &["kubernetes://c"], "kubernetes://c-cacert".into(), true),
        (
            "mode: MUTUAL, credentialName: c, caCertCredentialName: ca",
            &["kubernetes://c"],
            "kubernetes://ca-cacert".into(),
            true,
        ),
        ("mode: OPTIONAL_MUTUAL, credentialName: c", &["kubernetes://c"], "kubernetes://c-cacert".into(), false),
        ("mode: ISTIO_MUTUAL", &["default"], "ROOTCA".into(), true),
        (
            "mode: SIMPLE, serverCertificate: /c.pem, privateKey: /k.pem",
            &["file-cert:/c.pem~/k.pem"],
            Value::Null,
            false,
        ),
        (
            "mode: MUTUAL, serverCertificate: /c.pem, privateKey: /k.pem, caCertificates: /ca.pem",
            &["file-cert:/c.pem~/k.pem"],
            "file-root:/ca.pem".into(),
            true,
        ),
    ] {
        let found = server(tls);
        assert_eq!(certificates(&found), names, "{tls}");
        assert_eq!(validation(&found), authority, "{tls}");
        assert_eq!(found["require_client_certificate"], required, "{tls}");
        assert_eq!(found["common_tls_context"]["alpn_protocols"], serde_json::json!(["h2", "http/1.1"]), "{tls}");
    }
    let found = server(
        "mode: MUTUAL, credentialName: c, subjectAltNames: [spiffe://a/b], minProtocolVersion: TLSV1_3, cipherSuites: [ECDHE-RSA-AES128-GCM-SHA256]",
    );
    let common = &found["common_tls_context"];
    assert_eq!(common["tls_params"]["tls_minimum_protocol_version"], "TLSv1_3");
    assert_eq!(common["tls_params"]["cipher_suites"], serde_json::json!(["ECDHE-RSA-AES128-GCM-SHA256"]));
    let combined = &common["combined_validation_context"];
    assert_eq!(combined["validation_context_sds_secret_config"]["name"], "kubernetes://c-cacert");
    let names = combined["default_validation_context"]["match_typed_subject_alt_names"].as_array().unwrap();
    assert_eq!(names[0], serde_json::json!({"san_type": "URI", "matcher": {"exact": "spiffe://a/b"}}));
}

#[test]
fn tls_is_passed_through_by_server_name() {
    let base = gateway_object(
        "edge",
        1,
        "{port: {number: 443, name: tls, protocol: TLS}, hosts: ['*.example.com'], tls: {mode: PASSTHROUGH}}",
    );
    let rule = |name: &str, hosts: &str| {
        virtual_service(
            name,
            &format!(
                "hosts: [{hosts}], gateways: [edge], tls: [{{match: [{{port: 443, sniHosts: [{hosts}]}}], route: [{{destination: {{host: {name}, port: {{number: 8443}}}}}}]}}]"
            ),
        )
    };
    assert_eq!(
        gateway(&(base.clone() + &rule("a", "a.example.com") + &rule("b", "b.example.com") + &rule("c", "c.else.com"))),
        [
            "0.0.0.0_443 tls_inspector",
            "  server_names=a.example.com tcp outbound|8443||a.shop.svc.cluster.local",
            "  server_names=b.example.com tcp outbound|8443||b.shop.svc.cluster.local",
        ]
    );
    // Without a route there is nothing to pass on to, and no listener.
    assert!(gateway(&base).is_empty());
}

#[test]
fn tcp_servers_send_to_the_first_route_with_tls_ended_or_not() {
    let yaml = gateway_object(
        "edge",
        1,
        "{port: {number: 3306, name: db, protocol: TCP}, hosts: ['*']}, {port: {number: 3307, name: dbs, protocol: TLS}, hosts: [db.example.com], tls: {mode: SIMPLE, credentialName: db}}",
    ) + &virtual_service(
        "db",
        "hosts: ['*'], gateways: [edge], tcp: [{match: [{port: 3306}], route: [{destination: {host: db, port: {number: 1}}}]}, {match: [{port: 3307}], route: [{destination: {host: db, port: {number: 2}}, weight: 1}, {destination: {host: db2, port: {number: 2}}, weight: 3}]}]",
    );
    assert_eq!(
        gateway(&yaml),
        [
            "0.0.0.0_3306",
            "  tcp outbound|1||db.shop.svc.cluster.local",
            "0.0.0.0_3307 tls_inspector",
            "  server_names=db.example.com tls=kubernetes://db tcp outbound|2||db.shop.svc.cluster.local=1 outbound|2||db2.shop.svc.cluster.local=3",
        ]
    );
}

#[test]
fn mesh_tls_is_passed_on_by_the_name_of_its_cluster() {
    let yaml = gateway_object(
        "east",
        1,
        "{port: {number: 15443, name: tls, protocol: TLS}, hosts: ['*.shop.svc.cluster.local'], tls: {mode: AUTO_PASSTHROUGH}}",
    ) + &service("reviews", "10.0.0.1", "{name: http, port: 9080}")
        + "\n---\nkind: DestinationRule\nmetadata: {name: reviews, namespace: shop}\nspec: {host: reviews, subsets: [{name: v1, labels: {version: v1}}]}";
    let mesh = "application_protocols=istio-peer-exchange,istio,istio-http/1.0,istio-http/1.1,istio-h2";
    let name = |subset: &str| format!("outbound_.9080_.{subset}_.reviews.shop.svc.cluster.local");
    assert_eq!(
        gateway(&yaml),
        [
            "0.0.0.0_15443 tls_inspector".to_owned(),
            format!("  server_names={} {mesh} tcp {}", name(""), name("")),
            format!("  server_names={} {mesh} tcp {}", name("v1"), name("v1")),
        ]
    );
}

#[test]
fn a_load_balancers_proxy_header_is_read_where_it_is_expected() {
    let yaml = gateway_object("edge", 1, "{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}");
    let found = gateway::listeners(&context("defaultConfig: {gatewayTopology: {proxyProtocol: {}}}", &yaml), &router());
    assert_eq!(lines(&found[0]), ["0.0.0.0_80 proxy_protocol", "  http http.80"]);
}

#[test]
fn chains_carry_policies_metrics_and_logs() {
    let yaml = gateway_object("edge", 1, "{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}")
        + &service("reviews", "10.0.0.1", "{name: http, port: 9080}")
        + "\n---\nkind: AuthorizationPolicy\nmetadata: {name: deny, namespace: istio-system}\nspec: {action: DENY, rules: [{to: [{operation: {paths: [/x]}}]}]}";
    let context = context("accessLogFile: /dev/stdout", &yaml);
    for (node, expected) in [
        (router(), "envoy.filters.http.rbac ferromesh.stats envoy.filters.http.router"),
        (node("shop", "client", "10.1.0.1"), "ferromesh.stats envoy.filters.http.router"),
        (Node { ferromesh: false, ..node("shop", "client", "10.1.0.1") }, "envoy.filters.http.router"),
    ] {
        let json = yaml::to_json(&listeners(&context, &node)[0]).unwrap();
        let manager = &json["filter_chains"][0]["filters"][0]["typed_config"];
        let names = manager["http_filters"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap());
        assert_eq!(names.collect::<Vec<_>>().join(" "), expected);
        assert_eq!(manager["access_log"][0]["typed_config"]["path"], "/dev/stdout");
    }
}

#[test]
fn tables_are_named_by_listeners() {
    let yaml = service("reviews", "10.0.0.1", "{name: http, port: 9080}")
        + &service("odd", "10.0.0.3", "{name: odd, port: 7000}");
    let context = context("{}", &yaml);
    let client = node("shop", "client", "10.1.0.1");
    let names = table_names(&listeners(&context, &client));
    assert_eq!(names, ["9080".into(), crate::model::Name::from("odd.shop.svc.cluster.local:7000")]);
    for name in names {
        assert!(crate::translate::route::table(&context, &client, &name).is_some(), "{name}");
    }
}

/// Captured connections come by each IP version that the workload has.
#[test]
fn captured_listeners_stand_on_the_ip_versions_of_the_node() {
    let context =
        context("{}", "kind: Service\nmetadata: {name: web, namespace: shop}\nspec: {ports: [{name: http, port: 80}]}");
    for (addresses, expected) in [
        (&["10.0.0.1"][..], "0.0.0.0"),
        (&["10.0.0.1", "fd00::1"], "0.0.0.0 ::"),
        (&["fd00::1", "10.0.0.1"], "0.0.0.0 ::"),
        (&["fd00::1"], "::"),
    ] {
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        let client = Node { addresses, ..node("shop", "client", "10.0.0.1") };
        let all = listeners(&context, &client);
        for name in ["0.0.0.0_80", "virtualOutbound", "virtualInbound"] {
            let json = yaml::to_json(all.iter().find(|one| one.name == name).unwrap()).unwrap();
            let more = json["additional_addresses"].as_array().into_iter().flatten().map(|one| &one["address"]);
            let found: Vec<&str> = std::iter::once(&json["address"])
                .chain(more)
                .map(|one| one["socket_address"]["address"].as_str().unwrap())
                .collect();
            assert_eq!(found.join(" "), expected, "{name}");
        }
    }
}

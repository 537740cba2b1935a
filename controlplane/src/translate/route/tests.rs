//! Tables: VirtualServices and services as YAML in, routes and virtual hosts out.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;

use mesh_proto::crd::MeshConfig;
use mesh_proto::yaml;
use serde_json::Value;

use super::*;
use crate::model::tests::{node, objects};
use crate::model::{Interception, Model};

const HOST: &str = "reviews.shop.svc.cluster.local";

/// Two services of one port, one of two ports, one of another namespace.
const SERVICES: &str = "
kind: Service
metadata: {name: reviews, namespace: shop}
spec: {clusterIP: 10.0.0.1, selector: {app: reviews}, ports: [{name: http, port: 9080}]}
---
kind: Service
metadata: {name: ratings, namespace: shop}
spec: {clusterIP: 10.0.0.2, selector: {app: ratings}, ports: [{name: http, port: 9080}]}
---
kind: Service
metadata: {name: multi, namespace: shop}
spec: {clusterIP: 10.0.0.3, selector: {app: multi}, ports: [{name: http, port: 9080}, {name: http-admin, port: 9081}]}
---
kind: Service
metadata: {name: ledger, namespace: bank}
spec: {clusterIP: 10.0.0.4, selector: {app: ledger}, ports: [{name: http, port: 80}]}
";

fn context_of(mesh: &str, yaml: &str) -> Arc<PushContext> {
    let mesh: MeshConfig = yaml_serde::from_str(mesh).unwrap();
    let mut model = Model::new(mesh);
    model.apply(objects(yaml));
    model.context()
}

fn context(yaml: &str) -> Arc<PushContext> {
    context_of("{}", &format!("{SERVICES}\n---{yaml}"))
}

fn virtual_service(name: &str, hosts: &str, spec: &str) -> String {
    format!(
        "\n---\nkind: VirtualService\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{hosts: [{hosts}], {spec}}}"
    )
}

fn value(text: &str) -> Value {
    yaml_serde::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// A stock Envoy: it is sent everything, ours what it understands.
fn envoy() -> Node {
    Node { ferromesh: false, ..node("shop", "client", "10.1.0.1") }
}

/// The routes of `reviews:9080` under these rules, without what every route has.
fn routes(http: &str) -> Vec<Value> {
    let context = context(&virtual_service("reviews", "reviews", &format!("http: {http}")));
    let table = table(&context, &envoy(), "9080").unwrap();
    let host = table.virtual_hosts.iter().find(|host| host.name == format!("{HOST}:9080")).unwrap();
    let strip = |route: &route::Route| {
        let mut json = yaml::to_json(route).unwrap();
        json.as_object_mut().unwrap().retain(|key, _| key != "decorator" && key != "metadata");
        if let Some(action) = json.get_mut("route").and_then(Value::as_object_mut) {
            action.remove("max_grpc_timeout");
        }
        json
    };
    host.routes.iter().map(strip).collect()
}

/// The first route, and of its action only what differs from the default.
fn action(rule: &str) -> Value {
    let mut route = routes(&format!("[{rule}]")).remove(0);
    let defaults = routes("[{route: [{destination: {host: reviews}}]}]").remove(0);
    route.as_object_mut().unwrap().remove("match");
    if let Some(action) = route.get_mut("route").and_then(Value::as_object_mut) {
        for key in ["timeout", "retry_policy", "cluster"] {
            if action.get(key) == defaults["route"].get(key) {
                action.remove(key);
            }
        }
    }
    route
}

const TO: &str = "route: [{destination: {host: reviews}}]";

#[test]
fn matches_are_envoys() {
    for (condition, expected) in [
        ("uri: {exact: /a}", "{path: /a, case_sensitive: true}"),
        ("uri: {prefix: /a}", "{prefix: /a, case_sensitive: true}"),
        ("uri: {regex: '/a/[0-9]+'}", "{safe_regex: {regex: '/a/[0-9]+'}, case_sensitive: true}"),
        ("uri: {prefix: /a}, ignoreUriCase: true", "{prefix: /a, case_sensitive: false}"),
        (
            "method: {exact: GET}, authority: {prefix: a.}, scheme: {regex: 'http.?'}",
            "{prefix: /, case_sensitive: true, headers: [{name: ':method', string_match: {exact: GET}}, {name: ':authority', string_match: {prefix: a.}}, {name: ':scheme', string_match: {safe_regex: {regex: 'http.?'}}}]}",
        ),
        (
            "headers: {b: {}, a: {exact: x}, c: {regex: '*'}, uri: {exact: /ignored}}",
            "{prefix: /, case_sensitive: true, headers: [{name: a, string_match: {exact: x}}, {name: b, present_match: true}, {name: c, present_match: true}]}",
        ),
        (
            "withoutHeaders: {a: {exact: x}, b: {}}",
            "{prefix: /, case_sensitive: true, headers: [{name: a, string_match: {exact: x}, invert_match: true, treat_missing_header_as_empty: true}, {name: b, present_match: true, invert_match: true}]}",
        ),
        (
            "queryParams: {a: {exact: ''}, b: {prefix: x}, c: {}}",
            "{prefix: /, case_sensitive: true, query_parameters: [{name: a, string_match: {exact: ''}}, {name: b, string_match: {prefix: x}}, {name: c, present_match: true}]}",
        ),
        // Nothing here verifies tokens: no request lacks what it cannot have.
        (
            "uri: {exact: /a}, withoutHeaders: {'@request.auth.claims.x': {exact: y}}",
            "{path: /a, case_sensitive: true}",
        ),
    ] {
        let found = routes(&format!("[{{match: [{{{condition}}}], {TO}}}]"));
        assert_eq!(found[0]["match"], value(expected), "{condition}");
    }
}

#[test]
fn conditions_on_the_client_are_decided_beforehand() {
    for (condition, holds) in [
        ("port: 9080", true),
        ("port: 80", false),
        ("sourceLabels: {app: client}", true),
        ("sourceLabels: {app: client, version: v1}", false),
        ("sourceNamespace: shop", true),
        ("sourceNamespace: bank", false),
        ("gateways: [mesh]", true),
        ("gateways: [edge]", false),
        // As in Istio, gateways take the place of labels.
        ("gateways: [mesh], sourceLabels: {app: other}", true),
        // No request can have a claim; what cannot be compiled is left out rather than the table refused.
        ("headers: {'@request.auth.claims.x': {exact: y}}", false),
        ("uri: {regex: '('}", false),
    ] {
        let found = routes(&format!(
            "[{{name: tried, match: [{{method: {{exact: GET}}, {condition}}}], {TO}}}, {{name: rest, {TO}}}]"
        ));
        let names: Vec<&str> = found.iter().map(|route| route["name"].as_str().unwrap()).collect();
        let expected: &[&str] = if holds { &["tried", "rest"] } else { &["rest"] };
        assert_eq!(names, expected, "{condition}");
    }
}

#[test]
fn conditions_of_a_rule_are_alternatives_and_the_first_rule_wins() {
    let found = routes(&format!(
        "[{{name: a, match: [{{name: x, uri: {{exact: /1}}, statPrefix: one}}, {{uri: {{exact: /2}}}}], {TO}}}, {{name: all, match: [{{uri: {{prefix: /}}}}], {TO}}}, {{name: never, {TO}}}]"
    ));
    let seen: Vec<_> = found.iter().map(|route| (route["name"].as_str(), route["stat_prefix"].as_str())).collect();
    assert_eq!(seen, [(Some("a.x"), Some("one")), (Some("a"), None), (Some("all"), None)]);
}

#[test]
fn destinations_become_clusters() {
    for (route, expected) in [
        ("[{destination: {host: reviews}}]", "{cluster: 'outbound|9080||reviews.shop.svc.cluster.local'}"),
        (
            "[{destination: {host: reviews, subset: v1}, weight: 7}]",
            "{cluster: 'outbound|9080|v1|reviews.shop.svc.cluster.local'}",
        ),
        // The only port of a service is meant; of several, the one that was called.
        (
            "[{destination: {host: ledger.bank.svc.cluster.local}}]",
            "{cluster: 'outbound|80||ledger.bank.svc.cluster.local'}",
        ),
        ("[{destination: {host: multi}}]", "{cluster: 'outbound|9080||multi.shop.svc.cluster.local'}"),
        (
            "[{destination: {host: multi, port: {number: 9081}}}]",
            "{cluster: 'outbound|9081||multi.shop.svc.cluster.local'}",
        ),
        // What does not exist stays: the request fails, not the table.
        ("[{destination: {host: nothing}}]", "{cluster: 'outbound|9080||nothing.shop.svc.cluster.local'}"),
        (
            "[{destination: {host: reviews, subset: v1}, weight: 75}, {destination: {host: reviews, subset: v2}, weight: 25}, {destination: {host: ratings}}]",
            "{weighted_clusters: {clusters: [{name: 'outbound|9080|v1|reviews.shop.svc.cluster.local', weight: 75}, {name: 'outbound|9080|v2|reviews.shop.svc.cluster.local', weight: 25}]}}",
        ),
        ("[{destination: {host: reviews}}, {destination: {host: ratings}}]", "{cluster: BlackHoleCluster}"),
    ] {
        let found = &routes(&format!("[{{route: {route}}}]"))[0]["route"];
        for (key, expected) in value(expected).as_object().unwrap() {
            assert_eq!(&found[key], expected, "{route}");
        }
    }
}

#[test]
fn redirects_and_fixed_responses() {
    for (rule, expected) in [
        ("redirect: {uri: /new}", "{redirect: {path_redirect: /new}}"),
        ("redirect: {authority: a.b, redirectCode: 302}", "{redirect: {host_redirect: a.b, response_code: FOUND}}"),
        ("redirect: {scheme: https}", "{redirect: {scheme_redirect: https}}"),
        ("redirect: {scheme: https, port: 8443}", "{redirect: {scheme_redirect: https, port_redirect: 8443}}"),
        ("redirect: {scheme: https, port: 443}", "{redirect: {scheme_redirect: https}}"),
        ("redirect: {uri: /x, derivePort: FROM_REQUEST_PORT}", "{redirect: {path_redirect: /x, port_redirect: 9080}}"),
        ("redirect: {uri: /x, derivePort: FROM_PROTOCOL_DEFAULT}", "{redirect: {path_redirect: /x}}"),
        (
            "match: [{uri: {prefix: /a}}], redirect: {prefixRewrite: /b, redirectCode: 308}",
            "{redirect: {prefix_rewrite: /b, response_code: PERMANENT_REDIRECT}}",
        ),
        ("directResponse: {status: 503}", "{direct_response: {status: 503}}"),
        (
            "directResponse: {status: 200, body: {string: hi}}, headers: {response: {set: {x: y}}}",
            "{direct_response: {status: 200, body: {inline_string: hi}}, response_headers_to_add: [{header: {key: x, value: y}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}]}",
        ),
        (
            "directResponse: {status: 200, body: {bytes: aGk=}}",
            "{direct_response: {status: 200, body: {inline_bytes: aGk=}}}",
        ),
    ] {
        assert_eq!(action(&format!("{{{rule}}}")), value(expected), "{rule}");
    }
}

#[test]
fn rewrites_and_timeouts() {
    for (rule, expected) in [
        ("match: [{uri: {prefix: /a}}], rewrite: {uri: /b}", "{route: {prefix_rewrite: /b}}"),
        ("match: [{uri: {exact: /a}}], rewrite: {uri: /b}", "{route: {prefix_rewrite: /b}}"),
        ("rewrite: {authority: a.b}", "{route: {host_rewrite_literal: a.b}}"),
        (
            "rewrite: {uriRegexRewrite: {match: '/a/(.*)', rewrite: '/b/\\1'}}",
            "{route: {regex_rewrite: {pattern: {regex: '/a/(.*)'}, substitution: '/b/\\1'}}}",
        ),
        ("timeout: 1.5s", "{route: {timeout: 1.500s}}"),
        ("timeout: 0s", "{route: {}}"),
    ] {
        assert_eq!(action(&format!("{{{rule}, {TO}}}")), value(expected), "{rule}");
    }
    assert_eq!(routes(&format!("[{{{TO}}}]"))[0]["route"]["timeout"], "0s");
}

#[test]
fn retries_are_istios() {
    let retry = |rule: &str| routes(&format!("[{{{rule}{TO}}}]"))[0]["route"].get("retry_policy").cloned();
    let previous = "retry_host_predicate: [{name: envoy.retry_host_predicates.previous_hosts, typed_config: {'@type': type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate}}]";
    let default_on = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";
    let common = format!("host_selection_retry_max_attempts: 5, {previous}");
    for (rule, expected) in [
        ("", format!("{{retry_on: '{default_on}', num_retries: 2, {common}}}")),
        (
            "retries: {attempts: 3, perTryTimeout: 2s}, ",
            format!("{{retry_on: '{default_on}', num_retries: 3, per_try_timeout: 2s, {common}}}"),
        ),
        (
            "retries: {attempts: 1, retryOn: '503, reset,429'}, ",
            format!(
                "{{retry_on: 'reset,retriable-status-codes', retriable_status_codes: [503, 429], num_retries: 1, {common}}}"
            ),
        ),
        (
            "retries: {attempts: 1, retryOn: 'gateway-error,unavailable', backoff: 100ms}, ",
            format!(
                "{{retry_on: 'gateway-error,unavailable', num_retries: 1, retry_back_off: {{base_interval: 0.100s}}, {common}}}"
            ),
        ),
        (
            "retries: {attempts: 1, retryIgnorePreviousHosts: false}, ",
            format!("{{retry_on: '{default_on}', num_retries: 1, host_selection_retry_max_attempts: 5}}"),
        ),
        (
            "retries: {attempts: 1, retryRemoteLocalities: true}, ",
            format!(
                "{{retry_on: '{default_on}', num_retries: 1, {common}, retry_priority: {{name: envoy.retry_priorities.previous_priorities, typed_config: {{'@type': type.googleapis.com/envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig, update_frequency: 2}}}}}}"
            ),
        ),
    ] {
        let mut found = retry(rule).unwrap();
        if let Some(attempts) = found.get("host_selection_retry_max_attempts").and_then(Value::as_str) {
            let attempts: i64 = attempts.parse().unwrap();
            found["host_selection_retry_max_attempts"] = attempts.into();
        }
        assert_eq!(found, value(&expected), "{rule}");
    }
    assert_eq!(retry("retries: {attempts: 0}, "), None);
}

#[test]
fn the_meshs_retry_policy_is_the_default() {
    let mesh = "defaultHttpRetryPolicy: {attempts: 5, retryOn: reset}";
    let context = context_of(mesh, SERVICES);
    let table = table(&context, &envoy(), "9080").unwrap();
    let json = yaml::to_json(&table.virtual_hosts[0].routes[0]).unwrap();
    assert_eq!(json["route"]["retry_policy"]["num_retries"], 5);
    assert_eq!(json["route"]["retry_policy"]["retry_on"], "reset");
}

#[test]
fn headers_are_set_added_and_removed() {
    let set = "append_action: OVERWRITE_IF_EXISTS_OR_ADD";
    for (rule, expected) in [
        (
            format!("headers: {{request: {{set: {{b: '2', a: '1'}}, add: {{c: '3'}}, remove: [d, ':path']}}, response: {{remove: [e]}}}}, {TO}"),
            format!("{{request_headers_to_add: [{{header: {{key: a, value: '1'}}, {set}}}, {{header: {{key: b, value: '2'}}, {set}}}, {{header: {{key: c, value: '3'}}}}], request_headers_to_remove: [d], response_headers_to_remove: [e], route: {{}}}}"),
        ),
        (
            format!("headers: {{request: {{set: {{':authority': a.b}}, add: {{host: c.d, ':path': /}}}}}}, {TO}"),
            "{route: {host_rewrite_literal: a.b}}".to_owned(),
        ),
        (
            "headers: {request: {set: {x: route}}}, route: [{destination: {host: reviews}, headers: {request: {set: {y: own, Host: e.f}}}}]".to_owned(),
            format!("{{request_headers_to_add: [{{header: {{key: x, value: route}}, {set}}}, {{header: {{key: y, value: own}}, {set}}}], route: {{host_rewrite_literal: e.f}}}}"),
        ),
        (
            "rewrite: {authority: first}, headers: {request: {set: {host: second}}}, route: [{destination: {host: reviews}, headers: {request: {set: {host: third}}}}]".to_owned(),
            "{route: {host_rewrite_literal: first}}".to_owned(),
        ),
        (
            "route: [{destination: {host: reviews}, weight: 1, headers: {request: {set: {x: y, host: a.b}}, response: {add: {z: w}}}}, {destination: {host: ratings}, weight: 1}]".to_owned(),
            format!("{{route: {{weighted_clusters: {{clusters: [{{name: 'outbound|9080||{HOST}', weight: 1, request_headers_to_add: [{{header: {{key: x, value: y}}, {set}}}], response_headers_to_add: [{{header: {{key: z, value: w}}}}], host_rewrite_literal: a.b}}, {{name: 'outbound|9080||ratings.shop.svc.cluster.local', weight: 1}}]}}}}}}"),
        ),
    ] {
        assert_eq!(action(&format!("{{{rule}}}")), value(&expected), "{rule}");
    }
}

#[test]
fn what_proxies_would_refuse_is_left_out() {
    for (rule, expected) in [
        (
            format!(
                "headers: {{request: {{set: {{'bad name': x, a: '100%', b: '%NOTHING%', c: '%REQ(x)%', d: '50%%'}}}}}}, {TO}"
            ),
            "{request_headers_to_add: [{header: {key: c, value: '%REQ(x)%'}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}, {header: {key: d, value: '50%%'}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}], route: {}}",
        ),
        (format!("rewrite: {{authority: \"a\\nb\"}}, {TO}"), "{route: {}}"),
    ] {
        assert_eq!(action(&format!("{{{rule}}}")), value(expected), "{rule}");
    }
    for rule in [
        "redirect: {redirectCode: 200}".to_owned(),
        "directResponse: {status: 20}".to_owned(),
        format!("directResponse: {{status: 200, body: {{string: '{}'}}}}", "x".repeat(1024 * 1024 + 1)),
        format!("match: [{{uri: {{regex: '['}}}}], {TO}"),
        format!("match: [{{headers: {{'bad name': {{exact: x}}}}}}], {TO}"),
        format!("rewrite: {{uriRegexRewrite: {{match: '(', rewrite: x}}}}, {TO}"),
        "route: []".to_owned(),
    ] {
        let found = routes(&format!("[{{name: bad, {rule}}}, {{name: good, {TO}}}]"));
        assert_eq!(found.len(), 1, "{rule}");
        assert_eq!(found[0]["name"], "good", "{rule}");
    }
    let found = routes(&format!("[{{retries: {{attempts: 1, retryOn: '5xx,whatever,42'}}, {TO}}}]"));
    assert_eq!(found[0]["route"]["retry_policy"]["retry_on"], "5xx");
}

#[test]
fn affinity_hashes_what_the_rule_of_the_destination_says() {
    let rule = "\n---\nkind: DestinationRule\nmetadata: {name: reviews, namespace: shop}\nspec: {host: reviews, trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: x-user}}}, subsets: [{name: v1, trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true}}}}]}";
    for (destination, expected) in [
        ("{host: reviews}", "[{header: {header_name: x-user}}]"),
        ("{host: reviews, subset: v1}", "[{connection_properties: {source_ip: true}}]"),
    ] {
        let more =
            virtual_service("reviews", "reviews", &format!("http: [{{route: [{{destination: {destination}}}]}}]"));
        let context = context(&(more + rule));
        let table = table(&context, &envoy(), "9080").unwrap();
        let host = table.virtual_hosts.iter().find(|host| host.name.starts_with("reviews")).unwrap();
        let json = yaml::to_json(&host.routes[0]).unwrap();
        assert_eq!(json["route"]["hash_policy"], value(expected), "{destination}");
        // A retry must not leave the endpoint that the hash chose.
        assert_eq!(json["route"]["retry_policy"].get("retry_host_predicate"), None);
    }
}

/// Virtual hosts as lines: `NAME = DOMAINS: ROUTES`.
fn lines(table: &route::RouteConfiguration) -> Vec<String> {
    use route::route::Action;
    use route::route_action::ClusterSpecifier;
    let target = |route: &route::Route| match &route.action {
        Some(Action::Route(action)) => match &action.cluster_specifier {
            Some(ClusterSpecifier::Cluster(name)) => name.clone(),
            _ => "several".to_owned(),
        },
        Some(Action::DirectResponse(direct)) => direct.status.to_string(),
        Some(Action::Redirect(_)) => "redirect".to_owned(),
        _ => "?".to_owned(),
    };
    let line = |host: &route::VirtualHost| {
        let routes: Vec<String> = host.routes.iter().map(|route| format!("{}→{}", route.name, target(route))).collect();
        let tls = if host.require_tls == 0 { "" } else { " tls" };
        format!("{} = {}: {}{tls}", host.name, host.domains.join(" "), routes.join(", "))
    };
    table.virtual_hosts.iter().map(line).collect()
}

const ALLOW_ANY: &str = "allow_any = *: allow_any→PassthroughCluster";

fn own_domains(name: &str, address: &str) -> String {
    format!("{name}.shop.svc.cluster.local {name} {name}.shop {name}.shop.svc {address}")
}

#[test]
fn services_without_rules_are_virtual_hosts() {
    let context = context("");
    let found = table(&context, &node("shop", "client", "10.1.0.1"), "9080").unwrap();
    assert!(found.ignore_port_in_host_matching);
    let line = |name: &str, address: &str| {
        let host = format!("{name}.shop.svc.cluster.local");
        format!("{host}:9080 = {}: default→outbound|9080||{host}", own_domains(name, address))
    };
    assert_eq!(
        lines(&found),
        [line("multi", "10.0.0.3"), line("ratings", "10.0.0.2"), line("reviews", "10.0.0.1"), ALLOW_ANY.to_owned()]
    );
    // From another namespace the bare name means something else.
    let found = table(&context, &node("bank", "client", "10.1.0.1"), "9081").unwrap();
    assert_eq!(
        lines(&found)[0],
        "multi.shop.svc.cluster.local:9081 = multi.shop.svc.cluster.local multi.shop multi.shop.svc 10.0.0.3: default→outbound|9081||multi.shop.svc.cluster.local"
    );
    // gRPC's client does not ignore ports.
    let grpc = Node { grpc: true, ..node("bank", "client", "10.1.0.1") };
    let found = table(&context, &grpc, "80").unwrap();
    assert!(!found.ignore_port_in_host_matching);
    assert!(lines(&found)[0].contains(" ledger ledger:80 "), "{:?}", lines(&found));
    assert_eq!(table(&context, &grpc, "nonsense"), None);
}

#[test]
fn rules_of_the_most_specific_host_win_then_the_oldest() {
    let rule = |name: &str, hosts: &str, created: u32| {
        format!(
            "\n---\nkind: VirtualService\nmetadata: {{name: {name}, namespace: shop, created: {created}}}\nspec: {{hosts: [{hosts}], http: [{{name: {name}, {TO}}}]}}"
        )
    };
    let mine = |found: &route::RouteConfiguration| {
        let found = lines(found);
        let of = |host: &str| {
            let line = found.iter().find(|line| line.starts_with(host)).unwrap();
            line.rsplit_once(": ").unwrap().1.split('→').next().unwrap().to_owned()
        };
        [of("reviews"), of("ratings"), of("multi")]
    };
    for (rules, expected) in [
        (rule("a", "reviews", 2) + &rule("b", "reviews", 1), ["b", "default", "default"]),
        (rule("w", "'*.shop.svc.cluster.local'", 1) + &rule("a", "reviews", 2), ["a", "w", "w"]),
        (rule("w", "'*.svc.cluster.local'", 1) + &rule("x", "'*.shop.svc.cluster.local'", 2), ["x", "x", "x"]),
        (rule("several", "'reviews, multi'", 1).replace('\'', ""), ["several", "default", "several"]),
    ] {
        let table = table(&context(&rules), &node("shop", "client", "10.1.0.1"), "9080").unwrap();
        assert_eq!(mine(&table), expected, "{rules}");
    }
}

#[test]
fn hosts_that_are_no_services_are_served_beside_services_and_on_port_80() {
    let more = virtual_service("both", "reviews, books.example.com", &format!("http: [{{name: both, {TO}}}]"))
        + &virtual_service("outside", "outside.example.com", &format!("http: [{{name: outside, {TO}}}]"));
    let context = context(&more);
    let client = node("shop", "client", "10.1.0.1");
    let names = |port: &str| {
        let table = table(&context, &client, port).unwrap();
        table
            .virtual_hosts
            .into_iter()
            .map(|host| host.name)
            .filter(|name| name.contains("example"))
            .collect::<Vec<_>>()
    };
    assert_eq!(names("9080"), ["books.example.com:9080"]);
    assert_eq!(names("80"), ["books.example.com:80", "outside.example.com:80"]);
    assert_eq!(names("9081"), Vec::<String>::new());
}

#[test]
fn no_domain_stands_twice() {
    let more =
        virtual_service("a", "reviews, reviews.shop.svc.cluster.local, '*'", &format!("http: [{{name: a, {TO}}}]"))
            + &virtual_service("b", "reviews, Reviews.Shop.svc.cluster.local", &format!("http: [{{name: b, {TO}}}]"));
    for port in ["80", "9080", HTTP_PROXY] {
        let table = table(&context(&more), &node("shop", "client", "10.1.0.1"), port).unwrap();
        let mut domains: Vec<String> =
            table.virtual_hosts.iter().flat_map(|host| &host.domains).map(|domain| domain.to_lowercase()).collect();
        let all = domains.len();
        domains.sort();
        domains.dedup();
        assert_eq!(domains.len(), all, "{port}: {:?}", lines(&table));
    }
}

#[test]
fn one_port_serves_every_service_by_host() {
    let context = context_of("proxyHttpPort: 15080", SERVICES);
    let client = Node { interception: Interception::None, ..node("shop", "client", "10.1.0.1") };
    let table = table(&context, &client, HTTP_PROXY).unwrap();
    assert!(!table.ignore_port_in_host_matching);
    let found = lines(&table);
    let start = |text: &str| assert!(found.iter().any(|line| line.starts_with(text)), "{text} in {found:?}");
    start("reviews.shop.svc.cluster.local:9080 = reviews.shop.svc.cluster.local:9080 reviews:9080 reviews.shop:9080 ");
    start("multi.shop.svc.cluster.local:9081 = multi.shop.svc.cluster.local:9081 multi:9081 ");
    start("ledger.bank.svc.cluster.local:80 = ledger.bank.svc.cluster.local ledger.bank.svc.cluster.local:80 ");
    // There is nowhere to pass an unknown host on to.
    assert_eq!(found.last().unwrap(), "block_all = *: block_all→502");
}

#[test]
fn a_rule_holds_on_every_port_of_the_http_proxy() {
    let rule = virtual_service(
        "multi",
        "multi",
        "http: [{name: admin, match: [{port: 9081, uri: {exact: /admin}}], route: [{destination: {host: multi}}]}, {name: rest, route: [{destination: {host: multi}}]}]",
    );
    let context = context_of("proxyHttpPort: 15080", &format!("{SERVICES}\n---{rule}"));
    let found = lines(&table(&context, &node("shop", "client", "10.1.0.1"), HTTP_PROXY).unwrap());
    let routes = |name: &str| {
        let line = found.iter().find(|line| line.starts_with(name)).unwrap();
        line.rsplit_once(": ").unwrap().1.to_owned()
    };
    let host = "multi.shop.svc.cluster.local";
    assert_eq!(routes(&format!("{host}:9080")), format!("rest→outbound|9080||{host}"));
    assert_eq!(routes(&format!("{host}:9081")), format!("admin→outbound|9081||{host}, rest→outbound|9081||{host}"));
}

#[test]
fn a_sniffed_port_has_a_table_of_its_own() {
    let more = "\n---\nkind: Service\nmetadata: {name: odd, namespace: shop}\nspec: {clusterIP: 10.0.0.9, selector: {app: odd}, ports: [{name: odd, port: 7000}]}";
    let found = table(&context(more), &node("shop", "client", "10.1.0.1"), "odd.shop.svc.cluster.local:7000").unwrap();
    let host = "odd.shop.svc.cluster.local";
    assert_eq!(lines(&found), [format!("{host}:7000 = *: default→outbound|7000||{host}")]);
}

#[test]
fn unknown_hosts_are_passed_on_or_refused() {
    let sidecar = |spec: &str| format!("\n---\nkind: Sidecar\nmetadata: {{name: s, namespace: shop}}\nspec: {spec}");
    for (mesh, more, expected) in [
        ("{}", String::new(), ALLOW_ANY),
        ("outboundTrafficPolicy: {mode: REGISTRY_ONLY}", String::new(), "block_all = *: block_all→502"),
        ("{}", sidecar("{outboundTrafficPolicy: {mode: REGISTRY_ONLY}}"), "block_all = *: block_all→502"),
        (
            "outboundTrafficPolicy: {mode: REGISTRY_ONLY}",
            sidecar("{outboundTrafficPolicy: {mode: ALLOW_ANY}}"),
            ALLOW_ANY,
        ),
        (
            "{}",
            sidecar("{outboundTrafficPolicy: {mode: ALLOW_ANY, egressProxy: {host: reviews, port: {number: 9080}}}}"),
            "allow_any = *: allow_any→outbound|9080||reviews.shop.svc.cluster.local",
        ),
    ] {
        let context = context_of(mesh, &format!("{SERVICES}\n---{more}"));
        let found = table(&context, &node("shop", "client", "10.1.0.1"), "9080").unwrap();
        assert_eq!(lines(&found).last().unwrap(), expected, "{mesh} {more}");
    }
}

#[test]
fn a_sidecar_narrows_what_a_port_serves() {
    let sidecar = "\n---\nkind: Sidecar\nmetadata: {name: s, namespace: shop}\nspec: {egress: [{port: {number: 9080, protocol: HTTP, name: http}, hosts: ['./reviews.shop.svc.cluster.local']}, {hosts: ['bank/*']}]}";
    let context = context(sidecar);
    let client = node("shop", "client", "10.1.0.1");
    let names = |port: &str| {
        let table = table(&context, &client, port).unwrap();
        table.virtual_hosts.into_iter().map(|host| host.name).collect::<Vec<_>>()
    };
    assert_eq!(names("9080"), ["reviews.shop.svc.cluster.local:9080", "allow_any"]);
    assert_eq!(names("80"), ["ledger.bank.svc.cluster.local:80", "allow_any"]);
    assert_eq!(names("9081"), ["allow_any"]);
}

const GATEWAY: &str = "
kind: Gateway
metadata: {name: edge, namespace: shop}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: ['books.example.com', 'bank/money.example.com', './*.shop.example.com']}
  - {port: {number: 443, name: https, protocol: HTTPS}, hosts: ['*'], tls: {mode: SIMPLE, credentialName: books}}
  - {port: {number: 81, name: redirect, protocol: HTTP}, hosts: ['books.example.com', other.example.com], tls: {httpsRedirect: true}}
";

fn router() -> Node {
    Node {
        kind: NodeKind::Router,
        labels: [("istio".to_owned(), "ingressgateway".to_owned())].into(),
        ..node("istio-system", "edge", "10.1.0.9")
    }
}

fn gateway_lines(more: &str, table_name: &str) -> Vec<String> {
    let context = context(&format!("{GATEWAY}\n---{more}"));
    lines(&table(&context, &router(), table_name).unwrap())
}

fn bound(name: &str, hosts: &str, http: &str) -> String {
    virtual_service(name, hosts, &format!("gateways: [edge], http: {http}"))
}

#[test]
fn a_gateway_serves_what_server_and_rule_share() {
    let to = format!("outbound|9080||{HOST}");
    for (hosts, expected) in [
        ("books.example.com", vec![format!("books.example.com:80 = books.example.com: r→{to}")]),
        ("'*.example.com'", vec![format!("*.shop.example.com:80 = *.shop.example.com books.example.com: r→{to}")]),
        ("a.shop.example.com", vec![format!("a.shop.example.com:80 = a.shop.example.com: r→{to}")]),
        // The server keeps this host for another namespace.
        ("money.example.com", vec!["blackhole:80 = *: ".to_owned()]),
        ("else.example.com", vec!["blackhole:80 = *: ".to_owned()]),
    ] {
        let found = gateway_lines(&bound("r", hosts, &format!("[{{name: r, {TO}}}]")), "http.80");
        assert_eq!(found, expected, "{hosts}");
    }
    let found = gateway_lines(&bound("r", "any.where", &format!("[{{name: r, {TO}}}]")), "https.443.https.edge.shop");
    assert_eq!(found, [format!("any.where:443 = any.where: r→{to}")]);
    // Rules for sidecars do not hold at gateways, and the other way round.
    let mesh = virtual_service("r", "books.example.com", &format!("http: [{{name: r, {TO}}}]"));
    assert_eq!(gateway_lines(&mesh, "http.80"), ["blackhole:80 = *: "]);
    // Deleted ports get an empty table while their listener drains.
    assert!(gateway_lines("", "http.8080").is_empty());
}

#[test]
fn rules_of_one_host_are_joined_at_gateways_and_catch_alls_come_last() {
    let rule = |name: &str, created: u32, http: &str| {
        format!(
            "\n---\nkind: VirtualService\nmetadata: {{name: {name}, namespace: shop, created: {created}}}\nspec: {{hosts: [books.example.com], gateways: [edge], http: {http}}}"
        )
    };
    let more = rule("new", 2, &format!("[{{name: new, match: [{{uri: {{prefix: /new}}}}], {TO}}}]"))
        + &rule("old", 1, &format!("[{{name: old, match: [{{uri: {{prefix: /old}}}}], {TO}}}, {{name: all, {TO}}}]"));
    let found = gateway_lines(&more, "http.80");
    let to = format!("outbound|9080||{HOST}");
    assert_eq!(found, [format!("books.example.com:80 = books.example.com: old→{to}, new→{to}, all→{to}")]);
}

#[test]
fn a_gateway_redirects_to_https() {
    let found = gateway_lines(&bound("r", "books.example.com", &format!("[{{name: r, {TO}}}]")), "http.81");
    assert_eq!(
        found,
        [
            format!("books.example.com:81 = books.example.com: r→outbound|9080||{HOST} tls"),
            "other.example.com:81 = other.example.com:  tls".to_owned(),
        ]
    );
}

#[test]
fn conditions_of_a_rule_are_judged_at_the_gateway() {
    for (condition, holds) in
        [("gateways: [edge]", true), ("gateways: [mesh]", false), ("port: 80", true), ("port: 443", false)]
    {
        let http = format!("[{{name: r, match: [{{{condition}}}], {TO}}}]");
        let found = gateway_lines(
            &virtual_service("r", "books.example.com", &format!("gateways: [mesh, edge], http: {http}")),
            "http.80",
        );
        assert_eq!(found[0].contains("r→"), holds, "{condition}: {found:?}");
    }
}

//! Rules in, RBAC out.
#![allow(clippy::unwrap_used)]

use mesh_proto::crd::authorization_policy::Rule;
use mesh_proto::yaml;

use super::rule::{Judge, Void};

fn judge(rule: &str, tcp: bool, allow: bool) -> Result<serde_json::Value, Void> {
    let rule: Rule = yaml_serde::from_str(rule).unwrap();
    let judge = Judge { domains: &["cluster.local", "old"], tcp, allow };
    judge.rule(&rule, "shop").map(|policy| yaml::to_json(&policy).unwrap())
}

fn matcher(kind: &str, value: &str) -> String {
    match kind {
        "regex" => format!("{{\"authenticated\":{{\"principal_name\":{{\"safe_regex\":{{\"regex\":\"{value}\"}}}}}}}}"),
        kind => format!("{{\"authenticated\":{{\"principal_name\":{{\"{kind}\":\"{value}\"}}}}}}"),
    }
}

#[test]
fn sources_become_principals() {
    let range = |kind: &str| format!("{{\"{kind}\":{{\"address_prefix\":\"10.0.0.0\",\"prefix_len\":8}}}}");
    for (source, expected) in [
        ("principals: [a.example/ns/x/sa/y]", vec![matcher("exact", "spiffe://a.example/ns/x/sa/y")]),
        (
            "principals: [cluster.local/ns/x/sa/y]",
            vec![matcher("exact", "spiffe://cluster.local/ns/x/sa/y"), matcher("exact", "spiffe://old/ns/x/sa/y")],
        ),
        ("principals: ['*']", vec![matcher("regex", ".+")]),
        ("principals: ['*/sa/y']", vec![matcher("suffix", "/sa/y")]),
        ("principals: ['td/ns/x/*']", vec![matcher("prefix", "spiffe://td/ns/x/")]),
        ("namespaces: [bank]", vec![matcher("regex", ".*/ns/bank/.*")]),
        ("namespaces: ['b*']", vec![matcher("regex", ".*/ns/b.*/.*")]),
        ("serviceAccounts: [pay]", vec![matcher("regex", "spiffe://.+/ns/shop/sa/pay")]),
        ("serviceAccounts: [bank/pay]", vec![matcher("regex", "spiffe://.+/ns/bank/sa/pay")]),
        ("trustDomains: [td]", vec![matcher("prefix", "spiffe://td/")]),
        ("ipBlocks: [10.0.0.0/8]", vec![range("direct_remote_ip")]),
        ("remoteIpBlocks: [10.0.0.0/8]", vec![range("remote_ip")]),
    ] {
        let found = judge(&format!("{{from: [{{source: {{{source}}}}}]}}"), false, true).unwrap();
        let ids = format!("{{\"and_ids\":{{\"ids\":[{{\"or_ids\":{{\"ids\":[{}]}}}}]}}}}", expected.join(","));
        assert_eq!(found["principals"][0], serde_json::from_str::<serde_json::Value>(&ids).unwrap(), "{source}");
    }
}

#[test]
fn operations_become_permissions() {
    for (operation, expected) in [
        ("methods: [GET]", r#"{"header":{"name":":method","string_match":{"exact":"GET"}}}"#),
        ("methods: ['*']", r#"{"header":{"name":":method","present_match":true}}"#),
        (
            "hosts: ['*.Example.com']",
            r#"{"header":{"name":":authority","string_match":{"suffix":".Example.com","ignore_case":true}}}"#,
        ),
        ("paths: ['/a/*']", r#"{"url_path":{"path":{"prefix":"/a/"}}}"#),
        ("paths: ['/a/{*}/b.c/{**}']", r#"{"url_path":{"path":{"safe_regex":{"regex":"/a/[^/]+/b\\.c/.*"}}}}"#),
        ("ports: ['80']", r#"{"destination_port":80}"#),
    ] {
        let found = judge(&format!("{{to: [{{operation: {{{operation}}}}}]}}"), false, true).unwrap();
        let rules = format!("{{\"and_rules\":{{\"rules\":[{{\"or_rules\":{{\"rules\":[{expected}]}}}}]}}}}");
        assert_eq!(found["permissions"][0], serde_json::from_str::<serde_json::Value>(&rules).unwrap(), "{operation}");
        assert_eq!(found["principals"][0], serde_json::json!({"and_ids": {"ids": [{"any": true}]}}));
    }
}

#[test]
fn negatives_and_conditions_are_anded() {
    let found = judge(
        "{from: [{source: {notNamespaces: [a]}}], to: [{operation: {notPorts: ['1']}}], when: [{key: 'request.headers[x]', values: ['a*']}, {key: destination.port, notValues: ['2']}]}",
        false,
        true,
    )
    .unwrap();
    let ids = found["principals"][0]["and_ids"]["ids"].as_array().unwrap();
    assert!(ids[0]["not_id"]["or_ids"].is_object() && ids[1]["or_ids"]["ids"][0]["header"].is_object());
    let rules = found["permissions"][0]["and_rules"]["rules"].as_array().unwrap();
    assert_eq!(rules[0]["not_rule"]["or_rules"]["rules"][0]["destination_port"], 1);
    assert_eq!(rules[1]["not_rule"]["or_rules"]["rules"][0]["destination_port"], 2);
}

#[test]
fn on_connections_http_fields_allow_nothing_and_narrow_no_denial() {
    let rule = "{from: [{source: {namespaces: [a]}}], to: [{operation: {methods: [GET], ports: ['80']}}]}";
    assert_eq!(judge(rule, true, true), Err(Void));
    let denied = judge(rule, true, false).unwrap();
    let rules = denied["permissions"][0]["and_rules"]["rules"].as_array().unwrap();
    assert_eq!(rules.len(), 1);
    assert_eq!(rules[0]["or_rules"]["rules"][0]["destination_port"], 80);
    let only_http = judge("{to: [{operation: {paths: [/x]}}]}", true, false).unwrap();
    assert_eq!(only_http["permissions"][0], serde_json::json!({"and_rules": {"rules": [{"any": true}]}}));
}

#[test]
fn tokens_are_never_there() {
    let positive = judge("{from: [{source: {requestPrincipals: ['*']}}]}", false, true).unwrap();
    assert!(positive["principals"][0]["and_ids"]["ids"][0]["or_ids"]["ids"][0]["not_id"]["any"].as_bool().unwrap());
    assert_eq!(judge("{when: [{key: something.else, values: [a]}]}", false, true), Err(Void));
    assert!(judge("{when: [{key: something.else, values: [a]}]}", false, false).is_ok());
}

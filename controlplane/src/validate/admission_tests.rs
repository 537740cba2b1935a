//! Reviews in JSON in, what the API server hears out.
#![allow(clippy::unwrap_used)]

use serde_json::json;

use super::*;

fn settings() -> Settings {
    Settings { revision: DEFAULT_REVISION.to_owned() }
}

fn question(operation: &str, object: Value) -> Value {
    let kind = object["kind"].as_str().unwrap_or("VirtualService");
    let group = object["apiVersion"].as_str().and_then(|version| version.split_once('/'));
    let (group, version) = group.unwrap_or(("", "v1"));
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "0c9a8d74",
            "kind": {"group": group, "version": version, "kind": kind},
            "resource": {"group": group, "version": version, "resource": "things"},
            "name": "a",
            "namespace": "shop",
            "operation": operation,
            "userInfo": {"username": "admin"},
            "object": object,
            "oldObject": null,
            "dryRun": false,
        },
    })
}

fn ask(question: &Value, settings: &Settings) -> Value {
    let answer: Value = serde_json::from_slice(&review(question.to_string().as_bytes(), settings).unwrap()).unwrap();
    assert_eq!((&answer["apiVersion"], &answer["kind"]), (&json!("admission.k8s.io/v1"), &json!("AdmissionReview")));
    assert_eq!(answer["response"]["uid"], "0c9a8d74");
    answer["response"].clone()
}

fn route(weight: i64, metadata: Value) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": metadata,
        "spec": {"hosts": ["a"], "http": [{"route": [{"destination": {"host": "a"}, "weight": weight}]}]},
    })
}

const WRONG: i64 = -1;

#[test]
fn an_object_is_judged_as_in_a_file() {
    let object = route(WRONG, json!({"name": "a", "namespace": "shop", "creationTimestamp": null}));
    let response = ask(&question("CREATE", object.clone()), &settings());
    let message = "VirtualService shop/a: http[0].route[0].weight: -1 is negative; give 0 or more";
    assert_eq!(
        response,
        json!({
            "uid": "0c9a8d74",
            "allowed": false,
            "status": {
                "status": "Failure",
                "code": 422,
                "reason": "Invalid",
                "message": message,
                "details": {
                    "group": "networking.istio.io", "kind": "VirtualService", "name": "a",
                    "causes": [{
                        "field": "spec.http[0].route[0].weight",
                        "message": "-1 is negative; give 0 or more",
                        "reason": "FieldValueInvalid",
                    }],
                },
            },
        })
    );
    let documents = crate::source::read(None, object.to_string().as_bytes());
    let of_file: Vec<String> = documents[0].findings.iter().map(Finding::statement).collect();
    assert_eq!(of_file, [message]);
}

#[test]
fn what_is_good_comes_in_and_what_surprises_is_told() {
    let good = route(1, json!({"name": "a", "namespace": "shop"}));
    assert_eq!(ask(&question("CREATE", good), &settings()), json!({"uid": "0c9a8d74", "allowed": true, "status": {}}));
    // Objects that name no namespace are in that of the request.
    let mut twice = route(1, json!({"name": "a"}));
    let rule = twice["spec"]["http"][0].clone();
    twice["spec"]["http"].as_array_mut().unwrap().push(rule);
    let response = ask(&question("UPDATE", twice), &settings());
    assert_eq!(response["allowed"], true);
    assert_eq!(
        response["warnings"],
        json!([
            "VirtualService shop/a: http[1]: is never reached, because http[0] has no match and so takes every request; move it before"
        ])
    );
}

#[test]
fn every_error_is_told_and_warnings_are_short_and_plain() {
    let mut object = route(WRONG, json!({"name": "a", "namespace": "shop"}));
    object["spec"]["hosts"] = json!(["a", "a"]);
    object["spec"][format!("new\n{}", "x".repeat(300))] = json!(1);
    let response = ask(&question("CREATE", object), &settings());
    assert_eq!(
        response["status"]["message"],
        "VirtualService shop/a: hosts[1]: `a` is given twice; remove one\nVirtualService shop/a: http[0].route[0].weight: -1 is negative; give 0 or more"
    );
    let warning = response["warnings"][0].as_str().unwrap();
    assert_eq!(warning.chars().count(), WARNING, "{warning}");
    assert!(warning.chars().all(|letter| !letter.is_control()), "{warning}");
}

#[test]
fn what_is_not_asked_for_is_not_judged() {
    let wrong = |metadata: Value| route(WRONG, metadata);
    let named = json!({"name": "a", "namespace": "shop"});
    let labelled = |revision: &str| json!({"name": "a", "namespace": "shop", "labels": {"istio.io/rev": revision}});
    let going =
        json!({"name": "a", "namespace": "shop", "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["a.b/c"]});
    let canary = Settings { revision: "canary".to_owned() };
    for (operation, object, settings, allowed) in [
        ("CREATE", wrong(named.clone()), settings(), false),
        ("UPDATE", wrong(named.clone()), settings(), false),
        ("DELETE", wrong(named.clone()), settings(), true),
        ("DELETE", Value::Null, settings(), true),
        ("CONNECT", wrong(named.clone()), settings(), true),
        ("UPDATE", wrong(going), settings(), true),
        ("CREATE", wrong(labelled("canary")), settings(), true),
        ("CREATE", wrong(labelled("canary")), canary.clone(), false),
        ("CREATE", wrong(labelled("default")), settings(), false),
        ("CREATE", wrong(labelled("default")), canary.clone(), true),
        ("CREATE", wrong(named.clone()), canary, false),
    ] {
        let response = ask(&question(operation, object.clone()), &settings);
        assert_eq!(response["allowed"], allowed, "{operation} {settings:?} {object}");
    }
    let mut status = question("UPDATE", wrong(named));
    status["request"]["subResource"] = "status".into();
    assert_eq!(ask(&status, &settings())["allowed"], true);
}

#[test]
fn kinds_are_treated_as_in_files() {
    for (api_version, kind, allowed, words) in [
        ("apps/v1", "Deployment", true, ""),
        ("security.istio.io/v1", "RequestAuthentication", false, "tokens are not verified"),
        ("gateway.networking.k8s.io/v1", "HTTPRoute", false, "is not supported yet"),
        ("networking.istio.io/v2", "Sidecar", false, "`networking.istio.io/v2` is not served"),
    ] {
        let object = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "a"}, "spec": {}});
        let response = ask(&question("CREATE", object), &settings());
        assert_eq!(response["allowed"], allowed, "{kind}: {response}");
        let message = response["status"]["message"].as_str().unwrap_or_default();
        assert!(message.contains(words), "{kind}: {message}");
    }
}

#[test]
fn hostile_bodies_are_refused_and_never_end_the_program() {
    let deep = |letter: &str, depth: usize| letter.repeat(depth);
    let mut nested = question("CREATE", route(1, json!({"name": "a"}))).to_string();
    nested = nested.replace("\"hosts\":[\"a\"]", &format!("\"hosts\":{}{}", deep("[", 100_000), deep("]", 100_000)));
    for body in [
        Vec::new(),
        b"null".to_vec(),
        b"{}".to_vec(),
        b"\xff\xfe".to_vec(),
        deep("[", 1 << 20).into_bytes(),
        deep("{\"a\":", 1 << 18).into_bytes(),
        nested.into_bytes(),
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}).to_string().into_bytes(),
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": 5}})
            .to_string()
            .into_bytes(),
        vec![b' '; 1 << 20],
    ] {
        let start = String::from_utf8_lossy(&body[..body.len().min(40)]).into_owned();
        assert!(review(&body, &settings()).is_err(), "{start}");
    }
    // What can be read as a question is answered, whatever is in it.
    for (field, value) in [
        ("spec", json!("x".repeat(1 << 20))),
        ("spec", json!([])),
        ("spec", json!({"http": vec![json!({}); 20_000]})),
        ("spec", json!({"http": [{"timeout": "1".repeat(100_000)}]})),
        ("metadata", json!({"name": "a".repeat(1 << 20)})),
        ("metadata", json!({})),
        ("kind", json!("")),
        ("apiVersion", json!("/")),
    ] {
        let mut object = route(1, json!({"name": "a"}));
        object[field] = value;
        let response = ask(&question("CREATE", object), &settings());
        assert_eq!(response["allowed"], false, "{field}");
        let size = response.to_string().len();
        assert!(size < 3 * MOST * ERROR, "{field}: {size}");
    }
}

#[test]
fn the_configuration_asks_for_every_kind_of_the_revision() {
    let service = Server::Service { name: "istiod".to_owned(), namespace: "istio-system".to_owned() };
    let of = |revision: &str| {
        let settings = Settings { revision: revision.to_owned() };
        serde_json::to_value(configuration(&settings, "istio-system", &service, b"PEM")).unwrap()
    };
    let default = of("default");
    assert_eq!(default["metadata"]["name"], "istio-validator-istio-system");
    let selectors: Vec<&Value> = default["webhooks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|webhook| &webhook["objectSelector"]["matchExpressions"][0])
        .collect();
    assert_eq!(
        selectors,
        [
            &json!({"key": "istio.io/rev", "operator": "In", "values": ["default"]}),
            &json!({"key": "istio.io/rev", "operator": "DoesNotExist"}),
        ]
    );
    let canary = of("canary");
    assert_eq!(canary["metadata"]["name"], "istio-validator-canary-istio-system");
    assert_eq!(canary["webhooks"].as_array().unwrap().len(), 1);
    let webhook = &canary["webhooks"][0];
    assert_eq!(webhook["failurePolicy"], "Fail");
    assert_eq!(
        webhook["clientConfig"]["service"],
        json!({"name": "istiod", "namespace": "istio-system", "path": "/validate", "port": 443})
    );
    let kinds: usize =
        webhook["rules"].as_array().unwrap().iter().map(|rule| rule["resources"].as_array().unwrap().len()).sum();
    assert_eq!(kinds, KINDS.len());
}

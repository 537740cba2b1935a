//! Tables of YAML in, findings out: what a text may do wrong before its object is judged.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use super::*;
use crate::model::{Kind, Object, Spec};

/// Findings of a text, one a line.
pub(crate) fn findings(yaml: &str) -> String {
    let documents = read(Some(&Arc::new("a.yaml".into())), yaml.as_bytes());
    let findings = documents.iter().flat_map(|document| &document.findings);
    findings.map(|finding| format!("{finding}\n")).collect()
}

/// Compares the findings of a text.
#[track_caller]
pub(crate) fn check(yaml: &str, expected: &str) {
    let found = findings(yaml);
    assert_eq!(found, expected, "\n{yaml}\n--- found\n{found}--- expected\n{expected}");
}

fn objects(yaml: &str) -> Vec<Arc<Object>> {
    let object = |document: Document| match document.outcome {
        Outcome::Object(object) => Some(object),
        _ => None,
    };
    read(None, yaml.as_bytes()).into_iter().filter_map(object).collect()
}

const GOOD: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: good}\nspec: {ports: [{port: 80}]}\n";

#[test]
fn a_malformed_document_disturbs_no_other() {
    for yaml in MALFORMED.iter().map(|(yaml, _)| yaml) {
        let text = format!("{GOOD}---\n{yaml}--- # the next\n{GOOD}");
        let names: Vec<String> = objects(&text).iter().map(|object| object.key.name.to_string()).collect();
        let good = names.iter().filter(|name| *name == "good").count();
        assert_eq!(good, 2, "{text}");
        // Its findings are what they are alone, five lines further down.
        let alone = read(None, yaml.as_bytes());
        let among = read(None, text.as_bytes());
        let lines = |documents: &[Document], by: u32| -> Vec<(u32, u32)> {
            let findings = documents.iter().flat_map(|document| &document.findings);
            findings.map(|finding| (finding.origin.line - by, finding.origin.column)).collect()
        };
        // The end of an unfinished text is where the next document begins.
        if !yaml.contains("\"Service\n") {
            assert_eq!(lines(&among, 5), lines(&alone, 0), "{text}");
        }
    }
}

#[test]
fn a_malformed_document_has_a_finding_with_its_place() {
    for (yaml, expected) in MALFORMED {
        check(yaml, expected);
    }
}

#[test]
fn all_forms_of_yaml_give_the_same_objects() {
    let json = r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"good"},"spec":{"ports":[{"port":80}]}}"#;
    let list = format!("apiVersion: v1\nkind: ServiceList\nitems:\n  - {}", GOOD.replace('\n', "\n    "));
    let windows = GOOD.replace('\n', "\r\n");
    let anchors =
        "apiVersion: v1\nkind: Service\nmetadata: &m {name: good}\nspec:\n  ports:\n  - &p {port: 80}\n".to_owned();
    let nulls = GOOD.replace("{name: good}", "{name: good, labels: null, namespace: ~}") + "status: null\n";
    let directive = format!("%YAML 1.2\n---\n{GOOD}...\n# the end\n---\n---\n");
    let mark = format!("\u{feff}{GOOD}");
    let expected = objects(GOOD);
    for text in [json, &list, &windows, &anchors, &nulls, &directive, &mark] {
        let found = objects(text);
        assert_eq!(found.len(), 1, "{text}\n{}", findings(text));
        assert_eq!((&found[0].key, &found[0].spec), (&expected[0].key, &expected[0].spec), "{text}");
    }
}

#[test]
fn merge_keys_are_resolved_and_explicit_keys_win() {
    let yaml = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec:\n  hosts: [a]\n  http:\n  - &base\n    timeout: 1s\n    match: [{port: 1}]\n    route: [{destination: {host: a}}]\n  - <<: *base\n    timeout: 2s\n";
    let objects = objects(yaml);
    let Spec::VirtualService(spec) = &objects[0].spec else { panic!() };
    assert_eq!(spec.http[1].timeout.unwrap().to_string(), "2s");
    assert_eq!(spec.http[1].route, spec.http[0].route);
}

#[test]
fn metadata_is_read() {
    let yaml = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata:\n  name: a\n  namespace: prod\n  generation: 7\n  creationTimestamp: '2026-01-01T00:00:00Z'\n  labels: {l: x}\n  annotations: {n: y}\n";
    let object = &objects(yaml)[0];
    assert_eq!(object.key.to_string(), "PeerAuthentication prod/a");
    assert_eq!((object.meta.created, object.meta.generation), (1_767_225_600, 7));
    assert_eq!((object.meta.labels["l"].as_str(), object.meta.annotations["n"].as_str()), ("x", "y"));
    assert_eq!((object.origin.line, object.origin.column), (1, 1));
    assert_eq!(&*objects("apiVersion: v1\nkind: Namespace\nmetadata: {name: a, namespace: b}\n")[0].key.namespace, "");
}

#[test]
fn secrets_are_read_from_both_fields() {
    let yaml = "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\ndata: {x: aGk=, y: aGk=}\nstringData: {y: ho}\n";
    let objects = objects(yaml);
    let Spec::Secret(secret) = &objects[0].spec else { panic!() };
    let data = secret.data.as_ref().unwrap();
    assert_eq!((data["x"].0.as_slice(), data["y"].0.as_slice()), (&b"hi"[..], &b"ho"[..]));
    assert_eq!(secret.string_data, None);
}

#[test]
fn bombs_are_refused() {
    let mut aliases = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..9 {
        let list = vec![format!("*a{}", level - 1); 10].join(", ");
        aliases.push_str(&format!("a{level}: &a{level} [{list}]\n"));
    }
    let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), vec!["*a"; 100].join(", "));
    let deep = format!("a: {}{}\n", "[".repeat(1000), "]".repeat(1000));
    for (text, expected) in [(aliases, ""), (long, "too large"), (deep, "recursion limit")] {
        let found = findings(&text);
        assert!(found.contains(expected) && found.contains(": error: "), "{found}");
        assert_eq!(objects(&format!("{text}---\n{GOOD}")).len(), 1);
    }
}

#[test]
fn kinds_of_a_list_are_placed_one_by_one() {
    let item = |name: &str, port: u32| {
        format!(
            "- apiVersion: v1\n  kind: Service\n  metadata: {{name: {name}}}\n  spec:\n    # a comment\n    ports: [{{port: {port}}}]\n"
        )
    };
    let mut text = "apiVersion: v1\nitems:\n".to_owned();
    for index in 0..3000 {
        text.push_str(&item(&format!("s{index}"), if index == 2999 { 0 } else { 80 }));
    }
    text.push_str("kind: List\nmetadata: {}\n");
    let documents = read(None, text.as_bytes());
    assert_eq!(documents.len(), 3000);
    let found: Vec<_> = documents.iter().flat_map(|document| &document.findings).collect();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].origin.line, found[0].origin.column), (3 + 2999 * 6 + 5, 14));
    assert!(objects(&text).iter().any(|object| object.key.kind == Kind::Service && object.origin.line == 9));
}

/// Texts with their findings.
const MALFORMED: &[(&str, &str)] = &[
    (
"apiVersion: v1
kind: Service
metadata: {name: a
spec: {}
",
"a.yaml:4:5: error: Service default/a: did not find expected ',' or '}', while parsing a flow mapping at line 3 column 11
",
    ),
    (
"apiVersion: v1\nkind: Service\nmetadata:\n\tname: a\n",
"a.yaml:4:1: error: Service default/a: found character that cannot start any token, while scanning for the next token; tabs cannot indent YAML, use spaces
",
    ),
    (
"apiVersion: v1
kind: Service
metadata:
  name: a
 name: b
",
"a.yaml:5:2: error: Service default/a: did not find expected key, while parsing a block mapping
",
    ),
    (
"apiVersion: v1
kind: Service
kind: Service
metadata: {name: a}
",
"a.yaml:3:1: error: Service default/a: the key `kind` is given twice; remove one
",
    ),
    (
r#"apiVersion: v1
kind: "Service
metadata: {name: a}
"#,
"a.yaml:4:1: error: Service default/a: found unexpected end of stream, while scanning a quoted scalar at line 2 column 7
",
    ),
    (
"just a text
",
"a.yaml:1:1: error[IST0106]: is not an object; a document has apiVersion, kind, metadata and spec
",
    ),
    (
"- apiVersion: v1
",
"a.yaml:1:1: error[IST0106]: is not an object; a document has apiVersion, kind, metadata and spec
",
    ),
    (
"kind: Service
metadata: {name: a}
",
"a.yaml:1:1: error[IST0106]: apiVersion: is missing; give it, such as apiVersion: networking.istio.io/v1, kind: VirtualService
",
    ),
    (
"apiVersion: v1
metadata: {name: a}
",
"a.yaml:1:1: error[IST0106]: kind: is missing; give it, such as apiVersion: networking.istio.io/v1, kind: VirtualService
",
    ),
    (
"apiVersion: v1
kind: Service
spec: {ports: [{port: 80}]}
",
"a.yaml:1:1: error[IST0106]: metadata.name: is missing; give metadata.name
",
    ),
    (
"apiVersion: v1
kind: Service
metadata: {generateName: a-}
spec: {ports: [{port: 80}]}
",
"a.yaml:3:1: error[IST0106]: metadata.name: generateName is for API servers; give metadata.name
",
    ),
    (
"apiVersion: v1
kind: Service
metadata: {name: Not_A_Name}
",
"a.yaml:3:12: error[IST0106]: Service default/Not_A_Name: metadata.name: `Not_A_Name` is not a name; use small letters, digits, `-` and `.`
",
    ),
    (
"apiVersion: networking.istio.io/v9
kind: VirtualService
metadata: {name: a}
",
"a.yaml:1:1: error[IST0106]: VirtualService default/a: apiVersion: `networking.istio.io/v9` is not served; write networking.istio.io/v1, networking.istio.io/v1beta1, networking.istio.io/v1alpha3
",
    ),
    (
"apiVersion: networking.istio.io/v1
kind: EnvoyFilter
metadata: {name: a}
",
"a.yaml:1:1: error[IST0106]: EnvoyFilter default/a: apiVersion: `networking.istio.io/v1` is not served; write networking.istio.io/v1alpha3
",
    ),
    (
"apiVersion: v1
kind: Service
metadata: {name: a, labels: {version: 1.20}}
spec: {ports: [{port: 80}]}
",
"a.yaml:3:30: error[IST0106]: Service default/a: metadata.labels.version: invalid type: floating point `1.2`, expected a string
",
    ),
    (
"apiVersion: v1
kind: Service
metadata: {name: a}
spec:
  ports:
  - port: http
",
r#"a.yaml:6:5: error[IST0106]: Service default/a: spec.ports[0].port: invalid type: string "http", expected i32
"#,
    ),
    (
"apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a}
spec:
  hosts: reviews
",
r#"a.yaml:5:3: error[IST0106]: VirtualService default/a: hosts: invalid type: string "reviews", expected a sequence
"#,
    ),
    (
"apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a}
spec:
  hosts: [a]
  http:
  - match:
    - uri: {exact: /a, prefix: /b}
    route: [{destination: {host: a}}]
",
"a.yaml:8:7: error[IST0106]: VirtualService default/a: http[0].match[0].uri: has both `exact` and `prefix`; give one of exact, prefix, regex
",
    ),
    (
"apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a}
spec:
  hosts: [a]
  http:
  - route:
    - destination: {host: a}
      weight: many
",
r#"a.yaml:9:7: error[IST0106]: VirtualService default/a: http[0].route[0].weight: invalid value: string "many", expected a whole number of 32 bits
"#,
    ),
    (
"apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a}
spec:
  hosts: [a]
  http:
  - timeout: fast
    route: [{destination: {host: a}}]
",
"a.yaml:7:5: error[IST0106]: VirtualService default/a: http[0].timeout: `fast` is not a duration; write a number with a unit, such as 1.5s, 300ms or 1h30m
",
    ),
    (
"apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a}
spec:
  hosts: [a]
  http:
  - rout: []
    route:
    - destination: {host: a, sunset: v1}
",
"a.yaml:7:5: warning[IST0106]: VirtualService default/a: http[0].rout: is not a field of this kind, so it has no effect; remove it or correct its name
a.yaml:9:30: warning[IST0106]: VirtualService default/a: http[0].route[0].destination.sunset: is not a field of this kind, so it has no effect; remove it or correct its name
",
    ),
    (
"apiVersion: v1
kind: Secret
metadata: {name: a}
data: {password: hunter2!}
",
"a.yaml:4:8: error[IST0106]: Secret default/a: data.password: cannot be read; values of data are base64, those of stringData text
",
    ),
    (
"a: *nothing
",
"a.yaml:1:4: error: unknown anchor
",
    ),
    (
"a: &a [1]
<<: *a
",
"a.yaml:1:1: error: `<<` merges mappings only; give the alias of a mapping
",
    ),
    (
"apiVersion: v1
kind: !foo Service
metadata: {name: a}
",
"a.yaml:2:7: error: kind: invalid type: enum, expected a mapping, a list, a text, a number, true, false or null, without a tag
",
    ),
    (
"apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: a}
spec: {mtls: {mode: MAYBE}}
",
"a.yaml:4:15: error[IST0106]: PeerAuthentication default/a: mtls.mode: unknown variant `MAYBE`, expected one of `UNSET`, `DISABLE`, `PERMISSIVE`, `STRICT`
",
    ),
    (
"apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Service
  metadata: {name: one}
  spec: {ports: [{port: 1}]}
- apiVersion: v1
  kind: Service
  metadata: {name: two}
  spec:
    ports: [{port: 0}]
",
"a.yaml:12:14: error[IST0106]: Service default/two: spec.ports[0].port: 0 is not a port; ports are 1 to 65535
",
    ),
    (
r#"{"apiVersion": "v1", "kind": "List", "items": [
 {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "two"}, "spec": {"ports": []}}
]}
"#,
"a.yaml:2:80: error[IST0106]: Service default/two: spec.ports: is empty; a Service needs a port
",
    ),
    (
"apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: a}
",
"a.yaml:2:1: error[IST0106]: kind: HTTPRoute (gateway.networking.k8s.io/v1) is not supported yet; use Istio's Gateway, VirtualService and DestinationRule
",
    ),
    (
"apiVersion: apps/v1
kind: Deployment
metadata: {name: a}
",
"a.yaml:2:1: info: kind: Deployment (apps/v1) is not read by the mesh
",
    ),
    (
"apiVersion: v1
kind: Service
metadata: {name: a, creationTimestamp: yesterday}
",
"a.yaml:3:21: error[IST0106]: Service default/a: metadata.creationTimestamp: failed to parse four digit integer as year: invalid digit, expected 0-9 but got y
",
    ),
    (
"apiVersion: v1
kind: Service
metadata: {name: a, oops: 1}
spec: {ports: [{port: 80}], type: ClusterIP, typ: x}
foo: 1
",
"a.yaml:3:21: warning[IST0106]: Service default/a: metadata.oops: is not a field of this kind, so it has no effect; remove it or correct its name
a.yaml:4:46: warning[IST0106]: Service default/a: spec.typ: is not a field of this kind, so it has no effect; remove it or correct its name
a.yaml:5:1: warning[IST0106]: Service default/a: foo: is not a field of this kind, so it has no effect; remove it or correct its name
",
    ),
];

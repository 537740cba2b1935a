//! `deploy/crds` in a real API server: what users have is taken, what is wrong is refused at its field, and every version is served.

#[path = "../../../controlplane/tests/fields/put.rs"]
mod put;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use integration_tests::kubernetes::ApiServer;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use mesh_proto::crd::{KINDS, KindInfo};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::OnceCell;

/// The project's root.
fn root() -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("..")
}

/// Has kubectl apply the definitions, and waits until they are served.
pub async fn install(server: &ApiServer) {
    let folder = root().join("deploy/crds");
    let said = server.kubectl(&["apply", "-f", &folder.to_string_lossy()], "").await.unwrap();
    assert_eq!(said.stderr, "", "no warning");
    assert_eq!(said.ok().lines().count(), KINDS.len());
    server.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"], "").await.unwrap().ok();
}

/// The shared server, with the definitions.
async fn server() -> &'static ApiServer {
    static INSTALLED: OnceCell<&'static ApiServer> = OnceCell::const_new();
    let install = async || {
        let server = ApiServer::shared().await;
        install(server).await;
        server
    };
    INSTALLED.get_or_init(install).await
}

fn is_istio(object: &Value) -> bool {
    object["apiVersion"].as_str().is_some_and(|version| version.contains(".istio.io/"))
}

/// Objects of Istio's kinds in a file of YAML documents.
fn objects(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    let all = yaml_serde::Deserializer::from_str(&text).map(|document| Value::deserialize(document).unwrap());
    all.filter(is_istio).collect()
}

/// Files below a folder, in order.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// For kubectl; it does not look for unknown fields in a `kind: List`.
fn documents(objects: &[Value]) -> String {
    objects.iter().map(|object| format!("---\n{object}\n")).collect()
}

async fn make_namespaces(server: &ApiServer, objects: &[Value]) {
    let names = objects.iter().filter_map(|object| object["metadata"]["namespace"].as_str());
    for name in names.collect::<std::collections::BTreeSet<_>>() {
        server.namespace(name).await.unwrap();
    }
}

#[tokio::test]
async fn definitions_are_structural_and_shown_as_users_know_them() {
    let server = server().await;
    let said = server.kubectl(&["get", "crd", "-o", "json"], "").await.unwrap().ok();
    let found: Value = serde_json::from_str(&said).unwrap();
    for definition in found["items"].as_array().unwrap() {
        let name = definition["metadata"]["name"].as_str().unwrap();
        let conditions: BTreeMap<&str, &str> = definition["status"]["conditions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|condition| (condition["type"].as_str().unwrap(), condition["status"].as_str().unwrap()))
            .collect();
        assert_eq!(conditions, BTreeMap::from([("Established", "True"), ("NamesAccepted", "True")]), "{name}");
    }
    let objects = [
        vs("{hosts: [a, b], gateways: [mesh, edge], http: [{route: [{destination: {host: a}}]}]}"),
        object("DestinationRule", "{host: a}"),
        object("ServiceEntry", "{hosts: [a.com], location: MESH_EXTERNAL, resolution: DNS}"),
        object("PeerAuthentication", "{mtls: {mode: STRICT}}"),
        object("AuthorizationPolicy", "{action: DENY, rules: [{}]}"),
    ];
    server.namespace("columns").await.unwrap();
    server.kubectl(&["apply", "-n", "columns", "-f", "-"], &documents(&objects)).await.unwrap().ok();
    for (short, columns) in [
        ("vs", "NAME GATEWAYS HOSTS AGE a [\"mesh\",\"edge\"] [\"a\",\"b\"]"),
        ("dr", "NAME HOST AGE a a"),
        ("se", "NAME HOSTS LOCATION RESOLUTION AGE a [\"a.com\"] MESH_EXTERNAL DNS"),
        ("pa", "NAME MODE AGE a STRICT"),
        ("ap", "NAME ACTION AGE a DENY"),
    ] {
        let said = server.kubectl(&["get", "-n", "columns", short], "").await.unwrap().ok();
        let words = said.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.starts_with(columns), "{short}: {words}");
    }
    let all = server.kubectl(&["get", "-n", "columns", "istio-io", "-o", "name"], "").await.unwrap().ok();
    assert_eq!(all.lines().count(), objects.len(), "the category names them all: {all}");
    let told = server.kubectl(&["explain", "vs.spec.http.route.weight"], "").await.unwrap().ok();
    assert!(told.contains("Share of the sum of weights"), "{told}");
}

#[tokio::test]
async fn kubectl_applies_every_sample_and_golden_case_without_a_warning() {
    let server = server().await;
    let golden = files(&root().join("controlplane/tests/golden")).into_iter();
    let inputs = golden.filter(|path| path.ends_with("input.yaml"));
    let samples =
        files(&root().join("deploy/samples")).into_iter().filter(|path| path.extension().is_some_and(|e| e == "yaml"));
    let mut count = 0;
    for path in inputs.chain(samples) {
        let objects = objects(&path);
        if objects.is_empty() {
            continue;
        }
        count += objects.len();
        make_namespaces(server, &objects).await;
        let said = server.kubectl(&["apply", "--validate=warn", "-f", "-"], &documents(&objects)).await.unwrap();
        assert_eq!(said.stderr, "", "{}", path.display());
        assert_eq!(said.ok().lines().count(), objects.len(), "{}", path.display());
    }
    assert!(count > 50, "{count} objects");
}

/// What the definitions need of a table of `controlplane/tests/fields`.
#[derive(Deserialize)]
struct Table {
    #[serde(rename = "apiVersion")]
    api_version: String,
    kind: String,
    #[serde(default)]
    metadata: Map<String, Value>,
    groups: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Group {
    metadata: Map<String, Value>,
    object: Map<String, Value>,
    honoured: Map<String, Value>,
}

#[tokio::test]
async fn every_field_that_is_honoured_may_be_stored() {
    let server = server().await;
    let mut objects = Vec::new();
    for path in files(&root().join("controlplane/tests/fields")) {
        if path.extension().is_none_or(|e| e != "yaml") || path.ends_with("world.yaml") {
            continue;
        }
        let table: Table = yaml_serde::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        if !table.api_version.contains(".istio.io/") {
            continue;
        }
        for group in table.groups {
            for (field, value) in group.honoured {
                let mut metadata = table.metadata.clone();
                metadata.extend(group.metadata.clone());
                metadata.insert("name".to_owned(), format!("subject-{}", objects.len()).into());
                let (version, kind) = (&table.api_version, &table.kind);
                let mut object =
                    json!({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": group.object});
                put::put(&mut object["spec"], &field, value);
                objects.push(object);
            }
        }
    }
    assert!(objects.len() > 100, "{} fields", objects.len());
    make_namespaces(server, &objects).await;
    let said = server
        .kubectl(&["create", "--dry-run=server", "--validate=strict", "-f", "-"], &documents(&objects))
        .await
        .unwrap();
    assert_eq!(said.stderr, "");
    assert_eq!(said.ok().lines().count(), objects.len());
}

/// An object of a kind, in the newest version.
fn object(kind: &str, spec: &str) -> Value {
    let info = KINDS.iter().find(|info| info.kind == kind).unwrap();
    let spec: Value = yaml_serde::from_str(spec).unwrap();
    json!({"apiVersion": format!("{}/{}", info.group, info.versions[0]), "kind": kind, "metadata": {"name": "a"}, "spec": spec})
}

fn vs(spec: &str) -> Value {
    object("VirtualService", spec)
}

fn route(route: &str) -> Value {
    vs(&format!("{{hosts: [a], http: [{route}]}}"))
}

fn rule(policy: &str) -> Value {
    object("DestinationRule", &format!("{{host: a, trafficPolicy: {policy}}}"))
}

fn api(client: &kube::Client, info: &KindInfo, version: &str, namespace: &str) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk(info.group, version, info.kind);
    Api::namespaced_with(client.clone(), namespace, &ApiResource::from_gvk_with_plural(&kind, info.plural))
}

/// The objects of an object's kind, in the newest version.
pub fn api_of(client: &kube::Client, object: &DynamicObject, namespace: &str) -> Api<DynamicObject> {
    let kind = &object.types.as_ref().unwrap().kind;
    let info = KINDS.iter().find(|info| info.kind == kind).unwrap();
    api(client, info, info.versions[0], namespace)
}

/// Objects, and what the API server says of them.
fn invalid() -> Vec<(Value, &'static str)> {
    const TO: &str = "route: [{destination: {host: a}}]";
    let matching = |matched: &str| route(&format!("{{match: [{matched}], {TO}}}"));
    vec![
        (vs("{hosts: a}"), "spec.hosts: Invalid value: \"string\": spec.hosts in body must be of type array"),
        (route("{route: [{destination: {host: a}, weight: -1}]}"), "spec.http[0].route[0].weight: Invalid value: -1"),
        (route("{route: [{destination: {host: a}, weight: half}]}"), "spec.http[0].route[0].weight"),
        (route("{route: [{weight: 1}]}"), "spec.http[0].route[0].destination: Required value"),
        (route("{route: [{destination: {subset: v1}}]}"), "spec.http[0].route[0].destination.host: Required value"),
        (route("{name: nothing}"), "\"spec.http[0]\" must validate one and only one schema (oneOf). Found none valid"),
        (
            route(&format!("{{redirect: {{uri: /b}}, {TO}}}")),
            "\"spec.http[0]\" must validate one and only one schema (oneOf). Found 2 valid",
        ),
        (route("{directResponse: {body: {string: a}}}"), "spec.http[0].directResponse.status: Required value"),
        (route("{directResponse: {status: 99}}"), "spec.http[0].directResponse.status: Invalid value: 99"),
        (
            route("{redirect: {port: 80, derivePort: FROM_REQUEST_PORT}}"),
            "\"spec.http[0].redirect\" must validate one and only one",
        ),
        (matching("{uri: {exact: /a, prefix: /b}}"), "\"spec.http[0].match[0].uri\" must validate one and only one"),
        (
            matching("{headers: {x-a: {exact: b, regex: c}}}"),
            "\"spec.http[0].match[0].headers.x-a\" must validate one and only one",
        ),
        (matching("{port: 0}"), "spec.http[0].match[0].port: Invalid value: 0"),
        (matching("{port: 70000}"), "spec.http[0].match[0].port: Invalid value: 70000"),
        (
            route(&format!("{{timeout: fast, {TO}}}")),
            "spec.http[0].timeout: Invalid value: \"string\": type conversion error from 'string' to 'google.protobuf.Duration' evaluating rule: must be a duration that is not negative, such as 1.5s",
        ),
        (
            route(&format!("{{timeout: -1s, {TO}}}")),
            "spec.http[0].timeout: Invalid value: \"string\": must be a duration that is not negative",
        ),
        (route(&format!("{{retries: {{attempts: 1, backoff: 0s}}, {TO}}}")), "must be a duration of at least 1ms"),
        (
            route(&format!("{{fault: {{abort: {{httpStatus: 500, grpcStatus: UNKNOWN}}}}, {TO}}}")),
            "\"spec.http[0].fault.abort\" must validate one and only one",
        ),
        (vs("{hosts: [a], tls: [{route: [{destination: {host: a}}]}]}"), "spec.tls[0].match: Required value"),
        (object("DestinationRule", "{subsets: [{name: v1}]}"), "spec.host: Required value"),
        (
            object("DestinationRule", "{host: a, subsets: [{labels: {version: v1}}]}"),
            "spec.subsets[0].name: Required value",
        ),
        (rule("{tls: {mode: SOMETIMES}}"), "spec.trafficPolicy.tls.mode: Unsupported value: \"SOMETIMES\""),
        (
            rule("{loadBalancer: {simple: RANDOM, consistentHash: {useSourceIp: true}}}"),
            "\"spec.trafficPolicy.loadBalancer\" must validate one and only one",
        ),
        (rule("{connectionPool: {tcp: {connectTimeout: 10}}}"), "spec.trafficPolicy.connectionPool.tcp.connectTimeout"),
        (
            rule("{outlierDetection: {maxEjectionPercent: 101}}"),
            "spec.trafficPolicy.outlierDetection.maxEjectionPercent: Invalid value: 101",
        ),
        (object("Gateway", "{servers: [{hosts: ['*']}]}"), "spec.servers[0].port: Required value"),
        (
            object("Gateway", "{servers: [{hosts: ['*'], port: {number: 80, name: http}}]}"),
            "spec.servers[0].port.protocol: Required value",
        ),
        (
            object("ServiceEntry", "{hosts: []}"),
            "spec.hosts: Invalid value: 0: spec.hosts in body should have at least 1 items",
        ),
        (object("ServiceEntry", "{hosts: ['*']}"), "spec.hosts[0]: Invalid value: \"string\": `*` would be every host"),
        (
            object("ServiceEntry", "{hosts: [a.com], ports: [{number: 80, name: a}, {number: 80, name: b}]}"),
            "ports have numbers of their own",
        ),
        (
            object(
                "ServiceEntry",
                "{hosts: [a.com], workloadSelector: {labels: {a: b}}, endpoints: [{address: 1.2.3.4}]}",
            ),
            "\"spec\" must validate one and only one",
        ),
        (
            object("ServiceEntry", "{hosts: [a.com], resolution: NONE, endpoints: [{address: 1.2.3.4}]}"),
            "cannot have endpoints",
        ),
        (
            object("ServiceEntry", "{hosts: [a.com], resolution: STATIC, endpoints: [{weight: 1}]}"),
            "spec.endpoints[0]: Invalid value: \"object\": address is required",
        ),
        (object("Sidecar", "{egress: [{port: {number: 80}}]}"), "spec.egress[0].hosts: Required value"),
        (
            object("Sidecar", "{workloadSelector: {labels: {app: '*'}}, egress: [{hosts: ['*/*']}]}"),
            "spec.workloadSelector.labels[app]: Invalid value: \"string\": wildcards are not allowed",
        ),
        (object("PeerAuthentication", "{mtls: {mode: MAYBE}}"), "spec.mtls.mode: Unsupported value: \"MAYBE\""),
        (object("PeerAuthentication", "{portLevelMtls: {80: {mode: STRICT}}}"), "it needs selector.matchLabels"),
        (
            object("PeerAuthentication", "{selector: {matchLabels: {a: b}}, portLevelMtls: {0: {mode: STRICT}}}"),
            "spec.portLevelMtls",
        ),
        (
            object("AuthorizationPolicy", "{selector: {matchLabels: {a: b}}, targetRefs: [{kind: Service, name: a}]}"),
            "only one of targetRefs or selector can be set",
        ),
        (object("AuthorizationPolicy", "{action: PERMIT}"), "spec.action: Unsupported value: \"PERMIT\""),
        (
            object("AuthorizationPolicy", "{rules: [{when: [{values: [a]}]}]}"),
            "spec.rules[0].when[0].key: Required value",
        ),
        (
            object("RequestAuthentication", "{jwtRules: [{jwksUri: 'https://a', jwks: b}]}"),
            "spec.jwtRules[0].issuer: Required value",
        ),
        (
            object("Telemetry", "{tracing: [{randomSamplingPercentage: 101}]}"),
            "spec.tracing[0].randomSamplingPercentage: Invalid value: 101",
        ),
        (object("WasmPlugin", "{phase: AUTHN}"), "spec.url: Required value"),
        (object("TrafficExtension", "{phase: AUTHN}"), "\"spec\" must validate one and only one"),
        (
            object("EnvoyFilter", "{configPatches: [{applyTo: EVERYTHING}]}"),
            "spec.configPatches[0].applyTo: Unsupported value: \"EVERYTHING\"",
        ),
        (object("WorkloadGroup", "{}"), "spec.template: Required value"),
        (object("WorkloadEntry", "{weight: 1}"), "address is required"),
    ]
}

#[tokio::test]
async fn what_is_wrong_is_refused_at_its_field() {
    let server = server().await;
    let client = server.client().await.unwrap();
    let mut wrong = Vec::new();
    for (object, expected) in invalid() {
        let parsed: DynamicObject = serde_json::from_value(object.clone()).unwrap();
        let dry_run = PostParams { dry_run: true, ..PostParams::default() };
        match api_of(&client, &parsed, "default").create(&dry_run, &parsed).await {
            Err(kube::Error::Api(status)) if status.code == 422 && status.message.contains(expected) => {}
            Err(error) => wrong.push(format!("{object}\n  found: {error}\n  expected: {expected}")),
            Ok(_) => wrong.push(format!("{object}\n  is taken\n  expected: {expected}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A spec of every kind.
fn spec_of(kind: &str) -> &'static str {
    match kind {
        "VirtualService" => "{hosts: [a], http: [{route: [{destination: {host: a}, weight: 1}], timeout: 1.5s}]}",
        "DestinationRule" => "{host: a, subsets: [{name: v1, labels: {version: v1}}]}",
        "Gateway" => "{servers: [{hosts: ['*'], port: {number: 80, name: http, protocol: HTTP}}]}",
        "ServiceEntry" => "{hosts: [a.com], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DNS}",
        "Sidecar" => "{egress: [{hosts: ['./*']}]}",
        "WorkloadEntry" => "{address: 10.0.0.1, ports: {http: 80}}",
        "WorkloadGroup" => "{template: {serviceAccount: a}, probe: {httpGet: {port: 80}}}",
        "EnvoyFilter" => {
            "{configPatches: [{applyTo: HTTP_FILTER, match: {context: GATEWAY, listener: {portNumber: 80}}, patch: {operation: MERGE, value: {a: {b: [1, {c: d}]}}}}]}"
        }
        "ProxyConfig" => "{concurrency: 2, environmentVariables: {A: b}}",
        "PeerAuthentication" => "{mtls: {mode: STRICT}}",
        "RequestAuthentication" => "{jwtRules: [{issuer: a, jwksUri: 'https://a/jwks', fromHeaders: [{name: x-a}]}]}",
        "AuthorizationPolicy" => "{action: ALLOW, rules: [{from: [{source: {namespaces: [a]}}]}]}",
        "Telemetry" => {
            "{accessLogging: [{providers: [{name: envoy}]}], tracing: [{customTags: {a: {literal: {value: b}}}}]}"
        }
        "WasmPlugin" => {
            "{url: 'oci://a/b', pluginConfig: {a: {b: [1, {c: d}]}}, match: [{mode: SERVER, ports: [{number: 80}]}]}"
        }
        "TrafficExtension" => "{lua: {inlineCode: a}, phase: STATS}",
        other => panic!("{other} has no example here"),
    }
}

#[tokio::test]
async fn every_version_serves_what_any_version_stored_and_status_is_apart() {
    let server = server().await;
    server.namespace("versions").await.unwrap();
    let client = server.client().await.unwrap();
    for info in KINDS {
        let spec: Value = yaml_serde::from_str(spec_of(info.kind)).unwrap();
        for version in info.versions {
            let name = format!("stored-{version}");
            let object: DynamicObject = serde_json::from_value(json!({
                "apiVersion": format!("{}/{version}", info.group),
                "kind": info.kind,
                "metadata": {"name": name},
                "spec": spec,
                "status": {"observedGeneration": "7"},
            }))
            .unwrap();
            api(&client, info, version, "versions").create(&PostParams::default(), &object).await.unwrap();
            for other in info.versions {
                let found = api(&client, info, other, "versions").get(&name).await.unwrap();
                assert_eq!(found.data["spec"], spec, "{} {version} as {other}", info.kind);
                assert_eq!(found.data.get("status"), None, "only its own path writes it");
                assert_eq!(found.types.unwrap().api_version, format!("{}/{other}", info.group));
            }
            let mut status = json!({
                "observedGeneration": "1",
                "conditions": [{"type": "Reconciled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z", "message": "in force", "observedGeneration": 1}],
                "validationMessages": [{"type": {"name": "ReferencedResourceNotFound", "code": "IST0101"}, "level": "ERROR", "documentationUrl": "https://a"}],
            });
            if info.kind == "ServiceEntry" {
                status["addresses"] = json!([{"value": "240.240.0.1", "host": "a.com"}]);
            }
            let written = api(&client, info, version, "versions")
                .patch_status(&name, &PatchParams::default(), &Patch::Merge(json!({"status": status})))
                .await
                .unwrap();
            assert_eq!(written.data["status"], status, "{}", info.kind);
            let wrong = json!({"status": {"validationMessages": [{"level": "TERRIBLE"}]}});
            let refused = api(&client, info, version, "versions")
                .patch_status(&name, &PatchParams::default(), &Patch::Merge(wrong))
                .await
                .unwrap_err();
            assert!(refused.to_string().contains("status.validationMessages[0].level"), "{refused}");
        }
    }
}

#[tokio::test]
async fn unknown_fields_are_dropped_with_a_warning_and_free_ones_kept() {
    let server = server().await;
    server.namespace("unknown").await.unwrap();
    let mut object = route("{route: [{destination: {host: a}, weigth: 5}]}");
    object["spec"]["hostz"] = json!(["b"]);
    let said =
        server.kubectl(&["apply", "-n", "unknown", "--validate=warn", "-f", "-"], &object.to_string()).await.unwrap();
    for field in ["unknown field \"spec.hostz\"", "unknown field \"spec.http[0].route[0].weigth\""] {
        assert!(said.stderr.contains(field), "{}", said.stderr);
    }
    said.ok();
    let kept = server.kubectl(&["get", "-n", "unknown", "vs", "a", "-o", "jsonpath={.spec}"], "").await.unwrap().ok();
    let kept: Value = serde_json::from_str(&kept).unwrap();
    assert_eq!(kept, json!({"hosts": ["a"], "http": [{"route": [{"destination": {"host": "a"}}]}]}));
}

//! Our renderer beside Helm itself: the same charts, the same values, the same objects.
//!
//! `cargo xtask ci` installs Helm; alone: `go install helm.sh/helm/v3/cmd/helm@VERSION`, with the version of `xtask/src/ci/tools.rs`.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use meshctl::install::chart::{self, Chart, Release};
use meshctl::install::object::Object;
use meshctl::install::values::Wishes;
use serde::Deserialize as _;
use serde_json::Value;

/// Charts, and values that reach every branch of their templates.
const CASES: &[(&str, &str)] = &[
    ("base", ""),
    ("base", "defaultRevision: canary"),
    ("base", "defaultRevision: ''"),
    ("controlplane", ""),
    ("controlplane", "{revision: canary, revisionTags: [prod, default]}"),
    ("controlplane", "{revision: '1'}"),
    ("controlplane", "{revision: default, sidecarInjectorWebhook: {enableNamespacesByDefault: true}}"),
    (
        "controlplane",
        "global: {hub: example.com/mesh, tag: v9, imagePullSecrets: [a, b], priorityClassName: system-cluster-critical, network: west,
            multiCluster: {clusterName: west}, defaultPodDisruptionBudget: {enabled: false}, proxy: {resources: {limits: null}}}",
    ),
    (
        "controlplane",
        r#"pilot: {autoscaleEnabled: false, replicaCount: 3, env: {B: "2", A: "x: y"}, extraContainerArgs: [--push-throttle=4], nodeSelector: {a: b},
            affinity: {nodeAffinity: {}}, tolerations: [{operator: Exists}], podAnnotations: {a: "1"}, podLabels: {b: "true"},
            topologySpreadConstraints: [{maxSkew: 2, topologyKey: rack, whenUnsatisfiable: DoNotSchedule}], serviceAnnotations: {c: d},
            serviceAccountAnnotations: {e: f}, ipFamilyPolicy: PreferDualStack, ipFamilies: [IPv6, IPv4], rollingMaxSurge: 1,
            resources: {requests: {cpu: 1, memory: 1.5Gi}}}"#,
    ),
    ("controlplane", "{pilot: {autoscaleBehavior: {scaleDown: {stabilizationWindowSeconds: 1000000}}}}"),
    (
        "controlplane",
        "{sidecarInjectorWebhook: {templates: {mine: \"spec:\\n  hostname: a\\n\"}, defaultTemplates: [sidecar, mine],
            neverInjectSelector: [{matchLabels: {a: b}}]}}",
    ),
    (
        "controlplane",
        "meshConfig: {rootNamespace: root, accessLogFile: /dev/stdout, defaultConfig: {concurrency: 2, proxyMetadata: {A: 'true'}},
            accessLogFormat: \"a\\nb: %REQ(X)%\\n\", trustDomain: td, outboundTrafficPolicy: {mode: REGISTRY_ONLY}, connectTimeout: 10s}",
    ),
    ("controlplane", "meshConfig: {enablePrometheusMerge: null}"),
    ("gateway", ""),
    ("gateway", "{name: istio-egressgateway, revision: canary, kind: DaemonSet, strategy: {type: OnDelete}, service: {type: ClusterIP}}"),
    ("gateway", "{autoscaling: {enabled: false}, replicaCount: 4, strategy: {type: Recreate}, minReadySeconds: 5}"),
    ("gateway", "{autoscaling: {enabled: false}, replicaCount: null, rbac: {enabled: false}, serviceAccount: {create: false, name: other}}"),
    ("gateway", "{autoscaling: {targetMemoryUtilizationPercentage: 70, targetCPUUtilizationPercentage: null, autoscaleBehavior: {scaleUp: {}}}}"),
    (
        "gateway",
        r#"{labels: {app: edge, istio: front, team: "1"}, annotations: {a: b}, podAnnotations: {c: "true"}, networkGateway: west,
            podDisruptionBudget: {minAvailable: 1, unhealthyPodEvictionPolicy: AlwaysAllow}, serviceAccount: {annotations: {d: e}}}"#,
    ),
    (
        "gateway",
        r#"service: {type: LoadBalancer, annotations: {a: b}, loadBalancerIP: 10.0.0.1, loadBalancerClass: c, loadBalancerSourceRanges: [10.0.0.0/8],
            externalTrafficPolicy: Local, externalIPs: [10.0.0.2], ipFamilyPolicy: SingleStack, ipFamilies: [IPv4], clusterIP: 10.0.0.3,
            ports: [{name: a, port: 80, targetPort: 8080}]}"#,
    ),
    ("gateway", "{service: {type: None}, securityContext: {runAsUser: 1}, containerSecurityContext: {privileged: false}}"),
    (
        "gateway",
        r#"{env: {A: "1", B: x}, imagePullPolicy: Always, imagePullSecrets: [{name: s}], nodeSelector: {a: b}, affinity: {podAffinity: {}},
            tolerations: [{operator: Exists}], topologySpreadConstraints: [{maxSkew: 1, topologyKey: z, whenUnsatisfiable: ScheduleAnyway}],
            priorityClassName: p, terminationGracePeriodSeconds: 60, volumes: [{name: v, emptyDir: {}}], volumeMounts: [{name: v, mountPath: /v}]}"#,
    ),
];

/// Values that both must refuse.
const REFUSED: &[(&str, &str)] = &[
    ("base", "defaultRevison: a"),
    ("controlplane", "{pilot: {replicas: 1}}"),
    ("controlplane", "{global: {proxy: {autoInject: sometimes}}}"),
    ("controlplane", "{revision: a.b}"),
    ("gateway", "{kind: StatefulSet}"),
    ("gateway", "{service: {ports: 80}}"),
];

fn helm() -> PathBuf {
    let go = std::env::var_os("GOPATH").map(PathBuf::from);
    let go = go.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join("go")));
    let installed = go.map(|go| go.join("bin/helm")).filter(|path| path.is_file());
    let searched = std::env::var_os("PATH")
        .and_then(|path| std::env::split_paths(&path).map(|folder| folder.join("helm")).find(|path| path.is_file()));
    installed.or(searched).expect("helm is missing; `cargo xtask ci --only test` installs it")
}

fn deploy(path: &str) -> PathBuf {
    Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("../deploy").join(path)
}

/// Helm builds without a version of Kubernetes unless it is released, so it is told one.
fn template(chart: &str, values: &str) -> Output {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), values).unwrap();
    let chart = deploy(&format!("charts/{chart}"));
    let arguments = ["template", "istio-gate", "--namespace", "mesh", "--kube-version", "1.34.0", "--values"];
    Command::new(helm()).args(arguments).args([file.path(), &chart]).output().unwrap()
}

fn ours(chart: &'static str, values: &Value) -> Result<Vec<Object>, chart::ChartError> {
    let release = Release { name: "istio-gate", namespace: "mesh", service: "Helm" };
    Chart::embedded(chart).unwrap().render(&release, values)
}

/// Objects by identity. Texts of YAML inside ConfigMaps are compared by what they mean.
fn by_id(objects: impl IntoIterator<Item = Object>) -> BTreeMap<String, Value> {
    let one = |mut object: Object| {
        for field in object.body.get_mut("data").and_then(Value::as_object_mut).into_iter().flatten() {
            *field.1 = yaml_serde::from_str(field.1.as_str().unwrap()).unwrap();
        }
        (object.id.to_string(), object.body)
    };
    objects.into_iter().map(one).collect()
}

fn check(chart: &'static str, values: &str) {
    let output = template(chart, values);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{chart}: {values}: {said}");
    let text = String::from_utf8(output.stdout).unwrap();
    let documents = yaml_serde::Deserializer::from_str(&text).map(|document| Value::deserialize(document).unwrap());
    let helms = by_id(documents.filter(|document| !document.is_null()).map(|document| Object::new(document).unwrap()));
    let values: Value = yaml_serde::from_str(values).unwrap();
    let values = if values.is_null() { serde_json::json!({}) } else { values };
    let ours = by_id(ours(chart, &values).unwrap());
    assert_eq!(ours.keys().collect::<Vec<_>>(), helms.keys().collect::<Vec<_>>(), "{chart}: {values}");
    for (id, object) in &ours {
        assert_eq!(object, &helms[id], "{chart}: {values}: {id}");
    }
}

#[test]
fn charts_render_as_helm_renders_them() {
    for (chart, values) in CASES {
        check(chart, values);
    }
}

#[test]
fn profiles_render_as_helm_renders_them() {
    for profile in chart::profiles() {
        let wishes = Wishes { sets: vec![format!("profile={profile}")], ..Wishes::default() };
        let installation = wishes.installation(&Value::Null, "mesh").unwrap();
        check("controlplane", &yaml_serde::to_string(&installation.control_plane).unwrap());
        for gateway in installation.gateways {
            check("gateway", &yaml_serde::to_string(&gateway.values).unwrap());
        }
    }
}

#[test]
fn helm_refuses_the_same_values() {
    for (chart, values) in REFUSED {
        let output = template(chart, values);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("schema"), "{chart}: {values}: {said}");
        ours(chart, &yaml_serde::from_str(values).unwrap()).unwrap_err();
    }
}

#[test]
fn helm_finds_no_fault() {
    for chart in ["base", "controlplane", "gateway"] {
        let output =
            Command::new(helm()).args(["lint", "--strict"]).arg(deploy(&format!("charts/{chart}"))).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}

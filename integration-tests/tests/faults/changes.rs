//! Configuration changes at random while everybody talks: no request fails, and nothing is left of what was (BX8).

use std::fmt::Write as _;

use anyhow::{Context, Result, ensure};
use integration_tests::eventually::DEADLINE;
use integration_tests::mesh::{object, service};
use integration_tests::{App, Crowd, Mesh, eventually};
use mesh_controlplane::source::FileSource;
use serde_json::Value;

use super::alone;
use super::base::Base;

const CHANGES: usize = 500;
/// Proxies are let catch up after so many; between, they see only some of the states.
const STRIDE: usize = 25;
/// Everybody is answered at least once in so many.
const PACE: usize = 4;
/// A host with a rule, one with a guard and nothing else, one outside.
const URLS: [&str; 3] = ["http://busy/", "http://echo/", "http://outside.example/"];

/// SplitMix64: the same seed gives the same changes everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }

    fn one<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.below(all.len())]
    }
}

/// The subsets that the rule of `busy` may name; they are always there, beside others that come and go.
const VERSIONS: [&str; 3] = ["v1", "v2", "v3"];

/// A change: a file and what it holds from now on; nothing removes it.
fn change(random: &mut Random, outside: &[u16]) -> (String, String) {
    match random.below(9) {
        0 | 1 => ("busy-rule".into(), rule(random)),
        2 => ("busy-subsets".into(), subsets(random)),
        3 => ("echo-policy".into(), policy(random)),
        4 => ("guard".into(), guard(random)),
        5 => ("outside".into(), entry(random, outside)),
        6 => {
            // Services and rules that nobody here asks.
            let number = random.below(6);
            let text = service("default", &format!("idle-{number}"), random.one(&["echo", "client", "nobody"]));
            (format!("idle-{number}"), if random.below(3) == 0 { String::new() } else { text })
        }
        7 => {
            let number = random.below(20);
            let port = random.one(&["80", "8080", "9000"]);
            let text = format!(
                "{{hosts: [strange-{number}.example], location: MESH_EXTERNAL, resolution: STATIC, ports: [{{number: {port}, name: http, protocol: HTTP}}], endpoints: [{{address: 127.0.7.{}}}]}}",
                1 + random.below(200)
            );
            let text = object("ServiceEntry", "default", &format!("strange-{number}"), &text);
            (format!("strange-{number}"), if random.below(3) == 0 { String::new() } else { text })
        }
        _ => {
            let host = format!("idle-{}", random.below(6));
            let text = object(
                "VirtualService",
                "default",
                &host,
                &format!("{{hosts: [{host}], http: [{{directResponse: {{status: {}}}}}]}}", 200 + random.below(300)),
            );
            (format!("rule-{host}"), if random.below(3) == 0 { String::new() } else { text })
        }
    }
}

fn rule(random: &mut Random) -> String {
    let mut routes = String::new();
    for number in 0..random.below(4) {
        let path = random.one(&["/a", "/b", "/never"]);
        let subset = random.one(&VERSIONS);
        write!(
            routes,
            "{{name: r{number}, match: [{{uri: {{prefix: {path}}}}}], route: [{{destination: {{host: busy, subset: {subset}}}}}]}}, "
        )
        .unwrap();
    }
    let first = random.below(101);
    let more = random.one(&[
        "",
        ", timeout: 10s",
        ", retries: {attempts: 1, retryOn: 5xx}",
        ", headers: {request: {set: {x-a: b}}}",
    ]);
    let (one, two) = (random.one(&VERSIONS), random.one(&VERSIONS));
    let last = match random.below(3) {
        0 => format!("{{route: [{{destination: {{host: busy}}}}]{more}}}"),
        _ => format!(
            "{{route: [{{destination: {{host: busy, subset: {one}}}, weight: {first}}}, {{destination: {{host: busy, subset: {two}}}, weight: {}}}]{more}}}",
            100 - first
        ),
    };
    object("VirtualService", "default", "busy", &format!("{{hosts: [busy], http: [{routes}{last}]}}"))
}

fn traffic_policy(random: &mut Random) -> &'static str {
    random.one(&[
        "{}",
        "{loadBalancer: {simple: ROUND_ROBIN}}",
        "{loadBalancer: {simple: RANDOM}, connectionPool: {http: {maxRequestsPerConnection: 2}}}",
        "{outlierDetection: {consecutive5xxErrors: 3}}",
        "{tls: {mode: ISTIO_MUTUAL}}",
        "{connectionPool: {http: {h2UpgradePolicy: UPGRADE}}}",
    ])
}

fn subsets(random: &mut Random) -> String {
    let mut all: Vec<String> = Vec::new();
    for version in VERSIONS {
        all.push(format!(
            "{{name: {version}, labels: {{version: {version}}}, trafficPolicy: {}}}",
            traffic_policy(random)
        ));
    }
    for number in 0..random.below(3) {
        all.push(format!("{{name: more-{number}, labels: {{version: v1}}}}"));
    }
    let text = format!("{{host: busy, subsets: [{}], trafficPolicy: {}}}", all.join(", "), traffic_policy(random));
    object("DestinationRule", "default", "busy", &text)
}

fn policy(random: &mut Random) -> String {
    let text = format!("{{host: echo, trafficPolicy: {}}}", traffic_policy(random));
    if random.below(3) == 0 { String::new() } else { object("DestinationRule", "default", "echo", &text) }
}

/// Policies that let the load pass.
fn guard(random: &mut Random) -> String {
    let (kind, spec) = match random.below(5) {
        0 => ("AuthorizationPolicy", "rules: [{from: [{source: {principals: ['*/client']}}]}]"),
        1 => ("AuthorizationPolicy", "action: DENY, rules: [{to: [{operation: {methods: [DELETE]}}]}]"),
        2 => ("PeerAuthentication", "mtls: {mode: STRICT}"),
        3 => ("PeerAuthentication", "mtls: {mode: PERMISSIVE}"),
        _ => return String::new(),
    };
    let spec = format!("{{selector: {{matchLabels: {{app: echo}}}}, {spec}}}");
    object(kind, "default", "guard", &spec).replace("networking.istio.io", "security.istio.io")
}

fn entry(random: &mut Random, outside: &[u16]) -> String {
    let mut endpoints: Vec<String> =
        outside.iter().map(|port| format!("{{address: 127.0.0.1, ports: {{http: {port}}}}}")).collect();
    for _ in 0..random.below(outside.len()) {
        endpoints.remove(random.below(endpoints.len()));
    }
    object(
        "ServiceEntry",
        "default",
        "outside",
        &format!(
            "{{hosts: [outside.example], location: MESH_EXTERNAL, resolution: STATIC, ports: [{{number: 80, name: http, protocol: HTTP}}], endpoints: [{}]}}",
            endpoints.join(", ")
        ),
    )
}

/// All that a proxy holds of its control plane, without when it came.
async fn held(mesh: &Mesh, workload: &str) -> Result<Vec<String>> {
    let dump: Value = serde_json::from_str(&mesh.admin(workload, "/config_dump?include_eds=true").await?)?;
    let mut all = Vec::new();
    for config in dump["configs"].as_array().context("configs")? {
        for (field, entries) in config.as_object().into_iter().flatten() {
            // Each proxy has a certificate of its own.
            if field == "dynamic_active_secrets" {
                continue;
            }
            ensure!(!field.contains("warming"), "{workload} waits: {entries}");
            for entry in entries.as_array().into_iter().flatten().filter(|_| field.starts_with("dynamic_")) {
                let mut entry = entry.clone();
                without_times(&mut entry);
                all.push(format!("{field}: {entry}"));
            }
        }
    }
    all.sort();
    Ok(all)
}

fn without_times(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("last_updated");
            fields.values_mut().for_each(without_times);
        }
        Value::Array(list) => list.iter_mut().for_each(without_times),
        _ => {}
    }
}

/// BX8: 500 changes of routes, weights, subsets, policies, services and hosts outside. `FERROMESH_SEED` repeats a run.
#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_changes_at_random_fail_no_request_and_leave_what_a_new_proxy_gets() -> Result<()> {
    let _alone = alone().await;
    let seed = std::env::var("FERROMESH_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        now.as_nanos() as u64
    });
    println!("FERROMESH_SEED={seed}");
    let mut mesh = Mesh::builder().service("echo", 3).client("client").start().await?;
    let mut apps = Vec::new();
    for _ in 0..4 {
        apps.push(App::start("outside", "v1").await?);
    }
    let base = Base::of(&mesh, &["client", "echo-v1", "echo-v2", "echo-v3"]).await?;
    let outside: Vec<u16> = apps.iter().map(|app| app.http.port()).collect();
    // Files of a folder that is not watched: what changed is handed over at once.
    let folder = tempfile::tempdir()?;
    let mut source = FileSource::new([folder.path()])?;
    let mut apply = async |mesh: &Mesh, name: &str, text: &str| {
        std::fs::write(folder.path().join(format!("{name}.yaml")), text)?;
        let update = source.scan();
        ensure!(
            update.findings.iter().all(|one| one.severity != mesh_controlplane::validate::Severity::Error),
            "{:?}",
            update.findings
        );
        mesh.control_plane().apply(update.changes).await;
        Ok(())
    };
    let synced = async |mesh: &Mesh| eventually(DEADLINE, async || mesh.is_synced().await).await;
    let mut random = Random(seed);
    apply(&mesh, "busy-service", &service("default", "busy", "echo")).await?;
    for (name, text) in [("busy-subsets", subsets(&mut random)), ("outside", entry(&mut random, &outside))] {
        apply(&mesh, name, &text).await?;
    }
    synced(&mesh).await?;
    let crowd = Crowd::start(&mesh.client("client"), &URLS);
    for number in 1..=CHANGES {
        let (name, text) = change(&mut random, &outside);
        apply(&mesh, &name, &text).await?;
        if number % PACE == 0 {
            crowd.more(1).await;
        }
        if number % STRIDE == 0 {
            synced(&mesh).await?;
        }
    }
    synced(&mesh).await?;
    crowd.more(5).await;
    crowd.stop().await;

    // What is removed may linger while it is referred to.
    let workloads = ["client", "echo-v1"];
    for workload in workloads {
        let old = eventually(DEADLINE, async || held(&mesh, workload).await).await?;
        mesh.renew_sidecar(workload, |_| {}).await?;
        let new = eventually(DEADLINE, async || held(&mesh, workload).await).await?;
        let more: Vec<&String> = old.iter().filter(|one| !new.contains(one)).collect();
        let less: Vec<&String> = new.iter().filter(|one| !old.contains(one)).collect();
        ensure!(more.is_empty() && less.is_empty(), "{workload} holds {more:#?}\nand a new proxy {less:#?}");
        ensure!(new.len() > 10, "{workload} holds next to nothing: {new:?}");
    }
    for file in std::fs::read_dir(folder.path())? {
        std::fs::write(file?.path(), "")?;
    }
    apply(&mesh, "end", "").await?;
    synced(&mesh).await?;
    base.returns(&mesh).await?;
    mesh.stop().await;
    Ok(())
}

//! Runs the cases of an area against both proxies and compares what was observed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::backend::{Backends, Full, Reserved, Seen};
use super::bootstrap::{Ports, bootstrap};
use super::case::{self, Case, Request};
use super::certificates::Certificates;
use super::client::{Client, Observation, note_headers, show};
use super::proxy::{Kind, Proxy};

/// One proxy with its backends.
struct Side {
    kind: Kind,
    _proxy: Proxy,
    backends: Backends,
    ports: Ports,
    log: PathBuf,
    certificates: Arc<Certificates>,
    _reserved: Vec<Reserved>,
    _full: Full,
    _folder: tempfile::TempDir,
}

/// Runs an area; panics with every difference.
pub fn area(name: &str) {
    let cases = Arc::new(case::load(name));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let certificates = Arc::new(Certificates::new());
    let (envoy, ours) = runtime.block_on(async {
        let envoy = tokio::spawn(all(Kind::Envoy, cases.clone(), certificates.clone()));
        let ours = tokio::spawn(all(Kind::Ours, cases.clone(), certificates.clone()));
        (envoy.await.expect("Envoy's side ran"), ours.await.expect("our side ran"))
    });
    let mut report = String::new();
    let mut wrong = 0;
    for ((case, envoy), ours) in cases.iter().zip(&envoy).zip(&ours) {
        if std::env::var_os("FERROMESH_SHOW").is_some() {
            show_case(case, envoy);
        }
        let differences = super::compare::case(case, envoy, ours);
        if !differences.is_empty() {
            wrong += 1;
            report.push_str(&format!("\n{}/{}: {}\n{}", name, case.name, case.about, differences.join("\n")));
            report.push('\n');
        }
    }
    println!("{name}: {} cases, {wrong} differ", cases.len());
    assert!(wrong == 0, "{report}\n{name}: {wrong} of {} cases differ", cases.len());
}

fn show_case(case: &Case, all: &[Observation]) {
    println!("\n{}: {}", case.name, case.about);
    for (request, observed) in case.requests.iter().zip(all) {
        println!("  {}", super::compare::label(request));
        for (name, value) in observed {
            println!("    {name}: {value}");
        }
    }
}

async fn all(kind: Kind, cases: Arc<Vec<Case>>, certificates: Arc<Certificates>) -> Vec<Vec<Observation>> {
    let mut side = Side::start(kind, &cases, certificates).await;
    let mut results = Vec::new();
    for case in cases.iter() {
        let begun = Instant::now();
        results.push(side.case(case).await);
        if std::env::var_os("FERROMESH_TIMES").is_some() {
            println!("{:?} {} took {:?}", side.kind, case.name, begun.elapsed());
        }
    }
    results
}

impl Side {
    async fn start(kind: Kind, cases: &[Case], certificates: Arc<Certificates>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let backends = Backends::start().await;
        let mut ports = backends.ports.clone();
        let mut reserved = vec![Reserved::new()];
        ports.insert("dead".into(), reserved[0].port);
        let full = Full::new();
        ports.insert("full".into(), full.port);
        for case in cases {
            let own = Reserved::new();
            let before = ports.insert(case.name.clone(), own.port);
            assert!(before.is_none(), "a case cannot be called {}", case.name);
            reserved.push(own);
        }
        let log = folder.path().join("access.log");
        let text = bootstrap(kind, cases, &ports, &log.to_string_lossy(), &certificates);
        let probes: Vec<u16> = cases.iter().map(|case| ports[&case.name]).collect();
        let proxy = Proxy::start(kind, &text, folder.path(), &probes).await;
        Self {
            kind,
            _proxy: proxy,
            backends,
            ports,
            log,
            certificates,
            _reserved: reserved,
            _full: full,
            _folder: folder,
        }
    }

    async fn case(&mut self, case: &Case) -> Vec<Observation> {
        let certificates = self.certificates.clone();
        let mut client = Client::new(self.ports[&case.name], case.mtls.then_some(&*certificates));
        let mut all = Vec::new();
        let mut sent = 0;
        for request in &case.requests {
            let request = &request.filled(self.ports[&case.name]);
            tokio::time::sleep(Duration::from_millis(request.wait)).await;
            self.backends.take(&case.name);
            sent += request.times * request.together;
            let observed = if request.times > 1 {
                self.shares(case, request, &mut client).await
            } else if request.together > 1 {
                self.together(case, request, &certificates).await
            } else {
                let mut observed = client.send(request).await;
                self.settle().await;
                self.note_seen(case, &mut observed);
                observed
            };
            all.push((observed, client.local));
        }
        let expected = case.compare.logs.unwrap_or(sent);
        let lines = self.lines(&case.name, expected).await;
        if lines.len() == all.len() && sent == all.len() {
            for ((observed, _), line) in all.iter_mut().zip(&lines) {
                note_log(observed, line);
            }
        } else if let Some((observed, _)) = all.last_mut() {
            observed.insert("log.lines".into(), lines.len().to_string());
        }
        let mut names: Vec<(String, String)> = Vec::new();
        if self.kind == Kind::Envoy {
            // For a client on loopback Envoy tells the machine's own address.
            let own = std::net::UdpSocket::bind("0.0.0.0:0")
                .and_then(|socket| socket.connect("192.0.2.1:9").and_then(|()| socket.local_addr()));
            if let Ok(own) = own {
                names.push((own.ip().to_string(), "127.0.0.1".into()));
            }
        }
        for (name, port) in &self.ports {
            let name = if *name == case.name { "listener" } else { name.as_str() };
            names.push((format!(":{port}"), format!(":{{{name}}}")));
        }
        all.into_iter()
            .map(|(observed, local)| {
                let mut names = names.clone();
                names.push((format!(":{local}"), ":{client}".into()));
                observed.into_iter().map(|(name, value)| (name, replaced(value, &names))).collect()
            })
            .collect()
    }

    /// Waits a moment for bodies that a backend still reads.
    async fn settle(&self) {
        let until = Instant::now() + Duration::from_millis(100);
        while !self.backends.settled() && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn note_seen(&self, case: &Case, observed: &mut Observation) {
        let all = self.backends.take(&case.name);
        observed.insert("tries".into(), all.len().to_string());
        let mut connections: Vec<usize> = Vec::new();
        for (index, seen) in all.iter().enumerate() {
            let number = connections.iter().position(|known| *known == seen.connection).unwrap_or_else(|| {
                connections.push(seen.connection);
                connections.len() - 1
            });
            note_one(observed, &format!("seen.{}", index + 1), seen, number);
        }
    }

    /// How often each status and backend answered.
    async fn shares(&self, case: &Case, request: &Request, client: &mut Client<'_>) -> Observation {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        let kept = Request { keep: true, times: 1, ..request.clone() };
        for _ in 0..request.times {
            let one = client.send(&kept).await;
            let get = |name: &str| one.get(name).map_or("-", String::as_str);
            *counts.entry(format!("share.{} from {}", get("status"), get("header.x-backend"))).or_default() += 1;
        }
        self.backends.take(&case.name);
        counts.into_iter().map(|(name, count)| (name, count.to_string())).collect()
    }

    /// Many at once.
    async fn together(&self, case: &Case, request: &Request, certificates: &Certificates) -> Observation {
        let port = self.ports[&case.name];
        let mut clients: Vec<Client<'_>> =
            (0..request.together).map(|_| Client::new(port, case.mtls.then_some(certificates))).collect();
        let answers = futures_util::future::join_all(clients.iter_mut().map(|client| client.send(request))).await;
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for one in answers {
            let get = |name: &str| one.get(name).map_or("-", String::as_str);
            let name =
                format!("count.{} {} overloaded={}", get("status"), get("body"), get("header.x-envoy-overloaded"));
            *counts.entry(name).or_default() += 1;
        }
        self.settle().await;
        let seen = self.backends.take(&case.name);
        let mut observed: Observation = counts.into_iter().map(|(name, count)| (name, count.to_string())).collect();
        observed.insert("tries".into(), seen.len().to_string());
        observed
    }

    /// The access-log lines of a case, once there are as many as expected.
    async fn lines(&self, case: &str, expected: usize) -> Vec<Value> {
        let until = Instant::now() + Duration::from_secs(3);
        loop {
            let text = std::fs::read_to_string(&self.log).unwrap_or_default();
            let whole = text.rfind('\n').map_or("", |end| &text[..end]);
            let lines: Vec<Value> = whole
                .lines()
                .filter_map(|line| serde_json::from_str::<Value>(line).ok())
                .filter(|line| line["case"] == case)
                .collect();
            if lines.len() >= expected || Instant::now() > until {
                return lines;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn note_one(observed: &mut Observation, prefix: &str, seen: &Seen, connection: usize) {
    for (name, value) in [
        ("backend", seen.backend.clone()),
        ("connection", connection.to_string()),
        ("version", seen.version.clone()),
        ("method", seen.method.clone()),
        ("path", seen.path.clone()),
        ("authority", seen.authority.clone()),
        ("body", show(&seen.body)),
        ("whole", seen.whole.to_string()),
    ] {
        observed.insert(format!("{prefix}.{name}"), value);
    }
    note_headers(observed, &format!("{prefix}.header"), &seen.headers);
    note_headers(observed, &format!("{prefix}.trailer"), &seen.trailers);
}

fn note_log(observed: &mut Observation, line: &Value) {
    for (name, value) in line.as_object().into_iter().flatten() {
        let text = match value {
            Value::Null => "-".to_owned(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        if name != "case" {
            observed.insert(format!("log.{name}"), text);
        }
    }
}

/// Ports become names, wherever no digit follows.
fn replaced(mut text: String, names: &[(String, String)]) -> String {
    for (from, to) in names {
        let mut start = 0;
        while let Some(at) = text[start..].find(from.as_str()).map(|at| at + start) {
            let end = at + from.len();
            if text[end..].starts_with(|next: char| next.is_ascii_digit()) {
                start = end;
            } else {
                text.replace_range(at..end, to);
                start = at + to.len();
            }
        }
    }
    text
}

//! A case as it stands in `cases/AREA/NAME.yaml`: configuration, requests, and what may differ.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

/// One file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// `NAME` of the file.
    #[serde(skip)]
    pub name: String,
    /// One sentence: what is compared.
    #[allow(dead_code)]
    pub about: String,
    /// Merged into the listener.
    #[serde(default)]
    pub listener: Value,
    /// Merged into the `HttpConnectionManager`.
    #[serde(default)]
    pub hcm: Value,
    /// HTTP filters before the router.
    #[serde(default)]
    pub filters: Vec<Value>,
    /// Network filters before the last one.
    #[serde(default)]
    pub network: Vec<Value>,
    /// A `TcpProxy` instead of the `HttpConnectionManager`.
    #[serde(default)]
    pub tcp: Option<Value>,
    /// The listener asks for a client certificate, and the client has one.
    #[serde(default)]
    pub mtls: bool,
    /// A `RouteConfiguration`, or a list of routes for every host; by default everything goes to cluster `a`.
    #[serde(default)]
    pub routes: Value,
    /// Clusters beside the fixed ones. `hosts: [a, b]` stands for a load assignment of these backends.
    #[serde(default)]
    pub clusters: Vec<Value>,
    /// Sent in this order.
    pub requests: Vec<Request>,
    /// What is left out of the comparison.
    #[serde(default)]
    pub compare: Compare,
    /// Why requests that carry `ours` are answered otherwise, on purpose.
    #[serde(default)]
    pub differs: Option<String>,
}

/// What is left out of the comparison of a case.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compare {
    /// Names of observations (`log.details`), or their beginnings (`seen.`).
    #[serde(default)]
    pub ignore: Vec<String>,
    /// Access-log lines that the whole case writes, if not one a request.
    #[serde(default)]
    pub logs: Option<usize>,
}

/// A protocol towards the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    #[serde(rename = "h1")]
    Http11,
    /// HTTP/1.0.
    #[serde(rename = "h1.0")]
    Http10,
    /// HTTP/2 with prior knowledge.
    #[serde(rename = "h2")]
    Http2,
    /// Bytes: those of `body` are sent, the answer is read until the end.
    #[serde(rename = "tcp")]
    Tcp,
}

/// Pairs in order; a map where order and repetition do not matter.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(untagged)]
pub enum Headers {
    /// None.
    #[default]
    None,
    /// As a map.
    Map(BTreeMap<String, String>),
    /// As a list.
    List(Vec<(String, String)>),
}

impl Headers {
    /// All pairs.
    pub fn pairs(&self) -> Vec<(String, String)> {
        match self {
            Self::None => Vec::new(),
            Self::Map(map) => map.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
            Self::List(list) => list.clone(),
        }
    }
}

/// Bytes to be written as they are, in one piece or several.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Raw {
    /// In one.
    One(String),
    /// With a pause in between.
    Pieces(Vec<String>),
}

/// A request.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Protocol.
    #[serde(default)]
    pub protocol: Protocol,
    /// Method.
    #[serde(default = "get")]
    pub method: String,
    /// Path with query, or the whole target.
    #[serde(default = "root")]
    pub path: String,
    /// `Host` or `:authority`; empty for none.
    #[serde(default = "host")]
    pub host: String,
    /// `:scheme` of HTTP/2.
    #[serde(default = "http")]
    pub scheme: String,
    /// Other headers.
    #[serde(default)]
    pub headers: Headers,
    /// Body.
    #[serde(default)]
    pub body: Option<String>,
    /// A body of so many bytes.
    #[serde(default)]
    pub body_bytes: Option<usize>,
    /// HTTP/1: the body in chunks.
    #[serde(default)]
    pub chunked: bool,
    /// After the body.
    #[serde(default)]
    pub trailers: Headers,
    /// Written as it is, in place of all of the above; read until the end or `responses`.
    #[serde(default)]
    pub raw: Option<Raw>,
    /// Answers to read after `raw`.
    #[serde(default)]
    pub responses: Option<usize>,
    /// Milliseconds before the request.
    #[serde(default)]
    pub wait: u64,
    /// Milliseconds between head and body, or between pieces of `raw`.
    #[serde(default)]
    pub pause: u64,
    /// The client goes away after so many milliseconds.
    #[serde(default)]
    pub abort: Option<u64>,
    /// The client closes its side after the request.
    #[serde(default)]
    pub half_close: bool,
    /// Goes on the connection of the request before.
    #[serde(default)]
    pub keep: bool,
    /// How the backend behaves; see `script.rs`.
    #[serde(default, rename = "do")]
    pub script: Option<String>,
    /// Sent after a switch of protocols; the answer is observed.
    #[serde(default)]
    pub after_upgrade: Option<String>,
    /// Sent so often; only the shares of answers and backends are compared.
    #[serde(default = "one")]
    pub times: usize,
    /// So many at once, each on its own connection.
    #[serde(default = "one")]
    pub together: usize,
    /// Status that Envoy gives, so that a case that tests nothing is found out.
    #[serde(default)]
    pub want: Option<u16>,
    /// What we answer instead of what Envoy answers, by name of observation; `null` for an observation that there must not be.
    #[serde(default)]
    pub ours: Option<BTreeMap<String, Value>>,
}

fn get() -> String {
    "GET".into()
}
fn root() -> String {
    "/".into()
}
fn host() -> String {
    "example.com".into()
}
fn http() -> String {
    "http".into()
}
fn one() -> usize {
    1
}

impl Request {
    /// All headers, the backend's script among them.
    pub fn all_headers(&self) -> Vec<(String, String)> {
        let mut all = self.headers.pairs();
        if let Some(script) = &self.script {
            all.push(("x-do".into(), script.clone()));
        }
        all
    }

    /// Placeholders replaced: `{{listener}}` is the listener's port, `{{1000}}` a text of that length, and a header of value
    /// `{{many 100}}` stands for so many headers.
    pub fn filled(&self, port: u16) -> Self {
        let mut filled = self.clone();
        filled.host = fill(&self.host, port);
        filled.path = fill(&self.path, port);
        let mut headers = Vec::new();
        for (name, value) in self.headers.pairs() {
            match value.strip_prefix("{{many ").and_then(|rest| rest.strip_suffix("}}")) {
                Some(count) => {
                    let count: usize = count.parse().expect("a number of headers");
                    headers.extend((0..count).map(|index| (format!("{name}-{index}"), "m".to_owned())));
                }
                None => headers.push((name, fill(&value, port))),
            }
        }
        filled.headers = Headers::List(headers);
        filled
    }

    /// The whole body.
    pub fn whole_body(&self) -> Option<Vec<u8>> {
        match (&self.body, self.body_bytes) {
            (Some(text), _) => Some(text.clone().into_bytes()),
            (None, Some(length)) => Some(vec![b'x'; length]),
            (None, None) => self.chunked.then(Vec::new),
        }
    }
}

fn fill(text: &str, port: u16) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        let (inside, after) = after.split_once("}}").expect("a placeholder is closed");
        out.push_str(before);
        match inside.parse() {
            Ok(length) => out.push_str(&"l".repeat(length)),
            Err(_) if inside == "listener" => out.push_str(&port.to_string()),
            Err(_) => panic!("no placeholder {inside}"),
        }
        rest = after;
    }
    out + rest
}

/// All cases of an area, by name. With `FERROMESH_CASE=NAME` only that one.
pub fn load(area: &str) -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/differential/cases").join(area);
    let only = std::env::var("FERROMESH_CASE").ok();
    let mut cases = Vec::new();
    for entry in std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.expect("a folder is read").path();
        let name = path.file_stem().expect("a file has a name").to_string_lossy().into_owned();
        if only.as_ref().is_some_and(|only| *only != name) {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("a case is read");
        let value: Value = yaml_serde::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut case: Case =
            serde_json::from_value(value).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(
            case.differs.is_some(),
            case.requests.iter().any(|request| request.ours.is_some()),
            "{}: `differs` and `ours` go together",
            path.display()
        );
        case.name = name;
        cases.push(case);
    }
    cases.sort_by(|one, other| one.name.cmp(&other.name));
    cases
}

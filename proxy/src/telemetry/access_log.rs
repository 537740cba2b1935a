//! Access logs in Envoy's format strings: compiled once, written at the end of a request or connection.
//!
//! Lines go through a bounded queue to a thread of their own, so that a slow disk never slows a request; lines that do not fit are
//! counted. Source of the operators: <https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage>.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use parking_lot::Mutex;

use super::record::Record;

/// Lines that wait for the disk at most.
const QUEUE: usize = 16_384;

/// Log files by path; each has one writing thread.
#[derive(Debug, Clone, Default)]
pub struct Writers(Arc<Mutex<HashMap<String, Arc<Writer>>>>);

/// The way to one file.
#[derive(Debug)]
pub struct Writer {
    queue: SyncSender<String>,
    /// Lines that did not fit into the queue.
    pub dropped: AtomicU64,
}

impl Writers {
    /// The writer of `path`; `/dev/stdout` and `/dev/stderr` are this process's own.
    pub fn open(&self, path: &str) -> std::io::Result<Arc<Writer>> {
        let mut all = self.0.lock();
        if let Some(writer) = all.get(path) {
            return Ok(writer.clone());
        }
        let sink: Box<dyn std::io::Write + Send> = match path {
            "/dev/stdout" => Box::new(std::io::stdout()),
            "/dev/stderr" => Box::new(std::io::stderr()),
            path => Box::new(std::fs::OpenOptions::new().create(true).append(true).open(path)?),
        };
        let (queue, lines) = sync_channel(QUEUE);
        std::thread::Builder::new().name("access-log".into()).spawn(move || write_lines(sink, &lines))?;
        let writer = Arc::new(Writer { queue, dropped: AtomicU64::new(0) });
        all.insert(path.to_owned(), writer.clone());
        Ok(writer)
    }

    /// Lines dropped so far.
    pub fn dropped(&self) -> u64 {
        self.0.lock().values().map(|writer| writer.dropped.load(Ordering::Relaxed)).sum()
    }
}

fn write_lines(sink: Box<dyn std::io::Write + Send>, lines: &Receiver<String>) {
    let mut sink = std::io::BufWriter::new(sink);
    while let Ok(line) = lines.recv() {
        let mut written = sink.write_all(line.as_bytes());
        while let Ok(line) = lines.try_recv() {
            written = written.and_then(|()| sink.write_all(line.as_bytes()));
        }
        if let Err(error) = written.and_then(|()| sink.flush()) {
            tracing::warn!(%error, "cannot write the access log");
        }
    }
}

/// A log with its compiled format.
#[derive(Debug)]
pub struct AccessLog {
    format: Format,
    omit_empty: bool,
    writer: Arc<Writer>,
}

/// A compiled format.
#[derive(Debug)]
pub enum Format {
    /// Text; Envoy adds no line end of its own.
    Text(Vec<Operator>),
    /// One JSON object a line, by key.
    Json(Vec<(String, Vec<Operator>)>),
}

/// A piece of a format.
#[derive(Debug, Clone, PartialEq)]
pub enum Operator {
    /// As written.
    Text(String),
    /// A value.
    Value(Value, Option<usize>),
}

/// What an operator stands for.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum Value {
    StartTime(Option<String>),
    Request(String, Option<String>, bool),
    Response(String),
    Trailer(String),
    Protocol,
    ResponseCode,
    ResponseFlags,
    ResponseCodeDetails,
    TerminationDetails,
    UpstreamFailure,
    BytesReceived,
    BytesSent,
    Duration,
    UpstreamHost,
    UpstreamHostWithoutPort,
    UpstreamCluster,
    UpstreamLocalAddress,
    DownstreamLocalAddress,
    DownstreamLocalPort,
    DownstreamRemoteAddress,
    DownstreamRemoteAddressWithoutPort,
    DownstreamDirectRemoteAddress,
    RequestedServerName,
    RouteName,
    PeerUriSan,
    LocalUriSan,
    PeerSubject,
    TlsVersion,
    TlsCipher,
    UpstreamPeerUriSan,
    UpstreamTlsVersion,
    AttemptCount,
    GrpcStatus,
    ConnectionId,
    Hostname,
}

/// Compiles a text format. Errors name the operator.
pub fn parse(text: &str) -> Result<Vec<Operator>, String> {
    let mut operators = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find('%') {
        if start > 0 {
            operators.push(Operator::Text(rest[..start].to_owned()));
        }
        let after = &rest[start + 1..];
        // An argument in parentheses may hold `%` itself, as time formats do.
        let open = after.find('(').filter(|at| *at < after.find('%').unwrap_or(usize::MAX));
        let search_from = match open {
            Some(at) => at + after[at..].find(')').ok_or("a `(` is not closed")?,
            None => 0,
        };
        let end = search_from + after[search_from..].find('%').ok_or("a single `%`; write `%%` for the character")?;
        operators.push(operator(&after[..end])?);
        rest = &after[end + 1..];
    }
    if !rest.is_empty() {
        operators.push(Operator::Text(rest.to_owned()));
    }
    Ok(operators)
}

fn operator(text: &str) -> Result<Operator, String> {
    if text.is_empty() {
        return Ok(Operator::Text("%".into()));
    }
    let (text, length) = match text.rsplit_once(':') {
        Some((head, digits)) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            (head, digits.parse().ok())
        }
        _ => (text, None),
    };
    let (name, argument) = match text.split_once('(') {
        Some((name, argument)) => (name, argument.strip_suffix(')')),
        None => (text, None),
    };
    let header = || argument.ok_or_else(|| format!("%{name}% needs a header name"));
    let request = |without_query| -> Result<Value, String> {
        let argument = header()?;
        let (first, second) =
            argument.split_once('?').map_or((argument, None), |(first, second)| (first, Some(second)));
        Ok(Value::Request(first.to_ascii_lowercase(), second.map(str::to_ascii_lowercase), without_query))
    };
    let value = match name {
        "START_TIME" => Value::StartTime(argument.filter(|format| !format.is_empty()).map(str::to_owned)),
        "REQ" => request(false)?,
        "REQ_WITHOUT_QUERY" => request(true)?,
        "RESP" => Value::Response(header()?.to_ascii_lowercase()),
        "TRAILER" => Value::Trailer(header()?.to_ascii_lowercase()),
        "PROTOCOL" => Value::Protocol,
        "RESPONSE_CODE" => Value::ResponseCode,
        "RESPONSE_FLAGS" => Value::ResponseFlags,
        "RESPONSE_CODE_DETAILS" => Value::ResponseCodeDetails,
        "CONNECTION_TERMINATION_DETAILS" => Value::TerminationDetails,
        "UPSTREAM_TRANSPORT_FAILURE_REASON" => Value::UpstreamFailure,
        "BYTES_RECEIVED" => Value::BytesReceived,
        "BYTES_SENT" => Value::BytesSent,
        "DURATION" => Value::Duration,
        "UPSTREAM_HOST" | "UPSTREAM_REMOTE_ADDRESS" => Value::UpstreamHost,
        "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => Value::UpstreamHostWithoutPort,
        "UPSTREAM_CLUSTER" | "UPSTREAM_CLUSTER_RAW" => Value::UpstreamCluster,
        "UPSTREAM_LOCAL_ADDRESS" => Value::UpstreamLocalAddress,
        "DOWNSTREAM_LOCAL_ADDRESS" => Value::DownstreamLocalAddress,
        "DOWNSTREAM_LOCAL_PORT" => Value::DownstreamLocalPort,
        "DOWNSTREAM_REMOTE_ADDRESS" => Value::DownstreamRemoteAddress,
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => Value::DownstreamRemoteAddressWithoutPort,
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => Value::DownstreamDirectRemoteAddress,
        "REQUESTED_SERVER_NAME" => Value::RequestedServerName,
        "ROUTE_NAME" => Value::RouteName,
        "DOWNSTREAM_PEER_URI_SAN" => Value::PeerUriSan,
        "DOWNSTREAM_LOCAL_URI_SAN" => Value::LocalUriSan,
        "DOWNSTREAM_PEER_SUBJECT" => Value::PeerSubject,
        "DOWNSTREAM_TLS_VERSION" => Value::TlsVersion,
        "DOWNSTREAM_TLS_CIPHER" => Value::TlsCipher,
        "UPSTREAM_PEER_URI_SAN" => Value::UpstreamPeerUriSan,
        "UPSTREAM_TLS_VERSION" => Value::UpstreamTlsVersion,
        "UPSTREAM_REQUEST_ATTEMPT_COUNT" => Value::AttemptCount,
        "GRPC_STATUS" | "GRPC_STATUS_NUMBER" => Value::GrpcStatus,
        "CONNECTION_ID" => Value::ConnectionId,
        "HOSTNAME" => Value::Hostname,
        other => return Err(format!("the operator %{other}% is not supported")),
    };
    Ok(Operator::Value(value, length))
}

impl AccessLog {
    /// A log of this format. With `omit_empty` a value that is not there is nothing in a text, where it would be `-`, and has no key in
    /// JSON, where it would be `null` (Envoy's `omit_empty_values`).
    pub fn new(format: Format, omit_empty: bool, writer: Arc<Writer>) -> Self {
        Self { format, omit_empty, writer }
    }

    /// Writes a line.
    pub fn write(&self, record: &Record) {
        let line = match &self.format {
            Format::Text(operators) => {
                let mut line = String::with_capacity(512);
                text_of(operators, record, self.omit_empty, &mut line);
                line
            }
            Format::Json(fields) => json_line(fields, record, self.omit_empty),
        };
        if self.writer.queue.try_send(line).is_err() {
            self.writer.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Appends a text, with a stand-in for values that are not there.
fn text_of(operators: &[Operator], record: &Record, omit_empty: bool, text: &mut String) {
    let missing = if omit_empty { "" } else { "-" };
    for operator in operators {
        match operator {
            Operator::Text(piece) => text.push_str(piece),
            Operator::Value(value, length) => {
                text.push_str(cut(render(value, record).as_deref().unwrap_or(missing), *length));
            }
        }
    }
}

fn json_line(fields: &[(String, Vec<Operator>)], record: &Record, omit_empty: bool) -> String {
    let mut map = serde_json::Map::with_capacity(fields.len());
    for (key, operators) in fields {
        let value = match operators.as_slice() {
            // A single operator keeps its type, as Envoy's JSON does.
            [Operator::Value(value, length)] => match render(value, record) {
                None if omit_empty => continue,
                None => serde_json::Value::Null,
                Some(text) if is_number(value) => {
                    text.parse::<u64>().map_or_else(|_| text.clone().into(), serde_json::Value::from)
                }
                Some(text) => cut(&text, *length).into(),
            },
            operators => {
                let mut text = String::new();
                text_of(operators, record, omit_empty, &mut text);
                text.into()
            }
        };
        map.insert(key.clone(), value);
    }
    let mut line = serde_json::Value::Object(map).to_string();
    line.push('\n');
    line
}

fn is_number(value: &Value) -> bool {
    matches!(
        value,
        Value::ResponseCode
            | Value::BytesReceived
            | Value::BytesSent
            | Value::Duration
            | Value::AttemptCount
            | Value::ConnectionId
            | Value::DownstreamLocalPort
    )
}

fn cut(text: &str, length: Option<usize>) -> &str {
    match length {
        Some(length) if length < text.len() => {
            let mut end = length;
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            &text[..end]
        }
        _ => text,
    }
}

fn header(headers: Option<&http::HeaderMap>, name: &str) -> Option<String> {
    headers?.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

fn request_value(record: &Record, name: &str) -> Option<String> {
    let head = record.request_head.as_deref()?;
    match name {
        ":method" => Some(head.method.to_string()),
        ":path" if head.method == http::Method::CONNECT => None,
        ":path" => Some(head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned()),
        ":authority" => {
            let named = head.uri.authority().map(|authority| authority.to_string());
            named.or_else(|| header(Some(&head.headers), "host"))
        }
        ":scheme" => head.uri.scheme_str().map(str::to_owned),
        name => header(Some(&head.headers), name),
    }
}

fn sans(tls: Option<&crate::tls::TlsInfo>) -> Option<String> {
    let peer = tls?.peer.as_deref()?;
    let all: Vec<&str> = peer.uri_sans.iter().map(|san| &**san).collect();
    (!all.is_empty()).then(|| all.join(","))
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn render(value: &Value, record: &Record) -> Option<String> {
    let tls = record.conn.tls.as_deref();
    match value {
        Value::StartTime(format) => Some(start_time(record, format.as_deref())),
        Value::Request(first, second, without_query) => {
            let found = request_value(record, first).or_else(|| request_value(record, second.as_deref()?))?;
            Some(if *without_query { found.split('?').next().unwrap_or_default().to_owned() } else { found })
        }
        Value::Response(name) => header(record.response_headers.as_deref(), name),
        Value::Trailer(name) => header(record.response_trailers.as_deref(), name),
        Value::Protocol => record.protocol.map(|version| format!("{version:?}").replace("HTTP/2.0", "HTTP/2")),
        Value::ResponseCode => Some(record.status.to_string()),
        Value::ResponseFlags => Some(flags(record)),
        Value::ResponseCodeDetails => record.details.as_ref().map(|text| text.to_string()),
        Value::TerminationDetails => record.termination.as_ref().map(|text| text.to_string()),
        Value::UpstreamFailure => record.upstream_failure.as_ref().map(|text| text.to_string()),
        Value::BytesReceived => Some(record.bytes_received.to_string()),
        Value::BytesSent => Some(record.bytes_sent.to_string()),
        Value::Duration => Some(record.start.elapsed().as_millis().to_string()),
        Value::UpstreamHost => record.endpoint.as_ref().map(|endpoint| endpoint.spec.address.to_string()),
        Value::UpstreamHostWithoutPort => record.endpoint.as_ref().map(|endpoint| match &endpoint.spec.address {
            crate::balance::Address::Ip(address) => address.ip().to_string(),
            other => other.to_string(),
        }),
        Value::UpstreamCluster => {
            let used = record.cluster.as_ref().map(|cluster| &cluster.config.name);
            used.or(record.cluster_name.as_ref()).map(|name| name.to_string())
        }
        Value::UpstreamLocalAddress => record.upstream_local.map(|address| address.to_string()),
        Value::DownstreamLocalAddress => Some(record.conn.local.to_string()),
        Value::DownstreamLocalPort => Some(record.conn.local.port().to_string()),
        Value::DownstreamRemoteAddress => Some(match record.client {
            // A header tells no port.
            Some(client) => std::net::SocketAddr::new(client, 0).to_string(),
            None => record.conn.peer.to_string(),
        }),
        Value::DownstreamRemoteAddressWithoutPort => {
            Some(record.client.unwrap_or_else(|| record.conn.peer.ip()).to_string())
        }
        Value::DownstreamDirectRemoteAddress => Some(record.conn.direct_peer.to_string()),
        Value::RequestedServerName => record.conn.server_name.as_deref().map(str::to_owned),
        Value::RouteName => record.route_name.as_deref().map(str::to_owned),
        Value::PeerUriSan => sans(tls),
        Value::LocalUriSan => tls.and_then(|tls| some(&tls.local_uri_sans)),
        Value::PeerSubject => tls.and_then(|tls| some(&tls.peer.as_deref()?.subject)),
        Value::TlsVersion => tls.map(|tls| tls.version.to_owned()),
        Value::TlsCipher => tls.map(|tls| tls.cipher.clone()),
        Value::UpstreamPeerUriSan => sans(record.upstream_tls.as_deref()),
        Value::UpstreamTlsVersion => record.upstream_tls.as_deref().map(|tls| tls.version.to_owned()),
        Value::AttemptCount => Some(record.attempts.to_string()),
        Value::GrpcStatus => record.grpc_status.map(|status| status.to_string()),
        Value::ConnectionId => Some(record.conn.id.to_string()),
        Value::Hostname => Some(crate::policy::headers::hostname().to_owned()),
    }
}

/// Response flags in the order in which Envoy sets them, which differs between HTTP and TCP.
fn flags(record: &Record) -> String {
    use super::record::Flags;
    let last = record.protocol.is_none() && record.flags.has(Flags::URX) && record.flags != Flags::URX;
    if last { format!("{},URX", Flags(record.flags.0 & !Flags::URX.0)) } else { record.flags.to_string() }
}

fn start_time(record: &Record, format: Option<&str>) -> String {
    let time = jiff::Timestamp::try_from(record.start_time).unwrap_or_default();
    match format {
        None => time.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string(),
        Some(format) => {
            let mut text = String::new();
            match write!(text, "{}", time.strftime(format)) {
                Ok(()) => text,
                Err(_) => time.to_string(),
            }
        }
    }
}

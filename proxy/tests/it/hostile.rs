//! Malformed and hostile bytes over raw sockets, HTTP/1 and TLS: each is refused and its connection closed, or served in canonical form;
//! nothing in it reaches an endpoint as a request of its own, and the neighbours on the same worker notice nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh_proxy::app::Proxy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;

use super::support::{self, Front, within};

/// An endpoint that understands only what is canonical, and remembers every request line.
#[derive(Clone)]
pub struct Origin {
    pub address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Origin {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = Self { address: listener.local_addr().unwrap(), heads: Arc::default() };
        let served = origin.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(served.clone().serve(stream));
            }
        });
        origin
    }

    async fn serve(self, mut stream: TcpStream) -> Option<()> {
        let mut buffer = Vec::new();
        loop {
            let end = until(&mut stream, &mut buffer, b"\r\n\r\n").await?;
            let head = String::from_utf8(buffer.drain(..end).collect()).expect("canonical heads are text");
            self.heads.lock().await.push(head.clone());
            let lower = head.to_ascii_lowercase();
            if lower.contains("transfer-encoding: chunked\r\n") {
                loop {
                    let end = until(&mut stream, &mut buffer, b"\r\n").await?;
                    let line: Vec<u8> = buffer.drain(..end).collect();
                    let size = usize::from_str_radix(std::str::from_utf8(&line).unwrap().trim(), 16).unwrap();
                    while buffer.len() < size + 2 {
                        more(&mut stream, &mut buffer).await?;
                    }
                    buffer.drain(..size + 2);
                    if size == 0 {
                        break;
                    }
                }
            } else if let Some(length) = lower.lines().find_map(|line| line.strip_prefix("content-length: ")) {
                let length: usize = length.parse().unwrap();
                while buffer.len() < length {
                    more(&mut stream, &mut buffer).await?;
                }
                buffer.drain(..length);
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.ok()?;
        }
    }

    /// Heads since the last call.
    pub async fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.heads.lock().await)
    }
}

async fn more(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<()> {
    (stream.read_buf(buffer).await.ok()? > 0).then_some(())
}

async fn until(stream: &mut TcpStream, buffer: &mut Vec<u8>, mark: &[u8]) -> Option<usize> {
    loop {
        if let Some(at) = buffer.windows(mark.len()).position(|window| window == mark) {
            return Some(at + mark.len());
        }
        more(stream, buffer).await?;
    }
}

/// A connection that stands while others misbehave.
pub struct Bystander(TcpStream);

impl Bystander {
    pub async fn at(address: SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.unwrap())
    }

    /// Does a request, on the same connection each time.
    pub async fn check(&mut self, after: &str) {
        self.0.write_all(b"GET /bystander HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let mut buffer = Vec::new();
        let end = within(until(&mut self.0, &mut buffer, b"\r\n\r\nok")).await;
        let answer = String::from_utf8_lossy(&buffer);
        assert!(end.is_some() && answer.starts_with("HTTP/1.1 200"), "after `{after}`: {answer}");
    }
}

/// Sends bytes and reads until the proxy closes; the second is false if it did not within two seconds.
pub async fn talk(address: SocketAddr, bytes: &[u8]) -> (Vec<u8>, bool) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // A proxy that refuses early closes while we still write.
    let _ = stream.write_all(bytes).await;
    let mut all = Vec::new();
    let read = async {
        let mut chunk = [0; 4096];
        // A reset ends a connection as well as a close does.
        while let Ok(count @ 1..) = stream.read(&mut chunk).await {
            all.extend_from_slice(&chunk[..count]);
        }
    };
    let closed = tokio::time::timeout(Duration::from_secs(2), read).await.is_ok();
    (all, closed)
}

enum Expect {
    /// One of these statuses, then the end of the connection; nothing reaches the endpoint.
    Refused(&'static [u16]),
    /// The connection ends, whatever was said; nothing reaches the endpoint.
    Closed,
    /// Exactly these request lines reach the endpoint, and the connection ends.
    Only(&'static [&'static str]),
}
use Expect::{Closed, Only, Refused};

const BAD: Expect = Refused(&[400]);

fn long(template: &str) -> Vec<u8> {
    template.replace("LONG", &"x".repeat(70_000)).into_bytes()
}

fn http1() -> Vec<(&'static str, Vec<u8>, Expect)> {
    let mut cases: Vec<(&'static str, Vec<u8>, Expect)> = vec![
        ("header too long", long("GET / HTTP/1.1\r\nhost: a\r\nx: LONG\r\n\r\n"), Refused(&[431])),
        ("target too long", long("GET /LONG HTTP/1.1\r\nhost: a\r\n\r\n"), Refused(&[414, 431])),
        ("method without end", long("LONG"), Refused(&[400, 431])),
        (
            "too many headers",
            format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: y\r\n".repeat(300)).into_bytes(),
            Refused(&[431]),
        ),
        ("TLS on a plaintext port", b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00\r\n\r\n".to_vec(), Refused(&[400])),
    ];
    for (what, text, expect) in [
        (
            "content-length before transfer-encoding",
            "POST /one HTTP/1.1\r\nhost: a\r\ncontent-length: 44\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /evil HTTP/1.1\r\nhost: a\r\n\r\n",
            Only(&["POST /one HTTP/1.1"]),
        ),
        (
            "transfer-encoding before content-length",
            "POST /one HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\nGET /evil HTTP/1.1\r\nhost: a\r\n\r\n",
            Only(&["POST /one HTTP/1.1"]),
        ),
        (
            "chunked is not last",
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
            BAD,
        ),
        (
            "two transfer-encodings",
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n",
            BAD,
        ),
        (
            "unknown transfer-encoding",
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
            BAD,
        ),
        (
            "vertical tab in encoding",
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
            BAD,
        ),
        ("chunked in HTTP/1.0", "POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", BAD),
        ("two lengths", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab", BAD),
        ("length with sign", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +1\r\n\r\na", BAD),
        ("negative length", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\na", BAD),
        ("hexadecimal length", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0x1\r\n\r\na", BAD),
        ("list of lengths", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1, 1\r\n\r\na", BAD),
        ("length beyond 64 bits", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 18446744073709551617\r\n\r\na", BAD),
        ("space before colon", "GET / HTTP/1.1\r\nhost : a\r\n\r\n", BAD),
        ("space before colon of a length", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length : 5\r\n\r\nGET /", BAD),
        ("folded header", "GET / HTTP/1.1\r\nhost: a\r\nx: 1\r\n 2\r\n\r\n", BAD),
        ("header without colon", "GET / HTTP/1.1\r\nhost: a\r\nnothing\r\n\r\n", BAD),
        ("empty header name", "GET / HTTP/1.1\r\nhost: a\r\n: x\r\n\r\n", BAD),
        ("carriage return in a value", "GET / HTTP/1.1\r\nhost: a\r\nx: 1\ry: 2\r\n\r\n", BAD),
        ("NUL in a value", "GET / HTTP/1.1\r\nhost: a\r\nx: 1\0\r\n\r\n", BAD),
        ("NUL in a name", "GET / HTTP/1.1\r\nhost: a\r\nx\0: 1\r\n\r\n", BAD),
        ("odd version", "GET / HTTP/1.32\r\nhost: a\r\n\r\n", Refused(&[400, 505])),
        ("version 2 in text", "GET / HTTP/2.0\r\nhost: a\r\n\r\n", Refused(&[400, 505])),
        ("no version", "GET /\r\n\r\n", Refused(&[400])),
        ("broken preface", "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", Closed),
        ("no host", "GET / HTTP/1.1\r\n\r\nGET /evil HTTP/1.1\r\nhost: a\r\n\r\n", BAD),
        ("two hosts", "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\nGET /evil HTTP/1.1\r\nhost: a\r\n\r\n", BAD),
        ("host with a path", "GET / HTTP/1.1\r\nhost: a/b\r\n\r\n", BAD),
        ("host with user", "GET / HTTP/1.1\r\nhost: b@a\r\n\r\n", BAD),
        ("target with user", "GET http://u@a/ HTTP/1.1\r\nhost: a\r\n\r\n", BAD),
        ("target without slash", "GET evil HTTP/1.1\r\nhost: a\r\n\r\n", BAD),
        ("target of another scheme", "GET ftp://a/ HTTP/1.1\r\nhost: a\r\n\r\n", BAD),
        ("space in target", "GET /a b HTTP/1.1\r\nhost: a\r\n\r\n", BAD),
        ("path above the root", "GET /../evil HTTP/1.1\r\nhost: a\r\n\r\n", BAD),
        ("escaped path above the root", "GET /a/%2e%2E/%2e./evil HTTP/1.1\r\nhost: a\r\n\r\n", BAD),
        ("NUL in a path", "GET /a%00b HTTP/1.1\r\nhost: a\r\n\r\n", BAD),
        (
            "upgrade with a body",
            "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\ncontent-length: 32\r\n\r\nGET /evil HTTP/1.1\r\nhost: a\r\n\r\n",
            BAD,
        ),
        (
            "upgrade with chunks",
            "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            BAD,
        ),
        (
            "absolute target and another host",
            "GET http://a/one HTTP/1.1\r\nhost: b\r\nconnection: close\r\n\r\n",
            Only(&["GET /one HTTP/1.1"]),
        ),
        ("bare line feeds", "GET /one HTTP/1.1\nhost: a\nconnection: close\n\n", Only(&["GET /one HTTP/1.1"])),
        (
            "chunk extension",
            "POST /one HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n2;x=\"y\"\r\nab\r\n0\r\n\r\n",
            Only(&["POST /one HTTP/1.1"]),
        ),
        (
            "h2c offer",
            "GET /one HTTP/1.1\r\nhost: a\r\nconnection: upgrade, http2-settings, close\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n\r\n",
            Only(&["GET /one HTTP/1.1"]),
        ),
    ] {
        cases.push((what, text.as_bytes().to_vec(), expect));
    }
    cases
}

pub fn status(answer: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(answer.get(..12)?).ok()?;
    line.strip_prefix("HTTP/1.1 ")?.parse().ok()
}

pub async fn start() -> (Origin, Proxy, SocketAddr) {
    let origin = Origin::start().await;
    let manager = "normalize_path: true, upgrade_configs: [{upgrade_type: websocket}],";
    let (proxy, address) = Front::to(origin.address).manager(manager).start().await;
    (origin, proxy, address)
}

#[tokio::test]
async fn malformed_http1_is_refused_or_made_canonical() {
    let (origin, _proxy, address) = start().await;
    let mut bystander = Bystander::at(address).await;
    let mut wrong = Vec::new();
    for (what, bytes, expect) in http1() {
        let (answer, closed) = talk(address, &bytes).await;
        let reached: Vec<String> = origin.take().await;
        let lines: Vec<&str> = reached.iter().filter_map(|head| head.lines().next()).collect();
        let text = String::from_utf8_lossy(&answer);
        let as_expected = match expect {
            Refused(statuses) => lines.is_empty() && status(&answer).is_some_and(|status| statuses.contains(&status)),
            Closed => lines.is_empty(),
            Only(expected) => lines == expected && status(&answer) == Some(200),
        };
        if !closed || !as_expected {
            wrong.push(format!("{what}: closed {closed}, reached {lines:?}, answer {text:.60?}"));
        }
        bystander.check(what).await;
        origin.take().await;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A body that turns out to be malformed on the way cannot be answered with 400 for certain; but it must not become a whole one.
#[tokio::test]
async fn malformed_chunks_never_end_a_request_at_the_endpoint() {
    let (origin, _proxy, address) = start().await;
    let mut bystander = Bystander::at(address).await;
    for body in [
        "0x2\r\nab\r\n0\r\n\r\n",
        "2_0\r\nab\r\n0\r\n\r\n",
        "+2\r\nab\r\n0\r\n\r\n",
        "-1\r\nab\r\n0\r\n\r\n",
        "2\r\nabc\r\n0\r\n\r\n",
        "\r\n0\r\n\r\n",
        "ffffffffffffffffff\r\nab\r\n0\r\n\r\n",
        "2\rab\r\n0\r\n\r\n",
    ] {
        let evil = "GET /evil HTTP/1.1\r\nhost: a\r\n\r\n";
        let bytes = format!("POST /one HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{body}{evil}");
        let (answer, closed) = talk(address, bytes.as_bytes()).await;
        assert!(closed, "{body:?}");
        assert_ne!(status(&answer), Some(200), "{body:?}");
        let reached = origin.take().await;
        assert!(!reached.iter().any(|head| head.contains("/evil")), "{body:?}: {reached:?}");
        bystander.check(body).await;
        origin.take().await;
    }
}

#[tokio::test]
async fn heads_that_come_slowly_and_connections_that_say_nothing_are_closed() {
    let origin = Origin::start().await;
    let manager = "common_http_protocol_options: {idle_timeout: 0.5s}, request_headers_timeout: 0.5s,";
    let (_proxy, address) = Front::to(origin.address).manager(manager).start().await;
    for bytes in [&b""[..], b"GET / HT", b"GET / HTTP/1.1\r\nhost: a\r\nx: "] {
        let (_, closed) = talk(address, bytes).await;
        assert!(closed, "{bytes:?}");
    }
    assert!(origin.take().await.is_empty());
}

fn tls_front(origin: SocketAddr) -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["a".to_owned()]).unwrap().self_signed(&key).unwrap();
    let inline = |pem: String| serde_json::to_string(&pem).unwrap();
    let socket = format!(
        "{{name: tls, typed_config: {{'@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, common_tls_context: {{tls_certificates: [{{certificate_chain: {{inline_string: {}}}, private_key: {{inline_string: {}}}}}]}}}}}}",
        inline(certificate.pem()),
        inline(key.serialize_pem())
    );
    let filter = support::http_filter("", "{match: {prefix: /}, route: {cluster: backend}}");
    let plain = support::listener("plain", &filter);
    let chain = format!("[{{transport_socket: {socket}, filters: [");
    let tls = support::listener("tls", &filter).replacen("[{filters: [", &chain, 1);
    format!(
        "{{static_resources: {{listeners: [{plain}, {tls}], clusters: [{}]}}}}",
        support::cluster("backend", &[origin], "")
    )
}

#[tokio::test]
async fn malformed_tls_ends_its_connection_only() {
    let origin = Origin::start().await;
    let proxy = support::proxy(&tls_front(origin.address)).await;
    let (plain, tls) = (proxy.listener_addr("plain").unwrap(), proxy.listener_addr("tls").unwrap());
    let mut bystander = Bystander::at(plain).await;
    let hello = |version: u8| {
        // A hello of an old version with one suite and no extensions.
        let mut body = vec![3, version];
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0, 0x2f, 1, 0]);
        let mut message = vec![1, 0, 0, body.len() as u8];
        message.extend(&body);
        let mut record = vec![22, 3, 1, 0, message.len() as u8];
        record.extend(&message);
        record
    };
    for (what, bytes) in [
        ("plaintext HTTP", b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec()),
        ("SSLv2 hello", b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10\x01\x00\x80".to_vec()),
        ("SSLv3 hello", hello(0)),
        ("TLS 1.0 hello", hello(1)),
        ("hello without a shared suite", hello(3)),
        ("record too long", [&[22, 3, 1, 0xff, 0xff][..], &[0; 70_000]].concat()),
        ("empty handshake record", vec![22, 3, 1, 0, 0, 22, 3, 1, 0, 0]),
        ("application data first", vec![23, 3, 3, 0, 2, 1, 1]),
        ("an alert", vec![21, 3, 3, 0, 2, 2, 40]),
        ("not a hello", vec![22, 3, 1, 0, 4, 2, 0, 0, 0]),
        ("hello with lengths that lie", vec![22, 3, 1, 0, 8, 1, 0, 0, 4, 3, 3, 0xff, 0xff]),
    ] {
        let (answer, closed) = talk(tls, &bytes).await;
        assert!(closed, "{what}");
        // A clean alert, or nothing.
        assert!(answer.is_empty() || answer[0] == 21, "{what}: {answer:?}");
        bystander.check(what).await;
    }
    let reached = origin.take().await;
    assert!(reached.iter().all(|head| head.starts_with("GET /bystander")), "{reached:?}");
}

/// A client that ends inside its PROXY header is let go at once; it kept its worker busy for as long as the listener waits, here for ever.
#[tokio::test]
async fn a_client_that_ends_inside_its_proxy_header_is_let_go() {
    let origin = Origin::start().await;
    let http = support::http_filter("", "{match: {prefix: /}, route: {cluster: backend}}");
    let filter = "{name: proxy, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol}}";
    let listener = support::listener("front", &http).replacen(
        '{',
        &format!("{{listener_filters_timeout: 0s, listener_filters: [{filter}], "),
        1,
    );
    let clusters = support::cluster("backend", &[origin.address], "");
    let proxy =
        support::proxy(&format!("{{static_resources: {{listeners: [{listener}], clusters: [{clusters}]}}}}")).await;
    let front = proxy.listener_addr("front").unwrap();
    for sent in [&b"PROXY TCP4 10.0.0.1 10."[..], b"\r\n\r\n\0\r\nQUIT\n\x21\x11"] {
        let mut stream = TcpStream::connect(front).await.unwrap();
        stream.write_all(sent).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        // Closed or reset, but over.
        let _ = within(stream.read_to_end(&mut answer)).await;
        assert_eq!(answer, b"");
    }
    proxy.stop().await;
}

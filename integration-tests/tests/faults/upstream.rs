//! Servers that break: each fault has its bounded error and its response flag, in the access log and in the metrics, and disturbs
//! neither other servers nor other streams of the same client (BX11).

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Request, Response};
use integration_tests::certs::Authority;
use integration_tests::eventually::DEADLINE;
use integration_tests::mesh::object;
use integration_tests::{App, Crowd, Mesh, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::alone;
use super::base::Base;

/// A way to break.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// Reads the request, and resets.
    Reset,
    /// Reads the request, and closes in order.
    Close,
    /// Closes its side at once, and goes on reading.
    HalfClose,
    /// Begins an answer of 100 bytes, and resets.
    ResetBody,
    /// Begins an answer of 100 bytes, and says no more.
    StallBody,
    /// Never answers.
    Silent,
    /// Answers a TLS hello with the alert `handshake_failure` (RFC 8446, section 6).
    Alert,
    /// Answers what is no HTTP.
    Garbage,
}

/// Hosts outside with what each does: fault, fields of its rule, status for the client, flag.
const HTTP1: &[(&str, Fault, &str, u16, &str)] = &[
    ("reset", Fault::Reset, "", 503, "UC"),
    ("close", Fault::Close, "", 503, "UC"),
    ("half-close", Fault::HalfClose, "", 503, "UC"),
    // The answer had begun, so it breaks off.
    ("reset-body", Fault::ResetBody, "", 0, "UPE"),
    ("stall-body", Fault::StallBody, ", timeout: 0.4s", 0, "UT"),
    ("silent", Fault::Silent, ", timeout: 0.4s", 504, "UT"),
    ("alert", Fault::Alert, "", 503, "UF"),
    ("garbage", Fault::Garbage, "", 502, "UPE"),
];

async fn serve(fault: Fault, mut stream: TcpStream) -> Result<()> {
    let mut head = Vec::new();
    if matches!(fault, Fault::HalfClose) {
        stream.shutdown().await?;
    }
    let tls = matches!(fault, Fault::Alert);
    while !(head.ends_with(b"\r\n\r\n") || tls && !head.is_empty()) {
        ensure!(stream.read_buf(&mut head).await? > 0, "the client has gone");
    }
    let begin = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nfirst bytes";
    match fault {
        Fault::Reset => stream.set_zero_linger()?,
        Fault::Close | Fault::HalfClose => {}
        Fault::Alert => stream.write_all(&[21, 3, 3, 0, 2, 2, 40]).await?,
        Fault::Garbage => stream.write_all(b"220 mail.example ESMTP\r\n").await?,
        Fault::ResetBody => {
            stream.write_all(begin).await?;
            // A reset overtakes what was not read: the client of this test says when it has it.
            FIRST_BYTES.acquire().await?.forget();
            stream.set_zero_linger()?;
        }
        Fault::StallBody => {
            stream.write_all(begin).await?;
            while stream.read_buf(&mut head).await? > 0 {}
        }
        Fault::Silent => while stream.read_buf(&mut head).await? > 0 {},
    }
    Ok(())
}

/// A permit for each answer that is to break off and whose first bytes have come to the client.
static FIRST_BYTES: Semaphore = Semaphore::const_new(0);

async fn listen<F>(tasks: &mut JoinSet<()>, serve: impl Fn(TcpStream) -> F + Send + 'static) -> Result<SocketAddr>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tasks.spawn(async move {
        let mut all = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            all.spawn(serve(stream));
        }
    });
    Ok(address)
}

/// A host outside at an address, whose requests are not tried again.
pub fn outside(host: &str, protocol: &str, address: SocketAddr, rule: &str, policy: &str) -> String {
    let entry = format!(
        "{{hosts: [{host}.example], location: MESH_EXTERNAL, resolution: STATIC, ports: [{{number: 80, name: {}, protocol: {protocol}}}], endpoints: [{{address: {}, ports: {{{0}: {}}}}}]}}",
        protocol.to_lowercase(),
        address.ip(),
        address.port()
    );
    let rule = format!(
        "{{hosts: [{host}.example], http: [{{route: [{{destination: {{host: {host}.example}}}}], retries: {{attempts: 0}}{rule}}}]}}"
    );
    let policy = match policy {
        "" => String::new(),
        policy => {
            object("DestinationRule", "default", host, &format!("{{host: {host}.example, trafficPolicy: {policy}}}"))
        }
    };
    object("ServiceEntry", "default", host, &entry) + &object("VirtualService", "default", host, &rule) + &policy
}

/// A connection on which streams stand while others break.
struct Neighbours {
    sender: h2::client::SendRequest<Bytes>,
    uploads: Vec<(h2::SendStream<Bytes>, h2::client::ResponseFuture)>,
    tasks: JoinSet<()>,
}

impl Neighbours {
    async fn start(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        let (sender, connection) = h2::client::handshake(stream).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { drop(connection.await) });
        Ok(Self { sender, uploads: Vec::new(), tasks })
    }

    /// Begins a request to a server that is well; it is finished by [`Neighbours::finish`].
    async fn begin(&mut self, host: &str) -> Result<()> {
        self.sender = self.sender.clone().ready().await?;
        let request = Request::post(format!("http://{host}/")).body(())?;
        let (answer, mut body) = self.sender.send_request(request, false)?;
        body.send_data("half".into(), false)?;
        self.uploads.push((body, answer));
        Ok(())
    }

    /// The status of a whole request on the same connection, 0 if the stream is reset.
    async fn ask(&mut self, url: &str, breaks: bool) -> Result<u16> {
        self.sender = self.sender.clone().ready().await?;
        let (answer, _) = self.sender.send_request(Request::get(url).body(())?, true)?;
        let Ok(answer) = timeout(DEADLINE, answer).await.context("no answer")? else { return Ok(0) };
        let (head, mut body) = answer.into_parts();
        let mut first = breaks;
        while let Some(data) = body.data().await {
            if std::mem::take(&mut first) {
                FIRST_BYTES.add_permits(1);
            }
            let Ok(data) = data else { return Ok(0) };
            body.flow_control().release_capacity(data.len())?;
        }
        Ok(head.status.as_u16())
    }

    async fn finish(mut self) -> Result<()> {
        for (mut body, answer) in self.uploads.drain(..) {
            body.send_data("rest".into(), true).context("a neighbour's stream is gone")?;
            let answer = timeout(DEADLINE, answer).await?.context("a neighbour's stream is gone")?;
            ensure!(answer.status() == 200, "a neighbour got {}", answer.status());
        }
        drop(self.sender);
        self.tasks.shutdown().await;
        Ok(())
    }
}

/// The status of a request on an HTTP/1 connection of its own, 0 if the answer breaks off.
async fn http1(address: SocketAddr, host: &str, breaks: bool) -> Result<u16> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("GET / HTTP/1.1\r\nhost: {host}.example\r\nconnection: close\r\n\r\n").as_bytes()).await?;
    let (mut answer, mut first) = (Vec::new(), breaks);
    while let Ok(1..) = stream.read_buf(&mut answer).await {
        if first && answer.ends_with(b"first bytes") {
            FIRST_BYTES.add_permits(1);
            first = false;
        }
    }
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).context("no answer")?;
    Ok(if answer.ends_with("first bytes") { 0 } else { status.parse()? })
}

/// Checks what log and metrics say of the one request to a host.
async fn accounted(mesh: &Mesh, host: &str, path: &str, status: u16, flag: &str) -> Result<()> {
    let lines = mesh.log(|line| line["authority"] == format!("{host}.example") && line["path"] == *path).await?;
    let line = lines.last().context("no line")?;
    ensure!(line["response_flags"] == *flag, "{host}: the log says {}, not {flag}: {line}", line["response_flags"]);
    // What broke off had a good head.
    let status = if status == 0 { 200 } else { status };
    ensure!(line["response_code"] == status, "{host}: the log says {}, not {status}", line["response_code"]);
    until("the metrics know", async || {
        let Ok(metrics) = mesh.metrics("client").await else { return false };
        let count = metrics.sum("istio_requests_total", |sample| {
            sample.label("destination_service") == format!("{host}.example")
                && sample.label("response_flags") == flag
                && sample.label("response_code") == status.to_string()
        });
        count >= 1.0
    })
    .await;
    Ok(())
}

/// A port whose queue of connections is full: the system answers no other.
fn full() -> Result<(TcpListener, SocketAddr)> {
    let socket = TcpSocket::new_v4()?;
    socket.bind("127.0.0.1:0".parse()?)?;
    let listener = socket.listen(1)?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// BX11: every fault of a server of HTTP/1, of TLS, and of the way to it.
#[tokio::test(flavor = "multi_thread")]
async fn broken_servers_cost_what_they_must_and_disturb_nobody() -> Result<()> {
    let _alone = alone().await;
    let mesh = Mesh::builder().service("echo", 1).client("client").start().await?;
    let base = Base::of(&mesh, &["client", "echo-v1"]).await?;
    let client = mesh.client("client");
    let mut tasks = JoinSet::new();
    let mut yaml = String::new();
    for (host, fault, rule, ..) in HTTP1 {
        let fault = *fault;
        let address = listen(&mut tasks, move |stream| serve(fault, stream)).await?;
        let policy = if matches!(fault, Fault::Alert) { "{tls: {mode: SIMPLE, insecureSkipVerify: true}}" } else { "" };
        yaml.push_str(&outside(host, "HTTP", address, rule, policy));
    }
    let authority = Authority::new("outside")?;
    let mut strict = App::start("strict", "v1").await?;
    let wants_certificate = strict.serve_tls(&authority.issue(&["strict.example"])?, Some(authority.pem())).await?;
    yaml.push_str(&outside("strict", "HTTP", wants_certificate, "", "{tls: {mode: SIMPLE, insecureSkipVerify: true}}"));
    let (refused, nobody) = full()?;
    drop(refused);
    yaml.push_str(&outside("refused", "HTTP", nobody, "", ""));
    let (_queue, black_hole) = full()?;
    let mut waiting = Vec::new();
    while let Ok(Ok(stream)) = timeout(Duration::from_millis(200), TcpStream::connect(black_hole)).await {
        waiting.push(stream);
    }
    yaml.push_str(&outside("black-hole", "HTTP", black_hole, "", "{connectionPool: {tcp: {connectTimeout: 0.3s}}}"));
    mesh.apply_as("outside", &yaml).await?;

    let others = HTTP1.iter().map(|(host, _, _, status, flag)| (*host, *status, *flag));
    // In TLS 1.3 a server refuses a client only after the handshake that the client takes for good.
    let others = others.chain([("strict", 503, "UC"), ("refused", 503, "UF"), ("black-hole", 503, "UF")]);
    let crowd = Crowd::start(&client, &["http://echo/"]);
    let mut neighbours = Neighbours::start(client.address()).await?;
    for (host, status, flag) in others {
        neighbours.begin("echo").await?;
        let url = format!("http://{host}.example/");
        let breaks = host == "reset-body";
        let got = neighbours.ask(&url, breaks).await?;
        ensure!(got == status, "{host}: {got}, not {status}");
        accounted(&mesh, host, "/", status, flag).await?;
        let got = http1(client.address(), host, breaks).await?;
        ensure!(got == status, "{host} over HTTP/1: {got}, not {status}");
    }
    crowd.more(5).await;
    neighbours.finish().await?;
    crowd.stop().await;
    mesh.delete("outside").await?;
    drop((strict, waiting, _queue));
    tasks.shutdown().await;
    base.returns(&mesh).await?;
    mesh.stop().await;
    Ok(())
}

/// Codes of RST_STREAM and GOAWAY (RFC 9113, section 7).
const CODES: std::ops::RangeInclusive<u32> = 0..=13;

/// A server of HTTP/2: `/reset/CODE` and `/body/CODE` reset the stream before and in the answer, `/goaway` and `/abrupt/CODE` end
/// the connection, anything else is echoed.
async fn http2(stream: TcpStream) -> Result<()> {
    let mut connection = h2::server::handshake(stream).await?;
    let mut all = JoinSet::new();
    while let Some(accepted) = connection.accept().await {
        let (request, mut respond) = accepted?;
        let path = request.uri().path().to_owned();
        let code = path.rsplit('/').next().and_then(|code| code.parse::<u32>().ok()).unwrap_or_default();
        if path.starts_with("/abrupt/") {
            connection.abrupt_shutdown(code.into());
            continue;
        }
        if path == "/goaway" {
            connection.graceful_shutdown();
        }
        all.spawn(async move {
            if path.starts_with("/reset/") {
                respond.send_reset(code.into());
                return Ok(());
            }
            let mut body = request.into_body();
            while let Some(data) = body.data().await {
                body.flow_control().release_capacity(data?.len())?;
            }
            let mut answer = respond.send_response(Response::new(()), false)?;
            if path.starts_with("/body/") {
                answer.send_data("first bytes".into(), false)?;
                FIRST_BYTES.acquire().await?.forget();
                answer.send_reset(code.into());
                return Ok(());
            }
            answer.send_data("done".into(), true)?;
            anyhow::Ok(())
        });
    }
    Ok(())
}

/// BX11: every code of RST_STREAM and GOAWAY; streams of the same connection to the server stand, as far as GOAWAY lets them.
#[tokio::test(flavor = "multi_thread")]
async fn resets_and_goaways_of_a_server_end_what_they_name_and_nothing_else() -> Result<()> {
    let _alone = alone().await;
    let mesh = Mesh::builder().service("echo", 1).client("client").start().await?;
    let base = Base::of(&mesh, &["client", "echo-v1"]).await?;
    let client = mesh.client("client");
    let mut tasks = JoinSet::new();
    let address = listen(&mut tasks, http2).await?;
    let broken = listen(&mut tasks, http2).await?;
    let yaml = outside("streams", "HTTP2", address, "", "") + &outside("ends", "HTTP2", broken, "", "");
    mesh.apply_as("outside", &yaml).await?;
    let crowd = Crowd::start(&client, &["http://echo/", "http://streams.example/"]);
    let mut neighbours = Neighbours::start(client.address()).await?;
    neighbours.begin("streams.example").await?;
    for code in CODES {
        neighbours.begin("echo").await?;
        let got = neighbours.ask(&format!("http://streams.example/reset/{code}"), false).await?;
        ensure!(got == 503, "RST_STREAM {code} before the answer: {got}");
        accounted(&mesh, "streams", &format!("/reset/{code}"), 503, "UR").await?;
        // NO_ERROR after a whole answer would be its end; in the middle of one it is a break like the others.
        let got = neighbours.ask(&format!("http://streams.example/body/{code}"), true).await?;
        ensure!(got == 0, "RST_STREAM {code} in the answer: {got}");
        accounted(&mesh, "streams", &format!("/body/{code}"), 0, "UR").await?;
    }
    // In order: what is under way is answered, and what comes goes to a new connection.
    neighbours.begin("ends.example").await?;
    let got = neighbours.ask("http://ends.example/goaway", false).await?;
    ensure!(got == 200, "GOAWAY in order: {got}");
    let got = neighbours.ask("http://ends.example/", false).await?;
    ensure!(got == 200, "after GOAWAY in order: {got}");
    neighbours.finish().await?;
    let mut neighbours = Neighbours::start(client.address()).await?;
    for code in CODES {
        neighbours.begin("echo").await?;
        neighbours.begin("streams.example").await?;
        let got = neighbours.ask(&format!("http://ends.example/abrupt/{code}"), false).await?;
        ensure!(got == 503, "GOAWAY {code} at once: {got}");
        let got = neighbours.ask("http://ends.example/", false).await?;
        ensure!(got == 200, "after GOAWAY {code} at once: {got}");
    }
    neighbours.finish().await?;
    crowd.more(5).await;
    crowd.stop().await;
    mesh.delete("outside").await?;
    tasks.shutdown().await;
    base.returns(&mesh).await?;
    mesh.stop().await;
    Ok(())
}

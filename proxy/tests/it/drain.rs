//! SIGTERM to the process: idle connections end in order, what is under way finishes, and what does not is cut when the time is over.

use std::net::SocketAddr;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::StreamBody;
use hyper::body::{Frame, Incoming};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::support::*;
use crate::tcp::tcp_filter;
use crate::upgrade::{WEBSOCKET, echo, echoes, head, switching};
use crate::{grpc, limits};

/// Time that no test needs whole.
const LONG: Duration = Duration::from_secs(60);
/// What an end in order may take, starts and stops of threads included.
const SOON: Duration = Duration::from_secs(15);

/// The proxy's program, with a listener for each protocol.
struct Process {
    child: Child,
    web: SocketAddr,
    calls: SocketAddr,
    sockets: SocketAddr,
    raw: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Process {
    async fn start(drain: Duration, app: SocketAddr) -> Self {
        Self::start_with(&["--drain-time", &drain.as_secs().to_string()], app).await
    }

    async fn start_with(flags: &[&str], app: SocketAddr) -> Self {
        let (calls, raw) = (grpc::echo().await.address, echo().await);
        let switching =
            switching("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
        let route = |cluster: &str| format!("{{match: {{prefix: /}}, route: {{cluster: {cluster}, timeout: 0s}}}}");
        let listeners = [
            listener("web", &http_filter("", &route("web"))),
            listener("calls", &http_filter("", &route("calls"))),
            listener("sockets", &http_filter("upgrade_configs: [{upgrade_type: websocket}],", &route("sockets"))),
            listener("raw", &tcp_filter("raw")),
        ];
        let clusters = [
            cluster("web", &[app], ""),
            cluster("calls", &[calls], HTTP2),
            cluster("sockets", &[switching], ""),
            cluster("raw", &[raw], ""),
        ];
        let yaml = format!(
            "{{static_resources: {{listeners: [{}], clusters: [{}]}}}}",
            listeners.join(", "),
            clusters.join(", ")
        );
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("bootstrap.yaml");
        std::fs::write(&file, yaml).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_mesh-proxy"))
            .args(["run", "--workers", "2", "--log-format", "json"])
            .args(flags)
            .arg("-c")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut found = std::collections::HashMap::new();
        while found.len() < 4 {
            let line = within(lines.next_line()).await.unwrap().expect("the proxy ended");
            let value = |key: &str| Some(line.split_once(&format!("\"{key}\":\""))?.1.split('"').next()?.to_owned());
            if let (Some(name), Some(address)) = (value("listener"), value("address")) {
                found.insert(name, address.parse::<SocketAddr>().unwrap());
            }
        }
        // A pipe that nobody reads would stop the proxy's log.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let at = |name: &str| found[name];
        let (web, calls, sockets, raw) = (at("web"), at("calls"), at("sockets"), at("raw"));
        Self { child, web, calls, sockets, raw, _folder: folder }
    }

    fn terminate(&self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().unwrap().try_into().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    }

    async fn refuses(&self) {
        for address in [self.web, self.calls, self.sockets, self.raw] {
            eventually("new connections are refused", async || TcpStream::connect(address).await.is_err()).await;
        }
    }

    async fn ends(mut self) -> ExitStatus {
        within(self.child.wait()).await.unwrap()
    }
}

/// An HTTP/1 connection in use.
struct Kept {
    stream: TcpStream,
}

impl Kept {
    async fn open(address: SocketAddr, path: &str) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await.unwrap();
        Self { stream }
    }

    /// Reads an answer whose body is `ok`.
    async fn answer(&mut self) -> String {
        let mut all = Vec::new();
        while !all.ends_with(b"ok") {
            assert!(within(self.stream.read_buf(&mut all)).await.unwrap() > 0, "{}", String::from_utf8_lossy(&all));
        }
        String::from_utf8(all).unwrap()
    }

    async fn ends(&mut self) {
        assert_eq!(within(self.stream.read(&mut [0; 1])).await.unwrap_or(0), 0, "the connection goes on");
    }
}

type Ended = JoinHandle<Result<(), h2::Error>>;

/// An HTTP/2 connection; the task ends with it, without an error only after GOAWAY in order.
async fn http2(address: SocketAddr) -> (h2::client::SendRequest<Bytes>, Ended) {
    let (sender, connection) = h2::client::handshake(TcpStream::connect(address).await.unwrap()).await.unwrap();
    (sender, tokio::spawn(connection))
}

async fn ask(sender: &mut h2::client::SendRequest<Bytes>, path: &str) -> h2::client::ResponseFuture {
    *sender = sender.clone().ready().await.unwrap();
    sender.send_request(Request::get(format!("http://a{path}")).body(()).unwrap(), true).unwrap().0
}

async fn done(answer: h2::client::ResponseFuture) -> Bytes {
    let mut body = within(answer).await.unwrap().into_body();
    let mut all = Vec::new();
    while let Some(data) = within(body.data()).await {
        all.extend_from_slice(&data.unwrap());
    }
    all.into()
}

/// A gRPC stream: what sends on it, and what comes back.
async fn call(address: SocketAddr) -> (UnboundedSender<Result<Frame<Bytes>, std::convert::Infallible>>, Incoming) {
    let mut client = crate::support::http2(address).await;
    let (sender, receiver) = unbounded_channel();
    let body: AnyBody = http_body_util::BodyExt::boxed(StreamBody::new(UnboundedReceiverStream::new(receiver)));
    let response: Response<Incoming> = within(client.send_request(grpc::grpc(address, body))).await.unwrap();
    assert_eq!(response.status(), 200);
    (sender, response.into_body())
}

async fn speaks(
    sender: &UnboundedSender<Result<Frame<Bytes>, std::convert::Infallible>>,
    answers: &mut Incoming,
    text: &str,
) {
    sender.send(Ok(Frame::data(grpc::message(text)))).unwrap();
    let frame = within(http_body_util::BodyExt::frame(answers)).await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), grpc::message(text));
}

async fn websocket(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(WEBSOCKET.as_bytes()).await.unwrap();
    assert!(head(&mut stream).await.starts_with("HTTP/1.1 101"));
    echoes(&mut stream).await;
    stream
}

/// One exchange of each protocol.
struct UnderWay {
    one: Kept,
    two: (h2::client::SendRequest<Bytes>, Ended),
    answer: h2::client::ResponseFuture,
    sender: UnboundedSender<Result<Frame<Bytes>, std::convert::Infallible>>,
    answers: Incoming,
    socket: TcpStream,
    tcp: TcpStream,
}

impl UnderWay {
    async fn start(process: &Process, app: &Application) -> Self {
        let one = Kept::open(process.web, "/").await;
        let (mut two, ended) = http2(process.web).await;
        let answer = ask(&mut two, "/").await;
        eventually("both are under way", async || app.requests() == 2).await;
        let (sender, mut answers) = call(process.calls).await;
        speaks(&sender, &mut answers, "before").await;
        let socket = websocket(process.sockets).await;
        let mut tcp = TcpStream::connect(process.raw).await.unwrap();
        echoes(&mut tcp).await;
        Self { one, two: (two, ended), answer, sender, answers, socket, tcp }
    }

    /// Sends the signal, and sees that all streams go on; returns when that was.
    async fn survives_the_signal(&mut self, process: &Process) -> Instant {
        let started = Instant::now();
        process.terminate();
        process.refuses().await;
        speaks(&self.sender, &mut self.answers, "while draining").await;
        echoes(&mut self.socket).await;
        echoes(&mut self.tcp).await;
        started
    }
}

/// Idle: HTTP/1 is closed, HTTP/2 and gRPC hear GOAWAY, and the process waits for nobody.
#[tokio::test(flavor = "multi_thread")]
async fn a_terminated_process_closes_idle_connections_in_order_and_ends() {
    let (app, gate) = limits::held().await;
    gate.add_permits(100);
    let process = Process::start(LONG, app.address).await;
    let mut one = Kept::open(process.web, "/").await;
    assert!(!one.answer().await.contains("connection: close"));
    let (mut two, ended) = http2(process.web).await;
    assert_eq!(done(ask(&mut two, "/").await).await, "ok");
    let (mut three, called) = http2(process.calls).await;
    done(ask(&mut three, "/pkg.Service/Method").await).await;

    let started = Instant::now();
    process.terminate();
    one.ends().await;
    for ended in [ended, called] {
        within(ended).await.unwrap().expect("GOAWAY in order");
    }
    assert!(process.ends().await.success());
    assert!(started.elapsed() < SOON, "it took {:?}", started.elapsed());
}

/// In flight: each protocol finishes after the signal, and then the process ends, long before its time is over.
#[tokio::test(flavor = "multi_thread")]
async fn a_terminated_process_finishes_what_is_under_way_and_ends() {
    let (app, gate) = limits::held().await;
    let process = Process::start(LONG, app.address).await;
    let mut under_way = UnderWay::start(&process, &app).await;
    let started = under_way.survives_the_signal(&process).await;
    let UnderWay { mut one, two: (_two, ended), answer, sender, mut answers, socket, tcp } = under_way;
    gate.add_permits(2);
    assert!(one.answer().await.contains("connection: close"), "HTTP/1 says that it was the last");
    one.ends().await;
    assert_eq!(done(answer).await, "ok");
    within(ended).await.unwrap().expect("GOAWAY in order");
    drop(sender);
    let trailers = within(http_body_util::BodyExt::frame(&mut answers)).await.unwrap().unwrap();
    assert_eq!(trailers.into_trailers().unwrap()["grpc-status"], "0");
    drop((socket, tcp));
    assert!(process.ends().await.success());
    assert!(started.elapsed() < SOON, "it took {:?}", started.elapsed());
}

/// Slow: what has not finished when the time is over is cut, and the process ends in its time. Opaque bytes that do not move are under
/// way as well: nobody can tell that they are idle.
#[tokio::test(flavor = "multi_thread")]
async fn a_terminated_process_cuts_what_does_not_finish_in_time() {
    let drain = Duration::from_secs(2);
    let (app, _gate) = limits::held().await;
    let process = Process::start(drain, app.address).await;
    let mut under_way = UnderWay::start(&process, &app).await;
    let started = under_way.survives_the_signal(&process).await;
    let UnderWay { mut one, two: (_two, ended), answer, sender: _sender, mut answers, mut socket, mut tcp } = under_way;
    one.ends().await;
    assert!(started.elapsed() >= drain, "HTTP/1 was cut after {:?}", started.elapsed());
    assert!(within(answer).await.is_err(), "HTTP/2 has no answer");
    let _ = within(ended).await;
    assert!(!matches!(within(http_body_util::BodyExt::frame(&mut answers)).await, Some(Ok(_))), "the stream is cut");
    for stream in [&mut socket, &mut tcp] {
        assert_eq!(within(stream.read(&mut [0; 1])).await.unwrap_or(0), 0);
    }
    assert!(process.ends().await.success());
    assert!(started.elapsed() < drain + SOON, "it took {:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminated_process_takes_connections_until_clients_have_heard() {
    let app = says("ok").await;
    let process = Process::start_with(&["--minimum-drain-time", "60", "--drain-time", "60"], app.address).await;
    let before = Kept::open(process.web, "/").await.answer().await;
    assert!(!before.to_ascii_lowercase().contains("connection: close"), "{before}");
    process.terminate();
    // Each of these connections is a new one.
    eventually("clients are told to come back by another connection", async || {
        Kept::open(process.web, "/").await.answer().await.to_ascii_lowercase().contains("connection: close")
    })
    .await;
    process.terminate();
    process.refuses().await;
    assert!(process.ends().await.success());
}

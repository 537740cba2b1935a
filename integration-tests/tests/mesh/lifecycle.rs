//! Sidecars that are told to end: what is under way gets its time, nothing new comes, and others take over (AG5, BX12).

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use integration_tests::eventually::DEADLINE;
use integration_tests::{Client, Crowd, Mesh, eventually};
use meshctl::local::ports::Port;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_stream::wrappers::UnboundedReceiverStream;

/// How long a drained sidecar may take; nothing here takes as long.
const PATIENCE: Duration = Duration::from_secs(20);

type Body = BoxBody<Bytes, Infallible>;

fn stream(frames: UnboundedReceiver<Result<Frame<Bytes>, Infallible>>) -> Body {
    BodyExt::boxed(StreamBody::new(UnboundedReceiverStream::new(frames)))
}

/// An application that sends back what it gets, frame by frame, and agrees to WebSocket.
async fn echo() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            let service = service_fn(|request| async { Ok::<_, Infallible>(answer(request)) });
            tokio::spawn(async move {
                drop(builder.serve_connection_with_upgrades(TokioIo::new(connection), service).await)
            });
        }
    });
    Ok(address)
}

fn answer(mut request: Request<Incoming>) -> Response<Body> {
    let (sender, receiver) = unbounded_channel();
    if request.headers().contains_key("upgrade") {
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded.await?));
            tokio::io::copy(&mut read, &mut write).await?;
            anyhow::Ok(())
        });
        let response = Response::builder().status(101).header("connection", "upgrade").header("upgrade", "websocket");
        return response.body(stream(receiver)).unwrap();
    }
    tokio::spawn(async move {
        let mut body = request.into_body();
        while let Some(Ok(frame)) = body.frame().await {
            let _ = sender.send(Ok(frame));
        }
        let trailers = http::HeaderMap::from_iter([(
            http::HeaderName::from_static("grpc-status"),
            http::HeaderValue::from_static("0"),
        )]);
        let _ = sender.send(Ok(Frame::trailers(trailers)));
    });
    Response::builder().header("content-type", "application/grpc").body(stream(receiver)).unwrap()
}

/// A gRPC stream that is open.
struct Call {
    send: UnboundedSender<Result<Frame<Bytes>, Infallible>>,
    answers: Incoming,
}

impl Call {
    async fn open(address: SocketAddr) -> Result<Self> {
        let connection = TcpStream::connect(address).await?;
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(connection)).await?;
        tokio::spawn(async move { drop(connection.await) });
        let (send, frames) = unbounded_channel();
        let request = Request::post("http://echo/pkg.Service/Method")
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        let response = sender.send_request(request.body(stream(frames))?).await?;
        ensure!(response.status() == 200, "{}", response.status());
        Ok(Self { send, answers: response.into_body() })
    }

    async fn echo(&mut self, text: &'static str) -> Result<()> {
        self.send.send(Ok(Frame::data(Bytes::from_static(text.as_bytes()))))?;
        let frame = tokio::time::timeout(PATIENCE, self.answers.frame()).await?.context("the stream ended")??;
        let data = frame.into_data().ok().context("trailers")?;
        ensure!(data == text, "{data:?}");
        Ok(())
    }

    async fn end(mut self) -> Result<()> {
        drop(self.send);
        loop {
            let frame = tokio::time::timeout(PATIENCE, self.answers.frame()).await?.context("the stream ended")??;
            match frame.into_trailers() {
                Ok(trailers) => {
                    ensure!(trailers["grpc-status"] == "0", "{trailers:?}");
                    return Ok(());
                }
                // The end of a body may come as a frame of its own, without bytes.
                Err(frame) => ensure!(frame.data_ref().is_some_and(Bytes::is_empty), "more data: {frame:?}"),
            }
        }
    }
}

async fn echoes(stream: &mut TcpStream, text: &str) -> Result<()> {
    stream.write_all(text.as_bytes()).await?;
    let mut back = vec![0; text.len()];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut back)).await??;
    ensure!(back == text.as_bytes(), "{back:?}");
    Ok(())
}

async fn websocket(address: SocketAddr) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: echo\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n").await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tokio::time::timeout(PATIENCE, stream.read_u8()).await??);
    }
    ensure!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    Ok(stream)
}

/// AG5, BX12: HTTP/1, HTTP/2, a gRPC stream, a WebSocket and TCP each finish after the drain began; new connections are refused.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_under_way_finishes_when_a_sidecar_drains() -> Result<()> {
    let mesh = Mesh::builder().service("server", 1).client("host").start().await?;
    let app = echo().await?;
    // The host's own sidecar serves both applications: one that streams and switches, and one that answers late.
    let (calls, switching, late, raw) = (Port::reserve()?, Port::reserve()?, Port::reserve()?, Port::reserve()?);
    let ingress = |number: u16, protocol: &str, to: SocketAddr| {
        format!(
            "{{port: {{number: {number}, protocol: {protocol}, name: {}-{number}}}, bind: 127.0.0.1, captureMode: NONE, defaultEndpoint: '{to}'}}",
            protocol.to_lowercase()
        )
    };
    let server = mesh.app("server-v1");
    mesh.set_sidecar(
        "host",
        &format!(
            "{{ingress: [{}, {}, {}, {}]}}",
            ingress(calls.number(), "GRPC", app),
            ingress(switching.number(), "HTTP", app),
            ingress(late.number(), "HTTP", server.http),
            ingress(raw.number(), "TCP", server.tcp)
        ),
    )
    .await?;
    let at = |port: &Port| SocketAddr::from(([127, 0, 0, 1], port.number()));
    let (late, raw) = (at(&late), at(&raw));

    let mut call = Call::open(at(&calls)).await?;
    call.echo("before").await?;
    let mut socket = websocket(at(&switching)).await?;
    echoes(&mut socket, "before").await?;
    let mut tcp = TcpStream::connect(raw).await?;
    tcp.write_all(b"before").await?;
    let mut back = vec![0; "server v1: before".len()];
    tcp.read_exact(&mut back).await?;
    let slow = |http2: bool| {
        let ask = Client::new(late).get("http://any.test/").header("x-test-delay", "700");
        tokio::spawn(if http2 { ask.http2() } else { ask }.send())
    };
    let (first, second) = (slow(false), slow(true));
    eventually(DEADLINE, async || {
        ensure!(server.requests() == 2, "the requests have not arrived");
        Ok(())
    })
    .await?;

    let sidecar = mesh.sidecar("host");
    let drained = async {
        let left = sidecar.drain(PATIENCE).await;
        ensure!(left == 0, "{left} connections were left");
        Ok(())
    };
    let users = async {
        eventually(DEADLINE, async || {
            ensure!(TcpStream::connect(late).await.is_err(), "new connections are still taken");
            Ok(())
        })
        .await?;
        ensure!(mesh.admin("host", "/ready").await? != "LIVE\n", "a draining sidecar is not ready");
        let answer = first.await??;
        ensure!(answer.status == 200 && answer.header("connection") == "close", "HTTP/1: {answer:?}");
        ensure!(second.await??.status == 200, "HTTP/2");
        call.echo("while draining").await?;
        call.end().await?;
        echoes(&mut socket, "while draining").await?;
        drop(socket);
        echoes(&mut tcp, "while draining").await?;
        drop(tcp);
        Ok(())
    };
    let (drained, used): (Result<()>, Result<()>) = tokio::join!(drained, users);
    used?;
    drained?;
    mesh.stop().await;
    Ok(())
}

/// AG5, BX12: under load one of two workloads drains and ends, and the other takes over: no request fails.
#[tokio::test(flavor = "multi_thread")]
async fn a_workload_that_ends_costs_no_request() -> Result<()> {
    let mesh = Mesh::builder().service("server", 2).client("client").start().await?;
    let crowd = Crowd::start(&mesh.client("client"), &["http://server/"]);
    crowd.more(20).await;
    let left = mesh.sidecar("server-v1").drain(PATIENCE).await;
    assert_eq!(left, 0, "idle connections do not hold a drain up");
    crowd.more(20).await;
    let before = mesh.app("server-v1").requests();
    crowd.more(20).await;
    assert_eq!(mesh.app("server-v1").requests(), before, "nothing comes to the one that ended");
    crowd.stop().await;
    mesh.stop().await;
    Ok(())
}

/// AG7: a sidecar is ready once it is configured, listens and has its identity, and not before.
#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_is_ready_when_it_is_configured() -> Result<()> {
    use mesh_proxy::app::{Options, Proxy};
    use mesh_proxy::bootstrap::Servers;
    use mesh_proxy::bootstrap::agent::Agent;
    use mesh_proxy::identity::{Root, Token};

    let mut mesh = Mesh::builder().service("server", 1).start().await?;
    let plane = mesh.control_plane();
    let agent = Agent {
        discovery_address: plane.secure_grpc_addr().to_string(),
        root: Root::Pem(plane.root_pem()),
        token: Token::Text(plane.issue_token("default", "late", Duration::from_secs(3600))),
        name: "late".to_owned(),
        service_account: "late".to_owned(),
        ip: "127.0.9.9".parse()?,
        metadata: serde_json::Map::from_iter([("INTERCEPTION_MODE".to_owned(), "NONE".into())]),
        servers: Servers { admin: Some(([127, 0, 0, 1], 0).into()), ..Servers::default() },
        ..Agent::default()
    };
    mesh.stop_control_plane().await;
    let proxy = Proxy::start(agent.bootstrap()?, Options { workers: 1 }).await?;
    let admin = proxy.admin_addr().context("no admin")?;
    let ready = async || anyhow::Ok(Client::new(admin).get("http://localhost/ready").status().await == 200);
    assert!(!ready().await?, "there is no configuration yet");
    mesh.start_control_plane().await?;
    tokio::time::timeout(DEADLINE, proxy.ready()).await.context("never ready")?;
    assert!(ready().await?);
    proxy.drain(Duration::from_secs(1)).await;
    assert!(!ready().await?, "a draining sidecar is not ready");
    proxy.stop().await;
    mesh.stop().await;
    Ok(())
}

//! Listeners go while connections stand on them: these get their time, and no more (`drainDuration`, PC2).

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use integration_tests::eventually::DEADLINE;
use integration_tests::{Mesh, until};
use meshctl::local::ports::Port;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::alone;

/// Time of connections whose listener is gone.
const DRAIN: Duration = Duration::from_secs(3);

async fn echoes(stream: &mut TcpStream, text: &str) -> Result<()> {
    stream.write_all(text.as_bytes()).await?;
    let mut back = Vec::new();
    while !back.ends_with(text.as_bytes()) {
        ensure!(timeout(DEADLINE, stream.read_buf(&mut back)).await?? > 0, "the connection ended");
    }
    Ok(())
}

async fn ends(stream: &mut TcpStream) -> Result<()> {
    let mut rest = Vec::new();
    timeout(DEADLINE, stream.read_to_end(&mut rest)).await.context("the connection stands")??;
    ensure!(rest.is_empty(), "{rest:?}");
    Ok(())
}

/// TCP and idle HTTP/1 end when their time is over, idle HTTP/2 at once by GOAWAY; what stands on another listener does not notice.
#[tokio::test(flavor = "multi_thread")]
async fn connections_of_a_listener_that_is_gone_end_in_time() -> Result<()> {
    let _alone = alone().await;
    let mut mesh = Mesh::builder().service("server", 1).client("host").start().await?;
    mesh.renew_sidecar("host", |agent| agent.listener_drain = DRAIN).await?;
    let (web, raw, kept) = (Port::reserve()?, Port::reserve()?, Port::reserve()?);
    let server = mesh.app("server-v1");
    let (http, tcp) = (server.http, server.tcp);
    let ingress = |port: &Port, protocol: &str, to: SocketAddr| {
        format!(
            "{{port: {{number: {}, protocol: {protocol}, name: {}-{0}}}, bind: 127.0.0.1, captureMode: NONE, defaultEndpoint: '{to}'}}",
            port.number(),
            protocol.to_lowercase()
        )
    };
    let own = ingress(&kept, "TCP", tcp);
    let both = format!("{{ingress: [{own}, {}, {}]}}", ingress(&web, "HTTP", http), ingress(&raw, "TCP", tcp));
    mesh.set_sidecar("host", &both).await?;
    let at = |port: &Port| SocketAddr::from(([127, 0, 0, 1], port.number()));
    let connect = async |port: &Port| TcpStream::connect(at(port)).await;

    let (mut gone, mut stands) = (connect(&raw).await?, connect(&kept).await?);
    echoes(&mut gone, "before").await?;
    echoes(&mut stands, "before").await?;
    let (mut one, connection) = http1::handshake(TokioIo::new(connect(&web).await?)).await?;
    let idle = tokio::spawn(connection);
    let (mut other, connection) = http1::handshake(TokioIo::new(connect(&web).await?)).await?;
    let asked = tokio::spawn(connection);
    let (mut two, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(connect(&web).await?)).await?;
    let goes = tokio::spawn(connection);
    let get = |uri: &str| Request::get(uri).header("host", "any.test").body(Empty::<Bytes>::new());
    for sender in [&mut one, &mut other] {
        let answer = sender.send_request(get("/")?).await?;
        ensure!(answer.status() == 200, "{}", answer.status());
        answer.into_body().collect().await?;
    }
    let answer = two.send_request(get("http://any.test/")?).await?;
    answer.into_body().collect().await?;

    let removed = Instant::now();
    mesh.set_sidecar("host", &format!("{{ingress: [{own}]}}")).await?;
    until("new connections are refused", async || connect(&raw).await.is_err()).await;
    timeout(DRAIN, goes).await.context("HTTP/2 waits for its time")???;
    echoes(&mut gone, "while there is time").await?;
    let answer = other.send_request(get("/")?).await.context("one more request")?;
    ensure!(answer.headers()["connection"] == "close", "it does not say that it is the last");
    answer.into_body().collect().await?;
    timeout(DEADLINE, asked).await.context("HTTP/1 goes on")???;
    ends(&mut gone).await.context("TCP")?;
    ensure!(removed.elapsed() >= DRAIN, "TCP had no time");
    timeout(DEADLINE, idle).await.context("idle HTTP/1 goes on")???;
    echoes(&mut stands, "on another listener").await?;
    drop(stands);
    until("all are counted out", async || matches!(mesh.stat("host", "server.total_connections").await, Ok(0))).await;
    mesh.stop().await;
    Ok(())
}

/// The policy that comes in the place of a chain holds for TCP that stands, when its time is over.
#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_refuses_a_tcp_connection_ends_it_in_time() -> Result<()> {
    let _alone = alone().await;
    let mut mesh = Mesh::builder().service("server", 1).client("client").start().await?;
    mesh.renew_sidecar("server-v1", |agent| agent.listener_drain = Duration::from_millis(300)).await?;
    let (_port, address) = mesh.open_tcp("client", "raw", "server", "tcp").await?;
    let mut stream = TcpStream::connect(address).await?;
    echoes(&mut stream, "before").await?;
    let policy = |principal: &str| {
        super::object(
            "AuthorizationPolicy",
            "default",
            "guard",
            &format!("{{selector: {{matchLabels: {{app: server}}}}, rules: [{{from: [{{source: {{principals: ['{principal}']}}}}]}}]}}"),
        )
        .replace("networking.istio.io", "security.istio.io")
    };
    mesh.apply_as("guard", &policy("*/client")).await?;
    echoes(&mut stream, "a policy that lets it pass").await?;
    mesh.apply_as("guard", &policy("*/another")).await?;
    ends(&mut stream).await?;
    mesh.stop().await;
    Ok(())
}

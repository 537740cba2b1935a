//! Idle connections are parked: all but their sockets is given back, and nothing is lost by it.

use std::net::SocketAddr;
use std::sync::Arc;

use mesh_proxy::app::Proxy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::support::*;

/// Waits until so many connections are open, and so many of them parked.
async fn connections(proxy: &Proxy, front: SocketAddr, open: u64, parked: u64) {
    let of = format!("listener.{}.downstream_cx_", front.to_string().replace(':', "_"));
    let counts = async || (stat(proxy, &format!("{of}active")).await, stat(proxy, &format!("{of}parked")).await);
    eventually("connections are parked", async || counts().await == (Some(open), Some(parked))).await;
}

async fn answered(stream: &mut TcpStream) {
    let mut got = Vec::new();
    while !got.ends_with(b"ok") {
        assert!(within(stream.read_buf(&mut got)).await.unwrap() > 0, "closed after {got:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_are_parked_and_serve_on() {
    let app = says("ok").await;
    let (proxy, front) = Front::to(app.address).start().await;
    let mut stream = TcpStream::connect(front).await.unwrap();
    for _ in 0..3 {
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        answered(&mut stream).await;
        connections(&proxy, front, 1, 1).await;
    }
    // A request and the beginning of the next: what the codec holds of it is not lost.
    stream.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nxyGET / HT").await.unwrap();
    answered(&mut stream).await;
    stream.write_all(b"TP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    answered(&mut stream).await;
    connections(&proxy, front, 1, 1).await;
    drop(stream);
    connections(&proxy, front, 0, 0).await;
    within(proxy.stop()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parked_connections_close_when_the_proxy_drains_or_they_are_too_old() {
    let app = says("ok").await;
    for manager in
        ["common_http_protocol_options: {idle_timeout: 3600s},", "common_http_protocol_options: {idle_timeout: 2s},"]
    {
        let (proxy, front) = Front::to(app.address).manager(manager).start().await;
        let mut stream = TcpStream::connect(front).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        answered(&mut stream).await;
        let stopping = async {
            // The other one is closed without our doing.
            if manager.contains("3600") {
                connections(&proxy, front, 1, 1).await;
                within(proxy.stop()).await;
            }
        };
        let closed = async { assert_eq!(within(stream.read(&mut [0; 16])).await.unwrap(), 0) };
        tokio::join!(stopping, closed);
    }
}

/// A request whose answer came early has a body that is still on its way: its connection is in use.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_in_use_is_not_parked() {
    let told = Arc::new(Notify::new());
    let tell = told.clone();
    let app = application(move |request| {
        let tell = tell.clone();
        async move {
            tokio::spawn(async move {
                let body = http_body_util::BodyExt::collect(request.into_body()).await;
                assert_eq!(body.unwrap().to_bytes(), "0123456789");
                tell.notify_one();
            });
            answer(200, "ok")
        }
    })
    .await;
    let (proxy, front) = Front::to(app.address).clusters(&cluster("backend", &[app.address], HTTP2)).start().await;
    let mut early = TcpStream::connect(front).await.unwrap();
    early.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n01234").await.unwrap();
    answered(&mut early).await;
    let mut idle = TcpStream::connect(front).await.unwrap();
    idle.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    answered(&mut idle).await;
    // The other one fell idle before this one, so it would be parked by then.
    connections(&proxy, front, 2, 1).await;
    early.write_all(b"56789").await.unwrap();
    within(told.notified()).await;
    connections(&proxy, front, 2, 2).await;
    early.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    answered(&mut early).await;
    within(proxy.stop()).await;
}

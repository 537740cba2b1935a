//! WebSocket and CONNECT: bytes both ways after the endpoint has agreed.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::*;

/// Reads the head of a message.
pub async fn head(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(within(stream.read_u8()).await.unwrap());
    }
    String::from_utf8(bytes).unwrap()
}

/// Takes one upgrade on each connection, then echoes.
pub async fn switching(answer: &'static str) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let _ = head(&mut stream).await;
                stream.write_all(answer.as_bytes()).await.unwrap();
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    address
}

/// Echoes from the first byte.
pub async fn echo() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    address
}

/// Sees that what is sent comes back.
pub async fn echoes(stream: &mut TcpStream) {
    for text in ["ping", "pong"] {
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut buffer = [0; 4];
        within(stream.read_exact(&mut buffer)).await.unwrap();
        assert_eq!(buffer, text.as_bytes());
    }
}

/// Asks for a WebSocket.
pub const WEBSOCKET: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_is_joined_where_it_is_allowed() {
    let app = switching("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n").await;
    let allowed = Front::to(app).manager("upgrade_configs: [{upgrade_type: websocket}],");
    let (proxy, front) = allowed.start().await;
    let mut stream = TcpStream::connect(front).await.unwrap();
    stream.write_all(WEBSOCKET.as_bytes()).await.unwrap();
    let answer = head(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    assert!(answer.to_ascii_lowercase().contains("upgrade: websocket"), "{answer}");
    echoes(&mut stream).await;
    within(proxy.stop()).await;

    let (proxy, front) = Front::to(app).start().await;
    let answer = raw(front, WEBSOCKET.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    within(proxy.stop()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_may_decline_an_upgrade() {
    let app = says("plain").await;
    let front = Front::to(app.address).manager("upgrade_configs: [{upgrade_type: websocket}],");
    let (proxy, front) = front.start().await;
    let answer = raw(front, WEBSOCKET.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("plain"), "{answer}");
    within(proxy.stop()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connect_ends_here_and_goes_on_as_bytes() {
    let app = echo().await;
    let front = Front::to(app)
        .manager("upgrade_configs: [{upgrade_type: CONNECT}], http2_protocol_options: {allow_connect: true},")
        .routes("{match: {connect_matcher: {}}, route: {cluster: backend, timeout: 0s, upgrade_configs: [{upgrade_type: CONNECT, connect_config: {}}]}}");
    let (proxy, front) = front.start().await;
    let mut stream = TcpStream::connect(front).await.unwrap();
    stream.write_all(b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n").await.unwrap();
    let answer = head(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    echoes(&mut stream).await;

    // The other half: plain bytes go into a CONNECT over HTTP/2 to the first proxy.
    let filter = "{name: tcp, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: out, cluster: peer, tunneling_config: {hostname: 'a:80'}}}";
    let yaml = format!(
        "{{static_resources: {{listeners: [{}], clusters: [{}]}}}}",
        listener("out", filter),
        cluster("peer", &[front], HTTP2)
    );
    let outbound = self::proxy(&yaml).await;
    let mut first = TcpStream::connect(outbound.listener_addr("out").unwrap()).await.unwrap();
    let mut second = TcpStream::connect(outbound.listener_addr("out").unwrap()).await.unwrap();
    echoes(&mut first).await;
    echoes(&mut second).await;
    echoes(&mut first).await;
    within(outbound.stop()).await;
    within(proxy.stop()).await;
}

//! Opaque bytes: plain, by server name, server-first, half-closed; and drains of connections.

use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::*;

/// A TCP proxy towards a cluster.
pub fn tcp_filter(cluster: &str) -> String {
    format!(
        "{{name: tcp, typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: t, cluster: {cluster}}}}}"
    )
}

/// Answers the whole of what it read with a name before it, after the client has closed its side.
async fn answering(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut all = Vec::new();
                stream.read_to_end(&mut all).await.unwrap();
                stream.write_all(name.as_bytes()).await.unwrap();
                stream.write_all(&all).await.unwrap();
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_pass_and_half_close_is_kept() {
    let app = answering("app:").await;
    let yaml = format!(
        "{{static_resources: {{listeners: [{}], clusters: [{}]}}}}",
        listener("t", &tcp_filter("a")),
        cluster("a", &[app], "")
    );
    let proxy = proxy(&yaml).await;
    let mut stream = TcpStream::connect(proxy.listener_addr("t").unwrap()).await.unwrap();
    let sent = vec![b'x'; 3 << 20];
    let (mut read, mut write) = stream.split();
    let writing = async {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let reading = async {
        let mut all = Vec::new();
        read.read_to_end(&mut all).await.unwrap();
        all
    };
    let ((), all) = within(async { tokio::join!(writing, reading) }).await;
    assert_eq!(all.len(), sent.len() + 4);
    assert!(all.starts_with(b"app:xxx"));
    within(proxy.stop()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_speaks_first_is_heard_behind_detection() {
    let listening = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = listening.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listening.accept().await.unwrap();
            stream.write_all(b"220 ready\r\n").await.unwrap();
            tokio::spawn(async move {
                let mut line = [0; 6];
                stream.read_exact(&mut line).await.unwrap();
                stream.write_all(&line).await.unwrap();
            });
        }
    });
    let web = says("web").await;
    let http = http_filter("", "{match: {prefix: /}, route: {cluster: web}}");
    let yaml = format!(
        "{{static_resources: {{listeners: [{{name: both, address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}, listener_filters_timeout: 0.1s, continue_on_listener_filters_timeout: true, listener_filters: [{{name: envoy.filters.listener.tls_inspector, typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector}}}}, {{name: envoy.filters.listener.http_inspector, typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.listener.http_inspector.v3.HttpInspector}}}}], filter_chains: [{{filter_chain_match: {{application_protocols: [http/1.0, http/1.1, h2c]}}, filters: [{http}]}}], default_filter_chain: {{filters: [{}]}}}}], clusters: [{}, {}]}}}}",
        tcp_filter("smtp"),
        cluster("smtp", &[app], ""),
        cluster("web", &[web.address], "")
    );
    let proxy = proxy(&yaml).await;
    let both = proxy.listener_addr("both").unwrap();
    let mut stream = TcpStream::connect(both).await.unwrap();
    let mut banner = [0; 11];
    within(stream.read_exact(&mut banner)).await.unwrap();
    assert_eq!(&banner, b"220 ready\r\n");
    stream.write_all(b"EHLO a").await.unwrap();
    let mut echo = [0; 6];
    within(stream.read_exact(&mut echo)).await.unwrap();
    assert_eq!(&echo, b"EHLO a");
    assert_eq!(get(both, "/").await.body, "web");
    let mut client = http2(both).await;
    let request = http::Request::get(format!("http://{both}/")).body(full("")).unwrap();
    assert_eq!(collect(within(client.send_request(request)).await.unwrap()).await.body, "web");
    within(proxy.stop()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_passed_by_server_name_or_ended() {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["ended.example".into()]).unwrap().signed_by(&key, &ca).unwrap();
    let (one, two) = (answering("one:").await, answering("two:").await);
    let web = says("web").await;
    let quoted = |pem: &str| serde_json::to_string(pem).unwrap();
    let tls = format!(
        "{{name: tls, typed_config: {{'@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, common_tls_context: {{alpn_protocols: [h2, http/1.1], tls_certificates: [{{certificate_chain: {{inline_string: {}}}, private_key: {{inline_string: {}}}}}]}}}}}}",
        quoted(&leaf.pem()),
        quoted(&key.serialize_pem())
    );
    let http = http_filter("", "{match: {prefix: /}, route: {cluster: web}}");
    let yaml = format!(
        "{{static_resources: {{listeners: [{{name: sni, address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}, listener_filters: [{{name: envoy.filters.listener.tls_inspector, typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector}}}}], filter_chains: [{{filter_chain_match: {{server_names: [one.example]}}, filters: [{}]}}, {{filter_chain_match: {{server_names: ['*.two.example']}}, filters: [{}]}}, {{filter_chain_match: {{server_names: [ended.example]}}, transport_socket: {tls}, filters: [{http}]}}]}}], clusters: [{}, {}, {}]}}}}",
        tcp_filter("one"),
        tcp_filter("two"),
        cluster("one", &[one], ""),
        cluster("two", &[two], ""),
        cluster("web", &[web.address], "")
    );
    let proxy = proxy(&yaml).await;
    let sni = proxy.listener_addr("sni").unwrap();
    for (name, expected) in [("one.example", "one:"), ("a.two.example", "two:"), ("other.example", "")] {
        let hello = hello(name);
        let mut stream = TcpStream::connect(sni).await.unwrap();
        stream.write_all(&hello).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut all = Vec::new();
        let _ = within(stream.read_to_end(&mut all)).await;
        assert!(all.starts_with(expected.as_bytes()) && all.is_empty() == expected.is_empty(), "{name}");
        assert!(expected.is_empty() || all.ends_with(&hello), "{name}: not a byte is changed");
    }
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(sni).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = connector.connect("ended.example".try_into().unwrap(), stream).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    assert_eq!(collect(within(sender.send_request(request("/"))).await.unwrap()).await.body, "web");
    within(proxy.stop()).await;
}

/// The first record of a TLS client that asks for `name`.
fn hello(name: &str) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name.to_owned().try_into().unwrap()).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_cuts_what_does_not_end_in_time() {
    let app = answering("").await;
    let yaml = format!(
        "{{static_resources: {{listeners: [{}], clusters: [{}]}}}}",
        listener("t", &tcp_filter("a")),
        cluster("a", &[app], "")
    );
    let proxy = proxy(&yaml).await;
    let mut stream = TcpStream::connect(proxy.listener_addr("t").unwrap()).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    eventually("the connection is counted", async || proxy.running().drain.connections() == 1).await;
    assert_eq!(proxy.drain(std::time::Duration::from_millis(50)).await, 1);
    within(proxy.stop()).await;
    let mut rest = Vec::new();
    let _ = within(stream.read_to_end(&mut rest)).await;
    assert!(rest.is_empty());
}

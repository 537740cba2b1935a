//! A peer of proxies that shows what a test wants it to show: certificates, ALPNs and key exchanges; and a server that is one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use mesh_controlplane::ca::Authority;
use mesh_proxy::tls::verify::ServerVerifier;
use rcgen::{KeyPair, SanType};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// A certificate chain and its key.
#[derive(Debug)]
pub struct Credentials {
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
}

/// Somebody who speaks mesh TLS.
#[derive(Debug, Default)]
pub struct Peer {
    credentials: Option<Credentials>,
    alpn: Vec<&'static str>,
    classic: bool,
    version: Option<&'static rustls::SupportedProtocolVersion>,
}

/// What came of a connection.
#[derive(Debug)]
pub struct Exchange {
    /// All that came back.
    pub answer: String,
    /// The key exchange that was agreed upon.
    pub group: String,
    /// The version that was agreed upon.
    pub version: String,
}

impl Credentials {
    /// Signed by an authority at a moment, for as long as `life`.
    pub fn issue(authority: &Authority, id: &str, now: SystemTime, life: Duration) -> Result<Self> {
        let key = KeyPair::generate()?;
        let signed = authority.sign(&key, vec![SanType::URI(id.try_into()?)], life, now)?;
        Ok(Self { chain: signed.chain, key: key.serialize_der() })
    }

    fn key(&self) -> PrivatePkcs8KeyDer<'static> {
        self.key.clone().into()
    }
}

/// All key exchanges, or only those of before post-quantum cryptography.
fn provider(classic: bool) -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    if classic {
        provider.kx_groups = vec![aws_lc_rs::kx_group::X25519, aws_lc_rs::kx_group::SECP256R1];
    }
    Arc::new(provider)
}

impl Peer {
    /// Shows a certificate, and says that it speaks mesh TLS with HTTP/1.1 inside.
    pub fn with(credentials: Credentials) -> Self {
        Self { credentials: Some(credentials), alpn: vec!["istio-http/1.1", "istio", "http/1.1"], ..Self::default() }
    }

    /// Shows no certificate, but speaks mesh TLS.
    pub fn anonymous() -> Self {
        Self { alpn: vec!["istio-http/1.1", "istio", "http/1.1"], ..Self::default() }
    }

    /// Offers other protocols.
    #[must_use]
    pub fn alpn(mut self, alpn: &[&'static str]) -> Self {
        self.alpn = alpn.to_vec();
        self
    }

    /// Knows no post-quantum key exchange.
    #[must_use]
    pub fn classic(mut self) -> Self {
        self.classic = true;
        self
    }

    /// Knows only TLS 1.2.
    #[must_use]
    pub fn tls12(mut self) -> Self {
        self.version = Some(&rustls::version::TLS12);
        self
    }

    /// Sends bytes and reads to the end, or until an HTTP answer is whole.
    ///
    /// # Errors
    /// The server refuses, or ends without an answer.
    pub async fn exchange(&self, address: SocketAddr, bytes: &[u8]) -> Result<Exchange> {
        timeout(PATIENCE, self.talk(address, bytes)).await.context("the server neither answers nor ends")?
    }

    /// A `GET` whose path is sent as it stands.
    pub async fn get(&self, address: SocketAddr, host: &str, path: &str) -> Result<Exchange> {
        let head = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        self.exchange(address, head.as_bytes()).await
    }

    async fn talk(&self, address: SocketAddr, bytes: &[u8]) -> Result<Exchange> {
        let provider = provider(self.classic);
        let versions = self.version.map_or(rustls::DEFAULT_VERSIONS.to_vec(), |only| vec![only]);
        let verifier = ServerVerifier { roots: None, sans: Vec::new(), check_name: false, provider: provider.clone() };
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match &self.credentials {
            Some(own) => builder.with_client_auth_cert(own.chain.clone(), own.key().into())?,
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = self.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from("peer.test")?;
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.context("handshake")?;
        stream.write_all(bytes).await?;
        let session = stream.get_ref().1;
        let group = session.negotiated_key_exchange_group().map(|group| format!("{:?}", group.name()));
        let version = session.protocol_version().map(|version| format!("{version:?}"));
        // The end of what is sent tells a TCP server to finish; an HTTP server was told by its headers.
        if !bytes.starts_with(b"GET ") {
            stream.shutdown().await?;
        }
        let mut answer = Vec::new();
        // A server that refuses a certificate says so only after a handshake that succeeded here.
        stream.read_to_end(&mut answer).await?;
        anyhow::ensure!(!answer.is_empty(), "the server ended without an answer");
        let answer = String::from_utf8_lossy(&answer).into_owned();
        Ok(Exchange { answer, group: group.unwrap_or_default(), version: version.unwrap_or_default() })
    }
}

impl Exchange {
    /// The status of an HTTP answer, 0 if it is none.
    pub fn status(&self) -> u16 {
        self.answer.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok()).unwrap_or(0)
    }

    /// The JSON of an application's answer. Panics if there is none.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        let (start, end) = (self.answer.find('{').unwrap_or(0), self.answer.rfind('}').map_or(0, |end| end + 1));
        let value = serde_json::from_str(self.answer.get(start..end).unwrap_or_default());
        value.unwrap_or_else(|_| panic!("no application answered: {}", self.answer))
    }
}

/// Serves one connection of mesh TLS: answers a request with 200 and returns the key exchange that was agreed upon.
pub async fn serve_once(listener: &TcpListener, credentials: &Credentials, classic: bool) -> Result<String> {
    let config = rustls::ServerConfig::builder_with_provider(provider(classic))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(credentials.chain.clone(), credentials.key().into())?;
    let (stream, _) = listener.accept().await?;
    let mut stream = TlsAcceptor::from(Arc::new(config)).accept(stream).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).await?;
        head.push(byte[0]);
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok").await?;
    stream.shutdown().await?;
    let group = stream.get_ref().1.negotiated_key_exchange_group().map(|group| format!("{:?}", group.name()));
    Ok(group.unwrap_or_default())
}

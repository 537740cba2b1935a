//! Users: HTTP/1 and HTTP/2, plain and over TLS, through a sidecar or straight to an address; and bytes over TCP.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::certs::Pair;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// Somebody who asks by one address: a sidecar's outbound port, a gateway's port.
#[derive(Debug, Clone)]
pub struct Client {
    address: SocketAddr,
    tls: Option<Tls>,
}

#[derive(Debug, Clone)]
struct Tls {
    roots: String,
    own: Option<Pair>,
}

/// A request that is not sent yet.
#[derive(Debug, Clone)]
pub struct Ask {
    client: Client,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
    http2: bool,
}

/// An answer, read whole.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
    /// Trailers.
    pub trailers: HeaderMap,
}

impl Client {
    /// Somebody who connects to this address whatever the URL.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, tls: None }
    }

    /// The same over TLS: trusts certificates of `roots` (PEM) for the URL's host, and shows `own` when asked.
    pub fn over_tls(&self, roots: &str, own: Option<&Pair>) -> Self {
        Self { address: self.address, tls: Some(Tls { roots: roots.to_owned(), own: own.cloned() }) }
    }

    /// Where it connects.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A `GET`.
    pub fn get(&self, url: &str) -> Ask {
        self.ask(Method::GET, url)
    }

    /// A `POST`.
    pub fn post(&self, url: &str, body: impl Into<Bytes>) -> Ask {
        Ask { body: body.into(), ..self.ask(Method::POST, url) }
    }

    /// Any request. Panics if the URL is none, which is a mistake of the test.
    pub fn ask(&self, method: Method, url: &str) -> Ask {
        let uri = url.parse().unwrap_or_else(|error| panic!("`{url}` is no URL: {error}"));
        Ask { client: self.clone(), method, uri, headers: HeaderMap::new(), body: Bytes::new(), http2: false }
    }

    /// Sends the same request again and again, and counts the versions that answered; other answers by their status.
    pub async fn count(&self, url: &str, times: usize) -> Result<BTreeMap<String, usize>> {
        let mut counts = BTreeMap::new();
        let mut connection = Connection::open(&self.get(url)).await?;
        for _ in 0..times {
            let answer = connection.send(&self.get(url)).await?;
            *counts.entry(answer.version()).or_default() += 1;
        }
        Ok(counts)
    }

    /// The first line that a server sends of itself over a new TCP connection.
    pub async fn greeting(&self) -> Result<String> {
        let greeting = async {
            let mut stream = TcpStream::connect(self.address).await?;
            let mut all = Vec::new();
            while !all.ends_with(b"\n") && stream.read_buf(&mut all).await? > 0 {}
            anyhow::Ok(String::from_utf8_lossy(&all).into_owned())
        };
        timeout(PATIENCE, greeting).await.context("the server does not speak first")?
    }

    /// Sends bytes over a new TCP connection and returns all that comes back, after the end of what it sends.
    pub async fn exchange(&self, bytes: &[u8]) -> Result<String> {
        let exchange = async {
            let mut stream = TcpStream::connect(self.address).await?;
            stream.write_all(bytes).await?;
            stream.shutdown().await?;
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await?;
            anyhow::Ok(String::from_utf8_lossy(&all).into_owned())
        };
        timeout(PATIENCE, exchange).await.context("the peer does not end")?
    }
}

impl Ask {
    /// Adds a header. Panics if it is none, which is a mistake of the test.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let name = HeaderName::try_from(name).unwrap_or_else(|error| panic!("{name}: {error}"));
        self.headers.append(name, HeaderValue::try_from(value).unwrap_or_else(|error| panic!("{value}: {error}")));
        self
    }

    /// Speaks HTTP/2 from the first byte.
    #[must_use]
    pub fn http2(mut self) -> Self {
        self.http2 = true;
        self
    }

    /// A gRPC call: HTTP/2, with its content type.
    #[must_use]
    pub fn grpc(self) -> Self {
        self.header("content-type", "application/grpc").header("te", "trailers").http2()
    }

    /// Sends it over a new connection.
    pub async fn send(self) -> Result<Answer> {
        let exchange = async { Connection::open(&self).await?.send(&self).await };
        timeout(PATIENCE, exchange).await.with_context(|| format!("no answer to {} {}", self.method, self.uri))?
    }

    /// Sends it and returns the status, 0 if there is no answer.
    pub async fn status(self) -> u16 {
        self.send().await.map_or(0, |answer| answer.status)
    }
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// What the application saw. Panics if no application answered.
    #[track_caller]
    pub fn json(&self) -> Value {
        let body = match self.headers.get("content-type") {
            Some(kind) if kind == "application/grpc" => self.body.slice(5.min(self.body.len())..),
            _ => self.body.clone(),
        };
        let value = serde_json::from_slice(&body);
        value.unwrap_or_else(|_| panic!("no application answered, but {}: {}", self.status, self.text()))
    }

    /// Which version of the application answered with 200; else the status.
    pub fn version(&self) -> String {
        let json: Option<Value> = serde_json::from_slice(&self.body).ok();
        let version = json.as_ref().and_then(|json| json["version"].as_str()).filter(|_| self.status == 200);
        version.map_or_else(|| self.status.to_string(), str::to_owned)
    }

    /// A response header; empty if absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// A request header as the application saw it; empty if absent.
    #[track_caller]
    pub fn saw(&self, name: &str) -> String {
        self.json()["headers"][name].as_str().unwrap_or_default().to_owned()
    }

    /// A field of what the application saw: `path`, `authority`, `method`, `protocol`, `app` …
    #[track_caller]
    pub fn field(&self, name: &str) -> String {
        match &self.json()[name] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        }
    }

    /// The SPIFFE id of the peer, as the application was told.
    #[track_caller]
    pub fn peer(&self) -> String {
        let header = self.saw("x-forwarded-client-cert");
        let last = header.rsplit(',').next().unwrap_or_default();
        last.split(';').find_map(|pair| pair.strip_prefix("URI=")).unwrap_or_default().to_owned()
    }
}

/// A connection that is used again.
#[derive(Debug)]
pub struct Connection {
    sender: Sender,
    /// `http` or `https`.
    scheme: &'static str,
}

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Connection {
    /// Connects as a request asks.
    pub async fn open(ask: &Ask) -> Result<Self> {
        let stream = TcpStream::connect(ask.client.address).await.context("cannot connect")?;
        stream.set_nodelay(true)?;
        match &ask.client.tls {
            None => Ok(Self { sender: Sender::open(stream, ask.http2).await?, scheme: "http" }),
            Some(tls) => {
                let host = ask.uri.host().context("the URL has no host")?.to_owned();
                let connector = TlsConnector::from(Arc::new(tls.config(ask.http2)?));
                let stream = connector.connect(ServerName::try_from(host)?, stream).await.context("TLS")?;
                Ok(Self { sender: Sender::open(stream, ask.http2).await?, scheme: "https" })
            }
        }
    }

    /// Sends a request and reads the answer whole.
    pub async fn send(&mut self, ask: &Ask) -> Result<Answer> {
        let authority = ask.uri.authority().context("the URL has no host")?.as_str();
        let path = ask.uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::new(Full::new(ask.body.clone()));
        *request.method_mut() = ask.method.clone();
        *request.headers_mut() = ask.headers.clone();
        let response = match &mut self.sender {
            Sender::Http1(sender) => {
                *request.uri_mut() = path.parse()?;
                request.headers_mut().insert("host", HeaderValue::try_from(authority)?);
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Sender::Http2(sender) => {
                *request.uri_mut() = format!("{}://{authority}{path}", self.scheme).parse()?;
                *request.version_mut() = http::Version::HTTP_2;
                sender.ready().await?;
                sender.send_request(request).await?
            }
        };
        let (parts, body) = response.into_parts();
        let body = body.collect().await.context("the answer breaks off")?;
        let trailers = body.trailers().cloned().unwrap_or_default();
        let status = parts.status.as_u16();
        Ok(Answer { status, headers: parts.headers, body: body.to_bytes(), trailers })
    }
}

impl Sender {
    async fn open(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, http2: bool) -> Result<Self> {
        let stream = TokioIo::new(stream);
        // A connection that ends is noticed by its sender.
        if http2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
            tokio::spawn(async move { drop(connection.await) });
            return Ok(Self::Http2(sender));
        }
        let (sender, connection) = http1::handshake(stream).await?;
        tokio::spawn(async move { drop(connection.await) });
        Ok(Self::Http1(sender))
    }
}

impl Tls {
    fn config(&self, http2: bool) -> Result<rustls::ClientConfig> {
        let mut roots = rustls::RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(self.roots.as_bytes()) {
            roots.add(root?)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let mut config = match &self.own {
            Some(own) => builder.with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(own.cert.as_bytes())?],
                PrivateKeyDer::from_pem_slice(own.key.as_bytes())?,
            )?,
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![if http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
        Ok(config)
    }
}

/// Fails with the answer unless it has the status.
pub fn expect(answer: Answer, status: StatusCode) -> Result<Answer> {
    if answer.status != status.as_u16() {
        bail!("{} instead of {status}: {}", answer.status, answer.text());
    }
    Ok(answer)
}

//! A small HTTP/1.1 client for loopback: one connection, requests one after another, an error for anything but an answer.
//!
//! Used to drive demo traffic and to ask proxies and control planes for their state.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// An answer, read whole.
#[derive(Debug)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

impl Answer {
    /// The body as text; bytes that are none are replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A connection to one address.
#[derive(Debug)]
pub struct Connection {
    address: SocketAddr,
    sender: Option<SendRequest<Empty<Bytes>>>,
}

impl Connection {
    /// A connection that is opened at the first request.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, sender: None }
    }

    /// Sends a request without body and reads the answer whole.
    pub async fn send(&mut self, method: Method, host: &str, path: &str, headers: &HeaderMap) -> Result<Answer> {
        let answer = timeout(PATIENCE, self.exchange(method, host, path, headers)).await;
        if !matches!(answer, Ok(Ok(_))) {
            self.sender = None;
        }
        answer.with_context(|| format!("no answer from {} within {} s", self.address, PATIENCE.as_secs()))?
    }

    async fn exchange(&mut self, method: Method, host: &str, path: &str, headers: &HeaderMap) -> Result<Answer> {
        let reusable = match &mut self.sender {
            Some(sender) => sender.ready().await.is_ok(),
            None => false,
        };
        if !reusable {
            self.sender = None;
        }
        let sender = match &mut self.sender {
            Some(sender) => sender,
            none => none.insert(connect(self.address).await?),
        };
        let mut request = Request::builder().method(method).uri(path).header(http::header::HOST, host);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let response = sender.send_request(request.body(Empty::new())?).await?;
        let (head, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Answer { status: head.status, headers: head.headers, body })
    }
}

async fn connect(address: SocketAddr) -> Result<SendRequest<Empty<Bytes>>> {
    let stream = TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// One GET on a connection of its own.
pub async fn get(address: SocketAddr, host: &str, path: &str) -> Result<Answer> {
    Connection::new(address).send(Method::GET, host, path, &HeaderMap::new()).await
}

/// One GET whose answer must be a success, as JSON.
pub async fn get_json(address: SocketAddr, path: &str) -> Result<serde_json::Value> {
    let answer = get(address, "localhost", path).await?;
    if !answer.status.is_success() {
        bail!("http://{address}{path} answered {}: {}", answer.status, answer.text().trim());
    }
    serde_json::from_slice(&answer.body).with_context(|| format!("http://{address}{path} did not answer JSON"))
}

//! A plain HTTP client: one connection a request.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Status and body. `to` is `IP:PORT`, or the path of a socket.
pub async fn get(to: &str, host: &str, path: &str) -> Result<(u16, String), Error> {
    let limit = Duration::from_secs(10);
    match to.starts_with('/') {
        true => tokio::time::timeout(limit, over(UnixStream::connect(to).await?, host, path)).await?,
        false => tokio::time::timeout(limit, over(TcpStream::connect(to).await?, host, path)).await?,
    }
}

/// The same over a connection that stands.
pub async fn over<S>(stream: S, host: &str, path: &str) -> Result<(u16, String), Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let request = http::Request::get(path).header("host", host).body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await?.to_bytes();
    driver.abort();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

/// How often each body was answered to `count` requests, which must all succeed.
pub async fn tally(to: &str, host: &str, count: usize) -> std::collections::BTreeMap<String, usize> {
    let mut found = std::collections::BTreeMap::new();
    for _ in 0..count {
        let (status, body) = get(to, host, "/").await.unwrap();
        assert_eq!(status, 200, "{host}: {body}");
        *found.entry(body).or_default() += 1;
    }
    found
}

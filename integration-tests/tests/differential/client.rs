//! The client: sends a case's requests and writes down what comes back.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::backend;
use super::case::{Protocol, Raw, Request};
use super::certificates::Certificates;
use super::wire::{self, Length};

/// What was observed, by name.
pub type Observation = BTreeMap<String, String>;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection as bytes.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// A client of one listener.
pub struct Client<'c> {
    port: u16,
    certificates: Option<&'c Certificates>,
    http1: Option<(Box<dyn Io>, Vec<u8>)>,
    http2: Option<h2::client::SendRequest<Bytes>>,
    /// Port of this side of the last connection.
    pub local: u16,
}

impl<'c> Client<'c> {
    /// A client; with `certificates` it speaks TLS.
    pub fn new(port: u16, certificates: Option<&'c Certificates>) -> Self {
        Self { port, certificates, http1: None, http2: None, local: 0 }
    }

    async fn connect(&mut self) -> io::Result<Box<dyn Io>> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await?;
        stream.set_nodelay(true)?;
        self.local = stream.local_addr()?.port();
        Ok(match self.certificates {
            Some(certificates) => Box::new(certificates.connect(stream).await?),
            None => Box::new(stream),
        })
    }

    /// Sends one request, on a new connection unless it says otherwise.
    pub async fn send(&mut self, request: &Request) -> Observation {
        let mut seen = Observation::new();
        let patience = request.abort.map_or(PATIENCE, Duration::from_millis);
        let exchange = async {
            match (&request.raw, request.protocol) {
                (Some(raw), _) => self.raw(request, raw, &mut seen).await,
                (None, Protocol::Http2) => self.http2(request, &mut seen).await,
                (None, Protocol::Tcp) => self.tcp(request, &mut seen).await,
                (None, _) => self.http1(request, &mut seen).await,
            }
        };
        match timeout(patience, exchange).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                seen.entry("status".into()).or_insert_with(|| format!("none: {error}"));
                seen.insert("end".into(), "cut".into());
                (self.http1, self.http2) = (None, None);
            }
            Err(_) => {
                let why = if request.abort.is_some() { "we left" } else { "no answer in time" };
                seen.entry("status".into()).or_insert_with(|| format!("none: {why}"));
                (self.http1, self.http2) = (None, None);
            }
        }
        seen
    }

    async fn http1(&mut self, request: &Request, seen: &mut Observation) -> io::Result<()> {
        let kept = if request.keep { self.http1.take() } else { None };
        let (mut stream, mut buffer) = match kept {
            Some(kept) => kept,
            None => (self.connect().await?, Vec::new()),
        };
        let (head, body) = http1_bytes(request);
        stream.write_all(&head).await?;
        if request.pause > 0 {
            stream.flush().await?;
            tokio::time::sleep(Duration::from_millis(request.pause)).await;
        }
        // A proxy that has answered already may not read on.
        let _ = stream.write_all(&body).await;
        let _ = stream.flush().await;
        if request.half_close {
            stream.shutdown().await?;
        }
        let (status, closing) = http1_answer(&mut stream, &mut buffer, &request.method, seen).await?;
        if status == 101 || (request.method == "CONNECT" && status == 200) {
            if let Some(data) = &request.after_upgrade {
                stream.write_all(data.as_bytes()).await?;
                while buffer.len() < data.len() && stream.read_buf(&mut buffer).await? > 0 {}
                seen.insert("after_upgrade".into(), show(&buffer));
            }
            return Ok(());
        }
        if closing {
            note_end(&mut stream, seen).await;
        } else {
            self.http1 = Some((stream, buffer));
        }
        Ok(())
    }

    async fn raw(&mut self, request: &Request, raw: &Raw, seen: &mut Observation) -> io::Result<()> {
        let mut stream = self.connect().await?;
        let mut buffer = Vec::new();
        let pieces = match raw {
            Raw::One(text) => std::slice::from_ref(text),
            Raw::Pieces(pieces) => pieces,
        };
        for (index, piece) in pieces.iter().enumerate() {
            if index > 0 {
                tokio::time::sleep(Duration::from_millis(request.pause)).await;
            }
            if stream.write_all(piece.as_bytes()).await.is_err() {
                break;
            }
            let _ = stream.flush().await;
        }
        if request.half_close {
            let _ = stream.shutdown().await;
        }
        let wanted = request.responses.unwrap_or(1);
        let mut closing = false;
        for number in 1..=wanted {
            let mut one = Observation::new();
            let answer = http1_answer(&mut stream, &mut buffer, &request.method, &mut one).await;
            let prefix = if number == 1 { String::new() } else { format!("response{number}.") };
            seen.extend(one.into_iter().map(|(name, value)| (format!("{prefix}{name}"), value)));
            match answer {
                Ok((_, close)) => closing = close,
                Err(error) => {
                    seen.entry(format!("{prefix}status")).or_insert_with(|| format!("none: {error}"));
                    return Ok(());
                }
            }
        }
        if closing {
            note_end(&mut stream, seen).await;
        }
        Ok(())
    }

    async fn tcp(&mut self, request: &Request, seen: &mut Observation) -> io::Result<()> {
        let mut stream = self.connect().await?;
        let _ = stream.write_all(request.body.as_deref().unwrap_or("").as_bytes()).await;
        if request.pause > 0 {
            tokio::time::sleep(Duration::from_millis(request.pause)).await;
        }
        let _ = stream.shutdown().await;
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all).await;
        seen.insert("bytes".into(), show(&all));
        Ok(())
    }

    async fn http2(&mut self, request: &Request, seen: &mut Observation) -> io::Result<()> {
        let kept = if request.keep { self.http2.take() } else { None };
        let mut sender = match kept {
            Some(sender) => sender,
            None => {
                let stream = self.connect().await?;
                let (sender, connection) = h2::client::handshake(stream).await.map_err(io::Error::other)?;
                tokio::spawn(connection);
                sender
            }
        };
        sender = sender.ready().await.map_err(io::Error::other)?;
        let result = http2_exchange(&mut sender, request, seen).await;
        if let Err(error) = &result {
            let reason = match error.reason() {
                Some(reason) if error.is_go_away() => format!("none: GOAWAY {reason:?}"),
                Some(reason) => format!("none: reset {reason:?}"),
                None => format!("none: {error}"),
            };
            if seen.contains_key("status") {
                seen.insert("end".into(), reason);
            } else {
                seen.insert("status".into(), reason);
            }
        }
        self.http2 = Some(sender);
        Ok(())
    }
}

fn http1_bytes(request: &Request) -> (Vec<u8>, Vec<u8>) {
    let version = if request.protocol == Protocol::Http10 { "1.0" } else { "1.1" };
    let mut head = format!("{} {} HTTP/{version}\r\n", request.method, request.path);
    if !request.host.is_empty() {
        head.push_str(&format!("Host: {}\r\n", request.host));
    }
    for (name, value) in request.all_headers() {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let mut bytes = Vec::new();
    if let Some(body) = request.whole_body() {
        if request.chunked {
            head.push_str("Transfer-Encoding: chunked\r\n");
            for part in [&body[..body.len() / 2], &body[body.len() / 2..]] {
                if !part.is_empty() {
                    bytes.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
                    bytes.extend_from_slice(part);
                    bytes.extend_from_slice(b"\r\n");
                }
            }
            bytes.extend_from_slice(b"0\r\n");
            for (name, value) in request.trailers.pairs() {
                bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
            }
            bytes.extend_from_slice(b"\r\n");
        } else {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
            bytes = body;
        }
    }
    head.push_str("\r\n");
    (head.into_bytes(), bytes)
}

/// Reads one answer; its status, and whether the connection ends after it.
async fn http1_answer(
    stream: &mut Box<dyn Io>,
    buffer: &mut Vec<u8>,
    method: &str,
    seen: &mut Observation,
) -> io::Result<(u16, bool)> {
    let closed = || io::Error::other("the connection ended");
    let head = loop {
        let head = wire::read_head(stream, buffer).await.ok_or_else(closed)?;
        if (100..200).contains(&head.status()) && head.status() != 101 {
            note_interim(seen, head.status(), &head.headers);
            continue;
        }
        break head;
    };
    seen.insert("status".into(), head.status().to_string());
    seen.insert("version".into(), head.start.split(' ').next().unwrap_or_default().to_owned());
    note_headers(seen, "header", &head.headers);
    let length = wire::response_framing(&head, method);
    match wire::read_body(stream, buffer, length).await {
        Ok((body, trailers)) => {
            seen.insert("body".into(), show(&body));
            note_headers(seen, "trailer", &trailers);
        }
        Err(part) => {
            seen.insert("body".into(), show(&part));
            seen.insert("end".into(), "cut".into());
            return Ok((head.status(), true));
        }
    }
    let says_close = head.get("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    let old = head.start.starts_with("HTTP/1.0") && head.get("connection").is_none();
    Ok((head.status(), says_close || old || length == Length::UntilClose))
}

async fn note_end(stream: &mut Box<dyn Io>, seen: &mut Observation) {
    let mut rest = Vec::new();
    let end = match timeout(Duration::from_secs(2), stream.read_to_end(&mut rest)).await {
        Ok(_) => "closed",
        Err(_) => "said to close, stays open",
    };
    seen.entry("end".into()).or_insert_with(|| end.into());
}

async fn http2_exchange(
    sender: &mut h2::client::SendRequest<Bytes>,
    request: &Request,
    seen: &mut Observation,
) -> Result<(), h2::Error> {
    let body = request.whole_body();
    let uri = match (request.method.as_str(), request.host.is_empty()) {
        (_, true) => request.path.clone(),
        _ => format!("{}://{}{}", request.scheme, request.host, request.path),
    };
    let uri = if request.method == "CONNECT" && !request.headers.pairs().iter().any(|(name, _)| name == ":protocol") {
        request.host.clone()
    } else {
        uri
    };
    let mut head = http::Request::builder().method(request.method.as_str()).uri(uri).version(http::Version::HTTP_2);
    for (name, value) in request.all_headers() {
        head = match name.as_str() {
            ":protocol" => head.extension(h2::ext::Protocol::from(value.as_str())),
            _ => head.header(name, value),
        };
    }
    let head = head.body(()).expect("the case's request is valid");
    let trailers = request.trailers.pairs();
    let tunnel = request.after_upgrade.is_some();
    let ends = body.is_none() && trailers.is_empty() && !tunnel;
    let (mut response, mut stream) = sender.send_request(head, ends)?;
    if !ends && !tunnel {
        if request.pause > 0 {
            tokio::time::sleep(Duration::from_millis(request.pause)).await;
        }
        let sent = stream.send_data(body.unwrap_or_default().into(), trailers.is_empty());
        if sent.is_ok() && !trailers.is_empty() {
            let mut map = HeaderMap::new();
            for (name, value) in trailers {
                let name = http::HeaderName::try_from(name).expect("a trailer's name");
                map.append(name, value.parse().expect("a trailer's value"));
            }
            let _ = stream.send_trailers(map);
        }
    }
    while let Some(interim) = std::future::poll_fn(|context| response.poll_informational(context)).await {
        let interim = interim?;
        note_interim(seen, interim.status().as_u16(), &backend::pairs(interim.headers()));
    }
    let response = response.await?;
    seen.insert("status".into(), response.status().as_u16().to_string());
    note_headers(seen, "header", &backend::pairs(response.headers()));
    let mut body = response.into_body();
    if let Some(data) = &request.after_upgrade {
        stream.send_data(Bytes::copy_from_slice(data.as_bytes()), false)?;
    }
    let mut all = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        let _ = body.flow_control().release_capacity(data.len());
        all.extend_from_slice(&data);
        seen.insert("body".into(), show(&all));
        if request.after_upgrade.as_ref().is_some_and(|data| all.len() >= data.len()) {
            stream.send_reset(h2::Reason::CANCEL);
            return Ok(());
        }
    }
    seen.insert("body".into(), show(&all));
    if let Some(trailers) = body.trailers().await? {
        note_headers(seen, "trailer", &backend::pairs(&trailers));
    }
    Ok(())
}

fn note_interim(seen: &mut Observation, status: u16, headers: &[(String, String)]) {
    let own: Vec<_> = headers.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let text = format!("{status} {}", own.join(" "));
    let all = seen.entry("interim".into()).or_default();
    if !all.is_empty() {
        all.push_str(", ");
    }
    all.push_str(text.trim());
}

/// Notes headers by name; several values of one are listed in order.
pub fn note_headers(seen: &mut Observation, prefix: &str, headers: &[(String, String)]) {
    for (name, value) in headers {
        let known = seen.entry(format!("{prefix}.{name}"));
        known.and_modify(|known| known.push_str(&format!(" && {value}"))).or_insert_with(|| value.clone());
    }
}

/// Short bodies as they are, long ones by length and a sum.
pub fn show(body: &[u8]) -> String {
    match std::str::from_utf8(body) {
        Ok(text) if body.len() <= 600 => text.to_owned(),
        _ => {
            let sum = body.iter().fold(5381_u32, |sum, byte| sum.wrapping_mul(33) ^ u32::from(*byte));
            format!("{} bytes, sum {sum:x}", body.len())
        }
    }
}

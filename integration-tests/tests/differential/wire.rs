//! HTTP/1 read by hand, for both ends: lenient, so that what is odd is seen and not refused.

use tokio::io::{AsyncRead, AsyncReadExt};

/// A start line and headers; names in lower case.
#[derive(Debug, Clone, Default)]
pub struct Head {
    /// Start line.
    pub start: String,
    /// Headers in order.
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// The first value of a header.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Status of a response.
    pub fn status(&self) -> u16 {
        self.start.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
    }
}

/// How long a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// None.
    Empty,
    /// So long.
    Exact(usize),
    /// Chunks.
    Chunked,
    /// To the end of the connection.
    UntilClose,
}

/// Headers or trailers in order.
pub type Pairs = Vec<(String, String)>;

/// Reads a head; `None` if the peer ends first.
pub async fn read_head(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> Option<Head> {
    loop {
        if let Some(end) = find(buffer, b"\r\n\r\n") {
            let bytes: Vec<u8> = buffer.drain(..end + 4).collect();
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let mut lines = text.split("\r\n");
            let start = lines.next().unwrap_or_default().to_owned();
            return Some(Head { start, headers: lines.filter(|line| !line.is_empty()).map(pair).collect() });
        }
        if !more(stream, buffer).await {
            return None;
        }
    }
}

fn pair(line: &str) -> (String, String) {
    let (name, value) = line.split_once(':').unwrap_or((line, ""));
    (name.to_ascii_lowercase(), value.trim().to_owned())
}

fn find(buffer: &[u8], what: &[u8]) -> Option<usize> {
    buffer.windows(what.len()).position(|window| window == what)
}

async fn more(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> bool {
    let mut chunk = [0; 16 * 1024];
    match stream.read(&mut chunk).await {
        Ok(0) | Err(_) => false,
        Ok(length) => {
            buffer.extend_from_slice(&chunk[..length]);
            true
        }
    }
}

/// The body length of a request.
pub fn request_framing(head: &Head) -> Length {
    if head.get("transfer-encoding").is_some() {
        return Length::Chunked;
    }
    match head.get("content-length").and_then(|length| length.parse().ok()) {
        Some(0) | None => Length::Empty,
        Some(length) => Length::Exact(length),
    }
}

/// The body length of a response to `method`.
pub fn response_framing(head: &Head, method: &str) -> Length {
    if method == "HEAD" || matches!(head.status(), 101 | 204 | 304) || (method == "CONNECT" && head.status() == 200) {
        return Length::Empty;
    }
    if head.get("transfer-encoding").is_some() {
        return Length::Chunked;
    }
    match head.get("content-length").and_then(|length| length.parse().ok()) {
        Some(0) => Length::Empty,
        Some(length) => Length::Exact(length),
        None => Length::UntilClose,
    }
}

/// Reads a body and its trailers; `Err` holds what came before the peer ended too early.
pub async fn read_body(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
    length: Length,
) -> Result<(Vec<u8>, Pairs), Vec<u8>> {
    match length {
        Length::Empty => Ok((Vec::new(), Vec::new())),
        Length::Exact(length) => {
            while buffer.len() < length {
                if !more(stream, buffer).await {
                    return Err(std::mem::take(buffer));
                }
            }
            Ok((buffer.drain(..length).collect(), Vec::new()))
        }
        Length::UntilClose => {
            while more(stream, buffer).await {}
            Ok((std::mem::take(buffer), Vec::new()))
        }
        Length::Chunked => {
            let mut body = Vec::new();
            loop {
                let Some(line) = read_line(stream, buffer).await else { return Err(body) };
                let size = line.split(';').next().unwrap_or_default().trim();
                let Ok(size) = usize::from_str_radix(size, 16) else { return Err(body) };
                if size == 0 {
                    break;
                }
                while buffer.len() < size + 2 {
                    if !more(stream, buffer).await {
                        body.append(buffer);
                        return Err(body);
                    }
                }
                body.extend(buffer.drain(..size));
                buffer.drain(..2);
            }
            let mut trailers = Vec::new();
            loop {
                match read_line(stream, buffer).await {
                    None => return Err(body),
                    Some(line) if line.is_empty() => return Ok((body, trailers)),
                    Some(line) => trailers.push(pair(&line)),
                }
            }
        }
    }
}

async fn read_line(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = find(buffer, b"\r\n") {
            let line: Vec<u8> = buffer.drain(..end + 2).collect();
            return Some(String::from_utf8_lossy(&line[..end]).into_owned());
        }
        if !more(stream, buffer).await {
            return None;
        }
    }
}

//! What a connection speaks, from its first bytes: one bounded read, after which the bytes are replayed and none is lost.
//!
//! Comes after [`crate::listener`] accepts, before the filter chain is chosen. A client that says nothing, because the server speaks
//! first, goes on as opaque after the listener's time-out.

pub mod prefixed;
pub mod proxy_protocol;
pub mod tls_hello;

use std::io;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::listener::chain::Seen;
use crate::listener::{Detect, Ports, Transport};
use proxy_protocol::Addresses;

/// The most that is read before a decision.
pub const MAX_BYTES: usize = 16 * 1024 + 5;

/// How HTTP/2 begins without TLS (RFC 9113, section 3.4).
pub const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What was read and understood.
#[derive(Debug, Default)]
pub struct Detected {
    /// For the choice of the chain.
    pub seen: Seen,
    /// Bytes to replay.
    pub prefix: Vec<u8>,
    /// Addresses that a PROXY protocol header told.
    pub addresses: Option<Addresses>,
}

/// Looks at a connection as `detect` asks.
pub async fn detect(stream: &mut TcpStream, detect: &Detect, port: u16) -> io::Result<Detected> {
    let mut found = Detected::default();
    let within = |ports: &Ports| ports.iter().any(|ports| ports.contains(&port));
    let look_for = LookFor {
        tls: detect.tls && !within(&detect.tls_disabled),
        http: detect.http && !within(&detect.http_disabled),
    };
    if !(detect.proxy_protocol || look_for.tls || look_for.http) {
        return Ok(found);
    }
    let look = async {
        if detect.proxy_protocol {
            read_proxy_header(stream, &mut found).await?;
        }
        if look_for.tls || look_for.http {
            read_first_bytes(stream, look_for, &mut found).await?;
        }
        io::Result::Ok(())
    };
    let result = match detect.timeout {
        None => look.await,
        Some(patience) => match timeout(patience, look).await {
            Ok(result) => result,
            Err(_) if detect.continue_on_timeout => Ok(()),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the client sent nothing in time")),
        },
    };
    result.map(|()| found)
}

async fn read_proxy_header(stream: &mut TcpStream, found: &mut Detected) -> io::Result<()> {
    loop {
        match proxy_protocol::parse(&found.prefix) {
            proxy_protocol::Parsed::Header(length, addresses) => {
                found.prefix.drain(..length);
                found.addresses = addresses;
                return Ok(());
            }
            proxy_protocol::Parsed::More => {
                if !more(stream, &mut found.prefix).await? {
                    let message = "the client closed inside its PROXY protocol header";
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
                }
            }
            proxy_protocol::Parsed::Malformed => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "no valid PROXY protocol header"));
            }
        }
    }
}

#[derive(Clone, Copy)]
struct LookFor {
    tls: bool,
    http: bool,
}

async fn read_first_bytes(stream: &mut TcpStream, look_for: LookFor, found: &mut Detected) -> io::Result<()> {
    loop {
        if !found.prefix.is_empty() {
            let hello = if look_for.tls { tls_hello::parse(&found.prefix) } else { tls_hello::Parsed::NotTls };
            match hello {
                tls_hello::Parsed::Hello(hello) => {
                    found.seen.transport = Some(Transport::Tls);
                    found.seen.server_name = hello.server_name.map(Into::into);
                    found.seen.protocols = hello.alpn;
                    return Ok(());
                }
                tls_hello::Parsed::More if found.prefix.len() < MAX_BYTES => {}
                tls_hello::Parsed::More | tls_hello::Parsed::NotTls => {
                    found.seen.transport = Some(Transport::RawBuffer);
                    if !look_for.http {
                        return Ok(());
                    }
                    match http(&found.prefix) {
                        Http::Version(version) => {
                            found.seen.protocols = vec![version.to_owned()];
                            return Ok(());
                        }
                        Http::More if found.prefix.len() < MAX_BYTES => {}
                        Http::More | Http::Not => return Ok(()),
                    }
                }
            }
        }
        if !more(stream, &mut found.prefix).await? {
            return Ok(());
        }
    }
}

/// Reads on; false at the end of what the client sends.
async fn more(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<bool> {
    if buffer.capacity() - buffer.len() < 1024 {
        buffer.reserve(2048);
    }
    let read = stream.read_buf(buffer).await?;
    if read == 0 && buffer.is_empty() {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the client closed before sending anything"));
    }
    Ok(read > 0)
}

enum Http {
    Version(&'static str),
    More,
    Not,
}

/// HTTP/2 by its preface; HTTP/1 by a request line with a version.
fn http(bytes: &[u8]) -> Http {
    let length = bytes.len().min(HTTP2_PREFACE.len());
    if bytes[..length] == HTTP2_PREFACE[..length] {
        return if length == HTTP2_PREFACE.len() { Http::Version("h2c") } else { Http::More };
    }
    let line = match bytes.iter().position(|byte| *byte == b'\n') {
        Some(end) => &bytes[..end],
        None => bytes,
    };
    let method = line.iter().position(|byte| *byte == b' ').unwrap_or(line.len());
    if method == 0 || method > 32 || !line[..method].iter().all(|byte| byte.is_ascii_uppercase() || *byte == b'-') {
        return Http::Not;
    }
    if line.len() == bytes.len() {
        return Http::More;
    }
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.ends_with(b" HTTP/1.1") {
        Http::Version("http/1.1")
    } else if line.ends_with(b" HTTP/1.0") {
        Http::Version("http/1.0")
    } else {
        Http::Not
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_is_told_from_other_protocols() {
        for (bytes, expected) in [
            (&b"GET / HTTP/1.1\r\n"[..], "http/1.1"),
            (b"GET / HTTP/1.0\r\n", "http/1.0"),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "h2c"),
            (b"PRI * HT", "more"),
            (b"GET /", "more"),
            (b"get / HTTP/1.1\r\n", "not"),
            (b"\x00\x00\x01", "not"),
            (b"SSH-2.0-OpenSSH\r\n", "not"),
            (b"EHLO example\r\n", "not"),
            (b"ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFGHIJK", "not"),
        ] {
            let found = match http(bytes) {
                Http::Version(version) => version,
                Http::More => "more",
                Http::Not => "not",
            };
            assert_eq!(found, expected, "{}", String::from_utf8_lossy(bytes));
        }
    }
}

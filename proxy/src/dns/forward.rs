//! Asking other resolvers: the client's own bytes, by UDP and, if the answer did not fit, by TCP.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hickory_proto::op::{Message, MessageType, ResponseCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// How long one resolver may take; Istio's.
const PATIENCE: Duration = Duration::from_secs(5);
/// The largest datagram.
const DATAGRAM: usize = 65_535;

/// An answer: what came, and what it says.
#[derive(Debug, Clone)]
pub struct Forwarded {
    /// As it came.
    pub bytes: Vec<u8>,
    /// Decoded.
    pub message: Message,
}

/// Asks `resolvers` one after the other, or all at once; `None` if none gives an answer. One that says that it cannot is believed only
/// when all others fail.
pub async fn forward(resolvers: &[SocketAddr], parallel: bool, bytes: &[u8], query: &Message) -> Option<Forwarded> {
    let mut fallback = None;
    if parallel {
        let mut asked: FuturesUnordered<_> = resolvers.iter().map(|to| ask(*to, bytes, query)).collect();
        while let Some(answer) = asked.next().await {
            if let Some(good) = good(answer, &mut fallback) {
                return Some(good);
            }
        }
    } else {
        for to in resolvers {
            if let Some(good) = good(ask(*to, bytes, query).await, &mut fallback) {
                return Some(good);
            }
        }
    }
    fallback
}

fn good(answer: Option<Forwarded>, fallback: &mut Option<Forwarded>) -> Option<Forwarded> {
    let answer = answer?;
    if matches!(
        answer.message.metadata.response_code,
        ResponseCode::ServFail | ResponseCode::NotImp | ResponseCode::Refused
    ) {
        fallback.get_or_insert(answer);
        return None;
    }
    Some(answer)
}

async fn ask(to: SocketAddr, bytes: &[u8], query: &Message) -> Option<Forwarded> {
    match timeout(PATIENCE, exchange(to, bytes, query)).await {
        Ok(Ok(answer)) => Some(answer),
        Ok(Err(error)) => {
            tracing::debug!(resolver = %to, %error, "no answer");
            None
        }
        Err(_) => {
            tracing::debug!(resolver = %to, "no answer in time");
            None
        }
    }
}

async fn exchange(to: SocketAddr, bytes: &[u8], query: &Message) -> io::Result<Forwarded> {
    let by_udp = by_udp(to, bytes, query).await?;
    if !by_udp.message.metadata.truncation {
        return Ok(by_udp);
    }
    match by_tcp(to, bytes, query).await {
        Ok(whole) => Ok(whole),
        Err(error) => {
            tracing::debug!(resolver = %to, %error, "no whole answer by TCP");
            Ok(by_udp)
        }
    }
}

async fn by_udp(to: SocketAddr, bytes: &[u8], query: &Message) -> io::Result<Forwarded> {
    // A port of its own for each question: who wants to answer falsely has to guess it.
    let any = if to.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(to).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Some(answer) = answer_to(query, &buffer[..length]) {
            return Ok(answer);
        }
    }
}

async fn by_tcp(to: SocketAddr, bytes: &[u8], query: &Message) -> io::Result<Forwarded> {
    let mut stream = TcpStream::connect(to).await?;
    write_framed(&mut stream, bytes).await?;
    let answer = read_framed(&mut stream).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
    answer_to(query, &answer).ok_or_else(|| io::Error::other("an answer to another question"))
}

/// Only an answer to this very question counts.
fn answer_to(query: &Message, bytes: &[u8]) -> Option<Forwarded> {
    let message = Message::from_vec(bytes).ok()?;
    let meta = &message.metadata;
    let same = meta.id == query.metadata.id && meta.message_type == MessageType::Response;
    // A resolver that could not read the question does not repeat it.
    let repeats =
        message.queries == query.queries || (message.queries.is_empty() && meta.response_code != ResponseCode::NoError);
    (same && repeats).then(|| Forwarded { bytes: bytes.to_vec(), message })
}

/// Writes a message after its length (RFC 1035, 4.2.2), as one piece.
pub(super) async fn write_framed(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    let length = u16::try_from(bytes.len()).map_err(|_| io::Error::other("a message longer than 65535 bytes"))?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(bytes);
    stream.write_all(&framed).await
}

/// Reads one; `None` at the end of the stream.
pub(super) async fn read_framed(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let length = match stream.read_u16().await {
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = vec![0; length.into()];
    stream.read_exact(&mut bytes).await?;
    Ok(Some(bytes))
}

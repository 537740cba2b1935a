//! Peer metadata over TCP (MT4): what the two proxies of a connection tell of their workloads before the bytes of the applications,
//! where TLS has agreed on ALPN `istio-peer-exchange`.
//!
//! On the wire, as in Istio's `metadata_exchange` filter: 0x3D230467 and a length, 32 bits each, the most significant byte first; then a
//! `google.protobuf.Any` of a `Struct` with `x-envoy-peer-metadata` (a `Struct`) and `x-envoy-peer-metadata-id` (text). Both sides write
//! when they like: Istio's write with the first bytes of the application, so neither direction may wait for the other.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

use crate::telemetry::peer::{MAX_METADATA, Peer, told};

const MAGIC: u32 = 0x3D23_0467;
/// Bytes before the message.
const HEAD: usize = 8;

/// What a node tells, as it goes over the wire. Metadata that is larger than what a peer would read is left out.
pub fn preamble(metadata: prost_types::Struct, id: &str) -> Bytes {
    let whole = told(Some(metadata), id);
    let body = if whole.len() <= MAX_METADATA { whole } else { told(None, "") };
    let length = u32::try_from(body.len()).unwrap_or_default();
    [&MAGIC.to_be_bytes()[..], &length.to_be_bytes(), &body].concat().into()
}

/// What a peer told: `None` if nothing that could be understood.
pub type Heard = Option<Arc<Peer>>;

/// A stream whose first bytes each way are the proxies' own, or any other stream.
#[derive(Debug)]
pub struct Exchange<I> {
    io: I,
    /// `None` once both sides have told.
    state: Option<Box<State>>,
}

#[derive(Debug)]
struct State {
    /// What is left of our own preamble.
    tell: Bytes,
    /// False until all of that has left the buffers of TLS.
    told: bool,
    /// What was read of the peer's.
    head: Vec<u8>,
    reading: Reading,
    heard: Option<oneshot::Sender<Heard>>,
}

#[derive(Debug)]
enum Reading {
    Preamble,
    /// There was none: what was read is the application's.
    Others(usize),
    Done,
}

/// What the bytes read so far mean.
#[derive(Debug, PartialEq)]
enum Step {
    More(usize),
    NoPreamble,
    Heard(Heard),
}

fn step(head: &[u8]) -> io::Result<Step> {
    let magic = MAGIC.to_be_bytes();
    let seen = head.len().min(magic.len());
    if head[..seen] != magic[..seen] {
        return Ok(Step::NoPreamble);
    }
    let Some((fixed, body)) = head.split_at_checked(HEAD) else { return Ok(Step::More(HEAD - head.len())) };
    let length = (&fixed[magic.len()..]).get_u32() as usize;
    if length > MAX_METADATA {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("peer metadata of {length} bytes")));
    }
    Ok(match length - body.len() {
        0 => Step::Heard(Peer::heard(body).map(Arc::new)),
        missing => Step::More(missing),
    })
}

impl<I> Exchange<I> {
    /// A stream as it is.
    pub fn none(io: I) -> Self {
        Self { io, state: None }
    }

    /// A stream on which `preamble` is told and the peer's is awaited, with what will tell of it. That is dropped if the stream ends first.
    pub fn with(io: I, preamble: Bytes) -> (Self, oneshot::Receiver<Heard>) {
        let (heard, hears) = oneshot::channel();
        let state =
            State { tell: preamble, told: false, head: Vec::new(), reading: Reading::Preamble, heard: Some(heard) };
        (Self { io, state: Some(Box::new(state)) }, hears)
    }
}

impl<I: AsyncWrite + Unpin> Exchange<I> {
    /// Writes what is left of our own preamble.
    fn poll_tell(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(state) = &mut self.state else { return Poll::Ready(Ok(())) };
        while !state.tell.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &state.tell))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            state.tell.advance(written);
        }
        if !state.told {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            state.told = true;
        }
        self.settle();
        Poll::Ready(Ok(()))
    }
}

impl<I> Exchange<I> {
    /// Once both sides have told, nothing is kept.
    fn settle(&mut self) {
        if self.state.as_ref().is_some_and(|state| state.told && matches!(state.reading, Reading::Done)) {
            self.state = None;
        }
    }
}

impl<I: AsyncRead + Unpin> Exchange<I> {
    /// Reads the peer's preamble. Ready when what comes next is the application's.
    fn poll_hear(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(state) = &mut self.state else { return Poll::Ready(Ok(())) };
        while matches!(state.reading, Reading::Preamble) {
            let missing = match step(&state.head)? {
                Step::More(missing) => missing,
                Step::NoPreamble => {
                    state.finish(None);
                    break;
                }
                Step::Heard(peer) => {
                    state.finish(peer);
                    state.head = Vec::new();
                    state.reading = Reading::Done;
                    break;
                }
            };
            // Never more than what is missing: the rest is the application's.
            let mut space = [0; 512];
            let room = missing.min(space.len());
            let mut piece = ReadBuf::new(&mut space[..room]);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut piece))?;
            if piece.filled().is_empty() {
                // An end before the preamble is whole: these bytes were meant for the application after all.
                state.finish(None);
                break;
            }
            state.head.extend_from_slice(piece.filled());
        }
        Poll::Ready(Ok(()))
    }
}

impl State {
    fn finish(&mut self, heard: Heard) {
        self.reading = Reading::Others(0);
        if let Some(sender) = self.heard.take() {
            let _ = sender.send(heard);
        }
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncRead for Exchange<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.state.is_some() {
            // Not awaited: reading goes on while the peer does not take what we tell.
            if let Poll::Ready(Err(error)) = self.poll_tell(cx) {
                return Poll::Ready(Err(error));
            }
            ready!(self.poll_hear(cx))?;
            if let Some(state) = &mut self.state
                && let Reading::Others(given) = &mut state.reading
            {
                let left = &state.head[*given..];
                let count = left.len().min(buf.remaining());
                buf.put_slice(&left[..count]);
                *given += count;
                if *given == state.head.len() {
                    state.head = Vec::new();
                    state.reading = Reading::Done;
                }
                if count > 0 {
                    return Poll::Ready(Ok(()));
                }
            }
            self.settle();
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Exchange<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_tell(cx))?;
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_tell(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_tell(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    fn tells(name: &str) -> Bytes {
        let node = serde_json::json!({"WORKLOAD_NAME": name, "NAMESPACE": "shop", "LABELS": {"app": name}});
        preamble(Peer::message(node.as_object().unwrap()), &format!("sidecar~{name}"))
    }

    /// Both ends speak at once, however small the pieces are.
    #[tokio::test]
    async fn both_sides_hear_and_the_applications_do_not() {
        for room in [1, 3, 64, 4096] {
            let (a, b) = duplex(room);
            let (mut a, a_hears) = Exchange::with(a, tells("a"));
            let (mut b, b_hears) = Exchange::with(b, tells("b"));
            // The server speaks first, while the client says nothing.
            let (mut greeting, mut answer) = ([0; 5], [0; 5]);
            tokio::try_join!(b.write_all(b"ready"), a.read_exact(&mut greeting)).unwrap();
            tokio::try_join!(a.write_all(b"hello"), b.read_exact(&mut answer)).unwrap();
            assert_eq!((&greeting, &answer), (b"ready", b"hello"), "{room}");
            let workload = |heard: Heard| heard.unwrap().workload.clone().unwrap();
            assert_eq!(&*workload(a_hears.await.unwrap()), "b");
            assert_eq!(&*workload(b_hears.await.unwrap()), "a");
            assert!(a.state.is_none() && b.state.is_none(), "what is over is kept");
        }
    }

    #[tokio::test]
    async fn bytes_that_are_no_preamble_are_the_applications() {
        let garbage = [&MAGIC.to_be_bytes()[..], &3_u32.to_be_bytes(), b"\xff\xff\xff"].concat();
        for (sent, received, understood) in [
            (&b"GET / HTTP/1.1"[..], &b"GET / HTTP/1.1"[..], false),
            (b"\x3d\x23", b"\x3d\x23", false),
            (b"", b"", false),
            (&garbage, b"", false),
            (&[&tells("a")[..], b"rest"].concat(), b"rest", true),
        ] {
            let (mut far, near) = duplex(4096);
            let (mut near, hears) = Exchange::with(near, tells("b"));
            far.write_all(sent).await.unwrap();
            far.shutdown().await.unwrap();
            let mut all = Vec::new();
            near.read_to_end(&mut all).await.unwrap();
            assert_eq!(all, received);
            assert_eq!(hears.await.unwrap().is_some(), understood);
        }
    }

    #[tokio::test]
    async fn a_length_beyond_the_limit_ends_the_stream() {
        let (mut far, near) = duplex(4096);
        let (mut near, _hears) = Exchange::with(near, tells("b"));
        far.write_all(&[MAGIC.to_be_bytes(), u32::MAX.to_be_bytes()].concat()).await.unwrap();
        let error = near.read(&mut [0; 8]).await.unwrap_err();
        assert_eq!(error.to_string(), "peer metadata of 4294967295 bytes");
    }
}

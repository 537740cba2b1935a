//! The end of a client's connection: what we wrote last must arrive, even if the client was still sending.
//!
//! A socket that is closed with unread bytes in it is reset by the kernel, and the reset overtakes the answer. So we close our side first,
//! and read on for a moment.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::detect::prefixed::Prefixed;
use crate::listener::accept::Downstream;

/// How long we read on; Envoy's `delayed_close_timeout`.
const PATIENCE: Duration = Duration::from_secs(1);

type Stream = Prefixed<Downstream>;

/// Where a stream is left when its codec is done with it. A stream that was upgraded is not left here.
#[derive(Debug, Clone, Default)]
pub struct Remains(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    left: Mutex<Option<Stream>>,
    blocked: AtomicBool,
}

/// A stream that does not end with its codec.
#[derive(Debug)]
pub struct Lasting {
    stream: Option<Stream>,
    remains: Remains,
}

impl Remains {
    /// A stream that will be left here.
    pub fn of(&self, stream: Stream) -> Lasting {
        Lasting { stream: Some(stream), remains: self.clone() }
    }

    /// True if the codec has more to write than the stream took.
    pub fn is_blocked(&self) -> bool {
        self.0.blocked.load(Ordering::Relaxed)
    }

    /// Puts bytes back before the stream that was left here.
    pub fn unread(&self, bytes: Bytes) {
        if let Some(stream) = &mut *self.0.left.lock() {
            stream.put_back(bytes);
        }
    }

    /// What was left.
    pub fn take(self) -> Option<Stream> {
        self.0.left.lock().take()
    }
}

/// Closes a stream, in order.
pub async fn close(mut stream: Stream) {
    let reading = async {
        stream.shutdown().await?;
        let mut buffer = vec![0; 4096];
        while stream.read(&mut buffer).await? > 0 {}
        io::Result::Ok(())
    };
    // Errors mean that the client has gone, which is as well.
    let _ = tokio::time::timeout(PATIENCE, reading).await;
}

impl Drop for Lasting {
    fn drop(&mut self) {
        *self.remains.0.left.lock() = self.stream.take();
    }
}

impl Lasting {
    fn get(&mut self) -> io::Result<Pin<&mut Stream>> {
        self.stream.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Notes whether the stream takes what there is to write.
    fn wrote<T>(&self, written: Poll<T>) -> Poll<T> {
        self.remains.0.blocked.store(written.is_pending(), Ordering::Relaxed);
        written
    }
}

impl AsyncRead for Lasting {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.get()?.poll_read(cx, buf)
    }
}

impl AsyncWrite for Lasting {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = self.get()?.poll_write(cx, buf);
        self.wrote(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = self.get()?.poll_write_vectored(cx, bufs);
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = self.get()?.poll_flush(cx);
        self.wrote(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get()?.poll_shutdown(cx)
    }
}

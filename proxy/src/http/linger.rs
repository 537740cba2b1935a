//! The end of a client's connection: what we wrote last must arrive, even if the client was still sending.
//!
//! A socket that is closed with unread bytes in it is reset by the kernel, and the reset overtakes the answer. So we close our side first,
//! and read on for a moment.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::listener::accept::Downstream;

/// How long we read on; Envoy's `delayed_close_timeout`.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where a stream is left when its connection is over.
#[derive(Debug, Clone, Default)]
pub struct Remains(Arc<Mutex<Option<Downstream>>>);

/// A stream that does not end with its connection.
#[derive(Debug)]
pub struct Lasting {
    stream: Option<Downstream>,
    remains: Remains,
}

impl Remains {
    /// A stream that will be left here.
    pub fn of(&self, stream: Downstream) -> Lasting {
        Lasting { stream: Some(stream), remains: self.clone() }
    }

    /// Closes what was left, in order. A stream that was upgraded is not here.
    pub async fn close(self) {
        let Some(mut stream) = self.0.lock().take() else { return };
        let reading = async {
            stream.shutdown().await?;
            let mut buffer = [0; 4096];
            while stream.read(&mut buffer).await? > 0 {}
            io::Result::Ok(())
        };
        // Errors mean that the client has gone, which is as well.
        let _ = tokio::time::timeout(PATIENCE, reading).await;
    }
}

impl Drop for Lasting {
    fn drop(&mut self) {
        *self.remains.0.lock() = self.stream.take();
    }
}

impl Lasting {
    fn get(self: Pin<&mut Self>) -> io::Result<Pin<&mut Downstream>> {
        self.get_mut().stream.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl AsyncRead for Lasting {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.get()?.poll_read(cx, buf)
    }
}

impl AsyncWrite for Lasting {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.get()?.poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get()?.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get()?.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get()?.poll_shutdown(cx)
    }
}

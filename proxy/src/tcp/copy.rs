//! Copying bytes both ways between two streams, until both sides have ended or nothing moves any more.

use std::cell::Cell;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::time::Instant;

/// Buffers grow with what a connection carries, so that idle ones stay cheap: bytes, and how much must have passed first.
const SIZES: [(usize, u64); 3] = [(1 << 10, 0), ((16 << 10) - 64, 128 << 10), (256 << 10, 10 << 20)];

/// What was copied so far.
#[derive(Debug)]
pub struct Moved {
    /// Bytes from the first stream to the second.
    pub up: Cell<u64>,
    /// Bytes from the second to the first.
    pub down: Cell<u64>,
    /// When something moved last.
    last: Cell<Instant>,
}

impl Default for Moved {
    fn default() -> Self {
        Self { up: Cell::default(), down: Cell::default(), last: Cell::new(Instant::now()) }
    }
}

/// How a copy ended.
#[derive(Debug, Default)]
pub struct Copied {
    /// True if nothing moved for too long.
    pub idle: bool,
    /// What broke it, if anything did.
    pub error: Option<io::Error>,
}

/// Copies until both have ended, nothing has moved for `idle`, or `most` is over. A side that ends is told to the other, which may go on
/// (half-close). `moved` is kept up to date meanwhile.
pub async fn both<A, B>(a: A, b: B, idle: Option<Duration>, most: Option<Duration>, moved: &Moved) -> Copied
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (a_read, a_write) = split(a);
    let (b_read, b_write) = split(b);
    let Moved { up, down, last } = moved;
    last.set(Instant::now());
    let copying = async { tokio::try_join!(one(a_read, b_write, up, last), one(b_read, a_write, down, last)) };
    let watch = async {
        let Some(limit) = idle else { return std::future::pending().await };
        loop {
            let until = last.get() + limit;
            tokio::time::sleep_until(until).await;
            if Instant::now() >= last.get() + limit {
                return;
            }
        }
    };
    let old = async {
        match most {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    let mut copied = Copied::default();
    tokio::select! {
        result = copying => copied.error = result.err(),
        () = watch => copied.idle = true,
        () = old => {}
    }
    copied
}

async fn one<R, W>(mut from: R, mut to: W, count: &Cell<u64>, last: &Cell<Instant>) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut buffer = vec![0; SIZES[0].0];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            // Some streams were shut down by their peer meanwhile; that is an end too.
            let _ = to.shutdown().await;
            return Ok(());
        }
        to.write_all(&buffer[..read]).await?;
        to.flush().await?;
        count.set(count.get() + read as u64);
        last.set(Instant::now());
        let wanted = SIZES.iter().rev().find(|(_, after)| count.get() >= *after).map_or(SIZES[0].0, |(size, _)| *size);
        if read == buffer.len() && buffer.len() < wanted {
            buffer.resize(wanted, 0);
        }
    }
}

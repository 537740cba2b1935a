//! Users of TCP who never stop: each sends a line over its connection, waits for the echo, and sends the next.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::eventually::until;
use crate::load::Outcome;

/// Longest wait for an echo.
const PATIENCE: Duration = Duration::from_secs(15);

/// Running load.
#[derive(Debug)]
pub struct TcpLoad {
    state: Arc<State>,
    tasks: JoinSet<()>,
}

#[derive(Debug, Default)]
struct State {
    stop: AtomicBool,
    good: AtomicU64,
    failures: Mutex<Vec<String>>,
}

impl TcpLoad {
    /// Echoes over `concurrency` connections until it is stopped. With `reconnect`, each echo has a new connection.
    pub fn start(address: SocketAddr, concurrency: usize, reconnect: bool) -> Self {
        let state = Arc::new(State::default());
        let mut tasks = JoinSet::new();
        for _ in 0..concurrency {
            tasks.spawn(run(address, state.clone(), reconnect));
        }
        Self { state, tasks }
    }

    /// Waits until as many more echoes have come.
    pub async fn more(&self, echoes: u64) {
        let wanted = self.state.good.load(Ordering::SeqCst) + echoes;
        until("the echoes go on", async || self.state.good.load(Ordering::SeqCst) >= wanted).await;
    }

    /// Ends it after the echoes that are on their way.
    pub async fn stop(self) -> Outcome {
        self.state.stop.store(true, Ordering::SeqCst);
        self.tasks.join_all().await;
        let failures = std::mem::take(&mut *self.state.failures.lock().unwrap_or_else(PoisonError::into_inner));
        Outcome { good: self.state.good.load(Ordering::SeqCst), failures }
    }
}

async fn run(address: SocketAddr, state: Arc<State>, reconnect: bool) {
    let mut kept = None;
    while !state.stop.load(Ordering::SeqCst) {
        match timeout(PATIENCE, echo(address, kept.take())).await.context("no echo").flatten() {
            Ok(stream) => {
                state.good.fetch_add(1, Ordering::SeqCst);
                kept = (!reconnect).then_some(stream);
            }
            Err(error) => {
                state.failures.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{error:#}"));
            }
        }
    }
}

async fn echo(address: SocketAddr, kept: Option<TcpStream>) -> Result<TcpStream> {
    const LINE: &[u8] = b"a line that comes back\n";
    let mut stream = match kept {
        Some(stream) => stream,
        None => TcpStream::connect(address).await?,
    };
    stream.write_all(LINE).await?;
    let mut back = Vec::new();
    while !back.ends_with(LINE) {
        ensure!(stream.read_buf(&mut back).await? > 0, "the connection ended after {} bytes", back.len());
    }
    Ok(stream)
}

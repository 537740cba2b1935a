//! A way between a proxy and its control plane that can be cut without a word, as networks do.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A running relay.
pub struct Relay {
    /// Where it listens.
    pub address: SocketAddr,
    open: Arc<watch::Sender<bool>>,
    connections: Arc<AtomicUsize>,
    _task: JoinSet<()>,
}

impl Relay {
    /// Passes bytes on to `target`.
    pub async fn start(target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let open = Arc::new(watch::channel(true).0);
        let connections = Arc::new(AtomicUsize::new(0));
        let mut task = JoinSet::new();
        let (watched, counted) = (open.clone(), connections.clone());
        task.spawn(async move {
            let mut all = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                let open = watched.clone();
                all.spawn(async move {
                    let Ok(server) = TcpStream::connect(target).await else { return };
                    let ((from_client, to_client), (from_server, to_server)) =
                        (client.into_split(), server.into_split());
                    let up = pass(from_client, to_server, open.subscribe());
                    let down = pass(from_server, to_client, open.subscribe());
                    let _ = tokio::join!(up, down);
                });
            }
        });
        Ok(Self { address, open, connections, _task: task })
    }

    /// From now on nothing passes, and nobody is told.
    pub fn cut(&self) {
        self.open.send_replace(false);
    }

    /// Everything passes again, what was held back first.
    pub fn heal(&self) {
        self.open.send_replace(true);
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut open: watch::Receiver<bool>) -> Result<()> {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let read = from.read(&mut buffer).await?;
        open.wait_for(|open| *open).await?;
        if read == 0 {
            return Ok(to.shutdown().await?);
        }
        to.write_all(&buffer[..read]).await?;
    }
}

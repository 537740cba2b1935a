//! Who reads slowly holds up who sends, and nobody else: what is on its way is bounded, so that memory is (flow control).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::Request;
use integration_tests::eventually::DEADLINE;
use integration_tests::{Crowd, Mesh, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::alone;
use super::base::Base;
use super::upstream::outside;

/// The most that may be on its way: buffers of sockets on both sides (`tcp_rmem`, `tcp_wmem`: 10 MiB each way by Linux's defaults),
/// windows of HTTP/2 (1 MiB a stream, 4 MiB a connection), and what is being copied.
const MOST: u64 = 40 << 20;
/// What stands for so long does not move.
const STANDS: Duration = Duration::from_millis(600);

/// A server that counts what it moved, and reads only when it is let.
struct Server {
    address: SocketAddr,
    /// Bytes sent or received.
    moved: Arc<AtomicU64>,
    /// One for each read.
    gate: Arc<Semaphore>,
    _tasks: JoinSet<()>,
}

impl Server {
    /// `GET` is answered without end; the body of a `POST` is read as the gate lets it, and then answered.
    async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (moved, gate) = (Arc::new(AtomicU64::new(0)), Arc::new(Semaphore::new(0)));
        let mut tasks = JoinSet::new();
        let shared = (moved.clone(), gate.clone());
        tasks.spawn(async move {
            let mut all = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (moved, gate) = shared.clone();
                all.spawn(async move { drop(serve(stream, moved, gate).await) });
            }
        });
        Ok(Self { address, moved, gate, _tasks: tasks })
    }
}

async fn serve(mut stream: TcpStream, moved: Arc<AtomicU64>, gate: Arc<Semaphore>) -> Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        ensure!(stream.read_buf(&mut head).await? > 0, "the client has gone");
    }
    let mut chunk = vec![b'x'; 64 << 10];
    if head.starts_with(b"GET") {
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?;
        loop {
            stream.write_all(format!("{:x}\r\n", chunk.len()).as_bytes()).await?;
            stream.write_all(&chunk).await?;
            stream.write_all(b"\r\n").await?;
            moved.fetch_add(chunk.len() as u64, Ordering::SeqCst);
        }
    }
    loop {
        gate.acquire().await?.forget();
        let read = stream.read(&mut chunk).await?;
        ensure!(read > 0, "the client has gone");
        moved.fetch_add(read as u64, Ordering::SeqCst);
    }
}

/// The mesh of a test, and what there was before it.
struct Stage {
    mesh: Mesh,
    base: Base,
}

impl Stage {
    async fn start() -> Result<Self> {
        let mesh = Mesh::builder().service("echo", 1).client("client").start().await?;
        let base = Base::of(&mesh, &["client", "echo-v1"]).await?;
        Ok(Self { mesh, base })
    }

    /// The others were served to the end, and nothing of the test is left.
    async fn leaves_nothing(self, crowd: Crowd) -> Result<()> {
        crowd.more(5).await;
        crowd.stop().await;
        self.mesh.delete("slow").await?;
        self.base.returns(&self.mesh).await?;
        self.mesh.stop().await;
        Ok(())
    }
}

/// Waits until a count moves no more, and returns it.
async fn stands(count: &AtomicU64) -> Result<u64> {
    let mut last = (count.load(Ordering::SeqCst), Instant::now());
    eventually(DEADLINE, async || {
        let now = count.load(Ordering::SeqCst);
        ensure!(now < MOST, "{now} bytes are on their way");
        if now != last.0 {
            last = (now, Instant::now());
        }
        ensure!(last.1.elapsed() > STANDS && now > 0, "{now} bytes, and more come");
        Ok(now)
    })
    .await
}

async fn moves(count: &AtomicU64, from: u64) -> Result<()> {
    eventually(DEADLINE, async || {
        let now = count.load(Ordering::SeqCst);
        ensure!(now > from, "{now} bytes, and no more come");
        Ok(())
    })
    .await
}

/// A client that does not read holds up the server; one that reads on is served on. HTTP/2: the other streams go on meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_slowly_holds_up_its_server_and_nobody_else() -> Result<()> {
    let _alone = alone().await;
    let stage = Stage::start().await?;
    let mesh = &stage.mesh;
    let server = Server::start().await?;
    mesh.apply_as("slow", &outside("slow", "HTTP", server.address, "", "")).await?;
    let client = mesh.client("client");
    let crowd = Crowd::start(&client, &["http://echo/"]);

    let mut stream = TcpStream::connect(client.address()).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: slow.example\r\n\r\n").await?;
    let sent = stands(&server.moved).await?;
    crowd.more(10).await;
    let mut buffer = vec![0; 64 << 10];
    let mut read = 0;
    while read < sent {
        let count = timeout(DEADLINE, stream.read(&mut buffer)).await??;
        ensure!(count > 0, "the answer ended after {read} bytes");
        read += count as u64;
    }
    moves(&server.moved, sent).await?;
    drop(stream);

    server.moved.store(0, Ordering::SeqCst);
    // A stream that stands must not use up what the connection has for all.
    let stream = TcpStream::connect(client.address()).await?;
    let (mut sender, connection) =
        h2::client::Builder::new().initial_connection_window_size(1 << 20).handshake::<_, Bytes>(stream).await?;
    let connection = tokio::spawn(async move { drop(connection.await) });
    let get = |host: &str| Request::get(format!("http://{host}/")).body(());
    let (answer, _) = sender.send_request(get("slow.example")?, true)?;
    let mut body = answer.await?.into_body();
    let sent = stands(&server.moved).await?;
    for _ in 0..10 {
        sender = sender.ready().await?;
        let (answer, _) = sender.send_request(get("echo")?, true)?;
        let (head, mut other) = timeout(DEADLINE, answer).await.context("another stream stands too")??.into_parts();
        ensure!(head.status == 200, "{}", head.status);
        while let Some(data) = other.data().await {
            other.flow_control().release_capacity(data?.len())?;
        }
    }
    let mut read = 0;
    while read < sent {
        let data = timeout(DEADLINE, body.data()).await?.context("the answer ended")??;
        read += data.len() as u64;
        body.flow_control().release_capacity(data.len())?;
    }
    moves(&server.moved, sent).await?;
    drop((body, sender));
    connection.abort();

    drop(server);
    stage.leaves_nothing(crowd).await
}

/// A server that does not read holds up its client; other streams of the client's connection go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_reads_slowly_holds_up_its_client_and_nobody_else() -> Result<()> {
    let _alone = alone().await;
    let stage = Stage::start().await?;
    let mesh = &stage.mesh;
    let server = Server::start().await?;
    mesh.apply_as("slow", &outside("slow", "HTTP", server.address, "", "")).await?;
    let client = mesh.client("client");
    let crowd = Crowd::start(&client, &["http://echo/"]);

    let given = Arc::new(AtomicU64::new(0));
    let mut stream = TcpStream::connect(client.address()).await?;
    stream.write_all(b"POST / HTTP/1.1\r\nhost: slow.example\r\ncontent-length: 1000000000000\r\n\r\n").await?;
    let counted = given.clone();
    let sending = tokio::spawn(async move {
        let chunk = vec![b'x'; 64 << 10];
        while let Ok(sent) = stream.write(&chunk).await {
            counted.fetch_add(sent as u64, Ordering::SeqCst);
        }
    });
    let sent = stands(&given).await?;
    crowd.more(10).await;
    server.gate.add_permits(Semaphore::MAX_PERMITS / 2);
    moves(&given, sent).await?;
    sending.abort();
    let _ = sending.await;

    drop(server);

    // The gate of another server is closed.
    let server = Server::start().await?;
    mesh.apply_as("slow", &outside("slow", "HTTP", server.address, "", "")).await?;
    let (mut sender, connection) = h2::client::handshake(TcpStream::connect(client.address()).await?).await?;
    let connection = tokio::spawn(async move { drop(connection.await) });
    let (answer, mut upload) = sender.send_request(Request::post("http://slow.example/").body(())?, false)?;
    given.store(0, Ordering::SeqCst);
    let counted = given.clone();
    let sending = tokio::spawn(async move {
        let chunk = Bytes::from(vec![b'x'; 16 << 10]);
        loop {
            upload.reserve_capacity(chunk.len());
            while upload.capacity() < chunk.len() {
                if std::future::poll_fn(|context| upload.poll_capacity(context)).await.is_none_or(|room| room.is_err())
                {
                    return;
                }
            }
            if upload.send_data(chunk.clone(), false).is_err() {
                return;
            }
            counted.fetch_add(chunk.len() as u64, Ordering::SeqCst);
        }
    });
    let sent = stands(&given).await?;
    for _ in 0..10 {
        sender = sender.ready().await?;
        let (answer, _) = sender.send_request(Request::get("http://echo/").body(())?, true)?;
        let head = timeout(DEADLINE, answer).await.context("another stream stands too")??;
        ensure!(head.status() == 200, "{}", head.status());
    }
    server.gate.add_permits(Semaphore::MAX_PERMITS / 2);
    moves(&given, sent).await?;
    sending.abort();
    let _ = sending.await;
    drop((answer, sender));
    connection.abort();

    drop(server);
    stage.leaves_nothing(crowd).await
}

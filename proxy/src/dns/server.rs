//! The sockets: questions by UDP and TCP in, answers out. Runs on the control thread.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use metrics::Counter;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Settings;
use super::answer::{Answer, answer, refusal, udp_limit};
use super::forward::{forward, read_framed, write_framed};
use crate::snapshot::Store;
use crate::telemetry::stats::Metrics;

/// Questions that wait for other resolvers; more are refused.
const WAITING: usize = 1024;
/// Open TCP connections; more are closed at once.
const CONNECTIONS: usize = 256;
/// A TCP connection on which nothing is asked for so long is closed.
const IDLE: Duration = Duration::from_secs(10);
/// The bit of the third byte that tells an answer from a question.
const IS_RESPONSE: u8 = 0x80;
/// The largest question; longer ones are no question.
const LARGEST: usize = 4096;
/// How often a port that is free for UDP, but not for TCP, is looked for when the system chooses.
const TRIES: usize = 16;

/// What all sockets share.
struct Server {
    settings: Settings,
    store: Arc<Store>,
    waiting: Semaphore,
    connections: Arc<Semaphore>,
    requests: Counter,
    upstream: Counter,
    failures: Counter,
}

/// Opens the sockets and answers until `stop`; returns where it listens. IPv6 may be missing on this machine, the first address not.
pub async fn serve(
    settings: Settings,
    store: Arc<Store>,
    metrics: &Metrics,
    stop: &CancellationToken,
) -> io::Result<Vec<SocketAddr>> {
    let mut opened = Vec::new();
    for address in &settings.listen {
        match open(*address).await {
            Ok(pair) => opened.push(pair),
            Err(error) if !opened.is_empty() && address.is_ipv6() && is_absent(&error) => {
                tracing::info!(%address, "this machine has no IPv6 loopback: DNS is answered by IPv4 only");
            }
            Err(error) => return Err(io::Error::new(error.kind(), format!("{address}: {error}"))),
        }
    }
    let actual: io::Result<Vec<SocketAddr>> = opened.iter().map(|(udp, _)| udp.local_addr()).collect();
    let actual = actual?;
    let mut settings = settings;
    // Whoever made this server the system's resolver must not have it ask itself.
    settings.resolvers.retain(|resolver| !actual.contains(resolver));
    let server = Arc::new(Server {
        settings,
        store,
        waiting: Semaphore::new(WAITING),
        connections: Arc::new(Semaphore::new(CONNECTIONS)),
        requests: metrics.counter("istio_agent_dns_requests_total", Vec::new()),
        upstream: metrics.counter("istio_agent_dns_upstream_requests_total", Vec::new()),
        failures: metrics.counter("istio_agent_dns_upstream_failures_total", Vec::new()),
    });
    for (udp, tcp) in opened {
        tokio::spawn(stop.clone().run_until_cancelled_owned(datagrams(server.clone(), Arc::new(udp))));
        tokio::spawn(stop.clone().run_until_cancelled_owned(connections(server.clone(), tcp, stop.clone())));
    }
    Ok(actual)
}

fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(nix::libc::EAFNOSUPPORT)
}

/// UDP and TCP on one port.
async fn open(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let mut left = if address.port() == 0 { TRIES } else { 1 };
    loop {
        left -= 1;
        let udp = UdpSocket::bind(address).await?;
        match TcpListener::bind(udp.local_addr()?).await {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(error) if left == 0 => return Err(error),
            Err(_) => {}
        }
    }
}

async fn datagrams(server: Arc<Server>, socket: Arc<UdpSocket>) {
    let mut buffer = vec![0; LARGEST];
    loop {
        let (length, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // An earlier answer that nobody took; the next question is another's.
            Err(error) => {
                tracing::debug!(%error, "DNS socket");
                tokio::task::yield_now().await;
                continue;
            }
        };
        let bytes = buffer[..length].to_vec();
        match server.decide(&bytes) {
            Decision::Ignore => {}
            Decision::Reply(query, reply) => send(&socket, client, &query, &reply).await,
            Decision::Forward(query) => {
                let (server, socket) = (server.clone(), socket.clone());
                tokio::spawn(async move {
                    match server.ask(&bytes, &query).await {
                        Ok(whole) if whole.bytes.len() <= udp_limit(&query) => {
                            sent(socket.send_to(&whole.bytes, client).await);
                        }
                        Ok(whole) => send(&socket, client, &query, &whole.message).await,
                        Err(reply) => send(&socket, client, &query, &reply).await,
                    }
                });
            }
        }
    }
}

/// Sends an answer; one that the client could not take whole says so, and the client asks by TCP.
async fn send(socket: &UdpSocket, client: SocketAddr, query: &Message, reply: &Message) {
    let bytes = match reply.to_vec() {
        Ok(bytes) if bytes.len() <= udp_limit(query) => Ok(bytes),
        _ => reply.truncate().to_vec(),
    };
    match bytes {
        Ok(bytes) => sent(socket.send_to(&bytes, client).await),
        Err(error) => tracing::warn!(%error, "an answer that cannot be written"),
    }
}

fn sent(result: io::Result<usize>) {
    if let Err(error) = result {
        tracing::debug!(%error, "a client did not get its answer");
    }
}

async fn connections(server: Arc<Server>, listener: TcpListener, stop: CancellationToken) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept DNS by TCP");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(permit) = server.connections.clone().try_acquire_owned() else { continue };
        let server = server.clone();
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
            if let Err(error) = connection(&server, stream).await {
                tracing::debug!(%error, "DNS by TCP");
            }
            drop(permit);
        }));
    }
}

async fn connection(server: &Server, mut stream: TcpStream) -> io::Result<()> {
    while let Ok(read) = timeout(IDLE, read_framed(&mut stream)).await {
        let Some(bytes) = read? else { return Ok(()) };
        let reply = match server.decide(&bytes) {
            // Whoever sends something else here is no client.
            Decision::Ignore => return Ok(()),
            Decision::Reply(_, reply) => reply.to_vec(),
            Decision::Forward(query) => match server.ask(&bytes, &query).await {
                Ok(whole) => Ok(whole.bytes),
                Err(reply) => reply.to_vec(),
            },
        };
        timeout(IDLE, write_framed(&mut stream, &reply.map_err(io::Error::other)?)).await??;
    }
    Ok(())
}

/// What becomes of bytes that came.
enum Decision {
    Ignore,
    Reply(Box<Message>, Box<Message>),
    Forward(Box<Message>),
}

impl Server {
    fn decide(&self, bytes: &[u8]) -> Decision {
        self.requests.increment(1);
        let query = match Message::from_vec(bytes) {
            Ok(query) => Box::new(query),
            Err(error) => {
                tracing::debug!(%error, "no DNS message");
                // Identifier and flags (RFC 1035, 4.1.1): what does not even ask gets nothing.
                let [high, low, flags, ..] = bytes else { return Decision::Ignore };
                if flags & IS_RESPONSE != 0 {
                    return Decision::Ignore;
                }
                let query = Message::new(u16::from_be_bytes([*high, *low]), MessageType::Query, OpCode::Query);
                let reply = Box::new(refusal(&query, ResponseCode::FormErr));
                return Decision::Reply(Box::new(query), reply);
            }
        };
        // Two servers must not answer each other's answers.
        if query.metadata.message_type != MessageType::Query {
            return Decision::Ignore;
        }
        let snapshot = self.store.load();
        match answer(snapshot.names.as_deref(), &query, &mut fastrand::Rng::new()) {
            Answer::Reply(reply) => Decision::Reply(query, reply),
            Answer::Forward => Decision::Forward(query),
        }
    }

    /// What other resolvers say, or what is said instead.
    async fn ask(&self, bytes: &[u8], query: &Message) -> Result<super::forward::Forwarded, Box<Message>> {
        let failure = || Box::new(refusal(query, ResponseCode::ServFail));
        let Ok(_waits) = self.waiting.try_acquire() else { return Err(failure()) };
        self.upstream.increment(1);
        let Settings { resolvers, parallel, .. } = &self.settings;
        forward(resolvers, *parallel, bytes, query).await.ok_or_else(|| {
            self.failures.increment(1);
            failure()
        })
    }
}

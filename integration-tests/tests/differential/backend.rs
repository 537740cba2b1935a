//! The backends of one side: they note what they see and answer as the request's script says.
//!
//! HTTP/1 is written by hand, because a backend must also answer what no library would.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::bootstrap::Ports;
use super::script::{End, Framing, Script};
use super::wire;

/// A request as a backend saw it.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// The case that it belongs to; absent where no route can say so (TCP, tunnels).
    case: Option<String>,
    /// Name of the backend.
    pub backend: String,
    /// Number of the connection among those that this exchange used.
    pub connection: usize,
    /// Version.
    pub version: String,
    /// Method.
    pub method: String,
    /// Path with query, or the whole target.
    pub path: String,
    /// `host` or `:authority`.
    pub authority: String,
    /// Others, in order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: Vec<u8>,
    /// Trailers.
    pub trailers: Vec<(String, String)>,
    /// The request came whole.
    pub whole: bool,
}

/// Header by which a case's routes say whose a request is: one that breaks off may come when the next case has begun.
pub const CASE: &str = "x-case";

impl Seen {
    fn is_of(&self, case: &str) -> bool {
        self.case.as_deref().is_none_or(|own| own == case)
    }
}

type All = Arc<Mutex<Vec<Arc<Mutex<Seen>>>>>;

/// All backends of a side.
#[derive(Debug, Clone, Default)]
pub struct Backends {
    seen: All,
    connections: Arc<AtomicUsize>,
    /// By name.
    pub ports: Ports,
}

impl Backends {
    /// Starts them.
    pub async fn start() -> Self {
        let mut backends = Self { ports: BTreeMap::new(), ..Self::default() };
        for name in ["a", "b", "c", "h2", "echo"] {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port is bound");
            backends.ports.insert(name.into(), listener.local_addr().expect("it has an address").port());
            let own = backends.clone();
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let _ = stream.set_nodelay(true);
                    let own = own.clone();
                    let connection = own.connections.fetch_add(1, Ordering::Relaxed);
                    tokio::spawn(async move {
                        match name {
                            "h2" => own.http2(stream, name, connection).await,
                            "echo" => echo(stream).await,
                            _ => own.http1(stream, name, connection).await,
                        }
                    });
                }
            });
        }
        backends
    }

    /// What was seen of a case since the last call; what others left behind is dropped.
    pub fn take(&self, case: &str) -> Vec<Seen> {
        let all = std::mem::take(&mut *self.seen.lock().expect("not poisoned"));
        let all = all.iter().map(|seen| seen.lock().expect("not poisoned").clone());
        all.filter(|seen| seen.is_of(case)).collect()
    }

    /// True once all that was seen is whole.
    pub fn settled(&self) -> bool {
        self.seen.lock().expect("not poisoned").iter().all(|seen| seen.lock().expect("not poisoned").whole)
    }

    fn note(&self, mut seen: Seen) -> (Arc<Mutex<Seen>>, Script) {
        if let Some(at) = seen.headers.iter().position(|(name, _)| name == CASE) {
            seen.case = Some(seen.headers.remove(at).1);
        }
        let mut all = self.seen.lock().expect("not poisoned");
        let text = seen.headers.iter().find(|(name, _)| name == "x-do").map_or("", |(_, value)| value.as_str());
        let mine = |one: &Arc<Mutex<Seen>>| one.lock().expect("not poisoned").case == seen.case;
        let script = Script::parse(text, all.iter().filter(|one| mine(one)).count() + 1, &seen.backend);
        let seen = Arc::new(Mutex::new(seen));
        all.push(seen.clone());
        (seen, script)
    }

    async fn http1(&self, mut stream: TcpStream, name: &str, connection: usize) {
        let mut buffer = Vec::new();
        loop {
            let Some(head) = wire::read_head(&mut stream, &mut buffer).await else { return };
            let mut headers = head.headers.clone();
            let host = headers.iter().position(|(name, _)| name == "host");
            let authority = host.map(|at| headers.remove(at).1).unwrap_or_default();
            let mut words = head.start.splitn(3, ' ').map(str::to_owned);
            let seen = Seen {
                backend: name.into(),
                connection,
                method: words.next().unwrap_or_default(),
                path: words.next().unwrap_or_default(),
                version: words.next().unwrap_or_default(),
                authority,
                headers,
                ..Seen::default()
            };
            let method = seen.method.clone();
            let (seen, script) = self.note(seen);
            let upgrade = head.get("upgrade").map(str::to_owned);
            if let Some(protocol) = upgrade.filter(|_| script == Script::default()) {
                seen.lock().expect("not poisoned").whole = true;
                let answer =
                    format!("HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: {protocol}\r\n\r\n");
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.write_all(&buffer).await;
                return echo(stream).await;
            }
            if method == "CONNECT" && script == Script::default() {
                seen.lock().expect("not poisoned").whole = true;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
                let _ = stream.write_all(&buffer).await;
                return echo(stream).await;
            }
            if head.get("expect").is_some_and(|expect| expect.eq_ignore_ascii_case("100-continue")) && !script.early {
                let _ = stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await;
            }
            if !script.early {
                match wire::read_body(&mut stream, &mut buffer, wire::request_framing(&head)).await {
                    Ok((body, trailers)) => {
                        let mut seen = seen.lock().expect("not poisoned");
                        (seen.body, seen.trailers, seen.whole) = (body, trailers, true);
                    }
                    Err(partial) => {
                        seen.lock().expect("not poisoned").body = partial;
                        return;
                    }
                }
            }
            if !answer_http1(&mut stream, name, &method, &script).await {
                return;
            }
        }
    }

    async fn http2(&self, stream: TcpStream, name: &'static str, connection: usize) {
        let Ok(mut server) = h2::server::Builder::new().enable_connect_protocol().handshake(stream).await else {
            return;
        };
        while let Some(Ok((request, mut respond))) = server.accept().await {
            let own = self.clone();
            tokio::spawn(async move {
                let (head, mut body) = request.into_parts();
                let (seen, script) = own.note(Seen {
                    backend: name.into(),
                    connection,
                    version: "HTTP/2".into(),
                    method: head.method.to_string(),
                    path: head.uri.path_and_query().map_or(String::new(), |path| path.to_string()),
                    authority: head.uri.authority().map_or(String::new(), |authority| authority.to_string()),
                    headers: pairs(&head.headers),
                    ..Seen::default()
                });
                if let Some(scheme) = head.uri.scheme_str() {
                    seen.lock().expect("not poisoned").headers.push((":scheme".into(), scheme.into()));
                }
                if !script.early {
                    let mut all = Vec::new();
                    while let Some(Ok(data)) = body.data().await {
                        let _ = body.flow_control().release_capacity(data.len());
                        all.extend_from_slice(&data);
                    }
                    let trailers = body.trailers().await.ok().flatten();
                    let mut seen = seen.lock().expect("not poisoned");
                    seen.body = all;
                    seen.trailers = trailers.as_ref().map(pairs).unwrap_or_default();
                    seen.whole = true;
                }
                let _ = answer_http2(&mut respond, name, &script).await;
            });
        }
    }
}

/// Header pairs in order.
pub fn pairs(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
}

async fn echo(mut stream: TcpStream) {
    let mut buffer = vec![0; 4096];
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) => {
                let _ = stream.write_all(b"<end>").await;
                return;
            }
            Ok(length) => {
                if stream.write_all(&buffer[..length]).await.is_err() {
                    return;
                }
            }
            Err(_) => return,
        }
    }
}

fn body_of(script: &Script, name: &str) -> Vec<u8> {
    script.body.clone().unwrap_or_else(|| format!("from {name}\n").into_bytes())
}

/// True if the connection goes on.
async fn answer_http1(stream: &mut TcpStream, name: &str, method: &str, script: &Script) -> bool {
    tokio::time::sleep(Duration::from_millis(script.delay)).await;
    for status in &script.interim {
        let _ = stream.write_all(format!("HTTP/1.1 {status} Interim\r\nx-interim: {status}\r\n\r\n").as_bytes()).await;
    }
    match &script.end {
        End::Hang => {
            // Until the proxy gives up.
            let _ = stream.read(&mut [0; 1]).await;
            return false;
        }
        End::Close => return false,
        End::Reset | End::Stream(_) => {
            let _ = stream.set_zero_linger();
            return false;
        }
        End::Raw(bytes) => {
            let _ = stream.write_all(bytes).await;
            let _ = stream.shutdown().await;
            return false;
        }
        End::Answer | End::CloseBody | End::ResetBody => {}
    }
    let body = body_of(script, name);
    let status = script.status.unwrap_or(200);
    let bodiless = method == "HEAD" || matches!(status, 204 | 304);
    let mut head = format!("HTTP/1.1 {status} Said\r\nx-backend: {name}\r\n");
    for (name, value) in &script.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    match script.framing {
        Framing::Length if status == 204 => {}
        Framing::Length => head.push_str(&format!("content-length: {}\r\n", body.len())),
        Framing::Chunked => head.push_str("transfer-encoding: chunked\r\n"),
        Framing::UntilClose => {}
    }
    if script.close {
        head.push_str("connection: close\r\n");
    }
    head.push_str("\r\n");
    let _ = stream.write_all(head.as_bytes()).await;
    if !bodiless {
        let half = body.len() / 2;
        write_part(stream, script.framing, &body[..half]).await;
        tokio::time::sleep(Duration::from_millis(script.delay_body)).await;
        if matches!(script.end, End::CloseBody | End::ResetBody) {
            // So that the head is on its way before the end is.
            tokio::time::sleep(Duration::from_millis(50)).await;
            if script.end == End::ResetBody {
                let _ = stream.set_zero_linger();
            }
            return false;
        }
        write_part(stream, script.framing, &body[half..]).await;
        if script.framing == Framing::Chunked {
            let mut end = "0\r\n".to_owned();
            for (name, value) in &script.trailers {
                end.push_str(&format!("{name}: {value}\r\n"));
            }
            end.push_str("\r\n");
            let _ = stream.write_all(end.as_bytes()).await;
        }
    }
    !script.close && (script.framing != Framing::UntilClose || bodiless) && !script.early
}

async fn write_part(stream: &mut TcpStream, framing: Framing, part: &[u8]) {
    if part.is_empty() {
        return;
    }
    if framing == Framing::Chunked {
        let mut chunk = format!("{:x}\r\n", part.len()).into_bytes();
        chunk.extend_from_slice(part);
        chunk.extend_from_slice(b"\r\n");
        let _ = stream.write_all(&chunk).await;
    } else {
        let _ = stream.write_all(part).await;
    }
}

async fn answer_http2(
    respond: &mut h2::server::SendResponse<Bytes>,
    name: &str,
    script: &Script,
) -> Result<(), h2::Error> {
    tokio::time::sleep(Duration::from_millis(script.delay)).await;
    for status in &script.interim {
        let interim = http::Response::builder().status(*status).header("x-interim", status.to_string());
        respond.send_informational(interim.body(()).expect("an interim response"))?;
    }
    match script.end {
        End::Hang => {
            let _ = std::future::poll_fn(|context| respond.poll_reset(context)).await;
            return Ok(());
        }
        End::Stream(code) => {
            respond.send_reset(code.into());
            return Ok(());
        }
        End::Close | End::Reset | End::Raw(_) => {
            respond.send_reset(h2::Reason::INTERNAL_ERROR);
            return Ok(());
        }
        End::Answer | End::CloseBody | End::ResetBody => {}
    }
    let body = body_of(script, name);
    let mut response = http::Response::builder().status(script.status.unwrap_or(200)).header("x-backend", name);
    for (name, value) in &script.headers {
        response = response.header(name, value);
    }
    let response = response.body(()).expect("a response");
    if body.is_empty() && script.trailers.is_empty() {
        respond.send_response(response, true)?;
        return Ok(());
    }
    let mut stream = respond.send_response(response, false)?;
    let half = body.len() / 2;
    // Envoy takes empty frames in a row for an attack.
    if half > 0 {
        stream.send_data(Bytes::copy_from_slice(&body[..half]), false)?;
    }
    tokio::time::sleep(Duration::from_millis(script.delay_body)).await;
    if matches!(script.end, End::CloseBody | End::ResetBody) {
        tokio::time::sleep(Duration::from_millis(50)).await;
        stream.send_reset(h2::Reason::INTERNAL_ERROR);
        return Ok(());
    }
    if half < body.len() {
        stream.send_data(Bytes::copy_from_slice(&body[half..]), script.trailers.is_empty())?;
    }
    if !script.trailers.is_empty() {
        let mut trailers = HeaderMap::new();
        for (name, value) in &script.trailers {
            let name = http::HeaderName::try_from(name).expect("a trailer's name");
            trailers.append(name, value.parse().expect("a trailer's value"));
        }
        stream.send_trailers(trailers)?;
    }
    Ok(())
}

/// A port whose queue of connections is full, so that nobody is let in and nobody refused.
#[derive(Debug)]
pub struct Full {
    /// The port.
    pub port: u16,
    _sockets: Vec<socket2::Socket>,
}

impl Full {
    /// Listens, and fills the queue.
    pub fn new() -> Self {
        use socket2::{Domain, Socket, Type};
        let new = || Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let listener = new();
        listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a port is bound");
        listener.listen(0).expect("it listens");
        let address = listener.local_addr().expect("it has an address");
        let port = address.as_socket().expect("of IP").port();
        let mut sockets = vec![listener];
        for _ in 0..4 {
            let client = new();
            client.set_nonblocking(true).expect("a flag is set");
            // Under way until somebody accepts, which nobody does.
            let _ = client.connect(&address);
            sockets.push(client);
        }
        Self { port, _sockets: sockets }
    }
}

/// A port on which nothing listens, held as long as the socket lives; and one that a proxy may share by `SO_REUSEPORT`.
#[derive(Debug)]
pub struct Reserved {
    /// The port.
    pub port: u16,
    _socket: socket2::Socket,
}

impl Reserved {
    /// Binds without listening.
    pub fn new() -> Self {
        use socket2::{Domain, Socket, Type};
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_reuse_port(true).expect("SO_REUSEPORT");
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a port is bound");
        let port = socket.local_addr().ok().and_then(|address| address.as_socket()).expect("it has an address").port();
        Self { port, _socket: socket }
    }
}

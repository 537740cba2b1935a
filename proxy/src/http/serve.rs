//! Serving HTTP on a client's connection: the right codec, idle time-outs, and an orderly end.

use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use http::{Request, Response, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::body::ResponseBody;
use super::linger::Remains;
use super::{Codec, HttpChain, handle};
use crate::listener::accept::Downstream;
use crate::listener::chain::Seen;
use crate::listener::place::{Ending, Place};
use crate::listener::{ChainProtocol, ConnInfo};
use crate::runtime::LocalExecutor;
use crate::worker::Worker;

/// Streams at a time unless configured; Envoy's edge recommendation.
const MAX_STREAMS: u32 = 1024;
/// HTTP/2 windows towards clients in bytes: stream, connection.
const WINDOWS: (u32, u32) = (1 << 20, 4 << 20);

/// Which codec serves a connection.
pub fn codec_of(chain: &HttpChain, conn: &ConnInfo, seen: &Seen) -> Codec {
    if chain.codec != Codec::Auto {
        return chain.codec;
    }
    match conn.tls.as_ref().and_then(|tls| tls.alpn.as_deref()) {
        Some(b"h2") => Codec::Http2,
        Some(b"http/1.1" | b"http/1.0") => Codec::Http1,
        _ if conn.tls.is_none() && seen.protocols.iter().any(|protocol| protocol == "h2c") => Codec::Http2,
        _ if conn.tls.is_none() && seen.protocols.iter().any(|protocol| protocol.starts_with("http/1")) => Codec::Http1,
        _ => Codec::Auto,
    }
}

/// What the connection's task and its requests share.
#[derive(Debug)]
pub struct Activity {
    active: Cell<u32>,
    last: Cell<Instant>,
    http2: Cell<bool>,
    /// Requests so far.
    pub requests: Cell<u32>,
    /// The connection is to end when the requests under way are done.
    closing: Notify,
}

/// A request under way on a connection.
#[derive(Debug)]
pub struct Active(Rc<Activity>);

impl Activity {
    /// Ends the connection when the requests under way are done.
    pub fn close(&self) {
        self.closing.notify_one();
    }

    fn begin(self: &Rc<Self>, version: Version) -> Active {
        self.http2.set(version == Version::HTTP_2);
        self.active.set(self.active.get() + 1);
        self.requests.set(self.requests.get().saturating_add(1));
        Active(self.clone())
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get().saturating_sub(1));
        self.0.last.set(Instant::now());
    }
}

/// Serves a connection to its end.
pub async fn serve(worker: Rc<Worker>, place: Rc<Place>, codec: Codec, stream: Downstream) -> io::Result<()> {
    let chain = place.chain(&worker);
    let ChainProtocol::Http(http) = &chain.protocol else { return Ok(()) };
    let activity = Rc::new(Activity {
        active: 0.into(),
        last: Instant::now().into(),
        http2: (codec == Codec::Http2).into(),
        requests: 0.into(),
        closing: Notify::new(),
    });
    let builder = auto(http);
    let service = {
        let (worker, place, activity) = (worker.clone(), place.clone(), activity.clone());
        service_fn(move |request: Request<Incoming>| {
            let (worker, place, active) = (worker.clone(), place.clone(), activity.begin(request.version()));
            let activity = activity.clone();
            async move {
                let response = Box::pin(handle::handle(worker, place, request, activity, active)).await;
                Ok::<Response<ResponseBody>, Infallible>(response)
            }
        })
    };
    let remains = Remains::default();
    let io = TokioIo::new(remains.of(stream));
    let life = Life { place: &place, activity: &activity, idle: http.idle_timeout, most: http.max_connection_duration };
    let served = match codec {
        Codec::Auto => {
            let connection = builder.serve_connection_with_upgrades(io, service);
            life.drive(std::pin::pin!(connection), |connection| connection.graceful_shutdown()).await
        }
        // The builder's own `http1_only` and `http2_only` are of no effect with upgrades.
        Codec::Http1 => {
            let connection = http1(http).serve_connection(io, service).with_upgrades();
            life.drive(std::pin::pin!(connection), |connection| connection.graceful_shutdown()).await
        }
        Codec::Http2 => {
            let connection = http2(http).serve_connection(io, service);
            life.drive(std::pin::pin!(connection), |connection| connection.graceful_shutdown()).await
        }
    };
    remains.close().await;
    served
}

/// How long a connection lives.
struct Life<'c> {
    place: &'c Place,
    activity: &'c Activity,
    idle: Option<Duration>,
    most: Option<Duration>,
}

impl Life<'_> {
    /// Runs a connection until it ends, and lets it finish in order when it was idle for too long, is too old, we drain, or its chain
    /// is gone.
    async fn drive<C, E>(&self, mut connection: Pin<&mut C>, finish: impl Fn(Pin<&mut C>)) -> io::Result<()>
    where
        C: Future<Output = Result<(), E>>,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let started = Instant::now();
        let mut finishing = false;
        loop {
            let told = self.place.ending();
            if !finishing && self.ends_now(told) {
                finishing = true;
                finish(connection.as_mut());
            }
            let idle_at = self.idle.map(|idle| self.activity.last.get() + idle).filter(|_| !finishing);
            let old_at = self.most.map(|limit| started + limit).filter(|_| !finishing);
            let gone_at = if let Ending::Gone(at) = told { Some(at) } else { None };
            let wake = [idle_at, old_at, gone_at].into_iter().flatten().min();
            let timer = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                done = connection.as_mut() => return done.map_err(io::Error::other),
                ending = self.place.told(told) => if ending == Ending::Stopped {
                    return Ok(());
                },
                () = self.activity.closing.notified(), if !finishing => {
                    finishing = true;
                    finish(connection.as_mut());
                }
                () = timer => {
                    let now = Instant::now();
                    let busy = self.activity.active.get() > 0;
                    if gone_at.is_some_and(|at| now >= at) && (busy || finishing) {
                        // It had its time.
                        return Ok(());
                    }
                    let idle = !busy && self.idle.is_some_and(|idle| now >= self.activity.last.get() + idle);
                    if idle || [old_at, gone_at].into_iter().flatten().any(|at| now >= at) {
                        finishing = true;
                        finish(connection.as_mut());
                    } else if busy {
                        // A long request keeps the connection busy; look again later.
                        self.activity.last.set(now);
                    }
                }
            }
        }
    }

    /// True if a connection that was told so is to finish at once. One of HTTP/1 whose chain is gone may have another request on its
    /// way, which a close would lose: its answer says that it is the last, and time is limited. HTTP/2 has GOAWAY for it.
    fn ends_now(&self, told: Ending) -> bool {
        match told {
            Ending::No => false,
            Ending::Gone(_) => self.activity.http2.get(),
            Ending::Draining | Ending::Stopped => true,
        }
    }
}

/// Settings of HTTP/1, on a builder of either kind.
macro_rules! with_http1 {
    ($builder:expr, $http:expr) => {
        $builder
            .timer(TokioTimer::new())
            .header_read_timeout($http.headers_timeout.or($http.idle_timeout).unwrap_or(Duration::from_secs(3600)))
            .preserve_header_case($http.preserve_header_case)
            .max_headers($http.max_headers as usize)
            .max_buf_size(($http.max_head_bytes as usize).max(8192))
            // As in Envoy, a client that closes its side has gone: what it asked for is cancelled upstream too.
            .half_close(false)
    };
}

/// Settings of HTTP/2, on a builder of either kind.
macro_rules! with_http2 {
    ($builder:expr, $http:expr) => {{
        $builder
            .timer(TokioTimer::new())
            .max_concurrent_streams($http.max_concurrent_streams.unwrap_or(MAX_STREAMS))
            .initial_stream_window_size($http.stream_window.unwrap_or(WINDOWS.0))
            .initial_connection_window_size($http.connection_window.unwrap_or(WINDOWS.1))
            .max_header_list_size($http.max_head_bytes)
            .enable_connect_protocol();
        if let Some((interval, patience)) = $http.http2_keepalive {
            $builder.keep_alive_interval(interval).keep_alive_timeout(patience);
        }
    }};
}

fn http1(http: &HttpChain) -> hyper::server::conn::http1::Builder {
    let mut builder = hyper::server::conn::http1::Builder::new();
    with_http1!(builder, http);
    builder
}

fn http2(http: &HttpChain) -> hyper::server::conn::http2::Builder<LocalExecutor> {
    let mut builder = hyper::server::conn::http2::Builder::new(LocalExecutor);
    with_http2!(builder, http);
    builder
}

fn auto(http: &HttpChain) -> auto::Builder<LocalExecutor> {
    let mut builder = auto::Builder::new(LocalExecutor);
    with_http1!(builder.http1(), http);
    with_http2!(builder.http2(), http);
    builder
}

//! Serving HTTP on a client's connection: the right codec, idle time-outs, and an orderly end.
//!
//! A codec holds buffers of 16 KiB for as long as it lives, so a connection of HTTP/1 that is idle is parked: only its socket stays, and a
//! new codec is made when something comes.

use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncReadExt;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::body::ResponseBody;
use super::linger::{self, Remains};
use super::{Codec, HttpChain, handle};
use crate::detect::HTTP2_PREFACE;
use crate::detect::prefixed::Prefixed;
use crate::listener::accept::Downstream;
use crate::listener::chain::Seen;
use crate::listener::place::{Ending, Place};
use crate::listener::{ChainProtocol, ConnInfo, ListenerStats};
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

/// How long a connection of HTTP/1 is idle before it is parked, that is, before everything but its socket is given back.
const PARKED_AFTER: Duration = Duration::from_secs(1);

/// What the connection's task and its requests share.
#[derive(Debug)]
pub struct Activity {
    active: Cell<u32>,
    last: Cell<Instant>,
    /// Requests so far.
    pub requests: Cell<u32>,
    /// The connection is to end when the requests under way are done.
    closing: Notify,
}

/// A request under way on a connection, or its body.
#[derive(Debug)]
pub struct Active(Rc<Activity>);

impl Activity {
    /// Ends the connection when the requests under way are done.
    pub fn close(&self) {
        self.closing.notify_one();
    }

    fn begin(self: &Rc<Self>) -> Active {
        self.requests.set(self.requests.get().saturating_add(1));
        self.active.set(self.active.get() + 1);
        Active(self.clone())
    }

    /// True if nothing was under way for so long.
    fn idle_for(&self, time: Duration) -> bool {
        self.active.get() == 0 && self.last.get().elapsed() >= time
    }
}

impl Active {
    /// For a part of the same request that may last longer.
    pub fn also(&self) -> Self {
        self.0.active.set(self.0.active.get() + 1);
        Self(self.0.clone())
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
    let activity =
        Rc::new(Activity { active: 0.into(), last: Instant::now().into(), requests: 0.into(), closing: Notify::new() });
    let life = Life {
        place: place.clone(),
        activity: activity.clone(),
        idle: http.idle_timeout,
        oldest: http.max_connection_duration.map(|most| Instant::now() + most),
    };
    let service = || {
        let (worker, place, activity) = (worker.clone(), place.clone(), activity.clone());
        service_fn(move |request: Request<Incoming>| {
            let (worker, place, activity) = (worker.clone(), place.clone(), activity.clone());
            let active = activity.begin();
            async move {
                let response = Box::pin(handle::handle(worker, place, request, activity, active)).await;
                Ok::<Response<ResponseBody>, Infallible>(response)
            }
        })
    };
    let mut stream = Prefixed::new(Bytes::new(), stream);
    let codec = match codec {
        Codec::Auto => life.codec(&mut stream).await?,
        Codec::Http1 | Codec::Http2 => Some(codec),
    };
    let Some(codec) = codec else {
        linger::close(stream).await;
        return Ok(());
    };
    loop {
        let remains = Remains::default();
        let io = TokioIo::new(remains.of(stream));
        let served = if codec == Codec::Http2 {
            let mut connection = Box::pin(http2(http).serve_connection(io, service()));
            life.drive(connection.as_mut(), |connection| connection.graceful_shutdown(), None).await
        } else {
            let mut connection = Box::new(http1(http).serve_connection(io, service()).with_upgrades());
            let served = life
                .drive(Pin::new(&mut *connection), |connection| connection.graceful_shutdown(), Some(&remains))
                .await;
            match served {
                Ok(End::Idle) => {
                    // What the codec has read already, the beginning of a request at most, is read again.
                    let unread = connection.into_parts().map(|parts| parts.read_buf).unwrap_or_default();
                    remains.unread(unread);
                    Ok(End::Idle)
                }
                ended => ended,
            }
        };
        match (served, remains.take()) {
            (Ok(End::Idle), Some(parked)) => {
                worker.freed_much.set(true);
                let counted = Parked::new(place.stats());
                let readable = life.until_readable(&parked).await;
                drop(counted);
                if !readable {
                    linger::close(parked).await;
                    return Ok(());
                }
                stream = parked;
            }
            (served, left) => {
                if let Some(left) = left {
                    linger::close(left).await;
                }
                return served.map(|_| ());
            }
        }
    }
}

/// Counts a parked connection.
struct Parked(Arc<ListenerStats>);

impl Parked {
    fn new(stats: Arc<ListenerStats>) -> Self {
        stats.parked.fetch_add(1, Ordering::Relaxed);
        Self(stats)
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        self.0.parked.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why the codec was left.
enum End {
    /// The connection is over.
    Over,
    /// Nothing is under way, and nothing was for [`PARKED_AFTER`].
    Idle,
}

/// What a connection's task is woken for, other than by the connection.
enum Event {
    /// Its place was told of its end.
    Told,
    /// A request asks for its end.
    Close,
    /// It is time to look.
    Time,
}

/// How long a connection lives.
struct Life {
    place: Rc<Place>,
    activity: Rc<Activity>,
    idle: Option<Duration>,
    oldest: Option<Instant>,
}

impl Life {
    /// When a connection that was told so is to be looked at.
    fn look_at(&self, told: Ending, finishing: bool) -> Option<Instant> {
        let gone = if let Ending::Gone(at) = told { Some(at) } else { None };
        if finishing {
            return gone;
        }
        let idle = self.idle.map(|idle| self.activity.last.get() + idle);
        [gone, idle, self.oldest].into_iter().flatten().min()
    }

    /// True if it was idle for too long, is too old, or was without a chain for too long.
    fn is_late(&self, told: Ending) -> bool {
        let now = Instant::now();
        let gone = matches!(told, Ending::Gone(at) if now >= at);
        gone || self.idle.is_some_and(|idle| self.activity.idle_for(idle)) || self.oldest.is_some_and(|at| now >= at)
    }

    async fn watch(&self, told: Ending, finishing: bool, parks: bool) -> Event {
        let parked_at = (parks && !finishing).then(|| self.activity.last.get() + PARKED_AFTER);
        let wake = [self.look_at(told, finishing), parked_at].into_iter().flatten().min();
        tokio::select! {
            _ = self.place.told(told) => Event::Told,
            () = self.activity.closing.notified(), if !finishing => Event::Close,
            () = until(wake) => Event::Time,
        }
    }

    /// Runs a connection until it ends, and lets it finish in order when it was idle for too long, is too old, we drain, or its chain
    /// is gone. It is left early, to be parked, if it is idle and everything was written to what `remains`.
    async fn drive<C, E>(
        &self,
        mut connection: Pin<&mut C>,
        finish: impl Fn(Pin<&mut C>),
        remains: Option<&Remains>,
    ) -> io::Result<End>
    where
        C: Future<Output = Result<(), E>>,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let http2 = remains.is_none();
        let mut finishing = false;
        // One future that has its own waker: it is not polled again each time that the connection has something to do.
        let mut watching = FuturesUnordered::new();
        loop {
            let told = self.place.ending();
            if !finishing && ends_now(told, http2) {
                finishing = true;
                finish(connection.as_mut());
            }
            watching.push(self.watch(told, finishing, !http2));
            let event = tokio::select! {
                biased;
                done = connection.as_mut() => return done.map(|()| End::Over).map_err(io::Error::other),
                Some(event) = watching.next() => event,
            };
            let told = self.place.ending();
            let busy = self.activity.active.get() > 0 || remains.is_some_and(Remains::is_blocked);
            match event {
                Event::Told if told == Ending::Stopped => return Ok(End::Over),
                Event::Told => {}
                // It had its time.
                Event::Time if matches!(told, Ending::Gone(at) if Instant::now() >= at) && (busy || finishing) => {
                    return Ok(End::Over);
                }
                Event::Time if !self.is_late(told) => {
                    if busy {
                        // A long request keeps the connection busy; look again later.
                        self.activity.last.set(Instant::now());
                    } else if !http2 && !finishing && self.activity.idle_for(PARKED_AFTER) {
                        return Ok(End::Idle);
                    }
                }
                Event::Time | Event::Close => {
                    finishing = true;
                    finish(connection.as_mut());
                }
            }
        }
    }

    /// Resolves when a connection with nothing under way is over.
    async fn over(&self) {
        loop {
            let told = self.place.ending();
            if matches!(told, Ending::Draining | Ending::Stopped) {
                return;
            }
            match self.watch(told, false, false).await {
                Event::Told => {}
                Event::Time if !self.is_late(self.place.ending()) => {}
                Event::Time | Event::Close => return,
            }
        }
    }

    /// Waits for something to read on a connection that is parked; false if it is over before.
    async fn until_readable(&self, parked: &Prefixed<Downstream>) -> bool {
        if parked.has_prefix() {
            return true;
        }
        tokio::select! {
            biased;
            // An error shows when it is read.
            _ = parked.get_ref().readable() => true,
            () = self.over() => false,
        }
    }

    /// The codec by the first bytes, which are put back; `None` if the connection is over before.
    async fn codec(&self, stream: &mut Prefixed<Downstream>) -> io::Result<Option<Codec>> {
        let mut first = BytesMut::with_capacity(HTTP2_PREFACE.len());
        let codec = loop {
            let known = first.len().min(HTTP2_PREFACE.len());
            if first[..known] != HTTP2_PREFACE[..known] {
                break Codec::Http1;
            }
            if known == HTTP2_PREFACE.len() {
                break Codec::Http2;
            }
            let read = tokio::select! {
                biased;
                read = stream.read_buf(&mut first) => read?,
                () = self.over() => 0,
            };
            if read == 0 {
                return Ok(None);
            }
        };
        stream.put_back(first.freeze());
        Ok(Some(codec))
    }
}

/// True if a connection that was told so is to finish at once. One of HTTP/1 whose chain is gone may have another request on its way,
/// which a close would lose: its answer says that it is the last, and time is limited. HTTP/2 has GOAWAY for it.
fn ends_now(told: Ending, http2: bool) -> bool {
    match told {
        Ending::No => false,
        Ending::Gone(_) => http2,
        Ending::Draining | Ending::Stopped => true,
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn http1(http: &HttpChain) -> hyper::server::conn::http1::Builder {
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(http.headers_timeout.or(http.idle_timeout).unwrap_or(Duration::from_secs(3600)))
        .preserve_header_case(http.preserve_header_case)
        .max_headers(http.max_headers as usize)
        .max_buf_size((http.max_head_bytes as usize).max(8192))
        // As in Envoy, a client that closes its side has gone: what it asked for is cancelled upstream too.
        .half_close(false);
    builder
}

fn http2(http: &HttpChain) -> hyper::server::conn::http2::Builder<LocalExecutor> {
    let mut builder = hyper::server::conn::http2::Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(http.max_concurrent_streams.unwrap_or(MAX_STREAMS))
        .initial_stream_window_size(http.stream_window.unwrap_or(WINDOWS.0))
        .initial_connection_window_size(http.connection_window.unwrap_or(WINDOWS.1))
        .max_header_list_size(http.max_head_bytes)
        .enable_connect_protocol();
    if let Some((interval, patience)) = http.http2_keepalive {
        builder.keep_alive_interval(interval).keep_alive_timeout(patience);
    }
    builder
}

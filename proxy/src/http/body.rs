//! Bodies as they pass: counted, bounded in time, and, for requests that may be sent again, kept as long as they are small.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::error::Error;
use super::handle::Finish;
use super::serve::Active;
use crate::connect::Taken;
use crate::policy::retry::REFUSED_STREAM;
use crate::telemetry::record::Flags;

/// The largest request body that is kept for another try, in bytes.
pub const REPLAY_LIMIT: usize = 64 * 1024;

/// Envoy's words for a stream that the endpoint reset in the middle of its answer.
const REMOTE_RESET: &str = "upstream_reset_after_response_started{remote_reset}";

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The other side.
    #[error(transparent)]
    Incoming(#[from] hyper::Error),
    /// A newer try took over.
    #[error("another try took over")]
    Superseded,
    /// Time is up.
    #[error("{0}")]
    Timeout(&'static str),
    /// The stream was reset with NO_ERROR before its end.
    #[error("the stream ended before the body did")]
    Reset,
    /// It is larger than allowed.
    #[error("the body is too large")]
    TooLarge,
}

/// Counts gRPC's length-prefixed messages in the bytes of a body that pass, however they are cut.
///
/// Source: <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md> (`Length-Prefixed-Message`).
#[derive(Debug, Default)]
pub struct MessageCount {
    count: Cell<u64>,
    /// Bytes of the current prefix that were read, and their value so far.
    prefix: Cell<(u8, u32)>,
    /// Bytes of the current message that are still to come.
    rest: Cell<u32>,
}

impl MessageCount {
    /// Messages that have begun.
    pub fn count(&self) -> u64 {
        self.count.get()
    }

    /// Reads on.
    pub fn pass(&self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let rest = self.rest.get();
            if rest > 0 {
                let skipped = bytes.len().min(rest as usize);
                self.rest.set(rest - skipped as u32);
                bytes = &bytes[skipped..];
                continue;
            }
            // One byte tells of compression, four the length.
            let (read, length) = self.prefix.get();
            let length = if read == 0 { 0 } else { length << 8 | u32::from(bytes[0]) };
            bytes = &bytes[1..];
            if read == 4 {
                self.count.set(self.count.get() + 1);
                self.rest.set(length);
                self.prefix.set((0, 0));
            } else {
                self.prefix.set((read + 1, length));
            }
        }
    }
}

/// How far a request body has come.
#[derive(Debug, Default)]
pub struct Progress {
    /// It comes on a stream of HTTP/2.
    pub http2: bool,
    /// Bytes from the client.
    pub received: Cell<u64>,
    /// gRPC messages from the client, counted where there may be some.
    pub messages: MessageCount,
    /// When the client had sent everything; `None` while it has not.
    pub ended: Cell<Option<Instant>>,
    /// When something came last.
    pub last: Cell<Option<Instant>>,
    /// True if the client broke off.
    pub broken: Cell<bool>,
    /// Told when `ended` becomes known.
    pub finished: tokio::sync::Notify,
    /// The connection is busy until then.
    active: RefCell<Option<Active>>,
}

impl Progress {
    /// Of a body that begins, and comes in a version of HTTP.
    pub fn begin(version: http::Version, active: Active) -> Rc<Self> {
        let http2 = version == http::Version::HTTP_2;
        Rc::new(Self { http2, active: RefCell::new(Some(active)), ..Self::default() })
    }

    /// Tells the end of a body from a stream that was reset: hyper takes RST_STREAM with NO_ERROR for an end.
    fn end_of(&self, incoming: &Incoming) -> Option<Result<Frame<Bytes>, BodyError>> {
        if self.http2 && !incoming.is_end_stream() {
            self.broken.set(true);
            return Some(Err(BodyError::Reset));
        }
        self.end();
        None
    }

    fn end(&self) {
        self.active.take();
        if self.ended.get().is_none() {
            self.ended.set(Some(Instant::now()));
            self.finished.notify_one();
        }
    }

    fn pass(&self, data: &[u8]) {
        self.received.set(self.received.get() + data.len() as u64);
        self.messages.pass(data);
        self.last.set(Some(Instant::now()));
    }
}

/// A request's body on its way to the endpoint.
#[derive(Debug)]
pub enum RequestBody {
    /// None.
    Empty,
    /// Passed through.
    Direct(Incoming, Rc<Progress>),
    /// Kept for another try while it is small.
    Replay {
        /// Shared by all tries.
        source: Rc<Replay>,
        /// Chunks that this try has sent.
        position: usize,
        /// The try.
        generation: u32,
    },
}

/// A body that can be sent again.
#[derive(Debug)]
pub struct Replay {
    incoming: RefCell<Incoming>,
    chunks: RefCell<Vec<Bytes>>,
    trailers: RefCell<Option<HeaderMap>>,
    size: Cell<usize>,
    length: Option<u64>,
    generation: Cell<u32>,
    /// How far the client has come.
    pub progress: Rc<Progress>,
}

impl Replay {
    /// Keeps `incoming`.
    pub fn new(incoming: Incoming, progress: Rc<Progress>) -> Rc<Self> {
        Rc::new(Self {
            length: incoming.size_hint().exact(),
            incoming: RefCell::new(incoming),
            chunks: RefCell::default(),
            trailers: RefCell::default(),
            size: 0.into(),
            generation: 0.into(),
            progress,
        })
    }

    /// The body for the next try; bodies of earlier tries end with an error.
    pub fn next(self: &Rc<Self>) -> RequestBody {
        self.generation.set(self.generation.get() + 1);
        RequestBody::Replay { source: self.clone(), position: 0, generation: self.generation.get() }
    }

    /// True if everything that was read is still here.
    pub fn is_whole(&self) -> bool {
        self.size.get() <= REPLAY_LIMIT && !self.progress.broken.get()
    }

    fn poll(&self, position: &mut usize, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(chunk) = self.chunks.borrow().get(*position) {
            *position += 1;
            return Poll::Ready(Some(Ok(Frame::data(chunk.clone()))));
        }
        if self.progress.ended.get().is_some() {
            // Trailers come once for each try, after the last chunk.
            let chunks = self.chunks.borrow().len();
            if *position == chunks {
                *position += 1;
                if let Some(trailers) = self.trailers.borrow().clone() {
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
            }
            return Poll::Ready(None);
        }
        let polled = ready!(Pin::new(&mut *self.incoming.borrow_mut()).poll_frame(cx));
        match polled {
            None => Poll::Ready(self.progress.end_of(&self.incoming.borrow())),
            Some(Err(error)) => {
                self.progress.broken.set(true);
                Poll::Ready(Some(Err(error.into())))
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    self.progress.pass(&data);
                    if self.incoming.borrow().is_end_stream() {
                        // Whoever sends a body of known length asks no further.
                        self.progress.end();
                    }
                    let size = self.size.get().saturating_add(data.len());
                    self.size.set(size);
                    if size <= REPLAY_LIMIT {
                        self.chunks.borrow_mut().push(data.clone());
                        *position += 1;
                    } else {
                        self.chunks.borrow_mut().clear();
                    }
                    Poll::Ready(Some(Ok(Frame::data(data))))
                }
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        *self.trailers.borrow_mut() = Some(trailers.clone());
                        self.progress.end();
                        *position = self.chunks.borrow().len() + 1;
                        return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                    }
                    Poll::Ready(None)
                }
            },
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Direct(incoming, progress) => match ready!(Pin::new(&mut *incoming).poll_frame(cx)) {
                None => Poll::Ready(progress.end_of(incoming)),
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        progress.pass(data);
                        if incoming.is_end_stream() {
                            progress.end();
                        }
                    } else {
                        progress.end();
                    }
                    Poll::Ready(Some(Ok(frame)))
                }
                Some(Err(error)) => {
                    progress.broken.set(true);
                    Poll::Ready(Some(Err(error.into())))
                }
            },
            Self::Replay { source, position, generation } => {
                if *generation != source.generation.get() {
                    return Poll::Ready(Some(Err(BodyError::Superseded)));
                }
                source.poll(position, cx)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Direct(incoming, _) => incoming.is_end_stream(),
            Self::Replay { .. } => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Direct(incoming, _) => incoming.size_hint(),
            Self::Replay { source, position: 0, .. } => match source.length {
                // As the client framed it: a length that it did not tell is not made up for a later try.
                Some(length) => SizeHint::with_exact(length),
                None => SizeHint::default(),
            },
            Self::Replay { .. } => SizeHint::default(),
        }
    }
}

/// A response's body on its way to the client. When it ends, or is dropped, the request is accounted for.
#[derive(Debug)]
pub struct ResponseBody {
    kind: Kind,
    finish: Option<Finish>,
}

#[derive(Debug)]
enum Kind {
    Full(Option<Bytes>),
    Upstream(Box<Upstream>),
}

#[derive(Debug)]
struct Upstream {
    incoming: Incoming,
    connection: Option<Taken>,
    limits: Limits,
    timer: Option<Pin<Box<Sleep>>>,
    progressed: Instant,
    ended: bool,
    http1: bool,
    messages: MessageCount,
}

/// How long a response may take.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    /// Everything must have come so long after the request had.
    pub timeout: Option<Duration>,
    /// The request's body, if it has one; else it was whole at `started`.
    pub request: Option<Rc<Progress>>,
    /// When the request began.
    pub started: Option<Instant>,
    /// Nothing may stand still for longer.
    pub idle: Option<Duration>,
    /// The stream ends then.
    pub end: Option<Instant>,
}

/// Which limit was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Late {
    /// Time to look again: the client is still sending.
    Unknown,
    Response,
    Idle,
    Stream,
}

impl Limits {
    /// What comes first, after something moved at `progressed`.
    fn next(&self, progressed: Instant) -> Option<(Instant, Late)> {
        let whole = match &self.request {
            Some(request) => request.ended.get(),
            None => self.started,
        };
        let response = self.timeout.map(|timeout| match whole {
            Some(whole) => (whole + timeout, Late::Response),
            None => (Instant::now() + timeout, Late::Unknown),
        });
        let idle = self.idle.map(|idle| (progressed + idle, Late::Idle));
        let stream = self.end.map(|end| (end, Late::Stream));
        [response, idle, stream].into_iter().flatten().min_by_key(|(at, _)| *at)
    }
}

impl ResponseBody {
    /// A body of our own.
    pub fn full(bytes: Bytes, finish: Option<Finish>) -> Self {
        Self { kind: Kind::Full((!bytes.is_empty()).then_some(bytes)), finish }
    }

    /// The endpoint's body; its connection goes back to the pool at the end.
    pub fn upstream(incoming: Incoming, connection: Taken, limits: Limits, finish: Finish) -> Self {
        let ended = incoming.is_end_stream();
        let upstream = Upstream {
            http1: matches!(connection, Taken::Http1(_)),
            incoming,
            connection: Some(connection),
            limits,
            timer: None,
            progressed: Instant::now(),
            ended,
            messages: MessageCount::default(),
        };
        let mut body = Self { kind: Kind::Upstream(Box::new(upstream)), finish: Some(finish) };
        if ended {
            body.end();
        }
        body
    }

    /// Changes what the access log says of the answer.
    pub fn note(&mut self, details: &'static str) {
        if let Some(finish) = &mut self.finish {
            finish.record.details = Some(details.into());
        }
    }

    fn end(&mut self) {
        if let Kind::Upstream(upstream) = &mut self.kind {
            upstream.ended = true;
            if let Some(Taken::Http1(connection)) = upstream.connection.take() {
                connection.give_back();
            }
        }
        if let Some(finish) = self.finish.take() {
            finish.complete();
        }
    }

    fn fail(&mut self, flag: Flags, details: &'static str) {
        if let Some(mut finish) = self.finish.take() {
            finish.record.flags.set(flag);
            finish.record.details = Some(details.into());
            finish.complete();
        }
    }
}

impl Upstream {
    /// True if a body that ended was broken off by RST_STREAM with NO_ERROR, which hyper takes for an end.
    ///
    /// After a whole answer it asks the client to send no more (RFC 9113, section 8.1), and may overtake the end of the answer here. So
    /// it breaks an answer only if there was nothing more to send, or if the answer is known not to be whole.
    fn is_broken_off(&self, grpc: bool) -> bool {
        let sent = self.limits.request.as_ref().is_none_or(|request| request.ended.get().is_some());
        let missing = self.incoming.size_hint().exact().is_some_and(|bytes| bytes > 0);
        !self.http1 && !self.incoming.is_end_stream() && (sent || grpc || missing)
    }

    /// Ready when the response has taken too long.
    fn poll_timeout(&mut self, cx: &mut Context<'_>) -> Poll<Late> {
        // Each frame moves the idle limit on; the timer is moved only when it fires, or when something comes earlier.
        loop {
            let Some((until, late)) = self.limits.next(self.progressed) else { return Poll::Pending };
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
            if timer.deadline() > until {
                timer.as_mut().reset(until);
            }
            ready!(timer.as_mut().poll(cx));
            if Instant::now() >= until && late != Late::Unknown {
                return Poll::Ready(late);
            }
            timer.as_mut().reset(until.max(Instant::now() + Duration::from_millis(1)));
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let upstream = match &mut this.kind {
            Kind::Full(bytes) => {
                let frame = bytes.take();
                if let (Some(bytes), Some(finish)) = (&frame, &mut this.finish) {
                    finish.record.bytes_sent += bytes.len() as u64;
                }
                this.end();
                return Poll::Ready(frame.map(|bytes| Ok(Frame::data(bytes))));
            }
            Kind::Upstream(upstream) => upstream,
        };
        if upstream.ended {
            return Poll::Ready(None);
        }
        match Pin::new(&mut upstream.incoming).poll_frame(cx) {
            Poll::Pending => {
                let late = ready!(upstream.poll_timeout(cx));
                let (flag, text) = match late {
                    Late::Unknown => return Poll::Pending,
                    Late::Response => (Flags::UT, "response_timeout"),
                    Late::Idle => (Flags::SI, "stream_idle_timeout"),
                    Late::Stream => (Flags::default(), "max_duration_timeout"),
                };
                this.fail(flag, text);
                Poll::Ready(Some(Err(BodyError::Timeout(text))))
            }
            Poll::Ready(None)
                if upstream.is_broken_off(this.finish.as_ref().is_some_and(|finish| finish.record.grpc)) =>
            {
                this.fail(Flags::UR, REMOTE_RESET);
                Poll::Ready(Some(Err(BodyError::Reset)))
            }
            Poll::Ready(None) => {
                this.end();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                let (flag, details) = match super::forward::failure(&error) {
                    Error::UpstreamReset(Some(REFUSED_STREAM)) => {
                        (Flags::UR, "upstream_reset_after_response_started{remote_refused_stream_reset}")
                    }
                    Error::UpstreamReset(_) => (Flags::UR, REMOTE_RESET),
                    // HTTP/1 that ends too early breaks the protocol, as Envoy counts it.
                    _ if upstream.http1 => (Flags::UPE, "upstream_reset_after_response_started{protocol_error}"),
                    _ => (Flags::UC, "upstream_reset_after_response_started{connection_termination}"),
                };
                this.fail(flag, details);
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Ready(Some(Ok(frame))) => {
                upstream.progressed = Instant::now();
                let ended = upstream.incoming.is_end_stream();
                if let Some(finish) = &mut this.finish {
                    if let Some(data) = frame.data_ref() {
                        finish.record.bytes_sent += data.len() as u64;
                        if finish.record.grpc {
                            upstream.messages.pass(data);
                            finish.record.grpc_messages.1 = upstream.messages.count();
                        }
                    } else if let Some(trailers) = frame.trailers_ref() {
                        finish.trailers(trailers);
                    }
                }
                if ended || frame.is_trailers() {
                    this.end();
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Full(bytes) => bytes.is_none(),
            Kind::Upstream(upstream) => upstream.ended,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Kind::Upstream(upstream) => upstream.incoming.size_hint(),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        let unread = match &self.kind {
            Kind::Full(bytes) => bytes.is_some(),
            Kind::Upstream(upstream) => !upstream.ended,
        };
        if let Some(mut finish) = self.finish.take() {
            // A response to HEAD and the like has a body that nobody reads.
            if unread && !finish.bodiless {
                finish.record.flags.set(Flags::DC);
                finish.record.details = Some("downstream_remote_disconnect".into());
            }
            finish.complete();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_messages_are_counted_however_they_are_cut() {
        let three: &[u8] = &[0, 0, 0, 0, 2, 7, 7, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 9];
        for size in 1..=three.len() {
            let messages = MessageCount::default();
            three.chunks(size).for_each(|chunk| messages.pass(chunk));
            assert_eq!(messages.count(), 3, "in pieces of {size}");
        }
    }
}

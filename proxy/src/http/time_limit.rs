//! How long a request and each of its tries may take, as the client, the route and the chain say together.
//!
//! Asked by `forward` while it waits for an answer; what holds afterwards is in [`super::body::Limits`].

use std::rc::Rc;
use std::time::Duration;

use http::HeaderMap;
use tokio::time::Instant;

use super::body::Progress;
use super::error::Error;
use super::handle::{Exchange, Finish};
use crate::policy::retry::RetryPolicy;
use crate::route::action::Forward;

/// How long a request may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// When it was first sent on.
    pub(super) started: Instant,
    /// After the request has come whole.
    pub(super) timeout: Option<Duration>,
    /// Nothing may stand still for longer.
    pub(super) idle: Option<Duration>,
    /// The client must have sent everything by then.
    pub(super) request: Option<Instant>,
    /// The stream ends then.
    pub(super) end: Option<Instant>,
}

impl Times {
    pub(super) fn new(exchange: &Exchange, action: &Forward, finish: &Finish) -> Self {
        let begun = finish.record.start;
        let chain = &exchange.chain;
        let told = action.grpc_timeout_max.filter(|_| exchange.grpc).and_then(|most| {
            let told = grpc_timeout(&exchange.parts.headers)?;
            // 0 is no cap.
            Some(if most.is_zero() { told } else { told.min(most) }).filter(|limit| !limit.is_zero())
        });
        let end = told.or(action.max_stream_duration).or(chain.max_stream_duration);
        Self {
            started: Instant::now(),
            timeout: action.timeout,
            idle: action.idle_timeout.unwrap_or(chain.stream_idle_timeout),
            request: chain.request_timeout.filter(|_| exchange.upgrade.is_none()).map(|limit| begun + limit),
            end: end.map(|limit| begun + limit),
        }
    }
}

/// `grpc-timeout` of the client. Source: <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>.
pub(super) fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(&super::names::GRPC_TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// What the endpoint is told of the time that it has (`x-envoy-expected-rq-timeout-ms`).
pub(super) fn expected(times: Times, retry: Option<&RetryPolicy>) -> Option<Duration> {
    let one = retry.and_then(|retry| retry.per_try_timeout);
    let left = times.timeout.map(|timeout| timeout.saturating_sub(times.started.elapsed()));
    let least = [one, left].into_iter().flatten().min()?;
    Some(least.max(Duration::from_millis(1)))
}

/// How long a try may take.
pub(super) struct TimeLimit {
    times: Times,
    per_try: Option<Duration>,
    begun: Instant,
    progress: Option<Rc<Progress>>,
}

impl TimeLimit {
    pub(super) fn new(times: Times, retry: Option<&RetryPolicy>, progress: Option<&Rc<Progress>>) -> Self {
        let per_try = retry.and_then(|retry| retry.per_try_timeout);
        Self { times, per_try, begun: Instant::now(), progress: progress.cloned() }
    }

    pub(super) fn is_endless(&self) -> bool {
        let Times { timeout, idle, request, end, .. } = self.times;
        self.per_try.is_none() && timeout.is_none() && idle.is_none() && request.is_none() && end.is_none()
    }

    /// What comes first as things stand.
    fn next(&self) -> Option<(Instant, Error)> {
        let times = &self.times;
        let ended = self.progress.as_ref().map_or(Some(times.started), |progress| progress.ended.get());
        let receiving = ended.is_none();
        // The request's time, and a try's, begin when the client has sent everything, as in Envoy.
        let whole = times.timeout.and_then(|limit| Some((ended? + limit, Error::Timeout { per_try: false })));
        let one =
            self.per_try.and_then(|limit| Some((ended?.max(self.begun) + limit, Error::Timeout { per_try: true })));
        let last = self.progress.as_ref().and_then(|progress| progress.last.get());
        let last = last.map_or(self.begun, |last| last.max(self.begun));
        let idle = times.idle.map(|limit| (last + limit, Error::StreamIdle { receiving }));
        let request = times.request.filter(|_| receiving).map(|at| (at, Error::RequestTimeout));
        let end = times.end.map(|at| (at, Error::StreamDuration));
        [whole, one, idle, request, end].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    /// Resolves when time is up.
    pub(super) async fn expired(self) -> Error {
        loop {
            let next = self.next();
            let finished = async {
                match &self.progress {
                    Some(progress) if progress.ended.get().is_none() => progress.finished.notified().await,
                    _ => std::future::pending().await,
                }
            };
            let timer = async {
                match &next {
                    Some((at, _)) => tokio::time::sleep_until(*at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = finished => continue,
                () = timer => {}
            }
            // What moved meanwhile may have put the end off.
            if let Some((at, error)) = self.next()
                && Instant::now() >= at
            {
                return error;
            }
        }
    }
}

//! Whether a request is sent again. A request whose bytes reached the application is never sent twice unless that is safe (BX10).
//!
//! Source of the conditions: <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/router_filter>.

use std::num::NonZeroUsize;
use std::time::Duration;

use http::{HeaderMap, Method, StatusCode};

use crate::http::error::Error;
use crate::route::matcher::HeaderMatcher;

/// Envoy's `retry_on` names as bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Conditions(u32);

macro_rules! conditions {
    ($($name:ident = $bit:expr, $text:literal;)*) => {
        impl Conditions {
            $(#[doc = concat!("`", $text, "`.")] pub const $name: Self = Self(1 << $bit);)*
            const NAMES: &[(&str, Self)] = &[$(($text, Self::$name)),*];
        }
    };
}
conditions! {
    SERVER_ERROR = 0, "5xx";
    GATEWAY_ERROR = 1, "gateway-error";
    RESET = 2, "reset";
    RESET_BEFORE_REQUEST = 3, "reset-before-request";
    CONNECT_FAILURE = 4, "connect-failure";
    RETRIABLE_4XX = 5, "retriable-4xx";
    REFUSED_STREAM = 6, "refused-stream";
    RETRIABLE_STATUS_CODES = 7, "retriable-status-codes";
    RETRIABLE_HEADERS = 8, "retriable-headers";
    ENVOY_RATE_LIMITED = 9, "envoy-ratelimited";
    GRPC_CANCELLED = 10, "cancelled";
    GRPC_DEADLINE = 11, "deadline-exceeded";
    GRPC_INTERNAL = 12, "internal";
    GRPC_EXHAUSTED = 13, "resource-exhausted";
    GRPC_UNAVAILABLE = 14, "unavailable";
}

impl Conditions {
    /// Reads Envoy's comma-separated list; `Err` names what is not known. Numbers are status codes, as Istio allows.
    pub fn parse(text: &str) -> Result<(Self, Vec<u16>), String> {
        let mut conditions = Self::default();
        let mut statuses = Vec::new();
        for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            if let Some((_, bit)) = Self::NAMES.iter().find(|(known, _)| *known == name) {
                conditions.0 |= bit.0;
            } else if let Ok(status @ 100..=599) = name.parse::<u16>() {
                conditions.0 |= Self::RETRIABLE_STATUS_CODES.0;
                statuses.push(status);
            } else {
                return Err(format!("`{name}` is not a retry condition"));
            }
        }
        Ok((conditions, statuses))
    }

    /// True if one of `other` is here.
    pub fn any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    fn grpc(status: u32) -> Self {
        match status {
            1 => Self::GRPC_CANCELLED,
            4 => Self::GRPC_DEADLINE,
            8 => Self::GRPC_EXHAUSTED,
            13 => Self::GRPC_INTERNAL,
            14 => Self::GRPC_UNAVAILABLE,
            _ => Self(0),
        }
    }
}

/// A resolved `RetryPolicy`.
#[derive(Debug, Clone)]
pub struct RetryPolicy {
    /// When.
    pub conditions: Conditions,
    /// Statuses of `retriable-status-codes`.
    pub statuses: Vec<u16>,
    /// Response headers of `retriable-headers`.
    pub headers: Vec<HeaderMatcher>,
    /// Retries beside the first try.
    pub retries: u32,
    /// For each try.
    pub per_try_timeout: Option<Duration>,
    /// Nothing may come for so long within a try.
    pub per_try_idle_timeout: Option<Duration>,
    /// Smallest back-off.
    pub base: Duration,
    /// Largest back-off.
    pub max: Duration,
    /// Avoid hosts that failed already (`previous_hosts`).
    pub avoid_previous: bool,
    /// After each so many tries, their priorities are left out (`previous_priorities`); never when absent.
    pub priorities_after: Option<NonZeroUsize>,
    /// Picks until a host is taken all the same (`host_selection_retry_max_attempts`).
    pub host_attempts: u32,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            conditions: Conditions::default(),
            statuses: Vec::new(),
            headers: Vec::new(),
            retries: 1,
            per_try_timeout: None,
            per_try_idle_timeout: None,
            base: Duration::from_millis(25),
            max: Duration::from_millis(250),
            avoid_previous: false,
            priorities_after: None,
            host_attempts: 1,
        }
    }
}

impl RetryPolicy {
    /// Those of the endpoints that failed, in order, whose priorities the next try leaves out.
    pub fn left_out<'f, T>(&self, failed: &'f [T]) -> &'f [T] {
        let count = self.priorities_after.map_or(0, |after| failed.len() / after * after.get());
        &failed[..count]
    }
}

/// How a try ended.
#[derive(Debug, Clone, Copy)]
pub enum Outcome<'a> {
    /// An answer: status, and `grpc-status` if its head holds one.
    Answer {
        /// Status.
        status: StatusCode,
        /// `grpc-status` of a trailers-only answer.
        grpc: Option<u32>,
        /// Its headers.
        headers: &'a HeaderMap,
        /// The server's sidecar vouches that the application took no connection.
        unprocessed: bool,
    },
    /// No answer.
    Failure(&'a Error),
}

impl Outcome<'_> {
    /// True if the request surely reached no application.
    pub fn is_unprocessed(&self) -> bool {
        match self {
            Self::Answer { unprocessed, .. } => *unprocessed,
            Self::Failure(error) => unprocessed(error),
        }
    }
}

/// What is known of a try.
#[derive(Debug, Clone, Copy)]
pub struct Try<'a> {
    /// Tries made, at least 1.
    pub number: u32,
    /// The request's method.
    pub method: &'a Method,
    /// How it ended.
    pub outcome: Outcome<'a>,
    /// True if any byte of the request may have reached the application.
    pub sent: bool,
    /// True if the whole request is still at hand.
    pub replayable: bool,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Give the outcome to the client.
    Stop,
    /// As `Stop`, but it would have been tried again if tries were left (`URX`).
    Exhausted,
    /// Try again.
    Again,
}

/// True for methods that may be sent twice with the effect of once (RFC 9110, section 9.2.2).
pub fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE)
}

impl RetryPolicy {
    /// Decides about one try.
    ///
    /// A request that surely was not processed (connect failure, refused stream) may always be sent again. One that may have
    /// been processed only if it is idempotent, or if the application itself answered with a status that the policy names.
    pub fn decide(&self, attempt: &Try<'_>) -> Decision {
        let (wanted, processed) = match attempt.outcome {
            Outcome::Answer { status, grpc, headers, unprocessed } => {
                (self.wants_answer(status, grpc, headers) || (unprocessed && self.wants_connect_failure()), false)
            }
            Outcome::Failure(error) => (self.wants_failure(error, attempt.sent), attempt.sent && !unprocessed(error)),
        };
        // An answer named by the policy is the user's own decision that the request may be sent again; a lost answer is not.
        if !wanted || !attempt.replayable || (processed && !is_idempotent(attempt.method)) {
            return Decision::Stop;
        }
        if attempt.number > self.retries { Decision::Exhausted } else { Decision::Again }
    }

    fn wants_answer(&self, status: StatusCode, grpc: Option<u32>, headers: &HeaderMap) -> bool {
        let code = status.as_u16();
        (status.is_server_error() && self.conditions.any(Conditions::SERVER_ERROR))
            || (matches!(code, 502..=504) && self.conditions.any(Conditions::GATEWAY_ERROR))
            || (code == 409 && self.conditions.any(Conditions::RETRIABLE_4XX))
            || (self.conditions.any(Conditions::RETRIABLE_STATUS_CODES) && self.statuses.contains(&code))
            || grpc.is_some_and(|status| self.conditions.any(Conditions::grpc(status)))
            || (self.conditions.any(Conditions::RETRIABLE_HEADERS)
                && self.headers.iter().any(|header| header.matches_response(headers)))
    }

    fn wants_failure(&self, error: &Error, sent: bool) -> bool {
        let conditions = self.conditions;
        if conditions.any(Conditions::SERVER_ERROR) {
            return error.is_upstream();
        }
        match error {
            Error::Connect(_) | Error::ConnectTimeout | Error::UpstreamTls(_) => self.wants_connect_failure(),
            Error::UpstreamReset(Some(REFUSED_STREAM)) => {
                conditions.any(Conditions::REFUSED_STREAM)
                    || conditions.any(Conditions::RESET)
                    || conditions.any(Conditions::GATEWAY_ERROR)
            }
            Error::UpstreamClosed | Error::UpstreamReset(_) | Error::UpstreamProtocol(_) => {
                conditions.any(Conditions::RESET)
                    || conditions.any(Conditions::GATEWAY_ERROR)
                    || (!sent && conditions.any(Conditions::RESET_BEFORE_REQUEST))
            }
            Error::Timeout { per_try: true } => conditions.any(Conditions::GATEWAY_ERROR),
            _ => false,
        }
    }

    fn wants_connect_failure(&self) -> bool {
        [
            Conditions::SERVER_ERROR,
            Conditions::CONNECT_FAILURE,
            Conditions::GATEWAY_ERROR,
            Conditions::RESET,
            Conditions::RESET_BEFORE_REQUEST,
        ]
        .into_iter()
        .any(|one| self.conditions.any(one))
    }

    /// How long to wait before try `number` (2 is the first retry): exponential with full jitter. `random` is in 0..1.
    pub fn backoff(&self, number: u32, random: f64) -> Duration {
        let ceiling = self.base.saturating_mul(1 << number.saturating_sub(2).min(16)).min(self.max);
        ceiling.mul_f64(random.clamp(0.0, 1.0))
    }
}

/// HTTP/2 `REFUSED_STREAM`: the peer vouches that nothing was processed (RFC 9113, section 8.7).
pub const REFUSED_STREAM: u32 = 7;

/// True for failures by which the upstream cannot have processed the request.
pub fn unprocessed(error: &Error) -> bool {
    matches!(
        error,
        Error::Connect(_) | Error::ConnectTimeout | Error::UpstreamTls(_) | Error::UpstreamReset(Some(REFUSED_STREAM))
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn policy(on: &str) -> RetryPolicy {
        let (conditions, statuses) = Conditions::parse(on).unwrap();
        RetryPolicy { conditions, statuses, retries: 2, ..RetryPolicy::default() }
    }

    #[test]
    fn a_request_that_may_have_been_processed_is_repeated_only_if_idempotent() {
        let refused = Error::UpstreamReset(Some(REFUSED_STREAM));
        let reset = Error::UpstreamReset(Some(2));
        let closed = Error::UpstreamClosed;
        let connect = Error::Connect("refused".into());
        let all = "5xx,reset,connect-failure,refused-stream,gateway-error";
        for (method, error, sent, expected) in [
            (Method::GET, &closed, true, Decision::Again),
            (Method::POST, &closed, true, Decision::Stop),
            (Method::POST, &closed, false, Decision::Again),
            (Method::POST, &reset, true, Decision::Stop),
            (Method::PUT, &reset, true, Decision::Again),
            (Method::POST, &refused, true, Decision::Again),
            (Method::POST, &connect, false, Decision::Again),
            (Method::PATCH, &Error::Timeout { per_try: true }, true, Decision::Stop),
            (Method::GET, &Error::Timeout { per_try: true }, true, Decision::Again),
        ] {
            let attempt = Try { number: 1, method: &method, outcome: Outcome::Failure(error), sent, replayable: true };
            assert_eq!(policy(all).decide(&attempt), expected, "{method} {error} sent={sent}");
            assert_eq!(policy(all).decide(&Try { replayable: false, ..attempt }), Decision::Stop);
        }
    }

    #[test]
    fn conditions_are_those_of_envoy_and_istio() {
        let none = HeaderMap::new();
        for (on, status, grpc, expected) in [
            ("5xx", 500, None, Decision::Again),
            ("5xx", 404, None, Decision::Stop),
            ("gateway-error", 500, None, Decision::Stop),
            ("gateway-error", 503, None, Decision::Again),
            ("retriable-4xx", 409, None, Decision::Again),
            ("503,reset", 503, None, Decision::Again),
            ("503,reset", 502, None, Decision::Stop),
            ("unavailable", 200, Some(14), Decision::Again),
            ("unavailable", 200, Some(13), Decision::Stop),
            ("connect-failure", 503, None, Decision::Stop),
        ] {
            let outcome = Outcome::Answer {
                status: StatusCode::from_u16(status).unwrap(),
                grpc,
                headers: &none,
                unprocessed: false,
            };
            let attempt = Try { number: 1, method: &Method::POST, outcome, sent: true, replayable: true };
            assert_eq!(policy(on).decide(&attempt), expected, "{on} {status}");
        }
        assert!(Conditions::parse("5xx,whatever").is_err());
    }

    #[test]
    fn an_answer_that_vouches_for_no_processing_counts_as_a_connect_failure() {
        let none = HeaderMap::new();
        for (on, unprocessed, expected) in [
            ("connect-failure", true, Decision::Again),
            ("connect-failure", false, Decision::Stop),
            ("reset-before-request", true, Decision::Again),
            ("unavailable,retriable-4xx", true, Decision::Stop),
        ] {
            let status = StatusCode::SERVICE_UNAVAILABLE;
            let outcome = Outcome::Answer { status, grpc: None, headers: &none, unprocessed };
            let attempt = Try { number: 1, method: &Method::POST, outcome, sent: true, replayable: true };
            assert_eq!(policy(on).decide(&attempt), expected, "{on} {unprocessed}");
        }
    }

    #[test]
    fn tries_are_counted_and_backoff_grows() {
        let none = HeaderMap::new();
        let outcome =
            Outcome::Answer { status: StatusCode::BAD_GATEWAY, grpc: None, headers: &none, unprocessed: false };
        let attempt = Try { number: 3, method: &Method::GET, outcome, sent: true, replayable: true };
        assert_eq!(policy("5xx").decide(&attempt), Decision::Exhausted);
        let policy = policy("5xx");
        let waits: Vec<_> = (2..8).map(|number| policy.backoff(number, 1.0).as_millis()).collect();
        assert_eq!(waits, [25, 50, 100, 200, 250, 250]);
        assert_eq!(policy.backoff(2, 0.0), Duration::ZERO);
    }
}

//! Counters of what requests came to, as Envoy keeps them for clusters and for routes with a `stat_prefix`.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts of requests that have ended.
#[derive(Debug, Default)]
pub struct Answers {
    /// All.
    pub requests: AtomicU64,
    /// By class of status: 1xx to 5xx.
    pub classes: [AtomicU64; 5],
    /// Those whose time was up.
    pub timeouts: AtomicU64,
    /// Tries beside the first.
    pub retries: AtomicU64,
}

/// A request that has ended.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// Status for the client; 0 if none was sent.
    pub status: u16,
    /// Tries made.
    pub attempts: u32,
    /// Its time was up.
    pub timed_out: bool,
}

impl Answers {
    /// Counts a request.
    pub fn ended(&self, ended: Ended) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        if let Some(class) = usize::from(ended.status / 100).checked_sub(1).and_then(|class| self.classes.get(class)) {
            class.fetch_add(1, Ordering::Relaxed);
        }
        if ended.timed_out {
            self.timeouts.fetch_add(1, Ordering::Relaxed);
        }
        if ended.attempts > 1 {
            self.retries.fetch_add(u64::from(ended.attempts) - 1, Ordering::Relaxed);
        }
    }
}

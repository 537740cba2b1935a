//! When gathered changes are applied: after a pause, or when the first has waited long enough (XD2). Endpoints do not wait for a pause:
//! a pod that was replaced is gone in tens of milliseconds, and their pushes are cheap.

use std::time::Duration;

use tokio::time::Instant;

/// How long changes are gathered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Debounce {
    /// The pause after the last change (`PILOT_DEBOUNCE_AFTER`).
    pub quiet: Duration,
    /// The longest wait of the first (`PILOT_DEBOUNCE_MAX`).
    pub max: Duration,
}

impl Default for Debounce {
    fn default() -> Self {
        Self { quiet: Duration::from_millis(100), max: Duration::from_secs(10) }
    }
}

impl Debounce {
    /// When changes of which the first came at `first` and the last at `last` are applied.
    pub fn deadline(&self, first: Instant, last: Instant) -> Instant {
        (last + self.quiet).min(first + self.max)
    }

    /// When changes of endpoints are applied of which the first came at `first`: at once, unless endpoints were at `before`.
    pub fn endpoints(&self, first: Instant, before: Option<Instant>) -> Instant {
        before.map_or(first, |before| first.max(before + self.quiet))
    }
}

//! Outlier detection: endpoints that fail are left out for a while (OD1–OD8).
//!
//! Ejection happens at the failure that completes the row; its end is noticed at the next pick, so nothing runs in between.
//! Source: <https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/outlier>.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A resolved `OutlierDetection`. Times are milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutlierConfig {
    /// 5xx answers in a row (with local failures, unless split); 0 is off.
    pub consecutive_5xx: u32,
    /// 502, 503, 504 in a row; 0 is off.
    pub consecutive_gateway: u32,
    /// Count failures to connect apart.
    pub split_local: bool,
    /// Local failures in a row when split; 0 is off.
    pub consecutive_local: u32,
    /// An ejection's multiplier shrinks by one for each such time without ejection.
    pub interval: u64,
    /// Time of the first ejection; the nth lasts n times as long.
    pub base: u64,
    /// Longest ejection.
    pub max: u64,
    /// At most this share of endpoints is ejected, percent; one always may be.
    pub max_percent: u32,
}

impl Default for OutlierConfig {
    fn default() -> Self {
        Self {
            consecutive_5xx: 5,
            consecutive_gateway: 0,
            split_local: false,
            consecutive_local: 5,
            interval: 10_000,
            base: 30_000,
            max: 300_000,
            max_percent: 10,
        }
    }
}

/// How a request to an endpoint went, as outlier detection sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Observation {
    /// The endpoint answered with this status.
    Status(u16),
    /// It answered, and the cluster has an opinion of its own on the status.
    Judged {
        /// The status.
        status: u16,
        /// True if it is a failure.
        failed: bool,
    },
    /// It could not be reached, reset, or did not answer in time.
    LocalFailure,
    /// A connection was made (TCP).
    Connected,
}

/// Failures and ejection of an address. Times are milliseconds of the cluster's clock.
#[derive(Debug, Default)]
pub struct OutlierState {
    five_xx: AtomicU32,
    gateway: AtomicU32,
    local: AtomicU32,
    ejected_until: AtomicU64,
    ejections: AtomicU32,
}

impl OutlierState {
    /// True if it is left out at `now`.
    pub fn is_ejected(&self, now: u64) -> bool {
        let until = self.ejected_until.load(Ordering::Relaxed);
        until != 0 && now < until
    }

    /// Counts an observation; true if it completes a row that asks for ejection.
    pub fn observe(&self, config: &OutlierConfig, seen: Observation) -> bool {
        let reset = |counter: &AtomicU32| counter.store(0, Ordering::Relaxed);
        let row = |counter: &AtomicU32, limit: u32| {
            let count = counter.fetch_add(1, Ordering::Relaxed) + 1;
            limit != 0 && count >= limit
        };
        // As in Envoy, what the cluster itself calls a failure counts as a 500, and so is no gateway error.
        let seen = match seen {
            Observation::Judged { failed, .. } => Observation::Status(if failed { 500 } else { 200 }),
            seen => seen,
        };
        match seen {
            Observation::Judged { .. } => false,
            Observation::LocalFailure if config.split_local => row(&self.local, config.consecutive_local),
            // Without the split a local failure is what the client sees of it: a 503.
            Observation::LocalFailure => {
                let gateway = row(&self.gateway, config.consecutive_gateway);
                row(&self.five_xx, config.consecutive_5xx) || gateway
            }
            Observation::Connected => {
                reset(&self.local);
                if !config.split_local {
                    reset(&self.five_xx);
                    reset(&self.gateway);
                }
                false
            }
            Observation::Status(status) => {
                reset(&self.local);
                if status < 500 {
                    reset(&self.five_xx);
                    reset(&self.gateway);
                    return false;
                }
                let gateway = if matches!(status, 502..=504) {
                    row(&self.gateway, config.consecutive_gateway)
                } else {
                    reset(&self.gateway);
                    false
                };
                row(&self.five_xx, config.consecutive_5xx) || gateway
            }
        }
    }

    /// Leaves it out from `now` on.
    pub fn eject(&self, config: &OutlierConfig, now: u64) {
        let last = self.ejected_until.load(Ordering::Relaxed);
        let healthy_since = if last == 0 { 0 } else { now.saturating_sub(last) };
        let forgiven = u32::try_from(healthy_since / config.interval.max(1)).unwrap_or(u32::MAX);
        let ejections = self.ejections.load(Ordering::Relaxed).saturating_sub(forgiven) + 1;
        self.ejections.store(ejections, Ordering::Relaxed);
        let time = config.base.saturating_mul(ejections.into()).min(config.max.max(config.base)).max(1);
        self.ejected_until.store(now + time, Ordering::Relaxed);
        for counter in [&self.five_xx, &self.gateway, &self.local] {
            counter.store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Observation::{Connected, LocalFailure, Status};

    #[test]
    fn rows_of_failures_eject() {
        let own = |status, failed| Observation::Judged { status, failed };
        let five = OutlierConfig { consecutive_5xx: 3, ..OutlierConfig::default() };
        let gateway = OutlierConfig { consecutive_5xx: 0, consecutive_gateway: 2, ..OutlierConfig::default() };
        let split =
            OutlierConfig { consecutive_5xx: 0, split_local: true, consecutive_local: 2, ..OutlierConfig::default() };
        for (config, seen, expected) in [
            (five, &[Status(500), Status(500), Status(500)][..], true),
            (five, &[Status(500), Status(500), Status(200), Status(500)], false),
            (five, &[LocalFailure, Status(503), LocalFailure], true),
            (gateway, &[Status(500), Status(500), Status(500)], false),
            (gateway, &[Status(502), Status(504)], true),
            (split, &[LocalFailure, Connected, LocalFailure], false),
            (split, &[LocalFailure, LocalFailure], true),
            (split, &[Status(500), Status(500), Status(500)], false),
            (five, &[own(429, true), own(503, true), own(429, true)], true),
            (five, &[own(503, false), own(503, false), own(503, false)], false),
            (gateway, &[own(503, true), own(503, true), own(503, true)], false),
        ] {
            let state = OutlierState::default();
            let ejected = seen.iter().any(|seen| state.observe(&config, *seen));
            assert_eq!(ejected, expected, "{config:?} {seen:?}");
        }
    }

    #[test]
    fn ejections_grow_and_are_forgiven() {
        let config = OutlierConfig { base: 100, interval: 1_000, max: 250, ..OutlierConfig::default() };
        let state = OutlierState::default();
        state.eject(&config, 1_000);
        assert!(state.is_ejected(1_099) && !state.is_ejected(1_100));
        state.eject(&config, 1_100);
        assert!(state.is_ejected(1_299) && !state.is_ejected(1_300));
        state.eject(&config, 1_300);
        assert!(state.is_ejected(1_549) && !state.is_ejected(1_550), "bounded by max");
        state.eject(&config, 9_000);
        assert!(!state.is_ejected(9_100), "seven quiet intervals forgive");
    }
}

//! How many things happened within the last while, without a lock: counts of sixteenths of that time, in a ring.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Parts of the interval; it is known to one of them.
const PARTS: u64 = 16;

/// Counts by part: its number in the upper half, what happened in it in the lower.
#[derive(Debug, Default)]
pub struct Recent {
    parts: [AtomicU64; PARTS as usize],
}

fn part(now: u64, interval: Duration) -> u64 {
    let length = (u64::try_from(interval.as_millis()).unwrap_or(u64::MAX) / PARTS).max(1);
    // Parts from before the clock began are told from none by starting at one round.
    (now / length + PARTS) & u64::from(u32::MAX)
}

impl Recent {
    /// Counts one at `now`, in milliseconds.
    pub fn add(&self, now: u64, interval: Duration) {
        let part = part(now, interval);
        let slot = &self.parts[(part % PARTS) as usize];
        let count = |old: u64| if old >> 32 == part { old + 1 } else { part << 32 | 1 };
        // It always has a next value, so it cannot fail.
        let _ = slot.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| Some(count(old)));
    }

    /// How many there were in the interval before `now`.
    pub fn count(&self, now: u64, interval: Duration) -> u32 {
        let last = part(now, interval);
        let young = |slot: u64| (last.saturating_sub(PARTS - 1)..=last).contains(&(slot >> 32));
        let counts = self.parts.iter().map(|slot| slot.load(Ordering::Relaxed)).filter(|slot| young(*slot));
        counts.fold(0, |sum, slot| sum.saturating_add(slot as u32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_older_than_the_interval_is_forgotten() {
        let (recent, second) = (Recent::default(), Duration::from_secs(1));
        assert_eq!(recent.count(1, second), 0);
        for now in [1, 2, 500, 900] {
            recent.add(now, second);
        }
        for (now, expected) in [(900, 4), (990, 4), (1_100, 2), (1_400, 2), (1_600, 1), (2_000, 0), (60_000, 0)] {
            assert_eq!(recent.count(now, second), expected, "{now}");
        }
        recent.add(60_000, second);
        assert_eq!(recent.count(60_001, second), 1);
        let shortest = Duration::from_millis(1);
        assert_eq!(recent.count(60_001, shortest), 0);
    }
}

//! When to renew and when to try again: pure, with randomness as an argument.

use std::time::Duration;

/// Between attempts: first, and at most.
const FIRST: Duration = Duration::from_millis(100);
const MOST: Duration = Duration::from_secs(30);
/// Even an authority that signs for no time at all is not asked more often.
const LEAST: Duration = Duration::from_millis(10);

/// How long a certificate that is valid for another `lifetime` is kept before it is renewed: until the share `ratio` of it is left,
/// varied by `jitter` × `random`, which lies in -1..1.
pub(super) fn rotate_after(lifetime: Duration, ratio: f64, jitter: f64, random: f64) -> Duration {
    let left = (ratio + jitter * random).clamp(0.0, 1.0);
    lifetime.mul_f64(1.0 - left).max(LEAST)
}

/// How long to wait after the failed `attempt` (from 0): doubling, half of it at random; `random` lies in 0..1.
pub(super) fn back_off(attempt: u32, random: f64) -> Duration {
    let full = FIRST.saturating_mul(1 << attempt.min(16)).min(MOST);
    full.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_renewed_at_half_life_give_or_take() {
        for (lifetime, ratio, jitter, random, expected) in [
            (86_400, 0.5, 0.01, 0.0, 43_200_000),
            (86_400, 0.5, 0.01, 1.0, 42_336_000),
            (86_400, 0.5, 0.01, -1.0, 44_064_000),
            (3600, 0.2, 0.0, 0.7, 2_880_000),
            (3600, 0.0, 0.0, 0.0, 3_600_000),
            (3600, 0.995, 0.01, 1.0, 10),
            (3600, 0.0, 0.01, -1.0, 3_600_000),
            (0, 0.5, 0.01, 0.0, 10),
        ] {
            let wait = rotate_after(Duration::from_secs(lifetime), ratio, jitter, random);
            assert_eq!(wait.as_millis(), expected, "{lifetime} {ratio} {jitter} {random}");
        }
    }

    #[test]
    fn attempts_come_less_and_less_often() {
        for (attempt, random, expected) in [
            (0, 1.0, 100),
            (0, 0.0, 50),
            (1, 1.0, 200),
            (5, 0.5, 2_400),
            (8, 1.0, 25_600),
            (9, 1.0, 30_000),
            (9, 0.0, 15_000),
            (u32::MAX, 1.0, 30_000),
        ] {
            assert_eq!(back_off(attempt, random).as_millis(), expected, "{attempt} {random}");
        }
    }
}

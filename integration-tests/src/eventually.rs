//! Waiting for what comes by itself: polled until a deadline, so that a fast machine does not wait and a slow one does not fail.

use std::fmt::Display;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Longest wait for what must come.
pub const DEADLINE: Duration = Duration::from_secs(20);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(15);

/// Repeats `look` until it succeeds.
///
/// # Errors
/// The last failure, when `deadline` is over.
pub async fn eventually<T, E: Display>(deadline: Duration, mut look: impl AsyncFnMut() -> Result<T, E>) -> Result<T> {
    let started = Instant::now();
    loop {
        match look().await {
            Ok(found) => return Ok(found),
            Err(error) if started.elapsed() > deadline => {
                bail!("still not so after {:.1} s: {error}", started.elapsed().as_secs_f64())
            }
            Err(_) => tokio::time::sleep(LOOK).await,
        }
    }
}

/// Repeats `look` until it holds, for at most [`DEADLINE`]. Panics otherwise, with what was waited for.
#[track_caller]
pub fn until(what: &str, mut look: impl AsyncFnMut() -> bool) -> impl Future<Output = ()> {
    let place = std::panic::Location::caller();
    async move {
        let held = eventually(DEADLINE, async || if look().await { Ok(()) } else { Err(what) }).await;
        if let Err(error) = held {
            panic!("{place}: {error}");
        }
    }
}

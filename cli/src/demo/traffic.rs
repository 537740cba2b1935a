//! Drives requests through the gateway and keeps count: how many, which version answered, and what failed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use http::{HeaderMap, Method};
use indicatif::ProgressBar;
use tokio::task::JoinSet;

use crate::http_client::{Answer, Connection};

/// Failures that are kept in words; the rest is only counted.
const KEPT: usize = 5;

/// What became of the requests.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Requests answered or failed.
    pub requests: u64,
    /// Answers by version of reviews.
    pub versions: BTreeMap<String, u64>,
    /// Requests without a whole page.
    pub failed: u64,
    /// The first failures in words.
    pub failures: Vec<String>,
}

/// Load that runs until it is stopped.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    gateway: SocketAddr,
    /// Requests that may still be started.
    tickets: AtomicU64,
    stopped: AtomicBool,
    outcome: Mutex<Outcome>,
    bar: ProgressBar,
}

impl Load {
    /// Starts `concurrency` clients that together send `requests`, or go on until stopped.
    pub fn start(gateway: SocketAddr, concurrency: usize, requests: Option<u64>, bar: ProgressBar) -> Self {
        let tickets = AtomicU64::new(requests.unwrap_or(u64::MAX));
        let outcome = Mutex::default();
        let shared = Arc::new(Shared { gateway, tickets, stopped: AtomicBool::new(false), outcome, bar });
        let mut tasks = JoinSet::new();
        for _ in 0..concurrency.max(1) {
            tasks.spawn(client(shared.clone()));
        }
        Self { shared, tasks }
    }

    /// Requests finished so far.
    pub fn finished(&self) -> u64 {
        self.shared.outcome.lock().unwrap_or_else(PoisonError::into_inner).requests
    }

    /// Lets every client finish what it has under way, and tells what became of all.
    pub async fn stop(self) -> Outcome {
        self.shared.stopped.store(true, Ordering::Relaxed);
        self.join().await
    }

    /// Waits until all requests are sent and answered.
    pub async fn join(mut self) -> Outcome {
        while self.tasks.join_next().await.is_some() {}
        self.shared.outcome.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn client(shared: Arc<Shared>) {
    let mut connection = Connection::new(shared.gateway);
    let take = |tickets: u64| tickets.checked_sub(1);
    while !shared.stopped.load(Ordering::Relaxed)
        && shared.tickets.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    {
        let page = page(&mut connection).await;
        shared.bar.inc(1);
        let mut outcome = shared.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        outcome.requests += 1;
        match page {
            Ok(version) => *outcome.versions.entry(version).or_default() += 1,
            Err(error) => {
                outcome.failed += 1;
                if outcome.failures.len() < KEPT {
                    outcome.failures.push(format!("{error:#}"));
                }
            }
        }
    }
}

/// One page; returns the version of reviews that it was made with.
pub async fn page(connection: &mut Connection) -> Result<String> {
    let answer = connection.send(Method::GET, "bookinfo.example", "/productpage", &HeaderMap::new()).await?;
    version(&answer)
}

fn version(answer: &Answer) -> Result<String> {
    if !answer.status.is_success() {
        bail!("{}: {}", answer.status, answer.text().trim());
    }
    let page: serde_json::Value = serde_json::from_slice(&answer.body).context("the page is no JSON")?;
    let version = page["reviews"]["version"].as_str().context("the page has no reviews")?;
    Ok(version.to_owned())
}

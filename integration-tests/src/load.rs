//! Users who never stop asking: to see that a change fails nobody.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::JoinSet;

use crate::client::{Ask, Connection};
use crate::eventually::until;

/// Running load.
#[derive(Debug)]
pub struct Load {
    state: Arc<State>,
    tasks: JoinSet<()>,
}

#[derive(Debug, Default)]
struct State {
    stop: AtomicBool,
    good: AtomicU64,
    failures: Mutex<Vec<String>>,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// Requests answered with 200.
    pub good: u64,
    /// All others, in words.
    pub failures: Vec<String>,
}

impl Load {
    /// Sends `ask` over `concurrency` connections until it is stopped. With `reconnect`, each request has a new connection.
    pub fn start(ask: &Ask, concurrency: usize, reconnect: bool) -> Self {
        let state = Arc::new(State::default());
        let mut tasks = JoinSet::new();
        for _ in 0..concurrency {
            tasks.spawn(run(ask.clone(), state.clone(), reconnect));
        }
        Self { state, tasks }
    }

    /// Waits until as many more requests have succeeded.
    pub async fn more(&self, requests: u64) {
        let wanted = self.state.good.load(Ordering::SeqCst) + requests;
        until("the load goes on", async || self.state.good.load(Ordering::SeqCst) >= wanted).await;
    }

    /// Ends it after the requests that are on their way.
    pub async fn stop(self) -> Outcome {
        self.state.stop.store(true, Ordering::SeqCst);
        self.tasks.join_all().await;
        let failures = std::mem::take(&mut *self.state.failures.lock().unwrap_or_else(PoisonError::into_inner));
        Outcome { good: self.state.good.load(Ordering::SeqCst), failures }
    }
}

async fn run(ask: Ask, state: Arc<State>, reconnect: bool) {
    let mut kept: Option<Connection> = None;
    while !state.stop.load(Ordering::SeqCst) {
        let exchange = async {
            let mut connection = match kept.take() {
                Some(connection) => connection,
                None => Connection::open(&ask).await?,
            };
            let answer = connection.send(&ask).await?;
            anyhow::Ok((connection, answer))
        };
        let failure = match exchange.await {
            Ok((connection, answer)) => {
                let closes = answer.header("connection").eq_ignore_ascii_case("close");
                kept = (!reconnect && !closes).then_some(connection);
                match answer.status {
                    200 => {
                        state.good.fetch_add(1, Ordering::SeqCst);
                        continue;
                    }
                    status => format!("{status}: {}", answer.text()),
                }
            }
            Err(error) => format!("{error:#}"),
        };
        state.failures.lock().unwrap_or_else(PoisonError::into_inner).push(failure);
    }
}

//! Everybody who asks one host at a time: over kept and new connections, HTTP/1 and HTTP/2. None of them may see a failure.

use crate::client::Client;
use crate::load::Load;

/// A running crowd.
#[derive(Debug)]
pub struct Crowd(Vec<(String, Load)>);

impl Crowd {
    /// Users of these URLs through one sidecar.
    pub fn start(client: &Client, urls: &[&str]) -> Self {
        let mut all = Vec::new();
        for url in urls {
            let ask = client.get(url);
            for (what, ask, reconnect) in [
                ("HTTP/1", ask.clone(), false),
                ("HTTP/1, a connection each", ask.clone(), true),
                ("HTTP/2", ask.http2(), false),
            ] {
                all.push((format!("{url} over {what}"), Load::start(&ask, 1, reconnect)));
            }
        }
        Self(all)
    }

    /// Waits until each has been answered as many more times.
    pub async fn more(&self, requests: u64) {
        futures_util::future::join_all(self.0.iter().map(|(_, load)| load.more(requests))).await;
    }

    /// Ends it. Panics if a single request failed.
    pub async fn stop(self) {
        for (what, load) in self.0 {
            let outcome = load.stop().await;
            let first: Vec<&String> = outcome.failures.iter().take(3).collect();
            assert!(
                outcome.failures.is_empty(),
                "{what}: {} of {} failed: {first:?}",
                outcome.failures.len(),
                outcome.good
            );
        }
    }
}

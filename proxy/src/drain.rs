//! Graceful shutdown: one switch, watched by every connection.
//!
//! Running → leaving (connections are still taken, but readiness says no and HTTP/1 answers with `Connection: close`) → draining
//! (listeners close, HTTP/2 says GOAWAY, streams finish) → stopped (what is left is cut).

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::watch;

/// Phase of a proxy's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Taking connections.
    Running,
    /// About to go, which not all who send have heard.
    Leaving,
    /// Finishing what is under way.
    Draining,
    /// Over.
    Stopped,
}

/// The switch.
#[derive(Debug, Clone)]
pub struct Drain {
    phase: Arc<watch::Sender<Phase>>,
    /// The phase as a number: every answer asks for it, and the sender would take a lock that all workers share.
    now: Arc<AtomicU8>,
    connections: Arc<AtomicUsize>,
    idle: Arc<tokio::sync::Notify>,
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            phase: Arc::new(watch::channel(Phase::Running).0),
            now: Arc::default(),
            connections: Arc::default(),
            idle: Arc::default(),
        }
    }
}

/// A connection that is counted while this lives.
#[derive(Debug)]
pub struct Counted(Drain);

impl Drop for Counted {
    fn drop(&mut self) {
        if self.0.connections.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

impl Drain {
    /// The phase now.
    pub fn phase(&self) -> Phase {
        match self.now.load(Ordering::Acquire) {
            0 => Phase::Running,
            1 => Phase::Leaving,
            2 => Phase::Draining,
            _ => Phase::Stopped,
        }
    }

    /// A receiver of phases.
    pub fn subscribe(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Goes to a later phase; never back.
    pub fn advance(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let later = to > *phase;
            *phase = (*phase).max(to);
            self.now.store(*phase as u8, Ordering::Release);
            later
        });
    }

    /// Resolves when `phase` is reached.
    pub async fn reached(&self, phase: Phase) {
        let mut receiver = self.phase.subscribe();
        // The sender lives as long as `self`.
        let _ = receiver.wait_for(|now| *now >= phase).await;
    }

    /// Counts a connection.
    pub fn count(&self) -> Counted {
        self.connections.fetch_add(1, Ordering::AcqRel);
        Counted(self.clone())
    }

    /// Connections open now.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Acquire)
    }

    /// Drains: waits until no connection is left or `patience` is over; returns how many were left.
    pub async fn drain(&self, patience: Duration) -> usize {
        self.advance(Phase::Draining);
        let emptied = async {
            loop {
                let notified = self.idle.notified();
                if self.connections() == 0 {
                    return;
                }
                notified.await;
            }
        };
        let _ = tokio::time::timeout(patience, emptied).await;
        self.connections()
    }
}

//! Where a connection stands: the chain that serves it, and what it was told of its end.
//!
//! Each worker keeps its connections in a list of its own ([`Places`]) and tells them what changes: a connection that listened to
//! something that workers share would take a lock of it whenever it wakes.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use http::HeaderValue;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::accept::refused;
use super::chain::Seen;
use super::{ConnInfo, FilterChain, Listener, ListenerStats};
use crate::drain::Phase;
use crate::telemetry::peer::Peer;
use crate::worker::Worker;

/// What a connection was told of its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Nothing: it goes on.
    No,
    /// The configuration has no such chain any more. What is under way may finish until then; what is left is cut.
    Gone(Instant),
    /// We drain: it ends when what is under way is done.
    Draining,
    /// We stop: it ends now.
    Stopped,
}

/// The place of a connection, shared by its requests.
#[derive(Debug)]
pub struct Place {
    /// The connection.
    pub conn: Rc<ConnInfo>,
    seen: Seen,
    current: RefCell<(u64, Arc<Listener>, Arc<FilterChain>)>,
    gone: Cell<bool>,
    ending: Cell<Ending>,
    told: Notify,
    places: Rc<Places>,
    /// The peer metadata that came last on this connection, and what it says: a peer says the same with each request.
    peer: RefCell<Option<(HeaderValue, Option<Arc<Peer>>)>>,
}

/// The connections of a worker.
#[derive(Debug, Default)]
pub struct Places(RefCell<foldhash::HashMap<u64, Weak<Place>>>);

impl Places {
    /// Connections now.
    pub fn count(&self) -> usize {
        self.0.borrow().len()
    }

    /// Tells every connection that a phase has begun.
    pub fn enter(&self, phase: Phase) {
        self.each(|place| place.tell(ending_of(phase)));
    }

    /// Looks where every connection stands in the newest configuration. Lets go of the old one, too.
    pub fn look(&self, worker: &Worker) {
        self.each(|place| place.look(worker));
    }

    fn each(&self, work: impl Fn(&Place)) {
        // What a connection is told may end others, so the list is not borrowed meanwhile.
        let all: Vec<Rc<Place>> = self.0.borrow().values().filter_map(Weak::upgrade).collect();
        all.iter().for_each(|place| work(place));
    }
}

fn ending_of(phase: Phase) -> Ending {
    match phase {
        Phase::Running | Phase::Leaving => Ending::No,
        Phase::Draining => Ending::Draining,
        Phase::Stopped => Ending::Stopped,
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.0.borrow_mut().remove(&self.conn.id);
    }
}

impl Place {
    /// The place of a connection that was just given a chain.
    pub fn take(
        worker: &Worker,
        conn: Rc<ConnInfo>,
        seen: Seen,
        listener: Arc<Listener>,
        chain: Arc<FilterChain>,
    ) -> Rc<Self> {
        // The listener was taken from a snapshot that may be old by now: a handshake takes time.
        let current = RefCell::new((0, listener, chain));
        let ending = Cell::new(ending_of(worker.drain.phase()));
        let (gone, told, places) = (Cell::new(false), Notify::new(), worker.places.clone());
        let peer = RefCell::default();
        let place = Rc::new(Self { conn, seen, current, gone, ending, told, places, peer });
        worker.places.0.borrow_mut().insert(place.conn.id, Rc::downgrade(&place));
        place.look(worker);
        place
    }

    /// Who the peer is by its metadata header.
    pub fn peer(&self, metadata: &HeaderValue) -> Option<Arc<Peer>> {
        let mut known = self.peer.borrow_mut();
        match &*known {
            Some((last, peer)) if last == metadata => peer.clone(),
            _ => {
                let peer = Peer::decode(metadata.as_bytes()).map(Arc::new);
                *known = Some((metadata.clone(), peer.clone()));
                peer
            }
        }
    }

    /// Counts of the listener.
    pub fn stats(&self) -> Arc<ListenerStats> {
        self.current.borrow().1.stats.clone()
    }

    /// What was seen of the connection before it was given a chain.
    pub fn seen(&self) -> &Seen {
        &self.seen
    }

    /// The chain that a connection like this would be given now; the last one if there is none any more.
    ///
    /// Names do not tell: chains without one are named by their position, which others move.
    pub fn chain(&self, worker: &Worker) -> Arc<FilterChain> {
        let mut current = self.current.borrow_mut();
        let version = worker.version();
        if current.0 != version {
            current.0 = version;
            let newest = worker.snapshot().listeners.get(&self.conn.listener).cloned();
            let Some(listener) = newest else {
                self.gone.set(true);
                return current.2.clone();
            };
            // What was removed may have come back as it was.
            if !Arc::ptr_eq(&listener, &current.1) || self.gone.get() {
                let found = listener
                    .chain_for(&self.conn, &self.seen)
                    .filter(|chain| takes_over(chain, &current.2, &self.conn));
                self.gone.set(found.is_none());
                if let Some(chain) = found.cloned() {
                    current.2 = chain;
                }
                current.1 = listener;
            }
        }
        current.2.clone()
    }

    /// True if the configuration has no such chain any more: the connection is to end when what is under way is done, so that what came
    /// in its place, such as mTLS or a policy, holds for its client too.
    pub fn is_gone(&self) -> bool {
        self.gone.get()
    }

    /// What the connection was told of its end.
    pub fn ending(&self) -> Ending {
        self.ending.get()
    }

    /// Resolves when the connection is told something else than `known`.
    pub async fn told(&self, known: Ending) -> Ending {
        loop {
            let mut told = std::pin::pin!(self.told.notified());
            told.as_mut().enable();
            if self.ending.get() != known {
                return self.ending.get();
            }
            told.await;
        }
    }

    /// Resolves when nothing of the connection may go on: its chain has been gone for as long as may be, or we stop. A drain alone
    /// ends nothing that is under way.
    pub async fn over(&self) -> Ending {
        loop {
            let ending = self.ending.get();
            match ending {
                Ending::Stopped => return ending,
                Ending::No | Ending::Draining => {
                    self.told(ending).await;
                }
                Ending::Gone(at) => {
                    if tokio::time::timeout_at(at, self.told(ending)).await.is_err() {
                        return ending;
                    }
                }
            }
        }
    }

    fn look(&self, worker: &Worker) {
        self.chain(worker);
        match (self.gone.get(), self.ending.get()) {
            (true, Ending::No) => self.tell(Ending::Gone(Instant::now() + worker.listener_drain)),
            (false, Ending::Gone(_)) => self.tell(Ending::No),
            _ => {}
        }
    }

    fn tell(&self, ending: Ending) {
        self.ending.set(ending);
        self.told.notify_waiters();
    }
}

/// True if a chain can go on with a connection of another: it speaks the same, asks for no certificate that was not shown, and would
/// not have refused the connection.
fn takes_over(new: &FilterChain, old: &FilterChain, conn: &ConnInfo) -> bool {
    let protocol = std::mem::discriminant(&new.protocol) == std::mem::discriminant(&old.protocol);
    let shown = conn.tls.as_ref().is_some_and(|tls| tls.peer.is_some());
    let certificate = new.tls.as_ref().is_none_or(|tls| shown || !tls.require_client);
    protocol && new.tls.is_some() == old.tls.is_some() && certificate && refused(&new.rbac, conn).is_none()
}

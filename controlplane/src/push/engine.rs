//! The task that owns the model: gathers changes, applies them as one, and publishes what comes of it.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{Debounce, Published, World};
use crate::metrics::Metrics;
use crate::model::{Change, Changes, Object};

/// What the engine owns: the model, or a table in tests.
pub trait Knowledge: Send + 'static {
    /// Applies changes as one and says what they touched.
    fn apply(&mut self, changes: Vec<Change>) -> Changes;
    /// The state of now.
    fn world(&mut self) -> Arc<dyn World>;
    /// Every object, for the debug pages.
    fn objects(&self) -> Vec<Arc<Object>>;
}

/// What the engine is told.
#[derive(Debug)]
pub enum Event {
    /// Changes of a source.
    Changes(Vec<Change>),
    /// Changes that are applied and published at once, together with what was gathered; the sender learns the state's number.
    Apply(Vec<Change>, oneshot::Sender<u64>),
    /// Asks for every object.
    Objects(oneshot::Sender<Vec<Arc<Object>>>),
}

/// Runs until the senders of `events` are gone or `stop` is cancelled. The first changes are published without a wait.
pub async fn run(
    mut knowledge: impl Knowledge,
    mut events: mpsc::Receiver<Event>,
    published: watch::Sender<Arc<Published>>,
    debounce: Debounce,
    metrics: Metrics,
    stop: CancellationToken,
) {
    let mut gathered = Gathered::default();
    loop {
        let whole = gathered.times.map(|(first, last)| debounce.deadline(first, last));
        let endpoints = gathered.endpoints.first.map(|first| debounce.endpoints(first, gathered.endpoints.before));
        let deadline = whole.into_iter().chain(endpoints).min();
        let event = tokio::select! {
            () = stop.cancelled() => return,
            event = events.recv() => match event {
                Some(event) => Some(event),
                None => return,
            },
            () = async { sleep_until(deadline.unwrap_or_else(Instant::now)).await }, if deadline.is_some() => None,
        };
        let at_once = match event {
            Some(Event::Objects(reply)) => {
                // Whoever asked may be gone.
                let _ = reply.send(knowledge.objects());
                continue;
            }
            Some(event) => gathered.add(event, &metrics),
            None if whole.is_none_or(|whole| deadline < Some(whole)) && published.borrow().number > 0 => {
                publish(&mut knowledge, gathered.take_endpoints(), &published, &metrics);
                continue;
            }
            None => true,
        };
        if at_once || published.borrow().number == 0 {
            publish(&mut knowledge, gathered.take(), &published, &metrics);
        }
    }
}

#[derive(Default)]
struct Gathered {
    changes: Vec<Change>,
    waiting: Vec<oneshot::Sender<u64>>,
    /// When the first and the last came.
    times: Option<(Instant, Instant)>,
    endpoints: Endpoints,
}

/// What is about endpoints alone, and does not wait for the rest.
#[derive(Default)]
struct Endpoints {
    changes: Vec<Change>,
    /// When the first came.
    first: Option<Instant>,
    /// When such changes were applied last.
    before: Option<Instant>,
}

/// Changes to apply as one.
struct Batch {
    changes: Vec<Change>,
    waiting: Vec<oneshot::Sender<u64>>,
    /// When the first came.
    since: Option<Instant>,
}

impl Gathered {
    /// True if they must not wait.
    fn add(&mut self, event: Event, metrics: &Metrics) -> bool {
        let now = Instant::now();
        let (changes, waiting) = match event {
            Event::Changes(changes) => (changes, None),
            Event::Apply(changes, done) => (changes, Some(done)),
            Event::Objects(_) => return false,
        };
        metrics.inbound_updates.increment(changes.len() as u64);
        let (endpoints, others): (Vec<_>, Vec<_>) =
            changes.into_iter().partition(|change| change.kind().is_of_endpoints());
        if !endpoints.is_empty() {
            self.endpoints.first.get_or_insert(now);
            self.endpoints.changes.extend(endpoints);
        }
        if !others.is_empty() {
            self.times = Some((self.times.map_or(now, |(first, _)| first), now));
            self.changes.extend(others);
        }
        let at_once = waiting.is_some();
        self.waiting.extend(waiting);
        at_once
    }

    fn take_endpoints(&mut self) -> Batch {
        self.endpoints.before = Some(Instant::now());
        let changes = std::mem::take(&mut self.endpoints.changes);
        Batch { changes, waiting: Vec::new(), since: self.endpoints.first.take() }
    }

    /// All, in the order of arrival as far as it matters: no object is in both.
    fn take(&mut self) -> Batch {
        let endpoints = if self.endpoints.first.is_some() { Some(self.take_endpoints()) } else { None };
        let first = self.times.take().map(|(first, _)| first);
        let since = endpoints.as_ref().and_then(|batch| batch.since).into_iter().chain(first).min();
        let mut changes = std::mem::take(&mut self.changes);
        changes.extend(endpoints.into_iter().flat_map(|batch| batch.changes));
        Batch { changes, waiting: std::mem::take(&mut self.waiting), since }
    }
}

fn publish(knowledge: &mut impl Knowledge, batch: Batch, published: &watch::Sender<Arc<Published>>, metrics: &Metrics) {
    let now = Instant::now();
    let since = batch.since.unwrap_or(now);
    metrics.debounce_time.record((now - since).as_secs_f64());
    let count = batch.changes.len();
    let changes = knowledge.apply(batch.changes);
    let before = published.borrow().clone();
    // A change that touches nothing is not published, but the first state always is: proxies wait for it.
    if !changes.is_none() || before.number == 0 {
        let trigger = if changes.is_of_endpoints() { &metrics.pushes_endpoints } else { &metrics.pushes_full };
        trigger.increment(1);
        let world = knowledge.world();
        metrics.context_time.record(now.elapsed().as_secs_f64());
        let next = before.next(world, changes, since.into_std());
        tracing::info!(
            number = next.number,
            changes = count,
            milliseconds = now.elapsed().as_millis() as u64,
            "published"
        );
        published.send_replace(Arc::new(next));
    }
    let number = published.borrow().number;
    for done in batch.waiting {
        // Whoever waited may be gone.
        let _ = done.send(number);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;
    use crate::model::{Key, Kind, Node};
    use crate::push::Touched;
    use crate::xds::{Names, Resource, ResourceType};

    struct Empty;
    impl World for Empty {
        fn resources(&self, _: &Node, _: ResourceType, _: Names<'_>) -> Vec<Resource> {
            Vec::new()
        }
        fn touched(&self, _: &Node, _: u64, _: &Changes) -> Touched {
            Touched::default()
        }
        fn number(&self) -> u64 {
            0
        }
    }

    struct Counts(mpsc::UnboundedSender<usize>, Changes);
    impl Knowledge for Counts {
        fn apply(&mut self, changes: Vec<Change>) -> Changes {
            self.0.send(changes.len()).unwrap();
            self.1.clone()
        }
        fn world(&mut self) -> Arc<dyn World> {
            Arc::new(Empty)
        }
        fn objects(&self) -> Vec<Arc<Object>> {
            Vec::new()
        }
    }

    fn change() -> Change {
        Change::Remove(Key { kind: Kind::Service, namespace: "a".into(), name: "b".into() })
    }

    struct Running {
        events: mpsc::Sender<Event>,
        applied: mpsc::UnboundedReceiver<usize>,
        published: watch::Receiver<Arc<Published>>,
    }

    fn start(changes: Changes) -> Running {
        let (events, receiver) = mpsc::channel(64);
        let (applied_sender, applied) = mpsc::unbounded_channel();
        let (sender, published) = watch::channel(Arc::new(Published::nothing()));
        let debounce = Debounce { quiet: Duration::from_millis(100), max: Duration::from_millis(350) };
        let stop = CancellationToken::new();
        tokio::spawn(run(Counts(applied_sender, changes), receiver, sender, debounce, Metrics::new(), stop));
        Running { events, applied, published }
    }

    #[tokio::test(start_paused = true)]
    async fn changes_are_gathered_until_they_pause() {
        let mut running = start(Changes::full());
        running.events.send(Event::Changes(vec![])).await.unwrap();
        assert_eq!(running.applied.recv().await, Some(0), "the first is published without a wait");
        let start = Instant::now();
        running.events.send(Event::Changes(vec![change()])).await.unwrap();
        tokio::time::sleep(Duration::from_millis(60)).await;
        running.events.send(Event::Changes(vec![change(), change()])).await.unwrap();
        assert_eq!(running.applied.recv().await, Some(3));
        assert_eq!(start.elapsed().as_millis(), 160);
        assert_eq!(running.published.borrow().number, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_of_changes_does_not_delay_the_first_for_ever() {
        let mut running = start(Changes::full());
        running.events.send(Event::Changes(vec![])).await.unwrap();
        running.applied.recv().await.unwrap();
        let start = Instant::now();
        let events = running.events.clone();
        tokio::spawn(async move {
            for _ in 0..20 {
                events.send(Event::Changes(vec![change()])).await.unwrap();
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        let count = running.applied.recv().await.unwrap();
        assert_eq!(start.elapsed().as_millis(), 350);
        assert!((7..=8).contains(&count), "{count}");
    }

    #[tokio::test(start_paused = true)]
    async fn endpoints_wait_for_nothing_but_endpoints_just_before() {
        let mut running = start(Changes::full());
        running.events.send(Event::Changes(vec![])).await.unwrap();
        running.applied.recv().await.unwrap();
        let start = Instant::now();
        let endpoint = || Change::Remove(Key { kind: Kind::EndpointSlice, namespace: "a".into(), name: "b".into() });
        for (changes, applied) in [
            (vec![change(), endpoint()], Some((1, 0))),
            (vec![endpoint(), endpoint()], None),
            (vec![change()], Some((2, 100))),
        ] {
            running.events.send(Event::Changes(changes)).await.unwrap();
            match applied {
                Some(applied) => {
                    assert_eq!((running.applied.recv().await.unwrap(), start.elapsed().as_millis()), applied);
                }
                None => tokio::time::sleep(Duration::from_millis(30)).await,
            }
        }
        // The rest goes together, after its own pause.
        assert_eq!((running.applied.recv().await.unwrap(), start.elapsed().as_millis()), (2, 130));
    }

    #[tokio::test(start_paused = true)]
    async fn what_touches_nothing_is_not_published_and_apply_does_not_wait() {
        let mut running = start(Changes::default());
        let start = Instant::now();
        for _ in 0..2 {
            let (done, number) = oneshot::channel();
            running.events.send(Event::Apply(vec![change()], done)).await.unwrap();
            assert_eq!(number.await, Ok(1));
            assert_eq!(running.applied.recv().await, Some(1));
        }
        assert_eq!(start.elapsed().as_millis(), 0);
    }
}

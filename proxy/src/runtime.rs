//! Thread-per-core: each worker is a thread with a single-threaded runtime, its own listening sockets, pools and metric handles.
//!
//! The control thread tells workers which sockets to serve; workers read configuration from the snapshot store themselves.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_util::sync::CancellationToken;

use crate::Name;
use crate::drain::Drain;
use crate::listener::{BindAddress, accept, socket};
use crate::snapshot::Store;
use crate::telemetry::stats::Metrics;
use crate::worker::{NodeTold, Worker};

/// How often tasks are given a turn to write their accounts when a worker stops.
const LAST_TURNS: usize = 4;

/// Runs hyper's tasks on the worker that has the connection.
#[derive(Debug, Clone, Copy)]
pub struct LocalExecutor;

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        spawn(future);
    }
}

thread_local! {
    /// Those of the worker that this thread is.
    static COUNTS: RefCell<Arc<Counts>> = RefCell::default();
}

/// What a worker has under way, as others may read it.
#[derive(Debug, Default)]
pub struct Counts {
    tasks: AtomicUsize,
    pools: [AtomicUsize; 4],
}

/// What the pools of a worker hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolCounts {
    /// Pools: one for each endpoint that was used, and each way to use it.
    pub pools: usize,
    /// Connections to endpoints, in use or not.
    pub connections: usize,
    /// HTTP/1 connections that wait for a request.
    pub idle: usize,
    /// HTTP/2 connections that take requests.
    pub shared: usize,
}

impl Counts {
    /// Tasks now: connections, HTTP/2 streams, and a few that are always there.
    pub fn tasks(&self) -> usize {
        self.tasks.load(Ordering::Relaxed)
    }

    /// The pools, as they were a moment ago.
    pub fn of_pools(&self) -> PoolCounts {
        let [pools, connections, idle, shared] = self.pools.each_ref().map(|count| count.load(Ordering::Relaxed));
        PoolCounts { pools, connections, idle, shared }
    }

    /// Tells of the pools.
    pub fn pools(&self, counts: PoolCounts) {
        let PoolCounts { pools, connections, idle, shared } = counts;
        for (count, value) in self.pools.iter().zip([pools, connections, idle, shared]) {
            count.store(value, Ordering::Relaxed);
        }
    }
}

/// A task that is counted.
struct Counted(Arc<Counts>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.tasks.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Spawns a task on this worker.
pub fn spawn<F>(future: F)
where
    F: Future + 'static,
    F::Output: 'static,
{
    let counts = COUNTS.with_borrow(Arc::clone);
    counts.tasks.fetch_add(1, Ordering::Relaxed);
    let counted = Counted(counts);
    tokio::task::spawn_local(async move {
        future.await;
        drop(counted);
    });
}

/// Order to a worker.
#[derive(Debug)]
enum Order {
    /// Accept connections of a listener.
    Listen { listener: Name, socket: std::net::TcpListener, stop: CancellationToken },
}

/// What workers share.
#[derive(Debug, Clone)]
pub struct Shared {
    /// Configuration.
    pub store: Arc<Store>,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// The shutdown switch.
    pub drain: Drain,
    /// Who we are.
    pub node: Arc<NodeTold>,
    /// How long a connection may take to finish whose chain is gone.
    pub listener_drain: Duration,
}

/// The running workers and their listening sockets.
#[derive(Debug)]
pub struct Workers {
    orders: Vec<UnboundedSender<Order>>,
    counts: Vec<Arc<Counts>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    bound: Mutex<HashMap<(Name, SocketAddr), Bound>>,
}

#[derive(Debug)]
struct Bound {
    actual: SocketAddr,
    stop: CancellationToken,
}

impl Workers {
    /// Starts `count` workers.
    pub fn start(count: usize, shared: &Shared) -> io::Result<Self> {
        let mut orders = Vec::new();
        let mut threads = Vec::new();
        let mut counts = Vec::new();
        for index in 0..count.max(1) {
            let (sender, receiver) = unbounded_channel();
            let (shared, own) = (shared.clone(), Arc::<Counts>::default());
            counts.push(own.clone());
            let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
                if let Err(error) = run(index, shared, own, receiver) {
                    tracing::error!(%error, index, "a worker could not start");
                }
            })?;
            orders.push(sender);
            threads.push(thread);
        }
        Ok(Self { orders, counts, threads: Mutex::new(threads), bound: Mutex::default() })
    }

    /// Opens sockets for the bound listeners of the newest snapshot and closes those that are gone. Errors do not stop the others.
    pub fn bind(&self, store: &Store) -> Vec<(Name, io::Error)> {
        let snapshot = store.load();
        let mut bound = self.bound.lock();
        let mut wanted = std::collections::HashSet::new();
        let mut errors = Vec::new();
        for listener in snapshot.listeners.values().filter(|listener| listener.bind_to_port) {
            for address in &listener.addresses {
                let BindAddress::Ip(address) = address else {
                    let error =
                        io::Error::new(io::ErrorKind::Unsupported, "listening on Unix sockets is not supported");
                    errors.push((listener.name.clone(), error));
                    continue;
                };
                let key = (listener.name.clone(), *address);
                wanted.insert(key.clone());
                if bound.contains_key(&key) {
                    continue;
                }
                match self.open(&listener.name, *address, listener.backlog) {
                    Ok(opened) => {
                        bound.insert(key, opened);
                    }
                    Err(error) => errors.push((listener.name.clone(), error)),
                }
            }
        }
        bound.retain(|key, bound| {
            let keep = wanted.contains(key);
            if !keep {
                bound.stop.cancel();
            }
            keep
        });
        errors
    }

    fn open(&self, listener: &Name, address: SocketAddr, backlog: Option<u32>) -> io::Result<Bound> {
        let sockets = socket::open(address, self.orders.len(), backlog)?;
        let actual = sockets[0].local_addr()?;
        let stop = CancellationToken::new();
        for (order, socket) in self.orders.iter().zip(sockets) {
            // A worker that is gone is on its way out with the whole process.
            let _ = order.send(Order::Listen { listener: listener.clone(), socket, stop: stop.clone() });
        }
        tracing::info!(listener = &**listener, address = %actual, "listening");
        Ok(Bound { actual, stop })
    }

    /// Where a listener really listens.
    pub fn listener_addr(&self, name: &str) -> Option<SocketAddr> {
        let bound = self.bound.lock();
        bound.iter().find(|((listener, _), _)| **listener == *name).map(|(_, bound)| bound.actual)
    }

    /// Names and addresses of all listening sockets.
    pub fn addresses(&self) -> Vec<(Name, SocketAddr)> {
        let mut all: Vec<_> = self.bound.lock().iter().map(|((name, _), bound)| (name.clone(), bound.actual)).collect();
        all.sort();
        all
    }

    /// What each worker has under way.
    pub fn counts(&self) -> &[Arc<Counts>] {
        &self.counts
    }

    /// Stops accepting everywhere.
    pub fn close(&self) {
        for (_, bound) in self.bound.lock().drain() {
            bound.stop.cancel();
        }
    }

    /// Waits for the threads; the drain switch must be at [`Phase::Stopped`].
    pub fn join(&self) {
        for thread in self.threads.lock().drain(..) {
            let _ = thread.join();
        }
    }
}

fn run(index: usize, shared: Shared, counts: Arc<Counts>, mut orders: UnboundedReceiver<Order>) -> io::Result<()> {
    COUNTS.set(counts.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    let worker = Worker::new(index, shared);
    local.block_on(&runtime, async move {
        let serve = async {
            while let Some(Order::Listen { listener, socket, stop }) = orders.recv().await {
                match tokio::net::TcpListener::from_std(socket) {
                    Ok(socket) => spawn(accept::run(worker.clone(), listener, socket, stop)),
                    Err(error) => tracing::error!(%error, "cannot serve a socket"),
                }
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = serve => {}
            () = worker.attend(&counts) => {}
        }
        // What is cut is still accounted for.
        for _ in 0..LAST_TURNS {
            tokio::task::yield_now().await;
        }
    });
    Ok(())
}

//! What a mesh holds when nobody uses it, to see that a disturbance leaves nothing behind.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use integration_tests::eventually::DEADLINE;
use integration_tests::{Crowd, Mesh, eventually};

/// What a proxy holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    /// Connections of clients.
    clients: u64,
    /// Connections to endpoints that wait for a request; they may, for as long as the endpoint is there: HTTP/1, HTTP/2.
    waiting: [u64; 2],
    /// Connections to endpoints that do not wait.
    busy: u64,
    pools: u64,
    tasks: u64,
    /// Snapshots of configuration.
    snapshots: u64,
}

/// Tasks of a connection to an endpoint that waits: HTTP/1, HTTP/2.
const TASKS: [u64; 2] = [1, 2];

/// Pools are counted once a second: what is told for longer is so.
const COUNTED: Duration = Duration::from_millis(1100);

/// What was held.
pub struct Base {
    proxies: Vec<(&'static str, Held)>,
    files: usize,
}

/// The other end of a question to an admin page is still open for a moment when the answer is there.
const CLOSED: Duration = Duration::from_millis(200);

/// File descriptors of this process, once their number stands.
async fn files() -> Result<usize> {
    let mut before = (0, Instant::now());
    eventually(DEADLINE, async || {
        let now = std::fs::read_dir("/proc/self/fd")?.count();
        if before.0 != now {
            before = (now, Instant::now());
        }
        ensure!(before.1.elapsed() > CLOSED, "{now} file descriptors are open, and not for long");
        Ok(now)
    })
    .await
}

impl Held {
    async fn by(mesh: &Mesh, proxy: &str) -> Result<Self> {
        let stats = mesh.admin(proxy, "/stats").await?;
        let number = |name: &str| {
            let line =
                stats.lines().find_map(|line| line.strip_prefix("server.")?.strip_prefix(name)?.strip_prefix(": "));
            line.and_then(|value| value.parse::<u64>().ok()).unwrap_or_else(|| panic!("no server.{name}"))
        };
        let waiting = [number("upstream_connections_idle"), number("upstream_connections_http2")];
        Ok(Self {
            clients: number("total_connections"),
            waiting,
            busy: number("upstream_connections").saturating_sub(waiting.iter().sum()),
            pools: number("upstream_pools"),
            tasks: number("worker_tasks"),
            snapshots: number("living_snapshots"),
        })
    }

    fn waiting(&self) -> u64 {
        self.waiting.iter().sum()
    }

    /// Tasks beside those of connections that wait, and of clients' connections, which have one each.
    fn own_tasks(&self) -> u64 {
        let waiting: u64 = self.waiting.iter().zip(TASKS).map(|(count, tasks)| count * tasks).sum();
        self.tasks.saturating_sub(waiting + self.clients)
    }
}

impl Base {
    /// What these proxies and the process hold when `client` has asked for `http://echo/` for a while: sidecars have pools towards their
    /// own applications then, which stay.
    pub async fn of(mesh: &Mesh, proxies: &[&'static str]) -> Result<Self> {
        let crowd = Crowd::start(&mesh.client("client"), &["http://echo/"]);
        crowd.more(10).await;
        crowd.stop().await;
        let mut all = Vec::new();
        for proxy in proxies {
            let mut before = (None, Instant::now());
            let settled = eventually(DEADLINE, async || {
                let now = Held::by(mesh, proxy).await?;
                if before.0 != Some(now) {
                    before = (Some(now), Instant::now());
                }
                ensure!(before.1.elapsed() > COUNTED && now.busy == 0, "{proxy} is not at rest: {now:?}");
                Ok(now)
            });
            all.push((*proxy, settled.await?));
        }
        Ok(Self { proxies: all, files: files().await? })
    }

    /// Waits until nothing more is held than then, beside connections that wait.
    pub async fn returns(&self, mesh: &Mesh) -> Result<()> {
        eventually(DEADLINE, async || {
            let (mut waiting, mut clients) = ((0, 0), (0, 0));
            for (proxy, base) in &self.proxies {
                let now = Held::by(mesh, proxy).await?;
                waiting = (waiting.0 + base.waiting(), waiting.1 + now.waiting());
                clients = (clients.0 + base.clients, clients.1 + now.clients);
                for (what, base, now) in [
                    ("busy connections to endpoints", base.busy, now.busy),
                    ("pools", base.pools, now.pools),
                    ("tasks", base.own_tasks(), now.own_tasks()),
                    ("snapshots", 1, now.snapshots),
                ] {
                    ensure!(now <= base, "{proxy}: {now} {what}, not {base} as before");
                }
            }
            // A connection that waits may be towards another sidecar, and both of its ends are in this process.
            let more = waiting.1.saturating_sub(waiting.0);
            ensure!(
                clients.1 <= clients.0 + more,
                "{} connections of clients, not {} as before",
                clients.1,
                clients.0 + more
            );
            let (now, most) = (files().await?, self.files as u64 + 2 * more);
            ensure!(now as u64 <= most, "{now} file descriptors are open, not {most} as before");
            Ok(())
        })
        .await
    }
}

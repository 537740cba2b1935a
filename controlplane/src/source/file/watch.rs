//! When to scan: soon after the system reports a change, and every few seconds in case it did not.

use std::path::Path;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use super::super::Update;
use super::{FileError, FileSource};

/// A burst of events counts as one change once it has been quiet for this long: editors and `git` write a file in several steps.
const QUIET: Duration = Duration::from_millis(50);

/// A burst without end is cut here.
const LONGEST_BURST: Duration = Duration::from_secs(1);

/// Between scans that no event asked for. Network and overlay file systems report none.
const RESCAN: Duration = Duration::from_secs(5);

impl FileSource {
    /// Scans at once and whenever something changes, until `stop` is cancelled or nobody listens any more. The first update is sent even if it
    /// is empty: it says that everything was read once.
    ///
    /// # Errors
    /// Only a bug in reading.
    pub async fn run(mut self, sender: mpsc::Sender<Update>, stop: CancellationToken) -> Result<(), FileError> {
        let (changed, mut changes) = mpsc::channel(1);
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.map_or(true, |event| is_change(event.kind)) {
                // Full means that a scan is due anyway.
                let _ = changed.try_send(());
            }
        });
        if let Err(error) = &watcher {
            tracing::warn!(%error, "files cannot be watched; they are read every few seconds instead");
        }
        let mut rescan = interval_at(Instant::now() + RESCAN, RESCAN);
        rescan.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sent = None;
        loop {
            // Before each scan, so that a change after it is not missed, and a directory that came back is watched again.
            if let Ok(watcher) = &mut watcher {
                self.watch(watcher);
            }
            let (source, scan) = tokio::task::spawn_blocking(move || {
                let scan = self.scan();
                (self, scan)
            })
            .await?;
            self = source;
            if !scan.changes.is_empty() || sent.as_ref() != Some(&scan.findings) {
                sent = Some(scan.findings.clone());
                let update =
                    Update { changes: scan.changes, findings: Some(scan.findings), verdicts: None, complete: true };
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    result = sender.send(update) => if result.is_err() { return Ok(()) },
                }
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = sender.closed() => return Ok(()),
                _ = rescan.tick() => {}
                Some(()) = changes.recv() => settle(&mut changes).await,
            }
        }
    }

    fn watch(&self, watcher: &mut impl Watcher) {
        for root in &self.roots {
            // A file is watched by its directory: editors replace it by another of the same name.
            let (path, mode) = if root.is_dir() {
                (root.as_path(), RecursiveMode::Recursive)
            } else {
                let parent = root.parent().filter(|parent| !parent.as_os_str().is_empty());
                (parent.unwrap_or(Path::new(".")), RecursiveMode::NonRecursive)
            };
            if let Err(error) = watcher.watch(path, mode) {
                tracing::debug!(path = %path.display(), %error, "cannot be watched; read every few seconds instead");
            }
        }
    }
}

/// Waits until the burst is over.
async fn settle(changes: &mut mpsc::Receiver<()>) {
    let end = Instant::now() + LONGEST_BURST;
    let quiet = async {
        loop {
            tokio::select! {
                () = sleep(QUIET) => return,
                more = changes.recv() => if more.is_none() { return },
            }
        }
    };
    let _ = timeout_at(end, quiet).await;
}

/// Reading a file is an event, too, and would make every scan ask for the next one.
fn is_change(kind: EventKind) -> bool {
    !matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}

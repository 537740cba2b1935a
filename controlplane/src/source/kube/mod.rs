//! Objects from a Kubernetes API server, watched.
//!
//! One [`watch`] for each kind lists and follows it, reads every object as files are read, and reports to one task, which owns the
//! [`cluster`]: what is known of all kinds, and what that means for the model. Secrets are watched by their names alone, and read where a
//! Gateway or DestinationRule names them ([`secrets`]): most secrets of a cluster are none of the mesh's business, and should not be in
//! its memory.

mod client;
mod cluster;
mod raw;
mod secrets;
mod watch;

#[cfg(test)]
mod tests;

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use self::cluster::{Cluster, Report};
use super::Update;
use crate::own::{DEFAULT_REVISION, Own};
use crate::validate::MESH_CONFIG_NAME;

pub use self::client::{KubeError, KubeSettings, connect};

/// Reports that may wait. Watches wait when there are more, and the API server with them.
const REPORTS: usize = 1024;

/// Findings over how objects refer to each other cost a look at all of them; changes do not wait for them.
const FINDINGS_AFTER: Duration = Duration::from_millis(500);

/// A source of the objects of a cluster.
#[derive(Clone)]
pub struct KubeSource {
    client: ::kube::Client,
    own: Own,
}

impl std::fmt::Debug for KubeSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KubeSource")
    }
}

impl KubeSource {
    /// The objects of the cluster that a client reaches, without configuration for other revisions (RV1). A revision has mesh settings of its
    /// own, too: ConfigMap `istio-REVISION`, and `istio` for the default one.
    pub fn new(client: ::kube::Client, own: Own) -> Self {
        Self { client, own }
    }

    /// Follows the cluster until `stop` is cancelled or nobody listens any more. While the first lists are not there only findings are sent, such
    /// as why they are not.
    pub async fn run(self, sender: mpsc::Sender<Update>, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = sender.closed() => {}
            () = self.follow(&sender) => {}
        }
    }

    async fn follow(self, sender: &mpsc::Sender<Update>) {
        let (reports, mut incoming) = mpsc::channel(REPORTS);
        let (needed, fetches) = mpsc::unbounded_channel();
        // They end with this function.
        let mut tasks = JoinSet::new();
        let mesh_config = match self.own.revision.as_str() {
            DEFAULT_REVISION => MESH_CONFIG_NAME.to_owned(),
            revision => format!("{MESH_CONFIG_NAME}-{revision}"),
        };
        let watched = watch::watched(&mesh_config);
        let mut cluster = Cluster::new(watched.iter().map(|watched| watched.kind));
        for watched in watched {
            tasks.spawn(watch::run(self.client.clone(), self.own.clone(), watched, reports.clone()));
        }
        tasks.spawn(watch::fetch(self.client, fetches, reports));
        let mut batch: Vec<Report> = Vec::new();
        let (mut sent, mut judged) = (Vec::new(), Vec::new());
        let mut findings_at: Option<Instant> = None;
        loop {
            let findings_due = tokio::select! {
                count = incoming.recv_many(&mut batch, REPORTS) => {
                    if count == 0 {
                        return;
                    }
                    false
                }
                () = async { sleep_until(findings_at.unwrap_or_else(Instant::now)).await }, if findings_at.is_some() => true,
            };
            for report in batch.drain(..) {
                cluster.take(report);
            }
            for key in cluster.secrets_due() {
                // The fetching task lives as long as this one.
                let _ = needed.send(key);
            }
            let first = cluster.just_completed();
            if cluster.findings_touched() {
                findings_at.get_or_insert_with(|| Instant::now() + FINDINGS_AFTER);
            }
            let mut update =
                Update { changes: cluster.changes(), complete: cluster.is_complete(), ..Update::default() };
            if first || findings_due {
                findings_at = None;
                update.findings = news(&mut sent, cluster.findings());
                update.verdicts = news(&mut judged, cluster.verdicts());
            }
            let says_something = !update.changes.is_empty() || update.findings.is_some() || update.verdicts.is_some();
            if (first || says_something) && sender.send(update).await.is_err() {
                return;
            }
        }
    }
}

/// What is known now, if it is not what was known before.
fn news<T: Clone + PartialEq>(before: &mut Vec<T>, now: Vec<T>) -> Option<Vec<T>> {
    if *before == now {
        return None;
    }
    before.clone_from(&now);
    Some(now)
}

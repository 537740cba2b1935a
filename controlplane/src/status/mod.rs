//! What the mesh thinks of each object, in the object's own status (VW2, SE9), and the addresses that it gave to ServiceEntries (SE8).
//!
//! Fed by what [`crate::source`] judged and [`crate::model`] gave; [`wanted`] says what a status should be, [`writer`] writes what differs, on
//! the one replica that [`crate::leader`] elects. [`ingress`] writes to Ingresses where they are reached.

pub mod ingress;
mod wanted;
mod writer;

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::model::PushContext;
use crate::push::Published;
use crate::source::Verdict;
use crate::validate::Finding;

/// What was judged last.
#[derive(Debug, Clone, Default)]
pub struct Judged {
    /// All that was found.
    pub findings: Vec<Finding>,
    /// Which objects are in force.
    pub verdicts: Vec<Verdict>,
}

/// Where the writer looks.
#[derive(Debug)]
pub struct Inputs {
    /// What sources judged.
    pub judged: watch::Receiver<Arc<Judged>>,
    /// Wakes up when something else is in force.
    pub published: watch::Receiver<Arc<Published>>,
    /// What is in force.
    pub shown: Arc<ArcSwap<PushContext>>,
    /// Whether it writes to objects that name the revision of this control plane, or to those that are for all of them: two revisions each
    /// have a leader for their own, and one for what is common.
    pub named: bool,
    /// Whether this replica writes.
    pub leads: watch::Receiver<bool>,
}

/// Keeps the status of all objects while this replica leads, until `stop`.
pub async fn run(client: ::kube::Client, inputs: Inputs, stop: CancellationToken) {
    stop.run_until_cancelled(writer::run(client, inputs)).await;
}

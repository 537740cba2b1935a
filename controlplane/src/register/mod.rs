//! WorkloadEntries of workloads outside the cluster, made when their proxies connect and removed after they have gone (WG1).
//!
//! [`crate::xds`] asks for an entry when a proxy names a WorkloadGroup, and hands on what it says of its health; [`entry`] says what an entry
//! should be, [`desk`] writes it. The entry comes back through [`crate::source`] as any other, so all replicas know it.

mod desk;
mod entry;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ::kube::Client;
use mesh_proto::spiffe::Identity;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::model::{Name, Node};

/// How long an entry outlives its proxy's connection (`PILOT_WORKLOAD_ENTRY_GRACE_PERIOD`); Istio's default.
pub const GRACE: Duration = Duration::from_secs(10);

/// True if the proxy of this entry tells of its health, and has not said that it is well: Istio takes such a workload as one that is not there.
pub(crate) fn is_unwell(annotation: Option<&str>, status: Option<&Value>) -> bool {
    annotation == Some("true") && !entry::is_well(status)
}

pub(crate) use entry::HEALTH_CHECKED;

/// Namespace and name of an entry.
type Key = (Name, Name);

/// Makes entries.
#[derive(Clone)]
pub struct Registrar {
    client: Client,
    /// Which control plane it is, in the entries' annotations.
    instance: Arc<str>,
    grace: Duration,
    open: Arc<Mutex<BTreeMap<Key, Open>>>,
    desk: mpsc::UnboundedSender<Event>,
}

/// An entry whose proxy is connected here.
#[derive(Debug, Default)]
struct Open {
    streams: usize,
    health: Option<Health>,
}

/// What a proxy said last of its workload: well, or why not.
type Health = Result<(), String>;

/// What is to be written.
#[derive(Debug)]
enum Event {
    /// The last stream of a proxy ended.
    Left(Key),
    /// A proxy told of its workload.
    Told(Key),
}

impl std::fmt::Debug for Registrar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Registrar({})", self.instance)
    }
}

/// A stream of a proxy that has an entry; on drop the proxy has left.
#[derive(Debug)]
pub struct Registered {
    key: Key,
    registrar: Registrar,
}

impl Registrar {
    /// A registrar, and what must run for it. `instance` must be no other replica's.
    pub fn new(client: Client, instance: &str, grace: Duration) -> (Self, Desk) {
        let (desk, events) = mpsc::unbounded_channel();
        let registrar = Self { client, instance: instance.into(), grace, open: Arc::default(), desk };
        (registrar.clone(), Desk { registrar, events })
    }

    /// Gives the proxy its entry, of the template of the group of this name in the proxy's namespace.
    ///
    /// # Errors
    /// There is no such group, the caller may not be what the template says, or the API server does not take the entry.
    pub async fn register(&self, group: &str, node: &Node, caller: Option<&Identity>) -> Result<Registered, Status> {
        let address = node.addresses.first().copied().ok_or_else(|| {
            Status::invalid_argument("a proxy that registers itself must give its address in node.id or INSTANCE_IPS")
        })?;
        let name = entry::name(group, address, &node.network);
        // Counted before it is written: whatever ends meanwhile is not the last.
        let key: Key = (node.namespace.clone(), name.as_str().into());
        self.open.lock().entry(key.clone()).or_default().streams += 1;
        let registered = Registered { key, registrar: self.clone() };
        desk::connect(self, &desk::Wish { group, name: &name, address, node, caller }).await?;
        tracing::info!(node = %node.id, entry = name, "a proxy is registered");
        Ok(registered)
    }

    fn tell(&self, event: Event) {
        // Nobody listens only after a stop, when all entries were left.
        let _ = self.desk.send(event);
    }
}

impl Registered {
    /// Name of the entry.
    pub fn entry(&self) -> &Name {
        &self.key.1
    }

    /// What the proxy says of its workload; an error says why it is not well.
    pub fn tell_health(&self, health: Health) {
        if let Some(open) = self.registrar.open.lock().get_mut(&self.key) {
            open.health = Some(health);
        }
        self.registrar.tell(Event::Told(self.key.clone()));
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut all = self.registrar.open.lock();
        let Some(open) = all.get_mut(&self.key) else { return };
        open.streams = open.streams.saturating_sub(1);
        if open.streams == 0 {
            all.remove(&self.key);
            self.registrar.tell(Event::Left(self.key.clone()));
        }
    }
}

/// Writes what streams tell.
#[derive(Debug)]
pub struct Desk {
    registrar: Registrar,
    events: mpsc::UnboundedReceiver<Event>,
}

impl Desk {
    /// Writes until `stop`; at the end all proxies of this control plane have left, and are free to register elsewhere. The replica that leads
    /// also removes entries that others left behind.
    pub async fn run(self, leads: watch::Receiver<bool>, stop: CancellationToken) {
        desk::run(self.registrar, self.events, leads, stop).await;
    }
}

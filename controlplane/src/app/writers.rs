//! What one replica of all writes to the cluster, each under its own lease (RV2): status, where Ingresses are reached, the mesh's roots, entries of
//! workloads that registered themselves. Started by [`super`], told by the sources.

use std::sync::Arc;

use ::kube::Client;
use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::until;
use crate::ca::{AuthorityHandle, roots};
use crate::leader::Candidate;
use crate::model::{Name, PushContext};
use crate::own::Own;
use crate::push::Published;
use crate::register::Desk;
use crate::source::{Exposed, Merge};
use crate::status::{self, Judged};

/// Whoever holds this lease writes the status of what is for every revision; of what names one, who holds it with that revision at its end.
/// Istio's name, so that of the two only one does.
const STATUS_LEASE: &str = "istio-status-leader";
/// Whoever holds this one writes the mesh's roots to namespaces.
const ROOTS_LEASE: &str = "istio-namespace-controller-election";
/// Whoever holds this one writes to Ingresses where they are reached.
const INGRESS_LEASE: &str = "istio-leader";

/// What writers are told of what the sources say.
#[derive(Default)]
pub(super) struct Told {
    pub(super) judged: watch::Sender<Arc<Judged>>,
    namespaces: watch::Sender<Arc<Vec<Name>>>,
    exposed: watch::Sender<Arc<Exposed>>,
}

impl Told {
    /// Which namespaces and Ingresses there are now.
    pub(super) fn look(&self, merge: &Merge) {
        replace(&self.namespaces, merge.namespaces());
        replace(&self.exposed, merge.exposed().clone());
    }
}

/// Tells what is not known already.
fn replace<T: PartialEq>(told: &watch::Sender<Arc<T>>, now: T) {
    told.send_if_modified(|known| {
        let differs = **known != now;
        if differs {
            *known = Arc::new(now);
        }
        differs
    });
}

/// What writers need.
pub(super) struct Writers {
    pub(super) client: Client,
    pub(super) own: Own,
    /// Tells this replica from all others.
    pub(super) identity: String,
    pub(super) authority: AuthorityHandle,
    pub(super) published: watch::Receiver<Arc<Published>>,
    pub(super) shown: Arc<ArcSwap<PushContext>>,
}

impl Writers {
    /// Starts them, until `stop`.
    pub(super) fn start(self, told: &Told, desk: Option<Desk>, tasks: &TaskTracker, stop: &CancellationToken) {
        let Self { client, own, identity, authority, published, shown } = self;
        let lead = |lease: &str| {
            let (leading, leads) = watch::channel(false);
            let candidate = Candidate::new(client.clone(), &own.namespace, lease, &identity);
            tasks.spawn(candidate.run(leading, stop.clone()));
            leads
        };
        let status_leads = lead(STATUS_LEASE);
        if let Some(desk) = desk {
            tasks.spawn(desk.run(status_leads.clone(), stop.clone()));
        }
        let own_leads = lead(&format!("{STATUS_LEASE}-{}", own.revision));
        for (named, leads) in [(false, status_leads), (true, own_leads)] {
            let (judged, published, shown) = (told.judged.subscribe(), published.clone(), shown.clone());
            let inputs = status::Inputs { judged, published, shown, named, leads };
            tasks.spawn(status::run(client.clone(), inputs, stop.clone()));
        }
        let exposed = status::ingress::run(client.clone(), told.exposed.subscribe(), lead(INGRESS_LEASE));
        tasks.spawn(until(stop.clone(), exposed));
        let (namespaces, leads) = (told.namespaces.subscribe(), lead(ROOTS_LEASE));
        tasks.spawn(roots::run(client.clone(), authority, namespaces, leads, stop.clone()));
    }
}

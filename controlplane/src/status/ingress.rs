//! Where Ingresses are reached, in their own status: the addresses of the gateway's Service (GA1, MC2).
//!
//! Fed by [`crate::source`], on the one replica that [`crate::leader`] elects. What an Ingress says already is asked at first and now and then;
//! between only what changes is written.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ::kube::api::{Patch, PatchParams};
use ::kube::{Api, Client, Error};
use mesh_proto::kube::Ingress;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::model::Key;
use crate::source::{Address, Exposed};

/// After a round in which something failed.
const AGAIN: Duration = Duration::from_secs(5);
/// Between looks at what Ingresses say: one that went and came back at once, or that somebody wrote to, is noticed then.
const LOOK: Duration = Duration::from_secs(300);
/// Who wrote it, in the managed fields.
const MANAGER: &str = "ferromesh-ingress";

/// Keeps the status of the mesh's Ingresses while this replica leads.
pub async fn run(client: Client, mut exposed: watch::Receiver<Arc<Exposed>>, mut leads: watch::Receiver<bool>) {
    let mut written: BTreeMap<Key, Vec<Address>> = BTreeMap::new();
    loop {
        if !*leads.borrow_and_update() {
            // Another replica writes meanwhile.
            written.clear();
            if leads.wait_for(|leads| *leads).await.is_err() {
                return;
            }
            continue;
        }
        let now = exposed.borrow_and_update().clone();
        let result = round(&client, &now, &mut written).await;
        if let Err(error) = &result {
            tracing::warn!(error = words(error), "the status of an Ingress cannot be written; it is tried again");
        }
        tokio::select! {
            changed = exposed.changed() => if changed.is_err() { return },
            changed = leads.changed() => if changed.is_err() { return },
            () = sleep(AGAIN), if result.is_err() => {}
            () = sleep(LOOK) => written.clear(),
        }
    }
}

/// Writes what differs; the first error is returned after everything was tried.
async fn round(client: &Client, exposed: &Exposed, written: &mut BTreeMap<Key, Vec<Address>>) -> Result<(), Error> {
    written.retain(|key, _| exposed.ingresses.contains(key));
    let mut first = Ok(());
    for key in &exposed.ingresses {
        if written.get(key) == Some(&exposed.addresses) {
            continue;
        }
        match write(client, key, &exposed.addresses).await {
            Ok(()) => drop(written.insert(key.clone(), exposed.addresses.clone())),
            Err(error) => first = first.and(Err(error)),
        }
    }
    first
}

async fn write(client: &Client, key: &Key, addresses: &[Address]) -> Result<(), Error> {
    let api = Api::<Ingress>::namespaced(client.clone(), &key.namespace);
    let Some(found) = api.get_opt(&key.name).await? else { return Ok(()) };
    if said(&found) == addresses {
        return Ok(());
    }
    let list: Vec<Value> = addresses.iter().map(shown).collect();
    let patch = Patch::Merge(json!({"status": {"loadBalancer": {"ingress": list}}}));
    let parameters = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    match api.patch_status(&key.name, &parameters, &patch).await {
        Ok(_) => Ok(()),
        // It went meanwhile.
        Err(Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error),
    }
}

fn shown(address: &Address) -> Value {
    match address {
        Address::Ip(ip) => json!({"ip": ip}),
        Address::Hostname(hostname) => json!({"hostname": hostname}),
    }
}

/// What its status says.
fn said(ingress: &Ingress) -> Vec<Address> {
    let balancer = ingress.status.as_ref().and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref());
    let each = balancer.into_iter().flatten().filter_map(|one| match (&one.ip, &one.hostname) {
        (Some(ip), _) => Some(Address::Ip(ip.clone())),
        (None, Some(hostname)) => Some(Address::Hostname(hostname.clone())),
        (None, None) => None,
    });
    each.collect()
}

fn words(error: &Error) -> String {
    match error {
        Error::Api(status) if status.is_forbidden() => format!(
            "{}; give the control plane's user the verbs get, list and watch on ingresses.networking.k8s.io, and patch on their status",
            status.message
        ),
        other => other.to_string(),
    }
}

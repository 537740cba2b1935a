//! Writes what differs: at first everything is listed, to know what the objects say already; later only what changed is looked at.
//!
//! A burst of changes is one round, a round writes few objects at a time, and what could not be written waits for the next.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ::kube::api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams};
use ::kube::{Api, Client, Error};
use futures_util::StreamExt as _;
use jiff::Timestamp;
use mesh_proto::crd::KINDS;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::Inputs;
use super::wanted::{Wanted, wanted};
use crate::model::{Key, Kind};

/// Changes that come in this time are one round.
const GATHER: Duration = Duration::from_millis(500);
/// After a round in which something failed.
const AGAIN: Duration = Duration::from_secs(5);
/// Objects that are written at a time.
const AT_A_TIME: usize = 4;
/// Objects of a page.
const PAGE: u32 = 500;
/// Who wrote it, in the objects' managed fields.
const MANAGER: &str = "ferromesh-status";

/// What the objects say, as far as it is known.
type Written = BTreeMap<Key, Wanted>;

/// Never returns, except when nobody is there to be heard.
pub(super) async fn run(client: Client, mut inputs: Inputs) {
    loop {
        if inputs.leads.wait_for(|leads| *leads).await.is_err() {
            return;
        }
        let mut leads = inputs.leads.clone();
        tokio::select! {
            _ = leads.wait_for(|leads| !*leads) => {}
            () = write(&client, &mut inputs) => return,
        }
    }
}

/// Writes as long as this replica leads; returns when nobody tells it anything any more.
async fn write(client: &Client, inputs: &mut Inputs) {
    let mut written: Option<Written> = None;
    loop {
        let judged = inputs.judged.borrow_and_update().clone();
        inputs.published.mark_unchanged();
        let context = inputs.shown.load_full();
        let services = context.service_index();
        let all = wanted(&judged, inputs.named, &context);
        drop(context);
        let result = match &mut written {
            Some(written) => round(client, &all, written).await,
            None => match first(client, &all).await {
                Ok((known, result)) => {
                    written = Some(known);
                    result
                }
                Err(error) => Err(error),
            },
        };
        if let Err(error) = &result {
            tracing::warn!(error = words(error), "the status of an object cannot be written; it is tried again");
        }
        let retry = sleep(AGAIN);
        tokio::pin!(retry);
        loop {
            tokio::select! {
                changed = inputs.judged.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return,
                },
                // What is published is most often about endpoints, which no status tells of.
                changed = inputs.published.changed() => match changed {
                    Ok(()) if Arc::ptr_eq(&services, &inputs.shown.load().service_index()) => {}
                    Ok(()) => break,
                    Err(_) => return,
                },
                () = &mut retry, if result.is_err() => break,
            }
        }
        sleep(GATHER).await;
    }
}

/// Lists everything, and writes what does not say what it should.
async fn first(client: &Client, all: &Written) -> Result<(Written, Result<(), Error>), Error> {
    let (mut known, mut due) = (Written::new(), Vec::new());
    let now = Timestamp::now().to_string();
    let mut kinds: Vec<Kind> = all.keys().map(|key| key.kind).collect();
    kinds.dedup();
    for kind in kinds {
        let Some(resource) = resource(kind) else { continue };
        let api = Api::<DynamicObject>::all_with(client.clone(), &resource);
        let mut page = ListParams::default().limit(PAGE);
        loop {
            let list = match api.list(&page).await {
                Ok(list) => list,
                // It is not served any more.
                Err(Error::Api(status)) if status.code == 404 => break,
                Err(error) => return Err(error),
            };
            for object in list.items {
                let key = Key {
                    kind,
                    namespace: object.metadata.namespace.as_deref().unwrap_or_default().into(),
                    name: object.metadata.name.as_deref().unwrap_or_default().into(),
                };
                let Some(wanted) = all.get(&key) else { continue };
                match wanted.patch(kind, object.data.get("status"), &now) {
                    Some(_) => due.push((key, wanted.clone())),
                    None => drop(known.insert(key, wanted.clone())),
                }
            }
            match list.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page = page.continue_token(&token),
                None => break,
            }
        }
    }
    let result = write_all(client, due, &mut known).await;
    Ok((known, result))
}

/// Writes what changed since the last round.
async fn round(client: &Client, all: &Written, written: &mut Written) -> Result<(), Error> {
    written.retain(|key, _| all.contains_key(key));
    let due = all.iter().filter(|(key, wanted)| written.get(*key) != Some(*wanted));
    let due = due.map(|(key, wanted)| (key.clone(), wanted.clone())).collect();
    write_all(client, due, written).await
}

/// Writes these, a few at a time. What could be written, or is gone, is known then; the first error is returned.
async fn write_all(client: &Client, due: Vec<(Key, Wanted)>, known: &mut Written) -> Result<(), Error> {
    let one = |(key, wanted): (Key, Wanted)| async move {
        let result = write_one(client, &key, &wanted).await;
        (key, wanted, result)
    };
    let mut results = futures_util::stream::iter(due).map(one).buffer_unordered(AT_A_TIME);
    let mut first = Ok(());
    while let Some((key, wanted, result)) = results.next().await {
        match result {
            Ok(()) => drop(known.insert(key, wanted)),
            Err(error) => first = first.and(Err(error)),
        }
    }
    first
}

async fn write_one(client: &Client, key: &Key, wanted: &Wanted) -> Result<(), Error> {
    let Some(resource) = resource(key.kind) else { return Ok(()) };
    let api = Api::<DynamicObject>::namespaced_with(client.clone(), &key.namespace, &resource);
    let Some(object) = api.get_opt(&key.name).await? else { return Ok(()) };
    let now = Timestamp::now().to_string();
    let Some(status) = wanted.patch(key.kind, object.data.get("status"), &now) else { return Ok(()) };
    // Lists are replaced as a whole, so nobody may have written in between.
    let patch: Value = json!({"metadata": {"resourceVersion": object.metadata.resource_version}, "status": status});
    let parameters = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    match api.patch_status(&key.name, &parameters, &Patch::Merge(patch)).await {
        Ok(_) => Ok(()),
        Err(Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error),
    }
}

/// A kind in its newest version: the control plane's own CRDs serve all of them.
fn resource(kind: Kind) -> Option<ApiResource> {
    let name = format!("{kind:?}");
    let info = KINDS.iter().find(|info| info.kind == name)?;
    let version = info.versions.first()?;
    Some(ApiResource {
        group: info.group.to_owned(),
        version: (*version).to_owned(),
        api_version: format!("{}/{version}", info.group),
        kind: info.kind.to_owned(),
        plural: info.plural.to_owned(),
    })
}

fn words(error: &Error) -> String {
    match error {
        Error::Api(status) if status.is_forbidden() => format!(
            "{}; give the control plane's user the verbs get and patch on the status of the mesh's custom resources",
            status.message
        ),
        other => other.to_string(),
    }
}

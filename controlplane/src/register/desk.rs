//! Writes entries to the API server: makes and marks them while proxies wait, and by one task what streams tell later.
//!
//! Several replicas may write the same entry, because a proxy that loses one goes to another: each change names the version that it was
//! decided by, and only the control plane that an entry names may say that its proxy left.

use std::net::IpAddr;
use std::time::Duration;

use ::kube::api::{
    ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, Preconditions,
};
use ::kube::{Api, Client, Error};
use futures_util::StreamExt as _;
use jiff::Timestamp;
use mesh_proto::spiffe::Identity;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::entry::{self, CONNECTED_AT, CONTROLLER, DISCONNECTED_AT};
use super::{Event, Key, Registrar};
use crate::model::Node;

/// How often a change is tried that others come in the way of.
const TRIES: usize = 5;
/// Between two tries of what nobody waits for.
const AGAIN: Duration = Duration::from_secs(1);
/// Between two looks for entries that were left behind; less if their grace is far shorter.
const SWEEP: Duration = Duration::from_secs(60);
/// So many times the grace of an entry; Istio's measure.
const SWEEP_GRACES: u32 = 10;
/// How often an entry is told that its proxy is still there; three times before it is forgotten.
const REFRESH: Duration = Duration::from_secs(entry::FORGOTTEN.as_secs() / 4);
/// Entries that are written at a time.
const AT_A_TIME: usize = 8;
/// Objects of a page.
const PAGE: u32 = 500;
/// Who wrote it, in the managed fields.
const MANAGER: &str = "ferromesh-register";

/// Who wants which entry.
pub(super) struct Wish<'a> {
    pub(super) group: &'a str,
    pub(super) name: &'a str,
    pub(super) address: IpAddr,
    pub(super) node: &'a Node,
    pub(super) caller: Option<&'a Identity>,
}

fn resource(kind: &str, plural: &str) -> ApiResource {
    let (group, version) = ("networking.istio.io", "v1");
    ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: format!("{group}/{version}"),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    }
}

fn entries(client: &Client, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, &resource("WorkloadEntry", "workloadentries"))
}

/// The whole object as one tree.
fn tree(object: &DynamicObject) -> Value {
    // Serializing cannot fail: the fields are plain values.
    serde_json::to_value(object).unwrap_or_default()
}

/// Somebody else wrote in between, or was faster.
fn was_beaten(error: &Error) -> bool {
    matches!(error, Error::Api(status) if matches!(status.code, 404 | 409))
}

/// Makes the entry, or marks the one that there is as connected.
pub(super) async fn connect(registrar: &Registrar, wish: &Wish<'_>) -> Result<(), Status> {
    let mut last = None;
    for _ in 0..TRIES {
        match try_connect(registrar, wish).await {
            Ok(result) => return result,
            Err(error) if was_beaten(&error) => last = Some(error),
            Err(error) => {
                last = Some(error);
                break;
            }
        }
    }
    let reason = last.map(|error| error.to_string()).unwrap_or_default();
    Err(Status::unavailable(format!("the WorkloadEntry {} cannot be written: {reason}", wish.name)))
}

async fn try_connect(registrar: &Registrar, wish: &Wish<'_>) -> Result<Result<(), Status>, Error> {
    let namespace = &wish.node.namespace;
    let api = entries(&registrar.client, namespace);
    let mark =
        json!({CONTROLLER: &*registrar.instance, CONNECTED_AT: Timestamp::now().to_string(), DISCONNECTED_AT: null});
    if let Some(found) = api.get_opt(wish.name).await? {
        if let Err(reason) = entry::may_have(wish.caller, namespace, &tree(&found)) {
            return Ok(Err(Status::permission_denied(reason)));
        }
        annotate(&api, &found, mark).await?;
        return Ok(Ok(()));
    }
    let kind = resource("WorkloadGroup", "workloadgroups");
    let groups = Api::<DynamicObject>::namespaced_with(registrar.client.clone(), namespace, &kind);
    let Some(group) = groups.get_opt(wish.group).await? else {
        let message =
            format!("there is no WorkloadGroup {namespace}/{}; apply it, and the proxy gets its entry", wish.group);
        return Ok(Err(Status::failed_precondition(message)));
    };
    let mut group = tree(&group);
    group["apiVersion"] = kind.api_version.into();
    let mut made = match entry::entry(wish.name, &group, wish.address, wish.node) {
        Ok(made) => made,
        Err(reason) => {
            return Ok(Err(Status::failed_precondition(format!("WorkloadGroup {namespace}/{} {reason}", wish.group))));
        }
    };
    if let Err(reason) = entry::may_have(wish.caller, namespace, &made) {
        return Ok(Err(Status::permission_denied(reason)));
    }
    made["apiVersion"] = resource("WorkloadEntry", "workloadentries").api_version.into();
    made["kind"] = "WorkloadEntry".into();
    if let Some(annotations) = made["metadata"]["annotations"].as_object_mut() {
        annotations.extend(
            mark.as_object()
                .into_iter()
                .flatten()
                .filter(|(_, value)| !value.is_null())
                .map(|(key, value)| (key.clone(), value.clone())),
        );
    }
    let made: DynamicObject = serde_json::from_value(made).map_err(Error::SerdeError)?;
    let parameters = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
    api.create(&parameters, &made).await.map(|_| Ok(()))
}

/// Changes annotations of the version that was read.
async fn annotate(api: &Api<DynamicObject>, found: &DynamicObject, annotations: Value) -> Result<(), Error> {
    let patch = json!({"metadata": {"resourceVersion": found.metadata.resource_version, "annotations": annotations}});
    let name = found.metadata.name.as_deref().unwrap_or_default();
    api.patch(name, &parameters(), &Patch::Merge(patch)).await.map(drop)
}

fn parameters() -> PatchParams {
    PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() }
}

/// The one task.
pub(super) async fn run(
    registrar: Registrar,
    mut events: mpsc::UnboundedReceiver<Event>,
    mut leads: watch::Receiver<bool>,
    stop: CancellationToken,
) {
    let pause = registrar.grace.saturating_mul(SWEEP_GRACES).clamp(AGAIN, SWEEP);
    let mut sweep = interval(pause);
    let mut refresh = interval(REFRESH);
    for timer in [&mut sweep, &mut refresh] {
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    }
    // They end with this function.
    let mut writing = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            event = events.recv() => match event {
                Some(Event::Left(key)) => {
                    writing.spawn(farewell(registrar.clone(), key, stop.clone()));
                }
                Some(Event::Told(key)) => {
                    writing.spawn(persist(registrar.clone(), key, Write::Health, stop.clone()));
                }
                None => break,
            },
            // Whoever begins to lead looks at once.
            Ok(()) = leads.changed() => sweep.reset_immediately(),
            _ = sweep.tick(), if *leads.borrow() => {
                let registrar = registrar.clone();
                writing.spawn(async move {
                    if let Err(error) = clear(&registrar).await {
                        tracing::warn!(%error, "WorkloadEntries that were left behind cannot be removed; it is tried again");
                    }
                });
            }
            _ = refresh.tick() => {
                for key in registrar.open.lock().keys() {
                    writing.spawn(persist(registrar.clone(), key.clone(), Write::StillThere, stop.clone()));
                }
            }
            Some(_) = writing.join_next(), if !writing.is_empty() => {}
        }
    }
    // Now all have left. What waits for the end of its grace is removed by whoever leads then.
    let mut left: Vec<Key> = std::mem::take(&mut *registrar.open.lock()).into_keys().collect();
    while let Ok(event) = events.try_recv() {
        if let Event::Left(key) = event {
            left.push(key);
        }
    }
    let leave = |key: Key| {
        let registrar = registrar.clone();
        async move {
            if let Err(error) = left_now(&registrar, &key).await {
                tracing::warn!(%error, entry = %key.1, "the entry is not marked as left; it goes later");
            }
        }
    };
    futures_util::stream::iter(left).map(leave).buffer_unordered(AT_A_TIME).for_each(|()| std::future::ready(())).await;
    while writing.join_next().await.is_some() {}
}

/// Marks an entry as left, and removes it after the grace unless its proxy is back. After `stop` nothing is tried again or waited for.
async fn farewell(registrar: Registrar, key: Key, stop: CancellationToken) {
    let mut warned = false;
    let marked = loop {
        match left_now(&registrar, &key).await {
            Ok(marked) => break marked,
            Err(error) => {
                if !std::mem::replace(&mut warned, true) {
                    tracing::warn!(%error, entry = %key.1, "the entry cannot be marked as left; it is tried again");
                }
                if stop.run_until_cancelled(sleep(AGAIN)).await.is_none() {
                    return;
                }
            }
        }
    };
    if !marked || stop.run_until_cancelled(sleep(registrar.grace)).await.is_none() {
        return;
    }
    let api = entries(&registrar.client, &key.0);
    let removed = async {
        match api.get_opt(&key.1).await? {
            Some(found) => remove_if_over(&api, &found, registrar.grace).await,
            None => Ok(()),
        }
    };
    if let Err(error) = removed.await {
        tracing::warn!(%error, entry = %key.1, "the entry is removed later");
    }
}

/// Says that the proxy left, if the entry still is of this control plane and nobody is connected again. True if it says so now.
async fn left_now(registrar: &Registrar, key: &Key) -> Result<bool, Error> {
    let api = entries(&registrar.client, &key.0);
    for _ in 0..TRIES {
        let Some(found) = api.get_opt(&key.1).await? else { return Ok(false) };
        if !is_ours(registrar, &found) || registrar.open.lock().contains_key(key) {
            return Ok(false);
        }
        let mark = json!({CONTROLLER: null, DISCONNECTED_AT: Timestamp::now().to_string()});
        match annotate(&api, &found, mark).await {
            Ok(()) => return Ok(true),
            Err(error) if was_beaten(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// True if an entry says that its proxy is connected here.
fn is_ours(registrar: &Registrar, entry: &DynamicObject) -> bool {
    let controller = entry.metadata.annotations.as_ref().and_then(|all| all.get(CONTROLLER));
    controller.is_some_and(|controller| **controller == *registrar.instance)
}

async fn remove_if_over(api: &Api<DynamicObject>, found: &DynamicObject, grace: Duration) -> Result<(), Error> {
    if !entry::is_over(&tree(found), Timestamp::now(), grace) {
        return Ok(());
    }
    let metadata = &found.metadata;
    let version = Preconditions { uid: metadata.uid.clone(), resource_version: metadata.resource_version.clone() };
    let parameters = DeleteParams { preconditions: Some(version), ..DeleteParams::default() };
    match api.delete(metadata.name.as_deref().unwrap_or_default(), &parameters).await {
        Ok(_) => Ok(()),
        // Its proxy is back.
        Err(error) if was_beaten(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes what control planes left behind that are gone.
async fn clear(registrar: &Registrar) -> Result<(), Error> {
    let kind = resource("WorkloadEntry", "workloadentries");
    let all = Api::<DynamicObject>::all_with(registrar.client.clone(), &kind);
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let list = match all.list(&page).await {
            Ok(list) => list,
            // The kind is not installed, so there is none.
            Err(Error::Api(status)) if status.code == 404 => return Ok(()),
            Err(error) => return Err(error),
        };
        for found in &list.items {
            let namespace = found.metadata.namespace.as_deref().unwrap_or_default();
            remove_if_over(&entries(&registrar.client, namespace), found, registrar.grace).await?;
        }
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(()),
        }
    }
}

/// What is written of a proxy that is connected.
#[derive(Debug, Clone, Copy)]
enum Write {
    Health,
    StillThere,
}

/// Writes the newest of it, however often others come in the way.
async fn persist(registrar: Registrar, key: Key, what: Write, stop: CancellationToken) {
    let mut warned = false;
    loop {
        let result = match what {
            Write::Health => tell_health(&registrar, &key).await,
            Write::StillThere => still_there(&registrar, &key).await,
        };
        match result {
            Ok(()) => return,
            Err(error) if was_beaten(&error) => {}
            Err(error) => {
                if !std::mem::replace(&mut warned, true) {
                    tracing::warn!(%error, entry = %key.1, ?what, "the entry cannot be written; it is tried again");
                }
            }
        }
        if stop.run_until_cancelled(sleep(AGAIN)).await.is_none() {
            return;
        }
    }
}

async fn tell_health(registrar: &Registrar, key: &Key) -> Result<(), Error> {
    let api = entries(&registrar.client, &key.0);
    let Some(found) = api.get_opt(&key.1).await? else { return Ok(()) };
    // Only now: another one may have been told meanwhile.
    let health = registrar.open.lock().get(key).and_then(|open| open.health.clone());
    let Some(health) = health else { return Ok(()) };
    let conditions = entry::conditions(found.data.get("status"), &health, &Timestamp::now().to_string());
    let patch = json!({
        "metadata": {"resourceVersion": found.metadata.resource_version},
        "status": {"conditions": conditions},
    });
    api.patch_status(&key.1, &parameters(), &Patch::Merge(patch)).await.map(drop)
}

async fn still_there(registrar: &Registrar, key: &Key) -> Result<(), Error> {
    let api = entries(&registrar.client, &key.0);
    let Some(found) = api.get_opt(&key.1).await? else { return Ok(()) };
    if !is_ours(registrar, &found) {
        return Ok(());
    }
    annotate(&api, &found, json!({CONNECTED_AT: Timestamp::now().to_string()})).await
}

//! The mesh's roots in every namespace, as ConfigMap `istio-ca-root-cert` (CA8): what a workload needs before it can ask for its certificate.
//!
//! Written by the replica that [`crate::leader`] elects. What is there is listed and what differs is written: when namespaces come, when the
//! authority is another, and every minute, in case somebody removed one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ::kube::api::{ListParams, Patch, PatchParams};
use ::kube::{Api, Client, Error};
use futures_util::StreamExt as _;
use mesh_proto::kube::ConfigMap;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::AuthorityHandle;
use crate::model::Name;

/// Name of the ConfigMap; Istio's, which injected pods mount.
pub const NAME: &str = "istio-ca-root-cert";
/// Its one entry.
pub const KEY: &str = "root-cert.pem";
/// Marks it, as Istio does.
const LABEL: (&str, &str) = ("istio.io/config", "true");
/// Namespaces in which nothing of the mesh runs.
const SYSTEM: &[&str] = &["kube-system", "kube-public", "kube-node-lease", "local-path-storage"];
/// Changes that come in this time are one round.
const GATHER: Duration = Duration::from_millis(200);
/// Between rounds that nothing asked for.
const LOOK: Duration = Duration::from_secs(60);
/// After a round in which something failed.
const AGAIN: Duration = Duration::from_secs(5);
/// Namespaces that are written at a time.
const AT_A_TIME: usize = 4;
/// Objects of a page.
const PAGE: u32 = 500;
/// Who wrote it, in the managed fields.
const MANAGER: &str = "ferromesh-roots";

/// Keeps the roots of all `namespaces` while this replica leads, until `stop`.
pub async fn run(
    client: Client,
    authority: AuthorityHandle,
    namespaces: watch::Receiver<Arc<Vec<Name>>>,
    leads: watch::Receiver<bool>,
    stop: CancellationToken,
) {
    stop.run_until_cancelled(keep(client, authority, namespaces, leads)).await;
}

async fn keep(
    client: Client,
    authority: AuthorityHandle,
    mut namespaces: watch::Receiver<Arc<Vec<Name>>>,
    mut leads: watch::Receiver<bool>,
) {
    let mut rotated = authority.subscribe();
    loop {
        if leads.wait_for(|leads| *leads).await.is_err() {
            return;
        }
        let wanted = namespaces.borrow_and_update().clone();
        let roots = authority.load().root_pem();
        let result = round(&client, &wanted, &roots).await;
        if let Err(error) = &result {
            tracing::warn!(
                error = words(error),
                "the mesh's roots cannot be written to a namespace; it is tried again"
            );
        }
        tokio::select! {
            changed = namespaces.changed() => if changed.is_err() { return },
            changed = rotated.changed() => if changed.is_err() { return },
            changed = leads.changed() => if changed.is_err() { return },
            () = sleep(if result.is_ok() { LOOK } else { AGAIN }) => {}
        }
        sleep(GATHER).await;
    }
}

/// Lists what is there and writes what differs. The first error is returned, after all that can be written is.
async fn round(client: &Client, namespaces: &[Name], roots: &str) -> Result<(), Error> {
    let there = list(client).await?;
    let due = namespaces.iter().filter(|name| {
        let says = there.get(&***name).map(String::as_str);
        !SYSTEM.contains(&&***name) && says != Some(roots)
    });
    let due: Vec<Name> = due.cloned().collect();
    let one = |namespace: Name| async move { write(client, &namespace, roots).await };
    let results = futures_util::stream::iter(due).map(one).buffer_unordered(AT_A_TIME);
    results.fold(Ok(()), |first, result| async move { first.and(result) }).await
}

/// What the ConfigMaps say, by namespace.
async fn list(client: &Client) -> Result<BTreeMap<String, String>, Error> {
    let api = Api::<ConfigMap>::all(client.clone());
    let mut page = ListParams::default().fields(&format!("metadata.name={NAME}")).limit(PAGE);
    let mut all = BTreeMap::new();
    loop {
        let list = api.list(&page).await?;
        all.extend(list.items.into_iter().filter_map(|map| Some((map.metadata.namespace?, map.data?.remove(KEY)?))));
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(all),
        }
    }
}

async fn write(client: &Client, namespace: &str, roots: &str) -> Result<(), Error> {
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": NAME, "namespace": namespace, "labels": {LABEL.0: LABEL.1}},
        "data": {KEY: roots},
    });
    // Another mesh may have written it before.
    let parameters = PatchParams::apply(MANAGER).force();
    match Api::<ConfigMap>::namespaced(client.clone(), namespace).patch(NAME, &parameters, &Patch::Apply(map)).await {
        Ok(_) => Ok(()),
        // The namespace is going, or gone.
        Err(Error::Api(status))
            if status.code == 404 || status.reason == "Forbidden" && status.message.contains("being terminated") =>
        {
            Ok(())
        }
        Err(error) => Err(error),
    }
}

fn words(error: &Error) -> String {
    match error {
        Error::Api(status) if status.is_forbidden() => {
            format!("{}; give the control plane's user the verbs create, list and patch on configmaps", status.message)
        }
        other => other.to_string(),
    }
}

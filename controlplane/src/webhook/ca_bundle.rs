//! Tells the API server whom it may trust as a webhook: our roots go into `caBundle` of every webhook configuration of our revision.
//!
//! Configurations of other revisions, and of other programs, are left alone. Whatever goes wrong is tried again.

use std::time::Duration;

use json_patch::Patch as JsonPatch;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration, WebhookClientConfig,
};
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::{Client, Resource, ResourceExt};
use mesh_proto::names::label;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::ca::AuthorityHandle;

/// Between two looks. A configuration that is new has no roots until then, and the API server calls it in vain.
const LOOK: Duration = Duration::from_secs(2);

/// A configuration of webhooks, of either kind.
pub trait Configuration: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned {
    /// Names and clients of its webhooks.
    fn clients(&self) -> Vec<(&str, &WebhookClientConfig)>;
}

impl Configuration for MutatingWebhookConfiguration {
    fn clients(&self) -> Vec<(&str, &WebhookClientConfig)> {
        self.webhooks.iter().flatten().map(|webhook| (webhook.name.as_str(), &webhook.client_config)).collect()
    }
}

impl Configuration for ValidatingWebhookConfiguration {
    fn clients(&self) -> Vec<(&str, &WebhookClientConfig)> {
        self.webhooks.iter().flatten().map(|webhook| (webhook.name.as_str(), &webhook.client_config)).collect()
    }
}

/// Keeps the configurations of `revision` right until `stop`.
pub async fn run(client: Client, authority: AuthorityHandle, revision: String, stop: CancellationToken) {
    let mut changed = authority.subscribe();
    let mut failed = String::new();
    loop {
        let roots = ByteString(authority.load().root_pem().into_bytes());
        let mutating = tell::<MutatingWebhookConfiguration>(&client, &revision, &roots).await;
        let validating = tell::<ValidatingWebhookConfiguration>(&client, &revision, &roots).await;
        match mutating.and(validating) {
            Ok(()) => failed.clear(),
            Err(error) => {
                // Once for each reason, not every two seconds.
                let error = error.to_string();
                if error != failed {
                    tracing::warn!(
                        error,
                        "the roots could not be written into the webhooks' configurations; it is tried again"
                    );
                    failed = error;
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
            changed = changed.changed() => if changed.is_err() { return },
        }
    }
}

async fn tell<C: Configuration>(client: &Client, revision: &str, roots: &ByteString) -> kube::Result<()> {
    let api = Api::<C>::all(client.clone());
    let ours = ListParams::default().labels(&format!("{}={revision}", label::REVISION));
    for configuration in api.list(&ours).await? {
        let Some(patch) = patch(&configuration, roots) else { continue };
        let name = configuration.name_any();
        api.patch(&name, &PatchParams::default(), &Patch::Json::<()>(patch)).await?;
        tracing::info!(name, kind = %C::kind(&()), "the API server knows the roots of this webhook");
    }
    Ok(())
}

/// The steps that put the roots in; `None` if they are there. A list that changed meanwhile makes the patch fail, not hit another webhook.
fn patch<C: Configuration>(configuration: &C, roots: &ByteString) -> Option<JsonPatch> {
    let mut steps = Vec::new();
    for (index, (name, client)) in configuration.clients().into_iter().enumerate() {
        if client.ca_bundle.as_ref() != Some(roots) {
            steps.push(json!({"op": "test", "path": format!("/webhooks/{index}/name"), "value": name}));
            steps
                .push(json!({"op": "add", "path": format!("/webhooks/{index}/clientConfig/caBundle"), "value": roots}));
        }
    }
    if steps.is_empty() { None } else { serde_json::from_value(steps.into()).ok() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_what_lacks_the_roots_is_changed() {
        let configuration: MutatingWebhookConfiguration = yaml_serde::from_str(
            "{apiVersion: admissionregistration.k8s.io/v1, kind: MutatingWebhookConfiguration, metadata: {name: a}, webhooks: [
               {name: a.x, admissionReviewVersions: [v1], sideEffects: None, clientConfig: {url: 'https://a', caBundle: Um9vdHM=}},
               {name: b.x, admissionReviewVersions: [v1], sideEffects: None, clientConfig: {url: 'https://a'}}]}",
        )
        .unwrap();
        let steps = |roots: &str| {
            let patch = patch(&configuration, &ByteString(roots.as_bytes().to_vec()));
            serde_json::to_value(patch.map(|patch| patch.0).unwrap_or_default()).unwrap()
        };
        assert_eq!(
            steps("Roots"),
            json!([
                {"op": "test", "path": "/webhooks/1/name", "value": "b.x"},
                {"op": "add", "path": "/webhooks/1/clientConfig/caBundle", "value": "Um9vdHM="},
            ])
        );
        assert_eq!(steps("Others").as_array().unwrap().len(), 4);
    }
}

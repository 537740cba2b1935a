//! Waiting for what was applied: definitions established, workloads ready, webhooks that can be trusted. Each wait says what it waits for.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DynamicObject, ListParams};
use serde_json::Value;

use super::object::Id;
use super::progress::Progress;
use crate::cluster::Cluster;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(500);

/// Waits until all are ready. The error says of the first that is not, why.
pub async fn ready(cluster: &Cluster, ids: &[Id], deadline: Instant, progress: &Progress) -> Result<()> {
    for id in ids {
        loop {
            let object = cluster.get(id).await?;
            let Some(reason) = object.as_ref().map_or_else(|| Some("does not exist any more".to_owned()), missing)
            else {
                break;
            };
            progress.now(format!("{id}: {reason}"));
            if Instant::now() >= deadline {
                let pods = match &object {
                    Some(object) => troubles(cluster, id, object).await?,
                    None => String::new(),
                };
                bail!(
                    "{id} is not ready in time: {reason}{pods}; what was applied stays, and running the same command again goes \
                     on from there (--readiness-timeout waits longer)"
                );
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
    Ok(())
}

/// What an object lacks to be ready; `None` if nothing.
pub fn missing(object: &DynamicObject) -> Option<String> {
    let kind = object.types.as_ref().map_or("", |types| types.kind.as_str());
    match kind {
        "CustomResourceDefinition" => {
            let conditions = object.data.pointer("/status/conditions").and_then(Value::as_array);
            let established = conditions
                .is_some_and(|all| all.iter().any(|one| one["type"] == "Established" && one["status"] == "True"));
            (!established).then(|| "is not established".to_owned())
        }
        "Deployment" => rollout(object, "/spec/replicas", "updatedReplicas", "availableReplicas", "replicas"),
        "DaemonSet" => rollout(
            object,
            "/status/desiredNumberScheduled",
            "updatedNumberScheduled",
            "numberAvailable",
            "currentNumberScheduled",
        ),
        "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration" => {
            let webhooks = object.data.get("webhooks").and_then(Value::as_array);
            let bundled = |webhook: &Value| {
                webhook.pointer("/clientConfig/caBundle").and_then(Value::as_str).is_some_and(|text| !text.is_empty())
            };
            let waits = webhooks.is_some_and(|all| !all.iter().all(bundled));
            waits.then(|| "has no CA bundle of the control plane yet".to_owned())
        }
        _ => None,
    }
}

fn rollout(object: &DynamicObject, wanted: &str, updated: &str, available: &str, all: &str) -> Option<String> {
    let number = |path: &str| object.data.pointer(path).and_then(Value::as_i64);
    let status = |field: &str| number(&format!("/status/{field}")).unwrap_or(0);
    if number("/status/observedGeneration") < object.metadata.generation {
        return Some("its change has not been seen by the cluster yet".to_owned());
    }
    let wanted = number(wanted).unwrap_or(1);
    let (updated, available, all) = (status(updated), status(available), status(all));
    if updated < wanted {
        return Some(format!("{updated} of {wanted} pods are of the new version"));
    }
    if available < wanted {
        return Some(format!("{available} of {wanted} pods are ready"));
    }
    (all > wanted).then(|| format!("{} old pods are still there", all - wanted))
}

/// What the pods of a workload say of themselves.
pub async fn troubles(cluster: &Cluster, id: &Id, object: &DynamicObject) -> Result<String> {
    let Some(namespace) = &id.namespace else { return Ok(String::new()) };
    let labels = object.data.pointer("/spec/selector/matchLabels").and_then(Value::as_object);
    let Some(labels) = labels else { return Ok(String::new()) };
    let selector: Vec<String> =
        labels.iter().map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default())).collect();
    let api: Api<Pod> = Api::namespaced(cluster.client.clone(), namespace);
    let pods = api.list(&ListParams::default().labels(&selector.join(","))).await;
    let pods = pods.map_err(|error| cluster.explain("list", &format!("the pods of {id}"), error))?;
    let lines: Vec<String> = pods.items.iter().filter_map(trouble).collect();
    Ok(if lines.is_empty() { String::new() } else { format!(" ({})", lines.join("; ")) })
}

/// Why a pod is not ready; `None` if it is.
pub fn trouble(pod: &Pod) -> Option<String> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let status = pod.status.as_ref()?;
    let conditions = status.conditions.as_deref().unwrap_or_default();
    if conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True") {
        return None;
    }
    let containers = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    let waiting = containers.filter_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        let reason = waiting.reason.as_deref()?;
        let message = waiting.message.as_deref().map_or(String::new(), |message| format!(" ({message})"));
        Some(format!("container {}: {reason}{message}", container.name))
    });
    let unscheduled =
        conditions.iter().filter(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
    let unscheduled = unscheduled.filter_map(|condition| condition.message.clone());
    let reasons: Vec<String> = waiting.chain(unscheduled).collect();
    let phase = status.phase.as_deref().unwrap_or("Unknown");
    Some(format!("pod {name}: {}", if reasons.is_empty() { phase.to_owned() } else { reasons.join(", ") }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_missing_is_said() {
        for (object, reason) in [
            (json!({"kind": "CustomResourceDefinition", "metadata": {}}), Some("is not established")),
            (
                json!({"kind": "CustomResourceDefinition", "metadata": {}, "status": {"conditions": [{"type": "Established", "status": "True"}]}}),
                None,
            ),
            (
                json!({"kind": "Deployment", "metadata": {"generation": 2}, "status": {"observedGeneration": 1}}),
                Some("not been seen"),
            ),
            (
                json!({"kind": "Deployment", "metadata": {"generation": 1}, "spec": {"replicas": 2},
                    "status": {"observedGeneration": 1, "updatedReplicas": 2, "availableReplicas": 1, "replicas": 2}}),
                Some("1 of 2 pods are ready"),
            ),
            (
                json!({"kind": "Deployment", "metadata": {"generation": 1}, "spec": {"replicas": 2},
                    "status": {"observedGeneration": 1, "updatedReplicas": 2, "availableReplicas": 2, "replicas": 3}}),
                Some("1 old pods"),
            ),
            (
                json!({"kind": "MutatingWebhookConfiguration", "metadata": {}, "webhooks": [{"clientConfig": {}}]}),
                Some("no CA bundle"),
            ),
            (
                json!({"kind": "MutatingWebhookConfiguration", "metadata": {}, "webhooks": [{"clientConfig": {"caBundle": "x"}}]}),
                None,
            ),
            (json!({"kind": "Service", "metadata": {}}), None),
        ] {
            let mut object = object;
            object["apiVersion"] = "v1".into();
            let object: DynamicObject = serde_json::from_value(object).unwrap();
            let found = missing(&object);
            assert_eq!(found.is_some(), reason.is_some(), "{found:?}");
            assert!(found.unwrap_or_default().contains(reason.unwrap_or_default()), "{object:?}");
        }
    }

    #[test]
    fn a_pod_says_what_keeps_it() {
        let pod: Pod = serde_json::from_value(
            json!({"metadata": {"name": "a"}, "status": {"phase": "Pending", "containerStatuses": [
            {"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
             "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}]}}),
        )
        .unwrap();
        assert_eq!(trouble(&pod).unwrap(), "pod a: container c: ImagePullBackOff (no such image)");
    }
}

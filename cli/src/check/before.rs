//! Whether a mesh can be installed: version, rights, and what is there already.

use anyhow::Result;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::api::{Api, ListParams};
use serde_json::Value;

use super::{Finding, definitions};
use crate::cluster::Cluster;
use crate::install::apply;
use crate::install::manifest::{MANAGER, Manifest};
use crate::install::permissions;
use crate::install::values::Wishes;

/// Looks at everything.
pub async fn look(cluster: &Cluster, namespace: &str) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    findings.push(match apply::version(cluster).await {
        Ok(version) => Finding::ok("Kubernetes", version),
        Err(error) => Finding::error("Kubernetes", format!("{error:#}")),
    });
    let installation = Wishes::default().installation(&Value::Null, namespace)?;
    let manifest = Manifest::new(&installation, &installation.revision)?;
    let needed = permissions::needed(&manifest.ids(), apply::VERBS, namespace);
    let lacking = permissions::lacking(cluster, &needed).await?;
    if lacking.is_empty() {
        findings
            .push(Finding::ok("rights", format!("you may do all {} things that an installation does", needed.len())));
    }
    for line in permissions::lines(&lacking) {
        findings.push(Finding::error("rights", format!("you may not {line}; ask whoever administers the cluster")));
    }
    let found = apply::look(cluster, &manifest).await?;
    findings.push(match apply::foreign(&manifest, &found) {
        Ok(()) => Finding::ok("names", format!("nothing in the way of an installation into namespace {namespace}")),
        Err(error) => Finding::error("names", format!("{error:#}")),
    });
    findings.extend(definitions::judge(&definitions::all(cluster).await?, false));
    findings.extend(injectors(cluster).await?);
    Ok(findings)
}

/// Other meshes that would inject the same namespaces.
async fn injectors(cluster: &Cluster) -> Result<Vec<Finding>> {
    let api: Api<MutatingWebhookConfiguration> = Api::all(cluster.client.clone());
    let list = api.list(&ListParams::default()).await;
    let list = list.map_err(|error| cluster.explain("list", "MutatingWebhookConfigurations", error))?;
    Ok(list.items.iter().filter_map(rival).collect())
}

/// A webhook that is not ours and is called for namespaces labelled `istio-injection=enabled`.
fn rival(configuration: &MutatingWebhookConfiguration) -> Option<Finding> {
    let labels = configuration.metadata.labels.as_ref();
    if labels.and_then(|labels| labels.get("app.kubernetes.io/managed-by")).is_some_and(|manager| manager == MANAGER) {
        return None;
    }
    let selectors = configuration.webhooks.iter().flatten().filter_map(|webhook| webhook.namespace_selector.as_ref());
    let mut expressions = selectors.flat_map(|selector| selector.match_expressions.iter().flatten());
    let asks = expressions.any(|one| {
        one.key == "istio-injection"
            && one.operator == "In"
            && one.values.iter().flatten().any(|value| value == "enabled")
    });
    let name = configuration.metadata.name.as_deref().unwrap_or_default();
    asks.then(|| {
        Finding::warning(
            format!("MutatingWebhookConfiguration {name}"),
            "another mesh injects namespaces labelled istio-injection=enabled, too: install with --revision NAME and label \
             namespaces istio.io/rev=NAME, or remove the other one",
        )
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn another_mesh_is_found_by_whom_it_injects() {
        for (manager, operator, found) in
            [("Helm", "In", true), ("meshctl", "In", false), ("Helm", "DoesNotExist", false)]
        {
            let configuration = json!({"metadata": {"name": "a", "labels": {"app.kubernetes.io/managed-by": manager}}, "webhooks": [
                {"name": "w", "sideEffects": "None", "admissionReviewVersions": ["v1"], "clientConfig": {},
                 "namespaceSelector": {"matchExpressions": [{"key": "istio-injection", "operator": operator, "values": ["enabled"]}]}}]});
            assert_eq!(rival(&serde_json::from_value(configuration).unwrap()).is_some(), found, "{manager} {operator}");
        }
    }
}

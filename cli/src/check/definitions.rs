//! Whether the custom resource definitions of a cluster serve what the mesh reads.

use anyhow::Result;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ListParams};
use mesh_proto::crd::KINDS;

use super::Finding;
use crate::cluster::Cluster;

/// All definitions of a cluster.
pub async fn all(cluster: &Cluster) -> Result<Vec<CustomResourceDefinition>> {
    let api: Api<CustomResourceDefinition> = Api::all(cluster.client.clone());
    let list = api.list(&ListParams::default()).await;
    Ok(list.map_err(|error| cluster.explain("list", "CustomResourceDefinitions", error))?.items)
}

/// Judges them. Before an installation a missing one is no fault, since it will be there.
pub fn judge(found: &[CustomResourceDefinition], installed: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    for kind in KINDS {
        let name = format!("{}.{}", kind.plural, kind.group);
        let subject = format!("CustomResourceDefinition {name}");
        let Some(definition) = found.iter().find(|found| found.metadata.name.as_deref() == Some(&name)) else {
            if installed {
                findings.push(Finding::error(subject, "is missing: run `meshctl upgrade`"));
            }
            continue;
        };
        let serves = |version: &str| definition.spec.versions.iter().any(|found| found.name == version && found.served);
        let missing: Vec<&str> = kind.versions.iter().copied().filter(|version| !serves(version)).collect();
        if !missing.is_empty() {
            let message = format!("does not serve {}", missing.join(", "));
            findings.push(match installed {
                true => Finding::error(subject, format!("{message}: run `meshctl upgrade`")),
                false => Finding::warning(subject, format!("{message}; the installation adds them")),
            });
            continue;
        }
        let conditions = definition.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        if installed && !conditions.iter().any(|one| one.type_ == "Established" && one.status == "True") {
            let why = conditions.iter().find(|one| one.status == "False").and_then(|one| one.message.as_deref());
            findings.push(Finding::error(subject, format!("is not established: {}", why.unwrap_or("no reason given"))));
        }
    }
    if findings.is_empty() && installed {
        findings.push(Finding::ok("custom resources", format!("{} definitions serve all versions", KINDS.len())));
    }
    findings
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::super::Weight;
    use super::*;

    fn definitions(drop: &str) -> Vec<CustomResourceDefinition> {
        let one = |kind: &mesh_proto::crd::KindInfo| {
            let name = format!("{}.{}", kind.plural, kind.group);
            let versions: Vec<_> = kind
                .versions
                .iter()
                .filter(|&&version| !(name.starts_with("virtualservices") && version == drop))
                .map(|version| json!({"name": version, "served": true, "storage": false}))
                .collect();
            let body = json!({"metadata": {"name": name}, "spec": {"group": kind.group, "scope": "Namespaced", "versions": versions,
                "names": {"kind": kind.kind, "plural": kind.plural}},
                "status": {"conditions": [{"type": "Established", "status": "True"}]}});
            serde_json::from_value(body).unwrap()
        };
        KINDS.iter().map(one).collect()
    }

    #[test]
    fn versions_that_are_not_served_are_found() {
        for (found, installed, weight, message) in [
            (definitions(""), true, Some(Weight::Ok), "serve all versions"),
            (definitions(""), false, None, ""),
            (definitions("v1"), true, Some(Weight::Error), "does not serve v1: run `meshctl upgrade`"),
            (definitions("v1"), false, Some(Weight::Warning), "the installation adds them"),
            (Vec::new(), true, Some(Weight::Error), "is missing"),
            (Vec::new(), false, None, ""),
        ] {
            let findings = judge(&found, installed);
            assert_eq!(findings.first().map(|finding| finding.weight), weight);
            assert!(findings.first().is_none_or(|finding| finding.message.contains(message)), "{findings:?}");
        }
    }
}

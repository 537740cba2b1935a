//! Whether an installed mesh is well: its objects, pods, webhooks, certificates and definitions.

use std::collections::BTreeSet;

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::try_join_all;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DynamicObject, ListParams};
use serde_json::Value;

use super::{Finding, certificates, definitions};
use crate::cluster::Cluster;
use crate::install::inventory::Inventory;
use crate::install::object::{Id, Stage};
use crate::install::uninstall::tags;
use crate::install::wait;

/// Looks at everything that the inventories name, and at what belongs to it.
pub async fn look(cluster: &Cluster, inventories: &[Inventory]) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let mut ids: Vec<Id> = tags(cluster).await?.into_iter().map(|tag| tag.id).collect();
    for inventory in inventories {
        findings.push(version(inventory));
        ids.extend(
            inventory
                .objects
                .iter()
                .filter(|id| id.kind().is_some_and(|kind| kind.stage != Stage::Definitions))
                .cloned(),
        );
    }
    let ids: BTreeSet<Id> = ids.into_iter().collect();
    let objects = try_join_all(ids.iter().map(|id| async move { anyhow::Ok((id, cluster.get(id).await?)) })).await?;
    let mut there = 0;
    for (id, object) in objects {
        let Some(object) = object else {
            findings.push(Finding::error(id, "is missing: run `meshctl upgrade`, which brings it back"));
            continue;
        };
        there += 1;
        match id.kind().map(|kind| kind.stage) {
            Some(Stage::Workloads) if id.kind != "HorizontalPodAutoscaler" => {
                findings.push(workload(cluster, id, &object).await?);
            }
            Some(Stage::Webhooks) => findings.extend(webhooks(cluster, id, &object).await?),
            _ => {}
        }
    }
    findings.push(Finding::ok("objects", format!("{there} of {} are there", ids.len())));
    findings.extend(definitions::judge(&definitions::all(cluster).await?, true));
    for namespace in ids.iter().filter_map(|id| id.namespace.as_deref()).collect::<BTreeSet<_>>() {
        findings.extend(secrets(cluster, namespace).await?);
    }
    Ok(findings)
}

fn version(inventory: &Inventory) -> Finding {
    let subject = format!("revision {}", inventory.revision);
    let own = env!("CARGO_PKG_VERSION");
    if inventory.version == own {
        return Finding::ok(subject, format!("installed by version {own}"));
    }
    Finding::warning(
        subject,
        format!(
            "installed by version {}, and this is version {own}: `meshctl upgrade` brings it here",
            inventory.version
        ),
    )
}

async fn workload(cluster: &Cluster, id: &Id, object: &DynamicObject) -> Result<Finding> {
    let Some(reason) = wait::missing(object) else { return Ok(Finding::ok(id, "all pods are ready")) };
    let pods = wait::troubles(cluster, id, object).await?;
    Ok(Finding::error(id, format!("{reason}{pods}; `kubectl describe` and the logs of its pods tell more")))
}

/// Whether the API server can call a webhook: somebody answers, by a certificate that it trusts.
async fn webhooks(cluster: &Cluster, id: &Id, object: &DynamicObject) -> Result<Vec<Finding>> {
    if let Some(reason) = wait::missing(object) {
        let message = format!(
            "{reason}, so that the API server cannot call it; the control plane writes it when it runs and may"
        );
        return Ok(vec![Finding::error(id, message)]);
    }
    let mut findings = Vec::new();
    let all = object.data.get("webhooks").and_then(Value::as_array).into_iter().flatten();
    let bundles: BTreeSet<&str> =
        all.clone().filter_map(|webhook| webhook.pointer("/clientConfig/caBundle")?.as_str()).collect();
    for bundle in bundles {
        findings.push(match STANDARD.decode(bundle) {
            Ok(pem) => certificates::judge(&format!("{id}: CA bundle"), &pem, Timestamp::now()),
            Err(_) => Finding::error(
                id,
                "its CA bundle is no base64; the control plane writes a good one when it is taken out",
            ),
        });
    }
    let services: BTreeSet<(&str, &str)> = all
        .filter_map(|webhook| {
            let service = webhook.pointer("/clientConfig/service")?;
            Some((service["namespace"].as_str()?, service["name"].as_str()?))
        })
        .collect();
    for (namespace, service) in services {
        let api: Api<EndpointSlice> = Api::namespaced(cluster.client.clone(), namespace);
        let list = api.list(&ListParams::default().labels(&format!("kubernetes.io/service-name={service}"))).await;
        let list = list.map_err(|error| cluster.explain("list", &format!("EndpointSlices of {namespace}"), error))?;
        let ready = list.items.iter().flat_map(|slice| slice.endpoints.iter().flatten());
        let ready = ready
            .filter(|one| one.conditions.as_ref().is_none_or(|conditions| conditions.ready != Some(false)))
            .count();
        findings.push(match ready {
            0 => Finding::error(
                id,
                format!("service {namespace}/{service} has no ready endpoint, so what it must judge is refused; see its pods"),
            ),
            ready => Finding::ok(id, format!("{ready} replicas of service {namespace}/{service} answer")),
        });
    }
    Ok(findings)
}

/// Certificates that lie in a namespace: the authority's, the roots that workloads are given, and the gateways'.
async fn secrets(cluster: &Cluster, namespace: &str) -> Result<Vec<Finding>> {
    let now = Timestamp::now();
    let mut findings = Vec::new();
    let api: Api<Secret> = Api::namespaced(cluster.client.clone(), namespace);
    let list = match api.list(&ListParams::default()).await {
        Ok(list) => list.items,
        Err(error) => {
            let error = cluster.explain("list", &format!("Secrets of {namespace}"), error);
            return Ok(vec![Finding::warning("certificates", format!("cannot be looked at: {error:#}"))]);
        }
    };
    for secret in list {
        let name = secret.metadata.name.unwrap_or_default();
        let fields: &[&str] = match (name.as_str(), secret.type_.as_deref()) {
            ("cacerts" | "istio-ca-secret", _) => &["ca-cert.pem", "root-cert.pem"],
            (_, Some("kubernetes.io/tls")) => &["tls.crt"],
            _ => continue,
        };
        for field in fields {
            if let Some(ByteString(pem)) = secret.data.as_ref().and_then(|data| data.get(*field)) {
                findings.push(certificates::judge(&format!("Secret {namespace}/{name}: {field}"), pem, now));
            }
        }
    }
    let api: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), namespace);
    let roots = api.get_opt("istio-ca-root-cert").await;
    let roots =
        roots.map_err(|error| cluster.explain("get", &format!("ConfigMap {namespace}/istio-ca-root-cert"), error))?;
    if let Some(pem) = roots.and_then(|roots| roots.data?.remove("root-cert.pem")) {
        let subject = format!("ConfigMap {namespace}/istio-ca-root-cert");
        findings.push(certificates::judge(&subject, pem.as_bytes(), now));
    }
    Ok(findings)
}

//! What a cluster has, as its API server writes it: the objects that say how the mesh is to be, and the workloads that it is made of.
//!
//! Read once, for [`mesh_controlplane::source::Live`] to judge: by `analyze`, `describe` and `bug-report`.

use std::collections::BTreeMap;

use anyhow::Result;
use futures_util::future::try_join_all;
use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use mesh_controlplane::validate::MESH_CONFIG_NAME;
use mesh_proto::crd::KINDS;
use mesh_proto::names::ROOT_NAMESPACE;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::cluster::{Cluster, id};

/// Objects that the API server sends at a time.
const PAGE: u32 = 500;

/// A kind of Kubernetes' own.
pub fn core(group: &str, kind: &str, plural: &str) -> ApiResource {
    let api_version = if group.is_empty() { "v1".to_owned() } else { format!("{group}/v1") };
    ApiResource {
        group: group.to_owned(),
        version: "v1".to_owned(),
        api_version,
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    }
}

/// The custom resources of Istio's that the cluster serves, each in its newest version.
pub async fn custom_resources(cluster: &Cluster) -> Result<Vec<ApiResource>> {
    let failed = |error| cluster.explain("discover", "the API server's groups", error);
    let groups = cluster.client.list_api_groups().await.map_err(failed)?.groups;
    let mut served: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for group in groups.iter().filter(|group| KINDS.iter().any(|info| info.group == group.name)) {
        for version in &group.versions {
            let of = cluster.client.list_api_group_resources(&version.group_version).await.map_err(failed)?;
            let plurals = of.resources.into_iter().map(|one| one.name).collect();
            served.insert(version.group_version.clone(), plurals);
        }
    }
    let newest = KINDS.iter().filter_map(|info| {
        let is_served = |version: &&&str| {
            let plurals = served.get(&format!("{}/{version}", info.group));
            plurals.is_some_and(|plurals| plurals.iter().any(|plural| plural == info.plural))
        };
        let version = info.versions.iter().find(is_served)?;
        Some(ApiResource {
            group: info.group.to_owned(),
            version: (*version).to_owned(),
            api_version: format!("{}/{version}", info.group),
            kind: info.kind.to_owned(),
            plural: info.plural.to_owned(),
        })
    });
    Ok(newest.collect())
}

/// All objects of a kind, of a namespace or of all, without what servers note of their writers.
pub async fn list(cluster: &Cluster, resource: &ApiResource, namespace: Option<&str>) -> Result<Vec<Value>> {
    let api: Api<DynamicObject> = match namespace {
        Some(namespace) => Api::namespaced_with(cluster.client.clone(), namespace, resource),
        None => Api::all_with(cluster.client.clone(), resource),
    };
    let what = || format!("{} of {}", resource.plural, namespace.unwrap_or("all namespaces"));
    let mut found = Vec::new();
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let list = api.list(&page).await.map_err(|error| cluster.explain("list", &what(), error))?;
        for mut object in list.items {
            object.metadata.managed_fields = None;
            let mut tree = serde_json::to_value(object)?;
            // Items of a list do not say what they are.
            tree["apiVersion"] = resource.api_version.clone().into();
            tree["kind"] = resource.kind.clone().into();
            found.push(tree);
        }
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(found),
        }
    }
}

/// The objects of a kind in the API's own types. One that they cannot read is left out; the mesh's own reader says why.
pub fn typed<T: DeserializeOwned>(trees: &[Value], kind: &str) -> Vec<T> {
    let of_kind = trees.iter().filter(|tree| tree["kind"] == kind);
    of_kind.filter_map(|tree| serde_json::from_value(tree.clone()).ok()).collect()
}

/// Everything that configures the mesh, in all namespaces: Istio's objects, Services, Namespaces, and the settings of a revision's control
/// plane in `root`; and `more`.
pub async fn configuration(
    cluster: &Cluster,
    root: &str,
    revision: Option<&str>,
    more: &[ApiResource],
) -> Result<Vec<Value>> {
    let mut kinds = custom_resources(cluster).await?;
    kinds.extend([core("", "Service", "services"), core("", "Namespace", "namespaces")]);
    kinds.extend_from_slice(more);
    let lists = try_join_all(kinds.iter().map(|kind| list(cluster, kind, None))).await?;
    let mut trees: Vec<Value> = lists.into_iter().flatten().collect();
    trees.extend(mesh_config(cluster, root, revision).await?);
    Ok(trees)
}

/// The ConfigMap of the mesh's settings, under the name by which the model knows it whatever the revision.
async fn mesh_config(cluster: &Cluster, root: &str, revision: Option<&str>) -> Result<Option<Value>> {
    let name = match revision {
        None | Some("default") => MESH_CONFIG_NAME.to_owned(),
        Some(revision) => format!("{MESH_CONFIG_NAME}-{revision}"),
    };
    let Some(mut map) = cluster.get(&id("v1", "ConfigMap", Some(root), &name)).await? else { return Ok(None) };
    map.metadata.managed_fields = None;
    map.metadata.name = Some(MESH_CONFIG_NAME.to_owned());
    map.metadata.namespace = Some(ROOT_NAMESPACE.to_owned());
    Ok(Some(serde_json::to_value(map)?))
}

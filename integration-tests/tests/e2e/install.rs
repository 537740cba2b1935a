//! `meshctl check` and `meshctl install`.

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::cluster::{Cluster, SYSTEM};

pub async fn a_cluster_without_a_mesh_passes_the_check(cluster: &Cluster) -> Result<()> {
    cluster.meshctl(&["check"]).map(drop)
}

pub async fn the_mesh_comes_up_and_a_second_install_changes_nothing(cluster: &Cluster) -> Result<()> {
    install(cluster, &[])?;
    for deployment in ["istiod", "istio-ingressgateway", "istio-egressgateway"] {
        cluster.rolled_out(SYSTEM, deployment)?;
    }
    let before = generations(cluster)?;
    install(cluster, &[])?;
    let after = generations(cluster)?;
    ensure!(before == after, "a second install changed Deployments: {before:?}, then {after:?}");
    cluster.meshctl(&["check"]).map(drop)
}

/// Installs with the images of this run.
pub fn install(cluster: &Cluster, more: &[&str]) -> Result<()> {
    let hub = format!("global.hub={}", cluster.hub);
    let tag = format!("global.tag={}", cluster.tag);
    let images = ["install", "-y", "--set", "profile=demo", "--set", &hub, "--set", &tag];
    cluster.meshctl(&[&images[..], more].concat()).map(drop)
}

fn generations(cluster: &Cluster) -> Result<Vec<(Value, Value)>> {
    let deployments = cluster.items(&["deployments", "-n", SYSTEM])?;
    let of =
        |deployment: &Value| (deployment["metadata"]["name"].clone(), deployment["metadata"]["generation"].clone());
    Ok(deployments.iter().map(of).collect())
}

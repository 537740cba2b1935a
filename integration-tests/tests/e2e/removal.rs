//! `meshctl uninstall --purge`.

use anyhow::{Result, ensure};
use integration_tests::eventually;

use crate::cluster::{APPS, Cluster, PATIENCE, SYSTEM};

/// What belongs to no namespace.
const KINDS: [&str; 5] =
    ["crd", "mutatingwebhookconfiguration", "validatingwebhookconfiguration", "clusterrole", "clusterrolebinding"];

pub async fn nothing_is_left(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&["delete", "namespace", "outside", "--ignore-not-found"])?;
    cluster.kubectl(&[
        "delete",
        "--ignore-not-found",
        "-f",
        "deploy/samples/kubernetes",
        "-f",
        "deploy/samples/bookinfo/services.yaml",
    ])?;
    cluster.kubectl(&["label", "namespace", APPS, "istio-injection-", "istio.io/rev-"])?;
    cluster.meshctl(&["uninstall", "-y", "--purge"])?;
    eventually(PATIENCE, async || {
        for kind in KINDS {
            let objects = cluster.items(&[kind])?;
            let names = objects.iter().filter_map(|object| object["metadata"]["name"].as_str());
            let left: Vec<&str> = names.filter(|name| name.contains("istio") || name.contains("ferromesh")).collect();
            ensure!(left.is_empty(), "{kind}: {left:?} is left");
        }
        Ok(())
    })
    .await?;
    eventually(PATIENCE, async || {
        let left = cluster.items(&["deployments,services,pods,serviceaccounts,configmaps,secrets", "-n", SYSTEM])?;
        let names: Vec<&str> = left.iter().filter_map(|object| object["metadata"]["name"].as_str()).collect();
        let ours: Vec<&&str> = names.iter().filter(|name| !["default", "kube-root-ca.crt"].contains(name)).collect();
        ensure!(ours.is_empty(), "{ours:?} is left in {SYSTEM}");
        Ok(())
    })
    .await
}

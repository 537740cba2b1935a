//! What happens under a mesh while its users go on: pods that end, move and are replaced, nodes and control planes too.

use anyhow::{Context, Result, ensure};
use integration_tests::eventually;
use integration_tests::load::Load;
use serde_json::Value;

use crate::cluster::{APPS, Cluster, PATIENCE, SYSTEM};
use crate::install;
use crate::traffic::PAGE;

const JOB: &str = "
apiVersion: batch/v1
kind: Job
metadata: {name: once, namespace: default}
spec:
  backoffLimit: 0
  template:
    metadata: {labels: {app: once}}
    spec:
      restartPolicy: Never
      containers: [{name: once, image: 'IMAGE', imagePullPolicy: IfNotPresent, args: [version]}]
";

pub async fn a_job_finishes_beside_its_sidecar(cluster: &Cluster) -> Result<()> {
    let yaml = JOB.replace("IMAGE", &format!("{}/meshctl:{}", cluster.hub, cluster.tag));
    cluster.apply(&yaml)?;
    let limit = format!("--timeout={}s", PATIENCE.as_secs());
    cluster.kubectl(&["-n", APPS, "wait", "--for=condition=Complete", "job/once", &limit])?;
    let pods = cluster.items(&["pods", "-n", APPS, "-l", "app=once"])?;
    let mut inits = pods.iter().flat_map(|pod| pod["spec"]["initContainers"].as_array().into_iter().flatten());
    ensure!(inits.any(|container| container["name"] == "istio-proxy"), "the Job had no sidecar");
    cluster.delete(&yaml)
}

pub async fn a_rolling_restart_fails_no_request(cluster: &Cluster) -> Result<()> {
    undisturbed(cluster, async || {
        cluster.kubectl(&["-n", APPS, "rollout", "restart", "deployment"])?;
        cluster.application_is_ready()
    })
    .await
}

pub async fn a_version_goes_and_comes_back_and_no_request_fails(cluster: &Cluster) -> Result<()> {
    undisturbed(cluster, async || {
        let scale = |count: u32| {
            let count = format!("--replicas={count}");
            cluster.kubectl(&["-n", APPS, "scale", "deployment/reviews-v1", &count])
        };
        // Without the route all versions are asked.
        cluster.kubectl(&["-n", APPS, "delete", "virtualservice", "reviews", "reviews-route"])?;
        scale(0)?;
        eventually(PATIENCE, async || {
            let pods = cluster.items(&["pods", "-n", APPS, "-l", "app=reviews,version=v1"])?;
            ensure!(pods.is_empty(), "{} pods of v1", pods.len());
            Ok(())
        })
        .await?;
        scale(1)?;
        cluster.rolled_out(APPS, "reviews-v1")
    })
    .await
}

pub async fn a_node_is_drained_and_no_request_fails(cluster: &Cluster) -> Result<()> {
    let nodes = cluster.items(&["nodes"])?;
    ensure!(nodes.len() > 2, "there is no other node for the pods of one that is drained");
    // What is to outlive a node runs twice.
    let gateway = ("istio-ingressgateway".to_owned(), SYSTEM);
    let mut all = vec![gateway];
    for deployment in cluster.items(&["deployments", "-n", APPS])? {
        all.push((deployment["metadata"]["name"].as_str().context("a name")?.to_owned(), APPS));
    }
    let scale = |count: &str| -> Result<()> {
        for (deployment, namespace) in &all {
            cluster.kubectl(&["-n", namespace, "scale", &format!("deployment/{deployment}"), count])?;
        }
        all.iter().try_for_each(|(deployment, namespace)| cluster.rolled_out(namespace, deployment))
    };
    let budgets = all.iter().map(|(deployment, namespace)| budget(cluster, deployment, namespace));
    let budgets = budgets.collect::<Result<Vec<_>>>()?;
    let budgets = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": budgets}).to_string();
    scale("--replicas=2")?;
    cluster.apply(&budgets)?;
    // Visitors come by the first node, which holds the control plane of Kubernetes and stays.
    let first = cluster.node()?.0;
    let worker = nodes.iter().filter_map(|node| node["metadata"]["name"].as_str()).find(|name| *name != first);
    let worker = worker.context("another node")?;
    let limit = format!("--timeout={}s", 2 * PATIENCE.as_secs());
    undisturbed(cluster, async || {
        cluster.kubectl(&["drain", worker, "--ignore-daemonsets", "--delete-emptydir-data", &limit])?;
        cluster.application_is_ready()
    })
    .await?;
    cluster.kubectl(&["uncordon", worker])?;
    cluster.delete(&budgets)?;
    scale("--replicas=1")
}

pub async fn another_revision_takes_over_and_no_request_fails(cluster: &Cluster) -> Result<()> {
    undisturbed(cluster, async || {
        install::install(cluster, &["--revision", "canary"])?;
        cluster.rolled_out(SYSTEM, "istiod-canary")?;
        cluster.kubectl(&["label", "namespace", APPS, "istio-injection-", "istio.io/rev=canary", "--overwrite"])?;
        cluster.kubectl(&["-n", APPS, "rollout", "restart", "deployment"])?;
        cluster.application_is_ready()?;
        for pod in cluster.items(&["pods", "-n", APPS])? {
            let revision = &pod["metadata"]["annotations"]["istio.io/rev"];
            let gone = pod["metadata"]["deletionTimestamp"].is_string();
            ensure!(gone || revision == "canary", "{} is of revision {revision}", pod["metadata"]["name"]);
        }
        Ok(())
    })
    .await
}

/// Does `change` while visitors never stop; none of them may see a failure.
async fn undisturbed(cluster: &Cluster, change: impl AsyncFnOnce() -> Result<()>) -> Result<()> {
    let visitor = cluster.visitor().await?;
    let kept = Load::start(&visitor.get(PAGE), 2, false);
    let new = Load::start(&visitor.get(PAGE), 1, true);
    kept.more(20).await;
    // Commands block their thread, which the load does not run on.
    let changed = change().await;
    kept.more(20).await;
    new.more(20).await;
    for load in [kept, new] {
        let outcome = load.stop().await;
        println!("    {} requests answered, {} failed", outcome.good, outcome.failures.len());
        if let Some(first) = outcome.failures.first() {
            println!("    the first: {first}");
        }
        ensure!(outcome.failures.is_empty(), "{} requests failed", outcome.failures.len());
    }
    changed
}

fn budget(cluster: &Cluster, deployment: &str, namespace: &str) -> Result<Value> {
    let found = cluster.get(&["deployment", deployment, "-n", namespace])?;
    Ok(serde_json::json!({
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": format!("e2e-{deployment}"), "namespace": namespace},
        "spec": {"minAvailable": 1, "selector": found["spec"]["selector"]},
    }))
}

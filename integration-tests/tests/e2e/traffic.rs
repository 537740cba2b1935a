//! An application joins the mesh by its namespace's label, and is steered by the samples of Istio's users.

use anyhow::{Context, Result, ensure};
use integration_tests::{Client, eventually};
use serde_json::Value;

use crate::cluster::{APPS, Cluster, PATIENCE};

/// The page that asks all other parts.
pub const PAGE: &str = "http://bookinfo.example/productpage";
/// Requests whose versions are counted.
const COUNTED: usize = 400;
/// Of them, how many may differ from the weights: four standard deviations of 400 draws of 1/4.
const DEVIATION: usize = 35;

pub async fn an_unmodified_application_is_injected(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&["label", "namespace", APPS, "istio-injection=enabled", "--overwrite"])?;
    cluster.apply_files(&["deploy/samples/bookinfo/services.yaml", "deploy/samples/kubernetes"])?;
    cluster.application_is_ready()?;
    let pods = cluster.items(&["pods", "-n", APPS])?;
    ensure!(!pods.is_empty(), "no pods");
    for pod in &pods {
        let name = &pod["metadata"]["name"];
        let mut inits = pod["spec"]["initContainers"].as_array().into_iter().flatten();
        let sidecar = inits.find(|container| container["name"] == "istio-proxy");
        let sidecar = sidecar.with_context(|| format!("{name} has no sidecar"))?;
        ensure!(sidecar["restartPolicy"] == "Always", "{name}: its sidecar is not a native one");
        ensure!(pod["spec"]["containers"].as_array().is_some_and(|all| all.len() == 1), "{name} has more containers");
    }
    Ok(())
}

pub async fn visitors_reach_it_through_the_ingress_gateway(cluster: &Cluster) -> Result<()> {
    cluster.apply_files(&["deploy/samples/bookinfo/gateway.yaml"])?;
    let visitor = cluster.visitor().await?;
    eventually(PATIENCE, async || page(&visitor).await.map(drop)).await
}

pub async fn three_quarters_of_the_requests_go_to_v1(cluster: &Cluster) -> Result<()> {
    cluster.apply_files(&[
        "deploy/samples/bookinfo/destination-rule.yaml",
        "deploy/samples/bookinfo/reviews.yaml",
        "deploy/samples/bookinfo/reviews-route.yaml",
    ])?;
    let visitor = cluster.visitor().await?;
    eventually(PATIENCE, async || {
        for _ in 0..20 {
            let page = page(&visitor).await?;
            ensure!(version(&page) != "v3", "v3 is asked still");
        }
        Ok(())
    })
    .await?;
    let mut first = 0;
    for _ in 0..COUNTED {
        first += usize::from(version(&page(&visitor).await?) == "v1");
    }
    println!("    {first} of {COUNTED} went to v1");
    ensure!(first.abs_diff(COUNTED * 3 / 4) <= DEVIATION, "{first} of {COUNTED} went to v1, not three quarters");
    Ok(())
}

/// What the page says, if all of its parts answered.
pub async fn page(visitor: &Client) -> Result<Value> {
    let answer = visitor.get(PAGE).send().await?;
    ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
    Ok(serde_json::from_slice(&answer.body)?)
}

/// Which version of reviews answered.
pub fn version(page: &Value) -> &str {
    page["reviews"]["version"].as_str().unwrap_or("none")
}

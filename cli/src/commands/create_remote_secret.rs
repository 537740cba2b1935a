//! `meshctl create-remote-secret`: a Secret by which control planes of other clusters read this one.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::api::DynamicObject;
use serde_json::{Value, json};

use crate::cluster::{Cluster, ClusterArgs, id};

/// How long the cluster may take to make a token.
const PATIENCE: Duration = Duration::from_secs(10);

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of this cluster in the mesh: `global.multiCluster.clusterName` of its installation
    #[arg(long, value_name = "CLUSTER")]
    name: String,
    /// Address of its API server as other clusters reach it [default: the kubeconfig's]
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// Account that others read by
    #[arg(long, default_value = "istio-reader-service-account", value_name = "NAME")]
    service_account: String,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Prints the Secret; it is applied to the other clusters.
pub async fn run(args: Args) -> Result<ExitCode> {
    let cluster = args.cluster.connect().await?;
    let namespace = &args.cluster.namespace;
    let account = id("v1", "ServiceAccount", Some(namespace), &args.service_account);
    if cluster.get(&account).await?.is_none() {
        bail!("{account} does not exist; `meshctl install` or the chart deploy/charts/base makes it");
    }
    let (token, ca) = token(&cluster, namespace, &args.service_account).await?;
    let server = args.server.as_deref().unwrap_or(&cluster.address);
    let secret = secret(&args.name, namespace, server, &token, &ca)?;
    anstream::print!(
        "# Apply this to the other clusters: it lets their control planes read cluster {}.\n{secret}",
        args.name
    );
    Ok(ExitCode::SUCCESS)
}

/// A token of the account that does not expire, and the CA of the API server, base64: Kubernetes fills them into a Secret of this type.
async fn token(cluster: &Cluster, namespace: &str, account: &str) -> Result<(String, String)> {
    let id = id("v1", "Secret", Some(namespace), &format!("{account}-istio-remote-secret-token"));
    let body = json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
        "metadata": {"name": id.name, "namespace": namespace, "annotations": {"kubernetes.io/service-account.name": account}}});
    cluster.apply(&id, &body, false).await?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let secret = cluster.get(&id).await?.context("the Secret of the token was removed meanwhile")?;
        if let (Some(token), Some(ca)) = (field(&secret, "token"), field(&secret, "ca.crt")) {
            let token = STANDARD.decode(token).context("the token of the Secret is no base64")?;
            return Ok((String::from_utf8(token).context("the token of the Secret is no text")?, ca.to_owned()));
        }
        if Instant::now() >= deadline {
            bail!("{id} has no token after {} s; does the cluster's controller manager run?", PATIENCE.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn field<'a>(secret: &'a DynamicObject, name: &str) -> Option<&'a str> {
    secret.data.get("data")?.get(name)?.as_str()
}

/// The Secret, as Istio's control planes look for it.
fn secret(cluster: &str, namespace: &str, server: &str, token: &str, ca: &str) -> Result<String> {
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "preferences": {}, "current-context": cluster,
        "clusters": [{"name": cluster, "cluster": {"server": server, "certificate-authority-data": ca}}],
        "contexts": [{"name": cluster, "context": {"cluster": cluster, "user": cluster}}],
        "users": [{"name": cluster, "user": {"token": token}}],
    });
    let secret: Value = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {
            "name": format!("istio-remote-secret-{cluster}"), "namespace": namespace,
            "labels": {"istio/multiCluster": "true"}, "annotations": {"networking.istio.io/cluster": cluster},
        },
        "stringData": {cluster: yaml_serde::to_string(&kubeconfig)?},
    });
    Ok(yaml_serde::to_string(&secret)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_secret_holds_a_kubeconfig() {
        let text = secret("west", "istio-system", "https://west:6443", "TOKEN", "Q0E=").unwrap();
        let secret: Value = yaml_serde::from_str(&text).unwrap();
        assert_eq!(secret["metadata"]["labels"]["istio/multiCluster"], "true");
        assert_eq!(secret["metadata"]["annotations"]["networking.istio.io/cluster"], "west");
        let kubeconfig = kube::config::Kubeconfig::from_yaml(secret["stringData"]["west"].as_str().unwrap()).unwrap();
        assert_eq!(kubeconfig.current_context.as_deref(), Some("west"));
        assert_eq!(kubeconfig.clusters[0].cluster.as_ref().unwrap().server.as_deref(), Some("https://west:6443"));
    }
}

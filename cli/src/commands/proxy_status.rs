//! `meshctl proxy-status`: whether each connected proxy has taken the configuration that it was sent.
//!
//! On a cluster every replica of the control plane is asked: each knows the proxies that are connected to it.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};
use futures_util::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use mesh_proto::names::port;
use serde_json::Value;

use crate::cluster::{Cluster, ClusterArgs};
use crate::dump::{path, text};
use crate::forward::Forward;
use crate::output::{BAD, Format, NOTE, table};
use crate::reach::Mesh;
use crate::{http_client, pods};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only this proxy: NAME or NAME.NAMESPACE
    pub name: Option<String>,
    /// Ask the control plane's monitoring port at this address, instead of the local mesh's or the cluster's
    #[arg(long, value_name = "IP:PORT", conflicts_with_all = ["namespace", "revision", "kubeconfig", "context"])]
    pub control_plane: Option<SocketAddr>,
    /// Only proxies of this namespace
    #[arg(short, long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// Ask the control plane of this revision only
    #[arg(long, value_name = "NAME")]
    pub revision: Option<String>,
    /// Format
    #[arg(short, long, default_value = "table")]
    pub output: Format,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Kinds of configuration: heading, and prefix of the fields in `/debug/syncz`.
const TYPES: &[(&str, &str)] = &[("CDS", "cluster"), ("LDS", "listener"), ("EDS", "endpoint"), ("RDS", "route")];

/// Under which name a proxy's entry says which replica it is connected to.
const REPLICA: &str = "control_plane";

/// Asks and prints. Fails with 1 if some proxy has not taken what it was sent.
pub async fn run(args: Args, directory: &Path) -> Result<ExitCode> {
    let mut proxies = match args.control_plane {
        Some(address) => syncz(address).await?,
        None => match Mesh::choose(&args.cluster, args.revision.is_some(), directory).await? {
            Mesh::Local(state) => syncz(state.monitoring).await?,
            Mesh::Cluster(cluster) => {
                let planes = pods::control_planes(&cluster, &args.cluster.namespace, args.revision.as_deref()).await?;
                of_replicas(&cluster, &planes).await?
            }
        },
    };
    if let Some(namespace) = &args.namespace {
        proxies.retain(|proxy| text(proxy, "proxy").split_once('.').is_some_and(|(_, of)| of == namespace));
    }
    if let Some(name) = &args.name {
        proxies.retain(|proxy| matches(text(proxy, "proxy"), name));
        if proxies.is_empty() {
            bail!(
                "no proxy named `{name}` is connected to the control plane; without a name, all that are connected are listed"
            );
        }
    }
    proxies.sort_by(|a, b| text(a, "proxy").cmp(text(b, "proxy")));
    args.output.print(&Value::from(proxies.clone()), |_| rows(&proxies))?;
    let good = |proxy: &Value| TYPES.iter().all(|kind| matches!(state(proxy, kind), "SYNCED" | "NOT SENT"));
    Ok(if proxies.iter().all(good) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn syncz(monitoring: SocketAddr) -> Result<Vec<Value>> {
    let all = http_client::get_json(monitoring, "/debug/syncz").await?;
    Ok(all.as_array().cloned().unwrap_or_default())
}

/// What all replicas say. One that does not answer is named; it is an error if none does.
async fn of_replicas(cluster: &Cluster, planes: &[Pod]) -> Result<Vec<Value>> {
    let answers = join_all(planes.iter().map(|pod| of_replica(cluster, pod))).await;
    let (mut proxies, mut errors) = (Vec::new(), Vec::new());
    for answer in answers {
        match answer {
            Ok(found) => proxies.extend(found),
            Err(error) => errors.push(error),
        }
    }
    if errors.len() == planes.len()
        && let Some(first) = errors.pop()
    {
        return Err(first);
    }
    for error in errors {
        anstream::eprintln!("{NOTE}proxies of one replica are missing{NOTE:#}: {error:#}");
    }
    Ok(proxies)
}

async fn of_replica(cluster: &Cluster, pod: &Pod) -> Result<Vec<Value>> {
    let name = pods::name(pod);
    let forward = Forward::open(cluster, name.clone(), port::MONITORING).await?;
    let mut proxies = syncz(forward.address).await.map_err(|error| forward.explain(error))?;
    for proxy in proxies.iter_mut().filter_map(Value::as_object_mut) {
        proxy.insert(REPLICA.to_owned(), name.name.clone().into());
    }
    Ok(proxies)
}

fn matches(proxy: &str, wanted: &str) -> bool {
    proxy == wanted || proxy.split('.').next() == Some(wanted)
}

fn rows(proxies: &[Value]) -> String {
    let mut headings = vec!["NAME", "CLUSTER"];
    headings.extend(TYPES.iter().map(|(heading, _)| *heading));
    let several = proxies.iter().any(|proxy| proxy.get(REPLICA).is_some());
    if several {
        headings.push("ISTIOD");
    }
    let rows = proxies.iter().map(|proxy| {
        // istiod's older releases say `cluster`.
        let cluster = ["cluster_id", "cluster"].map(|name| text(proxy, name));
        let cluster = cluster.into_iter().find(|cluster| !cluster.is_empty()).unwrap_or("-");
        let mut row = vec![text(proxy, "proxy").to_owned(), cluster.to_owned()];
        row.extend(TYPES.iter().map(|kind| state(proxy, kind).to_owned()));
        if several {
            row.push(text(proxy, REPLICA).to_owned());
        }
        row
    });
    let mut page = table(&headings, rows);
    for proxy in proxies {
        for (heading, _) in TYPES {
            let refused = text(path(proxy, &["types", heading, "nack"]), "error");
            if !refused.is_empty() {
                let proxy = text(proxy, "proxy");
                page.push_str(&format!("\n{BAD}{proxy} refuses {heading}{BAD:#}: {refused}"));
            }
        }
    }
    page
}

/// What our control plane says of a type, or what istioctl makes of istiod's pair of nonces.
fn state<'a>(proxy: &'a Value, (heading, prefix): &(&str, &str)) -> &'a str {
    let status = text(path(proxy, &["types", heading]), "status");
    if !status.is_empty() {
        return status;
    }
    let sent = text(proxy, &format!("{prefix}_sent"));
    let acked = text(proxy, &format!("{prefix}_acked"));
    match (sent, acked) {
        ("", _) => "NOT SENT",
        (sent, acked) if sent == acked => "SYNCED",
        _ => "STALE",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nonces_become_words() {
        let proxies = [json!({"proxy": "a.default", "cluster_id": "Kubernetes",
            "cluster_sent": "n1", "cluster_acked": "n1", "listener_sent": "n2", "listener_acked": "n1"})];
        assert_eq!(
            rows(&proxies),
            "NAME        CLUSTER      CDS      LDS     EDS        RDS\n\
             a.default   Kubernetes   SYNCED   STALE   NOT SENT   NOT SENT"
        );
        assert!(matches("a.default", "a") && matches("a.default", "a.default") && !matches("ab.default", "a"));
    }

    #[test]
    fn refusals_are_shown() {
        let proxies =
            [json!({"proxy": "a.default", "types": {"RDS": {"status": "ERROR", "nack": {"error": "80: no"}}}})];
        let page = anstream::adapter::strip_str(&rows(&proxies)).to_string();
        assert!(page.ends_with("a.default refuses RDS: 80: no"), "{page}");
        assert!(page.contains("ERROR"), "{page}");
    }
}

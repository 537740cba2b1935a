//! The programs' part: what control planes and proxies tell of themselves, by port-forward, and their logs.

use anyhow::{Result, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, LogParams};
use mesh_controlplane::inject::PROXY;
use mesh_proto::names::port;

use super::Piece;
use crate::cluster::Cluster;
use crate::forward::Forward;
use crate::http_client;
use crate::pods::{self, Named};

/// Lines of a log at the most, the last ones.
const LINES: i64 = 50_000;

/// Pages of a control plane, and the files that they become.
const PLANE: &[(&str, &str)] = &[
    ("/version", "version.txt"),
    ("/debug/syncz", "syncz.json"),
    ("/debug/adsz", "adsz.json"),
    ("/debug/push_status", "push_status.json"),
    ("/debug/configz", "configz.json"),
    ("/debug/registryz", "registryz.json"),
    ("/debug/endpointz", "endpointz.json"),
    ("/debug/findings", "findings.json"),
    ("/metrics", "metrics.txt"),
];

/// Pages of a proxy; it leaves private keys out of its dump.
const PROXY_PAGES: &[(&str, &str)] = &[
    ("/server_info", "server_info.json"),
    ("/config_dump?include_eds", "config_dump.json"),
    ("/clusters?format=json", "clusters.json"),
    ("/listeners?format=json", "listeners.json"),
    ("/certs", "certs.json"),
    ("/stats/prometheus", "stats.txt"),
];

/// A control plane's pages and logs, of the last `since` seconds.
pub async fn of_control_plane(cluster: &Cluster, pod: &Pod, since: Option<i64>) -> Vec<Piece> {
    let named = pods::name(pod);
    let folder = format!("control-plane/{}", named.name);
    let mut pieces = pages(cluster, &named, port::MONITORING, PLANE, &folder).await;
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    for container in containers {
        pieces.extend(logs(cluster, pod, &container.name, since, &folder).await);
    }
    pieces
}

/// A proxy's pages and logs.
pub async fn of_proxy(cluster: &Cluster, pod: &Pod, since: Option<i64>) -> Vec<Piece> {
    let named = pods::name(pod);
    let folder = format!("proxies/{}/{}", named.namespace, named.name);
    let mut pieces = pages(cluster, &named, port::ADMIN, PROXY_PAGES, &folder).await;
    pieces.extend(logs(cluster, pod, PROXY, since, &folder).await);
    pieces
}

async fn pages(cluster: &Cluster, pod: &Named, port: u16, pages: &[(&str, &str)], folder: &str) -> Vec<Piece> {
    let forward = match Forward::open(cluster, pod.clone(), port).await {
        Ok(forward) => forward,
        // Once, and not for each page.
        Err(error) => return vec![Piece { path: format!("{folder}/*"), content: Err(error) }],
    };
    let mut pieces = Vec::new();
    for (page, file) in pages {
        let read = async { ask(&forward, page).await.map_err(|error| forward.explain(error)) };
        pieces.push(Piece::of(format!("{folder}/{file}"), read).await);
    }
    pieces
}

async fn ask(forward: &Forward, page: &str) -> Result<Vec<u8>> {
    let answer = http_client::get(forward.address, "localhost", page).await?;
    if !answer.status.is_success() {
        bail!("{page} answered {}: {}", answer.status, answer.text().trim());
    }
    Ok(answer.body.to_vec())
}

/// The log of a container, and of the one before if it was started again.
async fn logs(cluster: &Cluster, pod: &Pod, container: &str, since: Option<i64>, folder: &str) -> Vec<Piece> {
    let mut pieces =
        vec![Piece::of(format!("{folder}/{container}.log"), log(cluster, pod, container, since, false)).await];
    let statuses = pod
        .status
        .iter()
        .flat_map(|status| status.init_container_statuses.iter().chain(&status.container_statuses).flatten());
    if statuses.into_iter().any(|status| status.name == container && status.restart_count > 0) {
        let path = format!("{folder}/{container}.previous.log");
        // It ended before, so what was asked for of now says nothing of it.
        pieces.push(Piece::of(path, log(cluster, pod, container, None, true)).await);
    }
    pieces
}

async fn log(cluster: &Cluster, pod: &Pod, container: &str, since: Option<i64>, previous: bool) -> Result<Vec<u8>> {
    let named = pods::name(pod);
    let api: Api<Pod> = Api::namespaced(cluster.client.clone(), &named.namespace);
    let parameters = LogParams {
        container: Some(container.to_owned()),
        since_seconds: since,
        tail_lines: Some(LINES),
        timestamps: true,
        previous,
        ..LogParams::default()
    };
    let read = api.logs(&named.name, &parameters).await;
    let what = || format!("the log of container {container} of Pod {named}");
    Ok(read.map_err(|error| cluster.explain("get", &what(), error))?.into_bytes())
}

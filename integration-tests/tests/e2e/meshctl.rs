//! What `meshctl` tells of a cluster whose mesh works: each command as its users have it, by port-forward into pods.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::Child;

use anyhow::{Context, Result, ensure};
use integration_tests::{Client, eventually};
use meshctl::bug_report::archive;
use serde_json::Value;

use crate::cluster::{APPS, Cluster, PATIENCE, SYSTEM};

pub async fn meshctl_reads_the_cluster(cluster: &Cluster) -> Result<()> {
    let pods = names(cluster, APPS)?;
    let pod = pods.iter().find(|name| name.starts_with("reviews-v1-")).context("no pod of reviews-v1")?;
    every_proxy_is_synced(cluster, &pods).await?;
    says(
        cluster,
        &["proxy-config", "clusters", "deployment/productpage-v1", "-n", APPS],
        &["reviews.default.svc.cluster.local", "DIRECTION"],
    )?;
    says(cluster, &["proxy-config", "endpoints", &format!("{pod}.{APPS}")], &["HEALTHY"])?;
    says(cluster, &["proxy-config", "bootstrap", pod, "-n", APPS], &["\"node\"", pod])?;
    says(cluster, &["proxy-config", "log", pod, "-n", APPS, "--level", "info,http:debug"], &["http=debug"])?;
    says(cluster, &["proxy-config", "log", pod, "-n", APPS, "--level", "info"], &["active loggers"])?;
    says(
        cluster,
        &["describe", "pod", &format!("{pod}.{APPS}")],
        &[
            "native sidecar",
            "VirtualService default/reviews",
            "75% to reviews.default.svc.cluster.local subset v1",
            "mTLS: ",
        ],
    )?;
    says(cluster, &["describe", "service", "reviews", "-n", APPS], &[pod, "subset v2"])?;
    says(cluster, &["analyze", "-n", APPS], &[])?;
    dashboards(cluster, pod).await?;
    report(cluster, &pods)
}

fn names(cluster: &Cluster, namespace: &str) -> Result<Vec<String>> {
    let pods = cluster.items(&["pods", "-n", namespace, "--field-selector=status.phase=Running"])?;
    Ok(pods.iter().filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned)).collect())
}

/// It fails where a proxy has not taken what it was sent, which may be so for a moment after a change.
async fn every_proxy_is_synced(cluster: &Cluster, pods: &[String]) -> Result<()> {
    eventually(PATIENCE, async || {
        let text = cluster.meshctl(&["proxy-status", "-o", "json"])?;
        let all: Vec<Value> = serde_json::from_str(&text)?;
        for pod in pods {
            let name = format!("{pod}.{APPS}");
            let proxy = all.iter().find(|one| one["proxy"] == name.as_str());
            let proxy = proxy.with_context(|| format!("{name} is not connected: {text}"))?;
            for kind in ["CDS", "LDS", "EDS", "RDS"] {
                ensure!(proxy["types"][kind]["status"] == "SYNCED", "{name}: {kind}: {proxy}");
            }
            ensure!(proxy["control_plane"].as_str().is_some_and(|plane| plane.starts_with("istiod-")), "{proxy}");
        }
        Ok(())
    })
    .await
}

fn says(cluster: &Cluster, arguments: &[&str], parts: &[&str]) -> Result<()> {
    let said = cluster.meshctl(arguments)?;
    for part in parts {
        ensure!(said.contains(part), "meshctl {} does not say `{part}`:\n{said}", arguments.join(" "));
    }
    Ok(())
}

/// A command that stays, ended whatever happens.
struct Staying(Child);

impl Drop for Staying {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn dashboards(cluster: &Cluster, pod: &str) -> Result<()> {
    let proxy = format!("{pod}.{APPS}");
    for (arguments, path, part) in [
        (["dashboard", "controlplane", "--browser=false"].as_slice(), "/syncz", proxy.as_str()),
        (&["dashboard", "proxy", &proxy, "--browser=false"], "server_info", "version"),
    ] {
        let mut child = cluster.start_meshctl(arguments)?;
        let output = child.stdout.take().context("its output is a pipe")?;
        let _staying = Staying(child);
        let mut url = String::new();
        BufReader::new(output).read_line(&mut url)?;
        let rest = url.trim().strip_prefix("http://").with_context(|| format!("no address: {url}"))?;
        let address = rest.split('/').next().unwrap_or_default().parse()?;
        let answer = Client::new(address).get(&format!("{}{path}", url.trim())).send().await?;
        ensure!(answer.status == 200 && answer.text().contains(part), "{url}: {}: {}", answer.status, answer.text());
    }
    Ok(())
}

fn report(cluster: &Cluster, pods: &[String]) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let target = folder.path().join("report.tgz");
    let path = target.to_str().context("a path that is text")?;
    cluster.meshctl(&["bug-report", "--include", APPS, "--duration", "1h", "-o", path])?;
    let files: BTreeMap<String, Vec<u8>> = archive::read(&target)?.into_iter().collect();
    let about = String::from_utf8_lossy(files.get("README.txt").context("no README.txt")?).into_owned();
    ensure!(about.contains("Everything that was asked for could be read"), "{about}");
    for pod in pods {
        for (file, part) in [("config_dump.json", "configs"), ("stats.txt", "istio_"), ("istio-proxy.log", "")] {
            let name = format!("proxies/{APPS}/{pod}/{file}");
            let content = files.get(&name).with_context(|| format!("{name} is missing"))?;
            ensure!(String::from_utf8_lossy(content).contains(part), "{name} has no `{part}`");
        }
    }
    let plane =
        names(cluster, SYSTEM)?.into_iter().find(|name| name.starts_with("istiod-")).context("no control plane")?;
    ensure!(files.contains_key(&format!("control-plane/{plane}/syncz.json")), "no pages of {plane}");
    ensure!(!files.values().any(|content| String::from_utf8_lossy(content).contains("PRIVATE KEY")), "it holds a key");
    Ok(())
}

//! Clusters, made and removed by kind. On nodes of our own image the pod network is a route from each node to the pods of every other.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::{Nodes, cache, engine, image, parts, text};
use crate::process;

/// Where pods get their addresses on a node: a bridge-less pair of interfaces, as kind's own network makes them.
const NETWORK: &str = "/etc/cni/net.d/10-kind.conflist";
/// Longest wait for what a new cluster says of its nodes.
const DEADLINE: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(300);

/// Makes a cluster and returns its kubeconfig's path.
///
/// # Errors
/// If there is one of that name already, or it doesn't get ready.
pub fn up(name: &str, workers: usize, nodes: Option<Nodes>) -> Result<PathBuf> {
    check(name)?;
    engine::start()?;
    let started = Instant::now();
    let nodes = nodes.unwrap_or(if process::exists("kind") { Nodes::Stock } else { Nodes::Built });
    let image = match nodes {
        Nodes::Stock => None,
        Nodes::Built => Some(image::build()?),
    };
    let kind = program(nodes)?;
    if process::output(&kind, &["get", "clusters"])?.lines().any(|line| line == name) {
        bail!("there is a cluster {name} already; `cargo xtask cluster down {name}` removes it");
    }
    let folder = folder(name);
    fs::create_dir_all(&folder)?;
    let (config, kubeconfig) = (folder.join("kind.yaml"), folder.join("kubeconfig"));
    // JSON is YAML.
    fs::write(&config, configuration(workers, image.as_deref()).to_string())?;
    let paths = (text(&config), text(&kubeconfig));
    let made =
        process::run(&kind, &["create", "cluster", "--name", name, "--config", &paths.0, "--kubeconfig", &paths.1])
            .and_then(|()| settle(nodes, &paths.1));
    if let Err(error) = made {
        // What is left of it would be in the way of the next.
        let _ = down(name);
        let hint = if nodes == Nodes::Stock { "; `--nodes built` needs no registry" } else { "" };
        return Err(error.context(format!("cluster {name} did not come up{hint}")));
    }
    println!("cluster {name}: {} nodes ready after {} s", workers + 1, started.elapsed().as_secs());
    Ok(kubeconfig)
}

/// The kubeconfig of a cluster that is there.
pub fn kubeconfig(name: &str) -> Result<Option<PathBuf>> {
    check(name)?;
    Ok(Some(folder(name).join("kubeconfig")).filter(|path| path.is_file()))
}

/// Removes a cluster, if it is there.
pub fn down(name: &str) -> Result<()> {
    check(name)?;
    if !engine::answers() {
        bail!("no Docker engine answers, so nothing of cluster {name} runs; `cargo xtask cluster engine start`");
    }
    let nodes = if process::exists("kind") { Nodes::Stock } else { Nodes::Built };
    process::run(
        &program(nodes)?,
        &["delete", "cluster", "--name", name, "--kubeconfig", &text(&folder(name).join("kubeconfig"))],
    )?;
    if folder(name).exists() {
        fs::remove_dir_all(folder(name))?;
    }
    // kind leaves its network. One that still has containers can't be removed.
    let _ = process::output("docker", &["network", "rm", "kind"]);
    Ok(())
}

/// Copies images of the local engine to every node.
pub fn load(name: &str, images: &[String]) -> Result<()> {
    check(name)?;
    let nodes = if process::exists("kind") { Nodes::Stock } else { Nodes::Built };
    let mut arguments = vec!["load", "docker-image", "--name", name];
    arguments.extend(images.iter().map(String::as_str));
    process::run(&program(nodes)?, &arguments)
}

/// Waits until pods can run everywhere.
fn settle(nodes: Nodes, kubeconfig: &str) -> Result<()> {
    let kubectl = kubectl(nodes)?;
    if nodes == Nodes::Built {
        connect(&kubectl, kubeconfig)?;
    }
    let wait = |arguments: &[&str]| {
        process::run(&kubectl, &[&["--kubeconfig", kubeconfig], arguments, &["--timeout=180s"]].concat())
    };
    wait(&["wait", "--for=condition=Ready", "nodes", "--all"])?;
    wait(&["-n", "kube-system", "rollout", "status", "deployment/coredns"])
}

/// Gives each node its part of the pod network, and routes to the others'.
fn connect(kubectl: &str, kubeconfig: &str) -> Result<()> {
    let list = || process::output(kubectl, &["--kubeconfig", kubeconfig, "get", "nodes", "-o", "json"]);
    let started = Instant::now();
    // The controller manager, which gives nodes their pods' addresses, starts last.
    let nodes = loop {
        match list().and_then(|listed| pod_networks(&listed)) {
            Ok(nodes) => break nodes,
            Err(error) if started.elapsed() > DEADLINE => return Err(error),
            Err(_) => std::thread::sleep(LOOK),
        }
    };
    for node in &nodes {
        let network = json!({"cniVersion": "0.4.0", "name": "kind", "plugins": [
            {"type": "ptp", "ipMasq": false, "mtu": 1500, "ipam": {
                "type": "host-local", "dataDir": "/run/cni-ipam-state", "routes": [{"dst": "0.0.0.0/0"}],
                "ranges": [[{"subnet": node.pods}]]}},
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ]});
        let write = format!("mkdir -p /etc/cni/net.d && printf %s '{network}' >{NETWORK}");
        process::output("docker", &["exec", &node.name, "sh", "-c", &write])?;
        for peer in nodes.iter().filter(|peer| peer.name != node.name) {
            let route = ["ip", "route", "replace", &peer.pods, "via", &peer.address];
            process::output("docker", &[&["exec", &node.name][..], &route].concat())?;
        }
    }
    Ok(())
}

/// A node, and the addresses of its pods.
#[derive(Debug, PartialEq, Eq)]
struct Node {
    name: String,
    address: String,
    pods: String,
}

fn pod_networks(listed: &str) -> Result<Vec<Node>> {
    let list: serde_json::Value = serde_json::from_str(listed)?;
    let nodes = list["items"].as_array().context("kubectl lists nodes")?.iter().map(|node| {
        let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
        let mut addresses = node["status"]["addresses"].as_array().into_iter().flatten();
        let internal = addresses.find(|address| address["type"] == "InternalIP");
        let found = (
            text(&node["metadata"]["name"]),
            internal.and_then(|address| text(&address["address"])),
            text(&node["spec"]["podCIDR"]),
        );
        let (Some(name), Some(address), Some(pods)) = found else {
            bail!("a node lacks an address or pods' addresses: {node}")
        };
        Ok(Node { name, address, pods })
    });
    nodes.collect()
}

/// What kind makes: with `image`, nodes that are set up by [`connect`]; without, kind's own.
fn configuration(workers: usize, image: Option<&str>) -> serde_json::Value {
    let node = |role: &str| match image {
        Some(image) => json!({"role": role, "image": image}),
        None => json!({"role": role}),
    };
    let nodes: Vec<_> =
        std::iter::once(node("control-plane")).chain(std::iter::repeat_n(node("worker"), workers)).collect();
    let mut config = json!({"kind": "Cluster", "apiVersion": "kind.x-k8s.io/v1alpha4", "nodes": nodes});
    if image.is_some() {
        config["networking"] = json!({"disableDefaultCNI": true, "kubeProxyMode": "nftables"});
        // Tolerates that settings of the kernel and out-of-memory scores can't be raised.
        config["featureGates"] = json!({"KubeletInUserNamespace": true});
        config["kubeadmConfigPatches"] =
            json!([json!({"kind": "ClusterConfiguration", "imageRepository": image::REPOSITORY}).to_string()]);
    }
    config
}

/// The kind that is used with these nodes.
fn program(nodes: Nodes) -> Result<String> {
    part(nodes, "kind")
}

fn kubectl(nodes: Nodes) -> Result<String> {
    part(nodes, "kubectl")
}

/// The user's own program goes with stock nodes, if there is one.
fn part(nodes: Nodes, name: &str) -> Result<String> {
    if nodes == Nodes::Stock && process::exists(name) {
        return Ok(name.to_owned());
    }
    Ok(parts::build(&[name])?.iter().map(|path| text(path)).collect())
}

fn folder(name: &str) -> PathBuf {
    cache().join("clusters").join(name)
}

/// The name is part of containers' names and of paths.
fn check(name: &str) -> Result<()> {
    let allowed = |character: char| character.is_ascii_lowercase() || character.is_ascii_digit() || character == '-';
    if name.is_empty() || !name.chars().all(allowed) || name.starts_with('-') {
        bail!("`{name}` is no name for a cluster: use lower-case letters, digits and `-`");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_read_with_what_routes_need() -> Result<()> {
        let listed = r#"{"items": [{"metadata": {"name": "t-worker"}, "spec": {"podCIDR": "10.244.1.0/24"},
            "status": {"addresses": [{"type": "Hostname", "address": "t-worker"}, {"type": "InternalIP", "address": "172.18.0.3"}]}}]}"#;
        let worker =
            Node { name: "t-worker".to_owned(), address: "172.18.0.3".to_owned(), pods: "10.244.1.0/24".to_owned() };
        assert_eq!(pod_networks(listed)?, [worker]);
        assert!(pod_networks(r#"{"items": [{"metadata": {"name": "t"}}]}"#).is_err());
        Ok(())
    }

    #[test]
    fn names_that_would_lead_elsewhere_are_refused() {
        for (name, holds) in [("t", true), ("e2e-1", true), ("", false), ("../t", false), ("-f", false), ("T", false)] {
            assert_eq!(check(name).is_ok(), holds, "{name}");
        }
    }

    #[test]
    fn stock_nodes_are_left_as_kind_has_them() {
        let stock = configuration(1, None);
        assert_eq!(stock["nodes"], json!([{"role": "control-plane"}, {"role": "worker"}]));
        assert!(stock.get("networking").is_none());
        assert_eq!(configuration(0, Some("i"))["nodes"], json!([{"role": "control-plane", "image": "i"}]));
    }
}

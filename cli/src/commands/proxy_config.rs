//! `meshctl proxy-config KIND NAME`: what a proxy is configured to do, in the columns of `istioctl proxy-config`.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use http::{HeaderMap, Method};
use jiff::Timestamp;
use mesh_proto::names::port;
use serde_json::{Value, json};

use crate::cluster::{Cluster, ClusterArgs};
use crate::dump::{ConfigDump, cluster, endpoint, listener, route, secret};
use crate::forward::Forward;
use crate::http_client::Connection;
use crate::output::{Format, HEADING, table};
use crate::pods::{self, Named};
use crate::reach::Mesh;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to show
    pub kind: Kind,
    /// Proxy: POD, POD.NAMESPACE or deployment/NAME on a cluster; NAME as `meshctl local status` lists them in the local mesh
    #[arg(required_unless_present = "admin")]
    pub name: Option<String>,
    /// Ask the admin port at this address instead
    #[arg(long, value_name = "IP:PORT", conflicts_with_all = ["name", "namespace", "kubeconfig", "context"])]
    pub admin: Option<SocketAddr>,
    /// Namespace of the pod [default: the kubeconfig's]
    #[arg(short, long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// Admin port of proxies in pods
    #[arg(long, default_value_t = port::ADMIN, value_name = "PORT")]
    pub proxy_admin_port: u16,
    /// Of `log`: levels to set, such as debug, or info,http:debug for a part of the proxy
    #[arg(long, value_name = "LEVEL|PART:LEVEL,…")]
    pub level: Option<String>,
    /// Format
    #[arg(short, long, default_value = "table")]
    pub output: Format,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// What to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Listeners and their filter chains
    #[value(alias = "listeners", alias = "lds")]
    Listener,
    /// Routes
    #[value(alias = "routes", alias = "rds")]
    Route,
    /// Clusters
    #[value(alias = "clusters", alias = "cds")]
    Cluster,
    /// Endpoints and their health
    #[value(alias = "endpoints", alias = "eds")]
    Endpoint,
    /// Certificates
    #[value(alias = "secrets", alias = "sds")]
    Secret,
    /// What it was started with, as JSON
    Bootstrap,
    /// Levels of its log, which --level changes
    Log,
    /// All of them
    All,
}

/// Everything that is shown, as JSON tells it.
const KINDS: &[Kind] = &[Kind::Listener, Kind::Route, Kind::Cluster, Kind::Endpoint, Kind::Secret];

/// A proxy's admin port, as this machine reaches it.
struct Admin {
    address: SocketAddr,
    /// Kept open while it is asked.
    forward: Option<Forward>,
}

impl Admin {
    async fn find(args: &Args, directory: &Path) -> Result<Self> {
        if let Some(address) = args.admin {
            return Ok(Self { address, forward: None });
        }
        let name = args.name.as_deref().context("say which proxy: NAME or --admin IP:PORT")?;
        match Mesh::choose(&args.cluster, args.namespace.is_some() || name.contains('/'), directory).await? {
            Mesh::Local(state) => Ok(Self { address: state.proxy(name)?.admin, forward: None }),
            Mesh::Cluster(cluster) => {
                let namespace = args.namespace.clone().unwrap_or_else(|| cluster.namespace.clone());
                let pod = pod(&cluster, name, &namespace).await?;
                let forward = Forward::open(&cluster, pod, args.proxy_admin_port).await?;
                Ok(Self { address: forward.address, forward: Some(forward) })
            }
        }
    }

    fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        match &self.forward {
            Some(forward) => forward.explain(error),
            None => error,
        }
    }
}

/// The pod that a user means, which must have a proxy.
pub(crate) async fn pod(cluster: &Cluster, name: &str, namespace: &str) -> Result<Named> {
    let pod = pods::find(cluster, name, namespace).await?;
    let named = pods::name(&pod);
    if pods::proxy(&pod).is_none() {
        bail!("Pod {named} has no proxy; `meshctl describe pod {}.{}` says why", named.name, named.namespace);
    }
    Ok(named)
}

/// Asks the proxy and prints.
pub async fn run(args: Args, directory: &Path) -> Result<ExitCode> {
    if args.level.is_some() && args.kind != Kind::Log {
        bail!("--level is for `meshctl proxy-config log`");
    }
    let admin = Admin::find(&args, directory).await?;
    if args.kind == Kind::Log {
        let said = log(admin.address, args.level.as_deref()).await.map_err(|error| admin.explain(error))?;
        args.output.print(&said, Clone::clone)?;
        return Ok(ExitCode::SUCCESS);
    }
    let dump = ConfigDump::fetch(admin.address).await.map_err(|error| admin.explain(error))?;
    let endpoints = match args.kind {
        Kind::Endpoint | Kind::All => endpoint::fetch(admin.address).await.map_err(|error| admin.explain(error))?,
        _ => Value::Null,
    };
    let shown: Vec<Kind> = if args.kind == Kind::All { KINDS.to_vec() } else { vec![args.kind] };
    if args.output == Format::Table {
        let mut pieces = Vec::new();
        for kind in &shown {
            let text = text(*kind, &dump, &endpoints);
            pieces.push(if shown.len() > 1 { format!("{HEADING}{kind:?}{HEADING:#}\n{text}") } else { text });
        }
        anstream::println!("{}", pieces.join("\n\n"));
        return Ok(ExitCode::SUCCESS);
    }
    let mut values: serde_json::Map<String, Value> =
        shown.iter().map(|kind| (format!("{kind:?}").to_lowercase(), value(*kind, &dump, &endpoints))).collect();
    let only = (shown.len() == 1).then(|| values.values_mut().next().map(Value::take)).flatten();
    args.output.print(&only.unwrap_or(Value::Object(values)), |_| String::new())?;
    Ok(ExitCode::SUCCESS)
}

/// Sets levels of a proxy's log, if any are given; what they are then.
async fn log(admin: SocketAddr, levels: Option<&str>) -> Result<String> {
    let path = format!("/logging?{}", level_query(levels.unwrap_or_default())?);
    let answer = Connection::new(admin).send(Method::POST, "localhost", &path, &HeaderMap::new()).await?;
    if !answer.status.is_success() {
        bail!("the proxy does not take these levels: {}", answer.text().trim());
    }
    Ok(answer.text())
}

/// The query by which a proxy is told levels.
fn level_query(levels: &str) -> Result<String> {
    let known = |character: char| character.is_ascii_alphanumeric() || matches!(character, '_' | ':' | ',' | '-');
    if !levels.chars().all(known) {
        bail!("--level {levels}: write a level, or PART:LEVEL, separated by commas");
    }
    // Envoy's word, which istioctl's users know.
    let levels = levels.replace("warning", "warn");
    let (parts, whole): (Vec<&str>, Vec<&str>) =
        levels.split(',').filter(|one| !one.is_empty()).partition(|one| one.contains(':'));
    let mut query: Vec<String> = whole.iter().map(|level| format!("level={level}")).collect();
    if !parts.is_empty() {
        query.push(format!("paths={}", parts.join(",")));
    }
    Ok(query.join("&"))
}

fn text(kind: Kind, dump: &ConfigDump, endpoints: &Value) -> String {
    match kind {
        Kind::Listener => table(listener::HEADINGS, dump.listeners().into_iter().flat_map(listener::rows)),
        Kind::Route => table(route::HEADINGS, dump.routes().into_iter().flat_map(route::rows)),
        Kind::Cluster => table(cluster::HEADINGS, sorted(dump.clusters().into_iter().map(cluster::row))),
        Kind::Endpoint => table(endpoint::HEADINGS, sorted(endpoint::rows(endpoints))),
        Kind::Secret => {
            let now = Timestamp::now();
            table(secret::HEADINGS, dump.secrets().into_iter().flat_map(|entry| secret::rows(entry, now)))
        }
        Kind::Bootstrap => serde_json::to_string_pretty(dump.bootstrap()).unwrap_or_default(),
        Kind::Log | Kind::All => String::new(),
    }
}

fn sorted<const N: usize>(rows: impl IntoIterator<Item = [String; N]>) -> Vec<[String; N]> {
    let mut rows: Vec<_> = rows.into_iter().collect();
    rows.sort();
    rows
}

fn value(kind: Kind, dump: &ConfigDump, endpoints: &Value) -> Value {
    match kind {
        Kind::Listener => json!(dump.listeners()),
        Kind::Route => json!(dump.routes()),
        Kind::Cluster => json!(dump.clusters()),
        Kind::Endpoint => endpoints["cluster_statuses"].clone(),
        Kind::Secret => json!(dump.secrets()),
        Kind::Bootstrap => dump.bootstrap().clone(),
        Kind::Log | Kind::All => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn levels_are_for_all_or_for_parts() {
        for (levels, query) in [
            ("", ""),
            ("debug", "level=debug"),
            ("warning,http:debug,xds:trace", "level=warn&paths=http:debug,xds:trace"),
            ("http:debug", "paths=http:debug"),
        ] {
            assert_eq!(level_query(levels).unwrap(), query);
        }
        assert!(level_query("debug&quit").is_err());
    }
}

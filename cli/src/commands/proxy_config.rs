//! `meshctl proxy-config KIND NAME`: what a proxy is configured to do, in the columns of `istioctl proxy-config`.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::dump::{ConfigDump, cluster, endpoint, listener, route, secret};
use crate::local::state::State;
use crate::output::{Format, HEADING, table};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to show
    pub kind: Kind,
    /// Proxy of the local mesh: NAME or NAME.NAMESPACE, as `meshctl local status` lists them
    #[arg(required_unless_present = "admin")]
    pub name: Option<String>,
    /// Ask the admin port at this address instead
    #[arg(long, value_name = "IP:PORT", conflicts_with = "name")]
    pub admin: Option<SocketAddr>,
    /// Format
    #[arg(short, long, default_value = "table")]
    pub output: Format,
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
    /// All of them
    All,
}

/// Everything that is shown, as JSON tells it.
const KINDS: &[Kind] = &[Kind::Listener, Kind::Route, Kind::Cluster, Kind::Endpoint, Kind::Secret];

/// Asks the proxy and prints.
pub async fn run(args: Args, directory: &Path) -> Result<ExitCode> {
    let admin = match (args.admin, &args.name) {
        (Some(admin), _) => admin,
        (None, Some(name)) => State::read(directory)?.proxy(name)?.admin,
        (None, None) => anyhow::bail!("say which proxy: NAME or --admin IP:PORT"),
    };
    let dump = ConfigDump::fetch(admin).await?;
    let endpoints = match args.kind {
        Kind::Endpoint | Kind::All => endpoint::fetch(admin).await?,
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
        Kind::All => String::new(),
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
        Kind::All => Value::Null,
    }
}

//! The command line of `mesh-proxy`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::logging::Format;

/// The sidecar proxy of Ferromesh.
#[derive(Debug, Parser)]
#[command(name = "mesh-proxy", version, about)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the proxy.
    Run(Box<Run>),
    /// Ask a running proxy whether it is ready; the exit code tells.
    Probe(Probe),
    /// Set up or remove transparent capture: the kernel hands the workload's connections to the proxy. Needs root.
    Redirect(Box<crate::redirect::Args>),
}

/// Settings of `run`.
#[derive(Debug, clap::Args)]
pub struct Run {
    /// An Envoy bootstrap (YAML or JSON). Without it, settings come from the environment, as injection writes it.
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Worker threads; 0 is one for each processor, or for each that the container's limit allows [default: the environment's
    /// `concurrency`, or 0].
    #[arg(long, alias = "concurrency", env = "PROXY_CONCURRENCY", value_name = "N")]
    pub workers: Option<usize>,
    /// The control plane, `HOST:PORT` over TLS or `http://HOST:PORT`.
    #[arg(long, value_name = "ADDRESS", conflicts_with = "config")]
    pub discovery_address: Option<String>,
    /// Where the admin server listens.
    #[arg(long, value_name = "ADDRESS")]
    pub admin_addr: Option<SocketAddr>,
    /// Where readiness is told (`/healthz/ready`).
    #[arg(long, value_name = "ADDRESS")]
    pub status_addr: Option<SocketAddr>,
    /// Where our metrics are (`/stats/prometheus`).
    #[arg(long, value_name = "ADDRESS")]
    pub prometheus_addr: Option<SocketAddr>,
    /// Where our metrics and the application's are (`/stats/prometheus`).
    #[arg(long, value_name = "ADDRESS")]
    pub merged_addr: Option<SocketAddr>,
    /// Where the workload's DNS is answered: names of the mesh, and others by the system's resolvers. With
    /// `ISTIO_META_DNS_CAPTURE=true` it is port 15053 on loopback.
    #[arg(long, value_name = "ADDRESS", conflicts_with = "config")]
    pub dns_addr: Option<SocketAddr>,
    /// The token for control plane and authority.
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    pub token_file: Option<PathBuf>,
    /// Roots that control plane and authority must be signed by.
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    pub root_cert: Option<PathBuf>,
    /// Levels of the log, as `info` or `mesh_proxy::xds=debug,info`.
    #[arg(long, env = "PROXY_LOG_LEVEL", default_value = "info")]
    pub log_level: String,
    /// Form of the log.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub log_format: Format,
    /// How long connections may take to finish when the proxy is told to end, in seconds.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub drain_time: Option<Duration>,
    /// How long connections are still taken when the proxy is told to end, in seconds: until clients have heard that it goes.
    #[arg(long, env = "MINIMUM_DRAIN_DURATION", value_name = "SECONDS", value_parser = seconds, default_value = "0")]
    pub minimum_drain_time: Duration,
}

/// Settings of `probe`.
#[derive(Debug, clap::Args)]
pub struct Probe {
    /// What to ask.
    #[arg(long, default_value = "127.0.0.1:15021")]
    pub address: SocketAddr,
    /// The path.
    #[arg(long, default_value = "/healthz/ready")]
    pub path: String,
    /// Ask again until it is ready or so many seconds are over.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub wait: Option<Duration>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.trim_end_matches('s').parse().map_err(|error| format!("{error}"))?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

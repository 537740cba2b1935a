//! The command line of `mesh-controlplane`, turned into [`Settings`].

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use mesh_proto::names::{ROOT_NAMESPACE, port};

use crate::app::{CaSettings, Settings, Webhooks};
use crate::own::{DEFAULT_REVISION, Own};
use crate::push::Debounce;
use crate::source::KubeSettings;

/// Ferromesh's control plane.
#[derive(Debug, Parser)]
#[command(name = "mesh-controlplane", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve configuration and certificates until SIGTERM or SIGINT.
    Run(Box<Run>),
}

/// Options of `run`.
#[derive(Debug, Args)]
pub struct Run {
    /// Directory or file of YAML, watched; may be given several times.
    #[arg(long = "config-dir", value_name = "DIR")]
    config_dirs: Vec<PathBuf>,
    /// Watch the objects of the cluster that this kubeconfig's current context names. In a pod, without --config-dir, the pod's own cluster is
    /// watched.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Plaintext xDS, and certificates for this machine.
    #[arg(long, value_name = "ADDR", default_value_t = any(port::XDS_PLAINTEXT))]
    grpc_addr: SocketAddr,
    /// xDS and certificates over TLS.
    #[arg(long, value_name = "ADDR", default_value_t = any(port::XDS_TLS))]
    secure_grpc_addr: SocketAddr,
    /// Metrics, version, debug pages.
    #[arg(long, value_name = "ADDR", default_value_t = any(port::MONITORING))]
    monitoring_addr: SocketAddr,
    /// The webhooks that the API server calls, over TLS; without it there are none.
    #[arg(long, alias = "httpsAddr", value_name = "ADDR", num_args = 0..=1, default_missing_value = "[::]:15017", value_parser = address)]
    webhook_addr: Option<SocketAddr>,
    /// Settings of sidecar injection in YAML, followed.
    #[arg(long, value_name = "FILE", requires = "webhook_addr")]
    injection_settings: Option<PathBuf>,
    /// Revision of this control plane: it reads configuration that names it by the label istio.io/rev, or no revision.
    #[arg(long, env = "REVISION", value_name = "NAME", default_value = DEFAULT_REVISION)]
    revision: String,
    /// Namespace of this control plane: its settings, secrets and leases are there, and policies there are the whole mesh's.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME", default_value = ROOT_NAMESPACE)]
    namespace: String,
    /// DNS domain of Kubernetes services.
    #[arg(long, default_value = "cluster.local")]
    domain: String,
    /// Keep the self-signed root and the key of tokens in this directory. Without it they last as long as the process; with a cluster the authority is
    /// that of secret cacerts or istio-ca-secret in --namespace.
    #[arg(long, value_name = "DIR", conflicts_with = "plugged_in_ca_dir")]
    ca_dir: Option<PathBuf>,
    /// Sign by the authority in this directory: ca-cert.pem, ca-key.pem, root-cert.pem, cert-chain.pem.
    #[arg(long, value_name = "DIR")]
    plugged_in_ca_dir: Option<PathBuf>,
    /// Another name or address by which proxies reach the TLS port; may be given several times.
    #[arg(long = "serving-host", value_name = "HOST")]
    serving_hosts: Vec<String>,
    /// Never write to the cluster, not even when this replica leads: neither the status of objects nor the mesh's roots.
    #[arg(long)]
    read_only: bool,
    /// How long the WorkloadEntry of a workload that registered itself outlives its proxy's connection, such as 10s.
    #[arg(long, value_name = "TIME", env = "PILOT_WORKLOAD_ENTRY_GRACE_PERIOD", default_value = "10s", value_parser = duration)]
    workload_entry_grace: Duration,
    /// Pause after the last change before it is published, milliseconds.
    #[arg(long, value_name = "MS", env = "PILOT_DEBOUNCE_AFTER_MS", default_value_t = 100)]
    debounce_quiet_ms: u64,
    /// Longest wait of a change, milliseconds.
    #[arg(long, value_name = "MS", env = "PILOT_DEBOUNCE_MAX_MS", default_value_t = 10_000)]
    debounce_max_ms: u64,
    /// How many streams may make resources at a time; by default as many as there are processors.
    #[arg(long, value_name = "N", env = "PILOT_PUSH_THROTTLE")]
    push_throttle: Option<usize>,
}

/// An address, or `:PORT` on every one of them, as Istio's flags have it.
fn address(text: &str) -> Result<SocketAddr, String> {
    let everywhere = text.strip_prefix(':').map(|port| format!("[::]:{port}"));
    everywhere.as_deref().unwrap_or(text).parse().map_err(|error: std::net::AddrParseError| error.to_string())
}

/// A time as MeshConfig has it.
fn duration(text: &str) -> Result<Duration, String> {
    let read: Result<mesh_proto::crd::Duration, _> = serde_json::from_value(text.into());
    read.map(|duration| duration.0).map_err(|error| error.to_string())
}

fn any(port: u16) -> SocketAddr {
    (IpAddr::V6(Ipv6Addr::UNSPECIFIED), port).into()
}

impl Run {
    /// The settings that were meant; an error says what cannot be had.
    pub fn settings(self) -> anyhow::Result<Settings> {
        let in_pod = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
        let kubernetes = match &self.kubeconfig {
            Some(file) => {
                anyhow::ensure!(file.exists(), "--kubeconfig {}: there is no such file", file.display());
                Some(KubeSettings { kubeconfig: self.kubeconfig.clone() })
            }
            None => (in_pod && self.config_dirs.is_empty()).then(KubeSettings::default),
        };
        let in_cluster = kubernetes.is_some();
        for path in &self.config_dirs {
            anyhow::ensure!(path.exists(), "--config-dir {}: there is no such file or directory", path.display());
        }
        Ok(Settings {
            config_dirs: self.config_dirs,
            kubernetes,
            grpc_addr: Some(self.grpc_addr),
            secure_grpc_addr: Some(self.secure_grpc_addr),
            monitoring_addr: Some(self.monitoring_addr),
            own: Own { revision: self.revision, namespace: self.namespace, domain: self.domain },
            ca: match (self.plugged_in_ca_dir, self.ca_dir) {
                (Some(dir), _) => CaSettings::PluggedIn { dir },
                (None, None) if in_cluster => CaSettings::Cluster,
                (None, dir) => CaSettings::SelfSigned { dir },
            },
            debounce: Debounce {
                quiet: Duration::from_millis(self.debounce_quiet_ms),
                max: Duration::from_millis(self.debounce_max_ms),
            },
            push_throttle: self.push_throttle,
            serving_hosts: self.serving_hosts,
            writes: !self.read_only,
            entry_grace: self.workload_entry_grace,
            webhooks: self.webhook_addr.map(|addr| Webhooks { addr: Some(addr), injection: self.injection_settings }),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn run(args: &[&str]) -> anyhow::Result<Settings> {
        let cli = Cli::try_parse_from(["mesh-controlplane", "run"].iter().chain(args))?;
        let Command::Run(run) = cli.command;
        run.settings()
    }

    #[test]
    fn defaults_are_istios_ports() {
        let settings = run(&[]).unwrap();
        let ports = [settings.grpc_addr, settings.secure_grpc_addr, settings.monitoring_addr];
        assert_eq!(ports.map(|address| address.unwrap().port()), [15010, 15012, 15014]);
        assert_eq!(settings.ca, CaSettings::SelfSigned { dir: None });
    }

    #[test]
    fn webhooks_are_served_where_they_are_wanted() {
        assert_eq!(run(&[]).unwrap().webhooks, None);
        for (args, address) in [
            (&["--webhook-addr"][..], "[::]:15017"),
            (&["--httpsAddr", ":15018"], "[::]:15018"),
            (&["--webhook-addr=127.0.0.1:1", "--revision", "canary"], "127.0.0.1:1"),
        ] {
            let settings = run(args).unwrap();
            assert_eq!(settings.webhooks.unwrap().addr, Some(address.parse().unwrap()), "{args:?}");
            assert_eq!(settings.own.revision, if args.len() == 3 { "canary" } else { "default" });
        }
    }

    #[test]
    fn it_may_be_of_any_namespace() {
        assert_eq!(run(&["--kubeconfig", "/dev/null"]).unwrap().own, Own::default());
        let settings = run(&["--kubeconfig", "/dev/null", "--namespace", "mesh", "--domain", "corp"]).unwrap();
        assert_eq!((settings.own.namespace.as_str(), settings.own.domain.as_str()), ("mesh", "corp"));
        assert_eq!(settings.ca, CaSettings::Cluster);
    }

    #[test]
    fn what_cannot_be_had_is_refused() {
        for (args, reason) in [
            (&["--kubeconfig", "/does/not/exist"][..], "no such file"),
            (&["--config-dir", "/does/not/exist"], "no such file or directory"),
            (&["--ca-dir", "a", "--plugged-in-ca-dir", "b"], "cannot be used with"),
            (&["--grpc-addr", "15010"], "invalid socket address"),
            (&["--injection-settings", "a"], "--webhook-addr"),
            (&["--workload-entry-grace", "long"], "--workload-entry-grace"),
        ] {
            let error = run(args).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}

//! `cargo xtask e2e`: the mesh on a real cluster, from images to `meshctl uninstall`.
//!
//! The steps are a test program, `integration-tests/tests/e2e`; this makes what it needs: images, a cluster that has them, meshctl.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::ci::tools;
use crate::{cluster, images, process};

/// Arguments of `e2e`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Only steps whose names hold one of these, on a cluster where the steps before have run.
    names: Vec<String>,
    /// Whose cluster: one that is made for this, or that of the kubeconfig.
    #[arg(long, value_enum, default_value_t = Provider::Kind)]
    provider: Provider,
    /// The cluster's name, of those that kind makes.
    #[arg(long, default_value = "ferromesh-e2e")]
    name: String,
    /// Of a provider `kubeconfig`.
    #[arg(long, env = "KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// Registry of the images; with `kubeconfig` they must be there already.
    #[arg(long, default_value = "ferromesh")]
    hub: String,
    /// Their tag.
    #[arg(long, default_value = env!("CARGO_PKG_VERSION"))]
    tag: String,
    /// Cargo's profile of the programs in the images.
    #[arg(long, default_value = "dev")]
    profile: String,
    /// Leave the cluster as it is at the end, and use one of that name that is there.
    #[arg(long)]
    keep: bool,
}

/// Where the cluster comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Provider {
    /// Made by kind, on this machine.
    Kind,
    /// Any cluster that a kubeconfig leads to.
    Kubeconfig,
}

/// Nodes beside the first, which takes no pods: one of them may be drained.
const WORKERS: usize = 2;

/// Runs it all.
pub fn run(arguments: &Arguments) -> Result<()> {
    if arguments.provider == Provider::Kubeconfig {
        let kubeconfig = arguments.kubeconfig.clone().context("--kubeconfig or $KUBECONFIG says which cluster")?;
        return steps(arguments, &kubeconfig);
    }
    for tool in [tools::NSENTER, tools::TCPDUMP] {
        tool.ensure()?;
    }
    let kubeconfig = match cluster::kubeconfig(&arguments.name)? {
        Some(kubeconfig) if arguments.keep => kubeconfig,
        _ => cluster::up(&arguments.name, WORKERS, None)?,
    };
    let outcome = images::run(&images::Arguments::all(&arguments.profile, &arguments.hub, &arguments.tag))
        .and_then(|images| cluster::load(&arguments.name, &images))
        .and_then(|()| steps(arguments, &kubeconfig));
    if !arguments.keep {
        cluster::down(&arguments.name)?;
    }
    outcome
}

fn steps(arguments: &Arguments, kubeconfig: &Path) -> Result<()> {
    process::run("cargo", &["build", "--workspace", "--bins"])?;
    let meshctl = process::target().join("debug/meshctl");
    let provider = if arguments.provider == Provider::Kind { "kind" } else { "kubeconfig" };
    let kubectl = cluster::kubectl()?;
    let variables = [
        ("FERROMESH_E2E_KUBECONFIG", &*kubeconfig.to_string_lossy()),
        ("FERROMESH_E2E_KUBECTL", &kubectl),
        ("FERROMESH_E2E_MESHCTL", &meshctl.to_string_lossy()),
        ("FERROMESH_E2E_HUB", &arguments.hub),
        ("FERROMESH_E2E_TAG", &arguments.tag),
        ("FERROMESH_E2E_PROVIDER", provider),
    ];
    let mut command = vec!["test", "--workspace", "--test", "e2e", "--"];
    command.extend(arguments.names.iter().map(String::as_str));
    process::run_with("cargo", &command, &variables)
}

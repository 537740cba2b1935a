//! `cargo xtask cluster`: real Kubernetes clusters on this machine, made by kind.
//!
//! With kind on the path, its stock node image is used, as its users know it. A machine without it, or without a registry, gets the same
//! from Go modules alone: [`parts`] builds the programs, [`image`] a node image out of them, [`kind`] makes clusters of it, and
//! [`engine`] starts Docker where none runs.

mod engine;
mod image;
mod kind;
mod parts;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Subcommand, ValueEnum};

pub use kind::{down, kubeconfig, load, up};
pub use parts::build as build_parts;

use crate::ci::tools;
use crate::process;

/// Arguments of `cluster`.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Builds programs of Kubernetes, etcd, CoreDNS and kind from their Go modules into the cache; all, or those named.
    Parts { names: Vec<String> },
    /// Makes the node image out of the parts and of Debian's packages, and prints its name.
    Image,
    /// Makes a cluster, waits until it is ready, and prints its kubeconfig's path.
    Up {
        name: String,
        /// Nodes beside the control plane's, which takes pods too if it is alone.
        #[arg(long, default_value_t = 0)]
        workers: usize,
        /// Where the nodes' image comes from; `stock` if kind is on the path.
        #[arg(long)]
        nodes: Option<Nodes>,
    },
    /// Removes a cluster and its kubeconfig.
    Down { name: String },
    /// Copies images of the local Docker engine to all nodes of a cluster. Pods need `imagePullPolicy: IfNotPresent` and a tag that isn't `latest`.
    Load {
        name: String,
        #[arg(required = true)]
        images: Vec<String>,
    },
    /// Starts a Docker engine if none answers, or stops the one that was started so.
    Engine { action: Action },
}

/// Where the nodes' image comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Nodes {
    /// The image of the kind on the path, from its registry.
    Stock,
    /// The image that `cluster image` makes.
    Built,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Action {
    Start,
    Stop,
}

/// Runs one of the commands.
pub fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.command {
        Command::Parts { names } => {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            for path in parts::build(if names.is_empty() { parts::ALL } else { &names })? {
                println!("{}", path.display());
            }
            Ok(())
        }
        Command::Image => {
            engine::start()?;
            println!("{}", image::build()?);
            Ok(())
        }
        Command::Up { name, workers, nodes } => {
            println!("{}", kind::up(name, *workers, *nodes)?.display());
            Ok(())
        }
        Command::Down { name } => kind::down(name),
        Command::Load { name, images } => kind::load(name, images),
        Command::Engine { action: Action::Start } => engine::start(),
        Command::Engine { action: Action::Stop } => engine::stop(),
    }
}

/// The user's own kubectl, or the one that is built.
pub fn kubectl() -> Result<String> {
    if process::exists("kubectl") {
        return Ok("kubectl".to_owned());
    }
    Ok(parts::build(&["kubectl"])?.iter().map(|path| text(path)).collect())
}

/// What clusters keep between runs and between clones.
fn cache() -> PathBuf {
    tools::cache().join("kind")
}

/// The files that say what is built, and of which versions.
fn recipes() -> PathBuf {
    process::root().join("xtask/cluster")
}

/// Waits until no other process makes what `name` stands for, and keeps others waiting until it is dropped.
fn lock(name: &str) -> Result<File> {
    let folder = cache();
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let path = folder.join(format!("{name}.lock"));
    let file = File::create(&path).with_context(|| path.display().to_string())?;
    if file.try_lock().is_err() {
        println!("waiting for another process that holds {}", path.display());
        file.lock().with_context(|| path.display().to_string())?;
    }
    Ok(file)
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// A short name of some content, the same on every machine.
fn key(content: &[&[u8]]) -> String {
    use sha2::Digest as _;
    let mut hash = sha2::Sha256::new();
    for part in content {
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    }
    hash.finalize().iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

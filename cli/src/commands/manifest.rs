//! `meshctl manifest generate`: the objects that `meshctl install` would apply, as YAML, for those who apply them by other means.

use std::process::ExitCode;

use anyhow::Result;
use mesh_proto::names::ROOT_NAMESPACE;
use serde_json::Value;

use crate::install::manifest::Manifest;
use crate::install::values::Wishes;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Print all objects in the order in which they are to be applied; no cluster is asked
    Generate(Generate),
}

#[derive(Debug, clap::Args)]
struct Generate {
    #[command(flatten)]
    wishes: Wishes,
    /// Namespace of the control plane; it must exist before these objects are applied
    #[arg(short = 'i', long = "istio-namespace", alias = "istioNamespace", default_value = ROOT_NAMESPACE, value_name = "NAME")]
    namespace: String,
}

/// Prints.
pub fn run(args: &Args) -> Result<ExitCode> {
    let Command::Generate(args) = &args.command;
    let installation = args.wishes.installation(&Value::Null, &args.namespace)?;
    let manifest = Manifest::new(&installation, &installation.revision)?;
    anstream::print!("{}", manifest.to_yaml()?);
    Ok(ExitCode::SUCCESS)
}

//! The command line of `mesh-gateway`: the proxy's flags, which mean the same here.

use clap::{Parser, Subcommand};
use mesh_proxy::args::{Probe, Run};

/// The gateway of Ferromesh.
#[derive(Debug, Parser)]
#[command(name = "mesh-gateway", version, about)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the gateway.
    Run(Box<Run>),
    /// Ask a running gateway whether it is ready; the exit code tells.
    Probe(Probe),
}

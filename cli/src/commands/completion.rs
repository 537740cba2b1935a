//! `meshctl completion SHELL`: a completion script on standard output.

use std::process::ExitCode;

use anyhow::Result;
use clap::CommandFactory;
use clap_complete::Shell;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Shell that will read the script, for example `source <(meshctl completion bash)`
    pub shell: Shell,
}

/// Prints the script.
pub fn run(args: &Args) -> Result<ExitCode> {
    clap_complete::generate(args.shell, &mut crate::cli::Cli::command(), "meshctl", &mut std::io::stdout());
    Ok(ExitCode::SUCCESS)
}

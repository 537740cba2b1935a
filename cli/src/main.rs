//! The binary `meshctl`: reads the command line, runs the command, turns its outcome into an exit code.
//!
//! 0: done; 1: the command failed or found errors; 2: the command line is wrong.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use meshctl::cli::Cli;
use meshctl::output::BAD;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("MESHCTL_LOG");
    let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(cli.default_log()));
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr).init();
    match cli.run() {
        Ok(code) => code,
        Err(error) => {
            anstream::eprintln!("{BAD}error{BAD:#}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

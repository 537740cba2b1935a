//! The sidecar's binary.

use std::process::ExitCode;

use clap::Parser;
use mesh_proxy::args::{Arguments, Command};
use mesh_proxy::bootstrap::agent::Role;
use mesh_proxy::{launch, logging, redirect};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    launch::main(async {
        match arguments.command {
            Command::Run(run) => launch::run(*run, Role::Sidecar).await,
            Command::Probe(probe) => launch::probe(&probe).await,
            Command::Redirect(args) => {
                logging::init("info", logging::Format::Text).map_err(anyhow::Error::msg)?;
                Ok(redirect::run(&args)?)
            }
        }
    })
}

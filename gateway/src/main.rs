//! The gateway's binary.

use std::process::ExitCode;

use clap::Parser;
use mesh_gateway::app;
use mesh_gateway::args::{Arguments, Command};
use mesh_proxy::launch;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    launch::main(async {
        match arguments.command {
            Command::Run(run) => app::run(*run).await,
            Command::Probe(probe) => launch::probe(&probe).await,
        }
    })
}

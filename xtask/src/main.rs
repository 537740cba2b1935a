//! Developer tasks of Ferromesh: `cargo xtask COMMAND`.
//!
//! One file a command. Nothing here is shipped; xtask depends on no crate of the workspace, it reads files and runs programs.

mod bench;
mod ci;
mod cluster;
mod codegen;
mod e2e;
mod fuzz;
mod images;
mod process;
mod tidy;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Developer tasks of Ferromesh", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Our proxy beside Envoy and HAProxy: CPU, latency, memory.
    Bench(bench::Arguments),
    /// Everything that must pass before a change lands; installs what it needs where it may.
    Ci(ci::Arguments),
    /// Real Kubernetes on this machine, by kind.
    Cluster(cluster::Arguments),
    /// Generated code and descriptors of `proto`.
    Codegen(codegen::Arguments),
    /// The mesh on a real cluster, from images to `meshctl uninstall`.
    E2e(e2e::Arguments),
    /// libFuzzer on the targets of proxy/fuzz.
    Fuzz(fuzz::Arguments),
    /// Container images of the programs.
    Images(images::Arguments),
    /// The rules of docs/architecture.md that a program can check.
    Tidy,
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Ci(arguments) => ci::run(&arguments),
        Command::Cluster(arguments) => cluster::run(&arguments),
        Command::Codegen(arguments) => codegen::run(&arguments),
        Command::E2e(arguments) => e2e::run(&arguments),
        Command::Fuzz(arguments) => fuzz::run(&arguments),
        Command::Images(arguments) => images::run(&arguments).map(drop),
        Command::Tidy => tidy::run(),
    }
}

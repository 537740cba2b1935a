//! The control plane's binary: arguments, logs, signals.

use std::io::IsTerminal as _;

use clap::Parser;
use mesh_controlplane::app::ControlPlane;
use mesh_controlplane::args::{Cli, Command};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Command::Run(run) = Cli::parse().command;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr).init();
    // An error means that it is installed already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    // An API server may be long in coming; whoever waits may end it.
    let plane = tokio::select! {
        plane = ControlPlane::start(run.settings()?) => plane?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    for finding in plane.findings() {
        tracing::warn!("{finding}");
    }
    tracing::info!(
        xds = %plane.grpc_addr(), secure_xds = %plane.secure_grpc_addr(), monitoring = %plane.monitoring_addr(),
        "the control plane is ready"
    );
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("the control plane stops");
    plane.shutdown().await;
    Ok(())
}

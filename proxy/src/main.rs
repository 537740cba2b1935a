//! The sidecar's binary: reads flags, runs the proxy, and ends it in order.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use mesh_proxy::app::{Options, Proxy};
use mesh_proxy::args::{Arguments, Command, Probe, Run};
use mesh_proxy::bootstrap::Bootstrap;
use mesh_proxy::bootstrap::agent::Agent;
use mesh_proxy::{admin, identity, logging};
use tokio::signal::unix::{SignalKind, signal};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    mesh_proxy::runtime::small_pages();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
        runtime.block_on(async {
            match arguments.command {
                Command::Run(run) => self::run(*run).await,
                Command::Probe(probe) => self::probe(&probe).await,
            }
        })
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(run: Run) -> Result<()> {
    logging::init(&run.log_level, run.log_format).map_err(anyhow::Error::msg).context("--log-level")?;
    let mut bootstrap = match &run.config {
        Some(path) => Bootstrap::from_file(path)?,
        None => from_environment(&run)?,
    };
    for (address, wanted) in [
        (&mut bootstrap.servers.admin, run.admin_addr),
        (&mut bootstrap.servers.status, run.status_addr),
        (&mut bootstrap.servers.prometheus, run.prometheus_addr),
        (&mut bootstrap.servers.merged, run.merged_addr),
    ] {
        *address = wanted.or(*address);
    }
    bootstrap.drain = run.drain_time.unwrap_or(bootstrap.drain);
    let patience = bootstrap.drain;
    let proxy = Proxy::start(bootstrap, Options { workers: run.workers }).await?;
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let ready = async {
        proxy.ready().await;
        tracing::info!("ready");
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = ready => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = proxy.quit_requested() => {}
    }
    tracing::info!(seconds = patience.as_secs(), "draining; a second signal ends at once");
    tokio::select! {
        left = proxy.drain(patience) => if left > 0 {
            tracing::warn!(left, "connections are cut");
        },
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    proxy.stop().await;
    Ok(())
}

fn from_environment(run: &Run) -> Result<Bootstrap> {
    let variables: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let mut agent = Agent::from_environment(&variables, |file| std::fs::read_to_string(file).ok())?;
    if let Some(address) = &run.discovery_address {
        agent.discovery_address = address.clone();
    }
    if let Some(file) = &run.token_file {
        agent.token = identity::Token::File(file.clone());
    }
    if let Some(file) = &run.root_cert {
        agent.root = identity::Root::File(file.clone());
    }
    Ok(agent.bootstrap()?)
}

async fn probe(probe: &Probe) -> Result<()> {
    let patience = probe.wait.unwrap_or_default();
    let started = tokio::time::Instant::now();
    loop {
        let answer = admin::fetch(probe.address, &probe.path, Duration::from_secs(3)).await;
        let failed = match answer {
            Ok((status, _)) if status.is_success() => return Ok(()),
            Ok((status, body)) => anyhow::anyhow!("{status}: {}", String::from_utf8_lossy(&body).trim()),
            Err(error) => error,
        };
        if started.elapsed() >= patience {
            return Err(failed.context("not ready"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

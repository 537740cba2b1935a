//! What the binaries have in common: from flags to a running proxy, signals, and an orderly end.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

use crate::app::{Options, Proxy};
use crate::args::{Probe, Run};
use crate::bootstrap::Bootstrap;
use crate::bootstrap::agent::{Agent, Role};
use crate::{admin, dns, identity, logging};

/// Drives a binary's work to its end, and tells the shell how it went.
pub fn main(work: impl Future<Output = Result<()>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(work)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a proxy until a signal or `/quitquitquit`, then lets it leave and drains it; one more signal ends each of these steps.
pub async fn run(run: Run, role: Role) -> Result<()> {
    logging::init(&run.log_level, run.log_format).map_err(anyhow::Error::msg).context("--log-level")?;
    let bootstrap = read(&run, role)?;
    bootstrap.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let patience = bootstrap.drain;
    let minimum = run.minimum_drain_time;
    let workers = run.workers.or(bootstrap.workers).unwrap_or(0);
    // Before anything is served, so that no signal ends what is under way without a drain.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let proxy = Proxy::start(bootstrap, Options { workers }).await?;
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
    if !minimum.is_zero() {
        tracing::info!(seconds = minimum.as_secs(), "leaving; a second signal drains at once");
        proxy.leave();
        tokio::select! {
            () = tokio::time::sleep(minimum) => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
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

/// [`bootstrap`] on a thread that ends: what reading leaves in its heap can be given back by another, but what the main thread's heap holds
/// only by the main thread, which has nothing more to do (13 KiB for each of 1,000 clusters).
fn read(run: &Run, role: Role) -> Result<Bootstrap> {
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| bootstrap(run, role));
        reading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// With what the flags and the environment make a proxy of this role start.
pub fn bootstrap(run: &Run, role: Role) -> Result<Bootstrap> {
    let mut bootstrap = match &run.config {
        Some(path) => Bootstrap::from_file(path)?,
        None => from_environment(run, role)?,
    };
    let id = &bootstrap.node.id;
    if role == Role::Router && id.starts_with("sidecar~") {
        bail!("node.id: `{id}` is a sidecar's; a gateway's begins with `router~`");
    }
    for (address, wanted) in [
        (&mut bootstrap.servers.admin, run.admin_addr),
        (&mut bootstrap.servers.status, run.status_addr),
        (&mut bootstrap.servers.prometheus, run.prometheus_addr),
        (&mut bootstrap.servers.merged, run.merged_addr),
    ] {
        *address = wanted.or(*address);
    }
    bootstrap.drain = run.drain_time.unwrap_or(bootstrap.drain);
    Ok(bootstrap)
}

fn from_environment(run: &Run, role: Role) -> Result<Bootstrap> {
    let variables: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let mut agent = Agent::from_environment(&variables, |file| std::fs::read_to_string(file).ok())?;
    agent.role = role;
    if let Some(address) = &run.discovery_address {
        agent.discovery_address = address.clone();
    }
    if let Some(file) = &run.token_file {
        agent.token = identity::Token::File(file.clone());
    }
    if let Some(file) = &run.root_cert {
        agent.root = identity::Root::File(file.clone());
    }
    match (run.dns_addr, &mut agent.dns) {
        (None, _) => {}
        (Some(address), Some(settings)) => settings.listen = vec![address],
        (Some(address), None) => {
            agent.answer_dns(vec![address], false, &std::fs::read_to_string(dns::RESOLV_CONF).unwrap_or_default());
        }
    }
    Ok(agent.bootstrap()?)
}

/// Asks a running proxy until it is ready or patience is over.
pub async fn probe(probe: &Probe) -> Result<()> {
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

//! `cargo xtask bench`: our proxy beside Envoy and HAProxy, on one machine in one interleaved run.
//!
//! The main figure is **CPU-microseconds per request of the proxy's processes alone** at a fixed rate: it moves far less than throughput and
//! latency when a neighbour is loud. Each repetition runs all proxies, in turns of order, each with fresh processes; ratios are
//! medians of those of each repetition. Envoy and ours get the same bootstrap. Proxies share one core, the load and the backend another.

mod clusters;
mod load;
mod peer;
mod report;
mod system;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::{ci::tools, process};
use peer::{Peer, Running, Topology};
use report::{Memory, Sample};
use system::Tree;

/// Arguments of `bench`.
#[derive(clap::Args)]
pub struct Arguments {
    /// What is measured.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Topology::Http1, Topology::Http2, Topology::Sidecar])]
    topology: Vec<Topology>,
    /// Whom; ratios are against the first.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Peer::Envoy, Peer::Haproxy, Peer::Ours])]
    peers: Vec<Peer>,
    /// Repetitions; figures are medians. With 0 only what clusters cost is measured.
    #[arg(long, default_value_t = 3)]
    reps: usize,
    /// Seconds of each phase.
    #[arg(long, default_value_t = 5)]
    seconds: u32,
    /// Skip what measures memory: connections, clusters.
    #[arg(long)]
    no_memory: bool,
    /// Also write the table to this file.
    #[arg(long)]
    out: Option<std::path::PathBuf>,
}

/// Connections that the load keeps open.
const CONNECTIONS: u32 = 32;
/// Idle connections of the memory phase.
const IDLE_CONNECTIONS: u32 = 1_000;

/// How long after its last event a proxy's memory is read.
const SETTLED_AFTER: Duration = Duration::from_secs(12);

/// Installs what is needed, measures, prints a table.
pub fn run(arguments: &Arguments) -> Result<()> {
    for tool in [tools::NGINX, tools::HAPROXY, tools::H2LOAD, tools::OPENSSL, tools::TASKSET] {
        tool.ensure()?;
    }
    process::run("cargo", &["build", "--release", "--package", "mesh-proxy"])?;
    let home = system::home()?;
    let programs = peer::Programs::find(&arguments.peers)?;
    system::certificates(&home.join("certs"))?;
    let mut samples = Vec::new();
    for repetition in 0..arguments.reps {
        for topology in &arguments.topology {
            let mut order = arguments.peers.clone();
            if repetition % 2 == 1 {
                order.reverse();
            }
            for peer in order {
                let sample = measure(arguments, &programs, &home, *topology, peer)
                    .with_context(|| format!("{topology:?} with {peer:?}"))?;
                println!("{repetition} {topology:?} {peer:?}: {sample}");
                samples.push((*topology, peer, sample));
            }
        }
    }
    let mut table = String::new();
    if !samples.is_empty() {
        table += &report::table(&arguments.topology, &arguments.peers, &samples);
        table += "\n";
    }
    if !arguments.no_memory {
        table += &clusters::table(&programs, &home, &arguments.peers)?;
    }
    println!("\n{table}");
    if let Some(path) = &arguments.out {
        std::fs::write(path, table)?;
    }
    Ok(())
}

fn measure(
    arguments: &Arguments,
    programs: &peer::Programs,
    home: &Path,
    topology: Topology,
    peer: Peer,
) -> Result<Sample> {
    let running = Running::start(programs, home, topology, peer)?;
    let idle = settled(&running.proxies)?;
    let url = format!("http://127.0.0.1:{}/", running.listen);
    let http2 = topology == Topology::Http2;
    load::run(&url, http2, CONNECTIONS, 2_000, None, &running.folder)?;
    let rate = topology.rate();
    let before = cpu(&running.proxies)?;
    let steady = load::run(&url, http2, CONNECTIONS, rate * arguments.seconds, Some(rate), &running.folder)?;
    let between = cpu(&running.proxies)?;
    // As many as would take about as long at the speed of a good proxy; h2load ends with the last of them.
    let most = load::run(&url, http2, CONNECTIONS, rate * arguments.seconds * 2, None, &running.folder)?;
    let after = cpu(&running.proxies)?;
    let memory = if arguments.no_memory || http2 { None } else { Some(Memory::measure(&running)?) };
    if steady.failed + most.failed > 0 {
        bail!("{} requests failed", steady.failed + most.failed);
    }
    Ok(Sample {
        steady_cpu: (between - before) * 1e6 / f64::from(steady.requests),
        most_cpu: (after - between) * 1e6 / f64::from(most.requests),
        most_rate: most.rate,
        p50: steady.p50,
        p99: steady.p99,
        idle,
        memory,
    })
}

fn cpu(proxies: &[Tree]) -> Result<f64> {
    proxies.iter().map(Tree::cpu_seconds).sum()
}

/// Resident memory when it has come to rest: proxies give back what starting, or a burst, has cost them.
fn settled(proxies: &[Tree]) -> Result<f64> {
    std::thread::sleep(SETTLED_AFTER);
    proxies.iter().map(Tree::resident_mib).sum()
}

impl Memory {
    /// Of proxies that served; their connections are open and idle when they are counted, each after one request.
    fn measure(running: &Running) -> Result<Self> {
        let served = settled(&running.proxies)?;
        let mut open = Vec::with_capacity(IDLE_CONNECTIONS as usize);
        for _ in 0..IDLE_CONNECTIONS {
            open.push(load::one_request(running.listen)?);
        }
        let each = (settled(&running.proxies)? - served) * 1024.0 / f64::from(IDLE_CONNECTIONS);
        Ok(Self { served, each })
    }
}

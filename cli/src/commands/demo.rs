//! `meshctl demo`: runs [`crate::demo`] and prints what was observed; with `--keep` leaves it running to play with.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;

use super::Interrupt;
use crate::demo::{Demo, Options, ROUTE_FILE, checks};
use crate::local::state;
use crate::output::{BAD, FAINT, Format, GOOD, HEADING};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Leave the mesh running until Ctrl-C, and say how to play with it
    #[arg(long)]
    pub keep: bool,
    /// Requests measured before the weights change, and as many after
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub requests: u64,
    /// Clients at once
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub concurrency: u16,
    /// Format
    #[arg(short, long, default_value = "table")]
    pub output: Format,
}

/// Runs the demo. Exits with 0 only if all checks hold.
pub async fn run(args: Args, state_dir: Option<PathBuf>) -> Result<ExitCode> {
    let started = Instant::now();
    let temporary = tempfile::Builder::new().prefix("ferromesh-demo-").tempdir()?;
    let directory = match &state_dir {
        Some(directory) => directory.as_path(),
        None => temporary.path(),
    };
    state::create(directory)?;
    let people = args.output == Format::Table;
    // From here on SIGTERM and Ctrl-C end the demo as it ends by itself: nothing is left behind.
    let mut interrupt = Interrupt::new()?;
    let demo = tokio::select! {
        demo = Demo::start(directory) => demo?,
        status = interrupt.wait() => return Ok(status),
    };
    if people {
        introduce(&demo, started)?;
    }
    let options = Options {
        requests: args.requests,
        concurrency: usize::from(args.concurrency),
        progress: people && std::io::stderr().is_terminal(),
    };
    let report = tokio::select! {
        report = checks::run(&demo, options) => report?,
        status = interrupt.wait() => {
            demo.stop().await;
            return Ok(status);
        }
    };
    args.output.print(&report, |report| report.page())?;
    if people {
        let (style, verdict) =
            if report.passed() { (GOOD, "All checks hold.") } else { (BAD, "Some checks do not hold.") };
        anstream::println!("\n{style}{verdict}{style:#} {FAINT}{:.1} s{FAINT:#}", started.elapsed().as_secs_f64());
    }
    if args.keep {
        invite(&demo, directory)?;
        interrupt.wait().await;
        state::State::remove(directory);
    }
    demo.stop().await;
    Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn introduce(demo: &Demo, started: Instant) -> Result<()> {
    anstream::println!(
        "{HEADING}A mesh on this machine{HEADING:#}: control plane and CA, ingress gateway on http://{}/productpage, \
         and {} sidecars beside a Bookinfo of real HTTP servers. {FAINT}Ready in {:.1} s.{FAINT:#}",
        demo.gateway()?,
        demo.mesh.sidecars(),
        started.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Says how to play with the mesh that is left running. Standard error, so that `-o json` stays JSON.
fn invite(demo: &Demo, directory: &Path) -> Result<()> {
    let state = demo.mesh.state();
    state.write(directory)?;
    let meshctl = format!("meshctl --state-dir {}", directory.display());
    anstream::eprintln!("\n{HEADING}It keeps running until Ctrl-C. Try:{HEADING:#}");
    anstream::eprintln!("  curl http://{}/productpage", demo.gateway()?);
    anstream::eprintln!("  $EDITOR {}    {FAINT}# change the weights{FAINT:#}", demo.config.join(ROUTE_FILE).display());
    anstream::eprintln!("  tail -f {}", demo.access_log.display());
    anstream::eprintln!("  {meshctl} proxy-status");
    anstream::eprintln!("  {meshctl} proxy-config route productpage-v1");
    anstream::eprintln!("  {meshctl} proxy-config secret ratings-v1");
    anstream::eprintln!("  {meshctl} local status");
    if let Some(outbound) = demo.mesh.outbound("productpage-v1") {
        anstream::eprintln!(
            "  curl -H 'host: ratings:9080' http://{outbound}/ratings/0    {FAINT}# refused: productpage may not{FAINT:#}"
        );
    }
    Ok(())
}

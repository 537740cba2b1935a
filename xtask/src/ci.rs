//! `cargo xtask ci`: what must pass before a change lands, in the order in which a failure is cheapest.
//!
//! Every tier either runs or is named at the end as not run; with `CI=true` a tier that could not run is a failure.

pub mod tools;

use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{cluster, fuzz, process, tidy};

/// Arguments of `ci`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Run only these tiers; their names are in the closing table.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

/// The tier against a real API server.
const KUBERNETES: &str = "kubernetes";
/// The parts of Kubernetes that it needs.
const API_SERVER: &[&str] = &["kube-apiserver", "etcd", "kubectl"];

/// One step: its name, what it needs, and how to run it.
struct Tier {
    name: &'static str,
    needs: &'static [tools::Tool],
    run: fn() -> Result<()>,
}

const TIERS: &[Tier] = &[
    Tier { name: "format", needs: &[], run: || process::run("cargo", &["fmt", "--all", "--check"]) },
    Tier { name: "tidy", needs: &[], run: tidy::run },
    Tier { name: "one-crypto-provider", needs: &[], run: one_crypto_provider },
    Tier { name: "clippy", needs: &[], run: clippy },
    Tier {
        name: "test",
        needs: &[tools::H2SPEC, tools::HELM, tools::CURL, tools::ENVOY, tools::GRPC, tools::IP, tools::UNSHARE],
        run: test,
    },
    Tier {
        name: "netns",
        needs: &[
            tools::IP,
            tools::NFT,
            tools::IPTABLES,
            tools::SETPRIV,
            tools::CURL,
            tools::DIG,
            tools::GETENT,
            tools::AIOSMTPD,
        ],
        run: netns,
    },
    Tier { name: KUBERNETES, needs: &[tools::GO], run: kubernetes },
    Tier { name: "fuzz", needs: &[tools::CXX], run: fuzz::smoke },
    Tier { name: "instructions", needs: &[tools::VALGRIND, tools::GUNGRAUN], run: instructions },
    Tier { name: "codegen", needs: &[], run: || crate::codegen::check() },
    Tier { name: "doc", needs: &[], run: doc },
];

enum Outcome {
    Passed(Duration),
    NotRun(String),
}

/// Runs the tiers in order and stops at the first that fails.
pub fn run(arguments: &Arguments) -> Result<()> {
    for name in &arguments.only {
        if !TIERS.iter().any(|tier| tier.name == name) {
            bail!(
                "no tier is called {name}; there are: {}",
                TIERS.iter().map(|tier| tier.name).collect::<Vec<_>>().join(", ")
            );
        }
    }
    let chosen = |tier: &&Tier| arguments.only.is_empty() || arguments.only.iter().any(|name| name == tier.name);
    // Go is installed before, since two installations at once are in each other's way.
    let beside = TIERS.iter().filter(chosen).any(|tier| tier.name == KUBERNETES) && tools::GO.ensure().is_ok();
    let _parts = beside.then(Background::parts).transpose()?;
    let mut outcomes = Vec::new();
    for tier in TIERS.iter().filter(chosen) {
        println!("\n== {} ==", tier.name);
        let missing: Vec<String> =
            tier.needs.iter().filter_map(|tool| tool.ensure().err().map(|error| format!("{error:#}"))).collect();
        if !missing.is_empty() {
            outcomes.push((tier.name, Outcome::NotRun(missing.join("; "))));
            continue;
        }
        let started = Instant::now();
        (tier.run)()?;
        outcomes.push((tier.name, Outcome::Passed(started.elapsed())));
    }
    close(&outcomes)
}

fn close(outcomes: &[(&str, Outcome)]) -> Result<()> {
    println!("\n== ci ==");
    let mut not_run = 0;
    for (name, outcome) in outcomes {
        match outcome {
            Outcome::Passed(time) => println!("{name:<22} passed in {} s", time.as_secs()),
            Outcome::NotRun(why) => {
                not_run += 1;
                println!("{name:<22} NOT RUN: {why}");
            }
        }
    }
    if not_run > 0 && std::env::var_os("CI").is_some_and(|value| value == "true") {
        bail!("{not_run} tiers did not run, and CI=true asks for all of them");
    }
    Ok(())
}

/// The build of parts, which takes minutes the first time, beside the tiers that come before; ended with its value.
struct Background(std::process::Child);

impl Background {
    /// What it says goes to a file, and what fails there is said by the tier, which builds what is missing and waits for what is going on.
    fn parts() -> Result<Self> {
        let log = tools::cache().join("parts.log");
        std::fs::create_dir_all(tools::cache())?;
        let output = std::fs::File::create(&log)?;
        println!("building parts of Kubernetes beside; the log is {}", log.display());
        let child = Command::new("nice")
            .args(["-n", "19"])
            .arg(std::env::current_exe()?)
            .args(["cluster", "parts"])
            .args(API_SERVER)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            // A group of its own, so that all compilers end when a tier fails.
            .process_group(0)
            .spawn()?;
        Ok(Self(child))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            let group = format!("-{}", self.0.id());
            let _ = process::output("kill", &["-TERM", "--", &group]);
            let _ = self.0.wait();
        }
    }
}

/// What it needs is built here, or awaited if the build beside is not done.
fn kubernetes() -> Result<()> {
    let parts = cluster::build_parts(API_SERVER)?;
    let folder = parts.first().and_then(|part| part.parent()).context("parts lie in a folder")?;
    let target = ["--workspace", "--test", "kubernetes"];
    process::run("cargo", &[&["clippy"], &target[..], &["--", "-D", "warnings"]].concat())?;
    process::run_with("cargo", &[&["test"], &target[..]].concat(), &[("FERROMESH_KUBE", &*folder.to_string_lossy())])
}

fn test() -> Result<()> {
    let (envoy, grpc) = (tools::ENVOY.path()?, tools::GRPC.path()?);
    let programs = [("FERROMESH_ENVOY", &*envoy.to_string_lossy()), ("FERROMESH_GRPC", &*grpc.to_string_lossy())];
    process::run_with("cargo", &["test", "--workspace"], &programs)
}

fn clippy() -> Result<()> {
    process::run("cargo", &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])
}

/// `--all-targets` leaves out what `cargo test` leaves out, so the lints run here.
fn netns() -> Result<()> {
    // The whole workspace, so that the features of all crates are those of the tiers before, and nothing is built twice.
    let target = ["--workspace", "--test", "netns"];
    process::run("cargo", &[&["clippy"], &target[..], &["--", "-D", "warnings"]].concat())?;
    process::run("cargo", &[&["test"], &target[..]].concat())
}

/// Limits are in the bench: what passes one fails.
fn instructions() -> Result<()> {
    let runner = tools::GUNGRAUN.path()?;
    process::run_with(
        "cargo",
        &["bench", "-p", "mesh-proxy", "--bench", "instructions"],
        &[("GUNGRAUN_RUNNER", &*runner.to_string_lossy())],
    )
}

fn doc() -> Result<()> {
    process::run_with(
        "cargo",
        &["doc", "--workspace", "--no-deps", "--quiet"],
        &[("RUSTDOCFLAGS", "-D warnings -A rustdoc::broken_intra_doc_links -A rustdoc::private_intra_doc_links")],
    )
}

/// Two TLS providers in one program panic at the first handshake; aws-lc-rs is ours, `ring` comes in through defaults.
fn one_crypto_provider() -> Result<()> {
    let lock = std::fs::read_to_string(process::root().join("Cargo.lock"))?;
    if lock.contains("name = \"ring\"")
        && process::output("cargo", &["tree", "-i", "ring"]).is_ok_and(|tree| !tree.trim().is_empty())
    {
        bail!("`ring` is in the dependency tree; see `cargo tree -i ring`");
    }
    println!("aws-lc-rs alone");
    Ok(())
}

//! A Docker engine: the one that runs, else Debian's, started here.
//!
//! A privileged container asks for every capability, as kind's nodes do. On a machine that itself lacks some (a container, a small VM) that
//! fails, so the engine that is started here runs `xtask/cluster/runtime`, which asks for what there is.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{cache, lock, recipes, text};
use crate::ci::tools;
use crate::process;

/// Longest wait for an engine that starts or stops.
const DEADLINE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(200);

/// Returns once an engine answers.
///
/// # Errors
/// If none does, and none can be installed or started; says where its log is.
pub fn start() -> Result<()> {
    if tools::DOCKER.ensure().is_ok() && answers() {
        return Ok(());
    }
    let _alone = lock("engine")?;
    if answers() {
        return Ok(());
    }
    if process::output("id", &["-u"])?.trim() != "0" {
        bail!("no Docker engine answers, and only root may start one");
    }
    for tool in [tools::DOCKERD, tools::JQ, tools::NFT, tools::IPTABLES] {
        tool.ensure()?;
    }
    // The engine outlives this clone.
    let runtime = cache().join("runtime");
    fs::copy(recipes().join("runtime"), &runtime)?;
    let log = cache().join("dockerd.log");
    let output = File::create(&log)?;
    println!("starting dockerd; its log is {}", log.display());
    let mut child = Command::new("setsid")
        .args(["dockerd", "--storage-driver", "overlay2", "--default-runtime", "held-caps", "--add-runtime"])
        .arg(format!("held-caps={}", text(&runtime)))
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .spawn()
        .context("cannot run dockerd")?;
    fs::write(pid_file(), child.id().to_string())?;
    let started = Instant::now();
    while !answers() {
        if let Some(status) = child.try_wait()? {
            bail!("dockerd ended: {status}; see {}", log.display());
        }
        if started.elapsed() > DEADLINE {
            bail!("dockerd did not answer within {} s; see {}", DEADLINE.as_secs(), log.display());
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}

/// Stops the engine that [`start`] started, with its containers; another is left alone.
pub fn stop() -> Result<()> {
    let _alone = lock("engine")?;
    let Ok(pid) = fs::read_to_string(pid_file()) else {
        println!("no engine was started here");
        return Ok(());
    };
    // Its number may be another program's by now.
    let alive = || fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "dockerd");
    if alive() {
        process::run("kill", &[&pid])?;
    }
    let started = Instant::now();
    while alive() {
        if started.elapsed() > DEADLINE {
            bail!("dockerd (process {pid}) did not end within {} s", DEADLINE.as_secs());
        }
        std::thread::sleep(LOOK);
    }
    Ok(fs::remove_file(pid_file())?)
}

/// True if an engine answers.
pub fn answers() -> bool {
    process::output("docker", &["version"]).is_ok()
}

fn pid_file() -> PathBuf {
    cache().join("dockerd.pid")
}

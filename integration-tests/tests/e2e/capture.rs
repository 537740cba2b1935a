//! What passes on a node's network, seen from outside of all pods by tcpdump.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use integration_tests::eventually;
use integration_tests::eventually::DEADLINE;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cluster::Cluster;
use crate::security::contains;

/// Captures on all nodes.
pub struct Capture {
    programs: Vec<Child>,
    folder: tempfile::TempDir,
}

impl Capture {
    /// Returns when packets to and from `port` are written down.
    pub fn start(cluster: &Cluster, port: u16) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut programs = Vec::new();
        for node in cluster.items(&["nodes"])? {
            let name = node["metadata"]["name"].as_str().context("a node without a name")?;
            let inspected = Command::new("docker").args(["inspect", "-f", "{{.State.Pid}}", name]).output()?;
            let pid = String::from_utf8(inspected.stdout)?.trim().to_owned();
            ensure!(!pid.is_empty(), "{name} is no container");
            let file = folder.path().join(name);
            let mut child = Command::new("nsenter")
                .args(["-t", &pid, "-n", "tcpdump", "-i", "any", "--immediate-mode", "-U", "-w"])
                .arg(&file)
                .args(["tcp", "port", &port.to_string()])
                .stderr(Stdio::piped())
                .spawn()
                .context("nsenter and tcpdump")?;
            let mut said = BufReader::new(child.stderr.take().context("stderr")?).lines();
            let listens = |line: &std::io::Result<String>| line.as_ref().is_ok_and(|line| line.contains("listening"));
            ensure!(said.any(|line| listens(&line)), "tcpdump does not listen on {name}");
            programs.push(child);
        }
        Ok(Self { programs, folder })
    }

    /// Waits until this was seen, and returns all that was.
    pub async fn until(mut self, part: &[u8]) -> Result<Vec<u8>> {
        eventually(DEADLINE, async || {
            let seen = self.seen()?;
            ensure!(contains(&seen, part), "{} bytes, without what should be there", seen.len());
            anyhow::Ok(())
        })
        .await?;
        for program in &mut self.programs {
            kill(Pid::from_raw(i32::try_from(program.id())?), Signal::SIGINT)?;
            program.wait()?;
        }
        self.seen()
    }

    fn seen(&self) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        for file in std::fs::read_dir(self.folder.path())? {
            all.extend(std::fs::read(file?.path())?);
        }
        Ok(all)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        for program in &mut self.programs {
            // Those that ended already cannot be killed; that is what was wanted.
            let _ = program.kill();
            let _ = program.wait();
        }
    }
}

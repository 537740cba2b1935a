//! Real kubectl against an API server of tests.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// What kubectl said.
#[derive(Debug, Clone)]
pub struct Output {
    /// True if it succeeded.
    pub success: bool,
    /// Standard output.
    pub stdout: String,
    /// Standard error, where warnings of admission are too.
    pub stderr: String,
}

impl Output {
    /// Standard output of a command that must succeed.
    ///
    /// # Panics
    /// If it failed, with what it said.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.success, "kubectl failed: {}{}", self.stderr, self.stdout);
        self.stdout
    }

    /// Standard error of a command that must fail.
    ///
    /// # Panics
    /// If it succeeded, with what it said.
    #[track_caller]
    pub fn refused(self) -> String {
        assert!(!self.success, "kubectl succeeded: {}{}", self.stdout, self.stderr);
        self.stderr
    }
}

/// Runs it once; `cache` is where it keeps what it discovered, apart from the user's.
pub(super) async fn run(
    programs: &Path,
    kubeconfig: &Path,
    cache: &Path,
    arguments: &[&str],
    stdin: &str,
) -> Result<Output> {
    let mut child = Command::new(programs.join("kubectl"))
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .arg("--cache-dir")
        .arg(cache)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("cannot run kubectl")?;
    let mut input = child.stdin.take().context("standard input is a pipe")?;
    let write = async {
        // One that refuses its arguments reads nothing.
        let _ = input.write_all(stdin.as_bytes()).await;
        drop(input);
    };
    let ((), output) = tokio::join!(write, child.wait_with_output());
    let output = output?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Output { success: output.status.success(), stdout: text(&output.stdout), stderr: text(&output.stderr) })
}

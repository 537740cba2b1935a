//! The binary: what it refuses, and how it ends.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mesh-controlplane"));
    command.arg("run").args(args).env_remove("RUST_LOG").stderr(Stdio::piped()).kill_on_drop(true);
    command
}

#[tokio::test]
async fn what_the_binary_cannot_do_it_says() {
    for (args, reason) in [
        (&["--kubeconfig", "k"][..], "no such file"),
        (&["--config-dir", "/does/not/exist"], "/does/not/exist"),
        (&["--plugged-in-ca-dir", "/does/not/exist", "--grpc-addr", "127.0.0.1:0"], "ca-cert.pem"),
    ] {
        let output = command(args).output().await.unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(reason), "{text}");
    }
}

#[tokio::test]
async fn the_binary_serves_until_it_is_told_to_stop() {
    let any = "127.0.0.1:0";
    let args = ["--grpc-addr", any, "--secure-grpc-addr", any, "--monitoring-addr", any];
    for signal in ["-TERM", "-INT"] {
        let mut child = command(&args).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        while !lines.next_line().await.unwrap().expect("it becomes ready").contains("the control plane is ready") {}
        let id = child.id().unwrap().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().await.unwrap().success());
        let status = tokio::time::timeout(std::time::Duration::from_secs(20), child.wait()).await.unwrap().unwrap();
        assert!(status.success(), "{signal}: {status}");
    }
}

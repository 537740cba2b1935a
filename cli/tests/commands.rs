//! The program as its users run it: the commands that the README shows, against a mesh that `meshctl local run` or `demo --keep` keeps up.
#![allow(clippy::unwrap_used, missing_docs)]

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

fn root() -> PathBuf {
    // At run time: a build directory may be shared by several checkouts.
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("..")
}

fn meshctl(state: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshctl"));
    command.current_dir(root()).env("FERROMESH_STATE_DIR", state).env_remove("RUST_LOG");
    command
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// A command that must succeed; what it printed.
fn ask(state: &Path, arguments: &[&str]) -> String {
    let output = meshctl(state).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// A command that stays, killed at the end whatever happens.
struct Running(Child);

impl Running {
    fn start(state: &Path, arguments: &[&str]) -> (Self, BufReader<ChildStdout>) {
        let mut child = meshctl(state).args(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        (Self(child), output)
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.0.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// The exit status; it must come soon.
    fn end(&mut self) -> Option<i32> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            assert!(started.elapsed() < Duration::from_secs(30), "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Reads until a line holds `word`.
fn read_until(output: &mut impl BufRead, word: &str) -> String {
    let mut all = String::new();
    while !all.contains(word) {
        let before = all.len();
        output.read_line(&mut all).unwrap();
        assert!(all.len() > before, "it ended without `{word}`:\n{all}");
    }
    all
}

/// The columns of a table's first line.
fn headings(table: &str) -> Vec<&str> {
    let first = table.lines().next().unwrap_or_default();
    first.split("  ").map(str::trim).filter(|word| !word.is_empty()).collect()
}

/// Everything that an admin asks of a mesh that runs, by the README's own words.
fn inspect(state: &Path, proxy: &str) {
    let status = ask(state, &["local", "status"]);
    assert!(status.contains(proxy) && status.contains("spiffe://"), "{status}");

    let table = ask(state, &["proxy-status"]);
    assert_eq!(headings(&table)[..5], ["NAME", "CLUSTER", "CDS", "LDS", "EDS"], "{table}");
    let line = table.lines().find(|line| line.starts_with(proxy)).unwrap();
    assert_eq!(line.matches("SYNCED").count(), 4, "{line}");
    let one = ask(state, &["proxy-status", proxy, "-o", "json"]);
    assert_eq!(serde_json::from_str::<Value>(&one).unwrap().as_array().unwrap().len(), 1, "{one}");

    for (kind, expected) in [
        ("listener", &["ADDRESSES", "PORT", "MATCH", "DESTINATION"][..]),
        ("route", &["NAME", "VHOST NAME", "DOMAINS", "MATCH"]),
        ("cluster", &["SERVICE FQDN", "PORT", "SUBSET", "DIRECTION", "TYPE"]),
        ("endpoint", &["ENDPOINT", "STATUS", "OUTLIER CHECK", "CLUSTER"]),
        ("secret", &["RESOURCE NAME", "TYPE", "STATUS", "VALID CERT"]),
    ] {
        let table = ask(state, &["proxy-config", kind, proxy]);
        assert_eq!(headings(&table)[..expected.len()], *expected, "{table}");
        assert!(table.lines().count() > 1, "{kind}: {table}");
        let json = ask(state, &["proxy-config", kind, proxy, "-o", "json"]);
        assert!(!serde_json::from_str::<Value>(&json).unwrap().as_array().unwrap().is_empty(), "{json}");
    }
    let all = ask(state, &["proxy-config", "all", proxy, "-o", "yaml"]);
    let all: Value = yaml_serde::from_str(&all).unwrap();
    assert_eq!(all.as_object().unwrap().len(), 5);

    let versions = ask(state, &["version"]);
    assert!(versions.contains(env!("CARGO_PKG_VERSION")), "{versions}");
    let nobody = meshctl(state).args(["proxy-config", "route", "nobody"]).output().unwrap();
    assert!(!nobody.status.success() && text(&nobody).contains("nobody"), "{}", text(&nobody));
}

/// `meshctl demo --keep` is there to be looked at, and SIGTERM ends it as Ctrl-C does: in order, and nothing is left behind.
#[test]
fn the_demo_is_kept_looked_at_and_ends_at_sigterm() {
    let state = tempfile::tempdir().unwrap();
    let (mut demo, mut output) = Running::start(state.path(), &["demo", "--keep", "--requests", "20"]);
    read_until(&mut output, "checks");
    // The state is written once it may be looked at.
    let started = Instant::now();
    while !meshctl(state.path()).args(["local", "status"]).output().unwrap().status.success() {
        assert!(started.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(50));
    }
    inspect(state.path(), "productpage-v1");
    demo.signal("-TERM");
    assert_eq!(demo.end(), Some(0));
    let gone = meshctl(state.path()).args(["local", "status"]).output().unwrap();
    assert!(!gone.status.success(), "{}", text(&gone));
}

/// SIGTERM ends a demo that has not come to its end, too; the status says that it was cut short.
#[test]
fn a_demo_that_is_cut_short_says_so() {
    let state = tempfile::tempdir().unwrap();
    let (mut demo, mut output) = Running::start(state.path(), &["demo", "--requests", "1000000"]);
    read_until(&mut output, "Ready in");
    demo.signal("-TERM");
    assert_eq!(demo.end(), Some(128 + 15));
}

/// The README's `meshctl local run DIR` over the sample, with ports that are free; and a second one says who is in its way.
#[test]
fn a_local_mesh_is_run_looked_at_and_ended() {
    let state = tempfile::tempdir().unwrap();
    let config = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(root().join("deploy/samples/two-processes")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let text = text.replace("{80: 8080}", "{80: 0}").replace("    outbound: 15101\n", "");
        std::fs::write(config.path().join(path.file_name().unwrap()), text).unwrap();
    }
    let folder = config.path().to_str().unwrap();
    let (mut mesh, mut output) = Running::start(state.path(), &["local", "run", folder]);
    read_until(&mut output, "The mesh runs");
    inspect(state.path(), "client");
    let second = meshctl(state.path()).args(["local", "run", folder]).output().unwrap();
    assert!(!second.status.success() && text(&second).contains("--state-dir"), "{}", text(&second));
    mesh.signal("-INT");
    assert_eq!(mesh.end(), Some(0));
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
}

/// A port that is taken is named, with what to do.
#[test]
fn a_port_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let base = taken.local_addr().unwrap().port();
    let state = tempfile::tempdir().unwrap();
    let folder = root().join("deploy/samples/two-processes");
    let arguments = ["local", "run", folder.to_str().unwrap(), "--port-base", &base.min(65_531).to_string()];
    let output = meshctl(state.path()).args(arguments).output().unwrap();
    let text = text(&output);
    assert!(!output.status.success() && text.contains(&base.to_string()) && text.contains("in use"), "{text}");
    assert!(text.contains("--port-base"), "{text}");

    let config = tempfile::tempdir().unwrap();
    let local = std::fs::read_to_string(folder.join("local.yaml")).unwrap();
    for (written, at) in [("{80: 8080}", "gateway.ports[80]"), ("outbound: 15101", "workloads[1].outbound")] {
        let port = |written: &str| written.replace("8080", &base.to_string()).replace("15101", &base.to_string());
        let free = local.replace("{80: 8080}", "{80: 0}").replace("    outbound: 15101\n", "");
        let text = if at.starts_with("gateway") {
            local.replace("    outbound: 15101\n", "")
        } else {
            local.replace("{80: 8080}", "{80: 0}")
        };
        assert_ne!(text, free);
        std::fs::write(config.path().join("local.yaml"), text.replace(written, &port(written))).unwrap();
        let output = meshctl(state.path()).args(["local", "run", config.path().to_str().unwrap()]).output().unwrap();
        let text = self::text(&output);
        assert!(!output.status.success() && text.contains(at) && text.contains(&format!("port {base} ")), "{text}");
    }
}

/// The README's `meshctl validate -f DIR`: nothing to say of the samples, and what is wrong has its file, line, column and caret.
#[test]
fn files_are_validated_before_anything_runs() {
    let state = tempfile::tempdir().unwrap();
    for sample in ["bookinfo", "two-processes"] {
        let said = ask(state.path(), &["validate", "-f", &format!("deploy/samples/{sample}")]);
        assert_eq!(said.trim(), "valid", "{sample}");
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yaml");
    let yaml = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  ports: [{port: 80}]\n  sessionAffinity: ClientIP\n";
    std::fs::write(&file, yaml).unwrap();
    let said = ask(state.path(), &["validate", "-f", folder.path().to_str().unwrap()]);
    let expected = "warning[IST0106]: Service default/a: spec.sessionAffinity: has no effect on connections that a proxy makes; remove it";
    assert!(said.contains(expected) && said.contains("a.yaml:6:3") && said.contains("1 warnings"), "{said}");
    assert!(said.contains("6 |   sessionAffinity: ClientIP\n  |   ^"), "{said}");
    std::fs::write(&file, yaml.replace("80", "0")).unwrap();
    let output = meshctl(state.path()).args(["validate", "-f", file.to_str().unwrap(), "-o", "json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let findings: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(findings[0]["severity"], "error");
    assert_eq!((&findings[0]["line"], &findings[0]["field"]), (&5.into(), &"spec.ports[0].port".into()));
}

/// Scripts for shells name the commands.
#[test]
fn completion_scripts_are_printed() {
    let state = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        assert!(ask(state.path(), &["completion", shell]).contains("proxy-config"), "{shell}");
    }
}

//! `meshctl local`: a mesh on this machine around the user's own processes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Subcommand;

use super::{Interrupt, validate};
use crate::local::definition;
use crate::local::mesh::{Mesh, MeshOptions};
use crate::local::state::{self, ProxyState, State};
use crate::output::{FAINT, Format, GOOD, HEADING, table};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run control plane, gateway and a sidecar for each workload of a LocalMesh, until Ctrl-C
    Run {
        /// Files and folders of YAML; folders are watched and read again when they change
        #[arg(required = true, value_name = "DIR")]
        paths: Vec<PathBuf>,
        /// Control plane's ports: BASE (plaintext xDS), BASE+2 (TLS xDS), BASE+4 (monitoring). Any free ports when absent
        #[arg(long, value_name = "BASE", value_parser = clap::value_parser!(u16).range(1024..=65531))]
        port_base: Option<u16>,
    },
    /// Check files and put them in force in the running mesh
    Apply {
        /// File of YAML
        #[arg(short, long = "filename", required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Take files that were applied out of force again
    Delete {
        /// File of YAML, by the name under which it was applied
        #[arg(short, long = "filename", required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Show the running mesh: proxies, their addresses and identities
    Status {
        /// Format
        #[arg(short, long, default_value = "table")]
        output: Format,
    },
}

impl Args {
    /// True for the command that stays and logs.
    pub fn runs(&self) -> bool {
        matches!(self.command, Command::Run { .. })
    }
}

/// Runs the command.
pub async fn run(args: Args, directory: &Path) -> Result<ExitCode> {
    match args.command {
        Command::Run { paths, port_base } => serve(paths, port_base, directory).await,
        Command::Apply { files } => apply(&files, directory),
        Command::Delete { files } => delete(&files, directory),
        Command::Status { output } => {
            let state = State::read(directory)?;
            output.print(&state, status)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn serve(paths: Vec<PathBuf>, port_base: Option<u16>, directory: &Path) -> Result<ExitCode> {
    if let Ok(other) = State::read(directory) {
        bail!(
            "process {} runs a mesh in {} already; stop it, or choose another directory with --state-dir",
            other.pid,
            directory.display()
        );
    }
    state::create(directory)?;
    let definition = definition::find(&paths)?;
    definition.require_ports()?;
    let plan = definition.plan()?;
    let options = MeshOptions {
        config_dirs: paths,
        directory: directory.to_owned(),
        plan,
        control_plane_ports: port_base.map(|base| [base, base + 2, base + 4]),
        certificate_life: None,
    };
    let mut interrupt = Interrupt::new()?;
    let mesh = tokio::select! {
        mesh = Mesh::start(options) => mesh.with_context(|| match port_base {
            Some(base) => format!("with --port-base {base}; without it, ports that are free are taken"),
            None => "the mesh does not start".to_owned(),
        })?,
        status = interrupt.wait() => return Ok(status),
    };
    mesh.state().write(directory)?;
    anstream::println!("{}", status(&mesh.state()));
    anstream::println!("\n{GOOD}The mesh runs until Ctrl-C.{GOOD:#} {FAINT}State: {}{FAINT:#}", directory.display());
    interrupt.wait().await;
    State::remove(directory);
    mesh.stop().await;
    Ok(ExitCode::SUCCESS)
}

/// Copies files into the folder that the control plane watches, if they are without errors.
fn apply(files: &[PathBuf], directory: &Path) -> Result<ExitCode> {
    let state = State::read(directory)?;
    let report = validate::Report::read(files)?;
    if !report.findings.is_empty() {
        anstream::eprintln!("{}", report.page());
    }
    if report.errors() > 0 {
        bail!("nothing was applied; correct the errors above");
    }
    for file in files {
        let target = applied(&state, file)?;
        let text = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        // Renamed into place, so that the control plane never reads half of it.
        let temporary = target.with_extension("new");
        fs::write(&temporary, text)
            .and_then(|()| fs::rename(&temporary, &target))
            .with_context(|| format!("cannot write {}", target.display()))?;
        anstream::println!("{} applied", file.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn delete(files: &[PathBuf], directory: &Path) -> Result<ExitCode> {
    let state = State::read(directory)?;
    for file in files {
        let target = applied(&state, file)?;
        fs::remove_file(&target).with_context(|| format!("{} was not applied", file.display()))?;
        anstream::println!("{} deleted", file.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Where an applied file lies. The extension is what makes the control plane read it.
fn applied(state: &State, file: &Path) -> Result<PathBuf> {
    let Some(name) = file.file_name() else { bail!("{} is no file", file.display()) };
    let target = state.applied_dir.join(name);
    match target.extension().and_then(|extension| extension.to_str()) {
        Some("yaml" | "yml" | "json") => Ok(target),
        _ => bail!("{} must end in .yaml, .yml or .json", file.display()),
    }
}

fn status(state: &State) -> String {
    let addresses = |proxy: &ProxyState| {
        let all: Vec<String> = proxy.inbound.iter().map(ToString::to_string).collect();
        if all.is_empty() { "-".to_owned() } else { all.join(",") }
    };
    let rows = state.proxies.iter().map(|proxy| {
        [
            proxy.name.clone(),
            proxy.kind.clone(),
            addresses(proxy),
            proxy.outbound.map_or("-".to_owned(), |outbound| outbound.to_string()),
            proxy.admin.to_string(),
            proxy.identity.clone(),
        ]
    });
    let table = table(&["NAME", "KIND", "INBOUND", "OUTBOUND", "ADMIN", "IDENTITY"], rows);
    format!(
        "{HEADING}Control plane{HEADING:#}: xDS and CA {}, by TLS {}, monitoring http://{}\n\n{table}",
        state.grpc, state.secure_grpc, state.monitoring
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn applied_files_keep_their_names_and_must_be_yaml() {
        let address = "127.0.0.1:1".parse().unwrap();
        let state = State {
            pid: 1,
            config_dirs: Vec::new(),
            applied_dir: "/state/applied".into(),
            grpc: address,
            secure_grpc: address,
            monitoring: address,
            proxies: Vec::new(),
        };
        assert_eq!(applied(&state, Path::new("../a/b.yaml")).unwrap(), Path::new("/state/applied/b.yaml"));
        assert!(applied(&state, Path::new("b.txt")).is_err());
        assert!(status(&state).contains("NAME"));
    }
}

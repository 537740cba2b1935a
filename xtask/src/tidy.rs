//! The rules of docs/architecture.md that reading files can check.
//!
//! Errors fail the build; sizes are warnings, because a table of data may be long.

mod compatibility;
mod source;

use anyhow::{Result, bail};

use crate::process;

/// What the checks found.
#[derive(Default)]
pub struct Report {
    errors: Vec<String>,
    warnings: Vec<String>,
}

impl Report {
    fn error(&mut self, place: &str, message: impl std::fmt::Display) {
        self.errors.push(format!("{place}: {message}"));
    }

    fn warn(&mut self, place: &str, message: impl std::fmt::Display) {
        self.warnings.push(format!("{place}: {message}"));
    }
}

/// What the root may hold, dot-files aside.
const ROOT: &[&str] = &[
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "cli",
    "controlplane",
    "deploy",
    "docs",
    "gateway",
    "integration-tests",
    "proto",
    "proxy",
    ".rustfmt.toml",
    "xtask",
];

/// Which crate may not depend on which: proxy and control plane meet only in `proto`; `proto` stands alone.
const FORBIDDEN_DEPENDENCIES: &[(&str, &[&str])] = &[
    ("proto", &["mesh-proxy", "mesh-controlplane", "mesh-gateway", "meshctl"]),
    ("proxy", &["mesh-controlplane", "mesh-gateway", "meshctl"]),
    ("controlplane", &["mesh-proxy", "mesh-gateway", "meshctl"]),
    ("gateway", &["mesh-controlplane", "meshctl"]),
    ("xtask", &["mesh-proto", "mesh-proxy", "mesh-controlplane", "mesh-gateway", "meshctl"]),
];

/// Runs every check; fails if one found an error.
pub fn run() -> Result<()> {
    let mut report = Report::default();
    let files = tracked_files()?;
    root_folder(&files, &mut report);
    dependencies(&mut report)?;
    for file in files.iter().filter(|file| file.ends_with(".rs")) {
        source::check(file, &mut report)?;
    }
    for file in &files {
        stands_alone(file, &mut report);
    }
    compatibility::check(&files, &mut report)?;
    for warning in &report.warnings {
        println!("warning: {warning}");
    }
    for error in &report.errors {
        println!("error: {error}");
    }
    if !report.errors.is_empty() {
        bail!("tidy: {} errors", report.errors.len());
    }
    println!("tidy: {} files, {} warnings, no errors", files.len(), report.warnings.len());
    Ok(())
}

/// Files that git tracks, or would track, relative to the root.
fn tracked_files() -> Result<Vec<String>> {
    let listed = process::output("git", &["ls-files", "--cached", "--others", "--exclude-standard"])?;
    let root = process::root();
    Ok(listed.lines().filter(|file| root.join(file).is_file()).map(str::to_owned).collect())
}

fn root_folder(files: &[String], report: &mut Report) {
    for file in files {
        let first = file.split('/').next().unwrap_or(file);
        if !first.starts_with('.') && !ROOT.contains(&first) {
            report.error(file, "the root holds only what docs/architecture.md lists");
        }
    }
}

fn dependencies(report: &mut Report) -> Result<()> {
    for (folder, forbidden) in FORBIDDEN_DEPENDENCIES {
        let path = format!("{folder}/Cargo.toml");
        let manifest = std::fs::read_to_string(process::root().join(&path))?;
        for (number, line) in manifest.lines().enumerate() {
            let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
            if forbidden.contains(&name) {
                report.error(&format!("{path}:{}", number + 1), format!("{folder} may not depend on {name}"));
            }
        }
    }
    Ok(())
}

/// The project refers to nothing outside itself.
fn stands_alone(file: &str, report: &mut Report) {
    let Ok(text) = std::fs::read_to_string(process::root().join(file)) else { return };
    if file.starts_with("xtask/src/tidy") {
        return;
    }
    for (number, line) in text.lines().enumerate() {
        if line.contains("../shared") || line.contains("/work/") {
            report.error(&format!("{file}:{}", number + 1), "names a path outside the project");
        }
    }
}

//! `meshctl validate -f FILE|DIR…`: what the control plane would say of configuration, before it is applied.
//!
//! The control plane's own reader and checks are used, so that both always say the same.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use anyhow::bail;
use mesh_controlplane::source::FileSource;
use mesh_controlplane::validate::{self, Severity};

use crate::findings::{self, Finding};
use crate::local::definition;
use crate::output::{BAD, Format, GOOD};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Files and folders of YAML
    #[arg(short, long = "filename", required = true, value_name = "PATH", num_args = 1..)]
    pub filename: Vec<PathBuf>,
    /// Format
    #[arg(short, long, default_value = "table")]
    pub output: Format,
}

/// What was found in files.
#[derive(Debug)]
pub struct Report {
    /// The findings, by file and line.
    pub findings: Vec<Finding>,
}

/// Checks and prints. Exits with 1 if errors were found.
pub fn run(args: &Args) -> Result<ExitCode> {
    let report = Report::read(&args.filename)?;
    args.output.print(&report.findings, |_| {
        let mut page = report.page();
        if !page.is_empty() {
            page.push_str("\n\n");
        }
        page + &report.summary()
    })?;
    Ok(if report.errors() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Report {
    /// Reads and checks files and folders, all together: objects may refer to each other.
    pub fn read(paths: &[PathBuf]) -> Result<Self> {
        if definition::files(paths)?.is_empty() {
            bail!("there are no files that end in .yaml, .yml or .json");
        }
        let found = FileSource::new(paths)?.scan().findings;
        // A LocalMesh is meshctl's own business; the control plane knows nothing of it.
        let foreign = |finding: &validate::Finding| {
            finding.severity == Severity::Info && finding.message.starts_with(definition::KIND)
        };
        let mut findings: Vec<Finding> = found.iter().filter(|finding| !foreign(finding)).map(Finding::from).collect();
        if found.iter().any(foreign)
            && let Err(error) = definition::find(paths)
        {
            findings.push(Finding {
                severity: Severity::Error.to_string(),
                code: None,
                object: Some(definition::KIND.to_owned()),
                origin: None,
                file: None,
                line: 0,
                column: 0,
                field: None,
                message: format!("{error:#}"),
            });
        }
        Ok(Self { findings })
    }

    /// How many are errors.
    pub fn errors(&self) -> usize {
        findings::count(&self.findings, "error")
    }

    /// The findings for people, each with its line and a caret at its column.
    pub fn page(&self) -> String {
        findings::page(&self.findings)
    }

    fn summary(&self) -> String {
        match (self.errors(), findings::count(&self.findings, "warning")) {
            (0, 0) => format!("{GOOD}valid{GOOD:#}"),
            (0, warnings) => format!("{GOOD}valid{GOOD:#}, {warnings} warnings"),
            (errors, warnings) => format!("{BAD}{errors} errors{BAD:#}, {warnings} warnings"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;

    use super::*;

    fn samples(name: &str) -> PathBuf {
        Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("../deploy/samples").join(name)
    }

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn samples_are_without_errors() {
        for name in ["bookinfo", "two-processes"] {
            let report = Report::read(&[samples(name)]).unwrap();
            assert_eq!(report.errors(), 0, "{}", plain(&report.page()));
        }
    }

    #[test]
    fn a_mistake_is_shown_with_a_caret() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.yaml");
        let text = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec:\n  hosts: [a]\n  http:\n  - \
                    route:\n    - destination: {host: a}\n      weight: -1\n";
        std::fs::write(&file, text).unwrap();
        let report = Report::read(&[file]).unwrap();
        assert!(report.errors() > 0);
        let page = plain(&report.page());
        assert!(page.contains("a.yaml:9:7"), "{page}");
        assert!(page.contains("9 |       weight: -1\n  |       ^"), "{page}");
    }

    #[test]
    fn the_delegate_alone_is_reported() {
        let report = Report::read(&[samples("bookinfo/reviews-route.yaml")]).unwrap();
        assert!(!report.findings.is_empty());
        assert!(plain(&report.page()).contains("reviews-route"), "{}", plain(&report.page()));
    }
}

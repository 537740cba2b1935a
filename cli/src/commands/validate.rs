//! `meshctl validate -f FILE|DIR…`: what the control plane would say of configuration, before it is applied.
//!
//! The control plane's own reader and checks are used, so that both always say the same.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use anyhow::bail;
use mesh_controlplane::source::FileSource;
use mesh_controlplane::validate::{self, Severity};
use serde::Serialize;

use crate::local::definition;
use crate::output::{BAD, FAINT, Format, GOOD, NOTE};

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

/// A finding, as scripts read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// `error`, `warning` or `info`.
    pub severity: String,
    /// Code of Istio's analyzers, where one fits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'static str>,
    /// `KIND NAMESPACE/NAME`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// File.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Line from 1; 0 is unknown.
    pub line: u32,
    /// Column from 1; 0 is unknown.
    pub column: u32,
    /// Path of the field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// What is wrong, and what to do.
    pub message: String,
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
        let mut findings: Vec<Finding> = found.iter().filter(|finding| !foreign(finding)).map(convert).collect();
        if found.iter().any(foreign)
            && let Err(error) = definition::find(paths)
        {
            findings.push(Finding {
                severity: Severity::Error.to_string(),
                code: None,
                object: Some(definition::KIND.to_owned()),
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
        self.count("error")
    }

    fn count(&self, severity: &str) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }

    /// The findings for people, each with its line and a caret at its column.
    pub fn page(&self) -> String {
        let mut texts = HashMap::new();
        let pieces: Vec<String> = self.findings.iter().map(|finding| describe(finding, &mut texts)).collect();
        pieces.join("\n\n")
    }

    fn summary(&self) -> String {
        match (self.errors(), self.count("warning")) {
            (0, 0) => format!("{GOOD}valid{GOOD:#}"),
            (0, warnings) => format!("{GOOD}valid{GOOD:#}, {warnings} warnings"),
            (errors, warnings) => format!("{BAD}{errors} errors{BAD:#}, {warnings} warnings"),
        }
    }
}

fn convert(finding: &validate::Finding) -> Finding {
    Finding {
        severity: finding.severity.to_string(),
        code: finding.code,
        object: finding.key.as_ref().map(ToString::to_string),
        file: finding.origin.file.as_deref().cloned(),
        line: finding.origin.line,
        column: finding.origin.column,
        field: finding.field.clone(),
        message: finding.message.clone(),
    }
}

/// A finding as compilers print one.
fn describe(finding: &Finding, texts: &mut HashMap<PathBuf, String>) -> String {
    let style = match finding.severity.as_str() {
        "error" => BAD,
        "warning" => NOTE,
        _ => FAINT,
    };
    let mut text = format!("{style}{}", finding.severity);
    if let Some(code) = finding.code {
        let _ = write!(text, "[{code}]");
    }
    let _ = write!(text, "{style:#}");
    for part in [&finding.object, &finding.field].into_iter().flatten() {
        let _ = write!(text, ": {part}");
    }
    let _ = write!(text, ": {}", finding.message);
    let Some(file) = &finding.file else { return text };
    let _ = write!(text, "\n  {FAINT}-->{FAINT:#} {}:{}:{}", file.display(), finding.line, finding.column);
    if let Some(line) = line(file, finding.line, texts) {
        let number = finding.line.to_string();
        let blank = " ".repeat(number.len());
        let column = usize::try_from(finding.column).unwrap_or(1).max(1) - 1;
        let caret = format!("{}{style}^{style:#}", " ".repeat(column));
        let _ = write!(
            text,
            "\n{blank} {FAINT}|{FAINT:#}\n{number} {FAINT}|{FAINT:#} {line}\n{blank} {FAINT}|{FAINT:#} {caret}"
        );
    }
    text
}

fn line(file: &Path, number: u32, texts: &mut HashMap<PathBuf, String>) -> Option<String> {
    // A file that went meanwhile has no line to show.
    let text = texts.entry(file.to_owned()).or_insert_with(|| std::fs::read_to_string(file).unwrap_or_default());
    let index = usize::try_from(number).ok()?.checked_sub(1)?;
    text.lines().nth(index).map(|line| line.replace('\t', " "))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
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

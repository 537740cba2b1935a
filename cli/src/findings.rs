//! Findings as commands show them: for scripts, and for people as compilers do, with the line and a caret where there is a file.
//!
//! `validate`, `analyze` and `local apply` print them.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use mesh_controlplane::validate;
use serde::Serialize;

use crate::output::{BAD, FAINT, NOTE};

/// Where an object of a cluster stands.
const IN_CLUSTER: &str = "in cluster";

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
    /// `in cluster` for an object of a cluster; those of files have the fields below.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<&'static str>,
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

impl From<&validate::Finding> for Finding {
    fn from(finding: &validate::Finding) -> Self {
        let file = finding.origin.file.as_deref().cloned();
        Self {
            severity: finding.severity.to_string(),
            code: finding.code,
            object: finding.key.as_ref().map(ToString::to_string),
            origin: file.is_none().then_some(IN_CLUSTER),
            file,
            line: finding.origin.line,
            column: finding.origin.column,
            field: finding.field.clone(),
            message: finding.message.clone(),
        }
    }
}

/// The findings for people.
pub fn page(findings: &[Finding]) -> String {
    let mut texts = HashMap::new();
    let pieces: Vec<String> = findings.iter().map(|finding| describe(finding, &mut texts)).collect();
    pieces.join("\n\n")
}

/// How many have this severity.
pub fn count(findings: &[Finding], severity: &str) -> usize {
    findings.iter().filter(|finding| finding.severity == severity).count()
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
    let Some(file) = &finding.file else {
        if let Some(origin) = finding.origin {
            let _ = write!(text, "\n  {FAINT}-->{FAINT:#} {origin}");
        }
        return text;
    };
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

//! `meshctl check`: whether a mesh can be installed into a cluster, or whether the one that is there is well.

use std::process::ExitCode;

use anyhow::Result;

use crate::check::{Finding, Weight, after, before};
use crate::cluster::ClusterArgs;
use crate::install::inventory;
use crate::output::{BAD, Format, GOOD, NOTE};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Look as before an installation, though something is installed
    #[arg(long)]
    before: bool,
    /// Format
    #[arg(short, long, default_value = "table")]
    output: Format,
}

/// Looks and prints. Exits with 1 if there are errors.
pub async fn run(args: Args) -> Result<ExitCode> {
    let cluster = args.cluster.connect().await?;
    let namespace = &args.cluster.namespace;
    let installed = inventory::all(&cluster, namespace).await?;
    let findings = match args.before || installed.is_empty() {
        true => before::look(&cluster, namespace).await?,
        false => after::look(&cluster, &installed).await?,
    };
    args.output.print(&findings, |findings| page(findings, installed.is_empty()))?;
    let errors = findings.iter().any(|finding| finding.weight == Weight::Error);
    Ok(if errors { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn page(findings: &[Finding], first: bool) -> String {
    let mut lines: Vec<String> = findings.iter().map(line).collect();
    let count = |weight| findings.iter().filter(|finding| finding.weight == weight).count();
    lines.push(match (count(Weight::Error), count(Weight::Warning)) {
        (0, 0) if first => format!("{GOOD}a mesh can be installed{GOOD:#}: meshctl install"),
        (0, 0) => format!("{GOOD}all is well{GOOD:#}"),
        (errors, warnings) => format!("{errors} errors, {warnings} warnings"),
    });
    lines.join("\n")
}

fn line(finding: &Finding) -> String {
    let Finding { weight, subject, message } = finding;
    let (style, sign) = match weight {
        Weight::Ok => (GOOD, "✔"),
        Weight::Warning => (NOTE, "!"),
        Weight::Error => (BAD, "✘"),
    };
    format!("{style}{sign}{style:#} {subject}: {message}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_ends_with_what_it_means() {
        let plain = |findings: &[Finding], first| anstream::adapter::strip_str(&page(findings, first)).to_string();
        assert_eq!(plain(&[Finding::ok("a", "b")], true), "✔ a: b\na mesh can be installed: meshctl install");
        let findings = [Finding::error("a", "b"), Finding::warning("c", "d")];
        assert_eq!(plain(&findings, false), "✘ a: b\n! c: d\n1 errors, 1 warnings");
    }
}

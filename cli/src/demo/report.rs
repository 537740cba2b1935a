//! What the demo found, as JSON for scripts and as a page for people.

use std::fmt::Write as _;

use serde::Serialize;

use super::observe::{Edge, ServiceStats, Split};
use crate::output::{BAD, FAINT, GOOD, HEADING, table, thousands};

/// Everything that was observed.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The split before and after the weights changed.
    pub split: Splits,
    /// Who talked to whom.
    pub edges: Vec<Edge>,
    /// How each service fared.
    pub services: Vec<ServiceStats>,
    /// Requests that were refused, and why.
    pub refused: Vec<Refused>,
    /// What had to hold.
    pub checks: Vec<Check>,
}

/// The split before and after the weights changed.
#[derive(Debug, Clone, Serialize)]
pub struct Splits {
    /// With the file as it stands in the samples.
    pub before: Split,
    /// After the file was rewritten under load.
    pub after: Split,
}

/// A refused request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// Method and address.
    pub request: String,
    /// Who asked.
    pub caller: String,
    /// Status; 0 when the connection was closed without an answer.
    pub status: u16,
    /// Body of the answer, or how the connection ended.
    pub answer: String,
    /// `response_code_details` in the destination's access log.
    pub detail: String,
    /// Why, in words, with the names of the policies.
    pub why: String,
}

/// Something that had to hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// Whether it holds.
    pub passed: bool,
    /// What was seen.
    pub observed: String,
}

impl Report {
    /// True if all checks hold.
    pub fn passed(&self) -> bool {
        self.checks.iter().all(|check| check.passed)
    }

    /// The page for people.
    pub fn page(&self) -> String {
        let mut page = String::new();
        let mut section = |title: &str, body: &str| {
            let _ = writeln!(page, "\n{HEADING}{title}{HEADING:#}");
            for line in body.lines() {
                let _ = writeln!(page, "  {line}");
            }
        };
        section("Who talked to whom", &self.edges_table());
        section("Services, by their sidecars' own metrics", &self.services_table());
        section("Refused", &self.refused_list());
        section("Checks", &self.checks_list());
        page
    }

    fn edges_table(&self) -> String {
        let rows = self.edges.iter().map(|edge| {
            [
                edge.source.clone(),
                edge.service.clone(),
                thousands(edge.requests),
                thousands(edge.refused),
                if edge.mutual_tls { "yes" } else { "NO" }.to_owned(),
            ]
        });
        table(&["CALLER", "SERVICE", "REQUESTS", "REFUSED", "MUTUAL TLS"], rows)
    }

    fn services_table(&self) -> String {
        let rows = self.services.iter().map(|one| {
            [
                one.service.clone(),
                thousands(one.requests),
                format!("{:.1} ms", one.latency.p50_ms),
                format!("{:.1} ms", one.latency.p99_ms),
                format!("{:.2} %", one.error_rate * 100.0),
            ]
        });
        table(&["SERVICE", "REQUESTS", "P50", "P99", "ERRORS"], rows)
    }

    fn refused_list(&self) -> String {
        let mut list = String::new();
        for one in &self.refused {
            let status = if one.status == 0 { "no answer".to_owned() } else { one.status.to_string() };
            let _ = writeln!(list, "{} by {}", one.request, one.caller);
            let _ = writeln!(list, "  {status}: {}", one.answer);
            let _ = writeln!(list, "  {FAINT}{}{FAINT:#}", one.why);
        }
        list
    }

    fn checks_list(&self) -> String {
        let mut list = String::new();
        for check in &self.checks {
            let (style, mark) = if check.passed { (GOOD, "✓") } else { (BAD, "✗") };
            let name = check.name.replace('_', " ");
            let _ = writeln!(list, "{style}{mark}{style:#} {name}: {}", check.observed);
        }
        list
    }
}

//! docs/compatibility.md says what works; each such row names a test, and the test must exist.
//!
//! A row is `| id | what it is | status | test |`. Status is `works`, `refused` (with a message) or `not yet`.
//! A test is named by its function, a step of the tests on a cluster too, or `golden:CASE` for a folder of controlplane/tests/golden.

use std::collections::{BTreeMap, HashSet};

use anyhow::{Context, Result};

use super::Report;
use crate::process;

const PAGE: &str = "docs/compatibility.md";

/// Checks every row of the page.
pub fn check(files: &[String], report: &mut Report) -> Result<()> {
    let page = std::fs::read_to_string(process::root().join(PAGE)).context(PAGE)?;
    let tests = test_names(files)?;
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, line) in page.lines().enumerate() {
        let Some((id, status, named)) = row(line) else { continue };
        let place = format!("{PAGE}:{}", index + 1);
        if let Some(first) = seen.insert(id, index + 1) {
            report.error(&place, format!("{id} has a row already, at line {first}"));
        }
        let named: Vec<&str> = named.split('`').skip(1).step_by(2).collect();
        match status.split(['(', ':', ';']).next().unwrap_or_default().trim() {
            "works" | "refused" if named.is_empty() => {
                report.error(&place, format!("{id} is `{status}` but names no test"))
            }
            "works" | "refused" | "not yet" | "works in part" => {}
            other => report
                .error(&place, format!("{id}: status `{other}` is none of works, works in part, refused, not yet")),
        }
        for test in named {
            if !tests.contains(test.rsplit("::").next().unwrap_or(test)) {
                report.error(&place, format!("{id} names the test `{test}`, which does not exist"));
            }
        }
    }
    if seen.is_empty() {
        report.error(PAGE, "has no rows");
    }
    Ok(())
}

/// Id, status and test column of a row; `None` for other lines and the table's head.
fn row(line: &str) -> Option<(&str, &str, &str)> {
    let cells: Vec<&str> = line.strip_prefix('|')?.strip_suffix('|')?.split('|').map(str::trim).collect();
    let [id, _, status, test] = cells.as_slice() else { return None };
    let is_id = id.chars().next().is_some_and(|first| first.is_ascii_uppercase())
        && id.ends_with(|last: char| last.is_ascii_digit());
    is_id.then_some((*id, *status, *test))
}

/// Names of all test functions, and `golden:CASE` of all golden cases.
fn test_names(files: &[String]) -> Result<HashSet<String>> {
    let mut names = HashSet::new();
    for file in files {
        if let Some(case) = file.strip_prefix("controlplane/tests/golden/").and_then(|rest| rest.split('/').next()) {
            names.insert(format!("golden:{case}"));
        }
        if !file.ends_with(".rs") {
            continue;
        }
        let text = std::fs::read_to_string(process::root().join(file))?;
        let mut marked = false;
        // Steps have a harness of their own, so no mark, but one signature.
        let has_steps = file.starts_with("integration-tests/tests/e2e/");
        for line in text.lines().map(str::trim) {
            let step = line
                .strip_prefix("pub async fn ")
                .and_then(|rest| rest.split_once("(cluster: &Cluster) -> Result<()>"));
            if has_steps && let Some((name, _)) = step {
                names.insert(name.to_owned());
            }
            if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                marked = true;
            } else if marked && let Some(rest) = line.strip_prefix("fn ").or_else(|| line.strip_prefix("async fn ")) {
                names.insert(rest.split(['(', '<']).next().unwrap_or(rest).to_owned());
                marked = false;
            }
        }
    }
    Ok(names)
}

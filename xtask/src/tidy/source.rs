//! Checks on one Rust file: module docs, who may say what, sizes.

use anyhow::Result;

use super::Report;
use crate::process;

/// A file longer than this should be one thing all the same.
const LONG_FILE: usize = 700;
/// A function longer than this is worth a look.
const LONG_FUNCTION: usize = 100;

/// A text that only some files may hold.
struct Reserved {
    /// Applies to files below this folder.
    within: &'static str,
    text: &'static str,
    allowed: &'static [&'static str],
    why: &'static str,
}

const RESERVED: &[Reserved] = &[
    Reserved {
        within: "proxy/src/",
        text: "mesh_proto::xds",
        allowed: &["proxy/src/xds/", "proxy/src/bootstrap"],
        why: "only the xDS border names xDS types (rule 5)",
    },
    Reserved {
        within: "controlplane/src/",
        text: "kube::Client",
        allowed: &[
            "controlplane/src/source/",
            "controlplane/src/status/",
            "controlplane/src/register/",
            "controlplane/src/leader.rs",
            "controlplane/src/ca/",
            "controlplane/src/app",
        ],
        why: "only sources watch Kubernetes, and only the CA, `register/` and writers of status ask it (rule 5)",
    },
    Reserved {
        within: "",
        text: "unsafe ",
        allowed: &["proxy/src/listener/socket.rs", "proxy/src/tcp/splice.rs", "proxy/src/memory.rs", "xtask/src/tidy/"],
        why: "unsafe lives in listener/socket.rs, tcp/splice.rs and memory.rs (rule 5)",
    },
    Reserved {
        within: "",
        text: "todo!(",
        allowed: &["xtask/src/tidy/"],
        why: "finish it, or refuse it with a clear error",
    },
    Reserved { within: "", text: "#[ignore", allowed: &["xtask/src/tidy/"], why: "a test runs, or it is not there" },
];

/// Checks `file`, a path relative to the root.
pub fn check(file: &str, report: &mut Report) -> Result<()> {
    let text = std::fs::read_to_string(process::root().join(file))?;
    if file.contains("/generated/") {
        return Ok(());
    }
    let opening = text.lines().find(|line| !line.trim().is_empty() && !line.starts_with("#!["));
    if !opening.is_some_and(|line| line.starts_with("//!")) {
        report.error(file, "a module starts with `//!`: what it does, and its place in the path");
    }
    for (number, line) in text.lines().enumerate() {
        let code = line.trim_start();
        if code.starts_with("//") {
            continue;
        }
        for reserved in RESERVED {
            let here = file.starts_with(reserved.within) && !reserved.allowed.iter().any(|path| file.starts_with(path));
            if here && has_word(code, reserved.text) {
                report.error(&format!("{file}:{}", number + 1), reserved.why);
            }
        }
    }
    let tests = file.contains("/tests/") || file.ends_with("tests.rs") || file.starts_with("integration-tests/");
    if !tests && text.lines().count() > LONG_FILE {
        report.warn(file, format!("{} lines; is it one subject?", text.lines().count()));
    }
    if !tests {
        long_functions(file, &text, report);
    }
    Ok(())
}

/// True if `text` occurs and is not the tail of a longer word (`#![deny(unsafe ..` aside).
fn has_word(line: &str, text: &str) -> bool {
    line.match_indices(text).any(|(at, _)| {
        !line[..at].chars().next_back().is_some_and(|before| before.is_alphanumeric() || before == '_' || before == '"')
    })
}

/// Functions end at the first line that closes their own indentation, as rustfmt writes them.
fn long_functions(file: &str, text: &str, report: &mut Report) {
    let lines: Vec<&str> = text.lines().collect();
    for (start, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let is_function = ["fn ", "pub fn ", "async fn ", "pub async fn ", "pub(crate) fn ", "pub(crate) async fn "]
            .iter()
            .any(|prefix| code.starts_with(prefix));
        if !is_function {
            continue;
        }
        let closing = format!("{}}}", &line[..line.len() - code.len()]);
        let length = lines[start..].iter().position(|line| **line == closing).unwrap_or(0);
        if length > LONG_FUNCTION {
            report.warn(&format!("{file}:{}", start + 1), format!("a function of {length} lines"));
        }
    }
}

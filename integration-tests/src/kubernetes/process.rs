//! A program beside the test, that ends with its value, and with the test's process however that ends.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

/// Starts the program `$2…` and kills it when standard input, a pipe that the test's process holds, closes; then `$1` is removed. Values in
/// statics are never dropped, and a process that is killed drops nothing; a pipe closes in all cases.
const WATCH: &str = r#"
trap '' INT HUP TERM
remove=$1; shift
exec 3<&0
"$@" 3<&- & child=$!
{ cat <&3 >/dev/null; kill -KILL $child; } & watch=$!
exec 3<&-
wait $child; code=$?
kill -KILL $watch 2>/dev/null
[ $code -eq 137 ] && [ -n "$remove" ] && rm -rf -- "$remove"
exit $code
"#;

/// How much of a log is shown.
const LINES: usize = 30;

/// A running program.
#[derive(Debug)]
pub(super) struct Process {
    program: PathBuf,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `program`, whose output is added to the file `log`; `remove` is a folder that goes when it is killed.
    pub fn start(program: &Path, arguments: &[String], log: &Path, remove: Option<&Path>) -> Result<Self> {
        let output = File::options().create(true).append(true).open(log)?;
        let child = Command::new("sh")
            .args(["-c", WATCH, "watch"])
            .arg(remove.unwrap_or(Path::new("")))
            .arg(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot run {}", program.display()))?;
        Ok(Self { program: program.to_owned(), child, log: log.to_owned() })
    }

    /// Why it runs no more; `None` while it does.
    pub fn ended(&mut self) -> Option<String> {
        let status = match self.child.try_wait() {
            Ok(None) => return None,
            Ok(Some(status)) => status.to_string(),
            Err(error) => error.to_string(),
        };
        Some(format!("{} ended: {status}\n{}", self.program.display(), self.log()))
    }

    /// The end of what it wrote.
    pub fn log(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        format!("{}:\n{}", self.log.display(), lines[lines.len().saturating_sub(LINES)..].join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // It may have ended by itself.
        let _ = self.child.wait();
    }
}

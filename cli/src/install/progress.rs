//! What a user sees while a cluster changes: a spinner on a terminal, and a line for each stage that is done.

use std::fmt::Display;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::output::{BAD, FAINT, GOOD};

/// One stage under way. Dropped before it is done, it has failed, and the error is told by whoever has it.
#[derive(Debug)]
pub struct Progress {
    title: String,
    bar: ProgressBar,
    done: bool,
}

impl Progress {
    /// Begins a stage of `steps` steps.
    pub fn start(title: impl Display, steps: usize) -> Self {
        let bar = ProgressBar::new(u64::try_from(steps).unwrap_or(u64::MAX));
        // A template that is wrong would be a fault of this line; the default looks worse and works.
        if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} {pos}/{len} {msg}") {
            bar.set_style(style);
        }
        bar.set_prefix(title.to_string());
        bar.enable_steady_tick(Duration::from_millis(100));
        Self { title: title.to_string(), bar, done: false }
    }

    /// What is being done now.
    pub fn now(&self, what: impl Display) {
        self.bar.set_message(what.to_string());
    }

    /// A step is done.
    pub fn step(&self) {
        self.bar.inc(1);
    }

    /// The stage is done; `summary` says how.
    pub fn finish(mut self, summary: impl Display) {
        self.done = true;
        self.bar.finish_and_clear();
        anstream::eprintln!("{GOOD}✔{GOOD:#} {} {FAINT}{summary}{FAINT:#}", self.title);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if !self.done {
            self.bar.finish_and_clear();
            anstream::eprintln!("{BAD}✘{BAD:#} {}", self.title);
        }
    }
}

//! One file a command: its arguments, and what it does.

pub mod analyze;
pub mod bookinfo;
pub mod bug_report;
pub mod check;
pub mod completion;
pub mod create_remote_secret;
pub mod dashboard;
pub mod demo;
pub mod describe;
pub mod inject;
pub mod install;
pub mod local;
pub mod manifest;
pub mod proxy_config;
pub mod proxy_status;
pub mod tag;
pub mod uninstall;
pub mod validate;
pub mod version;

use std::process::ExitCode;

use anyhow::{Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The user's wish to end a command that stays: Ctrl-C or SIGTERM. From its making on, neither ends the process by itself.
#[derive(Debug)]
struct Interrupt {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupt {
    fn new() -> Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).context("cannot wait for Ctrl-C")?,
            terminate: signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?,
        })
    }

    /// Waits for it, and says with which status a command ends that was cut short: as shells do, 128 and the signal.
    async fn wait(&mut self) -> ExitCode {
        let signal = tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.terminate.recv() => SignalKind::terminate(),
        };
        ExitCode::from(u8::try_from(128 + signal.as_raw_value()).unwrap_or(u8::MAX))
    }
}

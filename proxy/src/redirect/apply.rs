//! Giving the rules to the kernel, by the tools that are there.

use std::io::Write;
use std::process::{Command, Stdio};

use super::rules::{Family, Rules, rules};
use super::{RedirectError, Settings, iptables, nft};

/// What applies the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Backend {
    /// nftables if it can be used, else iptables.
    Auto,
    /// `nft`.
    Nft,
    /// `iptables-restore` and `ip6tables-restore`.
    Iptables,
}

/// Applies the rules for `settings`: each tool's part in one transaction, and a second time without effect.
pub fn apply(settings: &Settings, backend: Backend) -> Result<(), RedirectError> {
    let rules = rules(settings);
    let chosen = choose(backend)?;
    if settings.ipv6 {
        // Unlike 127.0.0.6, `::6` is nobody's address until it is given to the loopback device; the proxy could not bind it.
        feed("ip", &["-6", "address", "replace", "::6/128", "dev", "lo"], "")?;
    }
    match chosen {
        Backend::Nft | Backend::Auto => {
            feed("nft", &["-f", "-"], &nft::script(&rules, settings.ipv6))?;
        }
        Backend::Iptables => {
            restore(&rules, Family::V4)?;
            if settings.ipv6 {
                restore(&rules, Family::V6)?;
            } else {
                remove_iptables(Family::V6, false)?;
            }
        }
    }
    // Only now, so that there is no moment without capture: two sets of rules that say the same do no harm.
    if chosen == Backend::Iptables {
        remove_nft(false)?;
    } else {
        remove_iptables(Family::V4, false)?;
        remove_iptables(Family::V6, false)?;
    }
    tracing::info!(backend = ?chosen, ipv6 = settings.ipv6, "connections are captured");
    Ok(())
}

/// Removes the rules; [`Backend::Auto`] removes those of every tool that is there.
pub fn cleanup(backend: Backend) -> Result<(), RedirectError> {
    if backend != Backend::Iptables {
        remove_nft(backend == Backend::Nft)?;
    }
    if backend != Backend::Nft {
        remove_iptables(Family::V4, backend == Backend::Iptables)?;
        remove_iptables(Family::V6, false)?;
    }
    tracing::info!("connections are no longer captured");
    Ok(())
}

fn choose(backend: Backend) -> Result<Backend, RedirectError> {
    if backend != Backend::Auto {
        return Ok(backend);
    }
    if output("nft", &["list", "tables"]).is_ok() {
        Ok(Backend::Nft)
    } else if output("iptables-restore", &["--version"]).is_ok() {
        Ok(Backend::Iptables)
    } else {
        Err(RedirectError::NoBackend)
    }
}

fn tools(family: Family) -> (&'static str, &'static str) {
    match family {
        Family::V4 => ("iptables-save", "iptables-restore"),
        Family::V6 => ("ip6tables-save", "ip6tables-restore"),
    }
}

fn restore(rules: &Rules, family: Family) -> Result<(), RedirectError> {
    let (save, restore) = tools(family);
    let existing = output(save, &[])?;
    feed(restore, &["--wait", "--noflush"], &iptables::restore(rules, family, &existing))
}

/// A tool that is not there, or cannot say what exists, has nothing to remove, unless it is `required`.
fn remove_iptables(family: Family, required: bool) -> Result<(), RedirectError> {
    let (save, restore) = tools(family);
    match output(save, &[]) {
        Ok(existing) => match iptables::remove(&existing) {
            Some(text) => feed(restore, &["--wait", "--noflush"], &text),
            None => Ok(()),
        },
        Err(error) if required => Err(error),
        Err(_) => Ok(()),
    }
}

fn remove_nft(required: bool) -> Result<(), RedirectError> {
    match output("nft", &["list", "tables"]) {
        Ok(tables) if tables.lines().any(|line| line.trim() == format!("table {}", nft::TABLE)) => {
            feed("nft", &["-f", "-"], &nft::remove())
        }
        Err(error) if required => Err(error),
        _ => Ok(()),
    }
}

fn output(tool: &str, arguments: &[&str]) -> Result<String, RedirectError> {
    run(tool, arguments, "")
}

fn feed(tool: &str, arguments: &[&str], input: &str) -> Result<(), RedirectError> {
    run(tool, arguments, input).map(|_| ())
}

fn run(tool: &str, arguments: &[&str], input: &str) -> Result<String, RedirectError> {
    let named = || [&[tool], arguments].concat().join(" ");
    let failed = |error| RedirectError::Run { tool: named(), error };
    let mut child = Command::new(tool)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A tool that refuses before it has read everything says why on its standard error.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(RedirectError::Failed { tool: named(), status: output.status, stderr })
}

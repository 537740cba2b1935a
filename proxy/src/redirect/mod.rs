//! Transparent capture: the rules by which the kernel hands a workload's connections to the proxy (AG2).
//!
//! `settings` reads flags that are those of `istio-iptables`, `rules` turns them into one list of rules, `nft` and `iptables` write
//! that list down, and `apply` gives it to the kernel in one transaction. Runs once before the workload, beside the request path;
//! what it sets up is what [`crate::listener::socket::original_destination`] reads.

mod apply;
mod iptables;
mod nft;
mod rules;
mod settings;

pub use apply::{Backend, apply, cleanup};
pub use settings::{Args, Settings};

/// Why the rules are not there.
#[derive(Debug, thiserror::Error)]
pub enum RedirectError {
    /// A flag cannot be honoured.
    #[error("{flag}: {reason}")]
    Flag {
        /// The flag.
        flag: &'static str,
        /// Why.
        reason: String,
    },
    /// There is no tool.
    #[error("neither `nft` nor `iptables-restore` can be run here: install nftables (preferred) or iptables")]
    NoBackend,
    /// A tool cannot be run.
    #[error("cannot run `{tool}`: {error}")]
    Run {
        /// The tool with its arguments.
        tool: String,
        /// Why.
        error: std::io::Error,
    },
    /// A tool refuses.
    #[error("`{tool}` failed ({status}): {stderr}")]
    Failed {
        /// The tool with its arguments.
        tool: String,
        /// Its exit status.
        status: std::process::ExitStatus,
        /// Its words.
        stderr: String,
    },
}

/// What `mesh-proxy redirect` does.
pub fn run(args: &Args) -> Result<(), RedirectError> {
    if args.cleanup {
        return cleanup(args.backend);
    }
    let settings = args.settings()?;
    if args.print {
        print!("{}", text(&settings, args.backend));
        return Ok(());
    }
    apply(&settings, args.backend)
}

/// What would be applied, as text; [`Backend::Auto`] is nftables here.
pub fn text(settings: &Settings, backend: Backend) -> String {
    let rules = rules::rules(settings);
    match backend {
        Backend::Nft | Backend::Auto => nft::script(&rules, settings.ipv6),
        Backend::Iptables => {
            let mut text =
                format!("# iptables-restore --noflush\n{}", iptables::restore(&rules, rules::Family::V4, ""));
            if settings.ipv6 {
                text += &format!("# ip6tables-restore --noflush\n{}", iptables::restore(&rules, rules::Family::V6, ""));
            }
            text
        }
    }
}

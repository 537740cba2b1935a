//! The proxy's own log: text or JSON on standard error, with levels that can be changed while it runs (`/logging`).

use std::io::IsTerminal as _;
use std::sync::OnceLock;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts the log of this process. `directives` are as in `RUST_LOG`: `info`, `mesh_proxy::xds=debug,warn`.
pub fn init(directives: &str, format: Format) -> Result<(), String> {
    let filter = EnvFilter::try_new(directives).map_err(|error| format!("`{directives}`: {error}"))?;
    let (filter, handle) = reload::Layer::new(filter);
    let lines = match format {
        Format::Text => fmt::layer().with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr).boxed(),
        Format::Json => fmt::layer().json().with_writer(std::io::stderr).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).try_init().map_err(|error| error.to_string())?;
    // Only one log can be started, so the cell was empty.
    let _ = FILTER.set(handle);
    Ok(())
}

/// Changes the levels.
pub fn set(directives: &str) -> Result<(), String> {
    let handle = FILTER.get().ok_or("the log belongs to the program that runs this proxy")?;
    let filter = EnvFilter::try_new(directives).map_err(|error| format!("`{directives}`: {error}"))?;
    handle.reload(filter).map_err(|error| error.to_string())
}

/// The levels now.
pub fn current() -> Option<String> {
    FILTER.get()?.with_current(ToString::to_string).ok()
}

//! `meshctl version`: of this program, and of the control plane of a local mesh if one runs.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;

use crate::http_client;
use crate::local::state::State;
use crate::output::Format;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Ask the control plane's monitoring port at this address too
    #[arg(long, value_name = "IP:PORT")]
    pub control_plane: Option<SocketAddr>,
    /// Format
    #[arg(short, long, default_value = "table")]
    pub output: Format,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Versions {
    client: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    control_plane: Option<String>,
}

/// Prints them.
pub async fn run(args: Args, directory: &Path) -> Result<ExitCode> {
    let address = match args.control_plane {
        Some(address) => Some(address),
        // Without a local mesh there is only one version to tell.
        None => State::read(directory).ok().map(|state| state.monitoring),
    };
    let control_plane = match address {
        Some(address) => Some(http_client::get(address, "localhost", "/version").await?.text().trim().to_owned()),
        None => None,
    };
    let versions = Versions { client: env!("CARGO_PKG_VERSION").to_owned(), control_plane };
    args.output.print(&versions, |versions| {
        let mut text = format!("client version: {}", versions.client);
        if let Some(control_plane) = &versions.control_plane {
            text.push_str(&format!("\ncontrol plane version: {control_plane}"));
        }
        text
    })?;
    Ok(ExitCode::SUCCESS)
}

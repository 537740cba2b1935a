//! `meshctl bookinfo PART`: a part of the demo's application as a process of its own, as pods run it: it knows nothing of the mesh.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;

use anyhow::{Context, Result};
use tokio::net::TcpListener;

use super::Interrupt;
use crate::demo::bookinfo::{Outbound, PORT, Part, router};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which part
    pub part: Part,
    /// Where it serves, on all addresses
    #[arg(long, default_value_t = PORT)]
    pub port: u16,
}

/// Serves until Ctrl-C or SIGTERM; requests that were begun are answered.
pub async fn run(args: &Args) -> Result<ExitCode> {
    let mut interrupt = Interrupt::new()?;
    let listener = listen(args.port).await.with_context(|| format!("cannot listen on port {}", args.port))?;
    let served = axum::serve(listener, router(args.part, Outbound::Names, Default::default()));
    served
        .with_graceful_shutdown(async move {
            let _ = interrupt.wait().await;
        })
        .await?;
    Ok(ExitCode::SUCCESS)
}

/// Of both IP versions, where there are both.
async fn listen(port: u16) -> io::Result<TcpListener> {
    match TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
            TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await
        }
        bound => bound,
    }
}

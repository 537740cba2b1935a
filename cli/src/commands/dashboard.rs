//! `meshctl dashboard`: a page of the control plane or of a proxy in the browser, for as long as the command runs.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{ExitCode, Stdio};

use anyhow::{Context as _, Result};
use clap::Subcommand;
use mesh_proto::names::port;
use tokio::process::Command;

use super::{Interrupt, proxy_config};
use crate::cluster::ClusterArgs;
use crate::forward::Forward;
use crate::output::FAINT;
use crate::pods;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Port of this machine; 0 lets the system choose
    #[arg(short, long, global = true, default_value_t = 0, value_name = "PORT")]
    port: u16,
    /// Address of this machine
    #[arg(long, global = true, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST), value_name = "IP")]
    address: IpAddr,
    /// Open the page in a browser
    #[arg(long, global = true, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true",
          require_equals = true, value_name = "BOOL")]
    browser: bool,
    #[command(subcommand)]
    page: Page,
}

/// Which page.
#[derive(Debug, Subcommand)]
enum Page {
    /// Debug pages of the control plane
    #[command(alias = "istiod-debug", alias = "istiod")]
    Controlplane {
        /// Of this revision
        #[arg(long, value_name = "NAME")]
        revision: Option<String>,
        #[command(flatten)]
        cluster: ClusterArgs,
    },
    /// Admin pages of a proxy
    #[command(alias = "envoy")]
    Proxy {
        /// POD, POD.NAMESPACE or deployment/NAME
        name: String,
        /// Namespace of the pod [default: the kubeconfig's]
        #[arg(short, long, value_name = "NAME")]
        namespace: Option<String>,
        /// Admin port of the proxy
        #[arg(long, default_value_t = port::ADMIN, value_name = "PORT")]
        proxy_admin_port: u16,
        #[command(flatten)]
        cluster: ClusterArgs,
    },
}

/// Forwards until Ctrl-C.
pub async fn run(args: Args) -> Result<ExitCode> {
    let local = SocketAddr::new(args.address, args.port);
    let (forward, path) = match args.page {
        Page::Controlplane { revision, cluster: reach } => {
            let cluster = reach.connect().await?;
            let planes = pods::control_planes(&cluster, &reach.namespace, revision.as_deref()).await?;
            let pod = planes.iter().find(|pod| pods::is_ready(pod)).or(planes.first());
            let pod = pods::name(pod.context("no control plane runs")?);
            (Forward::at(&cluster, pod, port::MONITORING, local).await?, "/debug")
        }
        Page::Proxy { name, namespace, proxy_admin_port, cluster: reach } => {
            let cluster = reach.connect().await?;
            let namespace = namespace.unwrap_or_else(|| cluster.namespace.clone());
            let pod = proxy_config::pod(&cluster, &name, &namespace).await?;
            (Forward::at(&cluster, pod, proxy_admin_port, local).await?, "/")
        }
    };
    let mut interrupt = Interrupt::new()?;
    let url = format!("http://{}{path}", forward.address);
    anstream::println!("{url}\n{FAINT}until Ctrl-C{FAINT:#}");
    if args.browser {
        tokio::select! {
            () = open(&url) => {}
            // Some browsers end only with their window.
            _ = interrupt.wait() => return Ok(ExitCode::SUCCESS),
        }
    }
    interrupt.wait().await;
    Ok(ExitCode::SUCCESS)
}

/// Asks the desktop to show a page. A machine without one has the address on its terminal.
async fn open(url: &str) {
    let program = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let mut command = Command::new(program);
    let opened = command.arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if !opened.status().await.is_ok_and(|status| status.success()) {
        anstream::eprintln!("{FAINT}no browser could be opened ({program}); open the address yourself{FAINT:#}");
    }
}

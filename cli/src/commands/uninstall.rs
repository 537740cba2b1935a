//! `meshctl uninstall`: takes away what `meshctl install` brought, by its inventory.

use std::process::ExitCode;

use anyhow::Result;

use super::install::confirm;
use crate::cluster::ClusterArgs;
use crate::install::uninstall::Removal;
use crate::output::{FAINT, table};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The revision that goes; needed if there are several
    #[arg(long, value_name = "NAME", conflicts_with = "purge")]
    revision: Option<String>,
    /// All revisions, the custom resource definitions with all configuration in them, and what control planes made
    #[arg(long)]
    purge: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Change nothing; show what would go
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(short = 'y', long, alias = "skip-confirmation")]
    yes: bool,
}

/// Removes.
pub async fn run(args: Args) -> Result<ExitCode> {
    let cluster = args.cluster.connect().await?;
    let removal = Removal::new(&cluster, &args.cluster.namespace, args.revision.as_deref(), args.purge).await?;
    if args.dry_run {
        let rows = removal.objects.iter().map(|id| ["remove".to_owned(), id.to_string()]);
        anstream::println!("{}", table(&["CHANGE", "OBJECT"], rows));
        return Ok(ExitCode::SUCCESS);
    }
    let what = if args.purge {
        "everything of the mesh, its configuration included"
    } else {
        "the control plane and its gateways"
    };
    confirm(
        &format!("Remove {what} from the cluster {} ({} objects)?", cluster.address, removal.objects.len()),
        args.yes,
    )?;
    removal.run(&cluster).await?;
    if !args.purge {
        anstream::eprintln!("{FAINT}custom resources and the namespace stay; --purge removes them too{FAINT:#}");
    }
    Ok(ExitCode::SUCCESS)
}

//! `meshctl install` and `meshctl upgrade`: the mesh into a cluster, from the charts of `deploy/charts`.
//!
//! `install` starts from the profile; `upgrade` starts from what was said the last time.

use std::io::{BufRead, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::Value;

use crate::cluster::ClusterArgs;
use crate::install::apply::{Change, Options, Plan};
use crate::install::inventory;
use crate::install::values::{DEFAULT_REVISION, Wishes};
use crate::output::{FAINT, GOOD, NOTE, table};

/// Arguments of both.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    wishes: Wishes,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Change nothing; let the API server judge everything, and show what would become of it
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(short = 'y', long, alias = "skip-confirmation")]
    yes: bool,
    /// Wait until everything is ready
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    wait: bool,
    /// How long, in seconds
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    readiness_timeout: u64,
}

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// From the profile alone.
    Profile,
    /// From what was said the last time.
    LastTime,
}

/// Installs or upgrades.
pub async fn run(args: Args, from: From) -> Result<ExitCode> {
    // Mistakes in values are found before a cluster is looked for.
    let mut installation = args.wishes.installation(&Value::Null, &args.cluster.namespace)?;
    let cluster = args.cluster.connect().await?;
    if from == From::LastTime {
        let revision = args.wishes.revision.as_deref().unwrap_or(DEFAULT_REVISION);
        let installed = inventory::all(&cluster, &args.cluster.namespace).await?;
        let names: Vec<&str> = installed.iter().map(|inventory| inventory.revision.as_str()).collect();
        let Some(last) = installed.iter().find(|inventory| inventory.revision == revision) else {
            let found = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            bail!(
                "revision {revision} is not installed in namespace {}; installed: {found}; `meshctl install` installs it",
                args.cluster.namespace
            );
        };
        installation = args.wishes.installation(&last.said, &args.cluster.namespace)?;
    }
    let plan = Plan::new(&cluster, installation).await?;
    for note in &plan.notes {
        anstream::eprintln!("{NOTE}note{NOTE:#}: {note}");
    }
    if args.dry_run {
        let changes = plan.dry_run(&cluster).await?;
        let rows = changes.iter().map(|(id, change)| {
            let word = match change {
                Change::Created => "create",
                Change::Changed => "change",
                Change::Unchanged => "unchanged",
                Change::Removed => "remove",
            };
            [word.to_owned(), id.to_string()]
        });
        anstream::println!("{}", table(&["CHANGE", "OBJECT"], rows));
        return Ok(ExitCode::SUCCESS);
    }
    let title = plan.title();
    confirm(&format!("Install into the cluster {}: {title}?", cluster.address), args.yes)?;
    let options = Options { wait: args.wait, patience: Duration::from_secs(args.readiness_timeout) };
    plan.run(&cluster, options).await?;
    anstream::eprintln!("{GOOD}installed{GOOD:#} {title}\n{FAINT}`meshctl check` looks at it all.{FAINT:#}");
    Ok(ExitCode::SUCCESS)
}

/// Asks before something is done; without a terminal nobody can answer, so then it must have been said.
pub fn confirm(question: &str, yes: bool) -> Result<()> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        bail!("{question} Nobody can be asked here; say yes with -y");
    }
    anstream::eprint!("{question} (y/N) ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    if !matches!(answer.trim(), "y" | "Y" | "yes") {
        bail!("nothing was changed");
    }
    Ok(())
}

//! The command line: one enum arm a command, each with its file in [`crate::commands`].

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use crate::commands::{
    analyze, bookinfo, bug_report, check, completion, create_remote_secret, dashboard, demo, describe, inject, install,
    local, manifest, proxy_config, proxy_status, tag, uninstall, validate, version,
};
use crate::local::state;

/// Ferromesh's command line.
#[derive(Debug, Parser)]
#[command(name = "meshctl", version, about, disable_help_subcommand = true, arg_required_else_help = true)]
pub struct Cli {
    /// Where a local mesh keeps its state [default: ferromesh in $XDG_RUNTIME_DIR]
    #[arg(long, global = true, env = "FERROMESH_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a whole mesh with an application on this machine, and prove that it does what its YAML says
    Demo(demo::Args),
    /// Run a mesh on this machine around your own processes
    Local(local::Args),
    /// Install the mesh into a Kubernetes cluster, or change what is installed
    Install(Box<install::Args>),
    /// Bring an installed mesh to this version, with what was said when it was installed
    Upgrade(Box<install::Args>),
    /// Remove what was installed
    Uninstall(uninstall::Args),
    /// Work with the objects that an installation consists of
    Manifest(manifest::Args),
    /// Look whether a mesh can be installed into a cluster, or whether the installed one is well
    Check(check::Args),
    /// Make, move and remove names that point to revisions
    Tag(tag::Args),
    /// Print a Secret by which control planes of other clusters read this one
    CreateRemoteSecret(create_remote_secret::Args),
    /// Show whether proxies have the configuration that they were sent
    #[command(visible_alias = "ps")]
    ProxyStatus(proxy_status::Args),
    /// Show what a proxy is configured to do
    #[command(visible_alias = "pc")]
    ProxyConfig(proxy_config::Args),
    /// Show what the mesh makes of a pod or a service
    #[command(visible_alias = "desc")]
    Describe(describe::Args),
    /// Open a page of the control plane or of a proxy in the browser
    #[command(visible_aliases = ["dash", "d"])]
    Dashboard(dashboard::Args),
    /// Check configuration files without applying them
    Validate(validate::Args),
    /// Check the configuration of a cluster, with files over it
    Analyze(analyze::Args),
    /// Put the sidecar into workloads of files, as the webhook does on a cluster
    #[command(alias = "kube-inject")]
    Inject(inject::Args),
    /// Collect what helps others to see what is wrong with a mesh
    BugReport(bug_report::Args),
    /// Show versions of this program and of a running control plane
    Version(version::Args),
    /// Run a part of the demo's application, as pods do
    #[command(hide = true)]
    Bookinfo(bookinfo::Args),
    /// Print a completion script for a shell
    Completion(completion::Args),
}

impl Cli {
    /// What is logged unless the environment says otherwise: a mesh that a user runs tells of its life, a demo does not.
    pub fn default_log(&self) -> &'static str {
        match &self.command {
            Command::Local(args) if args.runs() => "info",
            Command::Demo(_) => "error",
            _ => "warn",
        }
    }

    /// Runs the command.
    pub fn run(self) -> Result<ExitCode> {
        let directory = state::directory(self.state_dir.as_deref());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .context("cannot start the asynchronous runtime")?;
        runtime.block_on(async {
            match self.command {
                Command::Demo(args) => demo::run(args, self.state_dir).await,
                Command::Local(args) => local::run(args, &directory).await,
                Command::Install(args) => install::run(*args, install::From::Profile).await,
                Command::Upgrade(args) => install::run(*args, install::From::LastTime).await,
                Command::Uninstall(args) => uninstall::run(args).await,
                Command::Manifest(args) => manifest::run(&args),
                Command::Check(args) => check::run(args).await,
                Command::Tag(args) => tag::run(args).await,
                Command::CreateRemoteSecret(args) => create_remote_secret::run(args).await,
                Command::ProxyStatus(args) => proxy_status::run(args, &directory).await,
                Command::ProxyConfig(args) => proxy_config::run(args, &directory).await,
                Command::Describe(args) => describe::run(args).await,
                Command::Dashboard(args) => dashboard::run(args).await,
                Command::Validate(args) => validate::run(&args),
                Command::Analyze(args) => analyze::run(args).await,
                Command::Inject(args) => inject::run(&args),
                Command::BugReport(args) => bug_report::run(args).await,
                Command::Version(args) => version::run(args, &directory).await,
                Command::Bookinfo(args) => bookinfo::run(&args).await,
                Command::Completion(args) => completion::run(&args),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn commands_are_read() {
        for line in [
            "meshctl demo",
            "meshctl demo --keep -o json",
            "meshctl demo --requests 200 --concurrency 2",
            "meshctl local run deploy/samples/two-processes",
            "meshctl local apply -f a.yaml -f b.yaml",
            "meshctl local status -o yaml",
            "meshctl install --set profile=demo -y",
            "meshctl install -f a.yaml -f b.yaml --revision canary --dry-run --context kind",
            "meshctl upgrade --wait=false -i mesh",
            "meshctl uninstall --purge -y",
            "meshctl manifest generate --set profile=minimal",
            "meshctl check -o json",
            "meshctl tag set prod --revision canary --overwrite",
            "meshctl tag list",
            "meshctl create-remote-secret --name west --context west",
            "meshctl proxy-status",
            "meshctl ps reviews-v1 --control-plane 127.0.0.1:15014",
            "meshctl proxy-config route reviews-v1",
            "meshctl pc all --admin 127.0.0.1:15000 -o json",
            "meshctl proxy-status -n shop --revision canary --context kind -i mesh",
            "meshctl pc endpoints deployment/web -n shop --proxy-admin-port 15001 --kubeconfig k",
            "meshctl describe pod deployment/web -n shop -o json",
            "meshctl describe svc web.shop --revision canary",
            "meshctl proxy-config log web.shop --level info,http:debug",
            "meshctl pc bootstrap web -n shop",
            "meshctl dashboard controlplane --browser=false -p 15014",
            "meshctl d envoy web.shop --browser --address 0.0.0.0",
            "meshctl validate -f deploy/samples/bookinfo",
            "meshctl analyze",
            "meshctl analyze a.yaml b -A --use-kube=false --failure-threshold Warning -o yaml",
            "meshctl analyze -n shop --failureThreshold=Info -S IST0109=*",
            "meshctl inject -f a.yaml --mesh-config m.yaml --injection-settings i.yaml",
            "meshctl kube-inject -f -",
            "meshctl bug-report --include shop,bank --include a --exclude b --duration 1h30m -o a.tgz",
            "meshctl --state-dir /tmp/x version -o json",
            "meshctl completion bash",
            "meshctl bookinfo reviews-v2 --port 8080",
        ] {
            Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn wrong_command_lines_are_refused() {
        for line in [
            "meshctl",
            "meshctl proxy-config route",
            "meshctl validate",
            "meshctl local run",
            "meshctl demo --requests 0",
            "meshctl uninstall --purge --revision a",
            "meshctl manifest",
            "meshctl bookinfo reviews-v9",
            "meshctl dashboard",
            "meshctl describe pod",
            "meshctl describe node a",
            "meshctl bug-report --duration yesterday",
            "meshctl dashboard proxy",
            "meshctl analyze -A -n shop",
            "meshctl proxy-status --control-plane 127.0.0.1:1 -n shop",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}

//! `meshctl describe pod|service NAME[.NAMESPACE]`: what the mesh makes of it, and what may be wrong.

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

use crate::cluster::{Cluster, ClusterArgs};
use crate::describe::{Known, pod, service, text};
use crate::live;
use crate::output::Format;
use crate::pods::{self, Named};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    subject: Subject,
}

/// What is described.
#[derive(Debug, Subcommand)]
enum Subject {
    /// A pod: whether it is in the mesh, its services, their routes, what it accepts
    #[command(alias = "po")]
    Pod(Asked),
    /// A service: its pods, routes, who may call
    #[command(alias = "svc")]
    Service(Asked),
}

#[derive(Debug, clap::Args)]
struct Asked {
    /// NAME or NAME.NAMESPACE; of pods deployment/NAME, too
    name: String,
    /// Namespace [default: the kubeconfig's]
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    /// Settings of the mesh are those of this revision
    #[arg(long, value_name = "NAME")]
    revision: Option<String>,
    /// Format
    #[arg(short, long, default_value = "table")]
    output: Format,
    #[command(flatten)]
    cluster: ClusterArgs,
}

impl Asked {
    fn namespace(&self, cluster: &Cluster) -> String {
        self.namespace.clone().unwrap_or_else(|| cluster.namespace.clone())
    }

    async fn known(&self, cluster: &Cluster) -> Result<Known> {
        let workloads =
            [live::core("", "Pod", "pods"), live::core("discovery.k8s.io", "EndpointSlice", "endpointslices")];
        let trees = live::configuration(cluster, &self.cluster.namespace, self.revision.as_deref(), &workloads).await?;
        Ok(Known::read(trees))
    }
}

/// Reads the cluster and prints.
pub async fn run(args: Args) -> Result<ExitCode> {
    match args.subject {
        Subject::Pod(asked) => {
            let cluster = asked.cluster.connect().await?;
            let found = pods::find(&cluster, &asked.name, &asked.namespace(&cluster)).await?;
            let known = asked.known(&cluster).await?;
            asked.output.print(&pod::describe(&known, &pods::name(&found))?, text::pod)?;
        }
        Subject::Service(asked) => {
            let cluster = asked.cluster.connect().await?;
            let named = Named::parse(&asked.name, &asked.namespace(&cluster));
            let known = asked.known(&cluster).await?;
            asked.output.print(&service::describe(&known, &named)?, text::service)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

//! Which mesh a command asks: the one that runs on this machine, or a cluster's.

use std::path::Path;

use anyhow::{Result, anyhow};

use crate::cluster::{Cluster, ClusterArgs};
use crate::local::state::State;

/// A mesh.
#[derive(Debug)]
pub enum Mesh {
    /// Of `meshctl local` or `meshctl demo`.
    Local(State),
    /// Of a cluster.
    Cluster(Cluster),
}

impl Mesh {
    /// A cluster if the user names one or something that only clusters have; else the local mesh if one runs; else the cluster of the
    /// kubeconfig.
    ///
    /// # Errors
    /// There is neither.
    pub async fn choose(args: &ClusterArgs, of_cluster: bool, directory: &Path) -> Result<Self> {
        if of_cluster || args.names_one() {
            return Ok(Self::Cluster(args.connect().await?));
        }
        let local = match State::read(directory) {
            Ok(state) => return Ok(Self::Local(state)),
            Err(error) => error,
        };
        args.connect().await.map(Self::Cluster).map_err(|error| anyhow!("{local:#}; and {error:#}"))
    }
}

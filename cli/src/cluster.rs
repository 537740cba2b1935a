//! A Kubernetes cluster as commands reach it: which kubeconfig, which context, and requests whose errors say what to do.

use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow};
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use mesh_proto::names::ROOT_NAMESPACE;
use serde_json::Value;

use crate::install::manifest::MANAGER;
use crate::install::object::Id;

/// Which cluster.
#[derive(Debug, Clone, clap::Args)]
pub struct ClusterArgs {
    /// Kubeconfig [default: $KUBECONFIG, ~/.kube/config, or the pod's own cluster]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig [default: the current one]
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// Namespace of the control plane
    #[arg(id = "istio_namespace", short = 'i', long = "istio-namespace", alias = "istioNamespace", default_value = ROOT_NAMESPACE, value_name = "NAME")]
    pub namespace: String,
}

impl ClusterArgs {
    /// True if the user named a cluster.
    pub fn names_one(&self) -> bool {
        self.kubeconfig.is_some() || self.context.is_some()
    }

    /// Connects; nothing is sent yet.
    pub async fn connect(&self) -> Result<Cluster> {
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let config = match &self.kubeconfig {
            Some(file) => {
                let kubeconfig =
                    Kubeconfig::read_from(file).with_context(|| format!("--kubeconfig {}", file.display()))?;
                Config::from_custom_kubeconfig(kubeconfig, &options).await
            }
            None if self.context.is_some() => Config::from_kubeconfig(&options).await,
            None => {
                let config = Config::infer().await;
                return Cluster::new(config.context(
                    "no cluster is known: there is no kubeconfig, and this is no pod; name one by --kubeconfig FILE or $KUBECONFIG",
                )?);
            }
        };
        Cluster::new(config.context("the kubeconfig names no cluster that can be reached")?)
    }
}

/// A connection to an API server.
#[derive(Clone)]
pub struct Cluster {
    /// For what is not here.
    pub client: Client,
    /// Its address, for messages and for kubeconfigs.
    pub address: String,
    /// The namespace of the kubeconfig's context, in which commands look unless they are told otherwise.
    pub namespace: String,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Cluster {
    fn new(config: Config) -> Result<Self> {
        let address = config.cluster_url.to_string();
        let namespace = config.default_namespace.clone();
        let client = Client::try_from(config).context("the kubeconfig's certificates or keys cannot be used")?;
        Ok(Self { client, address, namespace })
    }

    fn api(&self, id: &Id) -> Api<DynamicObject> {
        match &id.namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &id.resource()),
            None => Api::all_with(self.client.clone(), &id.resource()),
        }
    }

    /// An object; `None` if it does not exist.
    pub async fn get(&self, id: &Id) -> Result<Option<DynamicObject>> {
        self.api(id).get_opt(&id.name).await.map_err(|error| self.explain("get", &id.to_string(), error))
    }

    /// Applies an object by server-side apply, or asks what would become of it.
    ///
    /// Fields that others have set since are taken back: they are the manifest's, and a change that should stay belongs into its values.
    pub async fn apply(&self, id: &Id, body: &Value, dry_run: bool) -> Result<DynamicObject> {
        let parameters = PatchParams { dry_run, ..PatchParams::apply(MANAGER).force() };
        let applied = self.api(id).patch(&id.name, &parameters, &Patch::Apply(body)).await;
        applied.map_err(|error| self.explain("apply", &id.to_string(), error))
    }

    /// Deletes an object with what it owns; false if it did not exist.
    pub async fn delete(&self, id: &Id, dry_run: bool) -> Result<bool> {
        let parameters = DeleteParams { dry_run, ..DeleteParams::background() };
        match self.api(id).delete(&id.name, &parameters).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
            Err(error) => Err(self.explain("delete", &id.to_string(), error)),
        }
    }

    /// What went wrong, at which object, and what to do.
    pub fn explain(&self, verb: &str, object: &str, error: kube::Error) -> anyhow::Error {
        match error {
            kube::Error::Api(status) if status.code == 403 => anyhow!(
                "{object}: you may not {verb} it: {}; ask whoever administers the cluster, or use an account that may \
                 (--context, --kubeconfig)",
                status.message
            ),
            kube::Error::Api(status) if status.code == 401 => {
                anyhow!("the API server at {} does not know you: {}; log in again", self.address, status.message)
            }
            kube::Error::Api(status) => anyhow!("{object}: cannot {verb} it: {}", status.message),
            other => anyhow!(other)
                .context(format!("{object}: cannot {verb} it: no answer of the API server at {}", self.address)),
        }
    }
}

/// The identity of an object of a kind that everybody knows.
pub fn id(api_version: &str, kind: &str, namespace: Option<&str>, name: &str) -> Id {
    Id {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        namespace: namespace.map(str::to_owned),
        name: name.to_owned(),
    }
}

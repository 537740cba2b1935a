//! How the API server is reached: by a kubeconfig, or as a pod of the cluster. Errors in words for users.

use std::path::PathBuf;
use std::time::Duration;

use ::kube::config::{KubeConfigOptions, Kubeconfig};
use ::kube::{Client, Config, Error};

/// How the API server is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KubeSettings {
    /// The kubeconfig, of which the current context is used; in a pod, absent, the pod's service account is.
    pub kubeconfig: Option<PathBuf>,
}

/// Why the API server cannot be asked at all.
#[derive(Debug, thiserror::Error)]
pub enum KubeError {
    /// The kubeconfig.
    #[error("the kubeconfig {path}: {error}", path = path.display())]
    Kubeconfig {
        /// Where it is.
        path: PathBuf,
        /// What is wrong.
        error: ::kube::config::KubeconfigError,
    },
    /// The service account of the pod.
    #[error("the pod's service account: {0}; run in a pod with a service account's token, or give --kubeconfig FILE")]
    InCluster(#[from] ::kube::config::InClusterError),
    /// The client cannot be made.
    #[error("the client of the API server: {0}")]
    Client(#[source] Box<Error>),
}

/// The longest wait for a connection to the API server.
const CONNECT: Duration = Duration::from_secs(10);
/// A connection that says nothing for this long is dead. Watches end before, so that one that lives is never cut.
const SILENCE: Duration = Duration::from_secs(75);

/// A client. Nothing is asked yet.
///
/// # Errors
/// Settings that are missing or wrong. That the API server does not answer is none: it may later.
pub async fn connect(settings: &KubeSettings) -> Result<Client, KubeError> {
    let mut config = match &settings.kubeconfig {
        Some(path) => {
            let failed = |error| KubeError::Kubeconfig { path: path.clone(), error };
            let read = Kubeconfig::read_from(path).map_err(failed)?;
            Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await.map_err(failed)?
        }
        None => Config::incluster()?,
    };
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(SILENCE);
    Client::try_from(config).map_err(|error| KubeError::Client(Box::new(error)))
}

/// What went wrong while `verb` was done with `resource` (such as `pods` or `gateways.networking.istio.io`), and what to do.
pub(super) fn words(verb: &str, resource: &str, error: &Error) -> String {
    match error {
        Error::Api(status) if status.is_forbidden() => format!(
            "the API server does not let the control plane {verb} {resource}: {}; give its user the verbs get, list and watch on {resource} in a \
             ClusterRole, as `meshctl install` does",
            status.message
        ),
        Error::Api(status) if status.code == 401 => format!(
            "the API server does not know the control plane ({verb} {resource}: {}); renew its token or kubeconfig",
            status.message
        ),
        Error::Api(status) => {
            format!("the API server refuses to {verb} {resource}: {} ({})", status.message, status.code)
        }
        other => format!("the API server does not answer ({verb} {resource}): {}", chain(other)),
    }
}

/// An error with its causes, which alone say what happened to a connection.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

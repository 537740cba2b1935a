//! A port of a pod as a port of this machine, by the API server's port-forward: the one way into pods.
//!
//! Each connection is a websocket of its own, so that one that breaks disturbs no other. The first is opened at once: whoever may not, or
//! asks for a pod that is gone, learns it before anything is sent.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, anyhow};
use futures_util::FutureExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, Portforwarder};
use kube::client::UpgradeConnectionError;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::cluster::Cluster;
use crate::pods::Named;

/// An open forward; it ends with the value.
#[derive(Debug)]
pub struct Forward {
    /// Where the port is on this machine.
    pub address: SocketAddr,
    target: Target,
    /// What the cluster said of the last connection that failed.
    trouble: Trouble,
    task: JoinHandle<()>,
}

type Trouble = Arc<Mutex<Option<String>>>;

#[derive(Debug, Clone)]
struct Target {
    pod: Named,
    port: u16,
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "port {} of Pod {}", self.port, self.pod)
    }
}

impl Forward {
    /// Opens one at any port of loopback.
    pub async fn open(cluster: &Cluster, pod: Named, port: u16) -> Result<Self> {
        Self::at(cluster, pod, port, SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await
    }

    /// Opens one at an address of this machine.
    ///
    /// # Errors
    /// The address is taken, there is no such pod, it does not run, or the user may not.
    pub async fn at(cluster: &Cluster, pod: Named, port: u16, local: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(local).await;
        let listener =
            listener.with_context(|| format!("cannot listen at {local}; choose another port with --port"))?;
        let address = listener.local_addr()?;
        let api: Api<Pod> = Api::namespaced(cluster.client.clone(), &pod.namespace);
        let target = Target { pod, port };
        let first = connect(&api, &target).await.map_err(|error| explain(cluster, &target, error))?;
        let trouble = Trouble::default();
        let task = tokio::spawn(accept(listener, api, target.clone(), first, trouble.clone()));
        Ok(Self { address, target, trouble, task })
    }

    /// Says of a failure at [`Forward::address`] which pod it was, and what the cluster said.
    pub fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        let said = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).take();
        match said {
            Some(said) => anyhow!("{}: {}; does the container run, and listen there?", self.target, said.trim()),
            None => error.context(self.target.to_string()),
        }
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn connect(api: &Api<Pod>, target: &Target) -> Result<Portforwarder, kube::Error> {
    api.portforward(&target.pod.name, &[target.port]).await
}

/// The answer to an upgrade that is refused has a status alone.
fn explain(cluster: &Cluster, target: &Target, error: kube::Error) -> anyhow::Error {
    let kube::Error::UpgradeConnection(UpgradeConnectionError::ProtocolSwitch(status)) = &error else {
        return cluster.explain("forward", &target.to_string(), error);
    };
    let Named { name, namespace } = &target.pod;
    match status.as_u16() {
        401 => anyhow!("the API server at {} does not know you; log in again", cluster.address),
        403 => anyhow!(
            "{target}: you may not reach it; ask whoever administers the cluster for the verb create on pods/portforward in namespace \
             {namespace}"
        ),
        404 => anyhow!("there is no Pod {}; `kubectl get pods -n {namespace}` lists those that are", target.pod),
        _ => anyhow!(
            "{target}: the API server cannot reach it ({status}); `kubectl describe pod -n {namespace} {name}` tells whether it runs"
        ),
    }
}

async fn accept(listener: TcpListener, api: Api<Pod>, target: Target, first: Portforwarder, trouble: Trouble) {
    let mut first = Some(first);
    loop {
        let Ok((mut local, _)) = listener.accept().await else { return };
        let (api, target, trouble, first) = (api.clone(), target.clone(), trouble.clone(), first.take());
        tokio::spawn(async move {
            let remote = match first {
                Some(first) => Ok(first),
                None => connect(&api, &target).await,
            };
            let said = match remote {
                Ok(remote) => carry(&mut local, remote, target.port).await,
                Err(error) => Some(error.to_string()),
            };
            if let Some(said) = said {
                tracing::debug!(%target, said, "a forwarded connection failed");
                *trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(said);
            }
            // Only now, since its end makes whoever asked look for what was said.
            drop(local);
        });
    }
}

/// Carries bytes until either side ends; what the node said if it could not.
async fn carry(local: &mut TcpStream, mut remote: Portforwarder, port: u16) -> Option<String> {
    let (mut stream, said) = (remote.take_stream(port)?, remote.take_error(port)?.shared());
    let failed = async {
        match said.clone().await {
            Some(said) => said,
            // The connection ends without a word.
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        said = failed => Some(said),
        _ = copy_bidirectional(local, &mut stream) => said.clone().now_or_never().flatten(),
    }
}

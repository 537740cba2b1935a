//! A real Kubernetes API server without kubelets, for tests: `etcd` and `kube-apiserver` as processes, with certificates and RBAC.
//!
//! [`credentials`] holds who is trusted, [`process`] the two programs, [`kubectl`] runs the third. Objects, watches, admission, RBAC and
//! tokens are real; controllers and kubelets are not there, so nothing runs a pod, collects garbage,
//! empties a namespace, or fills roles that are sums of others (`view`, `edit`, `admin`).

pub mod credentials;
pub mod kubectl;
mod process;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use meshctl::local::ports::Port;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::{eventually, programs};
use credentials::Credentials;
use kubectl::Output;
use process::Process;

/// Longest wait for the API server, on a machine that builds something else meanwhile.
const START: Duration = Duration::from_secs(120);
/// Who wrote what the harness applies.
const MANAGER: &str = "ferromesh-tests";
/// The issuer of service accounts' tokens, and their audience unless another is asked for.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// A running API server with its own empty etcd; both end with the value, or with the test's process.
#[derive(Debug)]
pub struct ApiServer {
    // Fields are dropped in this order: who asks ends before who answers, and the folder is last.
    server: Option<Process>,
    etcd: Process,
    /// Keeps the port while the API server is down.
    _port: Port,
    address: SocketAddr,
    credentials: Credentials,
    programs: PathBuf,
    folder: tempfile::TempDir,
}

impl ApiServer {
    /// Starts one for the caller alone, who may stop it. It takes about four seconds and 300 MiB; most tests want [`shared`](Self::shared).
    ///
    /// # Errors
    /// If a program ends early or the server isn't ready in time; with the end of their logs.
    ///
    /// # Panics
    /// If the programs are not installed.
    pub async fn start() -> Result<Self> {
        let programs = programs::kubernetes();
        let folder = tempfile::Builder::new().prefix("ferromesh-kubernetes-").tempdir()?;
        let port = Port::reserve()?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.number()));
        let credentials = Credentials::create(folder.path(), address)?;
        let etcd = start_etcd(&programs, folder.path())?;
        let mut this = Self { server: None, etcd, _port: port, address, credentials, programs, folder };
        this.resume().await?;
        // Real clusters have them before anything else; here nobody but us makes them.
        for namespace in ["default", "kube-system"] {
            this.namespace(namespace).await?;
        }
        Ok(this)
    }

    /// One for all tests of this program, started by the first that asks. Tests keep apart by namespaces of their own.
    ///
    /// # Panics
    /// If it doesn't start.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<ApiServer> = OnceCell::const_new();
        SHARED.get_or_init(async || Self::start().await.expect("an API server starts")).await
    }

    /// Stops the API server at once, as a node that fails does: connections and watches break. etcd goes on.
    pub fn stop(&mut self) {
        self.server = None;
    }

    /// Starts the API server again, on the same port with the same objects, and waits until it is ready.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn resume(&mut self) -> Result<()> {
        if self.server.is_none() {
            self.server = Some(self.start_server()?);
        }
        let client = self.client().await?;
        let ready = || http::Request::get("/readyz").body(Vec::new());
        let answered = eventually(START, async || {
            for process in self.server.iter_mut().chain([&mut self.etcd]) {
                if let Some(ended) = process.ended() {
                    return Ok(Err(ended));
                }
            }
            let page = client.request_text(ready()?).await?;
            if page != "ok" {
                bail!("/readyz says {page}");
            }
            Ok(Ok(()))
        })
        .await;
        match answered {
            Ok(Ok(())) => Ok(()),
            Ok(Err(ended)) => bail!(ended),
            Err(error) => bail!("{error}\n{}", self.logs()),
        }
    }

    /// [`stop`](Self::stop), then [`resume`](Self::resume).
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn restart(&mut self) -> Result<()> {
        self.stop();
        self.resume().await
    }

    /// Where it serves, with TLS.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The certificate of the authority that its own is signed by, PEM.
    pub fn ca(&self) -> &Path {
        &self.credentials.ca
    }

    /// A kubeconfig of an administrator (group `system:masters`).
    pub fn kubeconfig(&self) -> &Path {
        &self.credentials.kubeconfig
    }

    /// A kubeconfig of whom `token` names, in a file that ends with the server; `name` tells it from others.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn kubeconfig_of(&self, name: &str, token: &str) -> Result<PathBuf> {
        let path = self.folder.path().join(format!("{name}.kubeconfig"));
        credentials::write_kubeconfig(&path, self.address, &self.credentials.ca, &json!({"token": token}))?;
        Ok(path)
    }

    /// The administrator's client.
    ///
    /// # Errors
    /// If the kubeconfig can't be read.
    pub async fn client(&self) -> Result<Client> {
        client(self.kubeconfig()).await
    }

    /// The client of whom `token` names.
    ///
    /// # Errors
    /// If a kubeconfig can't be written.
    pub async fn client_of(&self, name: &str, token: &str) -> Result<Client> {
        client(&self.kubeconfig_of(name, token)?).await
    }

    /// Runs kubectl as the administrator.
    ///
    /// # Errors
    /// If it can't be run; what it thinks of its arguments is in the [`Output`].
    pub async fn kubectl(&self, arguments: &[&str], stdin: &str) -> Result<Output> {
        self.kubectl_as(self.kubeconfig(), arguments, stdin).await
    }

    /// Runs kubectl as whom the kubeconfig names.
    ///
    /// # Errors
    /// As [`kubectl`](Self::kubectl).
    pub async fn kubectl_as(&self, kubeconfig: &Path, arguments: &[&str], stdin: &str) -> Result<Output> {
        kubectl::run(&self.programs, kubeconfig, &self.folder.path().join("kubectl"), arguments, stdin).await
    }

    /// Makes a namespace and its service account `default`, if they are not there.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn namespace(&self, name: &str) -> Result<()> {
        self.namespace_with(name, json!({})).await
    }

    /// As [`namespace`](Self::namespace), with these labels (an object of texts).
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn namespace_with(&self, name: &str, labels: Value) -> Result<()> {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        let applied = PatchParams::apply(MANAGER);
        Api::<Namespace>::all(self.client().await?).patch(name, &applied, &Patch::Apply(namespace)).await?;
        self.service_account(name, "default").await
    }

    /// Makes a service account, if it is not there.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn service_account(&self, namespace: &str, name: &str) -> Result<()> {
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}});
        let accounts = Api::<ServiceAccount>::namespaced(self.client().await?, namespace);
        accounts.patch(name, &PatchParams::apply(MANAGER), &Patch::Apply(account)).await?;
        Ok(())
    }

    /// A token of a service account that is there, as a kubelet projects it into a pod.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn service_account_token(&self, namespace: &str, name: &str, audience: &str) -> Result<String> {
        let spec = TokenRequestSpec { audiences: Some(vec![audience.to_owned()]), ..TokenRequestSpec::default() };
        let asked = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
        let accounts = Api::<ServiceAccount>::namespaced(self.client().await?, namespace);
        let answer = accounts.create_token_request(name, &PostParams::default(), &asked).await?;
        answer.status.and_then(|status| status.token).context("the answer holds a token")
    }

    /// The ends of the logs.
    pub fn logs(&self) -> String {
        let server = self.server.as_ref().map(Process::log).unwrap_or_default();
        format!("{server}\n{}", self.etcd.log())
    }

    fn start_server(&self) -> Result<Process> {
        let Credentials { ca, certificate, key, tokens_private, tokens_public, .. } = &self.credentials;
        let file = |flag: &str, path: &Path| format!("--{flag}={}", path.display());
        let arguments = [
            format!("--etcd-servers={}", etcd_url(self.folder.path())),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={}", self.address.port()),
            // Beside the socket that keeps the port.
            "--permit-port-sharing=true".to_owned(),
            // The `kubernetes` service gets no endpoints: loopback is not allowed there, and the machine may have no other address.
            "--advertise-address=192.0.2.1".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            "--service-cluster-ip-range=10.96.0.0/12".to_owned(),
            "--authorization-mode=Node,RBAC".to_owned(),
            file("client-ca-file", ca),
            file("tls-cert-file", certificate),
            file("tls-private-key-file", key),
            format!("--service-account-issuer={ISSUER}"),
            file("service-account-key-file", tokens_public),
            file("service-account-signing-key-file", tokens_private),
            file("cert-dir", self.folder.path()),
            // Tests of a control plane under load are about the control plane.
            "--max-requests-inflight=2000".to_owned(),
            "--max-mutating-requests-inflight=1000".to_owned(),
            "--profiling=false".to_owned(),
        ];
        Process::start(&self.programs.join("kube-apiserver"), &arguments, &self.folder.path().join("server.log"), None)
    }
}

/// It serves on sockets in the file system, so that it needs no ports.
fn start_etcd(programs: &Path, folder: &Path) -> Result<Process> {
    let arguments = [
        format!("--data-dir={}", folder.join("etcd").display()),
        format!("--listen-client-urls={}", etcd_url(folder)),
        // It must be of this form, and nobody reads it.
        "--advertise-client-urls=http://localhost:2379".to_owned(),
        format!("--listen-peer-urls=unix://{}", folder.join("peers.socket").display()),
        "--log-level=warn".to_owned(),
        // What a test wrote need not outlive the machine.
        "--unsafe-no-fsync".to_owned(),
    ];
    // A shared server is never dropped, so the folder goes when etcd does.
    Process::start(&programs.join("etcd"), &arguments, &folder.join("etcd.log"), Some(folder))
}

fn etcd_url(folder: &Path) -> String {
    format!("unix://{}", folder.join("etcd.socket").display())
}

async fn client(kubeconfig: &Path) -> Result<Client> {
    let (read, options) = (Kubeconfig::read_from(kubeconfig)?, KubeConfigOptions::default());
    Ok(Client::try_from(Config::from_custom_kubeconfig(read, &options).await?)?)
}

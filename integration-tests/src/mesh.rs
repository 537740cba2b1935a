//! The mesh of a test: built by name, configured by YAML, asked through its sidecars and its gateway.
//!
//! [`Mesh::apply`] returns when every proxy has taken the configuration, so that what a test asks next is answered by it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use meshctl::http_client;
use meshctl::local::definition::Plan;
use meshctl::local::mesh::MeshOptions;
use meshctl::local::plan::{Allocator, Ingress, Workload};
use meshctl::metrics::Samples;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::app::App;
use crate::client::Client;
use crate::eventually::{DEADLINE, eventually};

/// How long configuration may be warmed by a proxy that took it.
const WARMING: Duration = Duration::from_secs(3);

/// Of the directories of meshes; the id of the process follows.
pub const PREFIX: &str = "ferromesh-test-";

/// What a mesh is to consist of.
#[derive(Debug, Default)]
pub struct Builder {
    members: Vec<Member>,
    gateway: Vec<u16>,
    yaml: String,
    settings: String,
    certificate_life: Option<Duration>,
}

#[derive(Debug)]
struct Member {
    namespace: String,
    name: String,
    account: String,
    labels: Vec<(String, String)>,
    /// Name and version of the application; none for a mere client.
    app: Option<(String, String)>,
}

/// A running mesh.
#[derive(Debug)]
pub struct Mesh {
    pub(crate) local: meshctl::local::mesh::Mesh,
    pub(crate) directory: PathBuf,
    outbound: BTreeMap<String, u16>,
    apps: BTreeMap<String, App>,
    files: AtomicU64,
    _directory: tempfile::TempDir,
}

impl Builder {
    /// A service with a workload a version: `reviews-v1`, `reviews-v2` … of service account `reviews`, in namespace `default`.
    #[must_use]
    pub fn service(self, name: &str, versions: usize) -> Self {
        self.service_in("default", name, versions)
    }

    /// The same in a namespace.
    #[must_use]
    pub fn service_in(mut self, namespace: &str, name: &str, versions: usize) -> Self {
        for version in (1..=versions).map(|number| format!("v{number}")) {
            self.members.push(Member {
                namespace: namespace.to_owned(),
                name: format!("{name}-{version}"),
                account: name.to_owned(),
                labels: vec![("app".into(), name.into()), ("version".into(), version.clone())],
                app: Some((name.to_owned(), version)),
            });
        }
        self.yaml.push_str(&service(namespace, name, name));
        self
    }

    /// A workload that only asks, in namespace `default`.
    #[must_use]
    pub fn client(self, name: &str) -> Self {
        self.client_in("default", name)
    }

    /// The same in a namespace.
    #[must_use]
    pub fn client_in(mut self, namespace: &str, name: &str) -> Self {
        let labels = vec![("app".into(), name.into())];
        let (name, namespace) = (name.to_owned(), namespace.to_owned());
        self.members.push(Member { account: name.clone(), namespace, name, labels, app: None });
        self
    }

    /// An ingress gateway that takes these ports of `Gateway`s.
    #[must_use]
    pub fn gateway(mut self, ports: &[u16]) -> Self {
        self.gateway.extend(ports);
        self
    }

    /// Configuration from the start.
    #[must_use]
    pub fn apply(mut self, yaml: &str) -> Self {
        self.yaml.push_str("\n---\n");
        self.yaml.push_str(yaml);
        self
    }

    /// Lines of `MeshConfig`.
    #[must_use]
    pub fn mesh_config(mut self, lines: &str) -> Self {
        for line in lines.lines() {
            self.settings.push_str(&format!("    {line}\n"));
        }
        self
    }

    /// How long certificates of workloads hold; they are renewed at half of it.
    #[must_use]
    pub fn certificate_life(mut self, life: Duration) -> Self {
        self.certificate_life = Some(life);
        self
    }

    /// Starts everything, and returns when every proxy is configured.
    pub async fn start(self) -> Result<Mesh> {
        sweep();
        let prefix = format!("{PREFIX}{}-", std::process::id());
        let temporary = tempfile::Builder::new().prefix(&prefix).tempdir()?;
        let directory = temporary.path().to_owned();
        std::fs::create_dir(directory.join("config"))?;
        let mut allocator = Allocator::default();
        let wanted: Vec<_> = self.gateway.iter().map(|port| (*port, None)).collect();
        let ingress = if wanted.is_empty() { None } else { Some(Ingress::new(&mut allocator, &wanted)?) };
        let (mut apps, mut workloads, mut outbound) = (BTreeMap::new(), Vec::new(), BTreeMap::new());
        for member in &self.members {
            let Member { namespace, name, account, .. } = member;
            let mut workload = Workload::new(&mut allocator, namespace, name, account)?;
            for (label, value) in &member.labels {
                workload.label(label, value);
            }
            if let Some((app, version)) = &member.app {
                let app = App::start(app, version).await?;
                for (port, protocol, address) in [
                    ("http", "HTTP", app.http),
                    ("grpc", "GRPC", app.http),
                    ("tcp", "TCP", app.tcp),
                    ("greeting", "TCP", app.greeting),
                ] {
                    workload.serve(port, protocol, address)?;
                }
                apps.insert(name.clone(), app);
            }
            outbound.insert(name.clone(), workload.outbound.port());
            workloads.push(workload);
        }
        let settings = format!(
            "\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |\n    \
             accessLogFile: {}\n{}{}",
            directory.join("access.log").display(),
            if self.settings.contains("accessLogEncoding") { "" } else { "    accessLogEncoding: JSON\n" },
            self.settings
        );
        std::fs::write(directory.join("config/start.yaml"), self.yaml + &settings)?;
        let options = MeshOptions {
            config_dirs: vec![directory.join("config")],
            directory: directory.clone(),
            plan: Plan { ingress, workloads },
            control_plane_ports: None,
            certificate_life: self.certificate_life,
        };
        let local = meshctl::local::mesh::Mesh::start(options).await?;
        let mesh = Mesh { local, directory, outbound, apps, files: AtomicU64::new(0), _directory: temporary };
        let errors = mesh.local.error_findings();
        if !errors.is_empty() {
            bail!("the configuration is refused: {}", errors.join("; "));
        }
        Ok(mesh)
    }
}

/// Removes what shared meshes of processes left that are gone: they live as long as their process, so nobody drops them.
pub fn sweep() {
    for entry in std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next()?.parse::<u32>().ok());
        if process.is_some_and(|process| !Path::new(&format!("/proc/{process}")).exists()) {
            // Another process may sweep at the same time.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// A Kubernetes service over the HTTP port of an application's workloads, on port 80.
pub fn service(namespace: &str, name: &str, app: &str) -> String {
    service_on(namespace, name, app, &[(80, "http", "http")])
}

/// A Kubernetes service over the workloads of an application: number, name and target of each port. Targets are `http`, `grpc`,
/// `tcp`, which echoes, and `greeting`, where the server speaks first.
pub fn service_on(namespace: &str, name: &str, app: &str, ports: &[(u16, &str, &str)]) -> String {
    let ports: Vec<String> = ports
        .iter()
        .map(|(number, name, target)| format!("{{name: {name}, port: {number}, targetPort: {target}}}"))
        .collect();
    format!(
        "\n---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  \
         selector: {{app: {app}}}\n  ports: [{}]\n",
        ports.join(", ")
    )
}

/// An object of Istio's networking API; its spec in flow style.
pub fn object(kind: &str, namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "\n---\napiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
    )
}

impl Mesh {
    /// Nothing yet; see [`Builder`].
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Puts YAML in force beside what is there; returns the name by which it can be replaced and deleted.
    pub async fn apply(&self, yaml: &str) -> Result<String> {
        let name = format!("test-{}", self.files.fetch_add(1, Ordering::Relaxed));
        self.apply_as(&name, yaml).await?;
        Ok(name)
    }

    /// A service of its own for one test, over the workloads of `app`, and rules for it: as one change.
    pub async fn case(&self, host: &str, app: &str, yaml: &str) -> Result<()> {
        self.apply_as(host, &format!("{}\n---\n{yaml}", service("default", host, app))).await
    }

    /// Puts YAML in force under a name, in place of what was applied under it before.
    ///
    /// # Errors
    /// The control plane finds an error in it, or some proxy does not take it.
    pub async fn apply_as(&self, name: &str, yaml: &str) -> Result<()> {
        let findings = self.try_apply(name, yaml).await?;
        if !findings.is_empty() {
            bail!("the configuration is refused: {}", findings.join("; "));
        }
        Ok(())
    }

    /// Like [`Mesh::apply_as`], but returns the errors that the control plane found in it.
    pub async fn try_apply(&self, name: &str, yaml: &str) -> Result<Vec<String>> {
        let generation = self.files.fetch_add(1, Ordering::Relaxed);
        let marker = format!(
            "\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: marker-{name}, namespace: marker}}\ndata: {{generation: '{generation}'}}\n"
        );
        self.write(&self.directory.join("config"), name, &(yaml.to_owned() + &marker))?;
        self.settle(name, Some(generation)).await?;
        let findings = self.debug("/debug/findings").await?;
        let file = format!("/config/{name}.yaml");
        let of_file = |finding: &&Value| {
            finding["severity"] == "error" && finding["file"].as_str().is_some_and(|path| path.ends_with(&file))
        };
        let findings = findings.as_array().into_iter().flatten().filter(of_file);
        Ok(findings
            .map(|finding| format!("{}: {}: {}", finding["object"], finding["field"], finding["message"]))
            .collect())
    }

    /// Takes what was applied under a name out of force.
    pub async fn delete(&self, name: &str) -> Result<()> {
        std::fs::remove_file(self.directory.join(format!("config/{name}.yaml")))?;
        self.settle(name, None).await
    }

    /// Replaces the `spec` of a workload's `Sidecar`; `${port}` in it is the workload's own outbound port.
    pub async fn set_sidecar(&self, workload: &str, spec: &str) -> Result<()> {
        let port = self.outbound.get(workload).with_context(|| format!("no workload is named {workload}"))?;
        let name = &self.proxy(workload)?;
        let folder = self.directory.join("workloads");
        let text = std::fs::read_to_string(folder.join(format!("{name}.yaml")))?;
        let (entry, _) = text.split_once("\n---\n").context("a workload is an entry and a Sidecar")?;
        let namespace = name.split('.').next_back().unwrap_or_default();
        // None leaves the workload to the Sidecar of its namespace or the mesh.
        let sidecar = match spec {
            "" => String::new(),
            spec => {
                let spec: Value = yaml_serde::from_str(&spec.replace("${port}", &port.to_string()))?;
                let mut object = json!({"apiVersion": "networking.istio.io/v1", "kind": "Sidecar",
                    "metadata": {"name": workload, "namespace": namespace}, "spec": spec});
                object["spec"]["workloadSelector"] = json!({"labels": {"app": workload}});
                yaml_serde::to_string(&object)?
            }
        };
        let generation = self.files.fetch_add(1, Ordering::Relaxed);
        let marker = format!(
            "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: marker-{name}, namespace: marker}}\ndata: {{generation: '{generation}'}}\n"
        );
        self.write(&folder, name, &format!("{entry}\n---\n{sidecar}{marker}"))?;
        self.settle(name, Some(generation)).await
    }

    pub(crate) fn write(&self, folder: &Path, name: &str, yaml: &str) -> Result<()> {
        // It appears whole or not at all.
        let temporary = self.directory.join(format!("{name}.new"));
        std::fs::write(&temporary, yaml)?;
        std::fs::rename(&temporary, folder.join(format!("{name}.yaml"))).with_context(|| format!("cannot write {name}"))
    }

    /// Waits until the control plane has published a generation of a file, and every proxy has taken it.
    async fn settle(&self, name: &str, generation: Option<u64>) -> Result<()> {
        eventually(DEADLINE, async || self.is_published(name, generation).await).await?;
        let number = self.debug("/debug/push_status").await?["number"].as_u64().context("push_status")?;
        eventually(DEADLINE, async || self.is_taken(number).await).await?;
        // What waits for something that never comes is the test's own matter.
        let _ = eventually(WARMING, async || self.is_warm().await).await;
        Ok(())
    }

    async fn is_published(&self, name: &str, generation: Option<u64>) -> Result<()> {
        let objects = self.debug("/debug/configz").await?;
        let marker = format!("marker-{name}");
        let mut objects = objects.as_array().into_iter().flatten();
        let found = objects.find(|object| object["kind"] == "ConfigMap" && object["metadata"]["name"] == *marker);
        let found = found.map(|object| object["data"]["generation"].as_str().unwrap_or_default().to_owned());
        if found != generation.map(|generation| generation.to_string()) {
            bail!("the control plane has not read {name}: {found:?} instead of {generation:?}");
        }
        Ok(())
    }

    pub(crate) async fn is_taken(&self, number: u64) -> Result<()> {
        let all = self.debug("/debug/syncz").await?;
        let all = all.as_array().context("syncz")?;
        if all.len() < self.local.admins().len() {
            bail!("only {} proxies are connected", all.len());
        }
        for proxy in all {
            if proxy["offered"].as_u64().is_none_or(|offered| offered < number) {
                bail!("{} has not been sent state {number}, only {}", proxy["proxy"], proxy["offered"]);
            }
            for (kind, state) in proxy["types"].as_object().into_iter().flatten() {
                // Types that it has no resources of are never sent.
                if state["status"] == "SYNCED" || state["status"] == "NOT_SENT" || state["status"] == "NOT SENT" {
                    continue;
                }
                bail!("{} has not taken its {kind}: {state}", proxy["proxy"]);
            }
        }
        Ok(())
    }

    async fn is_warm(&self) -> Result<()> {
        // Applications' own sidecars call nobody in most tests, and dumps of all take long.
        let callers = self.outbound.keys().filter(|name| !self.apps.contains_key(*name)).map(String::as_str);
        let callers = callers.chain(["istio-ingressgateway"]);
        for admin in callers.filter_map(|name| self.local.admin(name)) {
            let dump = http_client::get(admin, "localhost", "/config_dump").await?;
            let text = dump.text();
            if text.contains("\"dynamic_warming_clusters\"") || text.contains("\"warming_state\"") {
                bail!("{admin} is warming");
            }
        }
        Ok(())
    }

    /// A debug page of the control plane.
    pub async fn debug(&self, path: &str) -> Result<Value> {
        let answer = http_client::get(self.local.state().monitoring, "localhost", path).await?;
        serde_json::from_slice(&answer.body).with_context(|| format!("{path}: {}", answer.text()))
    }

    /// What the control plane finds in all configuration.
    pub async fn findings(&self) -> Result<Value> {
        self.debug("/debug/findings").await
    }

    fn proxy(&self, workload: &str) -> Result<String> {
        Ok(self.local.state().proxy(workload)?.name.clone())
    }

    /// A workload as a user of its sidecar. Panics if there is none, which is a mistake of the test.
    #[track_caller]
    pub fn client(&self, workload: &str) -> Client {
        Client::new(self.local.outbound(workload).unwrap_or_else(|| panic!("no workload is named {workload}")))
    }

    /// Somebody outside who uses a port of the gateway. Panics if there is none, which is a mistake of the test.
    #[track_caller]
    pub fn gateway(&self, port: u16) -> Client {
        Client::new(self.local.gateway_address(port).unwrap_or_else(|| panic!("the gateway has no port {port}")))
    }

    /// The port that is really opened for a port of the gateway.
    #[track_caller]
    pub fn gateway_port(&self, port: u16) -> u16 {
        self.gateway(port).address().port()
    }

    /// Writes a file that configuration may name; returns its path.
    pub fn file(&self, name: &str, content: &str) -> Result<String> {
        let path = self.directory.join(name);
        std::fs::write(&path, content)?;
        Ok(path.display().to_string())
    }

    /// The `spec` of a workload's `WorkloadEntry`.
    pub fn workload_entry(&self, workload: &str) -> Result<Value> {
        let file = self.directory.join("workloads").join(format!("{}.yaml", self.proxy(workload)?));
        let text = std::fs::read_to_string(file)?;
        let (entry, _) = text.split_once("\n---\n").context("a workload is an entry and a Sidecar")?;
        let mut entry: Value = yaml_serde::from_str(entry)?;
        Ok(entry["spec"].take())
    }

    /// The path of a file that is not there yet.
    pub fn path(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    /// The address of a workload, where its sidecar listens for others.
    pub async fn workload_address(&self, workload: &str) -> Result<String> {
        let endpoints = self.debug("/debug/adsz").await?;
        let mut clients = endpoints["clients"].as_array().into_iter().flatten();
        let id = format!("~{}~", self.proxy(workload)?);
        let connection = clients.find_map(|client| client["connectionId"].as_str().filter(|it| it.contains(&id)));
        let address = connection.and_then(|connection| connection.split('~').nth(1));
        Ok(address.with_context(|| format!("{workload} is not connected"))?.to_owned())
    }

    /// The application of a workload. Panics if there is none, which is a mistake of the test.
    #[track_caller]
    pub fn app(&self, workload: &str) -> &App {
        self.apps.get(workload).unwrap_or_else(|| panic!("no application is named {workload}"))
    }

    /// The SPIFFE id of a workload; empty if there is none.
    pub fn identity(&self, workload: &str) -> String {
        self.local.identity(workload).unwrap_or_default()
    }

    /// The metrics of one proxy.
    pub async fn metrics(&self, workload: &str) -> Result<Samples> {
        Samples::fetch(self.local.admin(workload)).await
    }

    /// A page of one proxy's admin.
    pub async fn admin(&self, workload: &str, path: &str) -> Result<String> {
        let admin = self.local.admin(workload).with_context(|| format!("no proxy is named {workload}"))?;
        Ok(http_client::get(admin, "localhost", path).await?.text())
    }

    /// Lines of the access logs of all proxies for which `wanted` holds, once there is one.
    pub async fn log(&self, wanted: impl Fn(&Value) -> bool) -> Result<Vec<Value>> {
        let file = self.directory.join("access.log");
        eventually(DEADLINE, async || {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let found: Vec<Value> = lines.filter(&wanted).collect();
            if found.is_empty() { bail!("no such line in the access log") } else { Ok(found) }
        })
        .await
    }

    /// Lines about outbound requests to an authority that start with `host`, once there is one.
    pub async fn log_of(&self, host: &str) -> Result<Vec<Value>> {
        let starts = |line: &Value| line["authority"].as_str().is_some_and(|authority| authority.starts_with(host));
        let inbound = |line: &Value| line["upstream_cluster"].as_str().is_some_and(|name| name.starts_with("inbound|"));
        self.log(|line| starts(line) && !inbound(line)).await
    }

    /// Stops everything.
    pub async fn stop(self) {
        self.local.stop().await;
    }
}

/// A mesh that the tests of a module share, on a runtime that outlives each of them.
#[derive(Debug)]
pub struct Shared {
    mesh: OnceLock<(Runtime, Mesh)>,
    build: fn() -> Builder,
}

impl Shared {
    /// A mesh that is started by its first test.
    pub const fn new(build: fn() -> Builder) -> Self {
        Self { mesh: OnceLock::new(), build }
    }

    /// Runs a test on it. Panics when the mesh does not start or the test fails.
    #[track_caller]
    pub fn run(&'static self, test: impl AsyncFnOnce(&'static Mesh) -> Result<()>) {
        let (runtime, mesh) = self.mesh.get_or_init(|| {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            let runtime = runtime.unwrap_or_else(|error| panic!("no runtime: {error}"));
            let mesh = runtime.block_on((self.build)().start());
            let mesh = mesh.unwrap_or_else(|error| panic!("the mesh does not start: {error:#}"));
            (runtime, mesh)
        });
        if let Err(error) = runtime.block_on(test(mesh)) {
            panic!("{error:#}");
        }
    }
}

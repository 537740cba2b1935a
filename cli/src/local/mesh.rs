//! The composition of a local mesh: control plane and CA, gateway, and a sidecar beside each workload, all in this process.
//!
//! Each proxy has its own workers, admin and identity, and speaks to the control plane over gRPC as it would from another machine.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::future::try_join_all;
use mesh_controlplane::app::{CaSettings, ControlPlane, Settings};
use mesh_controlplane::model::Spec;
use mesh_controlplane::source::FileSource;
use mesh_controlplane::validate::{MESH_CONFIG_KEY, MESH_CONFIG_NAME, Severity, mesh_config};
use mesh_proto::crd::MeshConfig;
use mesh_proto::names::ROOT_NAMESPACE;
use mesh_proxy::app::{Options, Proxy};
use mesh_proxy::bootstrap::Servers;
use mesh_proxy::bootstrap::agent::{Agent, Role};
use mesh_proxy::identity::{Root, Token};

use super::definition::Plan;
use super::manifest;
use super::plan::{GATEWAY_ACCOUNT, GATEWAY_NAME, Ingress, Workload};
use super::state::{ProxyState, State};

/// How long proxies may take to be configured.
const READY: Duration = Duration::from_secs(30);
/// How long connections may take to end when the mesh stops.
const DRAIN: Duration = Duration::from_secs(2);
/// Life of the tokens with which proxies ask for their first certificate; afterwards the certificate itself is shown.
const TOKEN_LIFE: Duration = Duration::from_secs(3600);
/// Worker threads of each proxy: many proxies share this machine.
const WORKERS: usize = 1;

/// What to run.
#[derive(Debug)]
pub struct MeshOptions {
    /// Folders and files with the user's configuration, watched.
    pub config_dirs: Vec<PathBuf>,
    /// Where the mesh writes what it makes itself.
    pub directory: PathBuf,
    /// Gateway and workloads.
    pub plan: Plan,
    /// Ports of the control plane: plaintext xDS, TLS xDS, monitoring. The system chooses when absent.
    pub control_plane_ports: Option<[u16; 3]>,
    /// Life of workloads' certificates; Istio's 24 hours when absent.
    pub certificate_life: Option<Duration>,
}

/// A running mesh.
#[derive(Debug)]
pub struct Mesh {
    /// Absent while it is stopped.
    control_plane: Option<ControlPlane>,
    settings: Settings,
    /// What each proxy was started with, in the order of `proxies`.
    agents: Vec<Agent>,
    proxies: Vec<Proxy>,
    state: State,
    // Holds the ports until the end.
    plan: Plan,
}

/// Folder of the objects that describe workloads, below the mesh's directory.
const WORKLOADS: &str = "workloads";
/// Folder of the authority's key and the key of tokens, so that a control plane that starts anew is the same.
const AUTHORITY: &str = "ca";
/// Folder of what `meshctl local apply` puts in force.
const APPLIED: &str = "applied";

impl Mesh {
    /// Starts everything and waits until every proxy is ready.
    pub async fn start(options: MeshOptions) -> Result<Self> {
        let MeshOptions { mut config_dirs, directory, plan, control_plane_ports, certificate_life } = options;
        let (workloads, applied_dir) = write_manifests(&directory, &plan)?;
        config_dirs.extend([workloads, applied_dir.clone()]);
        let trust_domain = trust_domain(&config_dirs)?;
        let port =
            |index: usize| control_plane_ports.map(|ports| SocketAddr::from((Ipv4Addr::LOCALHOST, ports[index])));
        let settings = Settings {
            config_dirs: config_dirs.clone(),
            grpc_addr: port(0),
            secure_grpc_addr: port(1),
            monitoring_addr: port(2),
            ca: CaSettings::SelfSigned { dir: Some(directory.join(AUTHORITY)) },
            ..Settings::default()
        };
        let control_plane = ControlPlane::start(settings.clone()).await.context("cannot start the control plane")?;
        let settings = Settings {
            grpc_addr: Some(control_plane.grpc_addr()),
            secure_grpc_addr: Some(control_plane.secure_grpc_addr()),
            monitoring_addr: Some(control_plane.monitoring_addr()),
            ..settings
        };
        let gateway = plan.ingress.iter().map(|ingress| gateway_agent(&control_plane, ingress));
        let sidecars = plan.workloads.iter().map(|workload| sidecar_agent(&control_plane, workload));
        let life = certificate_life.unwrap_or(Agent::default().secret_ttl);
        let agents = gateway.chain(sidecars);
        let agents = agents.map(|agent| Agent { trust_domain: trust_domain.clone(), secret_ttl: life, ..agent });
        let agents: Vec<Agent> = agents.collect();
        let proxies = try_join_all(agents.iter().cloned().map(start_proxy)).await?;
        let state = State {
            pid: std::process::id(),
            config_dirs,
            applied_dir,
            grpc: control_plane.grpc_addr(),
            secure_grpc: control_plane.secure_grpc_addr(),
            monitoring: control_plane.monitoring_addr(),
            proxies: proxy_states(&plan, &trust_domain, &proxies)?,
        };
        Ok(Self { control_plane: Some(control_plane), settings, agents, proxies, state, plan })
    }

    /// Stops everything: the gateway first, so that nothing new comes in, then sidecars, then the control plane.
    pub async fn stop(mut self) {
        for proxy in std::mem::take(&mut self.proxies) {
            proxy.drain(DRAIN).await;
            proxy.stop().await;
        }
        self.stop_control_plane().await;
    }

    /// Stops the control plane alone; proxies go on with what they have.
    pub async fn stop_control_plane(&mut self) {
        if let Some(control_plane) = self.control_plane.take() {
            control_plane.shutdown().await;
        }
    }

    /// Starts it anew at the same addresses, with the same authority.
    pub async fn start_control_plane(&mut self) -> Result<()> {
        self.stop_control_plane().await;
        let control_plane =
            ControlPlane::start(self.settings.clone()).await.context("cannot start the control plane")?;
        self.control_plane = Some(control_plane);
        Ok(())
    }

    /// The control plane; `None` while it is stopped.
    pub fn control_plane(&self) -> Option<&ControlPlane> {
        self.control_plane.as_ref()
    }

    /// With what a control plane like this mesh's is started.
    pub fn control_plane_settings(&self) -> Settings {
        self.settings.clone()
    }

    /// A workload's sidecar, or the gateway.
    pub fn proxy(&self, workload: &str) -> Option<&Proxy> {
        self.proxies.get(self.index(workload)?)
    }

    fn index(&self, workload: &str) -> Option<usize> {
        let name = &self.state.proxy(workload).ok()?.name;
        self.state.proxies.iter().position(|proxy| proxy.name == *name)
    }

    /// Ends a workload's sidecar, or the gateway, and starts a new one, which knows nothing, with settings that `change` may change.
    pub async fn renew_proxy(&mut self, workload: &str, change: impl FnOnce(&mut Agent)) -> Result<()> {
        let index = self.index(workload).with_context(|| format!("no proxy is named {workload}"))?;
        let mut agent = self.agents[index].clone();
        change(&mut agent);
        let proxy = start_proxy(agent.clone()).await?;
        let admin = proxy.admin_addr().with_context(|| format!("{workload} has no admin"))?;
        let before = std::mem::replace(&mut self.proxies[index], proxy);
        before.drain(DRAIN).await;
        before.stop().await;
        self.state.proxies[index].admin = admin;
        self.agents[index] = agent;
        Ok(())
    }

    /// What other commands are told.
    pub fn state(&self) -> State {
        self.state.clone()
    }

    /// Findings that are errors, in words.
    pub fn error_findings(&self) -> Vec<String> {
        let findings = self.control_plane.iter().flat_map(ControlPlane::findings);
        findings.filter(|finding| finding.severity == Severity::Error).map(|finding| finding.to_string()).collect()
    }

    /// Admin addresses of all proxies.
    pub fn admins(&self) -> Vec<SocketAddr> {
        self.state.proxies.iter().map(|proxy| proxy.admin).collect()
    }

    /// How many sidecars run.
    pub fn sidecars(&self) -> usize {
        self.plan.workloads.len()
    }

    /// Where the gateway takes what Gateways give this port.
    pub fn gateway_address(&self, port: u16) -> Option<SocketAddr> {
        let open = self.plan.ingress.as_ref()?.ports.get(&port)?;
        Some(SocketAddr::from(([127, 0, 0, 1], *open)))
    }

    /// Admin of a workload's sidecar.
    pub fn admin(&self, workload: &str) -> Option<SocketAddr> {
        self.state.proxy(workload).ok().map(|proxy| proxy.admin)
    }

    /// Where a workload's process reaches others.
    pub fn outbound(&self, workload: &str) -> Option<SocketAddr> {
        self.state.proxy(workload).ok()?.outbound
    }

    /// Where others reach a workload: its sidecar's first port.
    pub fn inbound(&self, workload: &str) -> Option<SocketAddr> {
        self.state.proxy(workload).ok()?.inbound.first().copied()
    }

    /// A workload's SPIFFE id.
    pub fn identity(&self, workload: &str) -> Option<String> {
        self.state.proxy(workload).ok().map(|proxy| proxy.identity.clone())
    }
}

/// The trust domain that the configuration sets, or Istio's default. It is fixed while the mesh runs, as certificates are.
fn trust_domain(config_dirs: &[PathBuf]) -> Result<String> {
    let mut source = FileSource::new(config_dirs)?;
    source.scan();
    let configured = source.objects().find_map(|object| match &object.spec {
        Spec::ConfigMap(map) if *object.key.namespace == *ROOT_NAMESPACE && *object.key.name == *MESH_CONFIG_NAME => {
            let (mesh, _) = mesh_config(map.data.as_ref()?.get(MESH_CONFIG_KEY)?, ROOT_NAMESPACE).ok()?;
            Some(mesh.trust_domain)
        }
        _ => None,
    });
    Ok(configured.unwrap_or_else(|| MeshConfig::default().trust_domain))
}

/// What every proxy of this machine knows.
fn agent(control_plane: &ControlPlane, role: Role, name: &str, namespace: &str, account: &str, ip: Ipv4Addr) -> Agent {
    Agent {
        role,
        discovery_address: control_plane.secure_grpc_addr().to_string(),
        root: Root::Pem(control_plane.root_pem()),
        token: Token::Text(control_plane.issue_token(namespace, account, TOKEN_LIFE)),
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        service_account: account.to_owned(),
        ip: IpAddr::V4(ip),
        servers: Servers { admin: Some((Ipv4Addr::LOCALHOST, 0).into()), ..Servers::default() },
        drain: DRAIN,
        ..Agent::default()
    }
}

fn gateway_agent(control_plane: &ControlPlane, ingress: &Ingress) -> Agent {
    let address = ingress.address;
    let mut agent = agent(control_plane, Role::Router, GATEWAY_NAME, ingress.namespace(), GATEWAY_ACCOUNT, address);
    agent.labels = ingress.labels();
    agent
}

fn sidecar_agent(control_plane: &ControlPlane, workload: &Workload) -> Agent {
    let Workload { name, namespace, service_account, address, .. } = workload;
    let mut agent = agent(control_plane, Role::Sidecar, name, namespace, service_account, *address);
    agent.labels = workload.labels.clone();
    // Nothing is captured by the kernel: listeners bind the ports of the workload's Sidecar.
    agent.metadata.insert("INTERCEPTION_MODE".to_owned(), "NONE".into());
    agent
}

async fn start_proxy(agent: Agent) -> Result<Proxy> {
    let name = format!("{}.{}", agent.name, agent.namespace);
    let start = async {
        let proxy = Proxy::start(agent.bootstrap()?, Options { workers: WORKERS }).await?;
        tokio::time::timeout(READY, proxy.ready())
            .await
            .with_context(|| format!("was not configured within {} s", READY.as_secs()))?;
        anyhow::Ok(proxy)
    };
    start.await.with_context(|| format!("the proxy {name}"))
}

/// Writes the objects that describe the plan, and returns the folders that the control plane reads.
fn write_manifests(directory: &Path, plan: &Plan) -> Result<(PathBuf, PathBuf)> {
    let (workloads, applied) = (directory.join(WORKLOADS), directory.join(APPLIED));
    for folder in [&workloads, &applied] {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    // What an earlier mesh of this directory left would be workloads that nobody runs.
    for entry in std::fs::read_dir(&workloads).with_context(|| format!("cannot read {}", workloads.display()))? {
        let file = entry?.path();
        if file.extension().is_some_and(|extension| extension == "yaml") {
            std::fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
        }
    }
    let write = |name: &str, text: String| {
        let file = workloads.join(format!("{name}.yaml"));
        std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
    };
    if let Some(ingress) = &plan.ingress {
        write(GATEWAY_NAME, manifest::ingress(ingress)?)?;
    }
    for workload in &plan.workloads {
        write(&format!("{}.{}", workload.name, workload.namespace), manifest::workload(workload)?)?;
    }
    Ok((workloads, applied))
}

/// How other commands reach the proxies of a plan; `proxies` are in the plan's order, the gateway first.
fn proxy_states(plan: &Plan, trust_domain: &str, proxies: &[Proxy]) -> Result<Vec<ProxyState>> {
    let identity = |namespace: &str, account: &str| format!("spiffe://{trust_domain}/ns/{namespace}/sa/{account}");
    let unspecified = IpAddr::from(Ipv4Addr::UNSPECIFIED);
    let gateway = plan.ingress.iter().map(|ingress| ProxyState {
        name: format!("{GATEWAY_NAME}.{}", ingress.namespace()),
        kind: "gateway".to_owned(),
        admin: (unspecified, 0).into(),
        identity: identity(ingress.namespace(), GATEWAY_ACCOUNT),
        inbound: ingress.ports.values().map(|port| (unspecified, *port).into()).collect(),
        outbound: None,
    });
    let sidecars = plan.workloads.iter().map(|workload| ProxyState {
        name: format!("{}.{}", workload.name, workload.namespace),
        kind: "sidecar".to_owned(),
        admin: (unspecified, 0).into(),
        identity: identity(&workload.namespace, &workload.service_account),
        inbound: workload.ports.iter().map(|port| (IpAddr::from(workload.address), port.inbound).into()).collect(),
        outbound: Some(workload.outbound.into()),
    });
    let states = gateway.chain(sidecars).zip(proxies);
    states
        .map(|(state, proxy)| {
            let admin = proxy.admin_addr().with_context(|| format!("{} has no admin", state.name))?;
            Ok(ProxyState { admin, ..state })
        })
        .collect()
}

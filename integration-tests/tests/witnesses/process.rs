//! A real Envoy beside its agent, with the bootstrap that Istio gives it as far as a stock Envoy takes it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Stdio;

use integration_tests::programs;
use serde_json::{Value, json};
use tokio::net::{TcpStream, UnixListener};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use crate::plane::{Identity, eventually};
use crate::{agent, client};

/// Warnings that say nothing of configuration.
const HARMLESS: &[&str] = &[
    "no configured limit to the number of allowed active downstream connections",
    "caught ENVOY_SIGTERM",
    // Istio's shapes hold fields that every Envoy in use reads, and that the newest would have otherwise.
    "Deprecated field: type envoy.config.",
    "gRPC config stream to xds-grpc closed",
];

/// Which form of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    Delta,
    Sotw,
}

/// Where the control plane is, and how it is spoken to.
#[derive(Debug, Clone)]
pub struct Ads {
    pub address: SocketAddr,
    pub api: Api,
    pub token: Option<String>,
    /// Roots that its certificate is verified by; plaintext without.
    pub roots: Option<String>,
}

/// Who the proxy is.
#[derive(Debug, Clone)]
pub struct Who {
    pub kind: &'static str,
    pub name: String,
    pub namespace: String,
    pub account: String,
    pub address: IpAddr,
    pub labels: BTreeMap<String, String>,
    pub interception: String,
    pub locality: String,
}

impl Who {
    /// A sidecar that captures nothing.
    pub fn sidecar(name: &str, address: IpAddr) -> Self {
        Self {
            kind: "sidecar",
            name: name.to_owned(),
            namespace: "default".to_owned(),
            account: name.to_owned(),
            address,
            labels: [("app".to_owned(), name.to_owned())].into(),
            interception: "NONE".to_owned(),
            locality: String::new(),
        }
    }

    fn node(&self) -> Value {
        let Self { kind, name, namespace, account, address, .. } = self;
        let mut locality = self.locality.split('/');
        let mut part = || locality.next().unwrap_or_default();
        json!({
            "id": format!("{kind}~{address}~{name}.{namespace}~{namespace}.svc.cluster.local"),
            "cluster": format!("{name}.{namespace}"),
            "locality": {"region": part(), "zone": part(), "sub_zone": part()},
            "metadata": {
                "NAME": name, "NAMESPACE": namespace, "SERVICE_ACCOUNT": account, "WORKLOAD_NAME": name, "LABELS": self.labels,
                "INSTANCE_IPS": address.to_string(), "INTERCEPTION_MODE": self.interception, "CLUSTER_ID": "Kubernetes",
                "ISTIO_VERSION": "1.30.0", "GENERATOR": "", "MESH_ID": "cluster.local", "NODE_NAME": "node1",
                "PILOT_SAN": ["istiod.istio-system.svc"], "PROXY_CONFIG": {"concurrency": 1, "statusPort": 15020},
            },
        })
    }
}

/// A running Envoy; it ends with its value.
#[derive(Debug)]
pub struct Envoy {
    child: Child,
    folder: tempfile::TempDir,
    helpers: Vec<JoinHandle<()>>,
}

impl Drop for Envoy {
    fn drop(&mut self) {
        // It may have ended by itself, which other checks notice.
        let _ = self.child.start_kill();
        self.helpers.iter().for_each(JoinHandle::abort);
    }
}

impl Envoy {
    /// Starts one on the machine's own network.
    pub fn start(who: &Who, ads: &Ads, identity: Identity) -> Self {
        let command = Command::new(programs::envoy());
        Self::spawn(command, who, ads, identity, socket_address(ads.address), Vec::new())
    }

    /// Starts one on a network of its own, where every port is free and nothing else answers.
    pub fn isolated(who: &Who, ads: &Ads, identity: Identity) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("ads");
        let relay = tokio::spawn(relay(UnixListener::bind(&socket).unwrap(), ads.address));
        let mut command = Command::new("unshare");
        let script = format!("ip link set lo up && ip address replace {}/32 dev lo && exec \"$0\" \"$@\"", who.address);
        command.args(["--user", "--map-root-user", "--net", "sh", "-c", &script]).arg(programs::envoy());
        let mut envoy = Self::spawn(command, who, ads, identity, pipe(&socket), vec![relay]);
        // The relay's socket must live as long as the process.
        envoy.helpers.push(tokio::spawn(async move {
            let _folder = folder;
            std::future::pending::<()>().await;
        }));
        envoy
    }

    fn spawn(
        mut command: Command,
        who: &Who,
        ads: &Ads,
        identity: Identity,
        address: Value,
        mut helpers: Vec<JoinHandle<()>>,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        helpers.push(agent::serve(&path("sds"), identity));
        let bootstrap = bootstrap(who, ads, address, &path("admin"), &path("sds"));
        std::fs::write(path("envoy.json"), bootstrap.to_string()).unwrap();
        let log = || std::fs::File::options().create(true).append(true).open(path("log")).unwrap();
        let child = command
            .args(["--disable-hot-restart", "--concurrency", "1", "-l", "warning", "-c"])
            .arg(path("envoy.json"))
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .stderr(log())
            .kill_on_drop(true)
            .spawn()
            .expect("the program runs");
        Self { child, folder, helpers }
    }

    /// A page of its admin server.
    pub async fn admin(&self, path: &str) -> Result<String, String> {
        let socket = self.folder.path().join("admin");
        let (_, body) = client::get(socket.to_str().unwrap(), "localhost", path).await.map_err(|e| e.to_string())?;
        Ok(body)
    }

    /// Waits until all it asked for is in force.
    pub async fn live(&self) {
        eventually("Envoy is LIVE", || async {
            let page = self.admin("/server_info").await.map_err(|error| format!("{error}\n{}", self.log()))?;
            let info: Value = serde_json::from_str(&page).map_err(|error| error.to_string())?;
            if info["state"] == "LIVE" {
                return Ok(());
            }
            let pending = self.admin("/init_dump").await.unwrap_or_default();
            Err(format!("{}\n{pending}\n{}", info["state"], self.log()))
        })
        .await;
    }

    /// Its counters and gauges.
    pub async fn stats(&self) -> BTreeMap<String, u64> {
        let page = self.admin("/stats").await.unwrap();
        let lines = page.lines().filter_map(|line| line.rsplit_once(": "));
        lines.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect()
    }

    /// Warnings and errors that it wrote.
    pub fn log(&self) -> String {
        let text = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let lines = text.lines().filter(|line| !HARMLESS.iter().any(|known| line.contains(known)));
        lines.map(|line| format!("{line}\n")).collect()
    }
}

/// The control plane is in another network; sockets in the file system are not.
async fn relay(listener: UnixListener, to: SocketAddr) {
    loop {
        let (mut local, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            let mut remote = TcpStream::connect(to).await.unwrap();
            // Either end may go first.
            let _ = tokio::io::copy_bidirectional(&mut local, &mut remote).await;
        });
    }
}

fn pipe(path: &Path) -> Value {
    json!({"pipe": {"path": path}})
}

fn socket_address(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

/// A cluster that speaks HTTP/2.
fn cluster(name: &str, address: &Value) -> Value {
    const HTTP: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    json!({
        "name": name, "type": "STATIC", "connect_timeout": "5s",
        "typed_extension_protocol_options": {
            HTTP: {"@type": format!("type.googleapis.com/{HTTP}"), "explicit_http_config": {"http2_protocol_options": {}}},
        },
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]},
    })
}

/// Modelled on Istio's, without what a stock Envoy does not have.
fn bootstrap(who: &Who, ads: &Ads, address: Value, admin: &Path, sds: &Path) -> Value {
    let mut plane = cluster("xds-grpc", &address);
    if let Some(roots) = &ads.roots {
        plane["transport_socket"] = json!({
            "name": "tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "sni": "istiod.istio-system.svc",
                "common_tls_context": {
                    "alpn_protocols": ["h2"],
                    "validation_context": {
                        "trusted_ca": {"inline_string": roots},
                        "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": "istiod.istio-system.svc"}}],
                    },
                },
            },
        });
    }
    let metadata = ads.token.iter().map(|token| json!({"key": "authorization", "value": format!("Bearer {token}")}));
    let source = json!({"ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3"});
    json!({
        "node": who.node(),
        "admin": {"address": pipe(admin)},
        "dynamic_resources": {
            "lds_config": source, "cds_config": source,
            "ads_config": {
                "api_type": match ads.api { Api::Delta => "DELTA_GRPC", Api::Sotw => "GRPC" },
                "set_node_on_first_message_only": true,
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds-grpc"}, "initial_metadata": metadata.collect::<Vec<_>>()}],
            },
        },
        "static_resources": {"clusters": [plane, cluster("sds-grpc", &pipe(sds))]},
    })
}

//! A mesh of pods: each a network namespace with an address of each IP version, joined by a bridge in the namespace of the control
//! plane, which is the world outside too. Capture is set up and sidecars are run by the program itself, as in a pod.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record, RecordType};
use integration_tests::mesh::{PREFIX, sweep};
use mesh_controlplane::app::{ControlPlane, Settings};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::net::UdpSocket;
use tokio::sync::oneshot;

use crate::namespace::{APP, Kind, Namespace, PROXY};

/// The world outside: control plane, resolver, and a second address.
pub const OUTSIDE: &str = "10.77.0.1";
pub const OUTSIDE_TOO: &str = "10.77.0.2";
const OUTSIDE_V6: &str = "fd77::1";
/// A name that the resolver outside knows; it stands for [`OUTSIDE`].
pub const OUTSIDE_NAME: &str = "www.outside.example";
/// What injection tells a sidecar of its application's probes.
const PROBES: &str =
    "{\"/app-health/app/readyz\": {\"httpGet\": {\"path\": \"/ready\", \"port\": 9080}, \"timeoutSeconds\": 5}}";
const PLANE: &str = "10.77.0.1:15012";

/// A pod to be.
pub struct Member {
    /// Its name; the service account and the label `app` are what stands before `-v`.
    pub name: &'static str,
    /// Flags of `mesh-proxy redirect`; without any there is no sidecar.
    pub redirect: Option<Vec<&'static str>>,
}

/// A pod.
pub struct Pod {
    pub namespace: Namespace,
    pub v4: String,
    pub v6: String,
    sidecar: Option<Sidecar>,
}

/// A running sidecar, told to end with its pod.
struct Sidecar {
    child: Child,
    log: PathBuf,
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), Signal::SIGKILL);
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().rev().take(20).collect();
            eprintln!("{}:\n{}", self.log.display(), lines.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
    }
}

/// A running mesh.
pub struct Mesh {
    pub outside: Namespace,
    pods: BTreeMap<&'static str, Pod>,
    directory: tempfile::TempDir,
    /// What the resolver outside was asked, in order.
    asked: Arc<Mutex<Vec<String>>>,
    _plane: oneshot::Sender<()>,
}

impl Mesh {
    /// Starts everything and waits until every sidecar is ready. `yaml` is configured beside the pods; `${POD}` and `${POD6}` in it are a
    /// pod's addresses.
    pub fn start(members: &[Member], yaml: &str) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "network namespaces need root");
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let outside = Namespace::new("out");
        outside.ip("link add br0 type bridge");
        for address in [OUTSIDE, OUTSIDE_TOO] {
            outside.ip(&format!("addr add {address}/24 dev br0"));
        }
        outside.ip(&format!("addr add {OUTSIDE_V6}/64 dev br0 nodad"));
        outside.ip("link set br0 up");
        let asked = resolver(&outside);
        let mut pods = BTreeMap::new();
        let mut config = yaml.to_owned();
        for (index, member) in members.iter().enumerate() {
            let pod = pod(&outside, member.name, index + 10);
            config = config.replace(&format!("${{{}}}", member.name), &pod.v4);
            config = config.replace(&format!("${{{}6}}", member.name), &pod.v6);
            config += &manifest(member, &pod);
            pods.insert(member.name, pod);
        }
        std::fs::create_dir(directory.path().join("config")).unwrap();
        std::fs::write(directory.path().join("config/mesh.yaml"), config).unwrap();
        let accounts = members.iter().map(|member| account(member.name).to_owned()).collect();
        let plane = control_plane(&outside, directory.path(), accounts);
        let mut mesh = Self { outside, pods, directory, asked, _plane: plane };
        for member in members {
            if let Some(flags) = &member.redirect {
                mesh.inject(member.name, flags);
            }
        }
        for pod in mesh.pods.values().filter(|pod| pod.sidecar.is_some()) {
            let program = program();
            let mut probe = pod.namespace.program((PROXY, PROXY), &program.to_string_lossy());
            let ready = probe.args(["probe", "--wait", "30"]).output().unwrap();
            assert!(ready.status.success(), "{}", String::from_utf8_lossy(&ready.stderr));
        }
        mesh
    }

    /// A pod.
    pub fn pod(&self, name: &str) -> &Pod {
        &self.pods[name]
    }

    /// Puts YAML in force beside what is there; it holds when what is asked next shows it.
    pub fn apply(&self, yaml: &str) {
        let temporary = self.directory.path().join("new");
        std::fs::write(&temporary, yaml).unwrap();
        std::fs::rename(temporary, self.directory.path().join("config/applied.yaml")).unwrap();
    }

    /// What the resolver outside was asked since the last time.
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    /// What injection does: rules first, then the sidecar.
    fn inject(&mut self, name: &'static str, flags: &[&str]) {
        let program = program().to_string_lossy().into_owned();
        let directory = self.directory.path().to_owned();
        let pod = self.pods.get_mut(name).unwrap();
        pod.namespace.run(&program, &[&["redirect", "--ipv6", "--redirect-dns"], flags].concat());
        let log = directory.join(format!("{name}.log"));
        let file = File::create(&log).unwrap();
        let mut command = pod.namespace.program((PROXY, PROXY), &program);
        command.args(["run", "--workers", "1", "--discovery-address", PLANE]);
        command.arg("--token-file").arg(directory.join(format!("{}.token", account(name))));
        command.arg("--root-cert").arg(directory.join("root.pem"));
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        for (key, value) in [
            ("POD_NAME", name),
            ("POD_NAMESPACE", "default"),
            ("SERVICE_ACCOUNT", account(name)),
            ("INSTANCE_IP", &pod.v4),
            ("INSTANCE_IPS", &format!("{},{}", pod.v4, pod.v6)),
            ("ISTIO_KUBE_APP_PROBERS", PROBES),
            ("ISTIO_METAJSON_LABELS", &labels(name).to_string()),
            ("ISTIO_META_DNS_CAPTURE", "true"),
        ] {
            command.env(key, value);
        }
        let child = command.stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
        pod.sidecar = Some(Sidecar { child, log });
    }
}

impl Pod {
    /// What curl gets as the workload's user.
    pub fn curl(&self, arguments: &str) -> String {
        self.namespace.curl((APP, APP), arguments)
    }

    /// Serves HTTP at a port, on every address, by saying who it is and for whom.
    pub fn serve(&self, port: u16, name: &'static str) {
        let addresses = [format!("0.0.0.0:{port}"), format!("[::]:{port}")];
        let listeners = addresses.map(|address| (&*address.leak(), Kind::Told(name)));
        self.namespace.serve(&listeners);
    }
}

/// The program under test, built from these sources, where every user may run it.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        // With this package selected too, features and so dependencies are those of this test's own build.
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "-p", "integration-tests", "-p", "mesh-proxy", "--bin", "mesh-proxy"]);
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        assert!(build.status().unwrap().success(), "mesh-proxy is not built");
        let test = std::env::current_exe().unwrap();
        let built = test.ancestors().nth(2).unwrap().join("mesh-proxy");
        sweep();
        let copy = std::env::temp_dir().join(format!("{PREFIX}{}-netns", std::process::id()));
        std::fs::create_dir_all(&copy).unwrap();
        std::fs::set_permissions(&copy, PermissionsExt::from_mode(0o755)).unwrap();
        let copy = copy.join("mesh-proxy");
        std::fs::copy(built, &copy).unwrap();
        copy
    })
}

fn account(name: &str) -> &str {
    name.split("-v").next().unwrap()
}

fn labels(name: &str) -> serde_json::Value {
    let version = name.split_once("-v").map_or("1", |(_, version)| version);
    serde_json::json!({ "app": account(name), "version": format!("v{version}") })
}

fn pod(outside: &Namespace, name: &str, index: usize) -> Pod {
    let (v4, v6) = (format!("10.77.0.{index}"), format!("fd77::{index}"));
    let namespace = Namespace::new(name);
    namespace.ip(&format!("link add eth0 type veth peer name veth{index} netns {}", outside.0));
    outside.ip(&format!("link set veth{index} master br0 up"));
    namespace.ip(&format!("addr add {v4}/24 dev eth0"));
    namespace.ip(&format!("addr add {v6}/64 dev eth0 nodad"));
    namespace.ip("link set eth0 up");
    namespace.ip(&format!("route add default via {OUTSIDE}"));
    namespace.ip(&format!("-6 route add default via {OUTSIDE_V6}"));
    namespace.resolve_by(&format!(
        "nameserver {OUTSIDE}\nsearch default.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n"
    ));
    Pod { namespace, v4, v6, sidecar: None }
}

fn manifest(member: &Member, pod: &Pod) -> String {
    let mut labels = labels(member.name);
    if member.redirect.is_some() {
        labels["security.istio.io/tlsMode"] = "istio".into();
    }
    format!(
        "\n---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: default, labels: {labels}}}\n\
         spec: {{serviceAccountName: {account}}}\nstatus: {{podIP: '{v4}', podIPs: [{{ip: '{v4}'}}, {{ip: '{v6}'}}]}}\n",
        name = member.name,
        account = account(member.name),
        v4 = pod.v4,
        v6 = pod.v6,
    )
}

/// Runs until the sender is dropped.
fn control_plane(outside: &Namespace, directory: &Path, accounts: Vec<String>) -> oneshot::Sender<()> {
    let (stop, stopped) = oneshot::channel::<()>();
    let (ready, started) = std::sync::mpsc::channel();
    let directory = directory.to_owned();
    outside.enter(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let settings = Settings {
                config_dirs: vec![directory.join("config")],
                secure_grpc_addr: Some(PLANE.parse().unwrap()),
                ..Settings::default()
            };
            let plane = ControlPlane::start(settings).await.unwrap();
            std::fs::write(directory.join("root.pem"), plane.root_pem()).unwrap();
            for account in accounts {
                let token = plane.issue_token("default", &account, Duration::from_secs(600));
                std::fs::write(directory.join(format!("{account}.token")), token).unwrap();
            }
            let findings: Vec<String> = plane.findings().iter().map(ToString::to_string).collect();
            ready.send(findings).unwrap();
            let _ = stopped.await;
        });
    });
    let findings = started.recv().unwrap();
    assert!(findings.is_empty(), "the configuration is refused: {}", findings.join("; "));
    stop
}

/// A resolver that knows one name, and tells what it was asked.
fn resolver(outside: &Namespace) -> Arc<Mutex<Vec<String>>> {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let kept = asked.clone();
    let (ready, started) = std::sync::mpsc::channel();
    outside.enter(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let socket = UdpSocket::bind((OUTSIDE.parse::<IpAddr>().unwrap(), 53)).await.unwrap();
            ready.send(()).unwrap();
            let mut buffer = vec![0; 4096];
            while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
                let query = Message::from_vec(&buffer[..length]).unwrap();
                let question = &query.queries[0];
                kept.lock().unwrap().push(format!("{} {}", question.name(), question.query_type()));
                let mut answer = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
                answer.metadata = Metadata::response_from_request(&query.metadata);
                answer.metadata.recursion_available = true;
                answer.add_query(question.clone());
                if question.name().to_ascii() != format!("{OUTSIDE_NAME}.") {
                    answer.metadata.response_code = ResponseCode::NXDomain;
                } else if question.query_type() == RecordType::A {
                    let data = RData::A(A(OUTSIDE.parse().unwrap()));
                    answer.add_answer(Record::from_rdata(question.name().clone(), 60, data));
                }
                socket.send_to(&answer.to_vec().unwrap(), client).await.unwrap();
            }
        });
    });
    started.recv().unwrap();
    asked
}

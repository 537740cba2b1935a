//! Connections that the kernel captures: a control plane, a sidecar and its redirection in one network namespace, servers in another,
//! curl as the workload's user. What depends on where a client wanted to go shows only here.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use clap::Parser;
use mesh_controlplane::app::{ControlPlane, Settings};
use mesh_controlplane::model::Change;
use mesh_controlplane::source::{self, Outcome};
use mesh_proxy::app::{Options, Proxy};
use mesh_proxy::bootstrap::Servers;
use mesh_proxy::bootstrap::agent::Agent;
use mesh_proxy::identity::{Root, Token};
use mesh_proxy::redirect::{self, Backend};
use nix::sched::{CloneFlags, setns};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// The pod's address, and the servers'.
const POD: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const SERVERS: [&str; 2] = ["10.77.0.1", "10.77.0.9"];
const DEADLINE: Duration = Duration::from_secs(30);

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    args: redirect::Args,
}

fn run(program: &str, line: &str) -> String {
    let output = Command::new(program).args(line.split(' ')).output().unwrap();
    assert!(output.status.success(), "{program} {line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A network namespace, gone with its interfaces at the end.
struct Namespace(String);

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

impl Namespace {
    fn new(name: &str) -> Self {
        let namespace = Self(format!("fm-{}-{name}", std::process::id()));
        run("ip", &format!("netns add {}", namespace.0));
        namespace.ip("link set lo up");
        namespace
    }

    fn ip(&self, line: &str) {
        run("ip", &format!("-n {} {line}", self.0));
    }

    /// Runs `work` on a thread that lives here, and with it all threads and programs that it starts.
    fn enter<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> std::thread::JoinHandle<T> {
        let handle = File::open(format!("/var/run/netns/{}", self.0)).unwrap();
        std::thread::spawn(move || {
            setns(handle, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        })
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// Servers that answer every request with the address at which they were reached.
async fn serve() {
    for port in [8080, 9090] {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await.unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut request = Vec::new();
                    while !request.ends_with(b"\r\n\r\n") {
                        match stream.read_u8().await {
                            Ok(byte) => request.push(byte),
                            Err(_) => return,
                        }
                    }
                    let text = stream.local_addr().unwrap().to_string();
                    let head =
                        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", text.len());
                    let _ = stream.write_all((head + &text).as_bytes()).await;
                });
            }
        });
    }
}

fn changes(yaml: &str) -> Vec<Change> {
    let documents = source::read(None, yaml.as_bytes()).into_iter();
    let change = documents.filter_map(|document| match document.outcome {
        Outcome::Object(object) => Some(Change::Set(object)),
        Outcome::Nothing => None,
        Outcome::Broken(key) => panic!("{key:?} is refused: {:?}", document.findings),
    });
    change.collect()
}

fn object(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: default}}\nspec: {spec}\n"
    )
}

/// A sidecar that captures, configured by a control plane of its own.
struct Pod {
    _plane: ControlPlane,
    proxy: Proxy,
}

impl Pod {
    async fn start(yaml: &str) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let plane = ControlPlane::start(Settings::default()).await.unwrap();
        plane.apply(changes(yaml)).await;
        let agent = Agent {
            discovery_address: plane.secure_grpc_addr().to_string(),
            root: Root::Pem(plane.root_pem()),
            token: Token::Text(plane.issue_token("default", "pod", Duration::from_secs(3600))),
            name: "pod".to_owned(),
            service_account: "pod".to_owned(),
            ip: IpAddr::V4(POD),
            servers: Servers { admin: Some((Ipv4Addr::LOCALHOST, 0).into()), ..Servers::default() },
            ..Agent::default()
        };
        let proxy = Proxy::start(agent.bootstrap().unwrap(), Options { workers: 1 }).await.unwrap();
        tokio::time::timeout(DEADLINE, proxy.ready()).await.expect("the sidecar is configured");
        // The tests run as root, which stands for the proxy's user.
        let flags = Flags::try_parse_from(["redirect", "--proxy-uid", "0", "--proxy-gid", "0"]).unwrap();
        redirect::apply(&flags.args.settings().unwrap(), Backend::Auto).unwrap();
        Self { _plane: plane, proxy }
    }

    /// What the workload's user gets.
    fn curl(&self, arguments: &str) -> String {
        let line = format!("--reuid 1000 --regid 1000 --clear-groups curl -sS --noproxy * --max-time 10 {arguments}");
        let output = Command::new("setpriv").args(line.split(' ')).output().unwrap();
        String::from_utf8_lossy(if output.status.success() { &output.stdout } else { &output.stderr }).into_owned()
    }

    /// Connections to endpoints of a cluster.
    async fn connections(&self, cluster: &str) -> u64 {
        let admin: SocketAddr = self.proxy.admin_addr().unwrap();
        let text =
            meshctl::http_client::get(admin, "localhost", "/stats?filter=upstream_cx_total").await.unwrap().text();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("cluster.{cluster}.upstream_cx_total: ")));
        line.unwrap_or_else(|| panic!("no cluster {cluster} in {text}")).parse().unwrap()
    }
}

/// Runs a test in the pod, with the servers outside.
fn in_pod(test: impl AsyncFnOnce() + Send + 'static) {
    assert!(nix::unistd::geteuid().is_root(), "network namespaces need root");
    let (pod, outside) = (Namespace::new("pod"), Namespace::new("out"));
    pod.ip(&format!("link add eth0 type veth peer name eth0 netns {}", outside.0));
    for (namespace, addresses) in [(&pod, &["10.77.0.2"][..]), (&outside, &SERVERS[..])] {
        for address in addresses {
            namespace.ip(&format!("addr add {address}/24 dev eth0"));
        }
        namespace.ip("link set eth0 up");
    }
    pod.ip("route add default via 10.77.0.1");
    let (ready, started) = mpsc::channel();
    outside.enter(move || {
        runtime().block_on(async move {
            serve().await;
            ready.send(()).unwrap();
            std::future::pending::<()>().await;
        });
    });
    started.recv().unwrap();
    if let Err(panic) = pod.enter(move || runtime().block_on(test())).join() {
        std::panic::resume_unwind(panic);
    }
}

/// LB1, SE1, SE2, VC1: where the client wanted to go decides: PASSTHROUGH and resolution NONE go there, addresses and ranges of
/// services and `destinationSubnets` tell what is meant, and what nobody knows passes through.
#[test]
fn the_original_destination_decides() {
    in_pod(async || {
        let entry = |host: &str, spec: &str| object("ServiceEntry", host, &format!("{{hosts: [{host}], {spec}}}"));
        let fixed = "resolution: STATIC, endpoints: [{address: 10.77.0.1}]";
        let http = "ports: [{number: 8080, name: http, protocol: HTTP}]";
        let tcp = |number: u16| format!("ports: [{{number: {number}, name: tcp, protocol: TCP, targetPort: 9090}}]");
        let yaml = entry("fixed.example", &format!("{http}, {fixed}"))
            + &entry("kept.example", &format!("{http}, {fixed}"))
            + &object(
                "DestinationRule",
                "kept.example",
                "{host: kept.example, trafficPolicy: {loadBalancer: {simple: PASSTHROUGH}}}",
            )
            + &entry("none.example", &format!("{http}, resolution: NONE"))
            + &entry(
                "range.example",
                "ports: [{number: 9090, name: tcp, protocol: TCP}], addresses: [10.77.0.8/31], resolution: NONE",
            )
            + &entry("address.example", &format!("{}, addresses: [10.99.0.1], {fixed}", tcp(9091)))
            + &entry("ranges.example", &format!("{}, addresses: [10.98.0.0/24], {fixed}", tcp(9092)))
            + &entry(
                "second.example",
                &format!("{}, resolution: STATIC, endpoints: [{{address: 10.77.0.9}}]", tcp(9099)),
            )
            + &object(
                "VirtualService",
                "ranges",
                "{hosts: [ranges.example], tcp: [{match: [{destinationSubnets: [10.98.0.128/25]}], route: [{destination: {host: second.example, port: {number: 9099}}}]}]}",
            );
        let pod = Pod::start(&yaml).await;
        for (arguments, reached, cluster) in [
            ("-H host:fixed.example http://10.77.0.9:8080/", "10.77.0.1:8080", "outbound|8080||fixed.example"),
            ("-H host:kept.example http://10.77.0.9:8080/", "10.77.0.9:8080", "outbound|8080||kept.example"),
            ("-H host:none.example http://10.77.0.9:8080/", "10.77.0.9:8080", "outbound|8080||none.example"),
            ("http://10.77.0.9:9090/", "10.77.0.9:9090", "outbound|9090||range.example"),
            ("http://10.77.0.1:9090/", "10.77.0.1:9090", "PassthroughCluster"),
            ("http://10.99.0.1:9091/", "10.77.0.1:9090", "outbound|9091||address.example"),
            ("http://10.98.0.7:9092/", "10.77.0.1:9090", "outbound|9092||ranges.example"),
            ("http://10.98.0.200:9092/", "10.77.0.9:9090", "outbound|9099||second.example"),
        ] {
            let before = pod.connections(cluster).await;
            assert_eq!(pod.curl(arguments), reached, "{arguments}");
            assert_eq!(pod.connections(cluster).await, before + 1, "{arguments}: {cluster}");
        }
    });
}

//! The gateway as a process: flags, what it serves, who it says it is, and its orderly end.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

use clap::Parser;
use mesh_gateway::args::{Arguments, Command as Verb};
use mesh_proxy::bootstrap::agent::{Agent, Role};
use mesh_proxy::launch;

const BOOTSTRAP: &str = "
node: {id: 'router~10.0.0.1~edge.istio-ingress~istio-ingress.svc.cluster.local', cluster: edge.istio-ingress}
static_resources:
  listeners:
  - name: edge
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: edge
          route_config:
            name: edge
            virtual_hosts:
            - {name: all, domains: ['*'], routes: [{match: {prefix: /}, direct_response: {status: 200, body: {inline_string: edge}}}]}
          http_filters:
          - {name: router, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
";

fn run(flags: &[&str]) -> Box<mesh_proxy::args::Run> {
    let arguments = Arguments::try_parse_from(["mesh-gateway", "run"].iter().chain(flags)).unwrap();
    match arguments.command {
        Verb::Run(run) => run,
        Verb::Probe(_) => panic!("not `run`"),
    }
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_gateway_is_a_router_and_refuses_to_be_a_sidecar() {
    let run = run(&["--workers", "3", "--discovery-address", "http://127.0.0.1:15010"]);
    assert_eq!(run.workers, Some(3));
    let bootstrap = launch::bootstrap(&run, Role::Router).unwrap();
    assert!(bootstrap.node.id.starts_with("router~"), "{}", bootstrap.node.id);
    assert!(Agent::default().bootstrap().unwrap().node.id.starts_with("sidecar~"));

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bootstrap.yaml");
    std::fs::write(&file, BOOTSTRAP.replace("router~", "sidecar~")).unwrap();
    let run = self::run(&["-c", file.to_str().unwrap()]);
    let error = launch::bootstrap(&run, Role::Router).unwrap_err().to_string();
    assert!(error.starts_with("node.id: `sidecar~"), "{error}");
}

#[test]
fn the_binary_serves_a_bootstrap_and_ends_on_a_signal() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bootstrap.yaml");
    std::fs::write(&file, BOOTSTRAP).unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_mesh-gateway"))
        .args(["run", "--workers", "1", "--log-format", "json", "-c"])
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut child = Killed(child);
    // The log may go to either stream; whichever tells the address first.
    let (tell, hear) = std::sync::mpsc::channel();
    let streams: [Box<dyn Read + Send>; 2] =
        [Box::new(child.0.stdout.take().unwrap()), Box::new(child.0.stderr.take().unwrap())];
    for stream in streams {
        let tell = tell.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                let _ = tell.send(line);
            }
        });
    }
    let address: SocketAddr = loop {
        let line = hear.recv_timeout(std::time::Duration::from_secs(30)).unwrap();
        if let Some((_, rest)) = line.split_once("\"address\":\"") {
            break rest.split('"').next().unwrap().parse().unwrap();
        }
    };
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("edge"), "{answer}");
    assert!(Command::new("kill").arg(child.0.id().to_string()).status().unwrap().success());
    assert!(child.0.wait().unwrap().success(), "SIGTERM ends it in order");
}

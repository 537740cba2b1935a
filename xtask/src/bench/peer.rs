//! The proxies that are compared, how each is started, and in which arrangement.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::system::{self, Tree};
use crate::{ci::tools, process};

/// A proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Peer {
    /// Envoy.
    Envoy,
    /// HAProxy. Checks no SPIFFE identity of servers, and keeps no metrics by peer.
    Haproxy,
    /// `mesh-proxy`.
    Ours,
}

/// An arrangement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Topology {
    /// HTTP/1.1 in and out, no TLS.
    Http1,
    /// HTTP/2 in and out, no TLS.
    Http2,
    /// HTTP/1.1, sidecar, mTLS with HTTP/2, sidecar, HTTP/1.1.
    Sidecar,
}

impl Topology {
    /// Requests a second of the fixed-rate phase: about 70 % of what one core of Envoy can do.
    pub fn rate(self) -> u32 {
        match self {
            Self::Http1 => 5_561,
            Self::Http2 => 7_346,
            Self::Sidecar => 2_500,
        }
    }
}

/// Where programs are.
pub struct Programs {
    envoy: Option<PathBuf>,
    ours: PathBuf,
}

impl Programs {
    /// Finds them; Envoy is installed if it is wanted.
    pub fn find(peers: &[Peer]) -> Result<Self> {
        let ours = process::target().join("release/mesh-proxy");
        let envoy = if peers.contains(&Peer::Envoy) { Some(tools::ENVOY.path()?) } else { None };
        Ok(Self { envoy, ours })
    }

    /// Starts one with a configuration, with one worker, on the proxies' core.
    pub fn start(&self, peer: Peer, name: &str, config: &Path, folder: &Path) -> Result<Tree> {
        let config = config.to_string_lossy();
        let (program, arguments): (&Path, &[&str]) = match peer {
            Peer::Ours => (&self.ours, &["run", "-c", &config, "--workers", "1"]),
            Peer::Envoy => {
                let program = self.envoy.as_deref().context("Envoy was not looked for")?;
                (program, &["-c", &config, "--concurrency", "1", "--disable-hot-restart", "-l", "warning"])
            }
            Peer::Haproxy => (Path::new("haproxy"), &["-db", "-f", &config]),
        };
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        Tree::start(name, 0, program, &arguments, folder)
    }
}

/// A proxy (or pair) with its backend.
pub struct Running {
    /// The proxies; their cost is added up.
    pub proxies: Vec<Tree>,
    /// Where the load goes.
    pub listen: u16,
    /// Configuration and output.
    pub folder: PathBuf,
    _backend: Tree,
}

impl Running {
    /// Starts all, and waits until they listen.
    pub fn start(programs: &Programs, home: &Path, topology: Topology, peer: Peer) -> Result<Self> {
        let folder = home.join("run");
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder)?;
        let [listen, inbound, backend, backend_h2, admin, admin2] = system::free_ports()?;
        let body = format!("hello from the bench backend: {}", "x".repeat(98));
        let upstream = if topology == Topology::Http2 { backend_h2 } else { backend };
        let fill = |template: &str, admin: u16| {
            [
                ("listen", listen.to_string()),
                ("inbound", inbound.to_string()),
                ("backend", backend.to_string()),
                ("backend_h2", backend_h2.to_string()),
                ("upstream", upstream.to_string()),
                ("admin", admin.to_string()),
                (
                    "options",
                    if topology == Topology::Http2 { "http2_protocol_options" } else { "http_protocol_options" }
                        .to_owned(),
                ),
                ("certs", home.join("certs").to_string_lossy().into_owned()),
                ("run", folder.to_string_lossy().into_owned()),
                ("body", body.clone()),
            ]
            .iter()
            .fold(template.to_owned(), |text, (name, value)| text.replace(&format!("{{{{{name}}}}}"), value))
        };
        let write = |name: &str, text: String| -> Result<String> {
            let path = folder.join(name);
            std::fs::write(&path, text)?;
            Ok(path.to_string_lossy().into_owned())
        };
        let nginx = write("nginx.conf", fill(include_str!("../../bench/nginx.conf"), 0))?;
        let mut server = Tree::start("nginx", 1, Path::new("nginx"), &["-c".into(), nginx], &folder)?;
        server.wait_for(backend)?;
        let parts: &[(&str, &str, u16, u16)] = match topology {
            Topology::Http1 | Topology::Http2 => &[("proxy", include_str!("../../bench/http.yaml"), listen, admin)],
            Topology::Sidecar => &[
                ("inbound", include_str!("../../bench/inbound.yaml"), inbound, admin),
                ("outbound", include_str!("../../bench/outbound.yaml"), listen, admin2),
            ],
        };
        let mut proxies = Vec::new();
        for (name, template, port, admin) in parts {
            let config = match peer {
                Peer::Envoy | Peer::Ours => write(&format!("{name}.yaml"), fill(template, *admin))?,
                Peer::Haproxy => write(&format!("{name}.cfg"), fill(&haproxy(topology, name), *admin))?,
            };
            let mut tree = programs.start(peer, name, Path::new(&config), &folder)?;
            tree.wait_for(*port)?;
            proxies.push(tree);
        }
        Ok(Self { proxies, listen, folder, _backend: server })
    }
}

fn haproxy(topology: Topology, part: &str) -> String {
    let (bind, server) = match (topology, part) {
        (Topology::Http1, _) => ("bind 127.0.0.1:{{listen}}", "server s 127.0.0.1:{{backend}} pool-max-conn 1000"),
        (Topology::Http2, _) => {
            ("bind 127.0.0.1:{{listen}} proto h2", "server s 127.0.0.1:{{backend_h2}} proto h2 pool-max-conn 1000")
        }
        (Topology::Sidecar, "inbound") => (
            "bind 127.0.0.1:{{inbound}} ssl crt {{certs}}/server-bundle.pem ca-file {{certs}}/ca.pem verify required alpn h2,http/1.1\n  http-request set-header X-Forwarded-Client-Cert \"Subject=\\\"%[ssl_c_s_dn]\\\"\"",
            "server s 127.0.0.1:{{backend}} pool-max-conn 1000",
        ),
        // h2load does not count a status line without a reason, which HTTP/2 has none of.
        (Topology::Sidecar, _) => (
            "bind 127.0.0.1:{{listen}}\n  http-response set-status 200 reason OK",
            "server s 127.0.0.1:{{inbound}} ssl crt {{certs}}/client-bundle.pem ca-file {{certs}}/ca.pem verify required no-ssl-reuse alpn h2 pool-max-conn 1000",
        ),
    };
    include_str!("../../bench/haproxy.cfg").replace("{{bind}}", bind).replace("{{server}}", server)
}

//! Network namespaces: programs inside, servers inside, and what curl gets there as whom.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;

use mesh_proxy::listener::socket::original_destination;
use nix::sched::{CloneFlags, setns};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The workload's user, and the proxy's.
pub const APP: u32 = 1000;
pub const PROXY: u32 = 1337;

fn command(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {stderr}", arguments.join(" "));
    String::from_utf8(output.stdout).unwrap()
}

fn ip(line: &str) {
    command("ip", &line.split(' ').collect::<Vec<_>>());
}

/// A network namespace, gone with its processes' sockets and its interfaces at the end.
pub struct Namespace(pub String);

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
        let _ = std::fs::remove_dir_all(self.files());
    }
}

impl Namespace {
    pub fn new(name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("fm{}-{}-{name}", std::process::id(), COUNT.fetch_add(1, Ordering::SeqCst));
        ip(&format!("netns add {name}"));
        let namespace = Self(name);
        namespace.ip("link set lo up");
        namespace
    }

    /// What lies here stands for the same file of `/etc` inside (ip-netns(8)).
    fn files(&self) -> PathBuf {
        Path::new("/etc/netns").join(&self.0)
    }

    /// Sets the resolver of programs inside.
    pub fn resolve_by(&self, text: &str) {
        std::fs::create_dir_all(self.files()).unwrap();
        std::fs::write(self.files().join("resolv.conf"), text).unwrap();
    }

    pub fn ip(&self, line: &str) {
        ip(&format!("-n {} {line}", self.0));
    }

    /// Runs `work` on a thread that lives in the namespace, and with it the programs that it starts.
    pub fn enter<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> std::thread::JoinHandle<T> {
        let handle = File::open(format!("/var/run/netns/{}", self.0)).unwrap();
        std::thread::spawn(move || {
            setns(handle, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        })
    }

    pub fn run(&self, program: &str, arguments: &[&str]) -> String {
        let inside = [&["netns", "exec", &self.0, program], arguments].concat();
        command("ip", &inside)
    }

    /// Serves each address until the test's process ends; each connection is answered with what its kind says of it.
    pub fn serve(&self, listeners: &[(&'static str, Kind)]) {
        let listeners = listeners.to_vec();
        let (ready, started) = mpsc::channel();
        self.enter(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                for (address, kind) in listeners {
                    let address: SocketAddr = address.parse().unwrap();
                    let opened = mesh_proxy::listener::socket::open(address, 1, None).unwrap();
                    let listener = TcpListener::from_std(opened.into_iter().next().unwrap()).unwrap();
                    tokio::spawn(async move {
                        while let Ok((stream, _)) = listener.accept().await {
                            tokio::spawn(answer(stream, kind));
                        }
                    });
                }
                ready.send(()).unwrap();
                std::future::pending::<()>().await;
            });
        });
        started.recv().unwrap();
    }

    /// A program inside, to be run as `user` and `group`.
    pub fn program(&self, (user, group): (u32, u32), program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0, "setpriv", "--clear-groups"]);
        command.args(["--reuid", &user.to_string(), "--regid", &group.to_string(), program]);
        command
    }

    /// What a program wrote as `user` and `group`, or what it complained of.
    pub fn output(&self, who: (u32, u32), line: &str) -> String {
        let mut words = line.split(' ');
        let output = self.program(who, words.next().unwrap()).args(words).output().unwrap();
        if output.status.success() {
            String::from_utf8(output.stdout).unwrap()
        } else {
            String::from_utf8_lossy(&output.stderr).into_owned()
        }
    }

    /// What curl got as `user` and `group`, or what it complained of.
    pub fn curl(&self, who: (u32, u32), arguments: &str) -> String {
        self.output(who, &format!("curl -sS --globoff --noproxy * --max-time 5 {arguments}"))
    }
}

#[derive(Clone, Copy)]
pub enum Kind {
    /// An application: says its name.
    Named(&'static str),
    /// The same, and whom its proxy says that it serves (`x-forwarded-client-cert`).
    Told(&'static str),
    /// A port of the proxy: says its name and where the connection wanted to go.
    Proxy(&'static str),
}

async fn answer(mut stream: TcpStream, kind: Kind) {
    let original = original_destination(&stream);
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => request.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8_lossy(&request);
    let text = match kind {
        Kind::Named(name) => name.to_owned(),
        Kind::Told(name) => {
            let client = head.lines().find_map(|line| line.strip_prefix("x-forwarded-client-cert: "));
            format!("{name} for {}", client.unwrap_or("nobody"))
        }
        Kind::Proxy(name) => match original {
            Some(address) => format!("{name} {address}"),
            None => format!("{name} not redirected"),
        },
    };
    let response = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}", text.len());
    let _ = stream.write_all(response.as_bytes()).await;
}

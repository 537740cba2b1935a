//! The two proxies: Envoy as a program, ours in this process.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Which one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Envoy.
    Envoy,
    /// Ours.
    Ours,
}

/// A proxy that runs.
pub enum Proxy {
    /// Envoy, a child process.
    Envoy(Child),
    /// Ours; it ends when dropped.
    #[allow(dead_code)]
    Ours(Box<mesh_proxy::app::Proxy>),
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Self::Envoy(child) = self {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Proxy {
    /// Starts it and waits until its listeners are open.
    pub async fn start(kind: Kind, bootstrap: &str, folder: &Path, ports: &[u16]) -> Self {
        match kind {
            Kind::Envoy => Self::envoy(bootstrap, folder, ports).await,
            Kind::Ours => {
                let bootstrap = mesh_proxy::bootstrap::Bootstrap::from_yaml(bootstrap)
                    .unwrap_or_else(|error| panic!("ours does not take the bootstrap: {error}"));
                let options = mesh_proxy::app::Options { workers: 1 };
                let proxy = mesh_proxy::app::Proxy::start(bootstrap, options)
                    .await
                    .unwrap_or_else(|error| panic!("ours does not start: {error:#}"));
                proxy.ready().await;
                Self::Ours(Box::new(proxy))
            }
        }
    }

    async fn envoy(bootstrap: &str, folder: &Path, ports: &[u16]) -> Self {
        let config = folder.join("bootstrap.yaml");
        std::fs::write(&config, bootstrap).expect("the bootstrap is written");
        let errors = folder.join("stderr");
        let child = Command::new(integration_tests::programs::envoy())
            .args(["--concurrency", "1", "--disable-hot-restart", "-l", "warning", "--file-flush-interval-msec", "2"])
            .arg("-c")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&errors).expect("a file is made"))
            .spawn()
            .expect("Envoy starts");
        let mut proxy = Self::Envoy(child);
        let until = Instant::now() + Duration::from_secs(60);
        for port in ports {
            while !is_listening(*port) {
                let Self::Envoy(child) = &mut proxy else { unreachable!("it was just made") };
                let ended = child.try_wait().expect("a child is asked");
                if ended.is_some() || Instant::now() > until {
                    let said = std::fs::read_to_string(&errors).unwrap_or_default();
                    panic!("Envoy does not listen ({ended:?}): {said}");
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        proxy
    }
}

/// True if a socket of this machine listens on `port` of loopback. A connection would be logged.
fn is_listening(port: u16) -> bool {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel lists sockets");
    let address = format!("0100007F:{port:04X}");
    table.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next() == Some(address.as_str()) && fields.nth(1) == Some("0A")
    })
}

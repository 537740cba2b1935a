//! `meshctl demo`: a whole mesh with a Bookinfo-shaped application in this process, and proof that it does what its YAML says.
//!
//! [`bookinfo`] is the application, [`traffic`] the users, [`observe`] reads the proxies' own metrics, [`checks`] judges, [`report`]
//! tells. Nothing printed is assumed: every number is read from a proxy or from an answer.

pub mod bookinfo;
pub mod checks;
pub mod observe;
pub mod refusal;
pub mod report;
pub mod traffic;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::local::definition::Plan;
use crate::local::mesh::{Mesh, MeshOptions};
use crate::local::plan::{Allocator, Ingress, Workload};
use bookinfo::{Edges, Part, Server};

/// How much traffic, and whether progress is shown.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Requests measured before the weights change, and as many after.
    pub requests: u64,
    /// Clients at once.
    pub concurrency: usize,
    /// Draw progress on standard error.
    pub progress: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { requests: 1_000, concurrency: 8, progress: false }
    }
}

/// Configuration of the sample, as it lies in `deploy/samples/bookinfo`.
const SAMPLES: &[(&str, &str)] = &[
    ("authorization.yaml", include_str!("../../../deploy/samples/bookinfo/authorization.yaml")),
    ("destination-rule.yaml", include_str!("../../../deploy/samples/bookinfo/destination-rule.yaml")),
    ("gateway.yaml", include_str!("../../../deploy/samples/bookinfo/gateway.yaml")),
    ("mesh.yaml", include_str!("../../../deploy/samples/bookinfo/mesh.yaml")),
    ("reviews.yaml", include_str!("../../../deploy/samples/bookinfo/reviews.yaml")),
    (ROUTE_FILE, include_str!("../../../deploy/samples/bookinfo/reviews-route.yaml")),
    ("services.yaml", include_str!("../../../deploy/samples/bookinfo/services.yaml")),
    ("strict-mtls.yaml", include_str!("../../../deploy/samples/bookinfo/strict-mtls.yaml")),
];

/// The file whose weights the demo changes under load.
pub const ROUTE_FILE: &str = "reviews-route.yaml";

/// The application's parts: workload, part, version.
const PARTS: &[(&str, Part, &str)] = &[
    ("productpage", Part::Productpage, "v1"),
    ("details", Part::Details, "v1"),
    ("reviews", Part::Reviews(1), "v1"),
    ("reviews", Part::Reviews(2), "v2"),
    ("ratings", Part::Ratings, "v1"),
];

/// The running demo.
#[derive(Debug)]
pub struct Demo {
    /// The mesh.
    pub mesh: Mesh,
    /// Callers that the applications themselves noted.
    pub edges: Edges,
    /// Folder of the sample's files; edit them and see what happens.
    pub config: PathBuf,
    /// Where all proxies write their access logs.
    pub access_log: PathBuf,
    _servers: Vec<Server>,
}

impl Demo {
    /// Starts everything, with files in `directory`, and waits until every proxy is ready.
    pub async fn start(directory: &Path) -> Result<Self> {
        let config = directory.join("bookinfo");
        let access_log = directory.join("access.log");
        write_samples(&config, &access_log)?;
        let mut allocator = Allocator::default();
        let ingress = Ingress::new(&mut allocator, &[(80, None)])?;
        let edges = Edges::default();
        let mut servers = Vec::new();
        let mut workloads = Vec::new();
        for (app, part, version) in PARTS {
            let name = format!("{app}-{version}");
            let mut workload = Workload::new(&mut allocator, "default", &name, &format!("bookinfo-{app}"))?;
            workload.label("app", app);
            workload.label("version", version);
            let application = workload.reserve_application()?;
            workload.serve("http", "HTTP", application.into())?;
            let server = bookinfo::serve(*part, application.port(), workload.outbound.into(), edges.clone());
            servers.push(server.with_context(|| format!("cannot start {name}"))?);
            workloads.push(workload);
        }
        let options = MeshOptions {
            config_dirs: vec![config.clone()],
            directory: directory.to_owned(),
            plan: Plan { ingress: Some(ingress), workloads },
            control_plane_ports: None,
            certificate_life: None,
        };
        let mesh = Mesh::start(options).await?;
        Ok(Self { mesh, edges, config, access_log, _servers: servers })
    }

    /// The gateway's HTTP port.
    pub fn gateway(&self) -> Result<SocketAddr> {
        self.mesh.gateway_address(80).context("the mesh has no gateway")
    }

    /// Stops everything.
    pub async fn stop(self) {
        self.mesh.stop().await;
    }
}

/// Starts the demo, makes its checks and stops it.
pub async fn run(options: Options) -> Result<report::Report> {
    let directory = tempfile::Builder::new().prefix("ferromesh-demo-").tempdir()?;
    let demo = Demo::start(directory.path()).await?;
    let report = checks::run(&demo, options).await;
    demo.stop().await;
    report
}

/// Writes the samples byte for byte, but for the path of the access log.
fn write_samples(config: &Path, access_log: &Path) -> Result<()> {
    std::fs::create_dir_all(config).with_context(|| format!("cannot make {}", config.display()))?;
    for (name, text) in SAMPLES {
        let text = text.replace("accessLogFile: /dev/stdout", &format!("accessLogFile: {}", access_log.display()));
        let file = config.join(name);
        std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_route_is_applied_byte_for_byte() {
        let directory = tempfile::tempdir().unwrap();
        write_samples(directory.path(), Path::new("/x/access.log")).unwrap();
        let written = std::fs::read_to_string(directory.path().join(ROUTE_FILE)).unwrap();
        assert_eq!(written, include_str!("../../../deploy/samples/bookinfo/reviews-route.yaml"));
        assert!(written.starts_with("apiVersion: networking.istio.io/v1alpha3\nkind: VirtualService\n"));
        let mesh = std::fs::read_to_string(directory.path().join("mesh.yaml")).unwrap();
        assert!(mesh.contains("accessLogFile: /x/access.log"));
    }
}

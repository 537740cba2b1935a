//! `LocalMesh`: which of the user's own processes are workloads, written as an object among the rest of the configuration.
//!
//! ```yaml
//! apiVersion: local.ferromesh.io/v1
//! kind: LocalMesh
//! metadata: {name: two-processes}
//! spec:
//!   gateway: {ports: {80: 8080}}        # port in Gateways: port that is opened (0: any)
//!   workloads:
//!   - name: web-v1
//!     labels: {app: web, version: v1}
//!     serviceAccount: web
//!     ports: [{name: http, application: "127.0.0.1:8000"}]
//!   - name: client
//!     outbound: 15101                   # HTTP proxy through which the process reaches every service
//! ```
//!
//! It is read once, when the mesh starts; everything else beside it is read again whenever it changes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::plan::{Allocator, Ingress, Workload};
use super::ports;

/// `apiVersion` of the object.
pub const API_VERSION: &str = "local.ferromesh.io/v1";
/// `kind` of the object.
pub const KIND: &str = "LocalMesh";

/// The object's `spec`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct LocalMesh {
    /// The ingress gateway; none when absent.
    pub gateway: Option<GatewayDefinition>,
    /// The workloads.
    pub workloads: Vec<WorkloadDefinition>,
}

/// The ingress gateway.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct GatewayDefinition {
    /// Port that `Gateway`s name → port that is opened; 0 lets the system choose.
    pub ports: BTreeMap<u16, u16>,
}

/// A workload.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadDefinition {
    /// Name.
    pub name: String,
    /// Namespace; `default` when absent.
    #[serde(default = "default_name")]
    pub namespace: String,
    /// Labels; `app` is the name when absent.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Service account; `default` when absent, as in Kubernetes.
    #[serde(default = "default_name")]
    pub service_account: String,
    /// Ports that the process serves.
    #[serde(default)]
    pub ports: Vec<PortDefinition>,
    /// Local port through which the process reaches every service; the system chooses when absent.
    #[serde(default)]
    pub outbound: Option<u16>,
}

/// A port of a workload.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PortDefinition {
    /// Name, to which services' `targetPort` refers.
    pub name: String,
    /// Protocol as in a `Sidecar`; by the name's prefix when absent.
    #[serde(default)]
    pub protocol: Option<String>,
    /// Where the process listens.
    pub application: SocketAddr,
}

fn default_name() -> String {
    "default".to_owned()
}

/// What a definition comes to: addresses and ports given.
#[derive(Debug)]
pub struct Plan {
    /// The gateway.
    pub ingress: Option<Ingress>,
    /// The workloads.
    pub workloads: Vec<Workload>,
}

/// Finds the definitions in files and folders, and puts them together. Errors name file and field.
pub fn find(paths: &[PathBuf]) -> Result<LocalMesh> {
    let mut all = LocalMesh::default();
    let mut found = false;
    for file in files(paths)? {
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        for document in documents(&text) {
            let Some(definition) = read(document).with_context(|| file.display().to_string())? else { continue };
            found = true;
            if definition.gateway.is_some() && all.gateway.is_some() {
                bail!("{}: a second LocalMesh defines a gateway; there is one gateway", file.display());
            }
            all.gateway = all.gateway.or(definition.gateway);
            all.workloads.extend(definition.workloads);
        }
    }
    if !found {
        bail!(
            "no object of kind {KIND} ({API_VERSION}) in {}: it says which of your processes are workloads; \
             see deploy/samples/two-processes/local.yaml",
            paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
        );
    }
    all.check()?;
    Ok(all)
}

/// Files of YAML in folders and below, and files themselves, in order of their names.
pub fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let entries = fs::read_dir(path).with_context(|| format!("cannot read the folder {}", path.display()))?;
        let mut inside: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        inside.retain(|path| path.is_dir() || is_yaml(path));
        inside.sort();
        files.extend(self::files(&inside)?);
    }
    Ok(files)
}

fn is_yaml(path: &Path) -> bool {
    matches!(path.extension().and_then(|extension| extension.to_str()), Some("yaml" | "yml" | "json"))
}

/// The documents of a YAML file.
fn documents(text: &str) -> impl Iterator<Item = &str> {
    let mut starts = vec![0];
    let mut position = 0;
    for line in text.split_inclusive('\n') {
        if line.trim_end() == "---" || line.starts_with("--- ") {
            starts.push(position);
        }
        position += line.len();
    }
    starts.push(text.len());
    let pieces: Vec<(usize, usize)> = starts.windows(2).map(|pair| (pair[0], pair[1])).collect();
    pieces.into_iter().map(move |(start, end)| text[start..end].trim_start_matches("---"))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
}

#[derive(Debug, Deserialize)]
struct Document {
    spec: LocalMesh,
}

/// The definition in a document, if it is one. Documents that are no YAML are left to the control plane to report.
fn read(document: &str) -> Result<Option<LocalMesh>> {
    let header = yaml_serde::from_str::<Header>(document).ok();
    let Some(header) = header.filter(|header| header.kind == KIND) else { return Ok(None) };
    if header.api_version != API_VERSION {
        bail!("apiVersion `{}` of {KIND} is not known; write `{API_VERSION}`", header.api_version);
    }
    Ok(Some(yaml_serde::from_str::<Document>(document)?.spec))
}

impl LocalMesh {
    fn check(&self) -> Result<()> {
        let mut names = BTreeSet::new();
        let mut outbound = BTreeSet::new();
        for (index, workload) in self.workloads.iter().enumerate() {
            let at = format!("spec.workloads[{index}]");
            if !is_name(&workload.name) {
                bail!("{at}.name: `{}` is no name: lower-case letters, digits and `-`", workload.name);
            }
            if !names.insert((&workload.namespace, &workload.name)) {
                bail!("{at}.name: {}/{} is there twice", workload.namespace, workload.name);
            }
            if let Some(port) = workload.outbound
                && !outbound.insert(port)
            {
                bail!("{at}.outbound: port {port} is another workload's");
            }
            let mut ports = BTreeSet::new();
            for (index, port) in workload.ports.iter().enumerate() {
                if !ports.insert(&port.name) {
                    bail!("{at}.ports[{index}].name: `{}` is there twice", port.name);
                }
            }
        }
        Ok(())
    }

    /// Whether the ports that are written down can be opened.
    ///
    /// # Errors
    /// Another process has one of them.
    pub fn require_ports(&self) -> Result<()> {
        let gateway = self.gateway.iter().flat_map(|gateway| &gateway.ports);
        // The gateway listens on every address.
        let gateway = gateway.map(|(named, open)| (format!("gateway.ports[{named}]"), Ipv4Addr::UNSPECIFIED, *open));
        let outbound = self.workloads.iter().enumerate().filter_map(|(index, workload)| {
            Some((format!("workloads[{index}].outbound"), Ipv4Addr::LOCALHOST, workload.outbound?))
        });
        for (at, address, port) in gateway.chain(outbound).filter(|(.., port)| *port != 0) {
            ports::require_free(address, port).with_context(|| {
                format!("spec.{at} of the {KIND}: port {port} cannot be opened; end the process that has it, or write another")
            })?;
        }
        Ok(())
    }

    /// Gives addresses and ports.
    pub fn plan(&self) -> Result<Plan> {
        let mut allocator = Allocator::default();
        let ingress = match &self.gateway {
            Some(gateway) => {
                let wanted: Vec<_> =
                    gateway.ports.iter().map(|(named, open)| (*named, (*open != 0).then_some(*open))).collect();
                Some(Ingress::new(&mut allocator, &wanted)?)
            }
            None => None,
        };
        let mut workloads = Vec::new();
        for definition in &self.workloads {
            let mut workload =
                Workload::new(&mut allocator, &definition.namespace, &definition.name, &definition.service_account)?;
            workload.label("app", &definition.name);
            for (name, value) in &definition.labels {
                workload.label(name, value);
            }
            for port in &definition.ports {
                let protocol = port.protocol.clone().unwrap_or_else(|| protocol_of(&port.name));
                workload.serve(&port.name, &protocol, port.application)?;
            }
            if let Some(port) = definition.outbound {
                workload.fix_outbound(port);
            }
            workloads.push(workload);
        }
        Ok(Plan { ingress, workloads })
    }
}

/// The protocol that a port's name tells by its prefix (G9); TCP for other names.
fn protocol_of(name: &str) -> String {
    let prefix = name.split('-').next().unwrap_or(name).to_ascii_uppercase();
    match prefix.as_str() {
        "GRPC" if name.to_ascii_lowercase().starts_with("grpc-web") => "GRPC-WEB".to_owned(),
        "HTTP" | "HTTP2" | "HTTPS" | "GRPC" | "TLS" | "MONGO" | "REDIS" | "MYSQL" => prefix,
        _ => "TCP".to_owned(),
    }
}

fn is_name(name: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !name.is_empty() && name.len() <= 63 && name.bytes().all(good) && !name.starts_with('-') && !name.ends_with('-')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const TEXT: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: web}
---
apiVersion: local.ferromesh.io/v1
kind: LocalMesh
metadata: {name: two}
spec:
  gateway: {ports: {80: 8080}}
  workloads:
  - name: web-v1
    labels: {app: web, version: v1}
    serviceAccount: web
    ports: [{name: http, application: "127.0.0.1:8000"}]
  - name: client
    outbound: 15101
"#;

    fn write(text: &str) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("local.yaml");
        fs::write(&file, text).unwrap();
        (directory, file)
    }

    #[test]
    fn definitions_are_found_among_other_objects() {
        let (directory, _) = write(TEXT);
        let mesh = find(&[directory.path().to_owned()]).unwrap();
        let plan = mesh.plan().unwrap();
        assert_eq!(plan.ingress.unwrap().ports[&80], 8080);
        assert_eq!(plan.workloads[0].labels["app"], "web");
        assert_eq!(plan.workloads[0].ports[0].protocol, "HTTP");
        assert_eq!(plan.workloads[1].labels["app"], "client");
        assert_eq!(plan.workloads[1].outbound.port(), 15101);
        assert_eq!(plan.workloads[1].service_account, "default");
    }

    #[test]
    fn mistakes_are_named() {
        for (from, to, expected) in [
            ("name: client", "name: web-v1", "is there twice"),
            ("name: client", "name: Client", "is no name"),
            ("outbound: 15101", "outbond: 15101", "outbond"),
            ("ferromesh.io/v1\n", "ferromesh.io/v9\n", "is not known"),
            ("kind: LocalMesh", "kind: Other", "no object of kind LocalMesh"),
        ] {
            let (directory, _) = write(&TEXT.replace(from, to));
            let error = format!("{:#}", find(&[directory.path().to_owned()]).unwrap_err());
            assert!(error.contains(expected), "{to}: {error}");
        }
    }
}

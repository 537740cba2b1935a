//! Who an API server of tests trusts: one authority for its own certificate and its clients', and a key that signs service accounts' tokens.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Result;
use rcgen::KeyPair;
use serde_json::{Value, json};

use crate::certs::Authority;

/// Files of an API server, all PEM but the kubeconfig.
#[derive(Debug)]
pub(super) struct Credentials {
    /// The authority of everyone here.
    pub ca: PathBuf,
    /// The server's own certificate.
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Signs and verifies tokens.
    pub tokens_private: PathBuf,
    pub tokens_public: PathBuf,
    /// Of an administrator.
    pub kubeconfig: PathBuf,
}

impl Credentials {
    /// Makes and writes them all.
    pub fn create(folder: &Path, address: SocketAddr) -> Result<Self> {
        let write = |name: &str, text: &str| -> Result<PathBuf> {
            let path = folder.join(name);
            std::fs::write(&path, text)?;
            Ok(path)
        };
        let authority = Authority::new("kubernetes")?;
        let server = authority.issue(&["127.0.0.1", "localhost", "kubernetes.default.svc", "kubernetes.default"])?;
        let admin = authority.member("kubernetes-admin", "system:masters")?;
        let tokens = KeyPair::generate()?;
        let ca = write("ca.crt", authority.pem())?;
        let user = json!({
            "client-certificate": write("admin.crt", &admin.cert)?,
            "client-key": write("admin.key", &admin.key)?,
        });
        let kubeconfig = folder.join("kubeconfig");
        write_kubeconfig(&kubeconfig, address, &ca, &user)?;
        Ok(Self {
            certificate: write("server.crt", &server.cert)?,
            key: write("server.key", &server.key)?,
            tokens_private: write("tokens.key", &tokens.serialize_pem())?,
            tokens_public: write("tokens.pub", &tokens.public_key_pem())?,
            ca,
            kubeconfig,
        })
    }
}

/// Writes a kubeconfig with one cluster and one user.
///
/// # Errors
/// If the file can't be written.
pub(super) fn write_kubeconfig(path: &Path, address: SocketAddr, ca: &Path, user: &Value) -> Result<()> {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "tests", "cluster": {"server": format!("https://{address}"), "certificate-authority": ca}}],
        "users": [{"name": "user", "user": user}],
        "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "user"}}],
        "current-context": "tests",
    });
    // JSON is YAML.
    Ok(std::fs::write(path, config.to_string())?)
}

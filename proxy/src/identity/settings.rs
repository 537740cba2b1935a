//! What is configured about the identity, and the files that it is read from.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mesh_proto::names::SECRET_ROOT;
use mesh_proto::spiffe::Identity;

use super::IdentityError;
use super::request::certificates;
use crate::telemetry::stats::Metrics;
use crate::tls::{SecretStore, Trust, certificate};

/// Who signs for whom, and how.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The authority: `HOST:PORT` or `https://HOST:PORT` over TLS, `http://HOST:PORT` in plaintext, which only loopback may be.
    pub ca_address: String,
    /// Whom the authority's server must be signed by. Also trusted in the mesh, beside the root that comes with each certificate.
    pub ca_root: Root,
    /// The name in the authority's serving certificate, unless `istiod.istio-system.svc`.
    pub server_name: Option<String>,
    /// What the first request shows; later ones show the certificate.
    pub token: Token,
    /// Trust domain.
    pub trust_domain: String,
    /// Namespace.
    pub namespace: String,
    /// Service account.
    pub service_account: String,
    /// The cluster whose tokens these are (gRPC metadata `ClusterID`).
    pub cluster_id: Option<String>,
    /// Kind of key.
    pub key: KeyType,
    /// Wanted lifetime; the authority may give less.
    pub ttl: Duration,
    /// Share of the lifetime that is left when a certificate is renewed (`SECRET_GRACE_PERIOD_RATIO`).
    pub grace_ratio: f64,
    /// The share varies by as much at random, so that a fleet does not renew in the same moment (`SECRET_GRACE_PERIOD_RATIO_JITTER`).
    pub grace_jitter: f64,
    /// Where requests and the time to expiry are counted.
    pub metrics: Option<Arc<Metrics>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ca_address: String::new(),
            ca_root: Root::None,
            server_name: None,
            token: Token::None,
            trust_domain: "cluster.local".to_owned(),
            namespace: "default".to_owned(),
            service_account: "default".to_owned(),
            cluster_id: None,
            key: KeyType::EcdsaP256,
            ttl: Duration::from_secs(24 * 3600),
            grace_ratio: 0.5,
            grace_jitter: 0.01,
            metrics: None,
        }
    }
}

impl Settings {
    /// The identity that is asked for; an error when its parts make none, or when numbers are out of range.
    pub fn identity(&self) -> Result<Identity, IdentityError> {
        let wrong = |what: &str| Err(IdentityError::Settings(what.to_owned()));
        if !(0.0..=1.0).contains(&self.grace_ratio) || !(0.0..=1.0).contains(&self.grace_jitter) {
            return wrong("grace_ratio and grace_jitter lie between 0 and 1");
        }
        if self.ttl < Duration::from_secs(1) || i64::try_from(self.ttl.as_secs()).is_err() {
            return wrong("ttl is at least one second");
        }
        Identity::new(&self.trust_domain, &self.namespace, &self.service_account)
            .map_err(|error| IdentityError::Settings(error.to_string()))
    }
}

/// Kind of private key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyType {
    /// ECDSA on P-256.
    EcdsaP256,
    /// RSA of 2048 bits.
    Rsa2048,
}

/// Roots of trust.
#[derive(Debug, Clone)]
pub enum Root {
    /// None: only an authority in plaintext can be asked.
    None,
    /// A bundle in PEM.
    Pem(String),
    /// A file that holds one; read anew for every connection, and watched.
    File(PathBuf),
}

impl Root {
    /// The file, if it is one.
    pub(super) fn path(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::None | Self::Pem(_) => None,
        }
    }

    fn read(&self) -> Result<String, IdentityError> {
        match self {
            Self::None => Ok(String::new()),
            Self::Pem(text) => Ok(text.clone()),
            Self::File(path) => read(path),
        }
    }

    /// These roots.
    pub(crate) fn trust(&self) -> Result<Trust, IdentityError> {
        let text = self.read()?;
        Trust::from_pem(&text).map_err(|error| IdentityError::Settings(format!("root of the authority: {error}")))
    }

    /// These roots and those that the mesh trusts now, by which the control plane's own certificate may be signed when its authority
    /// was replaced since we were started.
    pub(crate) fn and_mesh(&self, secrets: &SecretStore) -> Result<Trust, IdentityError> {
        match secrets.trust(SECRET_ROOT).load() {
            Some(mesh) => self.with(std::slice::from_ref(&mesh.pem)),
            None => self.trust(),
        }
    }

    /// These roots and `others` (PEM), each once.
    pub(super) fn with(&self, others: &[String]) -> Result<Trust, IdentityError> {
        let mut all: Vec<_> = Vec::new();
        for text in std::iter::once(&self.read()?).chain(others) {
            for one in certificates(text).map_err(IdentityError::Answer)? {
                if !all.contains(&one) {
                    all.push(one);
                }
            }
        }
        let bundle: String = all.iter().map(|one| certificate::pem(one)).collect();
        Trust::from_pem(&bundle).map_err(IdentityError::Answer)
    }
}

/// A bearer token.
#[derive(Clone)]
pub enum Token {
    /// None.
    None,
    /// The token itself.
    Text(String),
    /// A file that holds it; read anew for every request, because projected tokens are replaced.
    File(PathBuf),
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Text(_) => f.write_str("Text(…)"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

impl Token {
    pub(crate) fn read(&self) -> Result<Option<String>, IdentityError> {
        let token = match self {
            Self::None => return Ok(None),
            Self::Text(text) => text.trim().to_owned(),
            Self::File(path) => read(path)?.trim().to_owned(),
        };
        if token.is_empty() { Err(IdentityError::Settings("the token is empty".to_owned())) } else { Ok(Some(token)) }
    }
}

/// Reads a small file. Blocking: secrets are small and on local or memory file systems.
pub(super) fn read(path: &Path) -> Result<String, IdentityError> {
    std::fs::read_to_string(path)
        .map_err(|error| IdentityError::File { path: path.display().to_string(), error: error.to_string() })
}

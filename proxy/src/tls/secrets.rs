//! Secrets by name, each in a cell that changes under those who use it.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use tokio::sync::watch;

use super::certificate::{PeerCertificate, not_after};
use super::provider;

/// A certificate chain with its key.
#[derive(Debug)]
pub struct Certificate {
    /// As rustls wants it.
    pub key: Arc<CertifiedKey>,
    /// URI SANs joined by commas.
    pub uri_sans: Arc<str>,
    /// Expiry, seconds since 1970.
    pub not_after: i64,
    /// The chain in PEM, for dumps.
    pub chain_pem: String,
}

impl Certificate {
    /// Reads PEM. Errors say which part is wrong.
    pub fn from_pem(chain: &str, key: &str) -> Result<Self, String> {
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(chain.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|error| format!("certificate chain: {error}"))?;
        let Some(leaf) = certificates.first() else { return Err("certificate chain: no certificate in PEM".into()) };
        let peer = PeerCertificate::parse(leaf).map_err(|error| format!("certificate: {error}"))?;
        let uri_sans: Vec<&str> = peer.uri_sans.iter().map(|san| &**san).collect();
        let not_after = not_after(leaf).ok_or("certificate: no expiry")?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| format!("private key: {error}"))?;
        let uri_sans = uri_sans.join(",").into();
        let signing = provider().key_provider.load_private_key(key).map_err(|error| format!("private key: {error}"))?;
        let key = CertifiedKey::new(certificates, signing);
        match key.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
            Err(error) => return Err(format!("certificate and private key: {error}")),
        }
        Ok(Self { key: Arc::new(key), uri_sans, not_after, chain_pem: chain.to_owned() })
    }
}

/// Whom to trust.
#[derive(Debug)]
pub struct Trust {
    /// Roots.
    pub roots: Arc<RootCertStore>,
    /// In PEM, for dumps.
    pub pem: String,
}

impl Trust {
    /// Reads a bundle in PEM.
    pub fn from_pem(pem: &str) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let certificate = certificate.map_err(|error| format!("trust bundle: {error}"))?;
            roots.add(certificate).map_err(|error| format!("trust bundle: {error}"))?;
        }
        if roots.is_empty() {
            return Err("trust bundle: no certificate in PEM".into());
        }
        Ok(Self { roots: Arc::new(roots), pem: pem.to_owned() })
    }

    /// The operating system's roots.
    pub fn system() -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err("the operating system has no trusted roots".into());
        }
        Ok(Self { roots: Arc::new(roots), pem: String::new() })
    }
}

/// A place for one secret.
#[derive(Debug)]
pub struct Cell<T> {
    /// Its name.
    pub name: Arc<str>,
    value: ArcSwapOption<T>,
}

impl<T> Cell<T> {
    /// A cell that holds `value` and belongs to no store.
    pub fn fixed(name: &str, value: T) -> Arc<Self> {
        Arc::new(Self { name: name.into(), value: ArcSwapOption::from_pointee(value) })
    }

    /// What it holds now.
    pub fn load(&self) -> Option<Arc<T>> {
        self.value.load_full()
    }
}

/// All secrets of a proxy.
#[derive(Debug)]
pub struct SecretStore {
    certificates: Mutex<HashMap<Arc<str>, Arc<Cell<Certificate>>>>,
    trusts: Mutex<HashMap<Arc<str>, Arc<Cell<Trust>>>>,
    changed: watch::Sender<u64>,
}

impl Default for SecretStore {
    fn default() -> Self {
        Self { certificates: Mutex::default(), trusts: Mutex::default(), changed: watch::channel(0).0 }
    }
}

impl SecretStore {
    /// The cell of a certificate; empty until it comes.
    pub fn certificate(&self, name: &str) -> Arc<Cell<Certificate>> {
        self.cell(&self.certificates, name)
    }

    /// The cell of a trust bundle; empty until it comes.
    pub fn trust(&self, name: &str) -> Arc<Cell<Trust>> {
        self.cell(&self.trusts, name)
    }

    fn cell<T>(&self, cells: &Mutex<HashMap<Arc<str>, Arc<Cell<T>>>>, name: &str) -> Arc<Cell<T>> {
        let mut cells = cells.lock();
        if let Some(cell) = cells.get(name) {
            return cell.clone();
        }
        let cell = Arc::new(Cell { name: name.into(), value: ArcSwapOption::empty() });
        cells.insert(cell.name.clone(), cell.clone());
        self.changed.send_modify(|version| *version += 1);
        cell
    }

    /// Writes a certificate.
    pub fn set_certificate(&self, name: &str, value: Certificate) {
        self.certificate(name).value.store(Some(Arc::new(value)));
        self.changed.send_modify(|version| *version += 1);
    }

    /// Writes a trust bundle.
    pub fn set_trust(&self, name: &str, value: Trust) {
        self.trust(name).value.store(Some(Arc::new(value)));
        self.changed.send_modify(|version| *version += 1);
    }

    /// Marked changed whenever a secret is written, or asked for by a new name.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Names that something refers to, with what is there: for subscriptions and dumps.
    pub fn certificates(&self) -> Vec<(Arc<str>, Option<Arc<Certificate>>)> {
        let cells = self.certificates.lock();
        let mut all: Vec<_> = cells.iter().map(|(name, cell)| (name.clone(), cell.load())).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    /// As [`SecretStore::certificates`].
    pub fn trusts(&self) -> Vec<(Arc<str>, Option<Arc<Trust>>)> {
        let cells = self.trusts.lock();
        let mut all: Vec<_> = cells.iter().map(|(name, cell)| (name.clone(), cell.load())).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }
}

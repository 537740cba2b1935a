//! The authority that signs: its certificates and key, what it puts into a leaf, and the roots that the mesh trusts.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use mesh_proto::spiffe::Identity;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;

use super::{CLOCK_SKEW, CaError, DEFAULT_TTL, MAX_TTL, csr, load};

/// Lifetime of a self-signed root (CA4).
pub const ROOT_TTL: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// An issuing certificate with its key, and the roots that are trusted.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// From the issuing certificate upwards, roots left out.
    chain: Vec<CertificateDer<'static>>,
    roots: Vec<CertificateDer<'static>>,
    /// While all of the chain holds.
    valid: (SystemTime, SystemTime),
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("chain", &self.chain.len())
            .field("roots", &self.roots.len())
            .field("valid", &self.valid)
            .finish_non_exhaustive()
    }
}

/// A certificate that was signed.
#[derive(Debug, Clone)]
pub struct Signed {
    /// The leaf and the certificates between it and the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// Since when it holds.
    pub not_before: SystemTime,
    /// Until when it holds.
    pub not_after: SystemTime,
}

impl Authority {
    /// A new root for a mesh, which lives as long as the process.
    pub fn self_signed(organization: &str, now: SystemTime) -> Result<Self, CaError> {
        let (certificate, key) = root(organization, now, ROOT_TTL)?;
        Self::new(key, vec![certificate.clone()], vec![certificate])
    }

    /// The self-signed root that is kept in a directory (`ca-cert.pem`, `ca-key.pem`, readable by the owner alone); made if there is none.
    pub fn kept(directory: &Path, organization: &str, now: SystemTime) -> Result<Self, CaError> {
        load::kept(directory, || root(organization, now, ROOT_TTL))
    }

    /// A plugged-in authority (CA5): `ca-cert.pem`, `ca-key.pem`, `root-cert.pem` and, if there are certificates in between, `cert-chain.pem`.
    pub fn plugged_in(directory: &Path) -> Result<Self, CaError> {
        load::plugged_in(load::Place::Directory(directory))
    }

    /// An authority of these parts. `chain` begins with the certificate of `key`; each is signed by the next, and the last by one of the
    /// `roots` or is one. The error says which link is broken.
    pub fn new(
        key: KeyPair,
        chain: Vec<CertificateDer<'static>>,
        roots: Vec<CertificateDer<'static>>,
    ) -> Result<Self, CaError> {
        let valid = load::check(&key, &chain, &roots)?;
        let issuing = chain.first().ok_or_else(|| CaError::Chain("there is no issuing certificate".to_owned()))?;
        let issuer = Issuer::from_ca_cert_der(issuing, key)?;
        let chain = chain.into_iter().filter(|certificate| !roots.contains(certificate)).collect();
        Ok(Self { issuer, chain, roots, valid })
    }

    /// The same authority under which more roots are trusted, so that its successor is trusted before it signs (BX13).
    #[must_use]
    pub fn with_roots(mut self, more: impl IntoIterator<Item = CertificateDer<'static>>) -> Self {
        for root in more {
            if !self.roots.contains(&root) {
                self.roots.push(root);
            }
        }
        self
    }

    /// The roots that the mesh trusts.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// The roots as PEM.
    pub fn root_pem(&self) -> String {
        self.roots.iter().map(|root| pem(root)).collect()
    }

    /// Until when the authority can sign.
    pub fn not_after(&self) -> SystemTime {
        self.valid.1
    }

    /// Signs a workload's request. The leaf names the authenticated identity and nothing else, whatever the request asks for (CA3).
    pub fn sign_workload(
        &self,
        request: &str,
        identity: &Identity,
        seconds: i64,
        now: SystemTime,
    ) -> Result<Signed, CaError> {
        let lifetime = match u64::try_from(seconds) {
            Err(_) => return Err(CaError::Validity(seconds)),
            Ok(0) => DEFAULT_TTL,
            Ok(seconds) => Duration::from_secs(seconds).min(MAX_TTL),
        };
        let key = csr::read(request)?;
        let id = identity.to_string().try_into().map_err(CaError::from)?;
        self.sign(&key, vec![SanType::URI(id)], lifetime, now)
    }

    /// Signs a key for these names, for server and client use. The leaf never outlives a certificate above it (BX13).
    pub fn sign(
        &self,
        key: &impl PublicKeyData,
        names: Vec<SanType>,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Signed, CaError> {
        let (since, until) = self.valid;
        if now >= until || now < since {
            let word = if now >= until { "expired" } else { "does not hold before" };
            let at = jiff::Timestamp::try_from(if now >= until { until } else { since }).unwrap_or_default();
            return Err(CaError::Expired { reason: format!("{word} {at}") });
        }
        let not_before = now.checked_sub(CLOCK_SKEW).unwrap_or(now).max(since);
        let not_after = (now + lifetime).min(until);
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.subject_alt_names = names;
        params.not_before = not_before.into();
        params.not_after = not_after.into();
        params.serial_number = Some(serial());
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let leaf = params.signed_by(key, &self.issuer)?;
        let chain = std::iter::once(leaf.der().clone()).chain(self.chain.iter().cloned()).collect();
        Ok(Signed { chain, not_before, not_after })
    }

    /// A chain as the certificate service returns it: each certificate an element, and all trusted roots the last.
    pub fn response(&self, signed: &Signed) -> Vec<String> {
        signed.chain.iter().map(|one| pem(one)).chain([self.root_pem()]).collect()
    }
}

/// The authority of a running control plane, which may be replaced (BX13).
#[derive(Debug, Clone)]
pub struct AuthorityHandle {
    current: Arc<ArcSwap<Authority>>,
    changed: Arc<watch::Sender<()>>,
}

impl AuthorityHandle {
    /// A handle to this authority.
    pub fn new(authority: Authority) -> Self {
        Self { current: Arc::new(ArcSwap::from_pointee(authority)), changed: Arc::new(watch::Sender::new(())) }
    }

    /// The authority of now.
    pub fn load(&self) -> Arc<Authority> {
        self.current.load_full()
    }

    /// Replaces it: certificates are signed by the new one from now on, and the control plane's own is made anew.
    pub fn set_authority(&self, authority: Authority) {
        self.current.store(Arc::new(authority));
        self.changed.send_replace(());
    }

    /// Wakes up when the authority is replaced.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}

/// DER as PEM, lines of 64 (RFC 7468).
pub fn pem(certificate: &CertificateDer<'_>) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    let mut out = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, next) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = next;
    }
    out.push_str("-----END CERTIFICATE-----\n");
    out
}

/// A self-signed root and its key.
pub(super) fn root(
    organization: &str,
    now: SystemTime,
    lifetime: Duration,
) -> Result<(CertificateDer<'static>, KeyPair), CaError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, organization);
    params.not_before = now.checked_sub(CLOCK_SKEW).unwrap_or(now).into();
    params.not_after = (now + lifetime).into();
    params.serial_number = Some(serial());
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    Ok((params.self_signed(&key)?.der().clone(), key))
}

/// A random serial number, positive and of at most 20 bytes (RFC 5280).
fn serial() -> SerialNumber {
    let mut bytes = uuid::Uuid::new_v4().into_bytes();
    bytes[0] = bytes[0] & 0x7f | 0x01;
    SerialNumber::from(bytes.to_vec())
}

#[cfg(test)]
#[path = "authority_tests.rs"]
mod tests;

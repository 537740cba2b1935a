//! Certificate signing requests: only the key is taken, and only if its owner signed the request.

use rcgen::SubjectPublicKeyInfo;
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::{self, PemObject};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

use super::CaError;

/// The longest request that is read, bytes of PEM. An 8192-bit RSA key with many names is a quarter of it.
const MAX_PEM: usize = 16 * 1024;
/// Sizes of RSA keys that are signed, bits. Smaller ones are weak; larger ones make every handshake slow.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// Reads a PEM request and checks its signature; names, usages and other wishes in it are ignored (CA3).
pub fn read(text: &str) -> Result<SubjectPublicKeyInfo, CaError> {
    let refuse = |reason: &str| CaError::Csr(reason.to_owned());
    if text.is_empty() {
        return Err(refuse("is empty"));
    }
    if text.len() > MAX_PEM {
        return Err(refuse("is longer than 16 KiB"));
    }
    let der = CertificateSigningRequestDer::from_pem_slice(text.as_bytes()).map_err(|error| match error {
        pem::Error::NoItemsFound => refuse("has no PEM block CERTIFICATE REQUEST"),
        error => CaError::Csr(format!("is no PEM: {error}")),
    })?;
    let (rest, request) = X509CertificationRequest::from_der(&der)
        .map_err(|error| CaError::Csr(format!("is no PKCS#10 request: {error}")))?;
    if !rest.is_empty() {
        return Err(refuse("is followed by other bytes"));
    }
    let info = &request.certification_request_info.subject_pki;
    match info.parsed().map_err(|error| CaError::Csr(format!("holds a key that cannot be read: {error}")))? {
        PublicKey::RSA(key) if !RSA_BITS.contains(&key.key_size()) => {
            return Err(CaError::Csr(format!("holds an RSA key of {} bits, not 2048 to 8192", key.key_size())));
        }
        PublicKey::RSA(_) | PublicKey::EC(_) => {}
        // Ed25519 has no parsed form of its own; its object identifier is checked below.
        PublicKey::Unknown(_) => {}
        _ => return Err(refuse("holds a key that is neither RSA, ECDSA nor Ed25519")),
    }
    let key = SubjectPublicKeyInfo::from_der(info.raw)
        .map_err(|_| refuse("holds a key that is not RSA, ECDSA P-256, P-384 or P-521, or Ed25519"))?;
    request.verify_signature().map_err(|_| refuse("is not signed by the key that it holds"))?;
    Ok(key)
}

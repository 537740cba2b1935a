//! The authority's files or secret, and whether the certificates in them belong together.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use k8s_openapi::ByteString;
use rcgen::{KeyPair, PublicKeyData};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::CaError;
use super::authority::{Authority, pem};

/// Certificate of the issuer.
const CERTIFICATE: &str = "ca-cert.pem";
/// Its key.
const KEY: &str = "ca-key.pem";
/// Roots that are trusted.
const ROOTS: &str = "root-cert.pem";
/// From the issuer upwards.
const CHAIN: &str = "cert-chain.pem";

/// All files of a plugged-in authority.
pub(super) const FILES: [&str; 4] = [CERTIFICATE, KEY, ROOTS, CHAIN];

/// The self-signed root of a directory, made by `make` if there is none.
pub(super) fn kept(
    directory: &Path,
    make: impl FnOnce() -> Result<(CertificateDer<'static>, KeyPair), CaError>,
) -> Result<Authority, CaError> {
    let (certificate_path, key_path) = (directory.join(CERTIFICATE), directory.join(KEY));
    let (certificates, key) = match (certificate_path.exists(), key_path.exists()) {
        (true, true) => {
            let place = Place::Directory(directory);
            (place.certificates(CERTIFICATE)?, place.key()?)
        }
        (false, false) => {
            let (certificate, key) = make()?;
            write_private(&key_path, &key.serialize_pem())?;
            write(&certificate_path, &pem(&certificate), 0o644)?;
            (vec![certificate], key)
        }
        // A new pair would cut every workload off that trusts the old root, so somebody must decide.
        (present, _) => {
            let (path, other) = if present { (key_path, CERTIFICATE) } else { (certificate_path, KEY) };
            return Err(CaError::File { path, reason: format!("is missing, but {other} is there") });
        }
    };
    Authority::new(key, certificates.clone(), certificates)
}

/// Where the parts of an authority are.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place<'a> {
    /// Files of a directory.
    Directory(&'a Path),
    /// Entries of a secret.
    Secret {
        /// `NAMESPACE/NAME`.
        name: &'a str,
        data: &'a BTreeMap<String, ByteString>,
    },
}

impl Place<'_> {
    /// A part; absent if there is none.
    fn find(self, part: &str) -> Result<Option<Vec<u8>>, CaError> {
        match self {
            Self::Directory(directory) => match fs::read(directory.join(part)) {
                Ok(bytes) => Ok(Some(bytes)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(self.wrong(part, error.to_string())),
            },
            Self::Secret { data, .. } => Ok(data.get(part).map(|bytes| bytes.0.clone())),
        }
    }

    fn wrong(self, part: &str, reason: String) -> CaError {
        let path = match self {
            Self::Directory(directory) => directory.join(part),
            Self::Secret { name, .. } => Path::new("secret").join(name).join(part),
        };
        CaError::File { path, reason }
    }

    fn read(self, part: &str) -> Result<Vec<u8>, CaError> {
        self.find(part)?.ok_or_else(|| self.wrong(part, "is missing".to_owned()))
    }

    fn certificates(self, part: &str) -> Result<Vec<CertificateDer<'static>>, CaError> {
        let found = self.certificates_of(part, &self.read(part)?)?;
        if found.is_empty() {
            return Err(self.wrong(part, "holds no PEM block CERTIFICATE".to_owned()));
        }
        Ok(found)
    }

    fn certificates_of(self, part: &str, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, CaError> {
        let all: Result<_, _> = CertificateDer::pem_slice_iter(bytes).collect();
        all.map_err(|error| self.wrong(part, format!("is no PEM: {error}")))
    }

    fn key(self) -> Result<KeyPair, CaError> {
        let text = String::from_utf8(self.read(KEY)?).map_err(|_| self.wrong(KEY, "is no PEM".to_owned()))?;
        KeyPair::from_pem(&text).map_err(|error| self.wrong(KEY, format!("holds no usable key: {error}")))
    }
}

/// The plugged-in authority of a place.
pub(super) fn plugged_in(place: Place<'_>) -> Result<Authority, CaError> {
    let issuing = place.certificates(CERTIFICATE)?;
    let roots = place.certificates(ROOTS)?;
    let above = match place.find(CHAIN)? {
        Some(bytes) => place.certificates_of(CHAIN, &bytes)?,
        None => Vec::new(),
    };
    // The chain file begins with the issuer by Istio's custom, but not everybody's does.
    let mut chain: Vec<CertificateDer<'static>> = Vec::new();
    for certificate in issuing.into_iter().chain(above) {
        if !chain.contains(&certificate) {
            chain.push(certificate);
        }
    }
    Authority::new(place.key()?, chain, roots)
}

/// The self-signed root of a secret: what [`written`] made.
pub(super) fn self_signed(place: Place<'_>) -> Result<Authority, CaError> {
    let certificates = place.certificates(CERTIFICATE)?;
    let roots = if place.find(ROOTS)?.is_some() { place.certificates(ROOTS)? } else { certificates.clone() };
    Authority::new(place.key()?, certificates, roots)
}

/// The parts of a self-signed root, as a secret keeps them. Istio's names.
pub(super) fn written(certificate: &CertificateDer<'_>, key: &KeyPair) -> BTreeMap<String, ByteString> {
    let certificate = ByteString(pem(certificate).into_bytes());
    let parts =
        [(CERTIFICATE, certificate.clone()), (KEY, ByteString(key.serialize_pem().into_bytes())), (ROOTS, certificate)];
    parts.into_iter().map(|(part, bytes)| (part.to_owned(), bytes)).collect()
}

/// Checks that the key is the first certificate's, that each is signed by the next, and the last by a root. Returns while all hold.
pub(super) fn check(
    key: &KeyPair,
    chain: &[CertificateDer<'_>],
    roots: &[CertificateDer<'_>],
) -> Result<(SystemTime, SystemTime), CaError> {
    let wrong = |reason: String| CaError::Chain(reason);
    let chain = parse(chain, "certificate")?;
    let roots = parse(roots, "root")?;
    let (Some(first), Some(last)) = (chain.first(), chain.last()) else {
        return Err(wrong("there is no issuing certificate".to_owned()));
    };
    if first.public_key().raw != key.subject_public_key_info() {
        return Err(wrong(format!("the key is not that of the issuing certificate ({})", first.subject())));
    }
    for pair in chain.windows(2) {
        if pair[0].verify_signature(Some(pair[1].public_key())).is_err() {
            return Err(wrong(format!("`{}` is not signed by `{}`", pair[0].subject(), pair[1].subject())));
        }
    }
    let root = roots
        .iter()
        .find(|root| root.public_key().raw == last.public_key().raw && root.subject() == last.subject())
        .or_else(|| roots.iter().find(|root| last.verify_signature(Some(root.public_key())).is_ok()))
        .ok_or_else(|| wrong(format!("`{}` is signed by none of the roots", last.subject())))?;
    let mut valid = (SystemTime::UNIX_EPOCH, time(i64::MAX));
    for one in chain.iter().chain([root]) {
        valid.0 = valid.0.max(time(one.validity().not_before.timestamp()));
        valid.1 = valid.1.min(time(one.validity().not_after.timestamp()));
    }
    Ok(valid)
}

fn parse<'a>(all: &'a [CertificateDer<'_>], what: &str) -> Result<Vec<X509Certificate<'a>>, CaError> {
    let mut parsed = Vec::new();
    for (index, der) in all.iter().enumerate() {
        let (_, one) = X509Certificate::from_der(der)
            .map_err(|error| CaError::Chain(format!("{what} {index} cannot be read: {error}")))?;
        if !one.is_ca() {
            let subject = one.subject();
            return Err(CaError::Chain(format!("{what} {index} ({subject}) is no authority's (basicConstraints CA)")));
        }
        parsed.push(one);
    }
    Ok(parsed)
}

fn time(seconds: i64) -> SystemTime {
    // The year 9999 is the last that a certificate can name.
    const LAST: u64 = 253_402_300_799;
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0).min(LAST))
}

/// Writes a file that only its owner may read.
pub(super) fn write_private(path: &Path, text: &str) -> Result<(), CaError> {
    write(path, text, 0o600)
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), CaError> {
    let failed = |error: std::io::Error| CaError::File { path: path.to_owned(), reason: error.to_string() };
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(failed)?;
    }
    // Written aside and renamed: a crash leaves either nothing or the whole.
    let aside = path.with_extension("pem.new");
    let _ = fs::remove_file(&aside);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&aside).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&aside, path).map_err(failed)
}

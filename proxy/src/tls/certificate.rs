//! What a certificate says of its holder.

use std::net::IpAddr;
use std::sync::Arc;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// A certificate of a peer.
#[derive(Debug, Clone, Default)]
pub struct PeerCertificate {
    /// The SPIFFE id as written in the certificate (`spiffe://…`), if it has exactly one URI SAN and that is one.
    pub spiffe: Option<Arc<str>>,
    /// All URI SANs.
    pub uri_sans: Vec<Arc<str>>,
    /// All DNS SANs.
    pub dns_sans: Vec<Arc<str>>,
    /// All e-mail SANs.
    pub email_sans: Vec<Arc<str>>,
    /// All IP address SANs, as text.
    pub ip_sans: Vec<Arc<str>>,
    /// Subject in RFC 2253 form.
    pub subject: Arc<str>,
    /// SHA-256 of the certificate, lower-case hex.
    pub sha256: Arc<str>,
    der: Arc<[u8]>,
}

const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

impl PeerCertificate {
    /// Reads a certificate.
    pub fn parse(der: &CertificateDer<'_>) -> Result<Self, String> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
        let mut peer = Self { der: der.as_ref().into(), ..Self::default() };
        if let Ok(Some(names)) = certificate.subject_alternative_name() {
            for name in &names.value.general_names {
                match name {
                    GeneralName::URI(uri) => peer.uri_sans.push((*uri).into()),
                    GeneralName::DNSName(name) => peer.dns_sans.push((*name).into()),
                    GeneralName::RFC822Name(name) => peer.email_sans.push((*name).into()),
                    GeneralName::IPAddress(bytes) => peer.ip_sans.extend(address(bytes)),
                    _ => {}
                }
            }
        }
        if let [only] = peer.uri_sans.as_slice()
            && only.starts_with("spiffe://")
        {
            peer.spiffe = Some(only.clone());
        }
        peer.subject = certificate.subject().to_string().into();
        peer.sha256 = hex(&sha256(der)).into();
        Ok(peer)
    }

    /// The certificate in PEM, percent-encoded, as XFCC wants it.
    pub fn pem_url_encoded(&self) -> String {
        utf8_percent_encode(&pem(&self.der), UNRESERVED).to_string()
    }
}

fn address(bytes: &[u8]) -> Option<Arc<str>> {
    let address = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
        _ => return None,
    };
    Some(address.to_string().into())
}

/// A certificate in PEM.
pub fn pem(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap_or_default()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    let suite = rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
    let rustls::SupportedCipherSuite::Tls13(suite) = suite else { return Vec::new() };
    suite.common.hash_provider.hash(bytes).as_ref().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Expiry of a certificate, seconds since 1970.
pub fn not_after(der: &CertificateDer<'_>) -> Option<i64> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

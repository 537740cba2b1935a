//! Rows of `proxy-config secret`: each certificate, whether it is valid now, and whom it names.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::Value;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::{field, text};

/// Headings; `IDENTITY` is beyond istioctl's.
pub const HEADINGS: &[&str] =
    &["RESOURCE NAME", "TYPE", "STATUS", "VALID CERT", "SERIAL NUMBER", "NOT AFTER", "NOT BEFORE", "IDENTITY"];

/// The rows of a dump's entry, one for each certificate; `now` decides about validity.
pub fn rows(entry: &Value, now: Timestamp) -> Vec<[String; 8]> {
    let secret = field(entry, "secret");
    let name = [text(entry, "name"), text(secret, "name")].into_iter().find(|name| !name.is_empty()).unwrap_or("");
    let certificate = field(secret, "tls_certificate");
    let (kind, source) = match certificate.is_object() {
        true => ("Cert Chain", field(certificate, "certificate_chain")),
        false => ("CA", field(field(secret, "validation_context"), "trusted_ca")),
    };
    let pem = pem(source);
    let mut certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok).collect();
    if kind == "Cert Chain" {
        // The leaf is what a peer is shown; its issuers are listed as the CA.
        certificates.truncate(1);
    }
    if certificates.is_empty() {
        let cells = [name, kind, "WARMING", "false", "", "", "", ""];
        return vec![cells.map(str::to_owned)];
    }
    certificates.iter().map(|der| row(name, kind, der, now)).collect()
}

fn row(name: &str, kind: &str, der: &CertificateDer<'_>, now: Timestamp) -> [String; 8] {
    let head = [name, kind, "ACTIVE"].map(str::to_owned);
    let [name, kind, status] = head;
    let Ok((_, certificate)) = X509Certificate::from_der(der) else {
        return [name, kind, status, "false".to_owned(), String::new(), String::new(), String::new(), String::new()];
    };
    let validity = certificate.validity();
    let (from, until) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    let valid = (from..=until).contains(&now.as_second());
    let time = |second| Timestamp::from_second(second).map(|time| time.to_string()).unwrap_or_default();
    let names = certificate.subject_alternative_name().ok().flatten();
    let identity = names.and_then(|names| {
        names.value.general_names.iter().find_map(|name| match name {
            GeneralName::URI(uri) => Some((*uri).to_owned()),
            _ => None,
        })
    });
    let serial = certificate.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect();
    [name, kind, status, valid.to_string(), serial, time(until), time(from), identity.unwrap_or_default()]
}

/// The PEM of a data source; Envoy writes `inline_bytes` in base64.
fn pem(source: &Value) -> Vec<u8> {
    match field(source, "inline_bytes").as_str() {
        Some(bytes) => STANDARD.decode(bytes).unwrap_or_default(),
        None => text(source, "inline_string").as_bytes().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_secret_without_certificate_is_warming() {
        let rows = rows(&json!({"name": "default", "secret": {"tls_certificate": {}}}), Timestamp::UNIX_EPOCH);
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0][..4], ["default", "Cert Chain", "WARMING", "false"].map(str::to_owned));
    }
}

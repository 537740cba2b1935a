//! Which certificates will expire, and when: nobody should learn it from an outage.

use jiff::{SignedDuration, Timestamp};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::Finding;

/// What expires sooner than this needs attention.
const SOON: SignedDuration = SignedDuration::from_hours(30 * 24);

/// Judges the certificates of a PEM text; the one that expires first decides.
pub fn judge(subject: &str, pem: &[u8], now: Timestamp) -> Finding {
    let mut first: Option<(Timestamp, String)> = None;
    let mut number = 0;
    for der in CertificateDer::pem_slice_iter(pem) {
        let Ok(der) = der else { return Finding::error(subject, "holds something that is no PEM of a certificate") };
        let Ok((_, certificate)) = X509Certificate::from_der(&der) else {
            return Finding::error(subject, "holds a certificate that cannot be read");
        };
        let Ok(until) = Timestamp::from_second(certificate.validity().not_after.timestamp()) else {
            return Finding::error(subject, "holds a certificate whose end lies outside of time");
        };
        number += 1;
        if first.as_ref().is_none_or(|(earliest, _)| until < *earliest) {
            first = Some((until, certificate.subject().to_string()));
        }
    }
    let Some((until, name)) = first else { return Finding::error(subject, "holds no certificate") };
    let left = until.duration_since(now);
    let days = left.as_hours() / 24;
    let name = if name.is_empty() { String::new() } else { format!(" of {name}") };
    if left.is_negative() {
        Finding::error(subject, format!("the certificate{name} expired at {until}: renew it now"))
    } else if left < SOON {
        Finding::warning(subject, format!("the certificate{name} expires in {days} days, at {until}: renew it"))
    } else {
        Finding::ok(subject, format!("{number} certificates, valid for {days} days or more"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::SystemTime;

    use mesh_controlplane::ca::Authority;

    use super::super::Weight;
    use super::*;

    #[test]
    fn what_expires_soon_is_found() {
        let root = Authority::self_signed("mesh", SystemTime::now()).unwrap();
        let end = Timestamp::try_from(root.not_after()).unwrap();
        for (before_the_end, weight, message) in [
            (SignedDuration::from_hours(24 * 100), Weight::Ok, "1 certificates, valid for 100 days"),
            (SignedDuration::from_hours(24 * 7), Weight::Warning, "expires in 7 days"),
            (SignedDuration::from_hours(-1), Weight::Error, "expired at"),
        ] {
            let finding = judge("root", root.root_pem().as_bytes(), end - before_the_end);
            assert_eq!(finding.weight, weight, "{finding:?}");
            assert!(finding.message.contains(message), "{finding:?}");
        }
        assert_eq!(judge("root", b"", Timestamp::UNIX_EPOCH).weight, Weight::Error);
    }
}

//! Making a key with its signing request, and judging the chain that comes back.

use mesh_proto::spiffe::Identity;
use rcgen::{
    CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, RsaKeySize, SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::ParsedCertificate;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{IdentityError, KeyType};
use crate::tls::certificate::{PeerCertificate, pem};
use crate::tls::{Certificate, Trust, provider};

/// A fresh key, and the request to sign it. Not `Debug`: it holds the key.
pub(super) struct Request {
    key: KeyPair,
    /// PKCS#10 in PEM.
    pub(super) csr: String,
}

/// What an answer is good for.
#[derive(Debug)]
pub(super) struct Issued {
    /// The leaf with its intermediates, and the key.
    pub(super) certificate: Certificate,
    /// The authority's roots in PEM.
    pub(super) roots: Vec<String>,
}

impl Request {
    /// Makes both.
    pub(super) fn new(kind: KeyType, identity: &Identity) -> Result<Self, IdentityError> {
        let failed = |error: rcgen::Error| IdentityError::Key(error.to_string());
        let key = match kind {
            KeyType::EcdsaP256 => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256),
            KeyType::Rsa2048 => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048),
        };
        let key = key.map_err(failed)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into().map_err(failed)?)];
        let csr = params.serialize_request(&key).and_then(|csr| csr.pem()).map_err(failed)?;
        Ok(Self { key, csr })
    }

    /// Takes the answer only if it is for this key and this identity, is valid now, and leads to the root that came with it.
    /// `answer` is PEM: the leaf first, the roots last, as Istio's authority sends it.
    pub(super) fn judge(self, answer: &[String], identity: &Identity) -> Result<Issued, IdentityError> {
        self.judged(answer, identity).map_err(IdentityError::Answer)
    }

    fn judged(self, answer: &[String], identity: &Identity) -> Result<Issued, String> {
        let [chain @ .., last] = answer else { return Err("it holds no certificate".to_owned()) };
        if chain.is_empty() {
            return Err("it holds one certificate only, where leaf and root are expected".to_owned());
        }
        let roots = certificates(last)?;
        let mut served = Vec::new();
        for text in chain {
            served.extend(certificates(text)?);
        }
        let Some((leaf, intermediates)) = served.split_first() else {
            return Err("it holds no certificate before the root".to_owned());
        };
        let peer = PeerCertificate::parse(leaf)?;
        let wanted = identity.to_string();
        if peer.spiffe.as_deref() != Some(wanted.as_str()) {
            return Err(format!("the certificate is for `{}`, not for `{wanted}`", peer.uri_sans.join(", ")));
        }
        let bundle: String = roots.iter().map(|root| pem(root)).collect();
        let trust = Trust::from_pem(&bundle)?;
        let parsed = ParsedCertificate::try_from(leaf).map_err(|error| error.to_string())?;
        let algorithms = provider().signature_verification_algorithms.all;
        rustls::client::verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &trust.roots,
            intermediates,
            UnixTime::now(),
            algorithms,
        )
        .map_err(|error| format!("the certificate is not valid by the root beside it: {error}"))?;
        // Peers have the root; sending it makes every handshake longer. A cross-signed one is no root and stays.
        let intermediates = intermediates.iter().filter(|der| !is_self_issued(der));
        let text: String = std::iter::once(leaf).chain(intermediates).map(|der| pem(der)).collect();
        let certificate = Certificate::from_pem(&text, &self.key.serialize_pem())?;
        Ok(Issued { certificate, roots: roots.iter().map(|root| pem(root)).collect() })
    }
}

fn is_self_issued(der: &CertificateDer<'_>) -> bool {
    X509Certificate::from_der(der).is_ok_and(|(_, one)| one.subject() == one.issuer())
}

/// All certificates of a text in PEM.
pub(super) fn certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<_, _>>().map_err(|error| format!("PEM: {error}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use rcgen::{BasicConstraints, CertificateSigningRequestParams, CertifiedIssuer, IsCa};

    use super::*;

    fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
        CertifiedIssuer::self_signed(ca_params(name), KeyPair::generate().unwrap()).unwrap()
    }

    fn ca_params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::OrganizationName, name);
        params
    }

    fn signed(csr: &str, by: &CertifiedIssuer<'static, KeyPair>, years: (i32, i32)) -> String {
        let mut csr = CertificateSigningRequestParams::from_pem(csr).unwrap();
        csr.params.not_before = rcgen::date_time_ymd(years.0, 1, 1);
        csr.params.not_after = rcgen::date_time_ymd(years.1, 1, 1);
        csr.signed_by(by).unwrap().pem()
    }

    #[test]
    fn both_kinds_of_keys_are_signed_and_taken() {
        let identity = Identity::new("cluster.local", "default", "reviews").unwrap();
        let root = authority("root");
        let middle = CertifiedIssuer::signed_by(ca_params("middle"), KeyPair::generate().unwrap(), &root).unwrap();
        for kind in [KeyType::EcdsaP256, KeyType::Rsa2048] {
            let request = Request::new(kind, &identity).unwrap();
            let leaf = signed(&request.csr, &middle, (2020, 2090));
            let issued = request.judge(&[leaf, middle.pem(), root.pem(), root.pem()], &identity).unwrap();
            assert_eq!(&*issued.certificate.uri_sans, "spiffe://cluster.local/ns/default/sa/reviews");
            assert_eq!(certificates(&issued.certificate.chain_pem).unwrap().len(), 2, "leaf and intermediate");
            assert_eq!(issued.roots.len(), 1);
        }
    }

    #[test]
    fn answers_that_do_not_fit_are_refused() {
        let identity = Identity::new("cluster.local", "default", "reviews").unwrap();
        let other = Identity::new("cluster.local", "default", "ratings").unwrap();
        let (root, stranger) = (authority("root"), authority("stranger"));
        let request = || Request::new(KeyType::EcdsaP256, &identity).unwrap();
        let good = |request: &Request| signed(&request.csr, &root, (2020, 2090));
        let theirs = Request::new(KeyType::EcdsaP256, &other).unwrap();
        let twin = request();
        type Case<'a> = (&'a str, &'a dyn Fn(&Request) -> Vec<String>);
        let cases: [Case<'_>; 8] = [
            ("no certificate", &|_| vec![]),
            ("one certificate only", &|mine| vec![good(mine)]),
            ("not for `spiffe://cluster.local/ns/default/sa/reviews`", &|_| vec![good(&theirs), root.pem()]),
            ("private key", &|_| vec![good(&twin), root.pem()]),
            ("not valid by the root", &|mine| vec![good(mine), stranger.pem()]),
            ("expired", &|mine| vec![signed(&mine.csr, &root, (2020, 2021)), root.pem()]),
            ("not valid yet", &|mine| vec![signed(&mine.csr, &root, (2080, 2090)), root.pem()]),
            ("PEM", &|mine| vec![good(mine), "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n".into()]),
        ];
        for (reason, answer) in cases {
            let mine = request();
            let answer = answer(&mine);
            let error = mine.judge(&answer, &identity).unwrap_err().to_string();
            assert!(error.to_lowercase().contains(&reason.to_lowercase()), "{reason}: {error}");
        }
    }
}

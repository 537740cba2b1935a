//! What is signed and what is not, and which files make an authority.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;

use rustls_pki_types::UnixTime;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

fn identity() -> Identity {
    Identity::new("cluster.local", "default", "reviews").unwrap()
}

fn request(params: CertificateParams, key: &KeyPair) -> String {
    params.serialize_request(key).unwrap().pem().unwrap()
}

fn plain_request() -> String {
    request(CertificateParams::default(), &KeyPair::generate().unwrap())
}

fn now() -> SystemTime {
    // Certificates count whole seconds.
    let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// Verifies a chain as a TLS peer does.
fn verify(signed: &Signed, roots: &[CertificateDer<'_>], at: SystemTime) -> Result<(), webpki::Error> {
    let anchors: Vec<_> = roots.iter().map(|root| anchor_from_trusted_cert(root).unwrap()).collect();
    let leaf = EndEntityCert::try_from(&signed.chain[0]).unwrap();
    let time = UnixTime::since_unix_epoch(at.duration_since(SystemTime::UNIX_EPOCH).unwrap());
    for usage in [KeyUsage::client_auth(), KeyUsage::server_auth()] {
        leaf.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &anchors, &signed.chain[1..], time, usage, None, None)?;
    }
    Ok(())
}

/// A root and an issuer below it that holds for `ttl`.
fn intermediate(ttl: Duration) -> (KeyPair, Vec<CertificateDer<'static>>, CertificateDer<'static>) {
    let (root_cert, root_key) = root("root", now(), 10 * DAY).unwrap();
    let issuer = Issuer::from_ca_cert_der(&root_cert, root_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_before = (now() - HOUR).into();
    params.not_after = (now() + ttl).into();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    (key, vec![certificate.der().clone()], root_cert)
}

#[test]
fn a_leaf_names_the_authenticated_identity_and_nothing_else() {
    let authority = Authority::self_signed("cluster.local", now()).unwrap();
    let mut params = CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
    params.subject_alt_names.push(SanType::URI("spiffe://cluster.local/ns/kube-system/sa/admin".try_into().unwrap()));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let request = request(params, &KeyPair::generate().unwrap());
    let signed = authority.sign_workload(&request, &identity(), 0, now()).unwrap();
    verify(&signed, authority.roots(), now()).unwrap();
    let (_, leaf) = X509Certificate::from_der(&signed.chain[0]).unwrap();
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert!(names.critical, "the subject is empty");
    assert_eq!(format!("{:?}", names.value.general_names), format!("[URI({:?})]", identity().to_string()));
    assert!(!leaf.is_ca());
    assert_eq!((signed.not_before, signed.not_after), (now() - CLOCK_SKEW, now() + DEFAULT_TTL));
    assert_eq!(authority.response(&signed).len(), 2, "leaf and root");
    let again = authority.sign_workload(&request, &identity(), 0, now()).unwrap();
    let (_, again) = X509Certificate::from_der(&again.chain[0]).unwrap();
    assert_ne!(again.raw_serial(), leaf.raw_serial());
}

#[test]
fn keys_of_the_usual_kinds_are_signed() {
    let authority = Authority::self_signed("cluster.local", now()).unwrap();
    for algorithm in
        [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519, &rcgen::PKCS_RSA_SHA256]
    {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let request = request(CertificateParams::default(), &key);
        let signed = authority.sign_workload(&request, &identity(), 0, now()).unwrap();
        verify(&signed, authority.roots(), now()).unwrap();
        let (_, leaf) = X509Certificate::from_der(&signed.chain[0]).unwrap();
        assert_eq!(leaf.public_key().raw, key.subject_public_key_info());
    }
}

#[test]
fn a_lifetime_is_bounded_by_the_maximum_and_by_the_issuer() {
    let (key, chain, root) = intermediate(DAY);
    let authority = Authority::new(key, chain, vec![root]).unwrap();
    let until = |authority: &Authority, seconds: i64| {
        authority.sign_workload(&plain_request(), &identity(), seconds, now()).map(|signed| signed.not_after)
    };
    assert_eq!(until(&authority, 3600).unwrap(), now() + HOUR);
    // BX13: a leaf never outlives its issuer.
    assert_eq!(until(&authority, 30 * 24 * 3600).unwrap(), now() + DAY);
    let error = until(&authority, -1).unwrap_err().to_string();
    assert!(error.contains("validity_duration is -1"), "{error}");
    let late = authority.sign_workload(&plain_request(), &identity(), 0, now() + DAY).unwrap_err().to_string();
    assert!(late.contains("expired"), "{late}");
    let early = authority.sign_workload(&plain_request(), &identity(), 0, now() - DAY).unwrap_err().to_string();
    assert!(early.contains("does not hold before"), "{early}");
    let authority = Authority::self_signed("o", now()).unwrap();
    assert_eq!(until(&authority, i64::MAX).unwrap(), now() + MAX_TTL);
}

#[test]
fn malformed_requests_are_refused_with_their_reason() {
    let authority = Authority::self_signed("cluster.local", now()).unwrap();
    let good = plain_request();
    let pem = |der: &[u8]| {
        use base64::Engine;
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n")
    };
    let der = |params: CertificateParams, key: &KeyPair| params.serialize_request(key).unwrap().der().to_vec();
    let key = KeyPair::generate().unwrap();
    let whole = der(CertificateParams::default(), &key);
    // Another key's signature: the last bytes of two requests for the same names exchanged.
    let mut stolen = whole.clone();
    let last = stolen.len() - 1;
    stolen[last] ^= 1;
    let trailing: Vec<u8> = whole.iter().copied().chain([0]).collect();
    for (request, reason) in [
        (String::new(), "is empty"),
        ("x".repeat(20_000), "longer than 16 KiB"),
        ("hello".to_owned(), "has no PEM block"),
        (super::pem(&authority.roots()[0]), "has no PEM block"),
        (good.replace("REQUEST", "REQUES"), "has no PEM block"),
        ("-----BEGIN CERTIFICATE REQUEST-----\n!!!\n-----END CERTIFICATE REQUEST-----\n".to_owned(), "is no PEM"),
        (good.lines().take(3).collect::<Vec<_>>().join("\n"), "PEM"),
        (pem(b"not der"), "is no PKCS#10"),
        (pem(&whole[..whole.len() - 10]), "is no PKCS#10"),
        (pem(&trailing), "is followed by other bytes"),
        (pem(&stolen), "is not signed by the key"),
        (SMALL_RSA.to_owned(), "RSA key of 1024 bits"),
    ] {
        let error = authority.sign_workload(&request, &identity(), 0, now()).unwrap_err().to_string();
        assert!(error.contains(reason), "{reason}: {error}");
    }
}

/// `openssl req -new -newkey rsa:1024 -nodes -subj /O=x`.
const SMALL_RSA: &str = "-----BEGIN CERTIFICATE REQUEST-----\n\
MIIBSzCBtQIBADAMMQowCAYDVQQKDAF4MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCB\n\
iQKBgQDbmahHGnY7ScFPGQ6duzrXzIO2Zn382pDvfkk+/4y+urZT+RYq5QSqfUhR\n\
XJRYnkWn5mCwDiVIqK45nTzGfv9XRrrBotaEXL9BGxPo4XvR6MmO3vri0l7PE/ur\n\
HOHI4iXmcRP2HtE9va1rnFXUNkqKYpw/riIaL4+5bSCBi5k1MQIDAQABoAAwDQYJ\n\
KoZIhvcNAQELBQADgYEALLuUm0t2eL3GbLjsoz+btIOblGE1OxB0zvg7vh0KehFY\n\
5Zp23BPPXTzDG/s2/fR0sDxho6XUsJXBhMx5+d5PN264MkJSCeDo34GDlcsfxtp2\n\
TMGAU3Bt6P72dMj91s0l8ka2+4Byr3je2hAnkfOWrxW4ppNfirHOUWNg2rPhwdk=\n\
-----END CERTIFICATE REQUEST-----";

#[test]
fn a_kept_root_is_private_and_found_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca");
    let first = Authority::kept(&path, "cluster.local", now()).unwrap();
    let mode = std::fs::metadata(path.join("ca-key.pem")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let second = Authority::kept(&path, "cluster.local", now()).unwrap();
    assert_eq!(first.root_pem(), second.root_pem());
    let signed = second.sign_workload(&plain_request(), &identity(), 0, now()).unwrap();
    verify(&signed, first.roots(), now()).unwrap();
    std::fs::remove_file(path.join("ca-key.pem")).unwrap();
    let error = Authority::kept(&path, "cluster.local", now()).unwrap_err().to_string();
    assert!(error.contains("ca-key.pem: is missing"), "{error}");
}

#[test]
fn a_plugged_in_authority_is_checked_link_by_link() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    let load = || Authority::plugged_in(directory.path());
    let (key, chain, root) = intermediate(DAY);
    assert!(load().unwrap_err().to_string().contains("ca-cert.pem"));
    write("ca-cert.pem", &pem(&chain[0]));
    write("ca-key.pem", &key.serialize_pem());
    write("root-cert.pem", &pem(&root));
    write("cert-chain.pem", &format!("{}{}", pem(&chain[0]), pem(&root)));
    let authority = load().unwrap();
    let signed = authority.sign_workload(&plain_request(), &identity(), 0, now()).unwrap();
    verify(&signed, std::slice::from_ref(&root), now()).unwrap();
    assert_eq!(authority.response(&signed).len(), 3, "leaf, intermediate, root");
    let (_, other, other_root) = intermediate(DAY);
    write("root-cert.pem", &pem(&other_root));
    write("cert-chain.pem", "");
    assert!(load().unwrap_err().to_string().contains("none of the roots"));
    write("root-cert.pem", "");
    assert!(load().unwrap_err().to_string().contains("holds no PEM block"));
    write("root-cert.pem", &pem(&other_root));
    write("ca-cert.pem", &pem(&other[0]));
    assert!(load().unwrap_err().to_string().contains("the key is not that"));
    write("ca-key.pem", "x");
    assert!(load().unwrap_err().to_string().contains("no usable key"));
    // A leaf is no authority.
    write("ca-key.pem", &key.serialize_pem());
    write("ca-cert.pem", &pem(&signed.chain[0]));
    assert!(load().unwrap_err().to_string().contains("is no authority's"));
}

#[test]
fn the_trust_bundle_holds_the_old_and_the_new_root_while_the_issuer_changes() {
    let old = Authority::self_signed("old", now()).unwrap();
    let new = Authority::self_signed("new", now()).unwrap();
    let new_roots = new.roots().to_vec();
    let handle = AuthorityHandle::new(old.with_roots(new_roots));
    let bundle = handle.load().roots().to_vec();
    assert_eq!(handle.load().root_pem().matches("BEGIN CERTIFICATE").count(), 2);
    let before = handle.load().sign_workload(&plain_request(), &identity(), 0, now()).unwrap();
    let mut changed = handle.subscribe();
    handle.set_authority(new.with_roots(bundle.clone()));
    assert!(changed.has_changed().unwrap());
    changed.mark_unchanged();
    let after = handle.load().sign_workload(&plain_request(), &identity(), 0, now()).unwrap();
    for signed in [&before, &after] {
        verify(signed, &bundle, now()).unwrap();
    }
    assert!(verify(&after, &bundle[..1], now()).is_err(), "it is signed by the new root");
}

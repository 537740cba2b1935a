//! Handshakes between our client and our server: who is let in, who is not, and rotation in between.
#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, Ipv4Addr};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::verify::{SanKind, SanMatcher};
use super::*;
use crate::route::matcher::StringMatcher;

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::OrganizationName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn leaf_valid(ca: &CertifiedIssuer<'static, KeyPair>, id: &str, years: (i32, i32)) -> Certificate {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
    params.not_before = rcgen::date_time_ymd(years.0, 1, 1);
    params.not_after = rcgen::date_time_ymd(years.1, 1, 1);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, ca).unwrap();
    Certificate::from_pem(&certificate.pem(), &key.serialize_pem()).unwrap()
}

fn leaf(ca: &CertifiedIssuer<'static, KeyPair>, id: &str) -> Certificate {
    leaf_valid(ca, id, (2020, 2090))
}

fn prefix(text: &str) -> Vec<SanMatcher> {
    vec![SanMatcher { kind: SanKind::Uri, name: StringMatcher::Prefix { text: text.to_owned(), ignore_case: false } }]
}

fn server(store: &SecretStore, alpn: &[&str]) -> ServerTls {
    ServerTls {
        certificates: vec![store.certificate("default")],
        trust: Some(store.trust("ROOTCA")),
        sans: prefix("spiffe://cluster.local/"),
        require_client: true,
        alpn: alpn.iter().map(|one| one.as_bytes().to_vec()).collect(),
        parameters: Parameters::default(),
        cache: Default::default(),
    }
}

fn client(store: &SecretStore, sans: Vec<SanMatcher>, alpn: &[&str]) -> ClientTls {
    ClientTls {
        certificate: Some(store.certificate("default")),
        trust: Some(store.trust("ROOTCA")),
        sans,
        sni: Some("outbound_.9080_.v1_.reviews.default.svc.cluster.local".into()),
        auto_sni: false,
        check_name: false,
        alpn: alpn.iter().map(|one| one.as_bytes().to_vec()).collect(),
        parameters: Parameters::default(),
        cache: Default::default(),
    }
}

fn store(certificate: Option<Certificate>, root: &str) -> SecretStore {
    let store = SecretStore::default();
    if let Some(certificate) = certificate {
        store.set_certificate("default", certificate);
    }
    store.set_trust("ROOTCA", Trust::from_pem(root).unwrap());
    store
}

/// Both sides' view of one handshake and one byte each way.
async fn shake(server: &ServerTls, client: &ClientTls) -> (Result<TlsInfo, TlsError>, Result<TlsInfo, TlsError>) {
    let (a, b) = tokio::io::duplex(1 << 16);
    let serve = async {
        let (mut stream, info) = server.accept(a).await?;
        let failed = |error: std::io::Error| TlsError::Handshake(error.to_string());
        stream.write_all(b"x").await.map_err(failed)?;
        stream.read_u8().await.map_err(failed)?;
        Ok(info)
    };
    let dial = async {
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let (mut stream, info) = client.connect(b, None, address, AlpnUse::Configured).await?;
        let failed = |error: std::io::Error| TlsError::Handshake(error.to_string());
        // In TLS 1.3 a server's refusal of our certificate comes only with the first read.
        stream.read_u8().await.map_err(failed)?;
        stream.write_all(b"y").await.map_err(failed)?;
        Ok(info)
    };
    tokio::join!(serve, dial)
}

const REVIEWS: &str = "spiffe://cluster.local/ns/default/sa/reviews";
const PRODUCTPAGE: &str = "spiffe://cluster.local/ns/default/sa/productpage";

#[tokio::test]
async fn mesh_mtls_tells_both_sides_who_the_other_is() {
    let ca = authority("mesh");
    let (ours, theirs) = (store(Some(leaf(&ca, REVIEWS)), &ca.pem()), store(Some(leaf(&ca, PRODUCTPAGE)), &ca.pem()));
    let server = server(&ours, &["h2", "http/1.1"]);
    let client = client(&theirs, prefix(REVIEWS), &["istio", "h2"]);
    let (server_info, client_info) = shake(&server, &client).await;
    let (server_info, client_info) = (server_info.unwrap(), client_info.unwrap());
    assert_eq!(server_info.peer.unwrap().spiffe.as_deref(), Some(PRODUCTPAGE));
    assert_eq!(&*server_info.local_uri_sans, REVIEWS);
    assert_eq!(client_info.peer.unwrap().spiffe.as_deref(), Some(REVIEWS));
    assert_eq!(server_info.alpn.as_deref(), Some(&b"h2"[..]));
    assert_eq!(server_info.version, "TLSv1.3");
    assert_eq!(server_info.server_name.as_deref(), Some("outbound_.9080_.v1_.reviews.default.svc.cluster.local"));
}

#[tokio::test]
async fn protocols_in_common_are_not_required() {
    let ca = authority("mesh");
    let (ours, theirs) = (store(Some(leaf(&ca, REVIEWS)), &ca.pem()), store(Some(leaf(&ca, PRODUCTPAGE)), &ca.pem()));
    let (server_info, client_info) =
        shake(&server(&ours, &["h2"]), &client(&theirs, vec![], &["istio-peer-exchange", "istio"])).await;
    assert_eq!((server_info.unwrap().alpn, client_info.unwrap().alpn), (None, None));
}

#[tokio::test]
async fn strangers_are_refused() {
    let (ca, other) = (authority("mesh"), authority("other"));
    let ours = store(Some(leaf(&ca, REVIEWS)), &ca.pem());
    let server = server(&ours, &["h2"]);
    for (what, theirs, sans) in [
        ("unknown authority", store(Some(leaf(&other, PRODUCTPAGE)), &ca.pem()), vec![]),
        ("expired", store(Some(leaf_valid(&ca, PRODUCTPAGE, (2020, 2021))), &ca.pem()), vec![]),
        ("not yet valid", store(Some(leaf_valid(&ca, PRODUCTPAGE, (2080, 2090))), &ca.pem()), vec![]),
        ("wrong trust domain", store(Some(leaf(&ca, "spiffe://cluster.localhost/ns/a/sa/b")), &ca.pem()), vec![]),
        ("server of another authority", store(Some(leaf(&ca, PRODUCTPAGE)), &other.pem()), vec![]),
        ("server with another name", store(Some(leaf(&ca, PRODUCTPAGE)), &ca.pem()), prefix(PRODUCTPAGE)),
    ] {
        let (server_info, client_info) = shake(&server, &client(&theirs, sans, &["h2"])).await;
        assert!(server_info.is_err() && client_info.is_err(), "{what}");
    }
    let mut anonymous = client(&ours, vec![], &["h2"]);
    anonymous.certificate = None;
    let (server_info, _) = shake(&server, &anonymous).await;
    assert!(server_info.is_err(), "no certificate");
}

#[tokio::test]
async fn a_missing_secret_is_named() {
    let ca = authority("mesh");
    let (ours, theirs) = (store(None, &ca.pem()), store(Some(leaf(&ca, PRODUCTPAGE)), &ca.pem()));
    let (server_info, _) = shake(&server(&ours, &["h2"]), &client(&theirs, vec![], &["h2"])).await;
    assert_eq!(server_info.unwrap_err().to_string(), "the secret `default` has not been received yet");
}

#[tokio::test]
async fn rotation_takes_effect_at_the_next_handshake() {
    let ca = authority("mesh");
    let ours = store(Some(leaf(&ca, REVIEWS)), &ca.pem());
    let theirs = store(Some(leaf(&ca, PRODUCTPAGE)), &ca.pem());
    let (server, client) = (server(&ours, &["h2"]), client(&theirs, vec![], &["h2"]));
    for round in 0..20 {
        let next = authority("next");
        let both = format!("{}{}", ca.pem(), next.pem());
        for store in [&ours, &theirs] {
            store.set_trust("ROOTCA", Trust::from_pem(&both).unwrap());
        }
        let (server_info, client_info) = shake(&server, &client).await;
        assert!(server_info.is_ok() && client_info.is_ok(), "round {round}, both roots trusted");
        ours.set_certificate("default", leaf(&next, REVIEWS));
        let (server_info, client_info) = shake(&server, &client).await;
        assert!(server_info.is_ok() && client_info.is_ok(), "round {round}, server rotated");
        ours.set_certificate("default", leaf(&ca, REVIEWS));
    }
}

#[test]
fn malformed_secrets_are_refused_with_the_part() {
    let ca = authority("mesh");
    let good = leaf(&ca, REVIEWS);
    let other = KeyPair::generate().unwrap().serialize_pem();
    for (chain, key, error) in [
        ("", other.as_str(), "certificate chain: no certificate"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", other.as_str(), "certificate: "),
        (good.chain_pem.as_str(), "", "private key: "),
        (good.chain_pem.as_str(), other.as_str(), "certificate and private key: "),
    ] {
        let found = Certificate::from_pem(chain, key).unwrap_err();
        assert!(found.starts_with(error), "{found}");
    }
    assert!(Trust::from_pem("").unwrap_err().starts_with("trust bundle: no certificate"));
}

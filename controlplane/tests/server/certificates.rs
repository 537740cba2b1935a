//! The certificate service: who gets which certificate, and what is refused.

use mesh_controlplane::ca::Authority;
use mesh_proto::istio::auth::IstioCertificateRequest;
use mesh_proto::xds::wkt;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tonic::Code;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::support::*;

fn uri(der: &CertificateDer<'_>) -> String {
    let (_, parsed) = X509Certificate::from_der(der).unwrap();
    format!("{:?}", parsed.subject_alternative_name().unwrap().unwrap().value.general_names)
}

#[tokio::test]
async fn a_token_gets_a_certificate_and_the_certificate_its_successor() {
    let plane = start("").await;
    let own = credentials(&plane, "default", "reviews").await;
    assert_eq!(uri(&own.chain[0]), "[URI(\"spiffe://cluster.local/ns/default/sa/reviews\")]");
    let channel = secure(plane.secure_grpc_addr(), &plane.root_pem(), Some(&own)).await.unwrap();
    let (_, request) = request();
    let response = sign(channel, None, request).await.unwrap();
    assert_eq!(response.cert_chain.last().unwrap(), &plane.root_pem());
    let leaf = CertificateDer::from_pem_slice(response.cert_chain[0].as_bytes()).unwrap();
    assert_eq!(uri(&leaf), "[URI(\"spiffe://cluster.local/ns/default/sa/reviews\")]");
    let (_, metrics) = page(&plane, "/metrics").await;
    assert!(metrics.contains("citadel_server_success_cert_issuance_count 2"), "{metrics}");
    plane.shutdown().await;
}

#[tokio::test]
async fn without_credentials_nothing_is_signed() {
    let plane = start("").await;
    let secure = secure(plane.secure_grpc_addr(), &plane.root_pem(), None).await.unwrap();
    let local = plaintext(plane.grpc_addr()).await;
    for channel in [secure, local.clone()] {
        let status = sign(channel.clone(), None, request().1).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{status}");
        assert!(status.message().contains("no credentials"), "{status}");
        let status = sign(channel, Some("x"), request().1).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    }
    // A token that never leaves the machine needs no TLS.
    let token = plane.issue_token("default", "reviews", HOUR);
    assert!(sign(local, Some(&token), request().1).await.is_ok());
    plane.shutdown().await;
}

#[tokio::test]
async fn malformed_requests_are_refused_with_their_reason() {
    let plane = start("").await;
    let channel = plaintext(plane.grpc_addr()).await;
    let token = plane.issue_token("default", "reviews", HOUR);
    let good = request().1.csr;
    let flipped = {
        // A character of the signature's base64, near the end of the last full line.
        let mut lines: Vec<String> = good.trim_end().lines().map(str::to_owned).collect();
        let index = lines.len() - 2;
        let line = lines[index].clone();
        let other = if line.starts_with('A') { "B" } else { "A" };
        lines[index] = format!("{other}{}", &line[1..]);
        lines.join("\n")
    };
    for (csr, reason) in [
        (String::new(), "is empty"),
        ("not PEM".to_owned(), "has no PEM block"),
        (plane.root_pem(), "has no PEM block CERTIFICATE REQUEST"),
        ("x".repeat(17 * 1024), "longer than 16 KiB"),
        ("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n".to_owned(), "is no PKCS#10"),
        ("-----BEGIN CERTIFICATE REQUEST-----\n***\n-----END CERTIFICATE REQUEST-----\n".to_owned(), "is no PEM"),
        (flipped, "certificate signing request"),
    ] {
        let request = IstioCertificateRequest { csr, ..Default::default() };
        let status = sign(channel.clone(), Some(&token), request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains(reason), "{reason}: {status}");
    }
    let negative = IstioCertificateRequest { csr: good.clone(), validity_duration: -1, ..Default::default() };
    let status = sign(channel.clone(), Some(&token), negative).await.unwrap_err();
    assert!(status.message().contains("must not be negative"), "{status}");
    for (field, code) in [("CertSigner", Code::InvalidArgument), ("ImpersonatedIdentity", Code::PermissionDenied)] {
        let value = wkt::Value { kind: Some(wkt::value::Kind::StringValue("x".to_owned())) };
        let metadata = wkt::Struct { fields: [(field.to_owned(), value)].into() };
        let request = IstioCertificateRequest { csr: good.clone(), metadata: Some(metadata), ..Default::default() };
        let status = sign(channel.clone(), Some(&token), request).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
    }
    plane.shutdown().await;
}

#[tokio::test]
async fn the_issuer_changes_under_a_bundle_of_both_roots_and_nobody_is_cut_off() {
    let plane = start("").await;
    let old = credentials(&plane, "default", "reviews").await;
    let handle = plane.authority();
    let old_roots = handle.load().roots().to_vec();
    let new = Authority::self_signed("new", std::time::SystemTime::now()).unwrap().with_roots(old_roots);
    handle.set_authority(new);
    let bundle = plane.root_pem();
    assert_eq!(bundle.matches("BEGIN CERTIFICATE").count(), 2);
    // The server's certificate is of the new root soon, and it still takes certificates of the old one.
    let new_root = bundle.split_inclusive("-----END CERTIFICATE-----\n").next().unwrap().to_owned();
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    let channel = loop {
        match secure(plane.secure_grpc_addr(), &new_root, Some(&old)).await {
            Ok(channel) => break channel,
            Err(error) => assert!(tokio::time::Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    };
    let response = sign(channel, None, request().1).await.unwrap();
    assert_eq!(response.cert_chain.last().unwrap(), &bundle, "clients learn both roots");
    let mut stream = Delta::open(
        secure(plane.secure_grpc_addr(), &bundle, Some(&old)).await.unwrap(),
        None,
        node("default", "reviews"),
    )
    .await
    .unwrap();
    stream.subscribe(CDS, &[]).await;
    stream.take(CDS).await;
    plane.shutdown().await;
}

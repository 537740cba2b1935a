//! Who a peer may be: a chain to a trusted root, and a name that is wanted.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};

use super::certificate::PeerCertificate;
use crate::route::matcher::StringMatcher;

/// A kind of name in a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SanKind {
    /// URI, such as a SPIFFE id.
    Uri,
    /// DNS.
    Dns,
    /// E-mail address.
    Email,
    /// IP address, as text.
    Ip,
    /// Any of them.
    Any,
}

/// A name that a peer may have.
#[derive(Debug, Clone)]
pub struct SanMatcher {
    /// Kind.
    pub kind: SanKind,
    /// Name.
    pub name: StringMatcher,
}

/// True if a name of the certificate is wanted, or none in particular is.
pub fn names_match(wanted: &[SanMatcher], peer: &PeerCertificate) -> bool {
    wanted.is_empty()
        || wanted.iter().any(|matcher| {
            let lists = [
                (SanKind::Uri, &peer.uri_sans),
                (SanKind::Dns, &peer.dns_sans),
                (SanKind::Email, &peer.email_sans),
                (SanKind::Ip, &peer.ip_sans),
            ];
            let mut asked = lists.into_iter().filter(|(kind, _)| matcher.kind == SanKind::Any || matcher.kind == *kind);
            asked.any(|(_, list)| list.iter().any(|san| matcher.name.matches(san)))
        })
}

fn check_names(wanted: &[SanMatcher], der: &CertificateDer<'_>) -> Result<(), Error> {
    let peer = PeerCertificate::parse(der).map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
    if names_match(wanted, &peer) {
        return Ok(());
    }
    let shown: Vec<&str> = peer.uri_sans.iter().chain(&peer.dns_sans).map(|san| &**san).collect();
    tracing::debug!(shown = shown.join(","), "the peer's certificate is none of the wanted");
    Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
}

/// How the certificate of a server is checked.
#[derive(Debug)]
pub struct ServerVerifier {
    /// `None` checks nothing, as Envoy does without a trust bundle.
    pub roots: Option<Arc<RootCertStore>>,
    /// Names of which it must have one.
    pub sans: Vec<SanMatcher>,
    /// It must also have the name that was dialed.
    pub check_name: bool,
    /// Signatures.
    pub provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(roots) = &self.roots {
            let parsed = ParsedCertificate::try_from(end_entity)?;
            let algorithms = self.provider.signature_verification_algorithms.all;
            rustls::client::verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms)?;
            if self.check_name {
                rustls::client::verify_server_name(&parsed, server_name)?;
            }
        }
        check_names(&self.sans, end_entity)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// How the certificate of a client is checked: rustls checks the chain, we the names.
#[derive(Debug)]
pub struct ClientVerifier {
    /// Chain.
    pub chain: Arc<dyn ClientCertVerifier>,
    /// Names of which it must have one.
    pub sans: Vec<SanMatcher>,
}

impl ClientCertVerifier for ClientVerifier {
    fn offer_client_auth(&self) -> bool {
        self.chain.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.chain.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // A list of authorities tells outsiders about the mesh and helps no client of it.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        check_names(&self.sans, end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

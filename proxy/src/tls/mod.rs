//! TLS on both sides of the proxy, and the secrets it uses.
//!
//! `server` ends TLS of accepted connections, `client` begins it towards endpoints, `verify` checks peers: by SPIFFE id in the
//! mesh, by name outside. Secrets rotate under live listeners: a context asks for its current rustls configuration for every
//! handshake, and connections that stand are left alone.

use std::sync::Arc;

/// What was agreed with a peer.
#[derive(Debug, Clone, Default)]
pub struct TlsInfo {
    /// Server name that the client sent.
    pub server_name: Option<Arc<str>>,
    /// Agreed protocol.
    pub alpn: Option<Vec<u8>>,
    /// `TLSv1.3`, `TLSv1.2`.
    pub version: &'static str,
    /// Cipher suite, for access logs.
    pub cipher: &'static str,
    /// The peer's verified certificate, if it showed one.
    pub peer: Option<Arc<PeerCertificate>>,
    /// URI SANs of the certificate that we showed, joined by commas (XFCC `By`).
    pub local_uri_sans: Arc<str>,
}

/// A verified certificate of a peer.
#[derive(Debug, Clone, Default)]
pub struct PeerCertificate {
    /// The SPIFFE id as written in the certificate (`spiffe://…`), if it has exactly one.
    pub spiffe: Option<Arc<str>>,
    /// All URI SANs.
    pub uri_sans: Vec<Arc<str>>,
    /// All DNS SANs.
    pub dns_sans: Vec<Arc<str>>,
    /// Subject in RFC 2253 form.
    pub subject: Arc<str>,
    /// SHA-256 of the certificate, lower-case hex.
    pub sha256: Arc<str>,
    /// The certificate in PEM, URL-encoded, as XFCC wants it.
    pub pem_url_encoded: Arc<str>,
}

/// How a chain ends TLS. Placeholder fields are filled by the TLS stage.
#[derive(Debug)]
pub struct ServerTls {}

/// How a cluster begins TLS.
#[derive(Debug)]
pub struct ClientTls {}

/// All secrets by name.
#[derive(Debug, Default)]
pub struct SecretStore {}

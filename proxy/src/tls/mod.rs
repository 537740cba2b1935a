//! TLS on both sides of the proxy, and the secrets it uses.
//!
//! `server` ends TLS of accepted connections, `client` begins it towards endpoints, `verify` checks peers: by SPIFFE id in the
//! mesh, by name outside. Secrets rotate under live listeners: a context asks for its current rustls configuration for every
//! handshake, and connections that stand are left alone.

pub mod certificate;
pub mod client;
pub mod secrets;
pub mod server;
pub mod verify;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

pub use certificate::PeerCertificate;
pub use client::{AlpnUse, ClientTls};
pub use secrets::{Certificate, SecretStore, Trust};
pub use server::ServerTls;

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
    pub cipher: String,
    /// The peer's verified certificate, if it showed one.
    pub peer: Option<Arc<PeerCertificate>>,
    /// URI SANs of the certificate that we showed, joined by commas (XFCC `By`).
    pub local_uri_sans: Arc<str>,
}

/// Why a handshake failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TlsError {
    /// The secret has not come yet.
    #[error("the secret `{0}` has not been received yet")]
    NoSecret(Arc<str>),
    /// The name to connect to is no name.
    #[error("`{0}` is not a server name")]
    ServerName(String),
    /// rustls refuses the settings.
    #[error("TLS settings: {0}")]
    Settings(String),
    /// The handshake itself.
    #[error("{0}")]
    Handshake(String),
}

/// Versions and cipher suites.
#[derive(Debug, Clone)]
pub struct Parameters {
    /// Accepted versions.
    pub versions: Vec<&'static rustls::SupportedProtocolVersion>,
    /// Provider with the accepted suites and groups.
    pub provider: Arc<CryptoProvider>,
}

impl Default for Parameters {
    fn default() -> Self {
        Self { versions: vec![&rustls::version::TLS13, &rustls::version::TLS12], provider: provider() }
    }
}

/// aws-lc-rs with X25519MLKEM768 preferred (BX16), and AES of 128 bits before 256, as in Envoy: it is as strong here and costs less. Never the process-wide default, so that programs which embed the proxy may have their own.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: std::sync::OnceLock<Arc<CryptoProvider>> = std::sync::OnceLock::new();
    let make = || {
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        // A stable sort: versions and key exchanges stay in the library's order.
        provider.cipher_suites.sort_by_key(|suite| (suite.version() != &rustls::version::TLS13, !is_aes_128(*suite)));
        Arc::new(provider)
    };
    PROVIDER.get_or_init(make).clone()
}

fn is_aes_128(suite: rustls::SupportedCipherSuite) -> bool {
    use rustls::CipherSuite as C;
    matches!(
        suite.suite(),
        C::TLS13_AES_128_GCM_SHA256
            | C::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
            | C::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
    )
}

fn info(common: &rustls::CommonState, server_name: Option<&str>, local: &Arc<str>) -> TlsInfo {
    let peer = common.peer_certificates().and_then(|chain| chain.first());
    TlsInfo {
        server_name: server_name.map(Into::into),
        alpn: common.alpn_protocol().map(<[u8]>::to_vec),
        version: match common.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
            Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "unknown",
        },
        cipher: common.negotiated_cipher_suite().map(|suite| format!("{:?}", suite.suite())).unwrap_or_default(),
        peer: peer.and_then(|der| PeerCertificate::parse(der).ok()).map(Arc::new),
        local_uri_sans: local.clone(),
    }
}

#[cfg(test)]
mod tests;

//! Ending TLS of accepted connections.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::secrets::{Cell, Certificate, Trust};
use super::verify::{ClientVerifier, SanMatcher};
use super::{Parameters, TlsError, TlsInfo, info};

/// How a chain ends TLS.
#[derive(Debug)]
pub struct ServerTls {
    /// Certificates; the first that the client can verify is shown.
    pub certificates: Vec<Arc<Cell<Certificate>>>,
    /// Whom clients must be signed by, if they show a certificate.
    pub trust: Option<Arc<Cell<Trust>>>,
    /// Names of which a client must have one.
    pub sans: Vec<SanMatcher>,
    /// A client must show a certificate.
    pub require_client: bool,
    /// Protocols, preferred first.
    pub alpn: Vec<Vec<u8>>,
    /// Versions and suites.
    pub parameters: Parameters,
    /// The configuration made of the current secrets.
    pub cache: ArcSwapOption<Configured>,
}

/// rustls' configuration, and what it was made of.
#[derive(Debug)]
pub struct Configured {
    certificates: Vec<Arc<Certificate>>,
    trust: Option<Arc<Trust>>,
    with_alpn: Arc<rustls::ServerConfig>,
    without_alpn: Arc<rustls::ServerConfig>,
}

#[derive(Debug)]
struct Resolver(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let usable = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        self.0.iter().find(usable).or(self.0.first()).cloned()
    }
}

impl ServerTls {
    fn configured(&self) -> Result<Arc<Configured>, TlsError> {
        let load = |cell: &Arc<Cell<Certificate>>| cell.load().ok_or_else(|| TlsError::NoSecret(cell.name.clone()));
        let certificates = self.certificates.iter().map(load).collect::<Result<Vec<_>, _>>()?;
        let trust = match &self.trust {
            Some(cell) => Some(cell.load().ok_or_else(|| TlsError::NoSecret(cell.name.clone()))?),
            None => None,
        };
        if let Some(current) = &*self.cache.load()
            && current.certificates.iter().zip(&certificates).all(|(a, b)| Arc::ptr_eq(a, b))
            && same(&current.trust, &trust)
        {
            return Ok(current.clone());
        }
        let settings = |error: &dyn std::fmt::Display| TlsError::Settings(error.to_string());
        let builder = rustls::ServerConfig::builder_with_provider(self.parameters.provider.clone())
            .with_protocol_versions(&self.parameters.versions)
            .map_err(|error| settings(&error))?;
        let builder = match &trust {
            None => builder.with_no_client_auth(),
            Some(trust) => {
                let chain =
                    WebPkiClientVerifier::builder_with_provider(trust.roots.clone(), self.parameters.provider.clone());
                let chain = if self.require_client { chain } else { chain.allow_unauthenticated() };
                let chain = chain.build().map_err(|error| settings(&error))?;
                builder.with_client_cert_verifier(Arc::new(ClientVerifier { chain, sans: self.sans.clone() }))
            }
        };
        let keys = certificates.iter().map(|certificate| certificate.key.clone()).collect();
        let mut config = builder.with_cert_resolver(Arc::new(Resolver(keys)));
        // A resumed session would outlive a changed trust bundle, and mesh connections are few and long.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        let without_alpn = Arc::new(config.clone());
        config.alpn_protocols = self.alpn.clone();
        let configured = Arc::new(Configured { certificates, trust, with_alpn: Arc::new(config), without_alpn });
        self.cache.store(Some(configured.clone()));
        Ok(configured)
    }

    /// Runs a handshake with the newest secrets.
    pub async fn accept<I>(&self, io: I) -> Result<(TlsStream<I>, TlsInfo), TlsError>
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        let configured = self.configured()?;
        let failed = |error: std::io::Error| TlsError::Handshake(error.to_string());
        let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), io).await.map_err(failed)?;
        let hello = start.client_hello();
        let server_name = hello.server_name().map(str::to_owned);
        // rustls refuses a hello whose protocols it shares none of; Envoy answers without one, and clients rely on it.
        let shared = hello
            .alpn()
            .is_none_or(|mut offered| offered.any(|protocol| self.alpn.iter().any(|ours| ours == protocol)));
        let config = if shared { &configured.with_alpn } else { &configured.without_alpn };
        let stream = start.into_stream(config.clone()).await.map_err(failed)?;
        let local = configured.certificates.first().map(|one| one.uri_sans.clone()).unwrap_or_default();
        let info = info(stream.get_ref().1, server_name.as_deref(), &local);
        Ok((stream, info))
    }

    /// True once all secrets are there.
    pub fn is_ready(&self) -> bool {
        self.certificates.iter().all(|cell| cell.load().is_some())
            && self.trust.as_ref().is_none_or(|cell| cell.load().is_some())
    }
}

pub(super) fn same<T>(a: &Option<Arc<T>>, b: &Option<Arc<T>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        _ => false,
    }
}

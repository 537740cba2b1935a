//! Beginning TLS towards endpoints.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use mesh_proto::names::PEER_EXCHANGE;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::secrets::{Cell, Certificate, Trust};
use super::server::same;
use super::verify::{SanMatcher, ServerVerifier};
use super::{Parameters, TlsError, TlsInfo, info};

/// How a cluster begins TLS.
#[derive(Debug)]
pub struct ClientTls {
    /// Our certificate, if the server wants one.
    pub certificate: Option<Arc<Cell<Certificate>>>,
    /// Whom servers must be signed by; nothing is checked when absent, as in Envoy.
    pub trust: Option<Arc<Cell<Trust>>>,
    /// Names of which the server must have one.
    pub sans: Vec<SanMatcher>,
    /// Server name to send.
    pub sni: Option<String>,
    /// Send the host of the request when no server name is configured.
    pub auto_sni: bool,
    /// The server's certificate must be for the name that was sent.
    pub check_name: bool,
    /// Protocols, preferred first.
    pub alpn: Vec<Vec<u8>>,
    /// Versions and suites.
    pub parameters: Parameters,
    /// The configurations made of the current secrets.
    pub cache: ArcSwapOption<Configured>,
}

/// Which of the configured protocols are offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AlpnUse {
    /// All.
    Configured,
    /// Without those that mean HTTP/2.
    Http1,
    /// Without those that mean HTTP/1.
    Http2,
    /// Without all that mean HTTP: a server that chooses by them would take opaque bytes for it; and without `istio-peer-exchange`.
    Tcp,
    /// Those of opaque bytes with peer metadata before them.
    Exchange,
}

/// rustls' configurations by [`AlpnUse`], and what they were made of.
pub struct Configured {
    certificate: Option<Arc<Certificate>>,
    trust: Option<Arc<Trust>>,
    connectors: [TlsConnector; 5],
}

impl std::fmt::Debug for Configured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Configured").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

impl ClientTls {
    fn configured(&self) -> Result<Arc<Configured>, TlsError> {
        let certificate = match &self.certificate {
            Some(cell) => Some(cell.load().ok_or_else(|| TlsError::NoSecret(cell.name.clone()))?),
            None => None,
        };
        let trust = match &self.trust {
            Some(cell) => Some(cell.load().ok_or_else(|| TlsError::NoSecret(cell.name.clone()))?),
            None => None,
        };
        if let Some(current) = &*self.cache.load()
            && same(&current.certificate, &certificate)
            && same(&current.trust, &trust)
        {
            return Ok(current.clone());
        }
        let verifier = ServerVerifier {
            roots: trust.as_ref().map(|trust| trust.roots.clone()),
            sans: self.sans.clone(),
            check_name: self.check_name,
            provider: self.parameters.provider.clone(),
        };
        let builder = rustls::ClientConfig::builder_with_provider(self.parameters.provider.clone())
            .with_protocol_versions(&self.parameters.versions)
            .map_err(|error| TlsError::Settings(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match &certificate {
            Some(certificate) => {
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certificate.key.clone())))
            }
            None => builder.with_no_client_auth(),
        };
        config.resumption = Resumption::disabled();
        let connector = |unwanted: &[&[u8]]| {
            let mut config = config.clone();
            config.alpn_protocols =
                self.alpn.iter().filter(|one| !unwanted.contains(&one.as_slice())).cloned().collect();
            TlsConnector::from(Arc::new(config))
        };
        let connectors = [
            connector(&[]),
            connector(&[b"h2", b"istio-h2"]),
            connector(&[b"http/1.1", b"istio-http/1.1", b"http/1.0", b"istio-http/1.0"]),
            connector(&[
                PEER_EXCHANGE.as_bytes(),
                b"h2",
                b"istio-h2",
                b"http/1.1",
                b"istio-http/1.1",
                b"http/1.0",
                b"istio-http/1.0",
            ]),
            connector(&[b"h2", b"istio-h2", b"http/1.1", b"istio-http/1.1", b"http/1.0", b"istio-http/1.0"]),
        ];
        let configured = Arc::new(Configured { certificate, trust, connectors });
        self.cache.store(Some(configured.clone()));
        Ok(configured)
    }

    /// True once all secrets are there.
    pub fn is_ready(&self) -> bool {
        self.certificate.as_ref().is_none_or(|cell| cell.load().is_some())
            && self.trust.as_ref().is_none_or(|cell| cell.load().is_some())
    }

    /// The server name that will be sent for a request to `host`.
    pub fn server_name<'a>(&'a self, host: Option<&'a str>) -> Option<&'a str> {
        match &self.sni {
            Some(name) => Some(name),
            None if self.auto_sni => host,
            None => None,
        }
    }

    /// Runs a handshake with the newest secrets. `host` is that of the request, `address` stands in when there is no server name.
    pub async fn connect<I>(
        &self,
        io: I,
        host: Option<&str>,
        address: std::net::IpAddr,
        alpn: AlpnUse,
    ) -> Result<(TlsStream<I>, TlsInfo), TlsError>
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        let configured = self.configured()?;
        let sent = self.server_name(host);
        let name = match sent {
            Some(name) => ServerName::try_from(name.to_owned()).map_err(|_| TlsError::ServerName(name.to_owned()))?,
            None => ServerName::from(address),
        };
        let connector = &configured.connectors[alpn as usize];
        let stream = connector.connect(name, io).await.map_err(|error| TlsError::Handshake(error.to_string()))?;
        let local = configured.certificate.as_ref().map(|one| one.uri_sans.clone()).unwrap_or_default();
        let info = info(stream.get_ref().1, sent, &local);
        Ok((stream, info))
    }
}

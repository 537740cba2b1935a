//! Asking the certificate authority: `istio.v1.auth.IstioCertificateService/CreateCertificate` over a connection made for the call.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use http::uri::Authority as HostPort;
use hyper_util::rt::TokioIo;
use mesh_proto::istio::auth::IstioCertificateRequest;
use mesh_proto::istio::auth::istio_certificate_service_client::IstioCertificateServiceClient;
use mesh_proto::names::{CONTROL_PLANE_HOST, SECRET_DEFAULT};
use tokio::net::TcpStream;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};

use super::{IdentityError, Settings};
use crate::tls::secrets::Cell;
use crate::tls::{AlpnUse, ClientTls, Parameters, SecretStore};

/// For connecting and answering together.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);

/// What the request shows.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Credential {
    /// Nothing: an authority on loopback may know us otherwise.
    None,
    /// `authorization: Bearer`.
    Token(String),
    /// The certificate that we have.
    Certificate,
}

/// Where the authority is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Authority {
    address: HostPort,
    tls: bool,
}

impl Authority {
    /// Reads [`Settings::ca_address`] and checks what must come with it.
    pub(super) fn new(settings: &Settings) -> Result<Self, IdentityError> {
        let text = settings.ca_address.trim();
        let wrong = |why: &str| IdentityError::Settings(format!("authority's address `{text}`: {why}"));
        let (tls, rest) = match text.split_once("://") {
            None => (true, text),
            Some(("https", rest)) => (true, rest),
            Some(("http", rest)) => (false, rest),
            Some(_) => return Err(wrong("the scheme is none of http, https")),
        };
        let address: HostPort = rest.trim_end_matches('/').parse().map_err(|_| wrong("not HOST:PORT"))?;
        if address.port_u16().is_none_or(|port| port == 0) || address.as_str().contains('@') {
            return Err(wrong("not HOST:PORT"));
        }
        if !tls && !is_loopback(&address) {
            return Err(wrong("plaintext would show the token to the network; only loopback may do without TLS"));
        }
        if tls {
            settings.ca_root.trust()?;
        }
        Ok(Self { address, tls })
    }

    /// True if the connection is TLS.
    pub(super) fn is_tls(&self) -> bool {
        self.tls
    }

    /// Has `csr` signed; the answer is PEM, leaf first.
    pub(super) async fn sign(
        &self,
        settings: &Settings,
        secrets: &SecretStore,
        csr: &str,
        credential: Credential,
    ) -> Result<Vec<String>, IdentityError> {
        let certificate = credential == Credential::Certificate;
        let message = IstioCertificateRequest {
            csr: csr.to_owned(),
            validity_duration: i64::try_from(settings.ttl.as_secs()).unwrap_or(i64::MAX),
            metadata: None,
        };
        let mut request = tonic::Request::new(message);
        if let Credential::Token(token) = credential {
            let value = MetadataValue::try_from(format!("Bearer {token}"));
            let mut value = value.map_err(|_| IdentityError::Settings("the token is no header value".to_owned()))?;
            value.set_sensitive(true);
            request.metadata_mut().insert("authorization", value);
        }
        if let Some(cluster) = &settings.cluster_id {
            let value = MetadataValue::try_from(cluster.as_str());
            let value = value.map_err(|_| IdentityError::Settings("cluster_id is no header value".to_owned()))?;
            request.metadata_mut().insert("clusterid", value);
        }
        let asked = async {
            let channel = self.connect(settings, secrets, certificate).await?;
            let answer = IstioCertificateServiceClient::new(channel).create_certificate(request).await;
            let refused = |status: tonic::Status| IdentityError::Refused {
                code: status.code(),
                message: status.message().to_owned(),
            };
            Ok(answer.map_err(refused)?.into_inner().cert_chain)
        };
        let timeout = |_| IdentityError::Timeout(self.address.to_string());
        tokio::time::timeout(DEADLINE, asked).await.map_err(timeout)?
    }

    async fn connect(
        &self,
        settings: &Settings,
        secrets: &SecretStore,
        certificate: bool,
    ) -> Result<Channel, IdentityError> {
        let tls = if self.tls { Some(Arc::new(tls(settings, secrets, certificate)?)) } else { None };
        let name = settings.server_name.as_deref().unwrap_or(CONTROL_PLANE_HOST);
        let failed = |error: &dyn std::error::Error| IdentityError::Connect {
            address: self.address.to_string(),
            error: chain(error),
        };
        // tonic refuses `https` without its own TLS, so the scheme that the server sees is set apart from the one that dials.
        let origin = if self.tls { format!("https://{name}") } else { format!("http://{}", self.address) };
        let origin: Uri = origin.parse().map_err(|_| IdentityError::Settings(format!("server name `{name}`")))?;
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).map_err(|error| failed(&error))?;
        let address = self.address.clone();
        let connector = tower::service_fn(move |_: Uri| {
            let (tls, address) = (tls.clone(), address.clone());
            async move {
                let stream = TcpStream::connect(address.as_str()).await?;
                stream.set_nodelay(true)?;
                let ip = stream.peer_addr()?.ip();
                let io: Box<dyn Io> = match &tls {
                    None => Box::new(stream),
                    Some(tls) => {
                        let shaken = tls.connect(stream, None, ip, AlpnUse::Configured).await;
                        Box::new(shaken.map_err(std::io::Error::other)?.0)
                    }
                };
                Ok::<_, std::io::Error>(TokioIo::new(io))
            }
        });
        endpoint.origin(origin).connect_with_connector(connector).await.map_err(|error| failed(&error))
    }
}

trait Io: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Io for T {}

fn tls(settings: &Settings, secrets: &SecretStore, certificate: bool) -> Result<ClientTls, IdentityError> {
    let name = settings.server_name.as_deref().unwrap_or(CONTROL_PLANE_HOST);
    Ok(ClientTls {
        certificate: certificate.then(|| secrets.certificate(SECRET_DEFAULT)),
        trust: Some(Cell::fixed("root of the authority", settings.ca_root.and_mesh(secrets)?)),
        sans: Vec::new(),
        sni: Some(name.to_owned()),
        auto_sni: false,
        check_name: true,
        alpn: vec![b"h2".to_vec()],
        parameters: Parameters::default(),
        cache: Default::default(),
    })
}

fn is_loopback(address: &HostPort) -> bool {
    let host = address.host().trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// An error with its causes: tonic's own says only "transport error".
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let one = error.to_string();
        if !text.contains(&one) {
            text.push_str(": ");
            text.push_str(&one);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::Root;
    use super::*;

    #[test]
    fn addresses_are_read_or_refused() {
        for (text, expected) in [
            ("http://127.0.0.1:15010", Ok(("127.0.0.1:15010", false))),
            ("http://[::1]:15010/", Ok(("[::1]:15010", false))),
            ("http://localhost:15010", Ok(("localhost:15010", false))),
            ("http://istiod.istio-system.svc:15010", Err("only loopback")),
            ("http://10.0.0.1:15010", Err("only loopback")),
            ("127.0.0.1:15012", Err("trust bundle")),
            ("istiod", Err("not HOST:PORT")),
            ("istiod:", Err("not HOST:PORT")),
            ("a@istiod:1", Err("not HOST:PORT")),
            ("unix:///x", Err("none of http")),
            ("", Err("not HOST:PORT")),
        ] {
            let settings = Settings { ca_address: text.into(), ca_root: Root::None, ..Settings::default() };
            match (Authority::new(&settings), expected) {
                (Ok(authority), Ok((address, tls))) => {
                    assert_eq!((authority.address.as_str(), authority.tls), (address, tls), "{text}");
                }
                (Err(error), Err(reason)) => assert!(error.to_string().contains(reason), "{text}: {error}"),
                (result, expected) => panic!("{text}: {result:?}, not {expected:?}"),
            }
        }
    }
}

//! Throw-away certificates for the cases with mTLS, and the client's side of it.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A CA with one server and one client.
#[derive(Debug)]
pub struct Certificates {
    ca: String,
    server: (String, String),
    client: Arc<rustls::ClientConfig>,
}

fn leaf(name: &str, uri: &str, issuer: &Issuer<'_, KeyPair>) -> (rcgen::Certificate, KeyPair) {
    let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name is valid");
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names.push(SanType::URI(uri.try_into().expect("a URI is text")));
    let key = KeyPair::generate().expect("a key is made");
    (params.signed_by(&key, issuer).expect("a certificate is signed"), key)
}

impl Certificates {
    /// New ones.
    pub fn new() -> Self {
        // Another test of this process may have done it.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "differential CA");
        let key = KeyPair::generate().expect("a key is made");
        let ca = params.self_signed(&key).expect("a certificate is signed");
        let issuer = Issuer::new(params, key);
        let (server, server_key) = leaf("server.test", "spiffe://cluster.local/ns/test/sa/server", &issuer);
        let (client, client_key) = leaf("client.test", "spiffe://cluster.local/ns/test/sa/client", &issuer);
        let mut roots = rustls::RootCertStore::empty();
        roots.add(ca.der().clone()).expect("a root is added");
        let chain: Vec<CertificateDer<'static>> = vec![client.der().clone()];
        let key = PrivateKeyDer::try_from(client_key.serialize_der()).expect("a key is read");
        let config = rustls::ClientConfig::builder()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .expect("a client is configured");
        Self { ca: ca.pem(), server: (server.pem(), server_key.serialize_pem()), client: Arc::new(config) }
    }

    /// The transport socket of a listener.
    pub fn server_socket(&self) -> Value {
        json!({"name": "envoy.transport_sockets.tls", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "require_client_certificate": true,
            "common_tls_context": {
                "tls_certificates": [{
                    "certificate_chain": {"inline_string": self.server.0},
                    "private_key": {"inline_string": self.server.1},
                }],
                "validation_context": {"trusted_ca": {"inline_string": self.ca}},
            },
        }})
    }

    /// The client's handshake.
    pub async fn connect(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from("server.test").expect("a name is valid");
        TlsConnector::from(self.client.clone()).connect(name, stream).await
    }
}

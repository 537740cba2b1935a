//! Gateway (Istio's own). Source: <https://istio.io/latest/docs/reference/config/networking/gateway/>.

use std::collections::BTreeMap;

use super::Port;

message! {
    /// Ports of edge proxies.
    pub struct Gateway {
        /// Servers.
        pub servers: Vec<Server>,
        /// Labels of the gateway workloads; none selects all.
        pub selector: BTreeMap<String, String>,
    }

    /// A port and its hosts.
    pub struct Server {
        /// Port.
        pub port: Port,
        /// Address to bind, or `unix://`.
        pub bind: String,
        /// Hosts, `namespace/host`.
        pub hosts: Vec<String>,
        /// TLS.
        pub tls: Option<ServerTlsSettings>,
        /// Reserved by Istio.
        pub default_endpoint: String,
        /// Name, unique on the workload.
        pub name: String,
    }

    /// TLS of a server.
    pub struct ServerTlsSettings {
        /// Redirect plaintext to https.
        pub https_redirect: bool,
        /// Mode.
        pub mode: ServerTlsMode,
        /// File.
        pub server_certificate: String,
        /// File.
        pub private_key: String,
        /// File.
        pub ca_certificates: String,
        /// File of revoked certificates.
        pub ca_crl: String,
        /// Secret.
        pub credential_name: String,
        /// Secrets, such as one RSA and one ECDSA.
        pub credential_names: Vec<String>,
        /// Secret or ConfigMap of the clients' CA.
        pub ca_cert_credential_name: String,
        /// Files.
        pub tls_certificates: Vec<TlsCertificate>,
        /// Names one of which a client must show.
        pub subject_alt_names: Vec<String>,
        /// SPKI hashes.
        pub verify_certificate_spki: Vec<String>,
        /// Certificate hashes.
        pub verify_certificate_hash: Vec<String>,
        /// TLS 1.2 by default.
        pub min_protocol_version: TlsProtocol,
        /// Newest by default.
        pub max_protocol_version: TlsProtocol,
        /// OpenSSL names.
        pub cipher_suites: Vec<String>,
        /// Do not verify clients.
        pub insecure_skip_verify: Option<bool>,
    }

    /// A certificate in files.
    pub struct TlsCertificate {
        /// File.
        pub server_certificate: String,
        /// File.
        pub private_key: String,
        /// File.
        pub ca_certificates: String,
    }
}

choice! {
    /// TLS modes of a server.
    pub enum ServerTlsMode {
        /// Not ended here; routed by SNI.
        #[default]
        Passthrough,
        /// TLS.
        Simple,
        /// TLS with a required client certificate.
        Mutual,
        /// Not ended here; the destination comes from the SNI itself.
        AutoPassthrough,
        /// TLS with mesh certificates.
        IstioMutual,
        /// TLS with an optional client certificate.
        OptionalMutual,
    }
}

/// Versions of TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum TlsProtocol {
    /// The default of the field.
    #[default]
    #[serde(rename = "TLS_AUTO")]
    Auto,
    /// TLS 1.0.
    #[serde(rename = "TLSV1_0")]
    V1_0,
    /// TLS 1.1.
    #[serde(rename = "TLSV1_1")]
    V1_1,
    /// TLS 1.2.
    #[serde(rename = "TLSV1_2")]
    V1_2,
    /// TLS 1.3.
    #[serde(rename = "TLSV1_3")]
    V1_3,
}

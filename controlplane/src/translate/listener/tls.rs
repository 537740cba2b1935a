//! TLS that ends at a gateway's server (GT2–GT7, IG3).

use mesh_proto::crd::gateway::{ServerTlsMode, ServerTlsSettings, TlsProtocol};
use mesh_proto::names::{SECRET_DEFAULT, SECRET_ROOT};
use mesh_proto::xds::{core, matcher, pack, tls};

use crate::model::Node;
use crate::translate::wire;

/// Name of the transport socket.
const SOCKET: &str = "envoy.transport_sockets.tls";
/// What HTTP servers offer.
const HTTP_ALPN: &[&str] = &["h2", "http/1.1"];
/// Suffix of a secret that holds the authorities of clients.
const CA_SUFFIX: &str = "-cacert";

/// The transport socket of a context.
pub fn socket(context: &tls::DownstreamTlsContext) -> core::TransportSocket {
    core::TransportSocket {
        name: SOCKET.to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(pack(context))),
    }
}

/// The context of a server that ends TLS; `None` for one that passes it through.
pub fn context(node: &Node, settings: &ServerTlsSettings, http: bool) -> Option<tls::DownstreamTlsContext> {
    let (require, verify) = match settings.mode {
        ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough => return None,
        ServerTlsMode::Simple => (false, false),
        ServerTlsMode::Mutual | ServerTlsMode::IstioMutual => (true, true),
        // A client may show a certificate; what it shows is then verified.
        ServerTlsMode::OptionalMutual => (false, true),
    };
    let mut common = tls::CommonTlsContext {
        tls_params: Some(parameters(settings)),
        alpn_protocols: if http { HTTP_ALPN.iter().map(|name| (*name).to_owned()).collect() } else { Vec::new() },
        tls_certificate_sds_secret_configs: certificates(settings)
            .into_iter()
            .map(|name| wire::secret(node, name))
            .collect(),
        ..Default::default()
    };
    if verify {
        common.validation_context_type = Some(validation(node, settings));
    }
    Some(tls::DownstreamTlsContext {
        common_tls_context: Some(common),
        require_client_certificate: wire::boolean(require),
        ..Default::default()
    })
}

/// Names of the secrets that hold certificate and key. With several, the client's abilities choose.
fn certificates(settings: &ServerTlsSettings) -> Vec<String> {
    if settings.mode == ServerTlsMode::IstioMutual {
        return vec![SECRET_DEFAULT.to_owned()];
    }
    if !settings.credential_names.is_empty() {
        return settings.credential_names.iter().map(|name| resource(name)).collect();
    }
    if !settings.credential_name.is_empty() {
        return vec![resource(&settings.credential_name)];
    }
    if !settings.tls_certificates.is_empty() {
        let files = settings.tls_certificates.iter();
        return files.map(|one| file_certificate(&one.server_certificate, &one.private_key)).collect();
    }
    vec![file_certificate(&settings.server_certificate, &settings.private_key)]
}

fn validation(node: &Node, settings: &ServerTlsSettings) -> tls::common_tls_context::ValidationContextType {
    use tls::common_tls_context::{CombinedCertificateValidationContext, ValidationContextType as Type};
    let name = if settings.mode == ServerTlsMode::IstioMutual {
        SECRET_ROOT.to_owned()
    } else if !settings.ca_cert_credential_name.is_empty() {
        with_suffix(resource(&settings.ca_cert_credential_name))
    } else if let Some(name) = settings.credential_names.first() {
        with_suffix(resource(name))
    } else if !settings.credential_name.is_empty() {
        with_suffix(resource(&settings.credential_name))
    } else {
        let of_pair =
            || settings.tls_certificates.iter().map(|one| one.ca_certificates.as_str()).find(|path| !path.is_empty());
        let path = Some(settings.ca_certificates.as_str()).filter(|path| !path.is_empty()).or_else(of_pair);
        format!("file-root:{}", path.unwrap_or_default())
    };
    let conditions = conditions(settings);
    if conditions == tls::CertificateValidationContext::default() {
        return Type::ValidationContextSdsSecretConfig(wire::secret(node, name));
    }
    Type::CombinedValidationContext(CombinedCertificateValidationContext {
        default_validation_context: Some(conditions),
        validation_context_sds_secret_config: Some(wire::secret(node, name)),
        ..Default::default()
    })
}

/// What a client's certificate must hold besides a trusted signature (GT6).
fn conditions(settings: &ServerTlsSettings) -> tls::CertificateValidationContext {
    use tls::subject_alt_name_matcher::SanType;
    let kinds = [SanType::Uri, SanType::Dns, SanType::Email, SanType::IpAddress];
    let names = settings.subject_alt_names.iter().flat_map(|name| {
        kinds.into_iter().map(move |kind| tls::SubjectAltNameMatcher {
            san_type: kind.into(),
            matcher: Some(matcher::StringMatcher {
                match_pattern: Some(matcher::string_matcher::MatchPattern::Exact(name.clone())),
                ignore_case: false,
            }),
            ..Default::default()
        })
    });
    tls::CertificateValidationContext {
        match_typed_subject_alt_names: names.collect(),
        verify_certificate_spki: settings.verify_certificate_spki.clone(),
        verify_certificate_hash: settings.verify_certificate_hash.clone(),
        ..Default::default()
    }
}

fn parameters(settings: &ServerTlsSettings) -> tls::TlsParameters {
    use tls::tls_parameters::TlsProtocol as P;
    let protocol = |wanted: TlsProtocol, default: P| match wanted {
        TlsProtocol::Auto => default,
        TlsProtocol::V1_0 => P::TlSv10,
        TlsProtocol::V1_1 => P::TlSv11,
        TlsProtocol::V1_2 => P::TlSv12,
        TlsProtocol::V1_3 => P::TlSv13,
    };
    tls::TlsParameters {
        tls_minimum_protocol_version: protocol(settings.min_protocol_version, P::TlSv12).into(),
        tls_maximum_protocol_version: protocol(settings.max_protocol_version, P::TlsAuto).into(),
        cipher_suites: settings.cipher_suites.clone(),
        ..Default::default()
    }
}

/// `kubernetes://NAME`, unless the name has a scheme of its own.
fn resource(name: &str) -> String {
    if name.contains("://") { name.to_owned() } else { format!("kubernetes://{name}") }
}

fn with_suffix(name: String) -> String {
    if name.ends_with(CA_SUFFIX) { name } else { format!("{name}{CA_SUFFIX}") }
}

fn file_certificate(certificate: &str, key: &str) -> String {
    format!("file-cert:{certificate}~{key}")
}

//! TLS contexts and secrets → [`crate::tls`].

use std::sync::Arc;

use mesh_proto::xds::{core, tls};

use super::matcher::string;
use super::{At, Context, Decoded, Refusal, each};
use crate::tls::secrets::Cell;
use crate::tls::verify::{SanKind, SanMatcher};
use crate::tls::{Certificate, ClientTls, Parameters, ServerTls, Trust, provider};

/// How a chain ends TLS.
pub fn downstream(raw: &tls::DownstreamTlsContext, context: &Context) -> Decoded<Arc<ServerTls>> {
    let default = tls::CommonTlsContext::default();
    let common = raw.common_tls_context.as_ref().unwrap_or(&default);
    let parts = common_parts(common, context).at("common_tls_context")?;
    if parts.certificates.is_empty() {
        return Err(Refusal::field("common_tls_context", "a server needs a certificate"));
    }
    let require_client = raw.require_client_certificate.as_ref().is_some_and(|required| required.value);
    if require_client && parts.trust.is_none() {
        let message = "a client certificate is required, but there is no trust bundle to check it with";
        return Err(Refusal::field("common_tls_context.validation_context", message));
    }
    Ok(Arc::new(ServerTls {
        certificates: parts.certificates,
        trust: parts.trust,
        sans: parts.sans,
        require_client,
        alpn: parts.alpn,
        parameters: parts.parameters,
        cache: Default::default(),
    }))
}

/// How a cluster begins TLS.
pub fn upstream(raw: &tls::UpstreamTlsContext, context: &Context) -> Decoded<Arc<ClientTls>> {
    let default = tls::CommonTlsContext::default();
    let common = raw.common_tls_context.as_ref().unwrap_or(&default);
    let parts = common_parts(common, context).at("common_tls_context")?;
    Ok(Arc::new(ClientTls {
        certificate: parts.certificates.into_iter().next(),
        trust: parts.trust,
        sans: parts.sans,
        sni: (!raw.sni.is_empty()).then(|| raw.sni.clone()),
        auto_sni: raw.auto_host_sni,
        check_name: raw.auto_sni_san_validation,
        alpn: parts.alpn,
        parameters: parts.parameters,
        cache: Default::default(),
    }))
}

struct Parts {
    certificates: Vec<Arc<Cell<Certificate>>>,
    trust: Option<Arc<Cell<Trust>>>,
    sans: Vec<SanMatcher>,
    alpn: Vec<Vec<u8>>,
    parameters: Parameters,
}

fn common_parts(raw: &tls::CommonTlsContext, context: &Context) -> Decoded<Parts> {
    use tls::common_tls_context::ValidationContextType as V;
    let mut certificates =
        each("tls_certificates", &raw.tls_certificates, |one| Ok(Cell::fixed("inline", certificate(one)?)))?;
    for config in &raw.tls_certificate_sds_secret_configs {
        certificates.push(context.secrets.certificate(&config.name));
    }
    let (trust, sans) = match raw.validation_context_type.as_ref() {
        None => (None, Vec::new()),
        Some(V::ValidationContext(one)) => inline(one).at("validation_context")?,
        Some(V::ValidationContextSdsSecretConfig(config)) => (Some(context.secrets.trust(&config.name)), Vec::new()),
        Some(V::CombinedValidationContext(combined)) => {
            let (trust, sans) = match &combined.default_validation_context {
                Some(one) => inline(one).at("combined_validation_context.default_validation_context")?,
                None => (None, Vec::new()),
            };
            let named = combined.validation_context_sds_secret_config.as_ref();
            (named.map(|config| context.secrets.trust(&config.name)).or(trust), sans)
        }
        Some(_) => return Err(Refusal::new("certificate providers are not supported; use SDS or inline secrets")),
    };
    Ok(Parts {
        certificates,
        trust,
        sans,
        alpn: raw.alpn_protocols.iter().map(|one| one.as_bytes().to_vec()).collect(),
        parameters: raw.tls_params.as_ref().map_or_else(|| Ok(Parameters::default()), parameters).at("tls_params")?,
    })
}

type Validation = (Option<Arc<Cell<Trust>>>, Vec<SanMatcher>);

fn inline(raw: &tls::CertificateValidationContext) -> Decoded<Validation> {
    let trust = if raw.system_root_certs.is_some() {
        Some(Cell::fixed("system", Trust::system().map_err(|error| Refusal::field("system_root_certs", error))?))
    } else if raw.trusted_ca.is_some() {
        Some(Cell::fixed("inline", trust(raw)?))
    } else {
        None
    };
    Ok((trust, sans(raw)?))
}

#[allow(deprecated)]
fn sans(raw: &tls::CertificateValidationContext) -> Decoded<Vec<SanMatcher>> {
    use tls::subject_alt_name_matcher::SanType;
    let mut all = each("match_typed_subject_alt_names", &raw.match_typed_subject_alt_names, |one| {
        let kind = match SanType::try_from(one.san_type) {
            Ok(SanType::Uri) => SanKind::Uri,
            Ok(SanType::Dns) => SanKind::Dns,
            Ok(SanType::Email) => SanKind::Email,
            Ok(SanType::IpAddress) => SanKind::Ip,
            _ => return Err(Refusal::field("san_type", "only URI, DNS, EMAIL and IP_ADDRESS are supported")),
        };
        let matcher = one.matcher.as_ref().ok_or_else(|| Refusal::field("matcher", "is required"))?;
        Ok(SanMatcher { kind, name: string(matcher).at("matcher")? })
    })?;
    all.extend(each("match_subject_alt_names", &raw.match_subject_alt_names, |one| {
        Ok(SanMatcher { kind: SanKind::Any, name: string(one)? })
    })?);
    Ok(all)
}

/// A trust bundle as SDS delivers it.
pub fn trust(raw: &tls::CertificateValidationContext) -> Decoded<Trust> {
    let source = raw.trusted_ca.as_ref().ok_or_else(|| Refusal::field("trusted_ca", "is required"))?;
    Trust::from_pem(&data(source).at("trusted_ca")?).map_err(|error| Refusal::field("trusted_ca", error))
}

/// A certificate as SDS delivers it.
pub fn certificate(raw: &tls::TlsCertificate) -> Decoded<Certificate> {
    let chain = raw.certificate_chain.as_ref().ok_or_else(|| Refusal::field("certificate_chain", "is required"))?;
    let key = raw.private_key.as_ref().ok_or_else(|| Refusal::field("private_key", "is required"))?;
    let (chain, key) = (data(chain).at("certificate_chain")?, data(key).at("private_key")?);
    Certificate::from_pem(&chain, &key).map_err(Refusal::new)
}

/// Text of a data source. Files are read now; SDS by file watches them.
fn data(raw: &core::DataSource) -> Decoded<String> {
    use core::data_source::Specifier as S;
    match raw.specifier.as_ref() {
        Some(S::InlineString(text)) => Ok(text.clone()),
        Some(S::InlineBytes(bytes)) => {
            String::from_utf8(bytes.clone()).map_err(|_| Refusal::field("inline_bytes", "is not text (PEM)"))
        }
        Some(S::Filename(path)) => {
            std::fs::read_to_string(path).map_err(|error| Refusal::field("filename", format!("{path}: {error}")))
        }
        Some(S::EnvironmentVariable(name)) => {
            std::env::var(name).map_err(|error| Refusal::field("environment_variable", format!("{name}: {error}")))
        }
        None => Err(Refusal::new("needs one of filename, inline_string, inline_bytes")),
    }
}

fn parameters(raw: &tls::TlsParameters) -> Decoded<Parameters> {
    use tls::tls_parameters::TlsProtocol as P;
    let rank = |value: i32, name: &str, default: u8| match P::try_from(value) {
        Ok(P::TlsAuto) => Ok(default),
        Ok(P::TlSv10 | P::TlSv11 | P::TlSv12) => Ok(12),
        Ok(P::TlSv13) => Ok(13),
        Err(_) => Err(Refusal::field(name, "unknown")),
    };
    let least = rank(raw.tls_minimum_protocol_version, "tls_minimum_protocol_version", 12)?;
    let most = rank(raw.tls_maximum_protocol_version, "tls_maximum_protocol_version", 13)?;
    let mut versions = Vec::new();
    if most >= 13 {
        versions.push(&rustls::version::TLS13);
    }
    if least <= 12 {
        versions.push(&rustls::version::TLS12);
    }
    if least > most {
        return Err(Refusal::field("tls_minimum_protocol_version", "is more than the maximum"));
    }
    let mut parameters = Parameters { versions, provider: provider() };
    if !raw.cipher_suites.is_empty() {
        let mut own = (*parameters.provider).clone();
        // The list is of TLS 1.2, as in Envoy; suites of 1.3 are not configurable.
        own.cipher_suites.retain(|suite| {
            suite.tls13().is_some() || raw.cipher_suites.iter().any(|name| openssl_name(suite.suite()) == Some(name))
        });
        if !own.cipher_suites.iter().any(|suite| suite.tls13().is_none()) && least <= 12 {
            return Err(Refusal::field("cipher_suites", "holds no suite of TLS 1.2 that is supported"));
        }
        parameters.provider = Arc::new(own);
    }
    Ok(parameters)
}

fn openssl_name(suite: rustls::CipherSuite) -> Option<&'static str> {
    use rustls::CipherSuite as C;
    Some(match suite {
        C::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => "ECDHE-ECDSA-AES128-GCM-SHA256",
        C::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => "ECDHE-RSA-AES128-GCM-SHA256",
        C::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => "ECDHE-ECDSA-AES256-GCM-SHA384",
        C::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => "ECDHE-RSA-AES256-GCM-SHA384",
        C::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-ECDSA-CHACHA20-POLY1305",
        C::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-RSA-CHACHA20-POLY1305",
        _ => return None,
    })
}

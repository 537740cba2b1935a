//! TLS from a client to a service: by DestinationRule (TL1–TL6), or mesh mTLS to endpoints that can (DR9).

use mesh_proto::crd::destination_rule::{ClientTlsMode, ClientTlsSettings};
use mesh_proto::names::{PEER_EXCHANGE, SECRET_DEFAULT, SECRET_ROOT, cluster as names};
use mesh_proto::xds::cluster::cluster::TransportSocketMatch;
use mesh_proto::xds::cluster::{Cluster, cluster::DiscoveryType};
use mesh_proto::xds::{core, matcher, pack, raw_buffer, tls, wkt};

use super::super::wire;
use super::policy::Speaks;
use crate::model::{Mode, Node, PushContext, Resolution, Service, ServicePort};

const TLS: &str = "envoy.transport_sockets.tls";
const RAW: &str = "envoy.transport_sockets.raw_buffer";

/// What a cluster is towards.
#[derive(Debug, Clone, Copy)]
pub struct Towards<'a> {
    /// What is known.
    pub context: &'a PushContext,
    /// The proxy.
    pub node: &'a Node,
    /// The service.
    pub service: &'a Service,
    /// Its port.
    pub port: &'a ServicePort,
    /// Subset, or empty.
    pub subset: &'a str,
    /// What is spoken inside.
    pub speaks: Speaks,
}

/// Writes the transport sockets of a cluster.
pub fn apply(cluster: &mut Cluster, settings: Option<&ClientTlsSettings>, towards: &Towards<'_>, kind: DiscoveryType) {
    match settings.map(|settings| (settings.mode, settings)) {
        Some((ClientTlsMode::Disable, _)) => {}
        Some((ClientTlsMode::IstioMutual, settings)) => {
            cluster.transport_socket = Some(socket(&mesh_context(Some(settings), towards)));
        }
        Some((ClientTlsMode::Simple | ClientTlsMode::Mutual, settings)) => {
            cluster.transport_socket = Some(socket(&own_context(settings, towards)));
        }
        None if expects_mesh(towards) => {
            let mesh = socket(&mesh_context(None, towards));
            if kind == DiscoveryType::OriginalDst {
                // The endpoints of such a cluster say nothing of themselves; all of them can, or this were not reached.
                cluster.transport_socket = Some(mesh);
            } else {
                cluster.transport_socket_matches = by_endpoint(mesh);
            }
        }
        None => {}
    }
}

/// Whether clients use mesh mTLS without being told to (PA4). Source: Istio's `BestEffortInferServiceMTLSMode`.
fn expects_mesh(towards: &Towards<'_>) -> bool {
    let Towards { context, service, port, .. } = towards;
    if !context.mesh.enable_auto_mtls || service.external {
        return false;
    }
    if service.resolution == Resolution::Passthrough {
        let endpoints = context.endpoints(service, port);
        return !endpoints.is_empty() && endpoints.iter().all(|endpoint| endpoint.workload.mtls);
    }
    context.namespace_mtls(&service.namespace) != Mode::Disable
}

fn by_endpoint(mesh: core::TransportSocket) -> Vec<TransportSocketMatch> {
    let mode = wkt::Struct { fields: [("tlsMode".to_owned(), wire::string("istio"))].into() };
    let raw = core::TransportSocket {
        name: RAW.to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(pack(&raw_buffer::RawBuffer {}))),
    };
    vec![
        TransportSocketMatch { name: "tlsMode-istio".to_owned(), r#match: Some(mode), transport_socket: Some(mesh) },
        TransportSocketMatch {
            name: "tlsMode-disabled".to_owned(),
            r#match: Some(wkt::Struct::default()),
            transport_socket: Some(raw),
        },
    ]
}

/// The TLS socket of a context of either side.
pub fn socket<M: prost::Name>(context: &M) -> core::TransportSocket {
    core::TransportSocket {
        name: TLS.to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(pack(context))),
    }
}

/// TLS with the workload's own certificate.
fn mesh_context(settings: Option<&ClientTlsSettings>, towards: &Towards<'_>) -> tls::UpstreamTlsContext {
    let Towards { context, node, service, port, subset, speaks } = towards;
    let named = settings.filter(|settings| !settings.subject_alt_names.is_empty());
    let identities = named.map_or_else(|| context.identities(service), |named| named.subject_alt_names.clone());
    let sni = settings.map(|settings| settings.sni.clone()).filter(|sni| !sni.is_empty());
    let alpn: &[&str] = match speaks {
        Speaks::Http2 => &["istio", "h2"],
        Speaks::Http1 => &["istio-http/1.1", "istio", "http/1.1"],
        // The server tells HTTP from opaque bytes on a port that declares nothing by the first of these that it knows. Our proxy offers
        // only those of what it carries; a stock Envoy offers the whole list each time.
        Speaks::Downstream if node.ferromesh => &["istio-h2", "istio-http/1.1", "istio", "h2", "http/1.1"],
        Speaks::Downstream => &["istio", "h2", "http/1.1"],
        // A peer that agrees on the first expects metadata before the application's bytes, which a stock Envoy does not send.
        Speaks::Tcp if node.ferromesh => &[PEER_EXCHANGE, "istio"],
        Speaks::Tcp => &["istio"],
    };
    tls::UpstreamTlsContext {
        common_tls_context: Some(tls::CommonTlsContext {
            tls_certificate_sds_secret_configs: vec![wire::secret(node, SECRET_DEFAULT)],
            validation_context_type: Some(combined(node, SECRET_ROOT, &identities)),
            alpn_protocols: alpn.iter().map(|one| (*one).to_owned()).collect(),
            ..Default::default()
        }),
        sni: sni.unwrap_or_else(|| names::sni(port.number, subset, &service.host)),
        ..Default::default()
    }
}

/// TLS as the user set it up, files and secrets by the names that docs/xds.md gives them.
fn own_context(settings: &ClientTlsSettings, towards: &Towards<'_>) -> tls::UpstreamTlsContext {
    use tls::common_tls_context::ValidationContextType;
    let names = match settings.subject_alt_names.as_slice() {
        [] => &towards.service.subject_alt_names,
        names => names,
    };
    let (certificate, trust) = match settings.credential_name.as_str() {
        "" => (
            (settings.mode == ClientTlsMode::Mutual)
                .then(|| format!("file-cert:{}~{}", settings.client_certificate, settings.private_key)),
            (!settings.ca_certificates.is_empty()).then(|| format!("file-root:{}", settings.ca_certificates)),
        ),
        name => (
            (settings.mode == ClientTlsMode::Mutual).then(|| format!("kubernetes://{name}")),
            Some(format!("kubernetes://{name}-cacert")),
        ),
    };
    let insecure = settings.insecure_skip_verify == Some(true);
    let validation = match trust {
        _ if insecure => None,
        Some(trust) => Some(combined(towards.node, &trust, names)),
        // No authority given: the system's own. A stock Envoy does not take them as the trust that the check of names wants; the agent has
        // them as a file, as Istio's.
        None if !towards.node.ferromesh => Some(combined(towards.node, "file-root:system", names)),
        None => Some(ValidationContextType::ValidationContext(tls::CertificateValidationContext {
            system_root_certs: Some(Default::default()),
            ..alternatives(names)
        })),
    };
    let alpn: &[&str] = match towards.speaks {
        Speaks::Http2 => &["h2"],
        Speaks::Downstream => &["h2", "http/1.1"],
        Speaks::Http1 | Speaks::Tcp => &[],
    };
    // Without a name to send, the host of the request is sent, and is what the certificate must be for (TL5).
    let by_host = settings.sni.is_empty() && towards.speaks != Speaks::Tcp;
    tls::UpstreamTlsContext {
        common_tls_context: Some(tls::CommonTlsContext {
            tls_certificate_sds_secret_configs: certificate
                .into_iter()
                .map(|name| wire::secret(towards.node, name))
                .collect(),
            validation_context_type: validation,
            alpn_protocols: alpn.iter().map(|one| (*one).to_owned()).collect(),
            ..Default::default()
        }),
        sni: settings.sni.clone(),
        auto_host_sni: by_host,
        auto_sni_san_validation: !insecure && names.is_empty() && (by_host || !settings.sni.is_empty()),
        ..Default::default()
    }
}

fn combined(node: &Node, trust: &str, names: &[String]) -> tls::common_tls_context::ValidationContextType {
    tls::common_tls_context::ValidationContextType::CombinedValidationContext(
        tls::common_tls_context::CombinedCertificateValidationContext {
            default_validation_context: Some(alternatives(names)),
            validation_context_sds_secret_config: Some(wire::secret(node, trust)),
            ..Default::default()
        },
    )
}

/// Names of which a certificate must show one.
fn alternatives(names: &[String]) -> tls::CertificateValidationContext {
    use matcher::string_matcher::MatchPattern;
    use tls::subject_alt_name_matcher::SanType;
    let matchers = names.iter().map(|name| tls::SubjectAltNameMatcher {
        san_type: if name.contains("://") { SanType::Uri } else { SanType::Dns }.into(),
        matcher: Some(matcher::StringMatcher {
            match_pattern: Some(MatchPattern::Exact(name.clone())),
            ..Default::default()
        }),
        ..Default::default()
    });
    tls::CertificateValidationContext { match_typed_subject_alt_names: matchers.collect(), ..Default::default() }
}

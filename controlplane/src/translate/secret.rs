//! Secrets that gateways name: `kubernetes://NAME` is a certificate and its key, `kubernetes://NAME-cacert` the authorities of clients
//! (GT4, GT5). A proxy gets secrets of its own namespace only, and only those that its Gateways or DestinationRules name.

use std::collections::BTreeSet;

use mesh_proto::kube;
use mesh_proto::xds::{core, tls};

use super::Names;
use crate::model::{Node, NodeKind, PushContext};

const SCHEME: &str = "kubernetes://";
const CA_SUFFIX: &str = "-cacert";

/// The secrets that a node may have, of those that are wanted.
pub fn secrets(context: &PushContext, node: &Node, wanted: Names<'_>) -> Vec<tls::Secret> {
    let allowed = named(context, node);
    let found = allowed.iter().filter(|name| wanted.contains(name));
    found.filter_map(|name| secret(context, node, name)).collect()
}

/// The names that the node's own configuration holds.
fn named(context: &PushContext, node: &Node) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut add = |name: &str| {
        let name = name.strip_prefix(SCHEME).unwrap_or(name);
        if !name.is_empty() && !name.contains("://") {
            names.insert(format!("{SCHEME}{name}"));
            if !name.ends_with(CA_SUFFIX) {
                names.insert(format!("{SCHEME}{name}{CA_SUFFIX}"));
            }
        }
    };
    let gateways = context.gateways(node);
    let servers = gateways.iter().flat_map(|gateway| &gateway.spec.servers);
    for settings in servers.filter_map(|server| server.tls.as_ref()) {
        add(&settings.credential_name);
        add(&settings.ca_cert_credential_name);
        settings.credential_names.iter().for_each(|name| add(name));
    }
    for service in context.services(node) {
        let Some(rule) = context.destination_rule(node, &service) else { continue };
        // A sidecar gets the secret of a rule that selects it, and no other (TL3).
        if node.kind == NodeKind::Sidecar && rule.spec.workload_selector.is_none() {
            continue;
        }
        let policies = rule.spec.traffic_policy.iter();
        let policies = policies.chain(rule.spec.subsets.iter().filter_map(|subset| subset.traffic_policy.as_ref()));
        for policy in policies {
            let ports = policy.port_level_settings.iter().filter_map(|port| port.tls.as_ref());
            policy.tls.iter().chain(ports).for_each(|settings| add(&settings.credential_name));
        }
    }
    names
}

fn secret(context: &PushContext, node: &Node, name: &str) -> Option<tls::Secret> {
    let resource = name.strip_prefix(SCHEME)?;
    let kind = match resource.strip_suffix(CA_SUFFIX) {
        Some(stem) => {
            // A secret of its own with the suffix wins over the authority in the certificate's secret.
            let own = context.secret(&node.namespace, resource).and_then(|secret| value(secret, &["cacert", "ca.crt"]));
            let beside =
                || context.secret(&node.namespace, stem).and_then(|secret| value(secret, &["cacert", "ca.crt"]));
            let authority = own.or_else(beside)?;
            tls::secret::Type::ValidationContext(tls::CertificateValidationContext {
                trusted_ca: Some(source(authority)),
                ..Default::default()
            })
        }
        None => {
            let secret = context.secret(&node.namespace, resource)?;
            tls::secret::Type::TlsCertificate(tls::TlsCertificate {
                certificate_chain: Some(source(value(secret, &["cert", "tls.crt"])?)),
                private_key: Some(source(value(secret, &["key", "tls.key"])?)),
                ..Default::default()
            })
        }
    };
    Some(tls::Secret { name: name.to_owned(), r#type: Some(kind) })
}

/// The first of these entries that is there: of `data`, or of `stringData` in files.
fn value(secret: &kube::Secret, keys: &[&str]) -> Option<Vec<u8>> {
    keys.iter().find_map(|key| {
        let data = secret.data.as_ref().and_then(|data| data.get(*key)).map(|bytes| bytes.0.clone());
        let text = || secret.string_data.as_ref()?.get(*key).map(|text| text.clone().into_bytes());
        data.or_else(text).filter(|bytes| !bytes.is_empty())
    })
}

fn source(bytes: Vec<u8>) -> core::DataSource {
    core::DataSource { specifier: Some(core::data_source::Specifier::InlineBytes(bytes)), ..Default::default() }
}

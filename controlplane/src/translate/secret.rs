//! Secrets that gateways name: `kubernetes://NAME` is a certificate and its key, `kubernetes://NAME-cacert` the authorities of clients
//! (GT4, GT5). A proxy gets secrets of its own namespace only, and only those that its Gateways or DestinationRules name.

use std::collections::BTreeSet;

use mesh_proto::kube;
use mesh_proto::xds::{core, tls};

use super::Names;
use crate::model::credentials::{self, CA_SUFFIX, SCHEME};
use crate::model::{Node, NodeKind, PushContext};

/// The secrets that a node may have, of those that are wanted.
pub fn secrets(context: &PushContext, node: &Node, wanted: Names<'_>) -> Vec<tls::Secret> {
    let allowed = named(context, node);
    let found = allowed.iter().filter(|name| wanted.contains(name));
    found.filter_map(|name| secret(context, node, name)).collect()
}

/// The names that the node's own configuration holds.
fn named(context: &PushContext, node: &Node) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut add =
        |credential: &str| names.extend(credentials::secrets(credential).map(|name| format!("{SCHEME}{name}")));
    for gateway in context.gateways(node) {
        credentials::of_gateway(&gateway.spec).for_each(&mut add);
    }
    for service in context.services(node).iter() {
        let Some(rule) = context.destination_rule(node, service) else { continue };
        // A sidecar gets the secret of a rule that selects it, and no other (TL3).
        if node.kind == NodeKind::Router || rule.spec.workload_selector.is_some() {
            credentials::of_rule(&rule.spec).for_each(&mut add);
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

//! `/certs`: what is in use, with expiry.

use mesh_proto::names::SECRET_DEFAULT;

use crate::app::Running;

/// Envoy's shape, by secret.
pub(super) fn certs(running: &Running) -> serde_json::Value {
    let now = jiff::Timestamp::now().as_second();
    let roots: Vec<_> = running
        .secrets
        .trusts()
        .into_iter()
        .filter_map(|(name, trust)| {
            let count = trust?.roots.len();
            Some(serde_json::json!({"path": &*name, "certificates": count}))
        })
        .collect();
    let all: Vec<_> = running
        .secrets
        .certificates()
        .into_iter()
        .filter_map(|(name, certificate)| {
            let certificate = certificate?;
            let names: Vec<_> = certificate.uri_sans.split(',').map(|uri| serde_json::json!({"uri": uri})).collect();
            let expiry =
                jiff::Timestamp::from_second(certificate.not_after).map(|at| at.to_string()).unwrap_or_default();
            let ca = if *name == *SECRET_DEFAULT { roots.clone() } else { Vec::new() };
            Some(serde_json::json!({
                "ca_cert": ca,
                "cert_chain": [{
                    "path": &*name,
                    "subject_alt_names": names,
                    "days_until_expiration": ((certificate.not_after - now) / 86_400).max(0).to_string(),
                    "expiration_time": expiry,
                }],
            }))
        })
        .collect();
    serde_json::json!({"certificates": all})
}

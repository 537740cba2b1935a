//! `Secret` → the values of [`crate::tls::SecretStore`].

use mesh_proto::xds::tls;

use super::{At, Decoded, Refusal};
use crate::tls::{Certificate, SecretStore, Trust};

/// A secret of either kind.
#[derive(Debug)]
pub enum Secret {
    /// Certificate chain and key.
    Certificate(Box<Certificate>),
    /// Trust bundle.
    Trust(Trust),
}

/// A whole secret.
pub fn secret(raw: &tls::Secret) -> Decoded<Secret> {
    use tls::secret::Type;
    if raw.name.is_empty() {
        return Err(Refusal::field("name", "is required"));
    }
    match raw.r#type.as_ref() {
        Some(Type::TlsCertificate(one)) => {
            super::tls::certificate(one).map(|one| Secret::Certificate(Box::new(one))).at("tls_certificate")
        }
        Some(Type::ValidationContext(one)) => super::tls::trust(one).map(Secret::Trust).at("validation_context"),
        _ => Err(Refusal::new("only tls_certificate and validation_context are supported")),
    }
}

impl Secret {
    /// Writes it under its name.
    pub fn store(self, name: &str, secrets: &SecretStore) {
        match self {
            Self::Certificate(one) => secrets.set_certificate(name, *one),
            Self::Trust(one) => secrets.set_trust(name, one),
        }
    }
}

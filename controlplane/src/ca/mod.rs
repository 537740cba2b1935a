//! The certificate authority: who may have a certificate, and what is in it.
//!
//! Workloads send a CSR by [`service`]; who they are was settled by [`crate::xds::auth`] from a mesh certificate, a [`token`] of ours, or one of Kubernetes' ([`review`]);
//! [`authority`] signs. [`serving`] keeps the control plane's own certificate fresh.

pub mod authority;
pub mod cluster;
pub mod csr;
mod load;
pub mod reload;
pub mod review;
pub mod roots;
pub mod service;
pub mod serving;
pub mod token;

pub use authority::{Authority, AuthorityHandle, Signed};
pub use token::TokenKey;

use std::path::PathBuf;
use std::time::Duration;

/// Lifetime of a workload's certificate unless it asks otherwise (CA7).
pub const DEFAULT_TTL: Duration = Duration::from_secs(24 * 3600);
/// The longest lifetime of a workload's certificate (CA7).
pub const MAX_TTL: Duration = Duration::from_secs(90 * 24 * 3600);
/// Certificates begin to hold this much before they are made, because clocks differ. Istio's value.
pub const CLOCK_SKEW: Duration = Duration::from_secs(120);

/// Why the authority cannot be loaded or does not sign.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The request is not one that can be signed.
    #[error("the certificate signing request {0}")]
    Csr(String),
    /// The lifetime is not one.
    #[error("validity_duration is {0}: it must not be negative")]
    Validity(i64),
    /// The authority's own certificate does not hold now.
    #[error("the authority's certificate {reason}: no certificate can be signed by it")]
    Expired {
        /// When it holds.
        reason: String,
    },
    /// A file of the authority.
    #[error("{}: {reason}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The secret that keeps the authority.
    #[error("{secret}: {reason}")]
    Secret {
        /// `NAMESPACE/NAME`.
        secret: String,
        /// Why it cannot be read or made.
        reason: String,
    },
    /// Certificates that do not belong together.
    #[error("the authority's certificates: {0}")]
    Chain(String),
    /// The cryptographic library refused.
    #[error("signing: {0}")]
    Crypto(String),
}

impl From<rcgen::Error> for CaError {
    fn from(error: rcgen::Error) -> Self {
        Self::Crypto(error.to_string())
    }
}

//! Our own messages, sent only to proxies that say they understand them.

/// `ferromesh.v1`.
#[allow(missing_docs, clippy::all)]
pub mod v1 {
    include!("generated/ferromesh.v1.rs");
}

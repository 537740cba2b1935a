//! What may, must or must not happen to a request, one file a policy.
//!
//! Comes after [`crate::route`] and before [`crate::balance`]. Decisions are synchronous and free of I/O.

use std::sync::Arc;

pub mod authz;
pub mod headers;
pub mod retry;

/// A policy of a filter chain, in configured order. Enum, not `dyn`: the request path is one function.
#[derive(Debug, Clone)]
pub enum HttpPolicy {
    /// Authorization by Envoy's RBAC.
    Rbac(Arc<authz::Rbac>),
}

//! Authorization: Envoy's RBAC rules, compiled.

/// One RBAC filter. Filled in by the policy stage.
#[derive(Debug)]
pub struct Rbac {}

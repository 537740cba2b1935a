//! Kinds that the mesh does not have: refused as a whole, with the name of what does the job instead.

use super::check::{At, Check};
use crate::model::Kind;

/// Refuses the object.
pub(super) fn check(check: &mut Check<'_>) {
    let kind = check.object.key.kind;
    let substitute = match kind {
        Kind::EnvoyFilter => {
            "its patches are written against Envoy's internals; what VirtualService, DestinationRule and Telemetry can say, say there"
        }
        Kind::ProxyConfig => {
            "set the number of workers by `--concurrency` of the proxy and its environment where it is started"
        }
        Kind::RequestAuthentication => {
            "tokens are not verified, so a policy that trusts them would be unsafe; require mesh identities by AuthorizationPolicy `principals`"
        }
        Kind::WasmPlugin => {
            "WebAssembly is not run by the proxy; keep the logic in the application or in a service in front of it"
        }
        _ => "the proxy runs no extensions; keep the logic in the application or in a service in front of it",
    };
    check.error(&At::default(), format!("{kind:?} is not supported yet; remove it: {substitute}"));
}

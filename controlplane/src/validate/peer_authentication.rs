//! PeerAuthentication (PA).

use mesh_proto::crd::PeerAuthentication;

use super::check::{At, Check};

/// Checks a PeerAuthentication.
pub(super) fn check(check: &mut Check<'_>, spec: &PeerAuthentication) {
    let selects = spec.selector.as_ref().is_some_and(|selector| !selector.match_labels.is_empty());
    if let Some(selector) = &spec.selector {
        check.labels(&At::top("selector").field("matchLabels"), &selector.match_labels);
    }
    let at = At::top("portLevelMtls");
    if !spec.port_level_mtls.is_empty() && !selects {
        check.error(&at, "holds for ports of workloads, so it needs them selected; give selector.matchLabels");
    }
    for port in spec.port_level_mtls.keys() {
        if !port.parse::<u16>().is_ok_and(|port| port > 0) {
            check.error(&at.key(port), format!("`{port}` is not a port of a workload; ports are 1 to 65535"));
        }
    }
}

//! Telemetry (TE): access logs on and off. The rest is not there yet.

use mesh_proto::crd::Telemetry;

use super::check::{At, Check};

/// The provider of access logs that every mesh has: lines to the proxy's standard output.
const ENVOY: &str = "envoy";

/// Checks a Telemetry.
pub(super) fn check(check: &mut Check<'_>, spec: &Telemetry) {
    if let Some(selector) = &spec.selector {
        check.labels(&At::top("selector").field("matchLabels"), &selector.match_labels);
    }
    check.target_refs(&spec.target_ref, &spec.target_refs);
    check.unsupported(!spec.tracing.is_empty(), &At::top("tracing"), "");
    let metrics = "; Istio's standard metrics are always on, with all their labels";
    check.unsupported(!spec.metrics.is_empty(), &At::top("metrics"), metrics);
    for (index, logging) in spec.access_logging.iter().enumerate() {
        let at = At::top("accessLogging").index(index);
        for (index, provider) in logging.providers.iter().enumerate() {
            if provider.name != ENVOY {
                let message =
                    format!("`{}` is not supported yet; use `{ENVOY}`, which writes to standard output", provider.name);
                check.error(&at.field("providers").index(index).field("name"), message);
            }
        }
        if let Some(matches) = &logging.matches
            && !matches!(matches.mode.as_str(), "" | "CLIENT" | "SERVER" | "CLIENT_AND_SERVER")
        {
            let message = format!("`{}` is not a side; use CLIENT, SERVER or CLIENT_AND_SERVER", matches.mode);
            check.error(&at.field("match").field("mode"), message);
        }
        check.unsupported(logging.filter.is_some(), &at.field("filter"), "");
    }
}

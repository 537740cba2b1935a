//! `retries`: Istio's policy in Envoy's terms (VR1–VR7). Source: `pilot/pkg/networking/core/route/retry` of Istio.

use mesh_proto::crd::virtual_service::HttpRetry;
use mesh_proto::xds::route;

use super::super::wire;

/// What is retried unless a rule says otherwise: only what the upstream cannot have processed, and gRPC's own refusals.
const DEFAULT_ON: &str = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";
const DEFAULT_ATTEMPTS: u32 = 2;
/// How often another endpoint is looked for when the picked one was tried already.
const HOST_SELECTION_ATTEMPTS: i64 = 5;
/// Envoy's conditions, those of gRPC last.
const KNOWN: &[&str] = &[
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "envoy-ratelimited",
    "retriable-4xx",
    "refused-stream",
    STATUS_CODES,
    "retriable-headers",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];
const STATUS_CODES: &str = "retriable-status-codes";
const PREVIOUS_HOSTS: &str = "envoy.retry_host_predicates.previous_hosts";
const PREVIOUS_PRIORITIES: &str = "envoy.retry_priorities.previous_priorities";

/// The policy of a rule, or of the mesh, or the default; `None` switches retries off. With affinity by hash a retry goes to the same endpoint.
pub fn policy(retries: Option<&HttpRetry>, consistent_hash: bool) -> Option<route::RetryPolicy> {
    let mut policy = route::RetryPolicy {
        retry_on: DEFAULT_ON.to_owned(),
        num_retries: wire::number(DEFAULT_ATTEMPTS),
        host_selection_retry_max_attempts: HOST_SELECTION_ATTEMPTS,
        ..Default::default()
    };
    let avoid_previous = retries.and_then(|retries| retries.retry_ignore_previous_hosts).unwrap_or(!consistent_hash);
    if avoid_previous {
        policy.retry_host_predicate.push(previous_hosts());
    }
    let Some(retries) = retries else { return Some(policy) };
    let attempts = u32::try_from(retries.attempts).ok().filter(|attempts| *attempts > 0)?;
    policy.num_retries = wire::number(attempts);
    if !retries.retry_on.is_empty() {
        (policy.retry_on, policy.retriable_status_codes) = conditions(&retries.retry_on);
    }
    policy.per_try_timeout = retries.per_try_timeout.map(|timeout| wire::duration(timeout.0));
    if retries.retry_remote_localities == Some(true) {
        policy.retry_priority = Some(previous_priorities());
    }
    if let Some(backoff) = retries.backoff.filter(|backoff| !backoff.0.is_zero()) {
        policy.retry_back_off = Some(route::retry_policy::RetryBackOff {
            base_interval: Some(wire::duration(backoff.0)),
            max_interval: None,
        });
    }
    Some(policy)
}

/// Conditions and bare status codes (VR3). What no proxy knows is left out: it would be refused together with the whole table.
fn conditions(text: &str) -> (String, Vec<u32>) {
    let mut names = Vec::new();
    let mut codes = Vec::new();
    for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        match word.parse::<u32>() {
            Ok(code) if (100..600).contains(&code) => codes.push(code),
            _ if KNOWN.contains(&word) => names.push(word),
            _ => {}
        }
    }
    if !codes.is_empty() && !names.contains(&STATUS_CODES) {
        names.push(STATUS_CODES);
    }
    (names.join(","), codes)
}

fn previous_hosts() -> route::retry_policy::RetryHostPredicate {
    use mesh_proto::xds::previous_hosts::PreviousHostsPredicate;
    use route::retry_policy::retry_host_predicate::ConfigType;
    route::retry_policy::RetryHostPredicate {
        name: PREVIOUS_HOSTS.to_owned(),
        config_type: Some(ConfigType::TypedConfig(mesh_proto::xds::pack(&PreviousHostsPredicate::default()))),
    }
}

/// Other localities are tried after two tries in the nearest.
fn previous_priorities() -> route::retry_policy::RetryPriority {
    use mesh_proto::xds::previous_priorities::PreviousPrioritiesConfig;
    use route::retry_policy::retry_priority::ConfigType;
    let config = PreviousPrioritiesConfig { update_frequency: 2 };
    route::retry_policy::RetryPriority {
        name: PREVIOUS_PRIORITIES.to_owned(),
        config_type: Some(ConfigType::TypedConfig(mesh_proto::xds::pack(&config))),
    }
}

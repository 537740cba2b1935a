//! `headers`: what is set, added and removed on the way (VA10).

use mesh_proto::crd::virtual_service::{HeaderOperations, Headers};
use mesh_proto::xds::core;

/// Envoy's lists, and the authority that `:authority` or `host` is set to.
#[derive(Debug, Default, PartialEq)]
pub struct Operations {
    /// Set first, then added, each by name.
    pub request_add: Vec<core::HeaderValueOption>,
    /// Removed.
    pub request_remove: Vec<String>,
    /// Set first, then added, each by name.
    pub response_add: Vec<core::HeaderValueOption>,
    /// Removed.
    pub response_remove: Vec<String>,
    /// A rewrite of the host; what is set beats what is added.
    pub authority: Option<String>,
}

/// The operations of a rule or destination.
pub fn operations(headers: Option<&Headers>) -> Operations {
    let Some(headers) = headers else { return Operations::default() };
    let empty = HeaderOperations::default();
    let request = headers.request.as_ref().unwrap_or(&empty);
    let response = headers.response.as_ref().unwrap_or(&empty);
    let authority = |map: &std::collections::BTreeMap<String, String>| {
        let found =
            map.iter().find(|(name, _)| name.eq_ignore_ascii_case(":authority") || name.eq_ignore_ascii_case("host"));
        found.map(|(_, value)| value.clone()).filter(|value| is_authority(value))
    };
    Operations {
        request_add: additions(request),
        request_remove: removals(request),
        response_add: additions(response),
        response_remove: removals(response),
        authority: authority(&request.set).or_else(|| authority(&request.add)),
    }
}

fn additions(operations: &HeaderOperations) -> Vec<core::HeaderValueOption> {
    use core::header_value_option::HeaderAppendAction as Action;
    let options = |map: &std::collections::BTreeMap<String, String>, action: Action| {
        let allowed = map.iter().filter(|(name, value)| may_change(name) && is_format(value));
        allowed
            .map(|(name, value)| core::HeaderValueOption {
                header: Some(core::HeaderValue { key: name.clone(), value: value.clone(), ..Default::default() }),
                append_action: action.into(),
                ..Default::default()
            })
            .collect::<Vec<_>>()
    };
    let mut list = options(&operations.set, Action::OverwriteIfExistsOrAdd);
    list.extend(options(&operations.add, Action::AppendIfExistsOrAdd));
    list
}

fn removals(operations: &HeaderOperations) -> Vec<String> {
    operations.remove.iter().filter(|name| may_change(name)).cloned().collect()
}

/// True if a host may be rewritten to this.
pub fn is_authority(text: &str) -> bool {
    !text.is_empty() && http::HeaderValue::try_from(text).is_ok()
}

/// True if proxies can read a value with `%VARIABLES%`.
fn is_format(value: &str) -> bool {
    let mut parts = value.split('%');
    let mut inside = false;
    let known = parts.by_ref().all(|part| {
        let good = !inside || part.is_empty() || is_variable(part);
        inside = !inside;
        good
    });
    // Percent signs come in pairs.
    known && inside && http::HeaderValue::try_from(value).is_ok()
}

/// Variables that Envoy and our proxy know in header values.
fn is_variable(text: &str) -> bool {
    const KNOWN: &[&str] = &[
        "DOWNSTREAM_REMOTE_ADDRESS",
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS",
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT",
        "DOWNSTREAM_LOCAL_ADDRESS",
        "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
        "DOWNSTREAM_LOCAL_PORT",
        "DOWNSTREAM_PEER_URI_SAN",
        "DOWNSTREAM_LOCAL_URI_SAN",
        "DOWNSTREAM_PEER_SUBJECT",
        "DOWNSTREAM_TLS_VERSION",
        "REQUESTED_SERVER_NAME",
        "PROTOCOL",
        "ROUTE_NAME",
        "UPSTREAM_CLUSTER",
        "UPSTREAM_CLUSTER_RAW",
        "UPSTREAM_REMOTE_ADDRESS",
        "UPSTREAM_HOST",
        "RESPONSE_CODE",
        "HOSTNAME",
    ];
    KNOWN.contains(&text) || (text.starts_with("REQ(") && text.ends_with(')'))
}

/// Pseudo headers and the host have rules of their own; what is no header name at all would make proxies refuse the whole table.
fn may_change(name: &str) -> bool {
    !name.starts_with(':') && !name.eq_ignore_ascii_case("host") && http::HeaderName::try_from(name).is_ok()
}

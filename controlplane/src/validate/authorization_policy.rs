//! AuthorizationPolicy (AP).

use mesh_proto::crd::AuthorizationPolicy;
use mesh_proto::crd::authorization_policy::{Action, Operation, Rule, Source};
use mesh_proto::names::annotation;

use super::check::{At, Check};

/// Checks an AuthorizationPolicy. A policy that is not understood in whole is refused in whole.
pub(super) fn check(check: &mut Check<'_>, spec: &AuthorizationPolicy) {
    if let Some(selector) = &spec.selector {
        check.labels(&At::top("selector").field("matchLabels"), &selector.match_labels);
    }
    check.target_refs(&spec.target_ref, &spec.target_refs);
    if check.object.meta.annotations.contains_key(annotation::DRY_RUN) {
        let at = At::top("metadata").field("annotations").key(annotation::DRY_RUN);
        check.error(&at, "dry runs are not supported yet, and without one the policy would be enforced; remove the annotation or the policy");
    }
    let action = At::top("action");
    match spec.action {
        Action::Custom => check.error(&action, "CUSTOM is not supported yet; use ALLOW or DENY"),
        Action::Audit => check.error(&action, "AUDIT is not supported yet; use the access log, or DENY"),
        Action::Deny if spec.rules.is_empty() => {
            check.error(&action, "DENY without rules denies nothing; add a rule, `{}` for every request");
        }
        Action::Allow | Action::Deny => {}
    }
    if spec.provider.is_some() && spec.action != Action::Custom {
        check.error(&At::top("provider"), "is for action CUSTOM only; remove it");
    }
    for (index, rule) in spec.rules.iter().enumerate() {
        check_rule(check, &At::top("rules").index(index), rule);
    }
}

fn check_rule(check: &mut Check<'_>, at: &At, rule: &Rule) {
    for (index, from) in rule.from.iter().enumerate() {
        let at = at.field("from").index(index);
        match &from.source {
            Some(source) if *source != Source::default() => check_source(check, &at.field("source"), source),
            _ => check.error(&at, "is empty, which would match every client; remove `from`, or give a source"),
        }
    }
    for (index, to) in rule.to.iter().enumerate() {
        let at = at.field("to").index(index);
        match &to.operation {
            Some(operation) if *operation != Operation::default() => {
                check_operation(check, &at.field("operation"), operation);
            }
            _ => check.error(&at, "is empty, which would match every request; remove `to`, or give an operation"),
        }
    }
    let advice = " and use from and to";
    check.unsupported(!rule.when.is_empty(), &at.field("when"), advice);
}

fn check_source(check: &mut Check<'_>, at: &At, source: &Source) {
    for (name, values) in [
        ("principals", &source.principals),
        ("notPrincipals", &source.not_principals),
        ("namespaces", &source.namespaces),
        ("notNamespaces", &source.not_namespaces),
    ] {
        for (index, value) in values.iter().enumerate() {
            let at = at.field(name).index(index);
            if value.starts_with("spiffe://") {
                check.error(
                    &at,
                    "begins with `spiffe://`; write the identity without it, such as cluster.local/ns/default/sa/web",
                );
            }
            text(check, &at, value);
        }
    }
    for (name, values) in [("ipBlocks", &source.ip_blocks), ("notIpBlocks", &source.not_ip_blocks)] {
        for (index, value) in values.iter().enumerate() {
            check.address_range(&at.field(name).index(index), value);
        }
    }
    let principals = " and use principals";
    for (name, values, advice) in [
        ("requestPrincipals", &source.request_principals, principals),
        ("notRequestPrincipals", &source.not_request_principals, principals),
        ("remoteIpBlocks", &source.remote_ip_blocks, " and use ipBlocks"),
        ("notRemoteIpBlocks", &source.not_remote_ip_blocks, " and use notIpBlocks"),
        ("serviceAccounts", &source.service_accounts, principals),
        ("notServiceAccounts", &source.not_service_accounts, " and use notPrincipals"),
        ("trustDomains", &source.trust_domains, principals),
        ("notTrustDomains", &source.not_trust_domains, " and use notPrincipals"),
    ] {
        check.unsupported(!values.is_empty(), &at.field(name), advice);
    }
}

fn check_operation(check: &mut Check<'_>, at: &At, operation: &Operation) {
    for (name, values) in [
        ("hosts", &operation.hosts),
        ("notHosts", &operation.not_hosts),
        ("methods", &operation.methods),
        ("notMethods", &operation.not_methods),
    ] {
        for (index, value) in values.iter().enumerate() {
            text(check, &at.field(name).index(index), value);
        }
    }
    for (name, values) in [("paths", &operation.paths), ("notPaths", &operation.not_paths)] {
        for (index, value) in values.iter().enumerate() {
            let at = at.field(name).index(index);
            if value.contains(['{', '}']) {
                check.error(
                    &at,
                    format!("`{value}` is a URI template, which is not supported yet; use a prefix such as /a/*"),
                );
                continue;
            }
            if !value.starts_with(['/', '*']) && !value.is_empty() {
                check.warning(&at, format!("`{value}` matches no path, because paths begin with `/`"));
            }
            text(check, &at, value);
        }
    }
    for (name, values) in [("ports", &operation.ports), ("notPorts", &operation.not_ports)] {
        for (index, value) in values.iter().enumerate() {
            if !value.parse::<u16>().is_ok_and(|port| port > 0) {
                check.error(&at.field(name).index(index), format!("`{value}` is not a port; ports are 1 to 65535"));
            }
        }
    }
}

/// A value in one of the match forms (AP7): exact, `prefix*`, `*suffix`, `*`.
fn text(check: &mut Check<'_>, at: &At, value: &str) {
    if value.is_empty() {
        check.error(at, "is empty; give a value, or `*` for any");
        return;
    }
    let inner = value.strip_prefix('*').or_else(|| value.strip_suffix('*')).unwrap_or(value);
    if inner.contains('*') {
        check.warning(
            at,
            format!("`{value}`: only one `*`, at the start or the end, is a wildcard; the other is taken as it stands"),
        );
    }
}

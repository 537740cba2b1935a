//! `envoy.config.rbac.v3.RBAC` → [`crate::policy::authz::Rbac`].

use std::sync::Arc;

use ipnet::IpNet;
use mesh_proto::xds::{core, http_rbac, matcher, network_rbac, rbac};

use super::matcher::{header, string};
use super::{At, Decoded, Refusal, each};
use crate::policy::authz::{Rbac, RbacAction, RbacOverride, RbacPolicy, Rule};

/// The HTTP filter. `None` when it has no rules, which Envoy takes as "allow".
pub fn http(raw: &http_rbac::Rbac) -> Decoded<Option<Arc<Rbac>>> {
    if raw.shadow_rules.is_some() {
        return Err(Refusal::field("shadow_rules", "shadow rules (dry run) are not supported"));
    }
    raw.rules.as_ref().map(|rules| self::rules(rules).at("rules").map(Arc::new)).transpose()
}

/// The same for one route or virtual host: absent rules switch the filter off there.
pub fn per_route(raw: &http_rbac::RbacPerRoute) -> Decoded<RbacOverride> {
    Ok(RbacOverride(raw.rbac.as_ref().map(http).transpose().at("rbac")?.flatten()))
}

/// The network filter.
pub fn network(raw: &network_rbac::Rbac) -> Decoded<Option<Arc<Rbac>>> {
    if raw.shadow_rules.is_some() {
        return Err(Refusal::field("shadow_rules", "shadow rules (dry run) are not supported"));
    }
    raw.rules.as_ref().map(|rules| self::rules(rules).at("rules").map(Arc::new)).transpose()
}

fn rules(raw: &rbac::Rbac) -> Decoded<Rbac> {
    let action = match rbac::rbac::Action::try_from(raw.action) {
        Ok(rbac::rbac::Action::Allow) => RbacAction::Allow,
        Ok(rbac::rbac::Action::Deny) => RbacAction::Deny,
        _ => return Err(Refusal::field("action", "only ALLOW and DENY are supported")),
    };
    let mut names: Vec<_> = raw.policies.keys().collect();
    names.sort();
    let policies = names.into_iter().map(|name| {
        let policy = &raw.policies[name];
        self::policy(name, policy).at(format_args!("policies[\"{name}\"]"))
    });
    Ok(Rbac { action, policies: policies.collect::<Decoded<_>>()? })
}

fn policy(name: &str, raw: &rbac::Policy) -> Decoded<RbacPolicy> {
    if raw.condition.is_some() || raw.checked_condition.is_some() {
        return Err(Refusal::field("condition", "CEL conditions are not supported"));
    }
    Ok(RbacPolicy {
        name: name.into(),
        permissions: each("permissions", &raw.permissions, permission)?,
        principals: each("principals", &raw.principals, principal)?,
    })
}

fn permission(raw: &rbac::Permission) -> Decoded<Rule> {
    use rbac::permission::Rule as R;
    Ok(match raw.rule.as_ref() {
        None => return Err(Refusal::new("needs a rule")),
        Some(R::Any(true)) => Rule::Any,
        Some(R::Any(false)) => Rule::Not(Box::new(Rule::Any)),
        Some(R::AndRules(set)) => Rule::All(each("and_rules.rules", &set.rules, permission)?),
        Some(R::OrRules(set)) => Rule::Either(each("or_rules.rules", &set.rules, permission)?),
        Some(R::NotRule(rule)) => Rule::Not(Box::new(permission(rule).at("not_rule")?)),
        Some(R::Header(raw)) => Rule::Header(header(raw).at("header")?),
        Some(R::UrlPath(raw)) => Rule::Path(path(raw).at("url_path")?),
        Some(R::DestinationIp(range)) => Rule::DestinationIp(cidr(range).at("destination_ip")?),
        Some(R::DestinationPort(port)) => Rule::DestinationPort(*port..port.saturating_add(1)),
        Some(R::DestinationPortRange(range)) => match (u32::try_from(range.start), u32::try_from(range.end)) {
            (Ok(start), Ok(end)) => Rule::DestinationPort(start..end),
            _ => return Err(Refusal::field("destination_port_range", "must not be negative")),
        },
        Some(R::RequestedServerName(raw)) => Rule::ServerName(string(raw).at("requested_server_name")?),
        Some(_) => return Err(Refusal::new("this kind of permission is not supported")),
    })
}

#[allow(deprecated)]
fn principal(raw: &rbac::Principal) -> Decoded<Rule> {
    use rbac::principal::Identifier as I;
    Ok(match raw.identifier.as_ref() {
        None => return Err(Refusal::new("needs an identifier")),
        Some(I::Any(true)) => Rule::Any,
        Some(I::Any(false)) => Rule::Not(Box::new(Rule::Any)),
        Some(I::AndIds(set)) => Rule::All(each("and_ids.ids", &set.ids, principal)?),
        Some(I::OrIds(set)) => Rule::Either(each("or_ids.ids", &set.ids, principal)?),
        Some(I::NotId(id)) => Rule::Not(Box::new(principal(id).at("not_id")?)),
        Some(I::Authenticated(raw)) => {
            Rule::Authenticated(raw.principal_name.as_ref().map(string).transpose().at("authenticated.principal_name")?)
        }
        Some(I::SourceIp(range) | I::DirectRemoteIp(range)) => {
            Rule::DirectRemoteIp(cidr(range).at("direct_remote_ip")?)
        }
        Some(I::RemoteIp(range)) => Rule::RemoteIp(cidr(range).at("remote_ip")?),
        Some(I::Header(raw)) => Rule::Header(header(raw).at("header")?),
        Some(I::UrlPath(raw)) => Rule::Path(path(raw).at("url_path")?),
        Some(_) => return Err(Refusal::new("this kind of principal is not supported")),
    })
}

fn path(raw: &matcher::PathMatcher) -> Decoded<crate::route::matcher::StringMatcher> {
    match raw.rule.as_ref() {
        Some(matcher::path_matcher::Rule::Path(raw)) => string(raw).at("path"),
        None => Err(Refusal::field("path", "is required")),
    }
}

/// An address range; no length means the address alone.
pub fn cidr(raw: &core::CidrRange) -> Decoded<IpNet> {
    let address: std::net::IpAddr =
        raw.address_prefix.parse().map_err(|_| Refusal::field("address_prefix", "is not an IP address"))?;
    let whole = if address.is_ipv4() { 32 } else { 128 };
    // Envoy takes an absent length as 0.
    let length = raw.prefix_len.as_ref().map_or(0, |length| length.value);
    let length = u8::try_from(length).ok().filter(|length| *length <= whole);
    let length = length.ok_or_else(|| Refusal::field("prefix_len", format!("must be at most {whole}")))?;
    IpNet::new(address, length).map(|net| net.trunc()).map_err(|error| Refusal::new(error.to_string()))
}

//! AuthorizationPolicy → Envoy's RBAC filters: one that denies, then one that allows (AP1–AP8, AP10).
//! Source: Istio's `pilot/pkg/security/authz`.

mod rule;
mod term;

use mesh_proto::crd::AuthorizationPolicy;
use mesh_proto::xds::{hcm, http_rbac, listener, network_rbac, rbac};

use super::{http, telemetry};
use crate::model::{Config, Node, PushContext};
use rule::Judge;

const HTTP: &str = "envoy.filters.http.rbac";
const TCP: &str = "envoy.filters.network.rbac";

/// The HTTP filters of a node; none if no policy holds for it.
pub fn http_filters(context: &PushContext, node: &Node) -> Vec<hcm::HttpFilter> {
    let filters = rules(context, node, false).into_iter();
    filters.map(|rules| http::filter(HTTP, &http_rbac::Rbac { rules: Some(rules), ..Default::default() })).collect()
}

/// The network filters of a node's TCP chains. What only HTTP can tell never allows, and narrows no denial (AP5).
pub fn network_filters(context: &PushContext, node: &Node) -> Vec<listener::Filter> {
    let filters = rules(context, node, true).into_iter().map(|rules| {
        let config = network_rbac::Rbac { rules: Some(rules), stat_prefix: "tcp.".to_owned(), ..Default::default() };
        telemetry::network_filter(TCP, &config)
    });
    filters.collect()
}

fn rules(context: &PushContext, node: &Node, tcp: bool) -> Vec<rbac::Rbac> {
    use rbac::rbac::Action;
    let found = context.authorization(node);
    let domains = [&context.mesh.trust_domain].into_iter().chain(&context.mesh.trust_domain_aliases);
    let domains: Vec<&str> = domains.map(String::as_str).collect();
    let sides = [(Action::Deny, &found.deny), (Action::Allow, &found.allow)];
    let sides = sides.into_iter().filter(|(_, policies)| !policies.is_empty());
    let filters = sides.map(|(action, policies)| {
        let judge = Judge { domains: &domains, tcp, allow: action == Action::Allow };
        let named = policies.iter().flat_map(|policy| policy_rules(&judge, policy));
        // An ALLOW filter without policies allows nothing, a DENY filter without policies denies nothing.
        rbac::Rbac { action: action.into(), policies: named.collect(), ..Default::default() }
    });
    filters.collect()
}

fn policy_rules(judge: &Judge<'_>, policy: &Config<AuthorizationPolicy>) -> Vec<(String, rbac::Policy)> {
    let (namespace, name) = (&policy.key.namespace, &policy.key.name);
    let rules = policy.spec.rules.iter().enumerate().filter_map(|(index, rule)| {
        let name = format!("ns[{namespace}]-policy[{name}]-rule[{index}]");
        Some((name, judge.rule(rule, namespace).ok()?))
    });
    rules.collect()
}

#[cfg(test)]
mod tests;

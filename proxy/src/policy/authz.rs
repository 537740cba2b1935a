//! Authorization: Envoy's RBAC rules, compiled. First DENY, then ALLOW, as the chain lists them.
//!
//! Paths are compared without query, after normalisation, and every value of a header counts. Source:
//! <https://www.envoyproxy.io/docs/envoy/latest/api-v3/config/rbac/v3/rbac.proto>.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::Name;
use crate::listener::ConnInfo;
use crate::route::RequestHead;
use crate::route::matcher::{HeaderMatcher, StringMatcher};

/// One RBAC filter.
#[derive(Debug)]
pub struct Rbac {
    /// What a matching policy means.
    pub action: RbacAction,
    /// Policies by name, in the order of names.
    pub policies: Vec<RbacPolicy>,
}

/// What a match means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RbacAction {
    /// Only what matches may pass.
    Allow,
    /// What matches may not pass.
    Deny,
}

/// A policy: any permission and any principal.
#[derive(Debug)]
pub struct RbacPolicy {
    /// Name, `ns[NAMESPACE]-policy[NAME]-rule[INDEX]` by Istio.
    pub name: Name,
    /// What is done.
    pub permissions: Vec<Rule>,
    /// Who does it.
    pub principals: Vec<Rule>,
}

/// Authorization of a route or virtual host instead of the chain's.
#[derive(Debug, Clone)]
pub struct RbacOverride(pub Option<Arc<Rbac>>);

/// A condition on a request or connection.
#[derive(Debug)]
pub enum Rule {
    /// Always.
    Any,
    /// All of them.
    All(Vec<Rule>),
    /// One of them.
    Either(Vec<Rule>),
    /// Not so.
    Not(Box<Rule>),
    /// A request header; never for TCP.
    Header(HeaderMatcher),
    /// Path without query; never for TCP.
    Path(StringMatcher),
    /// Server name of the TLS hello.
    ServerName(StringMatcher),
    /// Address the client wanted to reach.
    DestinationIp(IpNet),
    /// Port the client wanted to reach.
    DestinationPort(std::ops::Range<u32>),
    /// Address of the socket's peer.
    DirectRemoteIp(IpNet),
    /// Address of the client as trusted headers or PROXY protocol tell.
    RemoteIp(IpNet),
    /// Any verified identity (`None`) or one that matches: URI SANs first, then DNS SANs, then the subject.
    Authenticated(Option<StringMatcher>),
}

/// What a rule sees.
#[derive(Debug, Clone, Copy)]
pub struct AuthzView<'a> {
    /// The request; `None` for TCP.
    pub head: Option<&'a RequestHead<'a>>,
    /// The connection.
    pub conn: &'a ConnInfo,
    /// The client as trusted headers tell.
    pub remote: IpAddr,
}

/// The decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// May pass.
    Allow,
    /// May not; the detail names the policy.
    Deny(Cow<'static, str>),
}

impl Rbac {
    /// Decides about one request or connection.
    pub fn check(&self, view: &AuthzView<'_>) -> Verdict {
        // What is not clear counts against the client: it is denied, or not allowed.
        let doubt = self.action == RbacAction::Deny;
        let matched = self.policies.iter().find(|policy| policy.matches(view, doubt));
        match (self.action, matched) {
            (RbacAction::Allow, Some(_)) | (RbacAction::Deny, None) => Verdict::Allow,
            (RbacAction::Allow, None) => Verdict::Deny(Cow::Borrowed("rbac_access_denied_matched_policy[none]")),
            (RbacAction::Deny, Some(policy)) => {
                Verdict::Deny(Cow::Owned(format!("rbac_access_denied_matched_policy[{}]", policy.name)))
            }
        }
    }
}

impl RbacPolicy {
    fn matches(&self, view: &AuthzView<'_>, doubt: bool) -> bool {
        let any = |rules: &[Rule]| rules.iter().any(|rule| rule.holds(view, doubt));
        any(&self.permissions) && any(&self.principals)
    }
}

impl Rule {
    /// `doubt` is the answer where a header is repeated with values that disagree.
    fn holds(&self, view: &AuthzView<'_>, doubt: bool) -> bool {
        match self {
            Self::Any => true,
            Self::All(rules) => rules.iter().all(|rule| rule.holds(view, doubt)),
            Self::Either(rules) => rules.iter().any(|rule| rule.holds(view, doubt)),
            Self::Not(rule) => !rule.holds(view, !doubt),
            Self::Header(header) => view.head.is_some_and(|head| header.matches_every(head).unwrap_or(doubt)),
            Self::Path(path) => view.head.is_some_and(|head| path.matches(head.path())),
            Self::ServerName(name) => name.matches(view.conn.server_name.as_deref().unwrap_or("")),
            Self::DestinationIp(range) => range.contains(&view.conn.local.ip()),
            Self::DestinationPort(range) => range.contains(&u32::from(view.conn.local.port())),
            Self::DirectRemoteIp(range) => range.contains(&view.conn.direct_peer.ip()),
            Self::RemoteIp(range) => range.contains(&view.remote),
            Self::Authenticated(wanted) => authenticated(view.conn, wanted.as_ref()),
        }
    }
}

fn authenticated(conn: &ConnInfo, wanted: Option<&StringMatcher>) -> bool {
    let Some(peer) = conn.tls.as_ref().and_then(|tls| tls.peer.as_ref()) else { return false };
    let Some(wanted) = wanted else { return true };
    if !peer.uri_sans.is_empty() {
        peer.uri_sans.iter().any(|san| wanted.matches(san))
    } else if !peer.dns_sans.is_empty() {
        peer.dns_sans.iter().any(|san| wanted.matches(san))
    } else {
        wanted.matches(&peer.subject)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use http::{HeaderMap, HeaderName, HeaderValue, Method};

    use super::*;
    use crate::listener::Direction;
    use crate::route::matcher::HeaderTest;

    fn decide(action: RbacAction, permission: Rule, values: &[&'static str]) -> bool {
        let rbac = Rbac {
            action,
            policies: vec![RbacPolicy { name: "p".into(), permissions: vec![permission], principals: vec![Rule::Any] }],
        };
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(HeaderName::from_static("x-role"), HeaderValue::from_static(value));
        }
        let head = RequestHead {
            method: &Method::GET,
            path_and_query: "/",
            authority: "a",
            scheme: "http",
            headers: &headers,
        };
        let address = "192.0.2.1:1".parse().unwrap();
        let conn = ConnInfo {
            id: 0,
            listener: "l".into(),
            direction: Direction::Inbound,
            direct_peer: address,
            peer: address,
            local: address,
            local_restored: false,
            tls: None,
            server_name: None,
        };
        rbac.check(&AuthzView { head: Some(&head), conn: &conn, remote: address.ip() }) == Verdict::Allow
    }

    fn role(text: &str, invert: bool) -> Rule {
        let text = StringMatcher::Exact { text: text.to_owned(), ignore_case: false };
        Rule::Header(HeaderMatcher::new("x-role", HeaderTest::Text(text), invert, false).unwrap())
    }

    #[test]
    fn a_repeated_header_gets_nobody_past_a_policy() {
        use RbacAction::{Allow, Deny};
        let not = |rule| Rule::Not(Box::new(rule));
        for (action, rule, values, passes) in [
            (Deny, role("guest", false), &["guest"][..], false),
            (Deny, role("guest", false), &["admin"], true),
            (Deny, role("guest", false), &["guest", "x"], false),
            (Deny, role("guest", false), &["x", "guest"], false),
            (Deny, role("x,guest", false), &["x", "guest"], false),
            (Deny, not(role("admin", false)), &["admin", "x"], false),
            (Deny, role("admin", true), &["admin", "x"], false),
            (Deny, role("guest", false), &[], true),
            (Allow, role("admin", false), &["admin"], true),
            (Allow, role("admin", false), &["admin", "admin"], false),
            (Allow, role("admin", false), &["admin", "guest"], false),
            (Allow, role("admin", false), &["guest", "admin"], false),
            (Allow, not(role("guest", false)), &["admin", "guest"], false),
            (Allow, not(role("guest", false)), &["admin", "user"], true),
            (Allow, role("admin", false), &[], false),
        ] {
            let described = format!("{action:?} {rule:?} {values:?}");
            assert_eq!(decide(action, rule, values), passes, "{described}");
        }
    }
}

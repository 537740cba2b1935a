//! One rule of a policy → one policy of RBAC: sources and conditions become principals, operations and conditions permissions.

use mesh_proto::crd::authorization_policy::{Condition, Operation, Rule, Source};
use mesh_proto::xds::matcher;
use mesh_proto::xds::rbac::{Permission, Policy, Principal, permission, principal};

use super::term::{self, Term};

/// How rules are judged.
#[derive(Debug, Clone, Copy)]
pub struct Judge<'a> {
    /// The mesh's trust domain and its aliases.
    pub domains: &'a [&'a str],
    /// On connections, not on requests.
    pub tcp: bool,
    /// For an ALLOW policy: what cannot be judged makes the rule void; for DENY it is left out, which denies more (AP5).
    pub allow: bool,
}

/// The rule cannot be judged here, so it allows nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Void;

/// The terms of one field's values; `None` for a value that cannot be judged here.
type Terms<T> = Option<Vec<T>>;

impl Judge<'_> {
    /// The rule as a policy of RBAC. `namespace` is the policy's.
    pub fn rule(&self, rule: &Rule, namespace: &str) -> Result<Policy, Void> {
        let (mut whens, mut limits) = (Vec::new(), Vec::new());
        for condition in &rule.when {
            self.condition(condition, namespace, &mut whens, &mut limits)?;
        }
        let mut principals = Vec::new();
        for source in rule.from.iter().filter_map(|from| from.source.as_ref()) {
            let mut terms = self.source(source, namespace)?;
            terms.extend(whens.iter().cloned());
            principals.push(Term::all_or_any(terms));
        }
        if principals.is_empty() {
            principals.push(Term::all_or_any(whens));
        }
        let mut permissions = Vec::new();
        for operation in rule.to.iter().filter_map(|to| to.operation.as_ref()) {
            let mut terms = self.operation(operation)?;
            terms.extend(limits.iter().cloned());
            permissions.push(Term::all_or_any(terms));
        }
        if permissions.is_empty() {
            permissions.push(Term::all_or_any(limits));
        }
        Ok(Policy { permissions, principals, ..Default::default() })
    }

    /// One of `values`, none of `not`.
    fn field<T: Term>(
        &self,
        output: &mut Vec<T>,
        values: &[String],
        not: &[String],
        term: impl Fn(&str) -> Terms<T>,
    ) -> Result<(), Void> {
        for (list, negate) in [(values, false), (not, true)] {
            if list.is_empty() {
                continue;
            }
            let mut terms = Vec::new();
            for value in list {
                match term(value) {
                    Some(of_value) => terms.extend(of_value),
                    None if self.allow => return Err(Void),
                    None => {}
                }
            }
            // A denial whose every value cannot be judged loses the whole field, and so denies more.
            if !terms.is_empty() {
                let either = T::either(terms);
                output.push(if negate { T::not(either) } else { either });
            }
        }
        Ok(())
    }

    fn source(&self, source: &Source, namespace: &str) -> Result<Vec<Principal>, Void> {
        let mut terms = Vec::new();
        let one = |principal: Principal| Some(vec![principal]);
        self.field(&mut terms, &source.principals, &source.not_principals, |value| Some(self.principal(value)))?;
        self.field(&mut terms, &source.request_principals, &source.not_request_principals, |_| self.token())?;
        self.field(&mut terms, &source.namespaces, &source.not_namespaces, |value| one(of_namespace(value)))?;
        self.field(&mut terms, &source.service_accounts, &source.not_service_accounts, |value| {
            one(of_account(value, namespace))
        })?;
        self.field(&mut terms, &source.trust_domains, &source.not_trust_domains, |value| one(of_domain(value)))?;
        self.field(&mut terms, &source.ip_blocks, &source.not_ip_blocks, direct_ip)?;
        self.field(&mut terms, &source.remote_ip_blocks, &source.not_remote_ip_blocks, remote_ip)?;
        Ok(terms)
    }

    fn operation(&self, operation: &Operation) -> Result<Vec<Permission>, Void> {
        let mut terms = Vec::new();
        let one = |rule: permission::Rule| Some(vec![term::permission(rule)]);
        self.field(&mut terms, &operation.hosts, &operation.not_hosts, |value| {
            self.http(|| permission::Rule::Header(term::header(":authority", value, true)))
        })?;
        self.field(&mut terms, &operation.methods, &operation.not_methods, |value| {
            self.http(|| permission::Rule::Header(term::header(":method", value, false)))
        })?;
        self.field(&mut terms, &operation.paths, &operation.not_paths, |value| {
            self.http(|| permission::Rule::UrlPath(path(value)))
        })?;
        self.field(&mut terms, &operation.ports, &operation.not_ports, |value| {
            one(permission::Rule::DestinationPort(value.parse().ok()?))
        })?;
        Ok(terms)
    }

    /// A permission that only requests have.
    fn http(&self, rule: impl FnOnce() -> permission::Rule) -> Terms<Permission> {
        (!self.tcp).then(|| vec![term::permission(rule())])
    }

    /// What only a token of the request tells. No filter verifies tokens, so no request ever has one.
    fn token(&self) -> Terms<Principal> {
        (!self.tcp).then(|| vec![Principal::never()])
    }

    fn condition(
        &self,
        condition: &Condition,
        namespace: &str,
        principals: &mut Vec<Principal>,
        permissions: &mut Vec<Permission>,
    ) -> Result<(), Void> {
        let (values, not) = (&condition.values, &condition.not_values);
        let one = |principal: Principal| Some(vec![principal]);
        if let Some(name) = condition.key.strip_prefix("request.headers[").and_then(|rest| rest.strip_suffix(']')) {
            return self.field(principals, values, not, |value| {
                let header = principal::Identifier::Header(term::header(name, value, false));
                (!self.tcp).then(|| vec![term::principal(header)])
            });
        }
        match condition.key.as_str() {
            "source.ip" => self.field(principals, values, not, direct_ip),
            "remote.ip" => self.field(principals, values, not, remote_ip),
            "source.namespace" => self.field(principals, values, not, |value| one(of_namespace(value))),
            "source.principal" => self.field(principals, values, not, |value| Some(self.principal(value))),
            "source.serviceAccount" => self.field(principals, values, not, |value| one(of_account(value, namespace))),
            "source.trustDomain" => self.field(principals, values, not, |value| one(of_domain(value))),
            "destination.ip" => self.field(permissions, values, not, |value| {
                Some(vec![term::permission(permission::Rule::DestinationIp(term::range(value)?))])
            }),
            "destination.port" => self.field(permissions, values, not, |value| {
                Some(vec![term::permission(permission::Rule::DestinationPort(value.parse().ok()?))])
            }),
            "connection.sni" => self.field(permissions, values, not, |value| {
                Some(vec![term::permission(permission::Rule::RequestedServerName(term::text(value)))])
            }),
            key if key.starts_with("request.auth.") => self.field(principals, values, not, |_| self.token()),
            // Validation refuses other attributes; here they only must not open anything.
            _ if self.allow => Err(Void),
            _ => Ok(()),
        }
    }

    /// A peer identity in every trust domain that counts as the one it names (AP10).
    fn principal(&self, value: &str) -> Vec<Principal> {
        let one = |value: &str| term::authenticated(term::prefixed("spiffe://", value));
        let Some((domain, rest)) = value.split_once('/') else { return vec![one(value)] };
        let known = domain == "cluster.local" || self.domains.contains(&domain);
        if !known {
            return vec![one(value)];
        }
        self.domains.iter().map(|domain| one(&format!("{domain}/{rest}"))).collect()
    }
}

fn of_namespace(value: &str) -> Principal {
    term::authenticated(term::regex(format!(".*/ns/{}/.*", term::escaped(value))))
}

/// `namespace/account`, or an account of the policy's own namespace.
fn of_account(value: &str, namespace: &str) -> Principal {
    let (namespace, account) = value.split_once('/').unwrap_or((namespace, value));
    let expression = format!("spiffe://.+/ns/{}/sa/{}", term::escaped(namespace), term::escaped(account));
    term::authenticated(term::regex(expression))
}

fn of_domain(value: &str) -> Principal {
    match value.contains('*') {
        false => term::authenticated(term::prefixed("spiffe://", &format!("{value}/*"))),
        true => term::authenticated(term::regex(format!("spiffe://{}/ns/.*", term::escaped(value)))),
    }
}

fn direct_ip(value: &str) -> Terms<Principal> {
    Some(vec![term::principal(principal::Identifier::DirectRemoteIp(term::range(value)?))])
}

fn remote_ip(value: &str) -> Terms<Principal> {
    Some(vec![term::principal(principal::Identifier::RemoteIp(term::range(value)?))])
}

/// A path; `{*}` is one segment, `{**}` any number of them (AP4).
fn path(value: &str) -> matcher::PathMatcher {
    let pattern = if value.contains("{*}") || value.contains("{**}") {
        let parts: Vec<String> = value
            .split("{**}")
            .map(|part| part.split("{*}").map(term::escaped).collect::<Vec<_>>().join("[^/]+"))
            .collect();
        term::regex(parts.join(".*"))
    } else {
        term::text(value)
    };
    matcher::PathMatcher { rule: Some(matcher::path_matcher::Rule::Path(pattern)) }
}

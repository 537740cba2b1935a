//! Permissions and principals of RBAC as terms that combine alike.

use mesh_proto::xds::rbac::{Permission, Principal, permission, principal};
use mesh_proto::xds::{core, matcher, route};

use super::super::wire;

/// A condition of RBAC.
pub trait Term: Sized {
    /// Always holds.
    fn any() -> Self;
    /// Holds if all do.
    fn all(terms: Vec<Self>) -> Self;
    /// Holds if one does.
    fn either(terms: Vec<Self>) -> Self;
    /// Holds if the term does not.
    fn not(term: Self) -> Self;

    /// Never holds.
    fn never() -> Self {
        Self::not(Self::any())
    }

    /// All of these; any if there are none, since RBAC refuses an empty list.
    fn all_or_any(mut terms: Vec<Self>) -> Self {
        if terms.is_empty() {
            terms.push(Self::any());
        }
        Self::all(terms)
    }
}

impl Term for Permission {
    fn any() -> Self {
        permission(permission::Rule::Any(true))
    }
    fn all(rules: Vec<Self>) -> Self {
        permission(permission::Rule::AndRules(permission::Set { rules }))
    }
    fn either(rules: Vec<Self>) -> Self {
        permission(permission::Rule::OrRules(permission::Set { rules }))
    }
    fn not(rule: Self) -> Self {
        permission(permission::Rule::NotRule(Box::new(rule)))
    }
}

impl Term for Principal {
    fn any() -> Self {
        principal(principal::Identifier::Any(true))
    }
    fn all(ids: Vec<Self>) -> Self {
        principal(principal::Identifier::AndIds(principal::Set { ids }))
    }
    fn either(ids: Vec<Self>) -> Self {
        principal(principal::Identifier::OrIds(principal::Set { ids }))
    }
    fn not(id: Self) -> Self {
        principal(principal::Identifier::NotId(Box::new(id)))
    }
}

/// A permission of this rule.
pub fn permission(rule: permission::Rule) -> Permission {
    Permission { rule: Some(rule) }
}

/// A principal of this identifier.
pub fn principal(identifier: principal::Identifier) -> Principal {
    Principal { identifier: Some(identifier) }
}

/// A peer whose certificate's URI matches.
pub fn authenticated(name: matcher::StringMatcher) -> Principal {
    principal(principal::Identifier::Authenticated(principal::Authenticated { principal_name: Some(name) }))
}

/// A header that matches; `*` is any value (AP7).
pub fn header(name: &str, value: &str, ignore_case: bool) -> route::HeaderMatcher {
    use route::header_matcher::HeaderMatchSpecifier;
    let specifier = match value {
        "*" => HeaderMatchSpecifier::PresentMatch(true),
        value => HeaderMatchSpecifier::StringMatch(matcher::StringMatcher { ignore_case, ..text(value) }),
    };
    route::HeaderMatcher { name: name.to_owned(), header_match_specifier: Some(specifier), ..Default::default() }
}

/// Exact, `prefix*`, `*suffix`, or `*` for anything that is not empty (AP7).
pub fn text(value: &str) -> matcher::StringMatcher {
    prefixed("", value)
}

/// The same for texts that begin with `prefix`, which `value` leaves out.
pub fn prefixed(prefix: &str, value: &str) -> matcher::StringMatcher {
    use matcher::string_matcher::MatchPattern as P;
    let pattern = if value == "*" {
        return regex(".+".to_owned());
    } else if let Some(suffix) = value.strip_prefix('*') {
        P::Suffix(suffix.to_owned())
    } else if let Some(start) = value.strip_suffix('*') {
        P::Prefix(format!("{prefix}{start}"))
    } else {
        P::Exact(format!("{prefix}{value}"))
    };
    matcher::StringMatcher { match_pattern: Some(pattern), ..Default::default() }
}

/// A regular expression over the whole text.
pub fn regex(regex: String) -> matcher::StringMatcher {
    use matcher::string_matcher::MatchPattern as P;
    let pattern = P::SafeRegex(matcher::RegexMatcher { regex, ..Default::default() });
    matcher::StringMatcher { match_pattern: Some(pattern), ..Default::default() }
}

/// Literal text within a regular expression; `*` of the value becomes `.*`.
pub fn escaped(value: &str) -> String {
    let mut output = String::new();
    for letter in value.chars() {
        match letter {
            '*' => output.push_str(".*"),
            letter if letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '/') => output.push(letter),
            letter if letter.is_ascii() => output.extend(['\\', letter]),
            letter => output.push(letter),
        }
    }
    output
}

/// An address or a range; `None` if it is neither.
pub fn range(value: &str) -> Option<core::CidrRange> {
    let net: ipnet::IpNet = match value.parse::<std::net::IpAddr>() {
        Ok(address) => address.into(),
        Err(_) => value.parse().ok()?,
    };
    Some(core::CidrRange { address_prefix: net.addr().to_string(), prefix_len: wire::number(net.prefix_len().into()) })
}

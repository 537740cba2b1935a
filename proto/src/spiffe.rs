//! SPIFFE identities as Istio writes them: `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT` (ID1).
//!
//! Source: <https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md>.

use std::fmt;
use std::str::FromStr;

/// The longest SPIFFE id in bytes that the standard asks implementations to take.
pub const MAX_LENGTH: usize = 2048;

/// Who a workload is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// Trust domain, lower case.
    pub trust_domain: String,
    /// Kubernetes namespace.
    pub namespace: String,
    /// Service account.
    pub service_account: String,
}

/// Why a text is no identity of a workload in the mesh.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{id}` is not a workload's SPIFFE id (spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT): {reason}")]
pub struct ParseError {
    id: String,
    reason: &'static str,
}

impl Identity {
    /// An identity of these parts, each checked as [`Identity::from_str`] does.
    pub fn new(trust_domain: &str, namespace: &str, service_account: &str) -> Result<Self, ParseError> {
        format!("spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}").parse()
    }
}

/// Reads an identity; the same as [`Identity::from_str`].
pub fn parse(id: &str) -> Result<Identity, ParseError> {
    id.parse()
}

/// True for the characters of a trust domain.
fn is_trust_domain(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 255
        && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_'))
}

/// True for one segment of a path.
fn is_segment(text: &str) -> bool {
    !matches!(text, "" | "." | "..")
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
}

impl FromStr for Identity {
    type Err = ParseError;

    fn from_str(id: &str) -> Result<Self, Self::Err> {
        let wrong = |reason| ParseError { id: id.chars().take(256).collect(), reason };
        if id.len() > MAX_LENGTH {
            return Err(wrong("longer than 2048 bytes"));
        }
        let rest = id.strip_prefix("spiffe://").ok_or_else(|| wrong("does not begin with spiffe://"))?;
        let mut parts = rest.split('/');
        let trust_domain = parts.next().unwrap_or_default();
        if !is_trust_domain(trust_domain) {
            return Err(wrong("the trust domain holds only lower-case letters, digits, `.`, `-`, `_`"));
        }
        let (Some("ns"), Some(namespace), Some("sa"), Some(service_account), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(wrong("the path is not /ns/NAMESPACE/sa/SERVICE_ACCOUNT"));
        };
        if !is_segment(namespace) || !is_segment(service_account) {
            return Err(wrong("a segment is empty or holds a character that is not a letter, digit, `.`, `-`, `_`"));
        }
        Ok(Self {
            trust_domain: trust_domain.to_owned(),
            namespace: namespace.to_owned(),
            service_account: service_account.to_owned(),
        })
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.service_account)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn identities_of_workloads_are_read_and_written() {
        for id in ["spiffe://cluster.local/ns/default/sa/bookinfo-reviews", "spiffe://td/ns/a/sa/b.c_D"] {
            assert_eq!(id.parse::<Identity>().unwrap().to_string(), id);
        }
    }

    #[test]
    fn anything_else_is_refused_with_its_reason() {
        for (id, reason) in [
            ("", "does not begin with"),
            ("https://td/ns/a/sa/b", "does not begin with"),
            ("spiffe:///ns/a/sa/b", "trust domain"),
            ("spiffe://TD/ns/a/sa/b", "trust domain"),
            ("spiffe://td:1/ns/a/sa/b", "trust domain"),
            ("spiffe://td/ns/a/sa", "the path is not"),
            ("spiffe://td/ns/a/sa/b/c", "the path is not"),
            ("spiffe://td/ns//sa/b", "a segment is empty"),
            ("spiffe://td/ns/a/sa/b%2f", "a segment is empty"),
            ("spiffe://td/ns/../sa/b", "a segment is empty"),
            ("spiffe://td/ns/a/sa/b?x", "a segment is empty"),
        ] {
            let error = id.parse::<Identity>().unwrap_err().to_string();
            assert!(error.contains(reason), "{id}: {error}");
        }
        assert!(format!("spiffe://td/ns/a/sa/{}", "b".repeat(2100)).parse::<Identity>().is_err());
    }
}

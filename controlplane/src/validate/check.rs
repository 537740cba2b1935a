//! What the checks of all kinds share: paths of fields, collecting findings, and the forms of hosts, ports, labels and selectors.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use mesh_proto::crd::{Duration, PolicyTargetReference, StringMatch};

use super::finding::{Finding, Severity, code};
use crate::model::Object;

/// The largest compiled form of a regular expression, in bytes: what the proxy allows too, so that what passes here runs there.
const REGEX_BYTES: usize = 1 << 20;

/// Path of a field.
#[derive(Debug, Clone, Default)]
pub(super) struct At(String);

impl At {
    /// The path of a field at the top.
    pub(super) fn top(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// The path of a field of this one.
    pub(super) fn field(&self, name: &str) -> Self {
        if self.0.is_empty() { Self::top(name) } else { Self(format!("{}.{name}", self.0)) }
    }

    /// The path of an element of this list.
    pub(super) fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    /// The path of an entry of this map.
    pub(super) fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Collects the findings of one object.
pub(super) struct Check<'a> {
    /// The object.
    pub(super) object: &'a Object,
    findings: Vec<Finding>,
}

impl<'a> Check<'a> {
    pub(super) fn new(object: &'a Object) -> Self {
        Self { object, findings: Vec::new() }
    }

    pub(super) fn finish(self) -> Vec<Finding> {
        self.findings
    }

    fn add(&mut self, severity: Severity, code: &'static str, at: &At, message: String) {
        self.findings.push(Finding {
            severity,
            code: Some(code),
            key: Some(self.object.key.clone()),
            origin: self.object.origin.clone(),
            field: (!at.0.is_empty()).then(|| at.0.clone()),
            message,
        });
    }

    /// The object breaks a rule and is kept out.
    pub(super) fn error(&mut self, at: &At, message: impl Into<String>) {
        self.add(Severity::Error, code::SCHEMA, at, message.into());
    }

    /// The object is taken, but this part of it has no effect or will surprise.
    pub(super) fn warning(&mut self, at: &At, message: impl Into<String>) {
        self.add(Severity::Warning, code::SCHEMA, at, message.into());
    }

    /// As [`Check::warning`], with another of Istio's codes.
    pub(super) fn warning_of(&mut self, code: &'static str, at: &At, message: impl Into<String>) {
        self.add(Severity::Warning, code, at, message.into());
    }

    /// A feature that the mesh does not have: the object is kept out, because to ignore the field could be unsafe.
    pub(super) fn unsupported(&mut self, set: bool, at: &At, advice: &str) {
        if set {
            self.error(at, format!("is not supported yet; remove it{advice}"));
        }
    }

    /// A host of a service: a DNS name, short or full, or a name whose first label is `*`.
    pub(super) fn host(&mut self, at: &At, host: &str, wildcard: bool) {
        if let Some(problem) = host_problem(host, wildcard) {
            self.error(at, problem);
        }
    }

    /// The path of a Unix socket. Names in the abstract namespace (`@name`) are none.
    pub(super) fn unix_socket(&mut self, at: &At, text: &str) {
        if !text.strip_prefix("unix://").is_some_and(|path| path.starts_with('/') && path.len() > 1) {
            self.error(at, format!("`{text}` is not a Unix socket; write unix:///PATH"));
        }
    }

    /// A port number.
    pub(super) fn port(&mut self, at: &At, port: u32) {
        if !(1..=65535).contains(&port) {
            self.error(at, format!("{port} is not a port; ports are 1 to 65535"));
        }
    }

    /// A timeout or interval, which must be at least a millisecond, or 0 where that has a meaning.
    pub(super) fn duration(&mut self, at: &At, duration: Option<Duration>, zero: bool) {
        let Some(duration) = duration else { return };
        if duration.0.is_zero() && zero {
            return;
        }
        if duration.0.as_nanos() < 1_000_000 {
            self.error(at, format!("{duration} is too short; the least is 1ms"));
        } else if duration.0.subsec_nanos() % 1_000_000 != 0 {
            self.error(at, format!("{duration} has a fraction of a millisecond; round it"));
        }
    }

    /// A whole number that must not be negative.
    pub(super) fn not_negative(&mut self, at: &At, number: i32) {
        if number < 0 {
            self.error(at, format!("{number} is negative; give 0 or more"));
        }
    }

    /// A percentage.
    pub(super) fn percent(&mut self, at: &At, value: f64) {
        if !(0.0..=100.0).contains(&value) {
            self.error(at, format!("{value} is not a percentage; give 0 to 100"));
        }
    }

    /// A name of RFC 1123: what Kubernetes wants of names of subsets and ports.
    pub(super) fn dns_label(&mut self, at: &At, name: &str) {
        if !is_dns_label(name) {
            self.error(
                at,
                format!("`{name}` is not a name; use up to 63 letters, digits and `-`, a letter or digit at both ends"),
            );
        }
    }

    /// Labels, also those of selectors (G6: no wildcards in values).
    pub(super) fn labels(&mut self, at: &At, labels: &BTreeMap<String, String>) {
        for (name, value) in labels {
            let at = at.key(name);
            let plain = name.rsplit_once('/').map_or(name.as_str(), |(_, plain)| plain);
            let prefix = name.rsplit_once('/').map(|(prefix, _)| prefix);
            if !is_label_text(plain) || plain.is_empty() || prefix.is_some_and(|prefix| !is_dns_name(prefix)) {
                self.error(&at, format!("`{name}` is not the name of a label"));
            }
            if value.contains('*') {
                self.error(&at, "wildcards are not allowed in label values; name the value");
            } else if !is_label_text(value) {
                self.error(
                    &at,
                    format!("`{value}` is not the value of a label; use up to 63 letters, digits, `-`, `_` and `.`"),
                );
            }
        }
    }

    /// `exportTo` (G4).
    pub(super) fn export_to(&mut self, export_to: &[String], none: bool) {
        let at = At::top("exportTo");
        for (index, value) in export_to.iter().enumerate() {
            let at = at.index(index);
            match value.as_str() {
                "." => {}
                "*" | "~" if export_to.len() > 1 => {
                    self.error(&at, format!("`{value}` cannot stand beside others; give it alone or name namespaces"));
                }
                "*" => {}
                "~" if none => {}
                namespace if is_dns_label(namespace) => {}
                _ => self.error(&at, format!("`{value}` is not a namespace; give `.`, `*` or names of namespaces")),
            }
        }
    }

    /// A regular expression in RE2's syntax.
    pub(super) fn regex(&mut self, at: &At, expression: &str) {
        if expression.is_empty() {
            return self.error(at, "the expression is empty; to match anything write `.*`");
        }
        if let Err(error) = regex::RegexBuilder::new(expression).size_limit(REGEX_BYTES).build() {
            let text = error.to_string();
            let reason = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
            self.error(at, format!("`{expression}` is not a regular expression of RE2: {reason}"));
        }
    }

    /// How a string is matched. `present` allows `{}`, `empty` allows `exact: ""`.
    pub(super) fn string_match(&mut self, at: &At, matcher: &StringMatch, present: bool, empty: bool) {
        match matcher {
            StringMatch::Regex(expression) => self.regex(&at.field("regex"), expression),
            StringMatch::Exact(text) if text.is_empty() && !empty => {
                self.error(&at.field("exact"), "is empty; give the text to match");
            }
            StringMatch::Prefix(text) if text.is_empty() => {
                self.error(&at.field("prefix"), "is empty; give the text to match");
            }
            StringMatch::Present if !present => {
                self.error(at, "has nothing to match; give one of exact, prefix, regex")
            }
            _ => {}
        }
    }

    /// The name of a header.
    pub(super) fn header_name(&mut self, at: &At, name: &str) {
        if http::HeaderName::try_from(name).is_err() {
            self.error(at, format!("`{name}` is not the name of a header"));
        }
    }

    /// Selection by resources that are not workloads, which the mesh does not have.
    pub(super) fn target_refs(&mut self, one: &Option<PolicyTargetReference>, many: &[PolicyTargetReference]) {
        let advice = " and select workloads by `selector.matchLabels`";
        self.unsupported(one.is_some(), &At::top("targetRef"), advice);
        self.unsupported(!many.is_empty(), &At::top("targetRefs"), advice);
    }

    /// An address range such as `10.0.0.0/8`, or one address.
    pub(super) fn address_range(&mut self, at: &At, text: &str) {
        if text.parse::<IpAddr>().is_err() && text.parse::<ipnet::IpNet>().is_err() {
            self.error(at, format!("`{text}` is not an address or range; write 10.1.2.3 or 10.0.0.0/8"));
        }
    }
}

/// Why a text is not a host; none if it is.
pub(super) fn host_problem(host: &str, wildcard: bool) -> Option<String> {
    if host.is_empty() {
        return Some("is empty; name a host".to_owned());
    }
    if host == "*" {
        return (!wildcard).then(|| "a wildcard is not allowed here; name one host".to_owned());
    }
    let name = match host.strip_prefix("*.") {
        Some(_) if !wildcard => {
            return Some(format!("`{host}` is a wildcard, which is not allowed here; name one host"));
        }
        Some(rest) => rest,
        None => host,
    };
    if name.contains('*') {
        return Some(format!("`{host}` has a wildcard that is not its whole first label; write `*.example.com`"));
    }
    if name.ends_with('.') {
        return Some(format!("`{host}` ends in a dot; remove it"));
    }
    (!is_dns_name(name))
        .then(|| format!("`{host}` is not a host; write a DNS name such as reviews.default.svc.cluster.local"))
}

/// True for a DNS name of one or more labels. `_` is allowed inside, as in Istio.
pub(super) fn is_dns_name(name: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with(['-', '_'])
            && !label.ends_with(['-', '_'])
    };
    !name.is_empty() && name.len() <= 255 && name.split('.').all(label)
}

/// True for one label of RFC 1123.
pub(super) fn is_dns_label(name: &str) -> bool {
    is_dns_name(name) && !name.contains(['.', '_'])
}

/// True for the value of a label, or the last part of its name.
fn is_label_text(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric();
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && bytes.iter().all(|byte| plain(*byte) || b"-_.".contains(byte))
        && bytes.first().is_none_or(|byte| plain(*byte))
        && bytes.last().is_none_or(|byte| plain(*byte))
}

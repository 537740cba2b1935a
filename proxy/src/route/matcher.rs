//! How a request is compared: strings, regular expressions, headers, query parameters, paths.

use std::borrow::Cow;
use std::ops::Range;

use http::{HeaderMap, HeaderName};

use super::RequestHead;

/// The largest compiled size of a regular expression in bytes; beyond it the configuration is refused.
pub const MAX_REGEX_BYTES: usize = 1 << 20;

/// A regular expression in RE2 syntax that must match the whole text. Matching takes linear time.
#[derive(Debug, Clone)]
pub struct Regex(regex::Regex);

impl Regex {
    /// Compiles `pattern`, anchored at both ends.
    pub fn whole(pattern: &str) -> Result<Self, String> {
        Self::compile(&format!("^(?:{pattern})$"))
    }

    /// Compiles `pattern` to be found anywhere (rewrites).
    pub fn anywhere(pattern: &str) -> Result<Self, String> {
        Self::compile(pattern)
    }

    fn compile(pattern: &str) -> Result<Self, String> {
        // RE2's `.` and classes are of characters unless told otherwise, as here; `(?s)` is left to the user as in Envoy.
        regex::RegexBuilder::new(pattern)
            .size_limit(MAX_REGEX_BYTES)
            .build()
            .map(Self)
            .map_err(|error| format!("not a regular expression: {error}"))
    }

    /// True if the expression is found (as a whole if compiled so).
    pub fn is_match(&self, text: &str) -> bool {
        self.0.is_match(text)
    }

    /// Replaces every match; `\1` in `replacement` is the first group.
    pub fn replace_all(&self, text: &str, replacement: &str) -> String {
        let mut dollar = String::with_capacity(replacement.len());
        let mut characters = replacement.chars();
        while let Some(character) = characters.next() {
            match character {
                '\\' => match characters.next() {
                    Some(digit) if digit.is_ascii_digit() => dollar.push_str(&format!("${{{digit}}}")),
                    Some(other) => dollar.push(other),
                    None => {}
                },
                '$' => dollar.push_str("$$"),
                other => dollar.push(other),
            }
        }
        self.0.replace_all(text, dollar.as_str()).into_owned()
    }
}

/// Envoy's `StringMatcher`. With `ignore_case` the text is kept in lower case.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub enum StringMatcher {
    /// Equal.
    Exact { text: String, ignore_case: bool },
    /// Begins with.
    Prefix { text: String, ignore_case: bool },
    /// Ends with.
    Suffix { text: String, ignore_case: bool },
    /// Holds.
    Contains { text: String, ignore_case: bool },
    /// Matches as a whole.
    Regex(Regex),
}

fn starts_with(value: &str, text: &str, ignore_case: bool) -> bool {
    match value.as_bytes().get(..text.len()) {
        Some(head) if ignore_case => head.eq_ignore_ascii_case(text.as_bytes()),
        Some(head) => head == text.as_bytes(),
        None => false,
    }
}

impl StringMatcher {
    /// True if `value` is what is wanted.
    pub fn matches(&self, value: &str) -> bool {
        match self {
            Self::Exact { text, ignore_case: false } => value == text,
            Self::Exact { text, ignore_case: true } => value.eq_ignore_ascii_case(text),
            Self::Prefix { text, ignore_case } => starts_with(value, text, *ignore_case),
            Self::Suffix { text, ignore_case: false } => value.ends_with(text.as_str()),
            Self::Suffix { text, ignore_case: true } => {
                let value = value.as_bytes();
                value.len() >= text.len() && value[value.len() - text.len()..].eq_ignore_ascii_case(text.as_bytes())
            }
            Self::Contains { text, ignore_case: false } => value.contains(text.as_str()),
            Self::Contains { text, ignore_case: true } => value.to_ascii_lowercase().contains(text.as_str()),
            Self::Regex(regex) => regex.is_match(value),
        }
    }
}

/// What is compared: a header, or what HTTP/2 calls a pseudo header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderKey {
    /// `:method`.
    Method,
    /// `:path`, with query.
    Path,
    /// `:authority`, also under the name `host`.
    Authority,
    /// `:scheme`.
    Scheme,
    /// Any other.
    Header(HeaderName),
}

impl HeaderKey {
    /// Reads a name; `Err` says what is wrong with it.
    pub fn parse(name: &str) -> Result<Self, String> {
        Ok(match name {
            ":method" => Self::Method,
            ":path" => Self::Path,
            ":authority" => Self::Authority,
            ":scheme" => Self::Scheme,
            _ if name.eq_ignore_ascii_case("host") => Self::Authority,
            _ => Self::Header(HeaderName::try_from(name).map_err(|_| format!("`{name}` is not a header name"))?),
        })
    }

    /// Calls `test` with the value if there is one. Several values of a header are one, joined by commas, as Envoy does.
    fn with<R>(&self, head: &RequestHead<'_>, test: impl FnOnce(Option<&str>) -> R) -> R {
        let name = match self {
            Self::Method => return test(Some(head.method.as_str())),
            Self::Path => return test(Some(head.path_and_query)),
            Self::Authority => return test(Some(head.authority)),
            Self::Scheme => return test(Some(head.scheme)),
            Self::Header(name) => name,
        };
        let mut values = head.headers.get_all(name).iter();
        let Some(first) = values.next() else { return test(None) };
        match values.next() {
            None => match first.to_str() {
                Ok(text) => test(Some(text)),
                Err(_) => test(Some(&String::from_utf8_lossy(first.as_bytes()))),
            },
            Some(_) => {
                let all: Vec<_> =
                    head.headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
                test(Some(&all.join(",")))
            }
        }
    }
}

/// What must hold of the value.
#[derive(Debug, Clone)]
pub enum HeaderTest {
    /// It is there (true) or not (false).
    Present(bool),
    /// Its text.
    Text(StringMatcher),
    /// A whole number of the range.
    Range(Range<i64>),
}

/// Envoy's `HeaderMatcher`.
#[derive(Debug, Clone)]
pub struct HeaderMatcher {
    key: HeaderKey,
    test: HeaderTest,
    invert: bool,
    missing_is_empty: bool,
}

impl HeaderMatcher {
    /// A matcher; `Err` if `name` is no header name.
    pub fn new(name: &str, test: HeaderTest, invert: bool, missing_is_empty: bool) -> Result<Self, String> {
        Ok(Self { key: HeaderKey::parse(name)?, test, invert, missing_is_empty })
    }

    /// True if the request has what is wanted. Of a header in several lines one must be so; inverted, none may.
    pub fn matches(&self, head: &RequestHead<'_>) -> bool {
        match &self.key {
            HeaderKey::Header(name) => self.matches_lines(head.headers, name),
            key => key.with(head, |value| self.matches_value(value)),
        }
    }

    /// As [`HeaderMatcher::matches`], for the headers of a response, which has no pseudo headers.
    pub fn matches_response(&self, headers: &HeaderMap) -> bool {
        match &self.key {
            HeaderKey::Header(name) => self.matches_lines(headers, name),
            _ => false,
        }
    }

    fn matches_lines(&self, headers: &HeaderMap, name: &HeaderName) -> bool {
        let mut lines = headers.get_all(name).iter().map(|line| match line.to_str() {
            Ok(text) => Cow::Borrowed(text),
            Err(_) => String::from_utf8_lossy(line.as_bytes()),
        });
        let Some(first) = lines.next() else { return self.matches_value(None) };
        let found = self.matches_value(Some(&first));
        if self.invert {
            found && lines.all(|line| self.matches_value(Some(&line)))
        } else {
            found || lines.any(|line| self.matches_value(Some(&line)))
        }
    }

    /// As [`HeaderMatcher::matches`], for access decisions: each line of the header counts, and all of them joined.
    /// `None` if they disagree, so that nobody gets past a policy by sending a header twice (CVE-2026-26308 of Envoy).
    pub fn matches_every(&self, head: &RequestHead<'_>) -> Option<bool> {
        let joined = self.key.with(head, |value| self.matches_value(value));
        let HeaderKey::Header(name) = &self.key else { return Some(joined) };
        let agree = head.headers.get_all(name).iter().all(|value| {
            let text = String::from_utf8_lossy(value.as_bytes());
            self.matches_value(Some(&text)) == joined
        });
        agree.then_some(joined)
    }

    fn matches_value(&self, value: Option<&str>) -> bool {
        if let HeaderTest::Present(wanted) = self.test {
            return (value.is_some() == wanted) != self.invert;
        }
        let value = match value {
            Some(value) => value,
            None if self.missing_is_empty => "",
            // As in Envoy, an absent header matches neither a value nor its inversion.
            None => return false,
        };
        let found = match &self.test {
            HeaderTest::Text(text) => text.matches(value),
            HeaderTest::Range(range) => value.trim().parse().is_ok_and(|number| range.contains(&number)),
            HeaderTest::Present(_) => true,
        };
        found != self.invert
    }
}

/// Envoy's `QueryParameterMatcher`.
#[derive(Debug, Clone)]
pub struct QueryMatcher {
    /// Name of the parameter.
    pub name: String,
    /// What must hold of its first value; `None` for presence.
    pub test: Option<StringMatcher>,
    /// For presence: wanted or unwanted.
    pub present: bool,
}

impl QueryMatcher {
    /// True if the query has what is wanted. As in Envoy, names and values are compared as they are sent, escapes and all.
    pub fn matches(&self, query: &str) -> bool {
        let value = query.split('&').find_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (name == self.name).then_some(value)
        });
        match (&self.test, value) {
            (None, value) => value.is_some() == self.present,
            (Some(test), Some(value)) => test.matches(value),
            (Some(_), None) => false,
        }
    }
}

/// Envoy's `path_specifier`. Paths are compared without query and fragment.
#[derive(Debug, Clone)]
pub enum PathMatcher {
    /// Begins with the text, as bytes.
    Prefix(StringMatcher),
    /// Equal.
    Exact(StringMatcher),
    /// As a whole.
    Regex(Regex),
    /// The text itself or below it at a `/`.
    Segments(StringMatcher, StringMatcher),
    /// `CONNECT` only.
    Connect,
}

impl PathMatcher {
    /// A prefix.
    pub fn prefix(text: &str, ignore_case: bool) -> Self {
        Self::Prefix(StringMatcher::Prefix { text: text.to_owned(), ignore_case })
    }

    /// Equal to `text`.
    pub fn exact(text: &str, ignore_case: bool) -> Self {
        Self::Exact(StringMatcher::Exact { text: text.to_owned(), ignore_case })
    }

    /// `text` as path segments.
    pub fn segments(text: &str, ignore_case: bool) -> Self {
        let below = StringMatcher::Prefix { text: format!("{text}/"), ignore_case };
        Self::Segments(StringMatcher::Exact { text: text.to_owned(), ignore_case }, below)
    }

    /// True if `path` (no query) is what is wanted.
    pub fn matches(&self, path: &str, head: &RequestHead<'_>) -> bool {
        if head.method == http::Method::CONNECT {
            // There is no path to compare.
            return matches!(self, Self::Connect);
        }
        match self {
            Self::Connect => false,
            Self::Prefix(text) | Self::Exact(text) => text.matches(path),
            Self::Regex(regex) => regex.is_match(path),
            Self::Segments(exact, below) => exact.matches(path) || below.matches(path),
        }
    }

    /// Length in bytes of the part of a matching path that a prefix rewrite replaces.
    pub fn replaced(&self, path: &str) -> usize {
        match self {
            Self::Prefix(StringMatcher::Prefix { text, .. }) => text.len(),
            Self::Segments(StringMatcher::Exact { text, .. }, _) => text.len(),
            _ => path.len(),
        }
    }
}

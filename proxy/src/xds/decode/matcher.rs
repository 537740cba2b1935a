//! Envoy's string, header and regular-expression matchers → [`crate::route::matcher`].

use mesh_proto::xds::{matcher, route};

use super::{At, Decoded, Refusal};
use crate::route::matcher::{HeaderMatcher, HeaderTest, Regex, StringMatcher};

/// A regular expression of RE2 syntax that must match the whole text.
pub fn regex(raw: &matcher::RegexMatcher) -> Decoded<Regex> {
    Regex::whole(&raw.regex).map_err(|error| Refusal::field("regex", error))
}

/// A string matcher.
pub fn string(raw: &matcher::StringMatcher) -> Decoded<StringMatcher> {
    use matcher::string_matcher::MatchPattern as P;
    let ignore_case = raw.ignore_case;
    let text = |text: &String| if ignore_case { text.to_ascii_lowercase() } else { text.clone() };
    Ok(match raw.match_pattern.as_ref() {
        None => return Err(Refusal::new("needs one of exact, prefix, suffix, contains, safe_regex")),
        Some(P::Exact(value)) => StringMatcher::Exact { text: text(value), ignore_case },
        Some(P::Prefix(value)) => StringMatcher::Prefix { text: text(value), ignore_case },
        Some(P::Suffix(value)) => StringMatcher::Suffix { text: text(value), ignore_case },
        Some(P::Contains(value)) => StringMatcher::Contains { text: text(value), ignore_case },
        Some(P::SafeRegex(value)) => StringMatcher::Regex(regex(value).at("safe_regex")?),
        Some(P::Custom(_)) => return Err(Refusal::field("custom", "custom string matchers are not supported")),
    })
}

/// A header matcher.
#[allow(deprecated)]
pub fn header(raw: &route::HeaderMatcher) -> Decoded<HeaderMatcher> {
    use route::header_matcher::HeaderMatchSpecifier as S;
    if raw.name.is_empty() {
        return Err(Refusal::field("name", "is required"));
    }
    let case = |text: &String| text.clone();
    let test = match raw.header_match_specifier.as_ref() {
        None => HeaderTest::Present(true),
        Some(S::PresentMatch(present)) => HeaderTest::Present(*present),
        Some(S::ExactMatch(value)) => HeaderTest::Text(StringMatcher::Exact { text: case(value), ignore_case: false }),
        Some(S::PrefixMatch(value)) => {
            HeaderTest::Text(StringMatcher::Prefix { text: case(value), ignore_case: false })
        }
        Some(S::SuffixMatch(value)) => {
            HeaderTest::Text(StringMatcher::Suffix { text: case(value), ignore_case: false })
        }
        Some(S::ContainsMatch(value)) => {
            HeaderTest::Text(StringMatcher::Contains { text: case(value), ignore_case: false })
        }
        Some(S::SafeRegexMatch(value)) => HeaderTest::Text(StringMatcher::Regex(regex(value).at("safe_regex_match")?)),
        Some(S::StringMatch(value)) => HeaderTest::Text(string(value).at("string_match")?),
        Some(S::RangeMatch(range)) => HeaderTest::Range(range.start..range.end),
    };
    HeaderMatcher::new(&raw.name, test, raw.invert_match, raw.treat_missing_header_as_empty)
        .map_err(|error| Refusal::field("name", error))
}

//! Paths become canonical, once, before route and policy; what was judged is what is forwarded (rule 8).
//!
//! Source: <https://www.envoyproxy.io/docs/envoy/latest/api-v3/extensions/filters/network/http_connection_manager/v3/http_connection_manager.proto>
//! (`normalize_path`, `merge_slashes`, `path_with_escaped_slashes_action`).

use std::borrow::Cow;

use super::{EscapedSlashes, Normalize};

/// What comes of a path.
#[derive(Debug, PartialEq, Eq)]
pub enum Path<'a> {
    /// Goes on, canonical.
    Canonical(Cow<'a, str>),
    /// Not acceptable.
    Rejected(&'static str),
    /// The client is sent to the unescaped path (307).
    Redirect(String),
}

/// Makes path and query canonical. The query is left as it is; a fragment is refused, since no client may send one.
pub fn path<'a>(path_and_query: &'a str, settings: &Normalize) -> Path<'a> {
    if path_and_query.contains('#') {
        return Path::Rejected("the path holds a fragment");
    }
    if !path_and_query.is_ascii() {
        return Path::Rejected("the path holds characters that must be escaped");
    }
    if path_and_query == "*" {
        return Path::Canonical(path_and_query.into());
    }
    let (path, query) = match path_and_query.find('?') {
        Some(at) => path_and_query.split_at(at),
        None => (path_and_query, ""),
    };
    let mut canonical = Cow::Borrowed(path);
    let escaped = settings.escaped_slashes != EscapedSlashes::Keep && has_escaped_slash(path);
    if escaped {
        if settings.escaped_slashes == EscapedSlashes::Reject {
            return Path::Rejected("the path holds an escaped slash");
        }
        canonical = Cow::Owned(unescape_slashes(path));
    }
    if settings.path && needs_work(&canonical) {
        match normalized(&canonical) {
            Some(path) => canonical = Cow::Owned(path),
            None => return Path::Rejected("the path leaves its root or holds an escaped NUL"),
        }
    }
    if settings.merge_slashes && canonical.contains("//") {
        canonical = Cow::Owned(merged(&canonical));
    }
    if escaped && settings.escaped_slashes == EscapedSlashes::UnescapeAndRedirect {
        return Path::Redirect(format!("{canonical}{query}"));
    }
    match canonical {
        Cow::Borrowed(_) => Path::Canonical(Cow::Borrowed(path_and_query)),
        Cow::Owned(path) => Path::Canonical(Cow::Owned(path + query)),
    }
}

fn has_escaped_slash(path: &str) -> bool {
    path.as_bytes().windows(3).any(|three| three[0] == b'%' && is_slash_escape(three[1], three[2]))
}

fn is_slash_escape(high: u8, low: u8) -> bool {
    matches!((high, low.to_ascii_lowercase()), (b'2', b'f') | (b'5', b'c'))
}

fn unescape_slashes(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        match rest.as_bytes().get(at + 1..at + 3) {
            Some([high, low]) if is_slash_escape(*high, *low) => {
                out.push(if *high == b'2' { '/' } else { '\\' });
                rest = &rest[at + 3..];
            }
            _ => {
                out.push('%');
                rest = &rest[at + 1..];
            }
        }
    }
    out + rest
}

/// A quick look: most paths are canonical already.
fn needs_work(path: &str) -> bool {
    path.contains("/.") || path.bytes().any(|byte| matches!(byte, b'%' | b'\\'))
}

/// Unreserved escapes undone, `\` as `/`, dot segments removed (RFC 3986, section 6.2.2).
fn normalized(path: &str) -> Option<String> {
    let bytes = path.as_bytes();
    let mut plain = String::with_capacity(path.len());
    // Where the last `%` stands that begins no escape. What is unescaped behind it must not make it one: `%%32e` is not `%2e`.
    let mut stray = None;
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'%' => {
                let digit = |offset: usize| bytes.get(at + offset).and_then(|byte| char::from(*byte).to_digit(16));
                let (Some(high), Some(low)) = (digit(1), digit(2)) else {
                    // As in Envoy, what only looks like an escape stays.
                    stray = Some(plain.len());
                    plain.push('%');
                    at += 1;
                    continue;
                };
                let value = u8::try_from(high * 16 + low).ok()?;
                if value == 0 {
                    return None;
                }
                if value.is_ascii_alphanumeric() || matches!(value, b'-' | b'.' | b'_' | b'~') {
                    plain.push(char::from(value));
                } else {
                    plain.push_str(&path[at..at + 3]);
                }
                at += 3;
            }
            b'\\' => {
                plain.push('/');
                at += 1;
            }
            byte if byte.is_ascii() => {
                plain.push(char::from(byte));
                at += 1;
            }
            _ => {
                let character = path[at..].chars().next()?;
                plain.push(character);
                at += character.len_utf8();
            }
        }
        if let Some(percent) = stray
            && plain.as_bytes()[percent + 1..].len() >= 2
        {
            if plain.as_bytes()[percent + 1..percent + 3].iter().all(u8::is_ascii_hexdigit) {
                plain.insert_str(percent + 1, "25");
            }
            stray = None;
        }
    }
    let mut segments: Vec<&str> = Vec::new();
    let mut trailing = false;
    for segment in plain.strip_prefix('/')?.split('/') {
        trailing = false;
        match segment {
            "." => trailing = true,
            ".." => {
                segments.pop()?;
                trailing = true;
            }
            segment => segments.push(segment),
        }
    }
    if trailing {
        segments.push("");
    }
    Some(format!("/{}", segments.join("/")))
}

fn merged(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for character in path.chars() {
        if character != '/' || !out.ends_with('/') {
            out.push(character);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(settings: Normalize, input: &str) -> String {
        match path(input, &settings) {
            Path::Canonical(path) => path.into_owned(),
            Path::Rejected(_) => "rejected".into(),
            Path::Redirect(path) => format!("redirect {path}"),
        }
    }

    #[test]
    fn paths_become_canonical() {
        let base = Normalize { path: true, ..Normalize::default() };
        for (input, expected) in [
            ("/", "/"),
            ("/a/b?x=../y", "/a/b?x=../y"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("/%61dmin", "/admin"),
            ("/a%2fb", "/a%2fb"),
            ("/a\\b", "/a/b"),
            ("/..", "rejected"),
            ("/a/../../b", "rejected"),
            ("/%2e%2e/b", "rejected"),
            ("/a%zz", "/a%zz"),
            ("/100%", "/100%"),
            ("/%%32e%%32e/%2%65/%a%41", "/%252e%252e/%252e/%25aA"),
            ("/%%41/%zz%41", "/%A/%zzA"),
            ("/é", "rejected"),
            ("/a%00", "rejected"),
            ("/a#b", "rejected"),
            ("//a", "//a"),
            ("*", "*"),
        ] {
            assert_eq!(check(base, input), expected, "{input}");
        }
    }

    #[test]
    fn slashes_are_merged_and_unescaped_as_asked() {
        let merge = Normalize { path: true, merge_slashes: true, ..Normalize::default() };
        assert_eq!(check(merge, "//a///b?c//d"), "/a/b?c//d");
        let with = |escaped_slashes| Normalize { escaped_slashes, ..merge };
        assert_eq!(check(with(EscapedSlashes::Reject), "/a%2Fb"), "rejected");
        assert_eq!(check(with(EscapedSlashes::UnescapeAndForward), "/a%2F..%5Cb"), "/b");
        assert_eq!(check(with(EscapedSlashes::UnescapeAndRedirect), "/a%2Fb?q"), "redirect /a/b?q");
        assert_eq!(check(with(EscapedSlashes::UnescapeAndRedirect), "/a/b"), "/a/b");
    }
}

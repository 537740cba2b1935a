//! `StringMatch`: exactly one of exact, prefix, regex.

use std::fmt;

use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};

/// How a string is matched. Case-sensitive unless the field that holds it says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum StringMatch {
    /// Equal.
    Exact(String),
    /// Begins with.
    Prefix(String),
    /// Matches as a whole, RE2 syntax.
    Regex(String),
    /// `{}`: for headers and claims, any value.
    Present,
}

impl Serialize for StringMatch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match self {
            Self::Exact(text) => map.serialize_entry("exact", text)?,
            Self::Prefix(text) => map.serialize_entry("prefix", text)?,
            Self::Regex(text) => map.serialize_entry("regex", text)?,
            Self::Present => {}
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for StringMatch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOf;
        impl<'de> Visitor<'de> for OneOf {
            type Value = StringMatch;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("one of exact, prefix, regex")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<StringMatch, A::Error> {
                let mut found: Option<(String, StringMatch)> = None;
                while let Some(key) = map.next_key::<String>()? {
                    let make = match key.as_str() {
                        "exact" => StringMatch::Exact,
                        "prefix" => StringMatch::Prefix,
                        "regex" => StringMatch::Regex,
                        _ => return Err(de::Error::unknown_field(&key, &["exact", "prefix", "regex"])),
                    };
                    let Some(text) = map.next_value::<Option<String>>()? else { continue };
                    if let Some((other, _)) = &found {
                        return Err(de::Error::custom(format!(
                            "has both `{other}` and `{key}`; give one of exact, prefix, regex"
                        )));
                    }
                    found = Some((key, make(text)));
                }
                Ok(found.map_or(StringMatch::Present, |(_, matcher)| matcher))
            }
            fn visit_unit<E: de::Error>(self) -> Result<StringMatch, E> {
                Ok(StringMatch::Present)
            }
        }
        deserializer.deserialize_any(OneOf)
    }
}

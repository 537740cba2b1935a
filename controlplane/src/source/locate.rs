//! Where a field stands in a text: the way back from `spec.http[0].timeout` to line and column.
//!
//! The YAML reader tells positions only in errors. So the field is looked for by a reader that walks down the path and fails on purpose when
//! it is there: exact for block style, flow style, JSON and aliases alike, at the price of reading the document once for each question.

use std::cell::Cell;
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A step of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// A name.
    Field(String),
    /// What stands in brackets: an index of a list or a key of a map.
    Bracket(String),
}

fn steps(path: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(inner) = rest.strip_prefix('[') {
            let (inner, after) = inner.split_once(']').unwrap_or((inner, ""));
            steps.push(Step::Bracket(inner.to_owned()));
            rest = after;
        } else {
            rest = rest.strip_prefix('.').unwrap_or(rest);
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            if end > 0 {
                steps.push(Step::Field(rest[..end].to_owned()));
            }
            rest = &rest[end..];
        }
    }
    steps
}

/// Line and column, from 1, of the field at `path` in a document, or of what holds it if it is not there. A field of a map stands at its name.
pub(super) fn locate(document: &str, path: &str) -> Option<(u32, u32)> {
    let steps = steps(path);
    for length in (0..=steps.len()).rev() {
        let found = Cell::new(Found::No);
        let walk = Walk { steps: &steps[..length], found: &found };
        let Err(error) = walk.deserialize(yaml_serde::Deserializer::from_str(document)) else { continue };
        let Some(at) = error.location() else { continue };
        if found.get() == Found::No {
            continue;
        }
        let at = (u32::try_from(at.line()).ok()?, u32::try_from(at.column()).ok()?);
        if length < steps.len() && length > 0 {
            return Some(nested(document, &steps[..length], at, path).unwrap_or(at));
        }
        return Some(at);
    }
    None
}

/// A path may go on inside a text that is YAML itself, such as `data.mesh` of the mesh's ConfigMap, if it is a literal block (`mesh: |`):
/// then its lines follow the line of its name.
fn nested(document: &str, outer: &[Step], at: (u32, u32), path: &str) -> Option<(u32, u32)> {
    let [Step::Field(data), Step::Field(_)] = outer else { return None };
    if data != "data" {
        return None;
    }
    let line = usize::try_from(at.0).ok()?;
    let header = document.lines().nth(line - 1)?;
    let style = header.rsplit(' ').next()?.trim_end();
    if !matches!(style, "|" | "|-" | "|+") {
        return None;
    }
    let indent = header.len() - header.trim_start().len();
    let body: Vec<&str> = document.lines().skip(line).collect();
    let width = |text: &str| text.len() - text.trim_start().len();
    let inner =
        body.iter().find(|text| !text.trim().is_empty()).map(|text| width(text)).filter(|inner| *inner > indent)?;
    let lines = body.iter().take_while(|text| text.trim().is_empty() || width(text) >= inner);
    let text: String = lines.map(|text| format!("{}\n", text.get(inner..).unwrap_or_default())).collect();
    let rest = path.split('.').skip(2).collect::<Vec<_>>().join(".");
    let (row, column) = locate(&text, &rest)?;
    Some((at.0 + row, column + u32::try_from(inner).ok()?))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    No,
    Yes,
}

#[derive(Clone, Copy)]
struct Walk<'a> {
    steps: &'a [Step],
    found: &'a Cell<Found>,
}

impl Walk<'_> {
    /// The error that carries the position.
    fn here<E: de::Error>(self) -> E {
        self.found.set(Found::Yes);
        E::custom("here")
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the way to a field")
    }
    fn visit_bool<E: de::Error>(self, _: bool) -> Result<(), E> {
        if self.steps.is_empty() { Err(self.here()) } else { Ok(()) }
    }
    fn visit_i64<E: de::Error>(self, _: i64) -> Result<(), E> {
        self.visit_bool(true)
    }
    fn visit_u64<E: de::Error>(self, _: u64) -> Result<(), E> {
        self.visit_bool(true)
    }
    fn visit_f64<E: de::Error>(self, _: f64) -> Result<(), E> {
        self.visit_bool(true)
    }
    fn visit_str<E: de::Error>(self, _: &str) -> Result<(), E> {
        self.visit_bool(true)
    }
    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        self.visit_bool(true)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Some((step, rest)) = self.steps.split_first() else { return Err(self.here()) };
        let wanted = match step {
            Step::Bracket(index) => index.parse::<usize>().ok(),
            Step::Field(_) => None,
        };
        let mut index = 0;
        loop {
            let more = if Some(index) == wanted {
                list.next_element_seed(Walk { steps: rest, found: self.found })?.is_some()
            } else {
                list.next_element::<IgnoredAny>()?.is_some()
            };
            if !more {
                return Ok(());
            }
            index += 1;
        }
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((step, rest)) = self.steps.split_first() else { return Err(self.here()) };
        let (Step::Field(wanted) | Step::Bracket(wanted)) = step;
        while let Some(is_it) = map.next_key_seed(IsKey { wanted, last: rest.is_empty(), walk: self })? {
            if is_it {
                map.next_value_seed(Walk { steps: rest, found: self.found })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

/// Compares a key, and stops at it if it ends the path.
struct IsKey<'a> {
    wanted: &'a str,
    last: bool,
    walk: Walk<'a>,
}

impl<'de> DeserializeSeed<'de> for IsKey<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for IsKey<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text as key")
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<bool, E> {
        if text != self.wanted {
            return Ok(false);
        }
        if self.last { Err(self.walk.here()) } else { Ok(true) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_stands_at_its_name_and_an_element_at_its_start() {
        let block = "kind: X\nspec:\n  hosts:\n  - a\n  - b\n  http:\n  - match:\n    - uri:\n        exact: /a\n    route: [{weight: 1}, {weight: 2}]\n  ports: {80: a}\n";
        for (path, expected) in [
            ("", (1, 1)),
            ("kind", (1, 1)),
            ("spec", (2, 1)),
            ("spec.hosts[1]", (5, 5)),
            ("spec.http[0]", (7, 5)),
            ("spec.http[0].match[0].uri.exact", (9, 9)),
            ("spec.http[0].route[1].weight", (10, 27)),
            ("spec.ports[80]", (11, 11)),
            // What is not there is told by what would hold it.
            ("spec.http[0].route[1].destination.host", (10, 26)),
            ("spec.http[7]", (6, 3)),
            ("nothing", (1, 1)),
        ] {
            assert_eq!(locate(block, path), Some(expected), "{path}");
        }
        assert_eq!(locate("{\"a\": {\"b\":\n [1, {\"c\": 2}]}}", "a.b[1].c"), Some((2, 7)));
        assert_eq!(locate("a: &x\n  b: 1\nc: *x\n", "c.b"), Some((2, 3)));
    }

    #[test]
    fn a_path_goes_on_inside_a_literal_block() {
        let text = "data:\n  other: x\n  mesh: |\n\n    # a comment\n    trustDomain: a\n    outboundTrafficPolicy:\n      mode: X\n";
        assert_eq!(locate(text, "data.mesh.outboundTrafficPolicy.mode"), Some((8, 7)));
        assert_eq!(locate(text, "data.mesh"), Some((3, 3)));
    }
}

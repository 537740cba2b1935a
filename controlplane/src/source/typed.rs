//! YAML as a tree of JSON values, and the tree as a typed object, with the path of what is wrong or unknown.
//!
//! The tree comes first, because protobuf's JSON mapping treats null as unset, because aliases must be counted before they are expanded
//! without end, and because one text may hold many objects (`kind: List`).

use std::cell::Cell;
use std::fmt;

use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// The most that one document may take once its aliases are expanded, in bytes of text and [`NODE_BYTES`] for each value.
const MOST_BYTES: usize = 64 << 20;

/// What a value costs beside its text.
const NODE_BYTES: usize = 32;

/// YAML's merge key.
const MERGE: &str = "<<";

/// Why a text is no YAML.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct SyntaxError {
    /// What is wrong; lines in it count from the first of the text.
    pub(crate) message: String,
    /// Line and column from 1, if known.
    pub(crate) at: Option<(u32, u32)>,
}

/// Reads one YAML document (or JSON) without nulls.
pub(crate) fn tree(text: &str) -> Result<Value, SyntaxError> {
    let budget = Cell::new(MOST_BYTES);
    let read = Node { budget: &budget }.deserialize(yaml_serde::Deserializer::from_str(text));
    read.map_err(|error| {
        let at = error.location().map(|at| (number(at.line()), number(at.column())));
        // The position is told apart from the text; a second one, such as where a list began, stays in it.
        let mut message = error.to_string();
        if let Some((line, column)) = at {
            message = message.replacen(&format!(" at line {line} column {column}"), "", 1);
        }
        SyntaxError { message, at }
    })
}

/// Drops fields that are null, as [`tree`] does: null is unset in protobuf's JSON mapping.
pub(crate) fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

fn number(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

#[derive(Clone, Copy)]
struct Node<'b> {
    budget: &'b Cell<usize>,
}

impl Node<'_> {
    fn spend<E: de::Error>(self, bytes: usize) -> Result<(), E> {
        let left = self.budget.get().checked_sub(bytes + NODE_BYTES);
        self.budget.set(left.unwrap_or(0));
        match left {
            Some(_) => Ok(()),
            None => Err(E::custom("is too large once its aliases are expanded; write it without them, or split it")),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping, a list, a text, a number, true, false or null, without a tag")
    }
    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        self.spend(0).map(|()| value.into())
    }
    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        self.spend(0).map(|()| value.into())
    }
    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        self.spend(0).map(|()| value.into())
    }
    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        self.spend(0)?;
        let number = serde_json::Number::from_f64(value);
        number.map(Value::Number).ok_or_else(|| E::custom("is not a finite number"))
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<Value, E> {
        self.spend(text.len()).map(|()| text.into())
    }
    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        self.spend(0).map(|()| Value::Null)
    }
    // A text without a document.
    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        self.spend(0)?;
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(self)? {
            values.push(value);
        }
        Ok(values.into())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        self.spend(0)?;
        let mut values = Map::new();
        let mut merged = Vec::new();
        // Keys whose value is null stay until the end, so that a second one is found and a merged one does not come back.
        while let Some(key) = map.next_key_seed(MapKey { node: self, taken: &values })? {
            let value = map.next_value_seed(self)?;
            if key == MERGE {
                merged.push(value);
            } else {
                values.insert(key, value);
            }
        }
        for value in merged {
            merge(&mut values, value).map_err(de::Error::custom)?;
        }
        values.retain(|_, value| !value.is_null());
        Ok(values.into())
    }
}

fn merge(values: &mut Map<String, Value>, merged: Value) -> Result<(), &'static str> {
    match merged {
        Value::Object(map) => {
            for (key, value) in map {
                values.entry(key).or_insert(value);
            }
            Ok(())
        }
        Value::Array(list) if list.iter().all(Value::is_object) => {
            list.into_iter().try_for_each(|map| merge(values, map))
        }
        _ => Err("`<<` merges mappings only; give the alias of a mapping"),
    }
}

/// A key, refused at its own place if it is there already.
struct MapKey<'b, 'm> {
    node: Node<'b>,
    taken: &'m Map<String, Value>,
}

impl<'de> DeserializeSeed<'de> for MapKey<'_, '_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for MapKey<'_, '_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text as key")
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
        self.node.spend(text.len())?;
        if self.taken.contains_key(text) {
            return Err(E::custom(format!("the key `{text}` is given twice; remove one")));
        }
        Ok(text.to_owned())
    }
}

/// A typed value.
pub(crate) struct Read<T> {
    /// The value.
    pub(crate) value: T,
    /// Paths of fields that its type does not have.
    pub(crate) unknown: Vec<String>,
}

/// Why a tree is not of a type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TypeError {
    /// Path of the field; empty is the whole.
    pub(crate) path: String,
    /// What is wrong.
    pub(crate) message: String,
}

/// Reads a tree as a type.
pub(crate) fn read<T: DeserializeOwned>(tree: Value) -> Result<Read<T>, TypeError> {
    let mut unknown = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(tree, &mut track);
    let mut ignore = |path: serde_ignored::Path<'_>| unknown.push(ignored_path(&path));
    let value = T::deserialize(serde_ignored::Deserializer::new(tracked, &mut ignore));
    match value {
        Ok(value) => Ok(Read { value, unknown }),
        Err(error) => Err(TypeError { path: tracked_path(&track.path()), message: error.to_string() }),
    }
}

/// Appends the name of a field, or a key that is not like one in brackets.
pub(crate) fn push_key(path: &mut String, key: &str) {
    let plain = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && !key.starts_with(|first: char| first.is_ascii_digit());
    if !plain {
        path.push_str(&format!("[{key}]"));
    } else if path.is_empty() {
        path.push_str(key);
    } else {
        path.push_str(&format!(".{key}"));
    }
}

fn tracked_path(tracked: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let mut path = String::new();
    for segment in tracked.iter() {
        match segment {
            Segment::Seq { index } => path.push_str(&format!("[{index}]")),
            Segment::Map { key } => push_key(&mut path, key),
            // Enumerations are texts here, so their variant is no step of the path.
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    path
}

fn ignored_path(ignored: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    match ignored {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", ignored_path(parent)),
        Path::Map { parent, key } => {
            let mut path = ignored_path(parent);
            push_key(&mut path, key);
            path
        }
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => {
            ignored_path(parent)
        }
    }
}

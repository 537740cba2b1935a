//! The fields of a serde type: what its `Deserialize` asks for, found by walking down one path at a time.

use std::cell::Cell;
use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// A field of a type, wherever that type stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Field {
    type_name: &'static str,
    name: &'static str,
}

/// Every path below `from` in `T`, inner ones too: `http.match.uri`. Lists and maps are no steps of their own.
pub fn paths<T: DeserializeOwned>(from: &[&'static str]) -> Vec<(String, Field)> {
    let mut found = Vec::new();
    let mut open = vec![from.to_vec()];
    while let Some(path) = open.pop() {
        let Some((type_name, fields)) = fields::<T>(&path) else { continue };
        for name in fields {
            let below = [path.as_slice(), &[*name]].concat();
            found.push((below[from.len()..].join("."), Field { type_name, name }));
            open.push(below);
        }
    }
    found.sort();
    found
}

/// Name of a type and of its fields.
type Type = (&'static str, &'static [&'static str]);

/// The type that stands at `path`; none of a leaf.
fn fields<T: DeserializeOwned>(path: &[&'static str]) -> Option<Type> {
    let found = Cell::new(None);
    // It always ends in an error: either the fields are found, or a value is asked for.
    let _ = T::deserialize(Walk { path, found: &found });
    found.get()
}

#[derive(Debug)]
struct Stop;

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("stop")
    }
}

impl std::error::Error for Stop {}

impl de::Error for Stop {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

#[derive(Clone, Copy)]
struct Walk<'a> {
    path: &'a [&'static str],
    found: &'a Cell<Option<Type>>,
}

impl<'de> Deserializer<'de> for Walk<'_> {
    type Error = Stop;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Stop> {
        Err(Stop)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Stop> {
        match self.path {
            [] => {
                self.found.set(Some((name, fields)));
                Err(Stop)
            }
            [first, rest @ ..] => {
                visitor.visit_map(One { key: Some(*first), value: Walk { path: rest, found: self.found } })
            }
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        visitor.visit_map(One { key: Some("key"), value: self })
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        visitor.visit_seq(One { key: Some(""), value: self })
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Stop> {
        visitor.visit_newtype_struct(self)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        tuple tuple_struct enum identifier ignored_any
    }
}

/// One entry of a map, or one element of a list.
struct One<'a> {
    key: Option<&'static str>,
    value: Walk<'a>,
}

impl<'de> MapAccess<'de> for One<'_> {
    type Error = Stop;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Stop> {
        self.key.take().map(|key| seed.deserialize(StrDeserializer::new(key))).transpose()
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Stop> {
        seed.deserialize(self.value)
    }
}

impl<'de> SeqAccess<'de> for One<'_> {
    type Error = Stop;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Stop> {
        self.key.take().map(|_| seed.deserialize(self.value)).transpose()
    }
}

//! A value at a path of a tree, as the tables write it. Also used by the tests against an API server.

use serde_json::{Map, Value};

/// Puts `value` at a path such as `http[0].match[0].headers[x-a]`.
pub fn put(tree: &mut Value, path: &str, value: Value) {
    let mut place = tree;
    for step in steps(path) {
        place = match step.parse::<usize>() {
            Ok(index) => {
                if !place.is_array() {
                    *place = Value::Array(Vec::new());
                }
                let list = place.as_array_mut().unwrap();
                while list.len() <= index {
                    list.push(Value::Object(Map::new()));
                }
                &mut list[index]
            }
            Err(_) => {
                if !place.is_object() {
                    *place = Value::Object(Map::new());
                }
                place.as_object_mut().unwrap().entry(step).or_insert(Value::Null)
            }
        };
    }
    *place = value;
}

fn steps(path: &str) -> impl Iterator<Item = &str> {
    let mut rest = path;
    std::iter::from_fn(move || {
        let (step, left) = match rest.strip_prefix('[') {
            Some(inner) => inner.split_once(']')?,
            None => rest.split_at(rest.find(['.', '[']).unwrap_or(rest.len())),
        };
        rest = left.strip_prefix('.').unwrap_or(left);
        (!step.is_empty()).then_some(step)
    })
}

//! `--set a.b=1,c[0]=x,d={y,z}`: the same words as Helm's.
//!
//! A line of the command → here → [`crate::install::values`].

use serde_json::{Map, Value};

/// Lays what a `--set` says over `target`. The error says what is wrong with it.
pub fn apply(target: &mut Value, text: &str) -> Result<(), String> {
    for assignment in split(text, ',') {
        let wrong = |reason: &str| format!("--set {assignment}: {reason}");
        let parts = split(&assignment, '=');
        let (path, value) = match parts.split_first() {
            Some((path, rest)) if !rest.is_empty() => (path, rest.join("=")),
            _ => return Err(wrong("is not of the form NAME=VALUE")),
        };
        let steps = steps(path).map_err(|reason| wrong(&reason))?;
        *place(target, &steps).map_err(|reason| wrong(&reason))? = list_or_scalar(&value);
    }
    Ok(())
}

/// A step of a path.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Field(String),
    Index(usize),
}

/// The highest index that is taken; a list is filled up to it.
const MAX_INDEX: usize = 1024;

/// Splits at a separator that is neither escaped nor inside braces. Escapes stay.
fn split(text: &str, separator: char) -> Vec<String> {
    let (mut parts, mut part, mut depth, mut escaped) = (Vec::new(), String::new(), 0_usize, false);
    for letter in text.chars() {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ if letter == separator && depth == 0 => {
                parts.push(std::mem::take(&mut part));
                continue;
            }
            _ => {}
        }
        part.push(letter);
    }
    parts.push(part);
    parts
}

fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        // A backslash at the end escapes nothing and stays.
        plain.push(if letter == '\\' { letters.next().unwrap_or('\\') } else { letter });
    }
    plain
}

fn steps(path: &str) -> Result<Vec<Step>, String> {
    let mut steps = Vec::new();
    for part in split(path, '.') {
        let (name, indexes) = match part.find('[') {
            Some(start) => part.split_at(start),
            None => (part.as_str(), ""),
        };
        if name.is_empty() {
            return Err("a name is empty".to_owned());
        }
        steps.push(Step::Field(unescape(name)));
        let inner = indexes.strip_prefix('[').map(|rest| rest.strip_suffix(']').ok_or("a [ is not closed"));
        for index in inner.transpose()?.into_iter().flat_map(|indexes| indexes.split("][")) {
            let number = index.parse().map_err(|_| format!("[{index}] is no index"))?;
            if number > MAX_INDEX {
                return Err(format!("[{index}] is more than {MAX_INDEX}"));
            }
            steps.push(Step::Index(number));
        }
    }
    Ok(steps)
}

fn place<'a>(target: &'a mut Value, steps: &[Step]) -> Result<&'a mut Value, String> {
    let mut place = target;
    for step in steps {
        place = match step {
            Step::Field(name) => {
                if place.is_null() {
                    *place = Value::Object(Map::new());
                }
                let fields = place.as_object_mut().ok_or_else(|| format!("`{name}` would be a field of no object"))?;
                fields.entry(name.clone()).or_insert(Value::Null)
            }
            Step::Index(index) => {
                if place.is_null() {
                    *place = Value::Array(Vec::new());
                }
                let items = place.as_array_mut().ok_or_else(|| format!("[{index}] would be an item of no list"))?;
                if items.len() <= *index {
                    items.resize(index + 1, Value::Null);
                }
                &mut items[*index]
            }
        };
    }
    Ok(place)
}

fn list_or_scalar(text: &str) -> Value {
    match text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
        Some("") => Value::Array(Vec::new()),
        Some(items) => Value::Array(split(items, ',').iter().map(|item| scalar(item)).collect()),
        None => scalar(text),
    }
}

fn scalar(text: &str) -> Value {
    match text {
        "true" => true.into(),
        "false" => false.into(),
        "null" => Value::Null,
        // `0123` is a text: somebody's number, not ours.
        _ if text == "0" || !text.starts_with('0') => match text.parse::<i64>() {
            Ok(number) => number.into(),
            Err(_) => unescape(text).into(),
        },
        _ => unescape(text).into(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn assignments_are_helms() {
        for (text, value) in [
            ("a=1", json!({"a": 1})),
            ("a.b=x,c=true", json!({"a": {"b": "x"}, "c": true})),
            (r"a\.b=x\,y", json!({"a.b": "x,y"})),
            ("a={x,2},b={}", json!({"a": ["x", 2], "b": []})),
            ("a[1].b=null", json!({"a": [null, {"b": null}]})),
            ("a=b=c", json!({"a": "b=c"})),
            ("a=007,b=0,c=", json!({"a": "007", "b": 0, "c": ""})),
            ("meshConfig.accessLogFile=/dev/stdout", json!({"meshConfig": {"accessLogFile": "/dev/stdout"}})),
        ] {
            let mut target = Value::Null;
            apply(&mut target, text).unwrap();
            assert_eq!(target, value, "{text}");
        }
    }

    #[test]
    fn wrong_assignments_say_why() {
        for (text, reason) in [
            ("a", "NAME=VALUE"),
            ("a..b=1", "a name is empty"),
            ("a[x]=1", "[x] is no index"),
            ("a[0=1", "is not closed"),
            ("a[99999999]=1", "more than"),
            ("a=1,a.b=2", "`b` would be a field of no object"),
        ] {
            let error = apply(&mut Value::Null, text).unwrap_err();
            assert!(error.starts_with("--set ") && error.contains(reason), "{error}");
        }
    }
}

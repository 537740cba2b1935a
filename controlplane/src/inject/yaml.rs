//! JSON values as YAML that every reader takes alike, kubectl's YAML 1.1 (in which `yes` is a truth) as well as YAML 1.2.

use serde_json::Value;

/// Words that some version of YAML takes for something else than text.
const RESERVED: [&str; 10] = ["true", "false", "yes", "no", "on", "off", "y", "n", "null", "nan"];

/// A document in block style.
pub(super) fn write(value: &Value) -> String {
    let mut text = String::new();
    block(&mut text, value, 0);
    text
}

/// Writes `value` from the start of a line on.
fn block(text: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (name, value) in map {
                text.extend(std::iter::repeat_n(' ', indent));
                entry(text, name, value, indent);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                text.extend(std::iter::repeat_n(' ', indent));
                text.push_str("- ");
                match item {
                    // The first field stands beside the dash, the others below it.
                    Value::Object(map) if !map.is_empty() => {
                        for (index, (name, value)) in map.iter().enumerate() {
                            if index > 0 {
                                text.extend(std::iter::repeat_n(' ', indent + 2));
                            }
                            entry(text, name, value, indent + 2);
                        }
                    }
                    Value::Array(inner) if !inner.is_empty() => {
                        text.push('\n');
                        block(text, item, indent + 2);
                    }
                    item => line(text, item),
                }
            }
        }
        value => {
            text.extend(std::iter::repeat_n(' ', indent));
            line(text, value);
        }
    }
}

fn entry(text: &mut String, name: &str, value: &Value, indent: usize) {
    text.push_str(&scalar(name));
    text.push(':');
    match value {
        Value::Object(map) if !map.is_empty() => {
            text.push('\n');
            block(text, value, indent + 2);
        }
        // Lists of fields are not indented, as kubectl writes them.
        Value::Array(items) if !items.is_empty() => {
            text.push('\n');
            block(text, value, indent);
        }
        value => {
            text.push(' ');
            line(text, value);
        }
    }
}

fn line(text: &mut String, value: &Value) {
    match value {
        Value::String(value) => text.push_str(&scalar(value)),
        // Numbers, truths, null and what is empty are written alike in both languages.
        value => text.push_str(&value.to_string()),
    }
    text.push('\n');
}

/// A text without marks where nobody can take it for something else, else in single ones, in which nothing has a meaning; what has no place on one
/// line is written as JSON writes it, which is YAML.
fn scalar(value: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/' | b':');
    let first = value.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'/');
    let reserved = RESERVED.contains(&value.to_ascii_lowercase().as_str());
    if first && value.bytes().all(plain) && !value.ends_with(':') && !reserved {
        value.to_owned()
    } else if value.chars().all(|one| !one.is_control() && !matches!(one, '\u{feff}' | '\u{2028}' | '\u{2029}')) {
        format!("'{}'", value.replace('\'', "''"))
    } else {
        Value::from(value).to_string()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn texts_stay_texts_in_every_version_of_yaml() {
        for (value, expected) in [
            (json!({"a": "yes", "b": "Off", "y": "n"}), "a: 'yes'\nb: 'Off'\n'y': 'n'\n"),
            (json!(["1_000", "0755", ".5", "1e3", "12:30:45"]), "- '1_000'\n- '0755'\n- '.5'\n- '1e3'\n- '12:30:45'\n"),
            (json!(["", "~", "a: b", "it's #1", " x "]), "- ''\n- '~'\n- 'a: b'\n- 'it''s #1'\n- ' x '\n"),
            (json!(["x\ny", "a:", "\t", "é"]), "- \"x\\ny\"\n- 'a:'\n- \"\\t\"\n- 'é'\n"),
            (
                json!({"image": "a.b/c:1", "p": "/x/y", "size": 1, "t": true, "z": null}),
                "image: a.b/c:1\np: /x/y\nsize: 1\nt: true\nz: null\n",
            ),
            (
                json!({"a": [], "b": {}, "c": [{"d": 1, "e": [2, 3]}, "f", [4]]}),
                "a: []\nb: {}\nc:\n- d: 1\n  e:\n  - 2\n  - 3\n- f\n- \n  - 4\n",
            ),
        ] {
            let text = write(&value);
            assert_eq!(text, expected);
            assert_eq!(yaml_serde::from_str::<Value>(&text).unwrap(), value, "{text}");
        }
    }
}

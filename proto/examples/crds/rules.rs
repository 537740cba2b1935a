//! What values must hold beside their type: the rules of Istio's own definitions, and those of ours whose breach no mesh could serve.
//!
//! A rule stands at a type (`HttpRoute`), a field of it (`HttpRoute.weight`), an element of a list or map (`ServiceEntry.hosts[]`), or at a
//! type only where it is the whole spec (`WorkloadEntry as a whole`). What is refused here is refused by the control plane's validation, too.

mod table;

use std::collections::BTreeSet;
use std::error::Error;

use serde_json::{Map, Value, json};

use table::RULES;

/// Durations of protobuf and Go that are not negative.
const DURATION: &str = r"^0$|^(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h))+$";

/// What must hold.
#[derive(Clone, Copy)]
pub(crate) enum Rule {
    /// These fields are given.
    Required(&'static [&'static str]),
    /// One of these fields is given, and no other.
    ExactlyOne(&'static [&'static str]),
    /// No two of these fields are given.
    AtMostOne(&'static [&'static str]),
    /// An expression of CEL, and what is told when it is false.
    Cel(&'static str, &'static str),
    /// A duration that is at least this long.
    AtLeast(&'static str),
    /// A duration whose form alone is looked at: the expressions of one definition have a budget.
    Duration,
    /// A number of this range.
    Range(i64, i64),
    /// Least and most elements of a list or map, or letters of a text.
    Length(u64, u64),
    /// One of these words.
    Words(&'static [&'static str]),
    /// A text that matches.
    Pattern(&'static str),
    /// A text of a format that API servers know.
    Format(&'static str),
    /// A number, or a text of digits.
    IntOrString,
}

/// Which rules found their place.
#[derive(Default)]
pub(crate) struct Used(BTreeSet<&'static str>);

impl Used {
    /// Applies the rules of a place to its schema.
    pub(crate) fn apply(&mut self, place: &str, node: &mut Map<String, Value>) -> Result<(), Box<dyn Error>> {
        for (at, rule) in RULES.iter().filter(|(at, _)| *at == place) {
            self.0.insert(at);
            for name in rule.fields() {
                let known = node.get("properties").is_some_and(|fields| fields.get(name).is_some());
                if !known {
                    return Err(format!("{place} has no field {name}").into());
                }
            }
            rule.apply(node);
        }
        Ok(())
    }

    /// Places of rules that no type has.
    pub(crate) fn missing(&self) -> Vec<&'static str> {
        RULES.iter().map(|(at, _)| *at).filter(|at| !self.0.contains(at)).collect()
    }
}

impl Rule {
    fn fields(self) -> &'static [&'static str] {
        match self {
            Self::Required(fields) | Self::ExactlyOne(fields) | Self::AtMostOne(fields) => fields,
            _ => &[],
        }
    }

    fn apply(self, node: &mut Map<String, Value>) {
        let kind = node.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
        let mut set = |name: &str, value: Value| node.insert(name.to_owned(), value);
        match self {
            Self::Required(fields) => {
                set("required", json!(fields));
            }
            Self::ExactlyOne(fields) => one_of(node, fields, false),
            Self::AtMostOne(fields) => one_of(node, fields, true),
            Self::Cel(rule, message) => {
                let rules = node.entry("x-kubernetes-validations").or_insert_with(|| json!([]));
                if let Some(rules) = rules.as_array_mut() {
                    rules.push(json!({"rule": rule, "message": message}));
                }
            }
            Self::AtLeast(least) => {
                let rule = json!({
                    "rule": format!("duration(self) >= duration('{least}')"),
                    "message": format!("must be a duration of at least {least}, such as 1.5s, 300ms or 1h30m"),
                });
                set("x-kubernetes-validations", json!([rule]));
            }
            Self::Duration => {
                node.remove("x-kubernetes-validations");
                node.insert("pattern".into(), DURATION.into());
            }
            Self::Range(least, most) => {
                set("minimum", json!(least));
                set("maximum", json!(most));
            }
            Self::Length(least, most) => {
                let (min, max) = match kind.as_str() {
                    "array" => ("minItems", "maxItems"),
                    "object" => ("minProperties", "maxProperties"),
                    _ => ("minLength", "maxLength"),
                };
                if least > 0 {
                    set(min, json!(least));
                }
                set(max, json!(most));
            }
            Self::Words(words) => {
                set("enum", json!(words));
            }
            Self::Pattern(pattern) => {
                set("pattern", json!(pattern));
            }
            Self::Format(format) => {
                set("format", json!(format));
            }
            Self::IntOrString => {
                for name in ["type", "format"] {
                    node.remove(name);
                }
                node.insert("anyOf".into(), json!([{"type": "integer"}, {"type": "string"}]));
                node.insert("x-kubernetes-int-or-string".into(), true.into());
            }
        }
    }
}

/// Alternatives of which one holds; a list counts as given when it has an element.
fn one_of(node: &mut Map<String, Value>, fields: &[&str], or_none: bool) {
    let given: Vec<Value> = fields
        .iter()
        .map(|field| match node.get("properties").and_then(|fields| fields.get(field)?.get("type")) {
            Some(kind) if kind == "array" => json!({"required": [field], "properties": {*field: {"minItems": 1}}}),
            _ => json!({"required": [field]}),
        })
        .collect();
    let mut alternatives = given.clone();
    if or_none {
        alternatives.insert(0, json!({"not": {"anyOf": given}}));
    }
    let one = json!({"oneOf": alternatives});
    // Several groups of one message stand side by side.
    match node.remove("oneOf") {
        Some(other) => {
            node.insert("allOf".into(), json!([{"oneOf": other}, one]));
        }
        None => node.extend(one.as_object().cloned().unwrap_or_default()),
    }
}

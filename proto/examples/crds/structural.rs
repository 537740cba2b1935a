//! From the JSON schema of a type to a structural schema: references inlined, null as `nullable`, enumerations as lists, no defaults.
//!
//! A default would be written into users' objects by the API server; absent is what the types take for it.
//! Source: <https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema>.

use std::error::Error;

use serde_json::{Map, Value, json};

use crate::rules::Used;

type Result<T> = std::result::Result<T, Box<dyn Error>>;
type Node = Map<String, Value>;

/// Marks a node whose fields are not known.
const FREE: &str = "x-kubernetes-preserve-unknown-fields";

/// The structural schema of the type `name`, with the rules of its fields.
pub(crate) fn structural(schema: &Value, name: &str, used: &mut Used) -> Result<Value> {
    let definitions = schema.get("$defs").and_then(Value::as_object).cloned().unwrap_or_default();
    let mut builder = Builder { definitions, used };
    let root = schema.as_object().ok_or("a type has fields")?;
    let mut node = builder.message(name, root)?;
    builder.used.apply(&format!("{name} as a whole"), &mut node)?;
    Ok(Value::Object(node))
}

struct Builder<'u> {
    definitions: Node,
    used: &'u mut Used,
}

impl Builder<'_> {
    /// A type of its own, and the rules of it.
    fn message(&mut self, name: &str, schema: &Node) -> Result<Node> {
        let mut node = self.plain(name, schema)?;
        self.used.apply(name, &mut node)?;
        Ok(node)
    }

    /// A value that stands at `place`.
    fn value(&mut self, place: &str, schema: &Value) -> Result<Node> {
        // `true` is any value.
        let empty = Node::new();
        let schema = schema.as_object().unwrap_or(&empty);
        let mut node = if let Some(name) = reference(schema) {
            let definition = self.definitions.get(name).and_then(Value::as_object).cloned();
            self.message(name, &definition.ok_or_else(|| format!("{place}: {name} is not defined"))?)?
        } else if let Some([inner, null]) = schema.get("anyOf").and_then(Value::as_array).map(Vec::as_slice)
            && null.get("type").is_some_and(|kind| kind == "null")
        {
            let mut node = self.value(place, inner)?;
            node.insert("nullable".into(), true.into());
            node
        } else {
            self.plain(place, schema)?
        };
        if let Some(about) = schema.get("description") {
            node.insert("description".into(), about.clone());
        }
        Ok(node)
    }

    fn plain(&mut self, place: &str, schema: &Node) -> Result<Node> {
        let mut node = Node::new();
        for same in ["description", "x-kubernetes-validations"] {
            if let Some(value) = schema.get(same) {
                node.insert(same.into(), value.clone());
            }
        }
        if let Some(words) = words(schema) {
            node.insert("type".into(), "string".into());
            node.insert("enum".into(), words.into());
            return Ok(node);
        }
        let (kind, nullable) = kind(schema);
        if nullable {
            node.insert("nullable".into(), true.into());
        }
        let Some(kind) = kind else {
            // All free parts of Istio's kinds are objects (google.protobuf.Struct).
            node.insert("type".into(), "object".into());
            node.insert(FREE.into(), true.into());
            return Ok(node);
        };
        node.insert("type".into(), kind.into());
        match kind {
            "object" => self.object(place, schema, &mut node)?,
            "array" => {
                let mut items = self.value(place, schema.get("items").unwrap_or(&Value::Null))?;
                self.used.apply(&format!("{place}[]"), &mut items)?;
                node.insert("items".into(), items.into());
            }
            "integer" => integer(schema, &mut node),
            "number" => {
                node.insert("format".into(), "double".into());
            }
            "string" | "boolean" => {}
            other => return Err(format!("{place}: {other} has no place in a structural schema").into()),
        }
        Ok(node)
    }

    fn object(&mut self, place: &str, schema: &Node, node: &mut Node) -> Result<()> {
        if let Some(values) = schema.get("additionalProperties").filter(|values| values.is_object()) {
            let mut values = self.value(place, values)?;
            self.used.apply(&format!("{place}[]"), &mut values)?;
            node.insert("additionalProperties".into(), values.into());
            return Ok(());
        }
        let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
            node.insert(FREE.into(), true.into());
            return Ok(());
        };
        let mut fields = Node::new();
        for (name, field) in properties {
            let place = format!("{place}.{name}");
            let mut built = self.value(&place, field)?;
            self.used.apply(&place, &mut built)?;
            fields.insert(name.clone(), built.into());
        }
        node.insert("properties".into(), fields.into());
        Ok(())
    }
}

fn reference(schema: &Node) -> Option<&str> {
    schema.get("$ref")?.as_str()?.strip_prefix("#/$defs/")
}

/// The words of an enumeration, each with or without a description.
fn words(schema: &Node) -> Option<Vec<Value>> {
    if let Some(words) = schema.get("enum").and_then(Value::as_array) {
        return Some(words.clone());
    }
    schema.get("oneOf")?.as_array()?.iter().map(|one| one.get("const").cloned()).collect()
}

/// The type, and whether it may be null.
fn kind(schema: &Node) -> (Option<&str>, bool) {
    match schema.get("type") {
        Some(Value::String(kind)) => (Some(kind), false),
        Some(Value::Array(kinds)) => {
            let kinds: Vec<&str> = kinds.iter().filter_map(Value::as_str).collect();
            (kinds.iter().copied().find(|kind| *kind != "null"), kinds.contains(&"null"))
        }
        _ => (None, false),
    }
}

/// OpenAPI has names for signed numbers only; the others have a range.
fn integer(schema: &Node, node: &mut Node) {
    match schema.get("format").and_then(Value::as_str) {
        Some(format @ ("int32" | "int64")) => {
            node.insert("format".into(), format.into());
        }
        Some("uint32") => {
            node.insert("minimum".into(), json!(0));
            node.insert("maximum".into(), json!(u32::MAX));
        }
        _ => {
            node.insert("minimum".into(), json!(0));
        }
    }
}

//! Go's templates, as far as our charts use them: the engine is a library's, the few functions that Helm adds are here.
//!
//! `deploy/charts` → [`crate::install::chart`] → here → objects. `cli/tests/charts.rs` renders the same charts by Helm itself and compares.

use std::collections::HashMap;

use gtmpl_ng::{Context, Func, FuncError, Template, Value};
use serde_json::{Map, Number};

/// What a chart may call beside Go's own functions. All of them mean what they mean to Helm.
const FUNCTIONS: &[(&str, Func)] = &[
    ("default", default),
    ("dict", dict),
    ("indent", indent),
    ("toJson", to_json),
    ("toYaml", to_yaml),
    ("trimPrefix", trim_prefix),
];

/// Renders one file of a chart. `helpers` defines what every file of the chart may name.
pub fn render(helpers: &str, text: &str, data: &serde_json::Value) -> Result<String, String> {
    let mut template = Template::default();
    template.add_funcs(FUNCTIONS);
    template.add_template("_helpers.tpl", helpers).map_err(|error| format!("_helpers.tpl: {error}"))?;
    template.parse(text).map_err(|error| error.to_string())?;
    template.render(&Context::from(to_template(data))).map_err(|error| error.to_string())
}

fn to_template(value: &serde_json::Value) -> Value {
    match value {
        serde_json::Value::Null => Value::Nil,
        serde_json::Value::Bool(value) => Value::Bool(*value),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(number), _, _) => number.into(),
            (_, Some(number), _) => number.into(),
            (_, _, number) => number.unwrap_or_default().into(),
        },
        serde_json::Value::String(text) => Value::String(text.clone()),
        serde_json::Value::Array(items) => Value::Array(items.iter().map(to_template).collect()),
        serde_json::Value::Object(fields) => {
            // A map, not an object of the engine: what a map lacks is nothing, as it is to Go, and no error.
            Value::Map(fields.iter().map(|(name, value)| (name.clone(), to_template(value))).collect())
        }
    }
}

fn from_template(value: &Value) -> Result<serde_json::Value, FuncError> {
    Ok(match value {
        Value::Nil | Value::NoValue => serde_json::Value::Null,
        Value::Bool(value) => (*value).into(),
        Value::String(text) => text.clone().into(),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => number.into(),
            (_, Some(number)) => number.into(),
            _ => number.as_f64().and_then(Number::from_f64).map_or(serde_json::Value::Null, serde_json::Value::Number),
        },
        Value::Array(items) => serde_json::Value::Array(items.iter().map(from_template).collect::<Result<_, _>>()?),
        Value::Object(fields) | Value::Map(fields) => {
            // The engine keeps no order; names in order make equal texts of equal values.
            let mut names: Vec<_> = fields.iter().collect();
            names.sort_by_key(|(name, _)| *name);
            let fields = names.into_iter().map(|(name, value)| Ok((name.clone(), from_template(value)?)));
            serde_json::Value::Object(fields.collect::<Result<Map<_, _>, FuncError>>()?)
        }
        Value::Function(_) => return Err(FuncError::UnableToConvertFromValue),
    })
}

fn default(arguments: &[Value]) -> Result<Value, FuncError> {
    let [instead, given] = exactly::<2>("default", arguments)?;
    let empty = match from_template(given)? {
        serde_json::Value::Null => true,
        serde_json::Value::Bool(value) => !value,
        serde_json::Value::Number(number) => number.as_f64() == Some(0.0),
        serde_json::Value::String(text) => text.is_empty(),
        serde_json::Value::Array(items) => items.is_empty(),
        serde_json::Value::Object(fields) => fields.is_empty(),
    };
    Ok(if empty { instead.clone() } else { given.clone() })
}

fn dict(arguments: &[Value]) -> Result<Value, FuncError> {
    let mut fields = HashMap::new();
    for pair in arguments.chunks(2) {
        let [name, value] = exactly::<2>("dict", pair)?;
        fields.insert(text(name)?.to_owned(), value.clone());
    }
    Ok(Value::Map(fields))
}

fn indent(arguments: &[Value]) -> Result<Value, FuncError> {
    let [width, given] = exactly::<2>("indent", arguments)?;
    let width = from_template(width)?.as_u64().and_then(|width| usize::try_from(width).ok()).unwrap_or_default();
    let pad = " ".repeat(width);
    Ok(Value::String(format!("{pad}{}", text(given)?.replace('\n', &format!("\n{pad}")))))
}

fn to_json(arguments: &[Value]) -> Result<Value, FuncError> {
    let [value] = exactly::<1>("toJson", arguments)?;
    Ok(Value::String(from_template(value)?.to_string()))
}

fn to_yaml(arguments: &[Value]) -> Result<Value, FuncError> {
    let [value] = exactly::<1>("toYaml", arguments)?;
    let text = yaml_serde::to_string(&from_template(value)?).map_err(|error| FuncError::Generic(error.to_string()))?;
    Ok(Value::String(text.trim_end().to_owned()))
}

fn trim_prefix(arguments: &[Value]) -> Result<Value, FuncError> {
    let [prefix, given] = exactly::<2>("trimPrefix", arguments)?;
    let given = text(given)?;
    Ok(Value::String(given.strip_prefix(text(prefix)?).unwrap_or(given).to_owned()))
}

fn exactly<'a, const N: usize>(function: &str, arguments: &'a [Value]) -> Result<&'a [Value; N], FuncError> {
    arguments.try_into().map_err(|_| FuncError::ExactlyXArgs(function.to_owned(), N))
}

fn text(value: &Value) -> Result<&str, FuncError> {
    match value {
        Value::String(text) => Ok(text),
        _ => Err(FuncError::UnableToConvertFromValue),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn functions_are_helms() {
        let data = json!({"a": "istio-x", "none": "", "list": [1, "b"], "map": {"z": true, "b": {"c": 1.5}}, "big": 1_000_000});
        for (template, text) in [
            (r#"{{ default "d" .none }}{{ default "d" .a }}{{ default "d" .missing.deep }}"#, "distio-xd"),
            ("{{ toJson .list }}{{ toJson .map }}{{ toJson .missing }}", r#"[1,"b"]{"b":{"c":1.5},"z":true}null"#),
            ("{{ toYaml .map | indent 2 }}", "  b:\n    c: 1.5\n  z: true"),
            (r#"{{ trimPrefix "istio-" .a }}{{ trimPrefix "y" .a }}"#, "xistio-x"),
            (r#"{{ template "h" (dict "x" .a "y" 2) }}"#, "<istio-x2>"),
            ("{{ toJson .big }}", "1000000"),
            ("{{ range $name, $value := .map }}{{ $name }},{{ end }}", "b,z,"),
        ] {
            let helpers = r#"{{ define "h" -}} <{{ .x }}{{ .y }}> {{- end }}"#;
            assert_eq!(render(helpers, template, &data).unwrap(), text, "{template}");
        }
        assert!(render("", "{{ nothing }}", &data).is_err());
    }
}

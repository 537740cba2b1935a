//! The charts of `deploy/charts`, embedded, rendered as Helm renders them: defaults, then values, then the schema, then the templates.
//!
//! [`crate::install::values`] → here → [`crate::install::manifest`].

use jsonschema::Validator;
use serde::Deserialize as _;
use serde_json::{Value, json};
use thiserror::Error;

use super::object::Object;
use super::template;

/// Files of `deploy/charts` and `deploy/profiles`: path below `deploy`, text. The build script gathers them.
const FILES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/deploy.rs"));

/// Why a chart gives no objects.
#[derive(Debug, Error)]
pub enum ChartError {
    /// A value that the chart's schema does not allow.
    #[error("{field}: {message}; deploy/charts/{chart}/values.yaml lists all values")]
    Value {
        /// The chart.
        chart: &'static str,
        /// Path of the value.
        field: String,
        /// What is wrong.
        message: String,
    },
    /// A fault of the chart itself.
    #[error("chart {chart}, {file}: {message}")]
    Chart {
        /// The chart.
        chart: &'static str,
        /// The file.
        file: String,
        /// What is wrong.
        message: String,
    },
    /// There is no such profile.
    #[error("profile {0}: there is no such profile; there are {1}")]
    Profile(String, String),
}

/// A release, as templates see it.
#[derive(Debug, Clone, Copy)]
pub struct Release<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// Who manages it: `meshctl`, `Helm`.
    pub service: &'a str,
}

/// A chart, read.
#[derive(Debug)]
pub struct Chart {
    name: &'static str,
    about: Value,
    defaults: Value,
    schema: Validator,
    helpers: &'static str,
    templates: Vec<(&'static str, &'static str)>,
}

impl Chart {
    /// Reads the chart `deploy/charts/NAME`.
    pub fn embedded(name: &'static str) -> Result<Self, ChartError> {
        let fault = |file: &str, message: String| ChartError::Chart { chart: name, file: file.to_owned(), message };
        let read = |file: &str| {
            let path = format!("charts/{name}/{file}");
            file_of(&path).ok_or_else(|| fault(file, "is not embedded".to_owned()))
        };
        let yaml = |file: &str| -> Result<Value, ChartError> {
            yaml_serde::from_str(read(file)?).map_err(|error| fault(file, error.to_string()))
        };
        let about = yaml("Chart.yaml")?;
        let defaults = yaml("values.yaml")?;
        let schema = yaml("values.schema.json")?;
        let schema =
            jsonschema::validator_for(&schema).map_err(|error| fault("values.schema.json", error.to_string()))?;
        let folder = format!("charts/{name}/templates/");
        let templates = FILES.iter().filter(|(path, _)| path.starts_with(&folder) && path.ends_with(".yaml"));
        Ok(Self {
            name,
            about,
            defaults,
            schema,
            helpers: read("templates/_helpers.tpl")?,
            templates: templates.copied().collect(),
        })
    }

    /// Renders the chart with `values` over its defaults.
    pub fn render(&self, release: &Release<'_>, values: &Value) -> Result<Vec<Object>, ChartError> {
        let mut merged = self.defaults.clone();
        merge(&mut merged, values);
        if let Some(error) = self.schema.iter_errors(&merged).next() {
            let field = error.instance_path().to_string().trim_start_matches('/').replace('/', ".");
            let field = if field.is_empty() { "values".to_owned() } else { field };
            return Err(ChartError::Value { chart: self.name, field, message: error.to_string() });
        }
        let data = json!({
            "Values": merged,
            "Release": {"Name": release.name, "Namespace": release.namespace, "Service": release.service},
            "Chart": {"Name": self.about["name"], "Version": self.about["version"], "AppVersion": self.about["appVersion"]},
        });
        let mut objects = Vec::new();
        for (file, text) in &self.templates {
            let fault = |message| ChartError::Chart { chart: self.name, file: (*file).to_owned(), message };
            let text = template::render(self.helpers, text, &data).map_err(fault)?;
            objects.extend(documents(&text).map_err(fault)?);
        }
        Ok(objects)
    }
}

/// The text of a file below `deploy`.
fn file_of(path: &str) -> Option<&'static str> {
    FILES.iter().find(|(name, _)| *name == path).map(|(_, text)| *text)
}

/// The values of a profile.
pub fn profile(name: &str) -> Result<Value, ChartError> {
    let text = file_of(&format!("profiles/{name}.yaml"));
    let text = text.ok_or_else(|| ChartError::Profile(name.to_owned(), profiles().join(", ")))?;
    yaml_serde::from_str(text).map_err(|error| ChartError::Chart {
        chart: "profiles",
        file: format!("{name}.yaml"),
        message: error.to_string(),
    })
}

/// The names of the profiles.
pub fn profiles() -> Vec<&'static str> {
    FILES.iter().filter_map(|(path, _)| path.strip_prefix("profiles/")?.strip_suffix(".yaml")).collect()
}

/// The objects of a file of YAML documents.
fn documents(text: &str) -> Result<Vec<Object>, String> {
    let documents = yaml_serde::Deserializer::from_str(text).map(Value::deserialize);
    let mut objects = Vec::new();
    for document in documents {
        let document = document.map_err(|error| error.to_string())?;
        if !document.is_null() {
            objects.push(Object::new(document)?);
        }
    }
    Ok(objects)
}

/// Lays `values` over `target` as Helm does: objects field by field, everything else whole; null takes a default away.
pub fn merge(target: &mut Value, values: &Value) {
    match (target, values) {
        (Value::Object(target), Value::Object(values)) => {
            for (name, value) in values {
                if value.is_null() {
                    target.remove(name);
                } else {
                    merge(target.entry(name.clone()).or_insert(Value::Null), value);
                }
            }
        }
        (target, values) => *target = values.clone(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const RELEASE: Release<'_> = Release { name: "istiod", namespace: "istio-system", service: "meshctl" };

    #[test]
    fn charts_render_by_their_defaults() {
        for (name, some) in [
            ("base", "ValidatingWebhookConfiguration istiod-default-validator"),
            ("controlplane", "Deployment istio-system/istiod"),
            ("gateway", "Service istio-system/istiod"),
        ] {
            let objects = Chart::embedded(name).unwrap().render(&RELEASE, &json!({})).unwrap();
            assert!(objects.iter().any(|object| object.id.to_string() == some), "{name}: {some}");
        }
        assert_eq!(profiles(), ["default", "demo", "minimal"]);
    }

    #[test]
    fn values_that_mean_nothing_are_refused_by_their_path() {
        let chart = Chart::embedded("controlplane").unwrap();
        for (values, field, message) in [
            (json!({"pilot": {"replicas": 2}}), "pilot", "'replicas'"),
            (json!({"pilot": {"autoscaleMin": "two"}}), "pilot.autoscaleMin", "integer"),
            (json!({"global": {"imagePullPolicy": "Sometimes"}}), "global.imagePullPolicy", "Sometimes"),
            (json!({"revision": "Not_A_Label"}), "revision", "Not_A_Label"),
            (json!({"pillot": {}}), "values", "'pillot'"),
        ] {
            let error = chart.render(&RELEASE, &values).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{field}: ")) && error.contains(message), "{error}");
        }
    }

    #[test]
    fn null_takes_a_default_away_and_lists_are_replaced() {
        let mut target = json!({"a": {"b": 1, "c": [1, 2]}, "d": 1});
        merge(&mut target, &json!({"a": {"b": null, "c": [3]}, "e": {"f": 1}}));
        assert_eq!(target, json!({"a": {"c": [3]}, "d": 1, "e": {"f": 1}}));
    }
}

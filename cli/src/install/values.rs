//! What is to be installed: profile, then what was said before, then files, then `--set`, each over the one before it.
//!
//! The command line → here → [`crate::install::manifest`].

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};
use mesh_proto::names::ROOT_NAMESPACE;
use serde_json::{Map, Value, json};

use super::{chart, operator, set};

/// The revision of those who name none.
pub const DEFAULT_REVISION: &str = "default";
/// The profile of those who name none.
const DEFAULT_PROFILE: &str = "default";

/// What a user says.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Wishes {
    /// YAML of values, or an IstioOperator; later files win
    #[arg(short, long = "filename", value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// A value, as with Helm: NAME=VALUE; over all files
    #[arg(short, long = "set", value_name = "NAME=VALUE")]
    pub sets: Vec<String>,
    /// Revision of the control plane: beside others, for an upgrade in steps
    #[arg(long, value_name = "NAME")]
    pub revision: Option<String>,
}

/// What is to be installed.
#[derive(Debug, Clone, PartialEq)]
pub struct Installation {
    /// Namespace of the control plane.
    pub namespace: String,
    /// `default`, or a name.
    pub revision: String,
    /// Name of the profile.
    pub profile: String,
    /// Values of chart `controlplane`.
    pub control_plane: Value,
    /// The gateways.
    pub gateways: Vec<Gateway>,
    /// What the user said, profile and revision included: an upgrade starts from it.
    pub said: Value,
}

/// A gateway of an installation.
#[derive(Debug, Clone, PartialEq)]
pub struct Gateway {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Values of chart `gateway`.
    pub values: Value,
    /// Whether the user himself said something of it, and not the profile alone.
    pub said: bool,
}

impl Wishes {
    /// Reads everything, over what was `said` before.
    pub fn installation(&self, before: &Value, namespace: &str) -> Result<Installation> {
        let mut said = before.clone();
        if said.is_null() {
            said = json!({});
        }
        for file in &self.files {
            let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
            let values = read(&text).with_context(|| file.display().to_string())?;
            lay(&mut said, &values);
        }
        for text in &self.sets {
            // Those who come from istioctl put this before the values of charts.
            let text = text.strip_prefix("values.").unwrap_or(text);
            set::apply(&mut said, text).map_err(anyhow::Error::msg)?;
        }
        if let Some(revision) = &self.revision {
            said["revision"] = revision.as_str().into();
        }
        resolve(said, namespace)
    }
}

/// As [`chart::merge`], but a null stays, so that it reaches the chart, whose default it takes away.
fn lay(target: &mut Value, values: &Value) {
    match (target, values) {
        (Value::Object(target), Value::Object(values)) => {
            for (name, value) in values {
                lay(target.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (target, values) => *target = values.clone(),
    }
}

fn read(text: &str) -> Result<Value> {
    let value: Value = yaml_serde::from_str(text)?;
    match value {
        Value::Null => Ok(json!({})),
        Value::Object(fields) if fields.get("kind").and_then(Value::as_str) == Some(operator::KIND) => {
            operator::values(&fields)
        }
        Value::Object(_) => Ok(value),
        _ => bail!("is no object of values"),
    }
}

fn resolve(said: Value, namespace: &str) -> Result<Installation> {
    let profile = text(&said, "profile")?.unwrap_or(DEFAULT_PROFILE).to_owned();
    let mut values = chart::profile(&profile)?;
    lay(&mut values, &said);
    let Value::Object(mut values) = values else { bail!("the values are no object") };
    values.remove("profile");
    let namespace = take_namespace(&mut values, namespace)?;
    let gateways = match values.remove("gateways") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(gateways)) => gateways,
        Some(_) => bail!("gateways: is no object of gateways by name"),
    };
    let values = Value::Object(values);
    let revision = match text(&values, "revision")? {
        None | Some("") => DEFAULT_REVISION.to_owned(),
        Some(revision) => revision.to_owned(),
    };
    let mut installed = Vec::new();
    for (name, values) in gateways {
        let said = said.pointer(&format!("/gateways/{name}")).is_some();
        installed.extend(gateway(&name, values, &namespace, &revision, said)?);
    }
    Ok(Installation { namespace, revision, profile, control_plane: values, gateways: installed, said })
}

/// Istio's way to name the namespace, `global.istioNamespace`, is taken as well; the charts know only their release's.
fn take_namespace(values: &mut Map<String, Value>, namespace: &str) -> Result<String> {
    let global = values.get_mut("global").and_then(Value::as_object_mut);
    let named = global.and_then(|global| global.remove("istioNamespace"));
    match named {
        None => Ok(namespace.to_owned()),
        Some(Value::String(named)) if named == namespace || namespace == ROOT_NAMESPACE => Ok(named),
        Some(named) => bail!("global.istioNamespace: {named} is not the namespace of --istio-namespace, {namespace}"),
    }
}

fn gateway(name: &str, values: Value, namespace: &str, revision: &str, said: bool) -> Result<Option<Gateway>> {
    let Value::Object(mut values) = values else { bail!("gateways.{name}: is no object of values") };
    match values.remove("enabled") {
        Some(Value::Bool(true)) => {}
        None | Some(Value::Bool(false)) => return Ok(None),
        Some(other) => bail!("gateways.{name}.enabled: {other} is neither true nor false"),
    }
    let namespace = match values.remove("namespace") {
        None => namespace.to_owned(),
        Some(Value::String(namespace)) => namespace,
        Some(other) => bail!("gateways.{name}.namespace: {other} is no name"),
    };
    if revision != DEFAULT_REVISION {
        values.entry("revision").or_insert_with(|| revision.into());
    }
    ensure!(!values.contains_key("name"), "gateways.{name}.name: the gateway's name is `{name}`; leave this out");
    Ok(Some(Gateway { name: name.to_owned(), namespace, values: Value::Object(values), said }))
}

fn text<'a>(values: &'a Value, field: &str) -> Result<Option<&'a str>> {
    match values.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => bail!("{field}: {other} is no text"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn installation(sets: &[&str], before: Value) -> Result<Installation> {
        let wishes = Wishes { sets: sets.iter().map(|&set| set.to_owned()).collect(), ..Wishes::default() };
        wishes.installation(&before, ROOT_NAMESPACE)
    }

    #[test]
    fn later_words_win() {
        let found = installation(&["profile=demo", "values.pilot.replicaCount=3"], Value::Null).unwrap();
        assert_eq!((found.profile.as_str(), found.revision.as_str()), ("demo", "default"));
        assert_eq!(found.control_plane["pilot"]["replicaCount"], 3);
        assert_eq!(found.control_plane["pilot"]["autoscaleEnabled"], false);
        let names: Vec<_> = found.gateways.iter().map(|gateway| gateway.name.as_str()).collect();
        assert_eq!(names, ["istio-egressgateway", "istio-ingressgateway"]);
        let upgraded = installation(&["gateways.istio-egressgateway.enabled=false"], found.said).unwrap();
        assert_eq!(upgraded.control_plane["pilot"]["replicaCount"], 3);
        assert_eq!(upgraded.gateways.len(), 1);
    }

    #[test]
    fn a_revision_is_its_gateways_too() {
        let found = installation(&["revision=canary", "global.istioNamespace=mesh"], Value::Null).unwrap();
        assert_eq!((found.revision.as_str(), found.namespace.as_str()), ("canary", "mesh"));
        assert_eq!(found.gateways[0].values["revision"], "canary");
        assert_eq!((found.gateways[0].namespace.as_str(), found.gateways[0].said), ("mesh", false));
        assert!(found.control_plane["global"].get("istioNamespace").is_none());
    }

    #[test]
    fn wrong_words_are_refused_by_their_path() {
        for (set, reason) in [
            ("profile=none", "profile none: there is no such profile; there are default, demo, minimal"),
            ("gateways.a.enabled=maybe", "gateways.a.enabled: \"maybe\" is neither true nor false"),
            ("gateways.a=1", "gateways.a: is no object"),
            ("revision=1", "revision: 1 is no text"),
        ] {
            let error = format!("{:#}", installation(&[set], Value::Null).unwrap_err());
            assert!(error.contains(reason), "{error}");
        }
    }
}

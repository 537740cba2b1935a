//! IstioOperator files: what in them has a meaning here becomes values, and the rest is refused by name.
//!
//! A file → here → [`crate::install::values`]. Source: <https://istio.io/latest/docs/reference/config/istio.operator.v1alpha1/>.

use anyhow::{Result, bail};
use serde_json::{Map, Value, json};

use super::chart::merge;

/// The kind of such files.
pub const KIND: &str = "IstioOperator";

/// The values that an IstioOperator means.
pub fn values(document: &Map<String, Value>) -> Result<Value> {
    let mut values = json!({});
    let spec = match document.get("spec") {
        None | Some(Value::Null) => return Ok(values),
        Some(Value::Object(spec)) => spec,
        Some(_) => bail!("spec: is no object"),
    };
    for (name, value) in spec {
        match name.as_str() {
            "values" => merge(&mut values, value),
            "profile" | "revision" | "meshConfig" => merge(&mut values, &json!({name: value})),
            "hub" | "tag" => merge(&mut values, &json!({"global": {name: value}})),
            "namespace" => merge(&mut values, &json!({"global": {"istioNamespace": value}})),
            "components" => components(value, &mut values)?,
            _ => bail!("spec.{name}: has no meaning here; take it out, or say it in spec.values"),
        }
    }
    Ok(values)
}

fn components(components: &Value, values: &mut Value) -> Result<()> {
    let Some(components) = components.as_object() else { bail!("spec.components: is no object") };
    for (name, component) in components {
        match name.as_str() {
            "ingressGateways" | "egressGateways" => {
                let Some(gateways) = component.as_array() else { bail!("spec.components.{name}: is no list") };
                for (index, component) in gateways.iter().enumerate() {
                    let path = format!("spec.components.{name}[{index}]");
                    let (gateway, said) = gateway(component, &path)?;
                    merge(values, &json!({"gateways": {gateway: said}}));
                }
            }
            "base" | "pilot" if component.get("k8s").is_none() && component["enabled"] != false => {}
            "base" | "pilot" => {
                bail!(
                    "spec.components.{name}: only `enabled: true` has a meaning here; say resources, replicas and placement \
                     in spec.values.pilot"
                )
            }
            _ if component["enabled"] == false => {}
            _ => bail!("spec.components.{name}: there is no such component here; take it out"),
        }
    }
    Ok(())
}

fn gateway(component: &Value, path: &str) -> Result<(String, Value)> {
    let Some(fields) = component.as_object() else { bail!("{path}: is no object") };
    let Some(name) = component["name"].as_str() else { bail!("{path}.name: is missing") };
    let mut said = json!({});
    for (field, value) in fields {
        match field.as_str() {
            "name" => {}
            "enabled" | "namespace" => said[field] = value.clone(),
            "label" => said["labels"] = value.clone(),
            _ => bail!("{path}.{field}: has no meaning here; say it in spec.values.gateways.{name}"),
        }
    }
    Ok((name.to_owned(), said))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(spec: &str) -> Result<Value> {
        let spec: Value = yaml_serde::from_str(spec).unwrap();
        values(json!({"kind": KIND, "spec": spec}).as_object().unwrap())
    }

    #[test]
    fn what_has_a_meaning_becomes_values() {
        let spec = "{profile: demo, hub: h, tag: t, namespace: n, meshConfig: {accessLogFile: f}, values: {pilot: {replicaCount: 2}},
            components: {cni: {enabled: false}, pilot: {enabled: true},
              ingressGateways: [{name: a, enabled: true, namespace: b, label: {istio: x}}]}}";
        let expected = json!({
            "profile": "demo", "global": {"hub": "h", "tag": "t", "istioNamespace": "n"}, "meshConfig": {"accessLogFile": "f"},
            "pilot": {"replicaCount": 2}, "gateways": {"a": {"enabled": true, "namespace": "b", "labels": {"istio": "x"}}},
        });
        assert_eq!(read(spec).unwrap(), expected);
    }

    #[test]
    fn the_rest_is_refused_by_name() {
        for (spec, reason) in [
            ("{addons: {}}", "spec.addons: has no meaning here"),
            ("{components: {ztunnel: {enabled: true}}}", "spec.components.ztunnel: there is no such component"),
            ("{components: {pilot: {k8s: {replicaCount: 2}}}}", "spec.components.pilot: only `enabled: true`"),
            (
                "{components: {ingressGateways: [{enabled: true}]}}",
                "spec.components.ingressGateways[0].name: is missing",
            ),
            ("{components: {egressGateways: [{name: e, k8s: {}}]}}", "say it in spec.values.gateways.e"),
        ] {
            let error = read(spec).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}

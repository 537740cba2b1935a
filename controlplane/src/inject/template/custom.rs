//! An operator's templates (IN2): YAML of parts of a pod, with a few values in `{{ … }}`, written as in Istio's templates.
//!
//! Only values are filled in. Whatever else Go's templates can do is refused by its text, so that no template means less than it says.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Context;

/// The values that there are, for errors.
const VALUES: &str = ".ObjectMeta.Name, .ObjectMeta.Namespace, .Spec.ServiceAccountName, .DeploymentMeta.Name, .DeploymentMeta.Namespace, \
     .TypeMeta.Kind, .Revision, .ProxyImage, .ProxyUID, .ProxyGID, .ProxyConfig.FIELD, index .ObjectMeta.Labels \"NAME\", \
     index .ObjectMeta.Annotations \"NAME\", annotation .ObjectMeta \"NAME\" \"DEFAULT\"";

/// Fills a template in and reads it.
pub(super) fn overlay(text: &str, context: &Context<'_>) -> Result<Value, String> {
    let filled = fill(text, context)?;
    let overlay: Value =
        yaml_serde::from_str(&filled).map_err(|error| format!("with its values filled in: {error}"))?;
    let Some(parts) = overlay.as_object() else { return Err("is not an object; write spec: {…}".to_owned()) };
    if let Some(name) = parts.keys().find(|name| !matches!(name.as_str(), "metadata" | "spec" | "apiVersion" | "kind"))
    {
        return Err(format!("{name}: a template holds metadata and spec of a pod"));
    }
    let kept = parts.iter().filter(|(name, _)| matches!(name.as_str(), "metadata" | "spec"));
    Ok(kept.map(|(name, part)| (name.clone(), part.clone())).collect())
}

/// Puts the values into the text.
fn fill(text: &str, context: &Context<'_>) -> Result<String, String> {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        let Some((action, after)) = after.split_once("}}") else {
            return Err("`{{` without `}}`".to_owned());
        };
        // Go's marks for blanks beside an action.
        let (left, right) = (action.starts_with("- "), action.ends_with(" -"));
        let action = action.trim_start_matches("- ").trim_end_matches(" -").trim();
        filled.push_str(if left { before.trim_end() } else { before });
        if !(action.starts_with("/*") && action.ends_with("*/")) {
            filled.push_str(&value(action, context)?);
        }
        rest = if right { after.trim_start() } else { after };
    }
    filled.push_str(rest);
    Ok(filled)
}

/// What an action stands for.
fn value(action: &str, context: &Context<'_>) -> Result<String, String> {
    let refuse =
        || format!("`{{{{ {action} }}}}` is not supported; the values are: {VALUES}, each with `| quote` if wanted");
    let (expression, quote) = match action.split_once('|') {
        None => (action, false),
        Some((expression, function)) if function.trim() == "quote" => (expression.trim(), true),
        Some(_) => return Err(refuse()),
    };
    let words = words(expression).ok_or_else(refuse)?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let metadata = context.pod.metadata.clone().unwrap_or_default();
    let get = |map: &Option<BTreeMap<String, String>>, name: &str| map.as_ref().and_then(|map| map.get(name).cloned());
    let settings = context.settings;
    let found = match words.as_slice() {
        [".ObjectMeta.Name"] => metadata.name.or(metadata.generate_name).unwrap_or_default(),
        [".ObjectMeta.Namespace" | ".DeploymentMeta.Namespace"] => context.origin.namespace.to_owned(),
        [".DeploymentMeta.Name"] => context.workload.name.clone(),
        [".TypeMeta.Kind"] => context.workload.kind.clone(),
        [".Spec.ServiceAccountName"] => {
            let spec = context.pod.spec.as_ref();
            spec.and_then(|spec| spec.service_account_name.clone()).unwrap_or_else(|| "default".to_owned())
        }
        [".Revision"] => settings.revision.clone(),
        [".ProxyImage"] => context.wishes.image.clone().unwrap_or_else(|| settings.proxy_image.clone()),
        [".ProxyUID" | ".ProxyGID"] => mesh_proto::names::port::PROXY_UID.to_string(),
        ["index", ".ObjectMeta.Labels", name] => get(&metadata.labels, name).unwrap_or_default(),
        ["index", ".ObjectMeta.Annotations", name] => get(&metadata.annotations, name).unwrap_or_default(),
        ["annotation", ".ObjectMeta", name, default] => {
            get(&metadata.annotations, name).unwrap_or_else(|| (*default).to_owned())
        }
        [path] => match path.strip_prefix(".ProxyConfig.") {
            // Go writes names of fields with a capital first.
            Some(field) => proxy_config(context, field).ok_or_else(refuse)?,
            None => return Err(refuse()),
        },
        _ => return Err(refuse()),
    };
    Ok(if quote { Value::from(found).to_string() } else { found })
}

/// A field of ProxyConfig that is a text, a number or a truth; empty if it is not set.
fn proxy_config(context: &Context<'_>, field: &str) -> Option<String> {
    let mut characters = field.chars();
    let first = characters.next()?.to_lowercase();
    let name: String = first.chain(characters).collect();
    match context.wishes.proxy_config.get(&name) {
        None => Some(String::new()),
        Some(Value::String(text)) => Some(text.clone()),
        Some(value @ (Value::Number(_) | Value::Bool(_))) => Some(value.to_string()),
        Some(_) => None,
    }
}

/// Words apart by blanks; texts in `"` or `` ` `` are one word without their marks.
fn words(expression: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut rest = expression.trim_start();
    while let Some(first) = rest.chars().next() {
        let (word, after) = match first {
            '"' | '`' => rest[1..].split_once(first)?,
            _ => rest.split_once(char::is_whitespace).unwrap_or((rest, "")),
        };
        words.push(word.to_owned());
        rest = after.trim_start();
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::inject::{Origin, Settings, Workload, wishes};

    fn check(text: &str) -> Result<String, String> {
        let pod = yaml_serde::from_str(
            "{metadata: {name: web-1, labels: {app: web}, annotations: {a: 'x \"y\"'}}, spec: {serviceAccountName: sa, containers: []}}",
        )
        .unwrap();
        let (settings, mesh) = (Settings::default(), mesh_proto::crd::MeshConfig::default());
        let wishes = wishes::read(&pod, &settings, &mesh).unwrap();
        let (origin, workload) =
            (Origin { namespace: "shop", workload: None }, Workload::new("apps/v1", "Deployment", "web"));
        fill(
            text,
            &Context {
                settings: &settings,
                mesh: &mesh,
                wishes: &wishes,
                pod: &pod,
                origin: &origin,
                workload: &workload,
            },
        )
    }

    #[test]
    fn values_are_filled_in_and_everything_else_is_refused() {
        for (text, expected) in [
            ("a: {{ .ObjectMeta.Name }}", Ok("a: web-1")),
            ("a: {{.DeploymentMeta.Name}}/{{ .ObjectMeta.Namespace }}", Ok("a: web/shop")),
            ("a: {{ index .ObjectMeta.Labels \"app\" }}", Ok("a: web")),
            ("a: {{ index .ObjectMeta.Annotations `a` | quote }}", Ok("a: \"x \\\"y\\\"\"")),
            ("a: {{ annotation .ObjectMeta `b` \"none\" }}", Ok("a: none")),
            ("a: {{ .ProxyConfig.DiscoveryAddress }}", Ok("a: istiod.istio-system.svc:15012")),
            ("a: {{ .Spec.ServiceAccountName }} {{ .Revision }} {{ .ProxyUID }}", Ok("a: sa default 1337")),
            ("a: 1 {{- /* why */ -}} 2", Ok("a: 12")),
            ("plain: '{}'", Ok("plain: '{}'")),
            ("a: {{ if .X }}", Err("`{{ if .X }}` is not supported; the values are: .ObjectMeta.Name")),
            ("a: {{ .Values.global.hub }}", Err("is not supported")),
            ("a: {{ .Revision | upper }}", Err("is not supported")),
            ("a: {{ .Revision", Err("`{{` without `}}`")),
        ] {
            match (check(text), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{text}"),
                (Err(error), Err(reason)) => assert!(error.contains(reason), "{text}: {error}"),
                (found, expected) => panic!("{text}: {found:?}, not {expected:?}"),
            }
        }
    }
}

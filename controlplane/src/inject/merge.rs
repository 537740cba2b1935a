//! Kubernetes' strategic merge, as far as pods need it: maps are merged, items of known lists by their key, other lists are replaced.
//!
//! `null` removes a field and `$patch: delete` an item; other directives are refused. Source:
//! <https://kubernetes.io/docs/tasks/manage-kubernetes-objects/update-api-object-kubectl-patch/#notes-on-the-strategic-merge-patch>.

use serde_json::Value;

/// The directive of a strategic merge.
const DIRECTIVE: &str = "$patch";

/// Lays `overlay` over `base`, in which it wins. An error names the path in the overlay.
pub fn merge(base: &mut Value, overlay: Value) -> Result<(), String> {
    fields(base, overlay, "")
}

fn fields(base: &mut Value, overlay: Value, path: &str) -> Result<(), String> {
    let Value::Object(overlay) = overlay else {
        *base = overlay;
        return Ok(());
    };
    if !base.is_object() {
        *base = Value::Object(serde_json::Map::new());
    }
    let Some(object) = base.as_object_mut() else { return Ok(()) };
    for (name, value) in overlay {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        if name.starts_with('$') {
            return Err(format!(
                "{path}: this directive is not supported; only $patch: delete of a list's item is, and null for a field"
            ));
        }
        match value {
            Value::Null => {
                object.remove(&name);
            }
            Value::Array(items) if keys(&name).is_some() => {
                let into = object.entry(name.as_str()).or_insert_with(|| Value::Array(Vec::new()));
                list(into, items, &name, &path)?;
            }
            value => fields(object.entry(name).or_insert(Value::Null), value, &path)?,
        }
    }
    Ok(())
}

fn list(base: &mut Value, overlay: Vec<Value>, name: &str, path: &str) -> Result<(), String> {
    if !base.is_array() {
        *base = Value::Array(Vec::new());
    }
    let Some(items) = base.as_array_mut() else { return Ok(()) };
    for (index, mut item) in overlay.into_iter().enumerate() {
        let path = format!("{path}[{index}]");
        let directive = item.as_object_mut().and_then(|object| object.remove(DIRECTIVE));
        let Some(key) = identity(name, &item) else {
            return Err(format!("{path}: has no {}", keys(name).unwrap_or_default().join(" and ")));
        };
        let at = items.iter().position(|item| identity(name, item).as_ref() == Some(&key));
        match (directive, at) {
            (None, Some(at)) => fields(&mut items[at], item, &path)?,
            (None, None) => {
                // Through the merge, so that directives inside are seen here too.
                let mut fresh = Value::Null;
                fields(&mut fresh, item, &path)?;
                items.push(fresh);
            }
            (Some(Value::String(word)), at) if word == "delete" => {
                if let Some(at) = at {
                    items.remove(at);
                }
            }
            (Some(other), _) => return Err(format!("{path}.{DIRECTIVE}: {other} is not supported; only delete is")),
        }
    }
    Ok(())
}

/// The fields that tell items of a list apart; `None` for lists that are replaced as a whole.
fn keys(list: &str) -> Option<&'static [&'static str]> {
    match list {
        "containers" | "initContainers" | "ephemeralContainers" | "volumes" | "imagePullSecrets" | "env" => {
            Some(&["name"])
        }
        "volumeMounts" => Some(&["mountPath"]),
        "volumeDevices" => Some(&["devicePath"]),
        "ports" => Some(&["containerPort", "protocol"]),
        "hostAliases" => Some(&["ip"]),
        _ => None,
    }
}

fn identity(list: &str, item: &Value) -> Option<Vec<String>> {
    let key = |name: &&str| match (*name, item.get(*name)) {
        (_, Some(value)) => Some(value.to_string()),
        ("protocol", None) => Some("\"TCP\"".to_owned()),
        (_, None) => None,
    };
    keys(list)?.iter().map(key).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn check(base: &str, overlay: &str) -> Result<Value, String> {
        let mut base = yaml_serde::from_str(base).unwrap();
        merge(&mut base, yaml_serde::from_str(overlay).unwrap())?;
        Ok(base)
    }

    #[test]
    fn parts_are_merged_as_kubernetes_merges_them() {
        for (base, overlay, expected) in [
            ("{a: 1, b: {c: 2}}", "{b: {d: 3}}", "{a: 1, b: {c: 2, d: 3}}"),
            ("{a: 1, b: 2}", "{a: null}", "{b: 2}"),
            ("{args: [a, b]}", "{args: [c]}", "{args: [c]}"),
            (
                "{containers: [{name: a, image: x}, {name: b}]}",
                "{containers: [{name: b, image: y}, {name: c}]}",
                "{containers: [{name: a, image: x}, {name: b, image: y}, {name: c}]}",
            ),
            (
                "{containers: [{name: a}, {name: b}]}",
                "{containers: [{name: a, $patch: delete}]}",
                "{containers: [{name: b}]}",
            ),
            (
                "{env: [{name: A, value: '1'}]}",
                "{env: [{name: A, value: null, valueFrom: {x: 1}}]}",
                "{env: [{name: A, valueFrom: {x: 1}}]}",
            ),
            (
                "{ports: [{containerPort: 80}, {containerPort: 53, protocol: UDP}]}",
                "{ports: [{containerPort: 80, protocol: TCP, name: w}, {containerPort: 53, protocol: TCP}]}",
                "{ports: [{containerPort: 80, protocol: TCP, name: w}, {containerPort: 53, protocol: UDP}, {containerPort: 53, protocol: TCP}]}",
            ),
            ("{volumes: null}", "{volumes: [{name: a}]}", "{volumes: [{name: a}]}"),
        ] {
            let expected: Value = yaml_serde::from_str(expected).unwrap();
            assert_eq!(check(base, overlay), Ok(expected.clone()), "{base} + {overlay}");
            assert_eq!(check(&expected.to_string(), overlay), Ok(expected), "{base} + {overlay}, twice");
        }
    }

    #[test]
    fn directives_that_are_not_honoured_are_refused() {
        for (overlay, reason) in [
            ("{spec: {$patch: replace}}", "spec.$patch: this directive is not supported"),
            ("{containers: [{name: a, $patch: merge}]}", "containers[0].$patch: \"merge\" is not supported"),
            ("{containers: [{name: a, x: {$retainKeys: [b]}}]}", "containers[0].x.$retainKeys"),
            ("{containers: [{image: a}]}", "containers[0]: has no name"),
        ] {
            let error = check("{}", overlay).unwrap_err();
            assert!(error.starts_with(reason), "{overlay}: {error}");
        }
    }
}

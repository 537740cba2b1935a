//! Injection of files, for `meshctl inject` (CL10): workloads of every kind are injected, everything else passes byte for byte.

use mesh_proto::crd::MeshConfig;
use serde_json::Value;

use super::yaml;
use super::{Origin, Outcome, Settings, Workload, inject};

/// Kinds that hold the template of a pod: group, kind, and where it stands.
const WORKLOADS: [(&str, &str, &str); 9] = [
    ("", "Pod", ""),
    ("", "ReplicationController", "/spec/template"),
    ("apps", "Deployment", "/spec/template"),
    ("apps", "ReplicaSet", "/spec/template"),
    ("apps", "StatefulSet", "/spec/template"),
    ("apps", "DaemonSet", "/spec/template"),
    ("batch", "Job", "/spec/template"),
    ("batch", "CronJob", "/spec/jobTemplate/spec/template"),
    ("apps.openshift.io", "DeploymentConfig", "/spec/template"),
];

/// A text with its workloads injected.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Text {
    /// The text.
    pub text: String,
    /// A line for each workload: what became of it, and what has no effect.
    pub notes: Vec<String>,
}

/// Why a text is not injected, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct TextError {
    /// Line of the document's begin, from 1.
    pub line: usize,
    /// The object and what is wrong with it.
    pub message: String,
}

/// Injects the workloads of a YAML or JSON text. `namespace` is that of objects that name none.
pub fn inject_text(text: &str, namespace: &str, settings: &Settings, mesh: &MeshConfig) -> Result<Text, TextError> {
    let mut done = Text::default();
    for (line, document) in documents(text) {
        let failed = |message: String| TextError { line, message };
        let mut object: Value = yaml_serde::from_str(document).map_err(|error| failed(error.to_string()))?;
        let mut file = File { namespace, settings, mesh, notes: &mut done.notes };
        if file.object(&mut object).map_err(failed)? {
            let marker = document.lines().next().filter(|line| line.starts_with("---"));
            if let Some(marker) = marker {
                done.text.push_str(marker);
                done.text.push('\n');
            }
            done.text.push_str(&yaml::write(&object));
        } else {
            done.text.push_str(document);
        }
    }
    Ok(done)
}

/// The documents of a text with their lines; each begins with the marker before it, so that together they are the text.
fn documents(text: &str) -> Vec<(usize, &str)> {
    let mut documents = Vec::new();
    let (mut start, mut start_line, mut position) = (0, 1, 0);
    for (line, each) in (1..).zip(text.split_inclusive('\n')) {
        let marker =
            each.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace));
        if marker && position > start {
            documents.push((start_line, &text[start..position]));
            (start, start_line) = (position, line);
        }
        position += each.len();
    }
    documents.push((start_line, &text[start..]));
    documents
}

struct File<'a> {
    namespace: &'a str,
    settings: &'a Settings,
    mesh: &'a MeshConfig,
    notes: &'a mut Vec<String>,
}

impl File<'_> {
    /// Injects an object, or the items of a list; true if something changed.
    fn object(&mut self, object: &mut Value) -> Result<bool, String> {
        let text = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (version, kind) = (text("apiVersion"), text("kind"));
        if kind.ends_with("List")
            && let Some(items) = object.get_mut("items").and_then(Value::as_array_mut)
        {
            let mut changed = false;
            for item in items {
                changed |= self.object(item)?;
            }
            return Ok(changed);
        }
        let group = version.rsplit_once('/').map_or("", |(group, _)| group);
        let Some((_, _, pointer)) = WORKLOADS.iter().find(|(of, name, _)| *of == group && *name == kind) else {
            return Ok(false);
        };
        self.workload(object, &version, &kind, pointer)
    }

    fn workload(&mut self, object: &mut Value, version: &str, kind: &str, pointer: &str) -> Result<bool, String> {
        let metadata = |name: &str| object.pointer(&format!("/metadata/{name}")).and_then(Value::as_str);
        let namespace = metadata("namespace").unwrap_or(self.namespace).to_owned();
        let name = metadata("name").unwrap_or_default().to_owned();
        let key = format!("{kind} {namespace}/{name}");
        let Some(template) = object.pointer_mut(pointer) else {
            return Err(format!("{key}: it has no {}", pointer.trim_start_matches('/').replace('/', ".")));
        };
        let workload = (!pointer.is_empty()).then(|| Workload::new(version, kind, &name));
        let origin = Origin { namespace: &namespace, workload };
        match inject(template, &origin, self.settings, self.mesh).map_err(|error| format!("{key}: {error}"))? {
            Outcome::Injected { pod, warnings } => {
                *template = pod;
                self.notes.push(format!("{key}: injected"));
                self.notes.extend(warnings.into_iter().map(|warning| format!("{key}: warning: {warning}")));
                Ok(true)
            }
            Outcome::Skipped(reason) => {
                self.notes.push(format!("{key}: not injected: {reason}"));
                Ok(false)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn check(text: &str) -> Result<Text, TextError> {
        inject_text(text, "default", &Settings::default(), &MeshConfig::default())
    }

    #[test]
    fn what_is_no_workload_passes_byte_for_byte() {
        let text = "# A comment.\napiVersion: v1\nkind: Service\nmetadata: {name: a}   # kept\n--- # second\n\n---\nkind:   ConfigMap\napiVersion: v1\ndata:\n  x: |\n    -- \n    ---y\n...\n";
        let done = check(text).unwrap();
        assert_eq!((done.text.as_str(), done.notes), (text, Vec::new()));
        let refuses = "kind: Pod\napiVersion: v1\nmetadata: {name: a, labels: {sidecar.istio.io/inject: 'false'}}\nspec: {containers: []}\n";
        let done = check(refuses).unwrap();
        assert_eq!(done.text, refuses);
        assert!(done.notes[0].starts_with("Pod default/a: not injected: the pod's label"), "{:?}", done.notes);
        assert_eq!(check("").unwrap(), Text::default());
    }

    #[test]
    fn every_kind_of_workload_is_injected() {
        for (group, kind, pointer) in WORKLOADS {
            let version = if group.is_empty() { "v1".to_owned() } else { format!("{group}/v1") };
            let mut object = serde_json::json!({"spec": {"containers": [{"name": "app", "image": "app"}]}});
            for part in pointer.rsplit('/').filter(|part| !part.is_empty()) {
                object = serde_json::json!({part: object});
            }
            object["apiVersion"] = version.into();
            object["kind"] = kind.into();
            object["metadata"]["name"] = "a".into();
            let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": [object]});
            for text in [object.to_string(), list.to_string()] {
                let done = check(&text).unwrap();
                assert!(done.text.contains("istio-proxy"), "{kind}: {}", done.text);
                assert_eq!(done.notes, [format!("{kind} default/a: injected")]);
                assert_eq!(check(&done.text).unwrap().text, done.text, "{kind}");
            }
        }
    }

    #[test]
    fn errors_name_line_object_and_field() {
        for (text, expected) in [
            ("a: [\n", "line 1: "),
            (
                "kind: A\n---\nkind: Deployment\napiVersion: apps/v1\nmetadata: {name: a, namespace: n}\n",
                "line 2: Deployment n/a: it has no spec.template",
            ),
            (
                "kind: Pod\napiVersion: v1\nmetadata: {name: a}\nspec: {containers: [{name: [b]}]}\n",
                "line 1: Pod default/a: pod: spec.containers[0].name: ",
            ),
            (
                "kind: Pod\napiVersion: v1\nmetadata: {name: a, annotations: {sidecar.istio.io/proxyCPU: x}}\nspec: {containers: []}\n",
                "line 1: Pod default/a: annotation sidecar.istio.io/proxyCPU: `x` is not a quantity",
            ),
        ] {
            let error = check(text).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
    }
}

//! The last steps of injection, on a pod that has the template's parts: the user's own word on our containers, order, labels, metrics.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodTemplateSpec;
use mesh_proto::names::{annotation, label};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::template::Context;
use super::wishes::Wishes;
use super::{InjectError, PROXY, REDIRECT, container, items, merge, named};

/// The image that stands for the injected one.
const AUTO: &str = "auto";
/// Where the proxy finds the application's metrics.
const PROMETHEUS_VARIABLE: &str = "ISTIO_PROMETHEUS_ANNOTATIONS";
/// Volumes that templates add.
const VOLUMES: [&str; 3] = ["istio-podinfo", "istio-token", "istiod-ca-cert"];
/// The longest value of a label.
const LABEL: usize = 63;

/// The user's own containers under our names, which are laid over the template's.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Overrides {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    containers: Vec<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    init_containers: Vec<Value>,
}

/// Takes the user's containers out of a pod; those of a pod that is injected already stand in its annotation.
pub(super) fn take_overrides(pod: &mut Value, typed: &PodTemplateSpec) -> Result<Overrides, InjectError> {
    let annotations = typed.metadata.as_ref().and_then(|metadata| metadata.annotations.clone()).unwrap_or_default();
    if let Some(text) = annotations.get(annotation::PROXY_OVERRIDES) {
        return serde_json::from_str(text).map_err(|error| InjectError::Annotation {
            name: annotation::PROXY_OVERRIDES,
            reason: format!("{error}; injection writes it, remove it"),
        });
    }
    if annotations.contains_key(annotation::SIDECAR_STATUS) {
        return Ok(Overrides::default());
    }
    let mut take = |list: &str| -> Vec<Value> {
        let Some(items) = items(pod, list) else { return Vec::new() };
        items.extract_if(.., |item| named(item, PROXY) || named(item, REDIRECT)).collect()
    };
    Ok(Overrides { containers: take("containers"), init_containers: take("initContainers") })
}

/// A pod that was injected in the other form has the proxy twice; only the form that is wanted stays.
pub(super) fn place_proxy(pod: &mut Value, wishes: &Wishes) {
    let mut has = |list: &str| items(pod, list).is_some_and(|items| items.iter().any(|item| named(item, PROXY)));
    if has("containers") && has("initContainers") {
        let other = if wishes.native { "containers" } else { "initContainers" };
        if let Some(items) = items(pod, other) {
            items.retain(|item| !named(item, PROXY));
        }
    }
}

/// Lays the user's containers over the template's, in which the user wins; `image: auto` is the template's image.
pub(super) fn apply_overrides(pod: &mut Value, overrides: &Overrides) -> Result<(), InjectError> {
    for (list, overrides) in [("containers", &overrides.containers), ("initContainers", &overrides.init_containers)] {
        for own in overrides {
            let name = own.get("name").and_then(Value::as_str).unwrap_or_default();
            let mut own = own.clone();
            if own.get("image").and_then(Value::as_str) == Some(AUTO)
                && let Some(fields) = own.as_object_mut()
            {
                fields.remove("image");
            }
            match container(pod, name) {
                Some(ours) => {
                    merge::merge(ours, own).map_err(|reason| InjectError::Pod(format!("container {name}: {reason}")))?
                }
                // No template of this pod has such a container: it is the user's alone.
                None => push(pod, list, own),
            }
        }
    }
    Ok(())
}

fn push(pod: &mut Value, list: &str, item: Value) {
    let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) else { return };
    if let Some(items) = spec.entry(list).or_insert_with(|| json!([])).as_array_mut() {
        items.push(item);
    }
}

/// Puts our containers where they belong: a native sidecar before all that needs the network, after capture; a classic one last, so that
/// `kubectl exec` means the application, or first if the application waits for it; its capture last, for nothing would forward what other
/// init containers send.
pub(super) fn order(pod: &mut Value, wishes: &Wishes) {
    let native = items(pod, "initContainers").is_some_and(|items| items.iter().any(|item| named(item, PROXY)));
    if let Some(items) = items(pod, "initContainers") {
        items.sort_by_key(|item| match native {
            true if named(item, REDIRECT) => 0,
            true if named(item, PROXY) => 1,
            true => 2,
            false => i32::from(named(item, REDIRECT)),
        });
    }
    if let Some(items) = items(pod, "containers") {
        items.sort_by_key(|item| if named(item, PROXY) == wishes.hold { 0 } else { 1 });
    }
}

/// Labels and annotations of an injected pod.
pub(super) fn metadata(pod: &mut Value, context: &Context<'_>, overrides: &Overrides) -> Result<(), InjectError> {
    let status = status(pod, context);
    let first = items(pod, "containers")
        .and_then(|items| items.iter().find(|item| !named(item, PROXY))?.get("name")?.as_str().map(str::to_owned));
    let settings = context.settings;
    let labels = map(pod, "labels")?;
    let texts: BTreeMap<String, String> =
        labels.iter().filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect();
    let (name, revision) =
        label::canonical(|name| texts.get(name).map(String::as_str), label_value(&context.workload.name));
    let mut default = |name: &str, value: &str| {
        labels.entry(name).or_insert_with(|| label_value(value).into());
    };
    if context.wishes.templates.iter().any(|name| name == "sidecar") {
        default(label::TLS_MODE, "istio");
    }
    default(label::CANONICAL_NAME, name);
    default(label::CANONICAL_REVISION, revision);
    if let Some(network) = &settings.network {
        default(label::NETWORK, network);
    }
    let annotations = map(pod, "annotations")?;
    for (name, value) in &settings.injected_annotations {
        annotations.insert(name.clone(), value.as_str().into());
    }
    if let Some(first) = first {
        annotations.entry(annotation::DEFAULT_CONTAINER).or_insert_with(|| first.clone().into());
        annotations.entry(annotation::DEFAULT_LOGS_CONTAINER).or_insert_with(|| first.into());
    }
    annotations.insert(annotation::REVISION.to_owned(), settings.revision.as_str().into());
    annotations.insert(annotation::SIDECAR_STATUS.to_owned(), status.to_string().into());
    if *overrides != Overrides::default() {
        let text = serde_json::to_string(overrides).map_err(|error| InjectError::Pod(error.to_string()))?;
        annotations.insert(annotation::PROXY_OVERRIDES.to_owned(), text.into());
    }
    Ok(())
}

/// What was added, in the form of Istio's annotation.
fn status(pod: &mut Value, context: &Context<'_>) -> Value {
    let own = context.wishes.volumes.iter().map(|volume| volume.name.as_str());
    let wanted: Vec<&str> = VOLUMES.into_iter().chain(own).collect();
    let mut names = |list: &str, wanted: &[&str]| -> Vec<String> {
        let items = items(pod, list).into_iter().flatten();
        let all = items.filter_map(|item| item.get("name")?.as_str().map(str::to_owned));
        all.filter(|name| wanted.contains(&name.as_str())).collect()
    };
    json!({
        "initContainers": names("initContainers", &[PROXY, REDIRECT]),
        "containers": names("containers", &[PROXY]),
        "volumes": names("volumes", &wanted),
        "imagePullSecrets": context.settings.image_pull_secrets,
        "revision": context.settings.revision,
    })
}

/// The part of a text that may be the value of a label.
fn label_value(text: &str) -> &str {
    let mut end = text.len().min(LABEL);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].trim_end_matches(|last: char| !last.is_ascii_alphanumeric())
}

/// A map of a pod's metadata, made if it is not there.
fn map<'a>(pod: &'a mut Value, name: &str) -> Result<&'a mut Map<String, Value>, InjectError> {
    let malformed = || InjectError::Pod(format!("pod: metadata.{name} is no map"));
    let pod = pod.as_object_mut().ok_or_else(malformed)?;
    let metadata = pod.entry("metadata").or_insert_with(|| json!({}));
    let metadata = metadata.as_object_mut().ok_or_else(malformed)?;
    let value = metadata.entry(name).or_insert_with(|| json!({}));
    if value.is_null() {
        *value = json!({});
    }
    value.as_object_mut().ok_or_else(malformed)
}

/// Points Prometheus at the proxy, which shows the application's metrics with its own (AG10).
pub(super) fn merge_metrics(pod: &mut Value, wishes: &Wishes) -> Result<(), InjectError> {
    if !wishes.merge_metrics || container(pod, PROXY).is_none() {
        return Ok(());
    }
    let annotations = map(pod, "annotations")?;
    let get = |name: &str| annotations.get(name).and_then(Value::as_str).map(str::to_owned);
    let port = wishes.status_port.to_string();
    // Scraped already through the proxy: it was injected before, or its user has said so.
    if get(annotation::PROMETHEUS_PORT).as_ref() == Some(&port) {
        return Ok(());
    }
    let told: Map<String, Value> = [
        ("scrape", annotation::PROMETHEUS_SCRAPE),
        ("path", annotation::PROMETHEUS_PATH),
        ("port", annotation::PROMETHEUS_PORT),
    ]
    .into_iter()
    .filter_map(|(name, annotation)| Some((name.to_owned(), get(annotation)?.into())))
    .collect();
    for (name, value) in [
        (annotation::PROMETHEUS_SCRAPE, "true"),
        (annotation::PROMETHEUS_PATH, "/stats/prometheus"),
        (annotation::PROMETHEUS_PORT, port.as_str()),
    ] {
        annotations.insert(name.to_owned(), value.into());
    }
    if !told.is_empty()
        && let Some(proxy) = container(pod, PROXY)
    {
        let variable = json!({"env": [{"name": PROMETHEUS_VARIABLE, "value": Value::Object(told).to_string()}]});
        merge::merge(proxy, variable).map_err(InjectError::Pod)?;
    }
    Ok(())
}

//! Injection: a pod as its user wrote it becomes a pod of the mesh (IN1-IN5).
//!
//! The path is `decision → wishes → template → merge → probes`, all of it pure: [`decision`] says whether and why, [`wishes`] reads what
//! the pod's annotations ask for, [`template`] makes the parts that are added, [`merge`] lays them over the pod, and [`probes`] sends the
//! application's probes through the proxy. [`patch`] writes the difference down for the API server, [`review`] answers its questions, and
//! [`text`] does the same to files for `meshctl inject`. Pods stay JSON: a field that is newer than our types survives.

pub mod decision;
pub mod merge;
pub mod patch;
pub mod probes;
pub mod review;
pub mod settings;
pub mod template;
pub mod text;
pub mod wishes;
pub mod workload;

mod finish;
mod yaml;

use k8s_openapi::api::core::v1::PodTemplateSpec;
use mesh_proto::crd::MeshConfig;
use serde_json::Value;

pub use decision::{Decision, Subject, decide};
pub use settings::Settings;
pub use workload::Workload;

/// The proxy's container.
pub const PROXY: &str = "istio-proxy";
/// The container that sets up capture.
pub const REDIRECT: &str = "istio-init";

/// Why a pod cannot be injected as it asks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InjectError {
    /// An annotation.
    #[error("annotation {name}: {reason}")]
    Annotation {
        /// Its name.
        name: &'static str,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// The pod itself.
    #[error("{0}")]
    Pod(String),
    /// An injection template.
    #[error("injection template `{name}`: {reason}")]
    Template {
        /// Its name.
        name: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// The settings of injection.
    #[error("injection settings: {0}")]
    Settings(String),
}

/// Where a pod comes from.
#[derive(Debug, Clone)]
pub struct Origin<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// What it is a pod of; read from its owner references when absent.
    pub workload: Option<Workload>,
}

/// What became of a pod.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The pod with the proxy, and what of its annotations has no effect.
    Injected {
        /// The pod.
        pod: Value,
        /// For people.
        warnings: Vec<String>,
    },
    /// It stays as it is; why, in words.
    Skipped(String),
}

/// Decides over a pod (or a pod template: `metadata` and `spec`) and injects it.
///
/// A pod that was injected already is injected again with the same outcome, so that the API server may call again after other webhooks.
/// Namespaces are not asked for here: whoever calls, the API server by its selectors or a user by a command, has judged them.
pub fn inject(
    pod: &Value,
    origin: &Origin<'_>,
    settings: &Settings,
    mesh: &MeshConfig,
) -> Result<Outcome, InjectError> {
    let typed = read(pod)?;
    let subject = Subject { namespace: origin.namespace, namespace_labels: None, pod: &typed };
    let decision = decide(&subject, settings);
    if !decision.inject {
        return Ok(Outcome::Skipped(decision.reason));
    }
    let wishes = wishes::read(&typed, settings, mesh)?;
    let workload = match &origin.workload {
        Some(workload) => workload.clone(),
        None => Workload::of(&typed),
    };
    let mut pod = pod.clone();
    let overrides = finish::take_overrides(&mut pod, &typed)?;
    let context = template::Context { settings, mesh, wishes: &wishes, pod: &typed, origin, workload: &workload };
    for name in &wishes.templates {
        let overlay = template::overlay(name, &context)?;
        let refused = |reason| InjectError::Template { name: name.clone(), reason };
        merge::merge(&mut pod, overlay).map_err(refused)?;
    }
    finish::place_proxy(&mut pod, &wishes);
    finish::apply_overrides(&mut pod, &overrides)?;
    let left = if wishes.rewrite_probes { probes::rewrite(&mut pod, wishes.status_port)? } else { Vec::new() };
    finish::order(&mut pod, &wishes);
    finish::metadata(&mut pod, &context, &overrides)?;
    finish::merge_metrics(&mut pod, &wishes)?;
    read(&pod).map_err(|error| InjectError::Pod(format!("the injected pod would be malformed: {error}")))?;
    Ok(Outcome::Injected { pod, warnings: wishes.warnings.into_iter().chain(left).collect() })
}

/// A pod's `metadata` and `spec` as types.
pub fn read(pod: &Value) -> Result<PodTemplateSpec, InjectError> {
    serde_path_to_error::deserialize(pod)
        .map_err(|error| InjectError::Pod(format!("pod: {}: {}", error.path(), error.inner())))
}

/// Items of a list at the top of a pod's `spec`, if there is one.
fn items<'a>(pod: &'a mut Value, list: &str) -> Option<&'a mut Vec<Value>> {
    pod.get_mut("spec")?.get_mut(list)?.as_array_mut()
}

/// The container of this name in `containers` or `initContainers`.
fn container<'a>(pod: &'a mut Value, name: &str) -> Option<&'a mut Value> {
    let list = ["containers", "initContainers"]
        .into_iter()
        .find(|list| items(pod, list).is_some_and(|items| items.iter().any(|item| named(item, name))))?;
    items(pod, list)?.iter_mut().find(|item| named(item, name))
}

fn named(item: &Value, name: &str) -> bool {
    item.get("name").and_then(Value::as_str) == Some(name)
}

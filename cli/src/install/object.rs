//! Kubernetes objects as charts make them, and the kinds that charts may make: the order in which they are applied is here and nowhere else.

use std::fmt;

use kube::core::{ApiResource, GroupVersionKind};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// When an object is applied: what a stage needs is in the stages before it. Removal goes the other way round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Custom resource definitions; they must be established before anything uses them.
    Definitions,
    /// Who may do what.
    Rights,
    /// Settings, services, budgets.
    Settings,
    /// What runs.
    Workloads,
    /// What the API server asks from then on: last, because it must be answered.
    Webhooks,
}

impl Stage {
    /// All, in order.
    pub const ALL: [Self; 5] = [Self::Definitions, Self::Rights, Self::Settings, Self::Workloads, Self::Webhooks];
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Definitions => "custom resources",
            Self::Rights => "accounts and rights",
            Self::Settings => "settings and services",
            Self::Workloads => "workloads",
            Self::Webhooks => "webhooks",
        })
    }
}

/// A kind that is installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// `Deployment`.
    pub kind: &'static str,
    /// `apps`; empty for the core.
    pub group: &'static str,
    /// `deployments`.
    pub plural: &'static str,
    /// Whether its objects lie in namespaces.
    pub namespaced: bool,
    /// When it is applied.
    pub stage: Stage,
}

const fn kind(kind: &'static str, group: &'static str, plural: &'static str, namespaced: bool, stage: Stage) -> Kind {
    Kind { kind, group, plural, namespaced, stage }
}

/// Every kind that charts may make. Objects of one stage are applied in this order.
pub const KINDS: &[Kind] = &[
    kind("CustomResourceDefinition", "apiextensions.k8s.io", "customresourcedefinitions", false, Stage::Definitions),
    kind("ServiceAccount", "", "serviceaccounts", true, Stage::Rights),
    kind("ClusterRole", "rbac.authorization.k8s.io", "clusterroles", false, Stage::Rights),
    kind("ClusterRoleBinding", "rbac.authorization.k8s.io", "clusterrolebindings", false, Stage::Rights),
    kind("Role", "rbac.authorization.k8s.io", "roles", true, Stage::Rights),
    kind("RoleBinding", "rbac.authorization.k8s.io", "rolebindings", true, Stage::Rights),
    kind("ConfigMap", "", "configmaps", true, Stage::Settings),
    kind("Service", "", "services", true, Stage::Settings),
    kind("PodDisruptionBudget", "policy", "poddisruptionbudgets", true, Stage::Settings),
    kind("Deployment", "apps", "deployments", true, Stage::Workloads),
    kind("DaemonSet", "apps", "daemonsets", true, Stage::Workloads),
    kind("HorizontalPodAutoscaler", "autoscaling", "horizontalpodautoscalers", true, Stage::Workloads),
    kind(
        "MutatingWebhookConfiguration",
        "admissionregistration.k8s.io",
        "mutatingwebhookconfigurations",
        false,
        Stage::Webhooks,
    ),
    kind(
        "ValidatingWebhookConfiguration",
        "admissionregistration.k8s.io",
        "validatingwebhookconfigurations",
        false,
        Stage::Webhooks,
    ),
];

/// Which object: what an inventory remembers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Id {
    /// `apps/v1`.
    pub api_version: String,
    /// `Deployment`.
    pub kind: String,
    /// Its namespace, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

impl Id {
    /// The kind; `None` for one that is never installed, as another version's inventory might name it.
    pub fn kind(&self) -> Option<&'static Kind> {
        KINDS.iter().find(|kind| kind.kind == self.kind)
    }

    /// How the API server addresses its kind.
    pub fn resource(&self) -> ApiResource {
        let (group, version) = self.api_version.split_once('/').unwrap_or(("", &self.api_version));
        let plural =
            self.kind().map_or_else(|| format!("{}s", self.kind.to_lowercase()), |kind| kind.plural.to_owned());
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, &self.kind), &plural)
    }
}

/// An object of a manifest.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// Which one.
    pub id: Id,
    /// When it is applied.
    pub stage: Stage,
    /// The whole object.
    pub body: Value,
}

impl Object {
    /// Reads an object; the error says what it lacks.
    pub fn new(body: Value) -> Result<Self, String> {
        let text = |path: &str| body.pointer(path).and_then(Value::as_str).map(str::to_owned);
        let api_version = text("/apiVersion").ok_or("an object without apiVersion")?;
        let kind = text("/kind").ok_or("an object without kind")?;
        let name = text("/metadata/name").ok_or_else(|| format!("a {kind} without metadata.name"))?;
        let id = Id { api_version, kind, namespace: text("/metadata/namespace"), name };
        let known =
            id.kind().ok_or_else(|| format!("{id}: objects of this kind are not installed by charts of ours"))?;
        if known.namespaced != id.namespace.is_some() {
            return Err(format!("{id}: {}", if known.namespaced { "lacks a namespace" } else { "has a namespace" }));
        }
        Ok(Self { id, stage: known.stage, body })
    }

    /// Its place among the objects of a component.
    pub fn order(&self) -> (Stage, usize) {
        let position = KINDS.iter().position(|kind| kind.kind == self.id.kind).unwrap_or(KINDS.len());
        (self.stage, position)
    }

    /// A label.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.body.get("metadata")?.get("labels")?.get(name)?.as_str()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_have_an_identity_and_a_place() {
        let object = |kind: &str, version: &str, namespace: Option<&str>| {
            let mut body = json!({"apiVersion": version, "kind": kind, "metadata": {"name": "a"}});
            if let Some(namespace) = namespace {
                body["metadata"]["namespace"] = namespace.into();
            }
            Object::new(body)
        };
        let deployment = object("Deployment", "apps/v1", Some("n")).unwrap();
        assert_eq!(deployment.id.to_string(), "Deployment n/a");
        assert_eq!(deployment.id.resource().plural, "deployments");
        assert!(object("Service", "v1", Some("n")).unwrap().order() < deployment.order());
        for (kind, namespace, reason) in [
            ("Deployment", None, "lacks a namespace"),
            ("ClusterRole", Some("n"), "has a namespace"),
            ("Job", Some("n"), "not installed"),
        ] {
            let error = object(kind, "v1", namespace).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }
}

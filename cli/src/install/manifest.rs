//! The objects of an installation, in the order in which they are applied. Pure: no cluster is asked.
//!
//! [`crate::install::values`] → charts → here → [`crate::install::apply`].

use serde_json::json;

use super::chart::{Chart, ChartError, Release};
use super::object::{Id, Object, Stage};
use super::values::{DEFAULT_REVISION, Gateway, Installation};

/// Who applies: the field manager, and the label `app.kubernetes.io/managed-by`.
pub const MANAGER: &str = "meshctl";

/// Everything of an installation.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// Shared parts and the control plane, by stage.
    pub control_plane: Vec<Object>,
    /// Gateways, by stage: their pods are made by the control plane, so they come after it.
    pub gateways: Vec<Object>,
}

impl Manifest {
    /// Renders the charts. `default_revision` judges objects that name none.
    pub fn new(installation: &Installation, default_revision: &str) -> Result<Self, ChartError> {
        let namespace = &installation.namespace;
        let release = |name| Release { name, namespace, service: MANAGER };
        let base = json!({"defaultRevision": default_revision});
        let mut control_plane = Chart::embedded("base")?.render(&release("istio-base"), &base)?;
        control_plane.extend(Chart::embedded("controlplane")?.render(&release("istiod"), &installation.control_plane)?);
        control_plane.sort_by_key(Object::order);
        let mut gateways = Vec::new();
        let chart = Chart::embedded("gateway")?;
        for gateway in &installation.gateways {
            gateways.extend(render(&chart, gateway)?);
        }
        gateways.sort_by_key(Object::order);
        Ok(Self { control_plane, gateways })
    }

    /// All objects, in order.
    pub fn objects(&self) -> impl Iterator<Item = &Object> {
        self.control_plane.iter().chain(&self.gateways)
    }

    /// The identities of all objects, in order.
    pub fn ids(&self) -> Vec<Id> {
        self.objects().map(|object| object.id.clone()).collect()
    }

    /// As YAML documents.
    pub fn to_yaml(&self) -> anyhow::Result<String> {
        let mut text = String::new();
        for object in self.objects() {
            text.push_str("---\n");
            text.push_str(&yaml_serde::to_string(&object.body)?);
        }
        Ok(text)
    }
}

/// The objects of one gateway; errors name it.
fn render(chart: &Chart, gateway: &Gateway) -> Result<Vec<Object>, ChartError> {
    let release = Release { name: &gateway.name, namespace: &gateway.namespace, service: MANAGER };
    chart.render(&release, &gateway.values).map_err(|error| match error {
        ChartError::Value { chart, field, message } => {
            ChartError::Value { chart, field: format!("gateways.{}.{field}", gateway.name), message }
        }
        other => other,
    })
}

/// The webhook configuration by which `tag` points to a revision, as its chart makes it.
pub fn tag(installation: &Installation, tag: &str) -> Result<Option<Object>, ChartError> {
    let mut values = installation.control_plane.clone();
    values["revisionTags"] = json!([tag]);
    let release = Release { name: "istiod", namespace: &installation.namespace, service: MANAGER };
    let objects = Chart::embedded("controlplane")?.render(&release, &values)?;
    Ok(objects.into_iter().find(|object| object.label(TAG_LABEL) == Some(tag)))
}

/// The webhook configuration by which a revision judges objects that name none.
pub fn default_validator(namespace: &str, revision: &str) -> Result<Option<Object>, ChartError> {
    let release = Release { name: "istio-base", namespace, service: MANAGER };
    let objects = Chart::embedded("base")?.render(&release, &json!({"defaultRevision": revision}))?;
    Ok(objects.into_iter().find(|object| object.stage == Stage::Webhooks))
}

/// Names the tag on a webhook configuration.
pub const TAG_LABEL: &str = "istio.io/tag";
/// Names the revision on everything of a control plane.
pub const REVISION_LABEL: &str = "istio.io/rev";

/// `-REVISION`, or nothing for the default one: how names of its objects end.
pub fn suffix(revision: &str) -> String {
    if revision == DEFAULT_REVISION { String::new() } else { format!("-{revision}") }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::Value;

    use super::super::values::Wishes;
    use super::*;

    fn manifest(sets: &[&str]) -> Result<Manifest, ChartError> {
        let wishes = Wishes { sets: sets.iter().map(|&set| set.to_owned()).collect(), ..Wishes::default() };
        let installation = wishes.installation(&Value::Null, "istio-system").unwrap();
        Manifest::new(&installation, &installation.revision)
    }

    #[test]
    fn what_is_needed_comes_first() {
        let manifest = manifest(&["profile=demo", "pilot.autoscaleEnabled=true"]).unwrap();
        let place = |text: &str| manifest.ids().iter().position(|id| id.to_string() == text).unwrap();
        for (first, second) in [
            ("ServiceAccount istio-system/istiod", "ClusterRoleBinding istiod-clusterrole-istio-system"),
            ("ConfigMap istio-system/istio", "Deployment istio-system/istiod"),
            ("Deployment istio-system/istiod", "HorizontalPodAutoscaler istio-system/istiod"),
            ("Deployment istio-system/istiod", "MutatingWebhookConfiguration istio-sidecar-injector"),
            ("ValidatingWebhookConfiguration istiod-default-validator", "Service istio-system/istio-ingressgateway"),
            ("MutatingWebhookConfiguration istio-sidecar-injector", "Deployment istio-system/istio-egressgateway"),
        ] {
            assert!(place(first) < place(second), "{first} before {second}");
        }
    }

    #[test]
    fn names_carry_the_revision() {
        let manifest = manifest(&["revision=canary", "profile=minimal"]).unwrap();
        let control_plane = manifest.objects().filter(|object| object.label("app") == Some("istiod"));
        for object in control_plane.filter(|object| object.id.name != "istiod-default-validator") {
            assert!(object.id.name.contains("-canary"), "{}", object.id);
            assert_eq!(object.label(REVISION_LABEL), Some("canary"), "{}", object.id);
        }
    }

    #[test]
    fn a_wrong_value_of_a_gateway_names_it() {
        let error = manifest(&["gateways.istio-ingressgateway.service.typ=NodePort"]).unwrap_err().to_string();
        assert!(error.starts_with("gateways.istio-ingressgateway.service: ") && error.contains("'typ'"), "{error}");
    }

    #[test]
    fn a_tag_points_to_its_revision() {
        let installation = Wishes { revision: Some("canary".to_owned()), ..Wishes::default() };
        let installation = installation.installation(&Value::Null, "istio-system").unwrap();
        let object = tag(&installation, "prod").unwrap().unwrap();
        assert_eq!(
            (object.id.name.as_str(), object.label(REVISION_LABEL)),
            ("istio-revision-tag-prod", Some("canary"))
        );
        let service = object.body.pointer("/webhooks/0/clientConfig/service/name");
        assert_eq!(service.and_then(Value::as_str), Some("istiod-canary"));
        assert_eq!(object.body["webhooks"].as_array().unwrap().len(), 2);
    }
}

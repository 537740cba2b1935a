//! What an operator sets of injection: one YAML file, read and checked once. Mesh-wide settings of proxies come from MeshConfig instead.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::{Selector, SelectorExt};
use mesh_proto::names::{ROOT_NAMESPACE, port};
use serde::Deserialize;

use super::InjectError;

/// Settings of injection; absent fields have the defaults that are shown.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// Whether pods are injected that say nothing themselves: `enabled` (default) or `disabled`.
    pub policy: Policy,
    /// Pods that are never injected unless they ask for it.
    pub never_inject_selector: Vec<LabelSelector>,
    /// Pods that are injected even by policy `disabled`, unless they refuse.
    pub always_inject_selector: Vec<LabelSelector>,
    /// Annotations that injected pods get.
    pub injected_annotations: BTreeMap<String, String>,
    /// Templates of pods that name none: `[sidecar]`.
    pub default_templates: Vec<String>,
    /// Templates beside `sidecar` and `gateway`: YAML of parts of a pod.
    pub templates: BTreeMap<String, String>,
    /// Revision of this control plane: `default`.
    pub revision: String,
    /// Tags that point to it.
    pub tags: Vec<String>,
    /// Namespace of the control plane: `istio-system`.
    pub control_plane_namespace: String,
    /// Where proxies find it; by default `istiod[-REVISION].NAMESPACE.svc:15012`.
    pub discovery_address: Option<String>,
    /// Where proxies find the certificate authority; by default the control plane.
    pub ca_address: Option<String>,
    /// Image of sidecars.
    pub proxy_image: String,
    /// Image of gateways.
    pub gateway_image: String,
    /// `Always`, `IfNotPresent`, `Never`; Kubernetes' default if absent.
    pub image_pull_policy: Option<String>,
    /// Secrets by which images are pulled.
    pub image_pull_secrets: Vec<String>,
    /// Requests and limits of a proxy that asks for nothing.
    pub resources: Resources,
    /// Whether sidecars are native ones (Kubernetes 1.29): true.
    pub native_sidecar: bool,
    /// Whether probes of applications go through the proxy: true.
    pub rewrite_app_probes: bool,
    /// Level of the proxies' logs: `info`.
    pub log_level: String,
    /// Name of the cluster: `Kubernetes`.
    pub cluster: String,
    /// Network of the cluster.
    pub network: Option<String>,
    /// DNS suffix of the cluster: `cluster.local`.
    pub domain: String,
    /// Capture of pods that do not say.
    pub capture: CaptureDefaults,
}

/// Whether pods are injected that say nothing themselves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// Yes.
    #[default]
    Enabled,
    /// No.
    Disabled,
}

/// Requests and limits, by the names of resources.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Resources {
    /// Requests.
    pub requests: BTreeMap<String, String>,
    /// Limits.
    pub limits: BTreeMap<String, String>,
}

impl Default for Resources {
    /// A sidecar of ours rests at about 20 MiB, so it asks for half of what Istio's asks; the limits are Istio's, so that no load that
    /// Istio's sidecars bear is throttled or killed here.
    fn default() -> Self {
        let map = |cpu: &str, memory: &str| {
            BTreeMap::from([("cpu".to_owned(), cpu.to_owned()), ("memory".to_owned(), memory.to_owned())])
        };
        Self { requests: map("50m", "64Mi"), limits: map("2000m", "1024Mi") }
    }
}

/// Capture of pods that do not say; the forms are those of the annotations.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CaptureDefaults {
    /// `*`.
    #[serde(rename = "includeIPRanges")]
    pub include_ip_ranges: String,
    /// None.
    #[serde(rename = "excludeIPRanges")]
    pub exclude_ip_ranges: String,
    /// None.
    pub include_outbound_ports: String,
    /// None.
    pub exclude_outbound_ports: String,
    /// `*`.
    pub include_inbound_ports: String,
    /// None.
    pub exclude_inbound_ports: String,
}

impl Default for CaptureDefaults {
    fn default() -> Self {
        Self {
            include_ip_ranges: "*".to_owned(),
            exclude_ip_ranges: String::new(),
            include_outbound_ports: String::new(),
            exclude_outbound_ports: String::new(),
            include_inbound_ports: "*".to_owned(),
            exclude_inbound_ports: String::new(),
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            policy: Policy::Enabled,
            never_inject_selector: Vec::new(),
            always_inject_selector: Vec::new(),
            injected_annotations: BTreeMap::new(),
            default_templates: vec!["sidecar".to_owned()],
            templates: BTreeMap::new(),
            revision: "default".to_owned(),
            tags: Vec::new(),
            control_plane_namespace: ROOT_NAMESPACE.to_owned(),
            discovery_address: None,
            ca_address: None,
            proxy_image: concat!("ferromesh/proxy:", env!("CARGO_PKG_VERSION")).to_owned(),
            gateway_image: concat!("ferromesh/gateway:", env!("CARGO_PKG_VERSION")).to_owned(),
            image_pull_policy: None,
            image_pull_secrets: Vec::new(),
            resources: Resources::default(),
            native_sidecar: true,
            rewrite_app_probes: true,
            log_level: "info".to_owned(),
            cluster: "Kubernetes".to_owned(),
            network: None,
            domain: "cluster.local".to_owned(),
            capture: CaptureDefaults::default(),
        }
    }
}

impl Settings {
    /// Reads and checks a file's text.
    pub fn from_yaml(text: &str) -> Result<Self, InjectError> {
        let wrong = |error: &dyn std::fmt::Display| InjectError::Settings(error.to_string());
        let settings: Option<Self> = yaml_serde::from_str(text).map_err(|error| wrong(&error))?;
        let settings = settings.unwrap_or_default();
        for (name, selectors) in [
            ("neverInjectSelector", &settings.never_inject_selector),
            ("alwaysInjectSelector", &settings.always_inject_selector),
        ] {
            for (index, selector) in selectors.iter().enumerate() {
                Selector::try_from(selector.clone()).map_err(|error| wrong(&format!("{name}[{index}]: {error}")))?;
            }
        }
        for name in &settings.default_templates {
            if !settings.has_template(name) {
                return Err(wrong(&format!("defaultTemplates: there is no template `{name}`; define it in templates")));
            }
        }
        for name in ["sidecar", "gateway"] {
            if settings.templates.contains_key(name) {
                let message = format!(
                    "templates.{name}: is built in and cannot be replaced; give yours another name and set defaultTemplates: [{name}, NAME]"
                );
                return Err(wrong(&message));
            }
        }
        Ok(settings)
    }

    /// True for `sidecar`, `gateway` and those of the operator.
    pub fn has_template(&self, name: &str) -> bool {
        matches!(name, "sidecar" | "gateway") || self.templates.contains_key(name)
    }

    /// True if `name` is this control plane's revision or a tag of it.
    pub fn is_ours(&self, name: &str) -> bool {
        self.revision == name || self.tags.iter().any(|tag| tag == name)
    }

    /// True if this control plane serves namespaces that name no revision.
    pub fn is_default(&self) -> bool {
        self.is_ours("default")
    }

    /// Where proxies find the control plane.
    pub fn discovery(&self) -> String {
        self.discovery_address.clone().unwrap_or_else(|| {
            let suffix = if self.revision == "default" { String::new() } else { format!("-{}", self.revision) };
            format!("istiod{suffix}.{}.svc:{}", self.control_plane_namespace, port::XDS_TLS)
        })
    }
}

/// True if one of the selectors chooses these labels; an empty selector chooses nothing, as Istio has it here.
pub(super) fn chosen(selectors: &[LabelSelector], labels: &BTreeMap<String, String>) -> bool {
    selectors.iter().any(|selector| {
        let selector = Selector::try_from(selector.clone()).unwrap_or_default();
        !selector.selects_all() && selector.matches(labels)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn settings_are_read_or_refused_by_the_path_of_a_field() {
        assert_eq!(Settings::from_yaml("").unwrap(), Settings::default());
        let settings = Settings::from_yaml("{revision: canary, tags: [prod], resources: {limits: {}}}").unwrap();
        assert_eq!(settings.discovery(), "istiod-canary.istio-system.svc:15012");
        assert!(settings.is_ours("prod") && settings.is_ours("canary") && !settings.is_default());
        assert_eq!((settings.resources.limits.len(), settings.resources.requests.len()), (0, 2));
        for (yaml, reason) in [
            ("{revison: a}", "unknown field `revison`"),
            ("{policy: maybe}", "policy: unknown variant `maybe`"),
            ("{resources: {request: {}}}", "resources: unknown field `request`"),
            ("{defaultTemplates: [mine]}", "defaultTemplates: there is no template `mine`"),
            ("{templates: {sidecar: 'spec: {}'}}", "templates.sidecar: is built in"),
            ("{neverInjectSelector: [{matchExpressions: [{key: a, operator: Near}]}]}", "neverInjectSelector[0]"),
        ] {
            let error = Settings::from_yaml(yaml).unwrap_err().to_string();
            assert!(error.starts_with("injection settings: ") && error.contains(reason), "{yaml}: {error}");
        }
    }
}

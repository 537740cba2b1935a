//! Whether a pod gets a proxy, and why (IN1): pure, the first step of injection.
//!
//! Source: <https://istio.io/latest/docs/setup/additional-setup/sidecar-injection/#controlling-the-injection-policy>.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodTemplateSpec;
use mesh_proto::names::{annotation, label};

use super::settings::{Policy, Settings, chosen};

/// Namespaces of Kubernetes' own, whose pods must start without a mesh.
pub const SYSTEM_NAMESPACES: [&str; 4] = ["kube-system", "kube-public", "kube-node-lease", "local-path-storage"];

/// Labels of a control plane's pods: ours and Istio's.
const CONTROL_PLANE: [(&str, &str); 2] = [("app", "istiod"), ("istio", "pilot")];

/// What is decided over.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Namespace of the pod.
    pub namespace: &'a str,
    /// Its labels; absent where selectors of the webhook's configuration, or a user, have judged them already.
    pub namespace_labels: Option<&'a BTreeMap<String, String>>,
    /// The pod.
    pub pod: &'a PodTemplateSpec,
}

/// A decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Whether the pod is injected.
    pub inject: bool,
    /// Why, in words.
    pub reason: String,
}

fn yes(reason: impl Into<String>) -> Decision {
    Decision { inject: true, reason: reason.into() }
}

fn no(reason: impl Into<String>) -> Decision {
    Decision { inject: false, reason: reason.into() }
}

/// Decides over a pod.
pub fn decide(subject: &Subject<'_>, settings: &Settings) -> Decision {
    never(subject, settings)
        .or_else(|| subject.namespace_labels.and_then(|labels| by_namespace(labels, subject, settings)))
        .unwrap_or_else(|| by_pod(subject, settings))
}

/// What no label can ask for.
fn never(subject: &Subject<'_>, settings: &Settings) -> Option<Decision> {
    let spec = subject.pod.spec.as_ref();
    if spec.is_some_and(|spec| spec.host_network == Some(true)) {
        return Some(no("it uses the node's network, in which nothing may be captured (spec.hostNetwork)"));
    }
    if SYSTEM_NAMESPACES.contains(&subject.namespace) {
        return Some(no(format!("{} is a namespace of Kubernetes itself", subject.namespace)));
    }
    if spec.and_then(|spec| spec.os.as_ref()).is_some_and(|os| os.name == "windows") {
        return Some(no("it runs on Windows, for which there is no proxy (spec.os)"));
    }
    if subject.namespace == settings.control_plane_namespace {
        let labels = labels(subject);
        if CONTROL_PLANE.iter().any(|(name, value)| labels.get(*name).is_some_and(|found| found == value)) {
            return Some(no("it is the control plane itself"));
        }
        if asked(subject).is_none_or(|(_, value)| value != "true") {
            return Some(no(format!(
                "{} is the control plane's namespace, where only pods are injected that ask by {}: \"true\"",
                subject.namespace,
                label::INJECT
            )));
        }
    }
    None
}

/// What labels of the namespace, or of the pod in their place, forbid: the selectors of the webhook's configuration, in words.
fn by_namespace(labels_of: &BTreeMap<String, String>, subject: &Subject<'_>, settings: &Settings) -> Option<Decision> {
    let get = |name: &str| labels_of.get(name).map(String::as_str);
    let other = |what: &str, revision: &str| {
        Some(no(format!(
            "{what} {}={revision} names another control plane than {}",
            label::REVISION,
            settings.revision
        )))
    };
    let pods_revision = labels(subject).get(label::REVISION).map(String::as_str);
    match (get(label::INJECTION), get(label::REVISION)) {
        (Some("enabled"), _) if settings.is_default() => None,
        (Some("enabled"), _) => Some(no(format!(
            "the namespace's label {}=enabled means the default revision, and this is {}",
            label::INJECTION,
            settings.revision
        ))),
        (Some(value), _) => Some(no(format!("the namespace's label {}={value} forbids it", label::INJECTION))),
        (None, Some(revision)) if settings.is_ours(revision) => None,
        (None, Some(revision)) => other("the namespace's label", revision),
        (None, None) => match pods_revision {
            Some(revision) if settings.is_ours(revision) => None,
            Some(revision) => other("the pod's label", revision),
            None if labels(subject).get(label::INJECT).is_some_and(|value| value == "true") => (!settings.is_default())
                .then(|| {
                    no(format!(
                        "it names no revision, so it belongs to the default one, and this is {}",
                        settings.revision
                    ))
                }),
            None => Some(no(format!(
                "neither the namespace ({}=enabled or {}) nor the pod ({}: \"true\") asks for it",
                label::INJECTION,
                label::REVISION,
                label::INJECT
            ))),
        },
    }
}

/// What the pod says; else what selectors and the policy say.
fn by_pod(subject: &Subject<'_>, settings: &Settings) -> Decision {
    match asked(subject) {
        Some((source, "true")) => return yes(format!("the pod's {source} {} asks for it", label::INJECT)),
        Some((source, value)) => return no(format!("the pod's {source} {}={value} forbids it", label::INJECT)),
        None => {}
    }
    let labels = labels(subject);
    if chosen(&settings.never_inject_selector, labels) {
        return no("neverInjectSelector chooses it");
    }
    if chosen(&settings.always_inject_selector, labels) {
        return yes("alwaysInjectSelector chooses it");
    }
    match settings.policy {
        Policy::Enabled => yes("policy is enabled"),
        Policy::Disabled => no("policy is disabled, and the pod does not ask for it"),
    }
}

/// What the pod says by its label or, if it has none, by its annotation; an empty value says nothing.
fn asked<'a>(subject: &Subject<'a>) -> Option<(&'static str, &'a str)> {
    let metadata = subject.pod.metadata.as_ref()?;
    let label = metadata.labels.as_ref().and_then(|labels| labels.get(label::INJECT));
    let annotation = || metadata.annotations.as_ref().and_then(|all| all.get(annotation::INJECT));
    let said = label.map(|value| ("label", value)).or_else(|| annotation().map(|value| ("annotation", value)));
    said.map(|(source, value)| (source, value.as_str())).filter(|(_, value)| !value.is_empty())
}

fn labels<'a>(subject: &Subject<'a>) -> &'a BTreeMap<String, String> {
    static NONE: BTreeMap<String, String> = BTreeMap::new();
    subject.pod.metadata.as_ref().and_then(|metadata| metadata.labels.as_ref()).unwrap_or(&NONE)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Decides: labels of the namespace (`-` is unknown), the pod in YAML, settings in YAML, namespace.
    fn check(namespace: &str, labels: &str, pod: &str, settings: &str) -> Decision {
        let pod: PodTemplateSpec = yaml_serde::from_str(pod).unwrap();
        let labels: Option<BTreeMap<String, String>> = (labels != "-").then(|| yaml_serde::from_str(labels).unwrap());
        let subject = Subject { namespace, namespace_labels: labels.as_ref(), pod: &pod };
        decide(&subject, &Settings::from_yaml(settings).unwrap())
    }

    fn pod(labels: &str, annotations: &str) -> String {
        format!("{{metadata: {{labels: {labels}, annotations: {annotations}}}, spec: {{containers: []}}}}")
    }

    #[test]
    fn what_istio_documents_is_decided() {
        let inject = "sidecar.istio.io/inject";
        for (namespace_labels, pod_label, pod_annotation, settings, inject_it, reason) in [
            // The namespace's label, and the pod's own word.
            ("{istio-injection: enabled}", "", "", "", true, "policy is enabled"),
            ("{istio-injection: enabled}", "true", "", "", true, "label sidecar.istio.io/inject asks"),
            ("{istio-injection: enabled}", "false", "", "", false, "label sidecar.istio.io/inject=false forbids"),
            ("{istio-injection: enabled}", "", "true", "", true, "annotation sidecar.istio.io/inject asks"),
            ("{istio-injection: enabled}", "", "false", "", false, "annotation sidecar.istio.io/inject=false forbids"),
            ("{istio-injection: enabled}", "true", "false", "", true, "label sidecar.istio.io/inject asks"),
            ("{istio-injection: enabled}", "false", "true", "", false, "label sidecar.istio.io/inject=false forbids"),
            ("{istio-injection: enabled}", "yes", "", "", false, "inject=yes forbids"),
            ("{istio-injection: disabled}", "", "", "", false, "istio-injection=disabled forbids"),
            ("{istio-injection: disabled}", "true", "", "", false, "istio-injection=disabled forbids"),
            ("{istio-injection: disabled, istio.io/rev: default}", "true", "", "", false, "istio-injection=disabled"),
            ("{istio-injection: maybe}", "true", "", "", false, "istio-injection=maybe forbids"),
            // Without a label of the namespace the pod asks for itself, and by its label: selectors see no annotations.
            ("{}", "true", "", "", true, "label sidecar.istio.io/inject asks"),
            ("{}", "false", "", "", false, "neither the namespace"),
            ("{}", "", "", "", false, "neither the namespace"),
            ("{}", "", "true", "", false, "neither the namespace"),
            // Revisions and tags.
            ("{istio.io/rev: canary}", "", "", "", false, "istio.io/rev=canary names another control plane"),
            ("{istio.io/rev: canary}", "", "", "{revision: canary}", true, "policy is enabled"),
            ("{istio.io/rev: prod}", "", "", "{revision: canary, tags: [prod]}", true, "policy is enabled"),
            ("{istio.io/rev: canary}", "false", "", "{revision: canary}", false, "forbids"),
            ("{istio.io/rev: default}", "", "", "", true, "policy is enabled"),
            ("{istio-injection: enabled}", "", "", "{revision: canary}", false, "means the default revision"),
            ("{istio-injection: enabled}", "", "", "{revision: a, tags: [default]}", true, "policy is enabled"),
            ("{istio-injection: enabled, istio.io/rev: canary}", "", "", "", true, "policy is enabled"),
            ("{}", "true", "", "{revision: canary}", false, "belongs to the default one"),
            // Policy, and selectors that yield to the pod's own word.
            ("{istio-injection: enabled}", "", "", "{policy: disabled}", false, "policy is disabled"),
            ("{istio-injection: enabled}", "true", "", "{policy: disabled}", true, "asks for it"),
            ("{istio-injection: enabled}", "", "true", "{policy: disabled}", true, "asks for it"),
            (
                "{istio-injection: enabled}",
                "",
                "",
                "{neverInjectSelector: [{matchLabels: {app: a}}]}",
                false,
                "neverInject",
            ),
            (
                "{istio-injection: enabled}",
                "true",
                "",
                "{neverInjectSelector: [{matchLabels: {app: a}}]}",
                true,
                "asks",
            ),
            (
                "{istio-injection: enabled}",
                "",
                "",
                "{policy: disabled, alwaysInjectSelector: [{matchExpressions: [{key: app, operator: Exists}]}]}",
                true,
                "alwaysInjectSelector chooses it",
            ),
            (
                "{istio-injection: enabled}",
                "false",
                "",
                "{alwaysInjectSelector: [{matchExpressions: [{key: app, operator: Exists}]}]}",
                false,
                "forbids",
            ),
            (
                "{istio-injection: enabled}",
                "",
                "",
                "{neverInjectSelector: [{matchLabels: {app: a}}], alwaysInjectSelector: [{matchLabels: {app: a}}]}",
                false,
                "neverInject",
            ),
            ("{istio-injection: enabled}", "", "", "{neverInjectSelector: [{}]}", true, "policy is enabled"),
            // Namespaces that selectors have judged.
            ("-", "", "", "", true, "policy is enabled"),
            ("-", "false", "", "", false, "forbids"),
            ("-", "", "", "{policy: disabled}", false, "policy is disabled"),
        ] {
            let quoted = |value: &str| if value.is_empty() { String::new() } else { format!("{inject}: \"{value}\"") };
            let pod = pod(&format!("{{app: a, {}}}", quoted(pod_label)), &format!("{{{}}}", quoted(pod_annotation)));
            let found = check("default", namespace_labels, &pod, settings);
            let case = format!("{namespace_labels} {pod} {settings}: {found:?}");
            assert!(found.inject == inject_it && found.reason.contains(reason), "{case}");
        }
    }

    #[test]
    fn a_pods_own_revision_is_honoured_where_the_namespace_names_none() {
        for (namespace, revision, settings, inject_it, reason) in [
            ("{}", "canary", "{revision: canary}", true, "policy is enabled"),
            ("{}", "canary", "", false, "the pod's label istio.io/rev=canary names another control plane than default"),
            ("{istio.io/rev: stable}", "canary", "{revision: stable}", true, "policy is enabled"),
            ("{istio-injection: disabled}", "canary", "{revision: canary}", false, "forbids"),
        ] {
            let pod = pod(&format!("{{istio.io/rev: {revision}}}"), "{}");
            let found = check("default", namespace, &pod, settings);
            assert!(found.inject == inject_it && found.reason.contains(reason), "{namespace} {pod}: {found:?}");
        }
    }

    #[test]
    fn what_no_label_can_ask_for_is_never_injected() {
        let asks = "metadata: {labels: {sidecar.istio.io/inject: 'true'}}";
        let all = "{istio-injection: enabled}";
        for namespace in SYSTEM_NAMESPACES {
            let found = check(namespace, all, &format!("{{{asks}, spec: {{containers: []}}}}"), "");
            assert!(!found.inject && found.reason.contains("Kubernetes itself"), "{namespace}: {found:?}");
        }
        for (namespace, pod, inject_it, reason) in [
            ("default", format!("{{{asks}, spec: {{hostNetwork: true, containers: []}}}}"), false, "hostNetwork"),
            ("default", format!("{{{asks}, spec: {{os: {{name: windows}}, containers: []}}}}"), false, "Windows"),
            (
                "istio-system",
                pod("{app: istiod, sidecar.istio.io/inject: 'true'}", "{}"),
                false,
                "control plane itself",
            ),
            ("istio-system", pod("{istio: pilot}", "{}"), false, "control plane itself"),
            ("istio-system", pod("{app: grafana}", "{}"), false, "only pods are injected that ask"),
            ("istio-system", pod("{app: gw, sidecar.istio.io/inject: 'true'}", "{}"), true, "asks for it"),
            ("default", pod("{app: istiod}", "{}"), true, "policy is enabled"),
        ] {
            let found = check(namespace, all, &pod, "");
            assert!(found.inject == inject_it && found.reason.contains(reason), "{namespace} {pod}: {found:?}");
        }
    }
}

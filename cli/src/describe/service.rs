//! A service: its pods and which of them are in the mesh, and what clients of its namespace do with it.

use anyhow::{Result, bail};
use mesh_controlplane::model::endpoints::selects;
use mesh_controlplane::model::{Mode, Registry};
use serde::Serialize;

use super::pod::unique;
use super::view::{MtlsView, PolicyView, ServiceView, Viewer, policies};
use super::{Known, client, node};
use crate::pods::{self, Named};

/// What is said of a service.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceDescription {
    /// Name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// As clients of its own namespace see it.
    pub service: ServiceView,
    /// Its pods.
    pub pods: Vec<Member>,
    /// Policies that hold for any of its pods.
    pub authorization: Vec<PolicyView>,
    /// What is, or may be, wrong.
    pub warnings: Vec<String>,
}

/// A pod of a service.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// Name.
    pub name: String,
    /// Whether it serves.
    pub ready: bool,
    /// Whether it is in the mesh.
    pub proxy: bool,
    /// Which TLS it accepts; absent outside the mesh, and for gateways.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtls: Option<MtlsView>,
    /// Subsets that it is in.
    pub subsets: Vec<String>,
}

/// Describes a Service of Kubernetes.
///
/// # Errors
/// There is none of this name.
pub fn describe(known: &Known, named: &Named) -> Result<ServiceDescription> {
    let Named { name, namespace } = named;
    let mut services = known.context.all_services().filter(|service| service.registry == Registry::Kubernetes);
    let Some(service) = services.find(|service| *service.name == **name && *service.namespace == **namespace) else {
        bail!(
            "there is no Service {named}; `kubectl get services -n {namespace}` lists those that are, and NAME.NAMESPACE or -n names another \
             namespace"
        )
    };
    let asker = client(namespace, "client");
    let (mut shown, mut warnings) = (Vec::new(), Vec::new());
    let viewer = Viewer { known, node: &asker, pod: None };
    let view = viewer.service(service, &mut shown, &mut warnings);
    let (mut members, mut authorization) = (Vec::new(), Vec::new());
    for pod in &known.pods {
        let node = node(pod);
        let selected = service.selector.as_ref().is_some_and(|selector| selects(selector, &node.labels));
        if !selected || *node.namespace != **namespace {
            continue;
        }
        let proxy = pods::proxy(pod).is_some();
        if proxy {
            authorization.extend(policies(known, &node, &mut shown));
        }
        let subsets = view.destination_rule.iter().flat_map(|rule| &rule.subsets);
        let holding = subsets.filter(|subset| subset.labels.is_empty() || selects(&subset.labels, &node.labels));
        members.push(Member {
            name: node.name.to_string(),
            ready: pods::is_ready(pod),
            proxy,
            mtls: if proxy { MtlsView::of(known, &node, &mut shown) } else { None },
            subsets: holding.map(|subset| subset.name.clone()).collect(),
        });
    }
    members.sort_by(|one, other| one.name.cmp(&other.name));
    // DENY is asked first.
    authorization.sort_by(|one, other| (other.action, &one.object).cmp(&(one.action, &other.object)));
    authorization.dedup();
    warnings.extend(doubts(known, namespace, service.selector.is_some(), &members));
    warnings.extend(known.findings(&shown, namespace));
    Ok(ServiceDescription {
        name: name.clone(),
        namespace: namespace.clone(),
        service: view,
        pods: members,
        authorization,
        warnings: unique(warnings),
    })
}

fn doubts(known: &Known, namespace: &str, selects: bool, members: &[Member]) -> Vec<String> {
    let mut found = Vec::new();
    if selects && members.is_empty() {
        found.push("no pod has the labels of its selector, so that requests to it fail".to_owned());
    } else if !members.is_empty() && !members.iter().any(|member| member.ready) {
        found.push("none of its pods is ready, so that requests to it fail".to_owned());
    }
    let outside: Vec<&str> = members.iter().filter(|member| !member.proxy).map(|member| member.name.as_str()).collect();
    if !outside.is_empty() && known.context.namespace_mtls(namespace) == Mode::Strict {
        found.push(format!(
            "namespace {namespace} is STRICT, and pods without a proxy take plaintext from anybody: {}; `meshctl describe pod` says why they \
             have none",
            outside.join(", ")
        ));
    }
    found
}

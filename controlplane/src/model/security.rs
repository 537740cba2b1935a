//! Which TLS a workload accepts (PA1, PA2), and which AuthorizationPolicies hold for it (AP8).

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_proto::crd;
use mesh_proto::crd::authorization_policy::Action;
use mesh_proto::crd::peer_authentication::MutualTlsMode;
use mesh_proto::names::annotation;

use super::context::Config;
use super::{Node, NodeKind, endpoints};

/// A resolved mode of mTLS: UNSET is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Plaintext only.
    Disable,
    /// Both.
    Permissive,
    /// mTLS only.
    Strict,
}

/// The modes of a workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mtls {
    /// For ports that are not named.
    pub default: Mode,
    /// By workload port.
    pub ports: BTreeMap<u16, Mode>,
}

impl Mtls {
    /// The mode of a workload port.
    pub fn port(&self, port: u16) -> Mode {
        self.ports.get(&port).copied().unwrap_or(self.default)
    }
}

fn mode(mode: MutualTlsMode, inherited: Mode) -> Mode {
    match mode {
        MutualTlsMode::Unset => inherited,
        MutualTlsMode::Disable => Mode::Disable,
        MutualTlsMode::Permissive => Mode::Permissive,
        MutualTlsMode::Strict => Mode::Strict,
    }
}

fn selector(policy: &crd::PeerAuthentication) -> Option<&BTreeMap<String, String>> {
    policy.selector.as_ref().map(|selector| &selector.match_labels).filter(|labels| !labels.is_empty())
}

type Policies = [Arc<Config<crd::PeerAuthentication>>];

/// The policy of a whole namespace: the oldest without a selector.
fn wide<'a>(all: &'a Policies, namespace: &str) -> Option<&'a Arc<Config<crd::PeerAuthentication>>> {
    all.iter().find(|one| *one.key.namespace == *namespace && selector(&one.spec).is_none())
}

/// The policy of a workload alone. In the root namespace, too, a selector means workloads of that namespace only.
fn own<'a>(
    all: &'a Policies,
    namespace: &str,
    labels: &BTreeMap<String, String>,
) -> Option<&'a Arc<Config<crd::PeerAuthentication>>> {
    all.iter().find(|one| {
        *one.key.namespace == *namespace && selector(&one.spec).is_some_and(|want| endpoints::selects(want, labels))
    })
}

fn said(policy: Option<&Arc<Config<crd::PeerAuthentication>>>) -> MutualTlsMode {
    policy.and_then(|one| one.spec.mtls.as_ref()).map_or(MutualTlsMode::Unset, |mtls| mtls.mode)
}

/// The policies that have a say in the modes of a workload, the nearest first: of the workload, of its namespace, of the mesh.
pub fn peer_authentications(
    all: &Policies,
    namespace: &str,
    labels: &BTreeMap<String, String>,
    root: &str,
) -> Vec<Arc<Config<crd::PeerAuthentication>>> {
    let mesh = (namespace != root).then(|| wide(all, root)).flatten();
    own(all, namespace, labels).into_iter().chain(wide(all, namespace)).chain(mesh).cloned().collect()
}

/// The mode of a namespace without regard to workloads: what clients may take for granted (PA4).
pub fn namespace_mode(all: &Policies, namespace: &str, root: &str) -> Mode {
    mode(said(wide(all, namespace)), mode(said(wide(all, root)), Mode::Permissive))
}

/// The modes of a workload: its own policy over its namespace's over the mesh's, the oldest of each (PA2). `all` has the older first.
pub fn mtls(all: &Policies, namespace: &str, labels: &BTreeMap<String, String>, root: &str) -> Mtls {
    let inherited = namespace_mode(all, namespace, root);
    let own = own(all, namespace, labels);
    let default = mode(said(own), inherited);
    let ports = own.into_iter().flat_map(|own| &own.spec.port_level_mtls);
    let ports = ports.filter_map(|(port, mtls)| Some((port.parse().ok()?, mode(mtls.mode, default))));
    Mtls { default, ports: ports.collect() }
}

/// The AuthorizationPolicies of a workload, those of the root namespace first, older before younger.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Authorization {
    /// DENY.
    pub deny: Vec<Arc<Config<crd::AuthorizationPolicy>>>,
    /// ALLOW.
    pub allow: Vec<Arc<Config<crd::AuthorizationPolicy>>>,
}

/// The label by which a workload belongs to a Gateway of the Gateway API.
const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";

/// The policies that hold for a node. `all` has the older first.
pub fn authorization(all: &[Arc<Config<crd::AuthorizationPolicy>>], node: &Node, root: &str) -> Authorization {
    let mut found = Authorization::default();
    let own = (*node.namespace != *root).then_some(&*node.namespace);
    for namespace in std::iter::once(root).chain(own) {
        for policy in all.iter().filter(|policy| *policy.key.namespace == *namespace && applies(policy, node)) {
            match policy.spec.action {
                Action::Allow => found.allow.push(policy.clone()),
                Action::Deny => found.deny.push(policy.clone()),
                // Validation refuses CUSTOM; AUDIT without a plug-in changes nothing (AP13).
                Action::Audit | Action::Custom => {}
            }
        }
    }
    found
}

fn applies(policy: &Config<crd::AuthorizationPolicy>, node: &Node) -> bool {
    // A dry run must never decide (AP9).
    if policy.meta.annotations.get(annotation::DRY_RUN).is_some_and(|value| value == "true") {
        return false;
    }
    let targets: Vec<_> = policy.spec.target_refs.iter().chain(&policy.spec.target_ref).collect();
    if !targets.is_empty() {
        let name = node.labels.get(GATEWAY_NAME);
        return node.kind == NodeKind::Router
            && policy.key.namespace == node.namespace
            && targets.iter().any(|target| target.kind == "Gateway" && Some(&target.name) == name);
    }
    match &policy.spec.selector {
        Some(selector) if !selector.match_labels.is_empty() => endpoints::selects(&selector.match_labels, &node.labels),
        _ => true,
    }
}

//! An object as a source delivers it: parsed, named, and traceable to the line where it stands.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use mesh_proto::{crd, kube};

use super::Name;

/// The kinds of objects that the mesh reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Kind {
    VirtualService,
    DestinationRule,
    Gateway,
    ServiceEntry,
    WorkloadEntry,
    WorkloadGroup,
    Sidecar,
    EnvoyFilter,
    ProxyConfig,
    PeerAuthentication,
    RequestAuthentication,
    AuthorizationPolicy,
    Telemetry,
    WasmPlugin,
    TrafficExtension,
    Service,
    EndpointSlice,
    Pod,
    Node,
    Namespace,
    Secret,
    ConfigMap,
    Ingress,
    IngressClass,
}

/// The one key of an object. Cluster-wide kinds (Node, Namespace, IngressClass) have an empty namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Kind.
    pub kind: Kind,
    /// Namespace.
    pub namespace: Name,
    /// Name.
    pub name: Name,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.namespace {
            "" => write!(f, "{:?} {}", self.kind, self.name),
            namespace => write!(f, "{:?} {namespace}/{}", self.kind, self.name),
        }
    }
}

/// Where an object stands in its source. Lines and columns count from 1; 0 is unknown.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Origin {
    /// File; absent for objects of an API server.
    pub file: Option<Arc<PathBuf>>,
    /// Line of the object's first line.
    pub line: u32,
    /// Column.
    pub column: u32,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            Some(file) => write!(f, "{}:{}:{}", file.display(), self.line, self.column),
            None => f.write_str("(cluster)"),
        }
    }
}

/// What every object has.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Meta {
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Creation time in seconds since 1970; 0 if unknown. Conflicts are decided by it, then by name, then by namespace (G7).
    pub created: i64,
    /// `metadata.generation`; 0 if unknown.
    pub generation: i64,
}

/// The body of an object: of Istio's the `spec`, of Kubernetes' what the mesh reads. Names, labels and annotations are in [`Object`].
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, clippy::large_enum_variant)]
pub enum Spec {
    VirtualService(crd::VirtualService),
    DestinationRule(crd::DestinationRule),
    Gateway(crd::Gateway),
    ServiceEntry(crd::ServiceEntry),
    WorkloadEntry(crd::WorkloadEntry),
    WorkloadGroup(crd::WorkloadGroup),
    Sidecar(crd::Sidecar),
    EnvoyFilter(crd::EnvoyFilter),
    ProxyConfig(crd::ProxyConfig),
    PeerAuthentication(crd::PeerAuthentication),
    RequestAuthentication(crd::RequestAuthentication),
    AuthorizationPolicy(crd::AuthorizationPolicy),
    Telemetry(crd::Telemetry),
    WasmPlugin(crd::WasmPlugin),
    TrafficExtension(crd::TrafficExtension),
    Service(kube::Service),
    EndpointSlice(kube::EndpointSlice),
    Pod(kube::Pod),
    Node(kube::Node),
    Namespace(kube::Namespace),
    Secret(kube::Secret),
    ConfigMap(kube::ConfigMap),
    Ingress(kube::Ingress),
    IngressClass(kube::IngressClass),
}

/// An object of a source.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// Kind, namespace, name.
    pub key: Key,
    /// Labels and the like.
    pub meta: Meta,
    /// Where it stands.
    pub origin: Origin,
    /// Its body.
    pub spec: Spec,
    /// Addresses that the mesh gave the hosts of a ServiceEntry before, by `status.addresses` (SE8); empty for other kinds.
    pub recorded: Vec<(Name, IpAddr)>,
}

impl Object {
    /// True if the two differ in nothing but the addresses that the mesh gave.
    pub fn is_but_recorded(&self, other: &Self) -> bool {
        (&self.key, &self.meta, &self.origin, &self.spec) == (&other.key, &other.meta, &other.origin, &other.spec)
    }
}

/// What a source tells the model. A batch of changes is applied as one.
#[derive(Debug, Clone)]
pub enum Change {
    /// The object is new or differs from before.
    Set(Arc<Object>),
    /// The object is gone.
    Remove(Key),
}

impl Change {
    /// The kind of the object.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Set(object) => object.key.kind,
            Self::Remove(key) => key.kind,
        }
    }
}

impl Kind {
    /// True for kinds whose changes alter endpoints alone.
    pub fn is_of_endpoints(self) -> bool {
        matches!(self, Self::Pod | Self::EndpointSlice | Self::WorkloadEntry | Self::Node)
    }
}

//! What this control plane is among others: the one place that says which namespace, revision and DNS domain are its own.
//!
//! Made from the command line by [`crate::app`]; asked by sources, the authority, webhooks and the writers of status.

use std::collections::BTreeMap;

use mesh_proto::crd::MeshConfig;
use mesh_proto::names::{ROOT_NAMESPACE, label};

/// The revision of a control plane that is given none.
pub const DEFAULT_REVISION: &str = "default";

/// A control plane's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    /// Revision.
    pub revision: String,
    /// Namespace of the control plane: its settings, secrets and leases are there, and it is the mesh's root namespace (G5) unless
    /// `meshConfig.rootNamespace` names another.
    pub namespace: String,
    /// DNS domain of Kubernetes services.
    pub domain: String,
}

impl Default for Own {
    fn default() -> Self {
        Self {
            revision: DEFAULT_REVISION.to_owned(),
            namespace: ROOT_NAMESPACE.to_owned(),
            domain: "cluster.local".to_owned(),
        }
    }
}

impl Own {
    /// The mesh's settings where nobody says anything.
    pub fn mesh(&self) -> MeshConfig {
        MeshConfig { root_namespace: self.namespace.clone(), ..MeshConfig::default() }
    }

    /// True if configuration with these labels is for this control plane: what names no revision is for all of them (RV1). A tag is no
    /// revision; as in Istio it chooses who injects, and nothing else.
    pub fn reads(&self, labels: &BTreeMap<String, String>) -> bool {
        self.reads_revision(labels.get(label::REVISION).map(String::as_str))
    }

    /// As [`Own::reads`], by what the label says.
    pub fn reads_revision(&self, revision: Option<&str>) -> bool {
        revision.is_none_or(|revision| revision == self.revision)
    }

    /// The names by which pods call this control plane, `istiod-REVISION.NAMESPACE.svc` among them.
    pub fn hosts(&self) -> [String; 2] {
        let service = match self.revision.as_str() {
            DEFAULT_REVISION => "istiod".to_owned(),
            revision => format!("istiod-{revision}"),
        };
        [format!("{service}.{}.svc", self.namespace), format!("{service}.{}", self.namespace)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_no_revision_is_for_all() {
        for (own, label, expected) in [
            ("default", None, true),
            ("default", Some("default"), true),
            ("default", Some("canary"), false),
            ("canary", None, true),
            ("canary", Some("canary"), true),
            ("canary", Some("default"), false),
            ("canary", Some(""), false),
        ] {
            let own = Own { revision: own.to_owned(), ..Own::default() };
            assert_eq!(own.reads_revision(label), expected, "{own:?} {label:?}");
        }
    }

    #[test]
    fn names_follow_revision_and_namespace() {
        let own = |revision: &str, namespace: &str| Own {
            revision: revision.to_owned(),
            namespace: namespace.to_owned(),
            ..Own::default()
        };
        assert_eq!(own("default", "istio-system").hosts(), ["istiod.istio-system.svc", "istiod.istio-system"]);
        assert_eq!(own("canary", "mesh").hosts(), ["istiod-canary.mesh.svc", "istiod-canary.mesh"]);
        assert_eq!(own("default", "mesh").mesh().root_namespace, "mesh");
    }
}

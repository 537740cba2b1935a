//! Whether the user may do what an installation needs, asked before anything is written, so that nothing ends half-done for want of a right.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};
use futures_util::future::try_join_all;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use kube::api::{Api, PostParams};

use super::object::Id;
use crate::cluster::Cluster;

/// Something that one may or may not do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Permission {
    verb: String,
    group: String,
    resource: String,
    namespace: Option<String>,
}

/// A line for each resource, with all verbs: `create, patch deployments.apps in istio-system`.
pub fn lines<'a>(permissions: impl IntoIterator<Item = &'a Permission>) -> Vec<String> {
    let mut verbs: BTreeMap<_, Vec<&str>> = BTreeMap::new();
    for Permission { verb, group, resource, namespace } in permissions {
        verbs.entry((namespace, resource, group)).or_default().push(verb);
    }
    let line = |((namespace, resource, group), verbs): ((&Option<String>, &String, &String), Vec<&str>)| {
        let dot = if group.is_empty() { "" } else { "." };
        let place = namespace.as_ref().map_or(String::new(), |namespace| format!(" in {namespace}"));
        format!("{} {resource}{dot}{group}{place}", verbs.join(", "))
    };
    verbs.into_iter().map(line).collect()
}

/// What `verbs` on these objects need, and on the inventory beside them.
pub fn needed(ids: &[Id], verbs: &[&str], namespace: &str) -> BTreeSet<Permission> {
    let inventory = crate::cluster::id("v1", "ConfigMap", Some(namespace), "");
    let resources = ids.iter().chain(std::iter::once(&inventory)).map(|id| (id.resource(), id.namespace.clone()));
    let mut needed = BTreeSet::new();
    for (resource, namespace) in resources {
        needed.extend(verbs.iter().map(|&verb| Permission {
            verb: verb.to_owned(),
            group: resource.group.clone(),
            resource: resource.plural.clone(),
            namespace: namespace.clone(),
        }));
    }
    needed
}

/// Those that the user has not, in order.
pub async fn lacking(cluster: &Cluster, needed: &BTreeSet<Permission>) -> Result<Vec<Permission>> {
    let api: Api<SelfSubjectAccessReview> = Api::all(cluster.client.clone());
    let asked = needed.iter().map(|permission| {
        let api = api.clone();
        async move {
            let attributes = ResourceAttributes {
                verb: Some(permission.verb.clone()),
                group: Some(permission.group.clone()),
                resource: Some(permission.resource.clone()),
                namespace: permission.namespace.clone(),
                ..ResourceAttributes::default()
            };
            let review = SelfSubjectAccessReview {
                spec: SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() },
                ..SelfSubjectAccessReview::default()
            };
            let answer = api.create(&PostParams::default(), &review).await;
            let answer = answer.map_err(|error| cluster.explain("ask", "your rights", error))?;
            anyhow::Ok((!answer.status.is_some_and(|status| status.allowed)).then(|| permission.clone()))
        }
    });
    Ok(try_join_all(asked).await?.into_iter().flatten().collect())
}

/// Fails with all that are lacking.
pub async fn require(cluster: &Cluster, needed: &BTreeSet<Permission>) -> Result<()> {
    let lacking = lacking(cluster, needed).await?;
    if lacking.is_empty() {
        return Ok(());
    }
    bail!(
        "you lack rights, and nothing was changed. Ask whoever administers the cluster for these, or use an account that has them \
         (--context, --kubeconfig):\n  {}",
        lines(&lacking).join("\n  ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::id;

    #[test]
    fn needs_are_named_as_kubernetes_names_them() {
        let ids = [
            id("apps/v1", "Deployment", Some("n"), "a"),
            id("apps/v1", "Deployment", Some("n"), "b"),
            id("rbac.authorization.k8s.io/v1", "ClusterRole", None, "c"),
        ];
        let needed = needed(&ids, &["patch", "create"], "n");
        assert_eq!(
            lines(&needed),
            [
                "create, patch clusterroles.rbac.authorization.k8s.io",
                "create, patch configmaps in n",
                "create, patch deployments.apps in n"
            ]
        );
    }
}

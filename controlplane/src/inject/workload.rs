//! What a pod is a pod of: its Deployment rather than its ReplicaSet, its CronJob rather than its Job.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

/// The object that a user wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// `apps/v1`.
    pub api_version: String,
    /// `Deployment`.
    pub kind: String,
    /// Name.
    pub name: String,
}

/// The label by which a Deployment tells its ReplicaSets apart; its value ends their names.
const TEMPLATE_HASH: &str = "pod-template-hash";

impl Workload {
    /// Names a workload.
    pub fn new(api_version: &str, kind: &str, name: &str) -> Self {
        Self { api_version: api_version.to_owned(), kind: kind.to_owned(), name: name.to_owned() }
    }

    /// The workload of a pod, by its controller; a pod without one is its own.
    pub fn of(pod: &PodTemplateSpec) -> Self {
        let metadata = pod.metadata.clone().unwrap_or_default();
        let owners = metadata.owner_references.unwrap_or_default();
        let hash = metadata.labels.as_ref().and_then(|labels| labels.get(TEMPLATE_HASH)).map(String::as_str);
        match owners.iter().find(|owner| owner.controller == Some(true)) {
            Some(owner) => Self::of_owner(owner, hash),
            None => {
                let name =
                    metadata.name.or_else(|| metadata.generate_name.map(|name| name.trim_end_matches('-').to_owned()));
                Self::new("v1", "Pod", &name.unwrap_or_default())
            }
        }
    }

    fn of_owner(owner: &OwnerReference, hash: Option<&str>) -> Self {
        let deployment = hash.and_then(|hash| owner.name.strip_suffix(hash)?.strip_suffix('-'));
        // A CronJob ends the names of its Jobs with the minute that they were due.
        let cron_job = owner
            .name
            .rsplit_once('-')
            .filter(|(_, minute)| (8..=10).contains(&minute.len()) && minute.bytes().all(|byte| byte.is_ascii_digit()));
        match (owner.kind.as_str(), deployment, cron_job) {
            ("ReplicaSet", Some(name), _) if owner.api_version.starts_with("apps/") => {
                Self::new(&owner.api_version, "Deployment", name)
            }
            ("Job", _, Some((name, _))) => Self::new(&owner.api_version, "CronJob", name),
            _ => Self::new(&owner.api_version, &owner.kind, &owner.name),
        }
    }

    /// `kubernetes://apis/apps/v1/namespaces/NAMESPACE/deployments/NAME`, as Istio's metadata has it.
    pub fn owner(&self, namespace: &str) -> String {
        let plural = format!("{}s", self.kind.to_ascii_lowercase());
        format!("kubernetes://apis/{}/namespaces/{namespace}/{plural}/{}", self.api_version, self.name)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_pods_workload_is_what_its_user_wrote() {
        let owner = |version: &str, kind: &str, name: &str| {
            format!(
                "ownerReferences: [{{apiVersion: {version}, kind: {kind}, name: {name}, uid: u, controller: true}}]"
            )
        };
        for (metadata, expected) in [
            ("name: solo".to_owned(), ("v1", "Pod", "solo")),
            ("generateName: solo-".to_owned(), ("v1", "Pod", "solo")),
            (
                format!("labels: {{pod-template-hash: 5f9}}, {}", owner("apps/v1", "ReplicaSet", "web-5f9")),
                ("apps/v1", "Deployment", "web"),
            ),
            (owner("apps/v1", "ReplicaSet", "web-5f9"), ("apps/v1", "ReplicaSet", "web-5f9")),
            (owner("apps/v1", "StatefulSet", "db"), ("apps/v1", "StatefulSet", "db")),
            (owner("batch/v1", "Job", "report-28912345"), ("batch/v1", "CronJob", "report")),
            (owner("batch/v1", "Job", "once"), ("batch/v1", "Job", "once")),
        ] {
            let pod: PodTemplateSpec = yaml_serde::from_str(&format!("{{metadata: {{{metadata}}}}}")).unwrap();
            let (version, kind, name) = expected;
            assert_eq!(Workload::of(&pod), Workload::new(version, kind, name), "{metadata}");
        }
        assert_eq!(
            Workload::new("apps/v1", "Deployment", "web").owner("shop"),
            "kubernetes://apis/apps/v1/namespaces/shop/deployments/web"
        );
    }
}

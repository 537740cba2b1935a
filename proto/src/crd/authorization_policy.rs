//! AuthorizationPolicy. Source: <https://istio.io/latest/docs/reference/config/security/authorization-policy/>.

use super::{PolicyTargetReference, WorkloadSelector};

message! {
    /// Who may do what to a workload.
    pub struct AuthorizationPolicy {
        /// Workloads; none means the namespace, or the mesh in the root namespace.
        pub selector: Option<WorkloadSelector>,
        /// Deprecated single target.
        pub target_ref: Option<PolicyTargetReference>,
        /// Targets instead of a selector.
        pub target_refs: Vec<PolicyTargetReference>,
        /// Any of these; none matches nothing.
        pub rules: Vec<Rule>,
        /// What a match means.
        pub action: Action,
        /// For CUSTOM.
        pub provider: Option<ExtensionProvider>,
    }

    /// The provider of a CUSTOM policy.
    pub struct ExtensionProvider {
        /// Name in MeshConfig.
        pub name: String,
    }

    /// All of from, to and when.
    pub struct Rule {
        /// Any of these sources.
        pub from: Vec<From>,
        /// Any of these operations.
        pub to: Vec<To>,
        /// All of these conditions.
        pub when: Vec<Condition>,
    }

    /// A source.
    pub struct From {
        /// The source.
        pub source: Option<Source>,
    }

    /// All given fields; any value of each.
    pub struct Source {
        /// Peer identities, `cluster.local/ns/NS/sa/SA`.
        pub principals: Vec<String>,
        /// None of these.
        pub not_principals: Vec<String>,
        /// `issuer/subject` of the request's token.
        pub request_principals: Vec<String>,
        /// None of these.
        pub not_request_principals: Vec<String>,
        /// Namespaces of the peer.
        pub namespaces: Vec<String>,
        /// None of these.
        pub not_namespaces: Vec<String>,
        /// Service accounts, `ns/sa` or `sa`.
        pub service_accounts: Vec<String>,
        /// None of these.
        pub not_service_accounts: Vec<String>,
        /// Trust domains of the peer.
        pub trust_domains: Vec<String>,
        /// None of these.
        pub not_trust_domains: Vec<String>,
        /// Addresses of the peer.
        pub ip_blocks: Vec<String>,
        /// None of these.
        pub not_ip_blocks: Vec<String>,
        /// Addresses of the original client.
        pub remote_ip_blocks: Vec<String>,
        /// None of these.
        pub not_remote_ip_blocks: Vec<String>,
    }

    /// An operation.
    pub struct To {
        /// The operation.
        pub operation: Option<Operation>,
    }

    /// All given fields; any value of each.
    pub struct Operation {
        /// Hosts, ignoring case.
        pub hosts: Vec<String>,
        /// None of these.
        pub not_hosts: Vec<String>,
        /// Workload ports.
        pub ports: Vec<String>,
        /// None of these.
        pub not_ports: Vec<String>,
        /// Methods.
        pub methods: Vec<String>,
        /// None of these.
        pub not_methods: Vec<String>,
        /// Paths without query.
        pub paths: Vec<String>,
        /// None of these.
        pub not_paths: Vec<String>,
    }

    /// A condition on an attribute.
    pub struct Condition {
        /// Attribute.
        pub key: String,
        /// Any of these.
        pub values: Vec<String>,
        /// None of these.
        pub not_values: Vec<String>,
    }
}

choice! {
    /// What a match means.
    pub enum Action {
        /// Allows.
        #[default]
        Allow,
        /// Denies; before ALLOW.
        Deny,
        /// Is audited.
        Audit,
        /// An external authorizer decides; before DENY.
        Custom,
    }
}

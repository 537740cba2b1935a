//! Judges objects: what Istio's validation refuses, what its analyzers report, and what the mesh does not have yet.
//!
//! Called by sources before an object reaches [`crate::model`]. Nothing is accepted and ignored: a field whose feature is missing is an
//! error that keeps the object out, so that a policy is never in force by half. Pure and synchronous. One file for each kind.

pub mod admission;
mod authorization_policy;
mod check;
mod destination_rule;
mod finding;
mod gateway;
mod kubernetes;
mod mesh_config;
mod metadata;
mod peer_authentication;
mod references;
mod service_entry;
mod sidecar;
mod telemetry;
#[cfg(test)]
mod tests;
mod unsupported;
mod virtual_service;
mod workload_group;

pub use finding::{Finding, Severity, code};
pub use mesh_config::{MESH_CONFIG_KEY, MESH_CONFIG_NAME, mesh_config};
pub use metadata::is_suppressed;
pub use references::references;

use check::Check;

use crate::model::{Object, Spec};

/// Findings over one object alone. An [`Severity::Error`] among them keeps it out of the model.
pub fn object(object: &Object) -> Vec<Finding> {
    let mut check = Check::new(object);
    metadata::check(&mut check);
    match &object.spec {
        Spec::VirtualService(spec) => virtual_service::check(&mut check, spec),
        Spec::DestinationRule(spec) => destination_rule::check(&mut check, spec),
        Spec::Gateway(spec) => gateway::check(&mut check, spec),
        Spec::ServiceEntry(spec) => service_entry::check(&mut check, spec),
        Spec::WorkloadGroup(spec) => workload_group::check(&mut check, spec),
        Spec::WorkloadEntry(spec) => service_entry::check_workload_entry(&mut check, spec),
        Spec::Sidecar(spec) => sidecar::check(&mut check, spec),
        Spec::PeerAuthentication(spec) => peer_authentication::check(&mut check, spec),
        Spec::AuthorizationPolicy(spec) => authorization_policy::check(&mut check, spec),
        Spec::Telemetry(spec) => telemetry::check(&mut check, spec),
        Spec::EnvoyFilter(_)
        | Spec::ProxyConfig(_)
        | Spec::RequestAuthentication(_)
        | Spec::WasmPlugin(_)
        | Spec::TrafficExtension(_) => unsupported::check(&mut check),
        Spec::Service(service) => kubernetes::check_service(&mut check, service),
        Spec::EndpointSlice(slice) => kubernetes::check_endpoint_slice(&mut check, slice),
        Spec::ConfigMap(map) => {
            let mut findings = check.finish();
            findings.extend(mesh_config::check_config_map(object, map));
            return findings;
        }
        // What Ingresses mean is judged, where it is known which of them are the mesh's.
        Spec::Ingress(_) | Spec::IngressClass(_) => {}
        Spec::Pod(_) | Spec::Node(_) | Spec::Namespace(_) | Spec::Secret(_) => {}
    }
    check.finish()
}

/// True if an error is among the findings, so that the object is kept out.
pub fn refused(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.severity == Severity::Error)
}

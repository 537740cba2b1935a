//! What Istio's users rely on, over real sockets: each test applies YAML to a whole mesh and asks it.
//!
//! A module's tests share a mesh; each has hosts of its own, so that they run beside each other.
#![allow(clippy::unwrap_used)]

use integration_tests::App;
use integration_tests::mesh::object;

mod common;
mod dns;
mod gateways;
mod ingress;
mod lifecycle;
mod live;
mod outliers;
mod pools;
mod retries;
mod rotation;
mod routing;
mod rules;
mod security;
mod tcp;
mod telemetry;

/// A `VirtualService` of namespace `default` for a host of the same name, and the subsets v1 to v3 of it.
fn rule(host: &str, http: &str) -> String {
    format!("{}{}", virtual_service(host, &format!("{{hosts: [{host}], http: [{http}]}}")), subsets(host, ""))
}

/// A `VirtualService` of namespace `default`.
fn virtual_service(name: &str, spec: &str) -> String {
    object("VirtualService", "default", name, spec)
}

/// A `DestinationRule` with the subsets v1 to v3, and more of its spec.
fn subsets(host: &str, more: &str) -> String {
    let versions = ["v1", "v2", "v3"].map(|version| format!("{{name: {version}, labels: {{version: {version}}}}}"));
    object("DestinationRule", "default", host, &format!("{{host: {host}, subsets: [{}]{more}}}", versions.join(", ")))
}

/// A service over `echo` with two HTTP ports, 80 and 81.
fn two_ports(name: &str) -> String {
    integration_tests::mesh::service_on("default", name, "echo", &[(80, "http", "http"), (81, "http-second", "http")])
}

/// An HTTP service outside the mesh, of endpoints that are applications without sidecars.
fn entry(host: &str, endpoints: &[&App], more: &str) -> String {
    let endpoints: Vec<String> =
        endpoints.iter().map(|app| format!("{{address: 127.0.0.1, ports: {{http: {}}}}}", app.http.port())).collect();
    let spec = format!(
        "{{hosts: ['{host}'], ports: [{{number: 80, name: http, protocol: HTTP}}], resolution: STATIC, endpoints: [{}]{more}}}",
        endpoints.join(", ")
    );
    object("ServiceEntry", "default", host, &spec)
}

/// A `DestinationRule` of namespace `default` with nothing but a traffic policy.
fn policy(host: &str, policy: &str) -> String {
    object("DestinationRule", "default", host, &format!("{{host: '{host}', trafficPolicy: {{{policy}}}}}"))
}

/// Without retries, so that every failure is seen.
fn no_retries(host: &str) -> String {
    virtual_service(
        host,
        &format!(
            "{{hosts: [{host}], http: [{{retries: {{attempts: 0}}, route: [{{destination: {{host: {host}}}}}]}}]}}"
        ),
    )
}

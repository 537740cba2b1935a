//! What breaks under load: control planes, networks, endpoints, servers; and what is left of it when all is well again.
//!
//! Tests run one at a time: each counts what the whole process holds.
#![allow(clippy::unwrap_used)]

mod base;
mod changes;
mod churn;
mod plane;
mod relay;
mod removed;
mod slow;
mod upstream;

use integration_tests::mesh::object;
use tokio::sync::{Mutex, MutexGuard};

/// Waits until no other test runs.
async fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::const_new(());
    ONE.lock().await
}

/// A service of namespace `default` over `echo`, whose requests go to one version.
fn service_of(host: &str, version: &str) -> String {
    integration_tests::mesh::service("default", host, "echo")
        + &object(
            "DestinationRule",
            "default",
            host,
            &format!(
                "{{host: {host}, subsets: [{{name: v1, labels: {{version: v1}}}}, {{name: v2, labels: {{version: v2}}}}]}}"
            ),
        )
        + &object(
            "VirtualService",
            "default",
            host,
            &format!("{{hosts: [{host}], http: [{{route: [{{destination: {{host: {host}, subset: {version}}}}}]}}]}}"),
        )
}

//! `/clusters`: clusters with their endpoints, in Envoy's two shapes.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use crate::app::Running;
use crate::balance::{Address, Cluster, Endpoint};
use crate::xds::kind::Kind;
use crate::xds::state::Origin;

struct Host<'e> {
    endpoint: &'e Endpoint,
    ejected: bool,
    numbers: [(&'static str, &'static str, u64); 5],
}

fn host<'e>(cluster: &Cluster, endpoint: &'e Endpoint) -> Host<'e> {
    let live = &endpoint.live;
    let total = live.total.load(Ordering::Relaxed);
    let failed = live.failed.load(Ordering::Relaxed);
    Host {
        endpoint,
        ejected: live.outlier.is_ejected(cluster.now()),
        numbers: [
            ("rq_active", "GAUGE", live.active.load(Ordering::Relaxed).into()),
            ("rq_error", "COUNTER", failed),
            ("rq_success", "COUNTER", total.saturating_sub(failed)),
            ("rq_total", "COUNTER", total),
            ("cx_connect_fail", "COUNTER", live.connect_failures.load(Ordering::Relaxed)),
        ],
    }
}

impl Host<'_> {
    fn flags(&self) -> &'static str {
        match (self.endpoint.spec.healthy, self.ejected) {
            (true, false) => "healthy",
            (true, true) => "/failed_outlier_check",
            (false, false) => "/failed_eds_health",
            (false, true) => "/failed_outlier_check/failed_eds_health",
        }
    }
}

/// Names of the clusters that did not come with the bootstrap.
fn added(running: &Running) -> std::collections::HashSet<crate::Name> {
    let state = running.publisher.state();
    let all = state.show(Kind::Cluster).into_iter();
    all.filter(|one| one.origin == Origin::Dynamic).map(|one| one.name.clone()).collect()
}

/// Text.
pub(super) fn as_text(running: &Running) -> String {
    let added = added(running);
    let mut out = String::new();
    // Writing to a string cannot fail.
    for (name, cluster) in running.store.load().clusters.iter() {
        let limits = &cluster.config.limits;
        let _ = writeln!(out, "{name}::observability_name::{name}");
        for (what, limit) in [
            ("max_connections", limits.connections),
            ("max_pending_requests", limits.pending),
            ("max_requests", limits.requests),
            ("max_retries", limits.retries),
        ] {
            let _ = writeln!(out, "{name}::default_priority::{what}::{limit}");
        }
        let _ = writeln!(out, "{name}::added_via_api::{}", added.contains(name));
        for endpoint in cluster.endpoints.load().iter() {
            let host = host(cluster, endpoint);
            let spec = &endpoint.spec;
            let line =
                |what: &str, value: &dyn std::fmt::Display| format!("{name}::{}::{what}::{value}\n", spec.address);
            for (what, _, value) in host.numbers {
                out.push_str(&line(what, &value));
            }
            out.push_str(&line("hostname", &spec.hostname.as_deref().unwrap_or("")));
            out.push_str(&line("health_flags", &host.flags()));
            out.push_str(&line("weight", &spec.weight));
            out.push_str(&line("priority", &spec.priority));
        }
    }
    out
}

/// JSON.
pub(super) fn as_json(running: &Running) -> serde_json::Value {
    let added = added(running);
    let snapshot = running.store.load();
    let statuses = snapshot.clusters.iter().map(|(name, cluster)| {
        let limits = &cluster.config.limits;
        let hosts: Vec<_> = cluster
            .endpoints
            .load()
            .iter()
            .map(|endpoint| {
                let host = host(cluster, endpoint);
                let stats = host.numbers.map(
                    |(name, kind, value)| serde_json::json!({"name": name, "type": kind, "value": value.to_string()}),
                );
                let mut health = serde_json::json!({
                    "eds_health_status": if endpoint.spec.healthy { "HEALTHY" } else { "UNHEALTHY" },
                });
                if host.ejected {
                    health["failed_outlier_check"] = true.into();
                }
                serde_json::json!({
                    "address": address(&endpoint.spec.address),
                    "stats": stats,
                    "health_status": health,
                    "weight": endpoint.spec.weight,
                    "hostname": endpoint.spec.hostname.as_deref().unwrap_or(""),
                    "priority": endpoint.spec.priority,
                    "locality": {},
                })
            })
            .collect();
        serde_json::json!({
            "name": &**name,
            "added_via_api": added.contains(name),
            "host_statuses": hosts,
            "circuit_breakers": {"thresholds": [{
                "max_connections": limits.connections,
                "max_pending_requests": limits.pending,
                "max_requests": limits.requests,
                "max_retries": limits.retries,
            }]},
            "observability_name": &**name,
        })
    });
    let statuses: Vec<_> = statuses.collect();
    serde_json::json!({"cluster_statuses": statuses})
}

fn address(address: &Address) -> serde_json::Value {
    match address {
        Address::Ip(address) => serde_json::json!({"socket_address": {
            "address": address.ip().to_string(), "port_value": address.port()}}),
        Address::Pipe(path) => serde_json::json!({"pipe": {"path": path.display().to_string()}}),
        Address::Name(name, port) => serde_json::json!({"socket_address": {"address": &**name, "port_value": port}}),
    }
}

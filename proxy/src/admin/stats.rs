//! `/stats` and `/stats/prometheus`: Envoy's names for what users' scripts and dashboards read, and Istio's metrics.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::json;

use super::Query;
use crate::Name;
use crate::app::Running;
use crate::balance::Resource;
use crate::drain::Phase;
use crate::http::RouteSource;
use crate::listener::ChainProtocol;
use crate::runtime::PoolCounts;
use crate::snapshot::Snapshot;
use crate::telemetry::answers::Answers;
use crate::xds::kind::Kind;

/// A number with its names.
struct Stat {
    /// `cluster`, `listener`, …; what follows it in Envoy's dotted form; what it is called.
    scope: &'static str,
    of: Option<Name>,
    /// Of a virtual host: the `stat_prefix` of its route.
    route: Option<Name>,
    name: String,
    gauge: bool,
    value: u64,
}

/// What `/stats` answers with.
pub(super) enum Shape {
    Text(String),
    Json(serde_json::Value),
    Prometheus(String),
}

/// `/stats` with its parameters.
pub(super) fn stats(running: &Running, query: &Query) -> Result<Shape, String> {
    let filter = query.get("filter").map(regex::Regex::new).transpose().map_err(|error| format!("filter: {error}"))?;
    let mut all: Vec<(String, u64)> = collect(running)
        .into_iter()
        .filter(|stat| !query.has("usedonly") || stat.value > 0)
        .map(|stat| (stat.dotted(), stat.value))
        .filter(|(name, _)| filter.as_ref().is_none_or(|filter| filter.is_match(name)))
        .collect();
    all.sort();
    match query.get("format") {
        None | Some("text") => Ok(Shape::Text(all.iter().map(|(name, value)| format!("{name}: {value}\n")).collect())),
        Some("json") => {
            let list: Vec<_> = all.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
            Ok(Shape::Json(json!({"stats": list})))
        }
        Some("prometheus") => Ok(Shape::Prometheus(prometheus(running))),
        Some(other) => Err(format!("format: `{other}` is none of text, json, prometheus")),
    }
}

/// Everything for Prometheus. Clusters and listeners that were never used are left out: most of a mesh's are not.
pub(super) fn prometheus(running: &Running) -> String {
    running.metrics.upkeep();
    let mut families: BTreeMap<(String, bool), Vec<String>> = BTreeMap::new();
    for stat in collect(running).into_iter().filter(|stat| stat.value > 0 || stat.of.is_none()) {
        let (name, labels) = stat.prometheus();
        families.entry((name, stat.gauge)).or_default().push(format!("{labels} {}", stat.value));
    }
    let mut out = running.metrics.render();
    // Writing to a string cannot fail.
    for ((name, gauge), lines) in families {
        let _ = writeln!(out, "# TYPE {name} {}", if gauge { "gauge" } else { "counter" });
        for line in lines {
            let _ = writeln!(out, "{name}{line}");
        }
    }
    out
}

impl Stat {
    fn dotted(&self) -> String {
        match (&self.of, &self.route) {
            (Some(of), Some(route)) => format!("{}.{of}.route.{route}.{}", self.scope, self.name),
            (Some(of), None) => format!("{}.{of}.{}", self.scope, self.name),
            (None, _) => format!("{}.{}", self.scope, self.name),
        }
    }

    fn prometheus(&self) -> (String, String) {
        let mut labels = Vec::new();
        let mut name = self.name.clone();
        for class in 1..=5 {
            if let Some(stem) = name.strip_suffix(&format!("_{class}xx")) {
                labels.push(format!("envoy_response_code_class=\"{class}\""));
                name = format!("{stem}_xx");
                break;
            }
        }
        let label = match self.scope {
            "cluster" => "cluster_name",
            "vhost" => "envoy_virtual_host",
            _ => "envoy_listener_address",
        };
        for (label, value) in [(label, &self.of), ("envoy_route", &self.route)] {
            if let Some(value) = value {
                labels.push(format!("{label}=\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"")));
            }
        }
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let clean: String = format!("envoy_{}_{}{name}", self.scope, if self.route.is_some() { "route_" } else { "" })
            .chars()
            .map(|one| if one.is_ascii_alphanumeric() { one } else { '_' })
            .collect();
        (clean, labels)
    }
}

fn collect(running: &Running) -> Vec<Stat> {
    let mut all = Vec::new();
    let mut add = |scope, of: Option<&Name>, name: &str, gauge, value: u64| {
        all.push(Stat { scope, of: of.cloned(), route: None, name: name.to_owned(), gauge, value });
    };
    let load = |number: &std::sync::atomic::AtomicU64| number.load(Ordering::Relaxed);
    let snapshot = running.store.load();
    for (name, cluster) in snapshot.clusters.iter() {
        let usage = &cluster.usage;
        let set = cluster.endpoints.load();
        let now = cluster.now();
        let ejected = set.iter().filter(|endpoint| endpoint.live.outlier.is_ejected(now)).count();
        let healthy =
            set.iter().filter(|endpoint| endpoint.spec.healthy && !endpoint.live.outlier.is_ejected(now)).count();
        let name = Some(name);
        for (what, count) in of_answers(&usage.answers) {
            add("cluster", name, &what, false, count);
        }
        for (what, count) in [
            ("upstream_rq_pending_overflow", &usage.overflows),
            ("upstream_cx_total", &usage.connections),
            ("upstream_cx_connect_fail", &usage.connect_failures),
            ("outlier_detection.ejections_enforced_total", &usage.ejections),
        ] {
            add("cluster", name, what, false, load(count));
        }
        for (what, value) in [
            ("upstream_cx_active", usage.count(Resource::Connections).into()),
            ("upstream_rq_active", usage.count(Resource::Requests).into()),
            ("upstream_rq_pending_active", usage.count(Resource::Pending).into()),
            ("membership_total", set.len() as u64),
            ("membership_healthy", healthy as u64),
            ("outlier_detection.ejections_active", ejected as u64),
        ] {
            add("cluster", name, what, true, value);
        }
    }
    let addresses = running.workers.addresses();
    for (name, listener) in snapshot.listeners.iter() {
        // Envoy names a listener by its address.
        let of: Name = match addresses.iter().find(|(bound, _)| bound == name) {
            Some((_, address)) => address.to_string().replace(':', "_").into(),
            None => name.clone(),
        };
        add("listener", Some(&of), "downstream_cx_total", false, load(&listener.stats.total));
        add("listener", Some(&of), "downstream_cx_active", true, load(&listener.stats.active));
        add("listener", Some(&of), "downstream_cx_parked", true, load(&listener.stats.parked));
        add("listener", Some(&of), "no_filter_chain_match", false, load(&listener.stats.no_chain));
        add("listener", Some(&of), "ssl.connection_error", false, load(&listener.stats.tls_errors));
    }
    let (clusters, listeners) = (running.publisher.counts(Kind::Cluster), running.publisher.counts(Kind::Listener));
    add("cluster_manager", None, "cds.update_success", false, load(&clusters.success));
    add("cluster_manager", None, "cds.update_rejected", false, load(&clusters.rejected));
    add("cluster_manager", None, "active_clusters", true, snapshot.clusters.len() as u64);
    add("listener_manager", None, "lds.update_success", false, load(&listeners.success));
    add("listener_manager", None, "lds.update_rejected", false, load(&listeners.rejected));
    add("listener_manager", None, "total_listeners_active", true, snapshot.listeners.len() as u64);
    add("listener_manager", None, "workers_started", true, 1);
    let live = u64::from(running.is_ready());
    add("server", None, "live", true, live);
    // Envoy's numbers: LIVE 0, DRAINING 1, INITIALIZING 3.
    let state = match running.drain.phase() {
        Phase::Running => 3 - 3 * live,
        Phase::Leaving | Phase::Draining | Phase::Stopped => 1,
    };
    add("server", None, "state", true, state);
    add("server", None, "uptime", true, running.started.0.elapsed().as_secs());
    add("server", None, "concurrency", true, running.concurrency as u64);
    add("server", None, "total_connections", true, running.drain.connections() as u64);
    // Not Envoy's: what must come back to where it was when a disturbance is over.
    add("server", None, "living_snapshots", true, running.store.living() as u64);
    let counts = running.workers.counts();
    add("server", None, "worker_tasks", true, counts.iter().map(|one| one.tasks() as u64).sum());
    let pools = counts.iter().map(|one| one.of_pools());
    let pools = pools.fold(PoolCounts::default(), |sum, one| PoolCounts {
        pools: sum.pools + one.pools,
        connections: sum.connections + one.connections,
        idle: sum.idle + one.idle,
        shared: sum.shared + one.shared,
    });
    add("server", None, "upstream_pools", true, pools.pools as u64);
    add("server", None, "upstream_connections", true, pools.connections as u64);
    add("server", None, "upstream_connections_idle", true, pools.idle as u64);
    add("server", None, "upstream_connections_http2", true, pools.shared as u64);
    if running.bootstrap.ads.is_some() {
        add("control_plane", None, "connected_state", true, running.publisher.is_connected().into());
    }
    let expiry = running.secrets.certificates().into_iter().filter_map(|(_, one)| one.map(|one| one.not_after)).min();
    if let Some(expiry) = expiry {
        let days = (expiry - jiff::Timestamp::now().as_second()) / 86_400;
        add("server", None, "days_until_first_cert_expiring", true, u64::try_from(days).unwrap_or(0));
    }
    all.extend(of_routes(&snapshot));
    all
}

/// What requests came to, by Envoy's names.
fn of_answers(answers: &Answers) -> impl Iterator<Item = (String, u64)> {
    let classes = answers.classes.iter().enumerate().map(|(at, count)| (format!("upstream_rq_{}xx", at + 1), count));
    let others = [
        ("upstream_rq_total", &answers.requests),
        ("upstream_rq_completed", &answers.requests),
        ("upstream_rq_timeout", &answers.timeouts),
        ("upstream_rq_retry", &answers.retries),
    ];
    let others = others.into_iter().map(|(name, count)| (name.to_owned(), count));
    classes.chain(others).map(|(name, count)| (name, count.load(Ordering::Relaxed)))
}

/// Counts of the routes that have a `stat_prefix` (VM8).
fn of_routes(snapshot: &Snapshot) -> Vec<Stat> {
    let chains = snapshot.listeners.values().flat_map(|listener| listener.all_chains());
    let inline = chains.filter_map(|chain| match &chain.protocol {
        ChainProtocol::Http(http) => match &http.routes {
            RouteSource::Inline(table) => Some(table),
            RouteSource::Named(_) => None,
        },
        ChainProtocol::Tcp(_) => None,
    });
    let mut all = Vec::new();
    let mut seen = HashSet::new();
    for counts in snapshot.routes.values().chain(inline).flat_map(|table| table.counts()) {
        // Several routes may share them.
        if !seen.insert(Arc::as_ptr(counts)) {
            continue;
        }
        all.extend(of_answers(&counts.answers).map(|(name, value)| Stat {
            scope: "vhost",
            of: Some(counts.host.clone()),
            route: Some(counts.prefix.clone()),
            name,
            gauge: false,
            value,
        }));
    }
    all
}

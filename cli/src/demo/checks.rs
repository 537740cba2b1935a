//! The demo's course: traffic, refusals, a change of weights under load; and what must hold of each.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

use super::observe::{self, Split};
use super::report::{Check, Report, Splits};
use super::traffic::{self, Load, Outcome};
use super::{Demo, Options, ROUTE_FILE, refusal};
use crate::dump::{self, ConfigDump};
use crate::http_client::Connection;
use crate::metrics::Samples;
use crate::output::thousands;

/// Longest wait for configuration to arrive or metrics to be complete.
const DEADLINE: Duration = Duration::from_secs(20);
/// Between two looks at something that is waited for.
const LOOK: Duration = Duration::from_millis(20);

/// Weights of the sample, and those that the demo changes to.
const BEFORE: &[(&str, u32)] = &[("v1", 75), ("v2", 25)];
const AFTER: &[(&str, u32)] = &[("v1", 10), ("v2", 90)];

/// Runs the whole course on a running demo.
pub async fn run(demo: &Demo, options: Options) -> Result<Report> {
    let mut checks = vec![no_error_findings(demo)];
    wait_for_page(demo).await?;

    let start = scrape(demo).await?;
    let bar = progress(options, options.requests, "traffic, reviews v1 75 / v2 25");
    let first = Load::start(demo.gateway()?, options.concurrency, Some(options.requests), bar.clone()).join().await;
    bar.finish_and_clear();
    let settled = settle(demo, &start, first.requests).await?;
    let grown = settled.since(&start);
    let before = observe::split(&grown, "reviews", BEFORE);
    checks.push(Check {
        name: "every_request_is_answered",
        passed: first.failed == 0,
        observed: describe_outcome(&first),
    });
    checks.push(Check { name: "split_is_75_to_25", passed: before.holds(), observed: before.describe() });
    checks.push(metrics_agree(&before, &first));

    let refused = refusal::run(demo).await?;
    checks.extend(refusal::checks(&refused));

    let shift = shift(demo, options).await?;
    checks.extend(shift_checks(&shift));

    let (last, agreement) = applications_agree(demo).await?;
    let edges = observe::edges(&last);
    checks.push(identities(&edges));
    checks.push(agreement);
    let services = observe::services(&last.since(&start));
    let errors: f64 = services.iter().map(|service| service.error_rate).fold(0.0, f64::max);
    checks.push(Check {
        name: "no_service_reports_errors",
        passed: services.len() == 4 && errors == 0.0,
        observed: format!("{} services, highest error rate {:.2} %", services.len(), errors * 100.0),
    });
    Ok(Report { split: Splits { before, after: shift.split }, edges, services, refused, checks })
}

fn progress(options: Options, requests: u64, message: &'static str) -> ProgressBar {
    if !options.progress {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(requests).with_message(message);
    match ProgressStyle::with_template("{bar:30} {pos}/{len} {per_sec:.0} {msg}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn no_error_findings(demo: &Demo) -> Check {
    let errors = demo.mesh.error_findings();
    let observed = if errors.is_empty() { "no errors in its configuration".to_owned() } else { errors.join("; ") };
    Check { name: "configuration_is_accepted", passed: errors.is_empty(), observed }
}

/// The gateway is ready before the application's first page can be made; the first page tells that the mesh stands.
async fn wait_for_page(demo: &Demo) -> Result<()> {
    let started = Instant::now();
    let mut connection = Connection::new(demo.gateway()?);
    loop {
        let error = match traffic::page(&mut connection).await {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        if started.elapsed() > DEADLINE {
            return Err(error.context(format!("no page through the gateway within {} s", DEADLINE.as_secs())));
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn scrape(demo: &Demo) -> Result<Samples> {
    Samples::fetch(demo.mesh.admins()).await
}

/// Metrics, once every one of `requests` pages sent since `start` is counted: a request is counted when its last byte is gone.
async fn settle(demo: &Demo, start: &Samples, requests: u64) -> Result<Samples> {
    let waiting = Instant::now();
    loop {
        let samples = scrape(demo).await?;
        let grown = samples.since(start);
        let counted = ["productpage", "details", "reviews"].map(|service| observe::requests(&grown, service));
        if counted.iter().all(|counted| *counted >= requests) || waiting.elapsed() > DEADLINE {
            return Ok(samples);
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn describe_outcome(outcome: &Outcome) -> String {
    let mut text = format!("{} requests, {} failed", thousands(outcome.requests), outcome.failed);
    if let Some(first) = outcome.failures.first() {
        text.push_str(&format!(", the first with: {first}"));
    }
    text
}

/// What the sidecars counted is what the users saw.
fn metrics_agree(split: &Split, outcome: &Outcome) -> Check {
    let seen = |version: &str| outcome.versions.get(version).copied().unwrap_or(0);
    let counted =
        |version: &str| (split.observed.get(version).copied().unwrap_or(0.0) * split.requests as f64).round() as u64;
    let passed = outcome.requests == split.requests && BEFORE.iter().all(|(name, _)| seen(name) == counted(name));
    let describe = |count: &dyn Fn(&str) -> u64| {
        BEFORE.iter().map(|(name, _)| format!("{name} {}", count(name))).collect::<Vec<_>>().join(", ")
    };
    let observed = format!("pages saw {}; sidecars counted {}", describe(&seen), describe(&counted));
    Check { name: "metrics_agree_with_pages", passed, observed }
}

/// The callers that must be seen, and no others: caller's service account, service, whether any of its calls passes.
const EXPECTED: &[(&str, &str, bool)] = &[
    ("ns/default/sa/bookinfo-productpage", "details", true),
    ("ns/default/sa/bookinfo-productpage", "ratings", false),
    ("ns/default/sa/bookinfo-productpage", "reviews", true),
    ("ns/default/sa/bookinfo-reviews", "ratings", true),
    ("ns/istio-system/sa/istio-ingressgateway-service-account", "productpage", true),
];

fn identities(edges: &[observe::Edge]) -> Check {
    let mut seen: Vec<(&str, &str, bool)> = edges
        .iter()
        .map(|edge| {
            let source = edge.source.strip_prefix("spiffe://cluster.local/").unwrap_or(&edge.source);
            (source, edge.service.as_str(), edge.requests > edge.refused)
        })
        .collect();
    seen.sort_unstable();
    let secure = edges.iter().all(|edge| edge.mutual_tls && edge.destination.starts_with("spiffe://"));
    let observed = if seen == EXPECTED && secure {
        format!("{} kinds of calls, each by mutual TLS between SPIFFE identities", seen.len())
    } else {
        format!("{seen:?}, all by mutual TLS: {secure}")
    };
    Check { name: "every_call_has_an_identity", passed: seen == EXPECTED && secure, observed }
}

/// The applications were told the same callers as the sidecars counted, once everything is counted.
async fn applications_agree(demo: &Demo) -> Result<(Samples, Check)> {
    let waiting = Instant::now();
    loop {
        let samples = scrape(demo).await?;
        let edges = observe::edges(&samples);
        let told = demo.edges.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let told: BTreeMap<(&str, &str), u64> =
            told.iter().map(|((caller, service), count)| ((caller.as_str(), *service), *count)).collect();
        let counted: BTreeMap<(&str, &str), u64> = edges
            .iter()
            .map(|edge| ((edge.source.as_str(), edge.service.as_str()), edge.requests.saturating_sub(edge.refused)))
            .filter(|(_, count)| *count > 0)
            .collect();
        let passed = told == counted;
        if !passed && waiting.elapsed() < DEADLINE {
            tokio::time::sleep(LOOK).await;
            continue;
        }
        let observed = if passed {
            format!("{} requests reached the applications, each with its caller", thousands(told.values().sum()))
        } else {
            format!("applications were told {told:?}, sidecars counted {counted:?}")
        };
        return Ok((samples, Check { name: "applications_see_their_callers", passed, observed }));
    }
}

/// What the change of weights did.
struct Shift {
    outcome: Outcome,
    split: Split,
    /// From writing the file until productpage's sidecar had it.
    delay: Duration,
}

/// Rewrites the weights under load, and measures as many requests again once productpage's sidecar has them.
async fn shift(demo: &Demo, options: Options) -> Result<Shift> {
    let bar = progress(options, options.requests * 2, "traffic while the weights change to v1 10 / v2 90");
    let load = Load::start(demo.gateway()?, options.concurrency, None, bar.clone());
    let result = shift_under_load(demo, options, &load).await;
    let outcome = load.stop().await;
    bar.finish_and_clear();
    let (start, delay, before) = result?;
    // The calls that a request made by then may be in `start` already, though the request itself is not.
    let counted = outcome.requests.saturating_sub(before + options.concurrency as u64);
    let samples = settle(demo, &start, counted).await?;
    let split = observe::split(&samples.since(&start), "reviews", AFTER);
    Ok(Shift { outcome, split, delay })
}

/// Returns the metrics at the moment of the change, how long it took to arrive, and the requests finished by then.
async fn shift_under_load(demo: &Demo, options: Options, load: &Load) -> Result<(Samples, Duration, u64)> {
    // Some requests go by the old weights under this load, so that the change meets connections that are in use.
    wait_for(load, options.requests / 4).await?;
    let written = Instant::now();
    change_weights(&demo.config.join(ROUTE_FILE))?;
    let productpage = demo.mesh.admin("productpage-v1").context("productpage has no sidecar")?;
    loop {
        if has_weights(&ConfigDump::fetch(productpage).await?, AFTER) {
            break;
        }
        if written.elapsed() > DEADLINE {
            bail!("the new weights did not reach productpage's sidecar within {} s", DEADLINE.as_secs());
        }
        tokio::time::sleep(LOOK).await;
    }
    let delay = written.elapsed();
    // What finishes while metrics are read may be counted in `start` or not, but whatever finishes after `before` is not.
    let start = scrape(demo).await?;
    let before = load.finished();
    wait_for(load, before + options.requests).await?;
    Ok((start, delay, before))
}

async fn wait_for(load: &Load, requests: u64) -> Result<()> {
    let (mut last, mut since) = (0, Instant::now());
    while load.finished() < requests {
        if load.finished() > last {
            (last, since) = (load.finished(), Instant::now());
        } else if since.elapsed() > DEADLINE {
            bail!("no request finished for {} s", DEADLINE.as_secs());
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

fn change_weights(file: &Path) -> Result<()> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut changed = text.clone();
    for ((_, old), (_, new)) in BEFORE.iter().zip(AFTER) {
        changed = changed.replace(&format!("weight: {old}"), &format!("weight: {new}"));
    }
    if changed == text {
        bail!("{} does not hold the weights that the demo changes", file.display());
    }
    // Renamed into place, as editors do, so that nobody reads half of it.
    let temporary = file.with_extension("yaml.new");
    std::fs::write(&temporary, changed)?;
    std::fs::rename(&temporary, file).with_context(|| format!("cannot write {}", file.display()))
}

/// True if some route splits by exactly these weights between subsets of these names.
fn has_weights(dump: &ConfigDump, weights: &[(&str, u32)]) -> bool {
    let wanted: Vec<(String, u64)> =
        weights.iter().map(|(subset, weight)| (format!("|{subset}|"), u64::from(*weight))).collect();
    let routes = dump.routes().into_iter().flat_map(|table| dump::list(table, "virtual_hosts"));
    routes.flat_map(|host| dump::list(host, "routes")).any(|route| {
        let found = dump::route::weights(route);
        found.len() == wanted.len()
            && found
                .iter()
                .zip(&wanted)
                .all(|((cluster, weight), (subset, wanted))| cluster.contains(subset.as_str()) && weight == wanted)
    })
}

fn shift_checks(shift: &Shift) -> Vec<Check> {
    vec![
        Check {
            name: "weights_change_live_to_10_to_90",
            passed: shift.split.holds(),
            observed: format!("{}, {} ms after the file was written", shift.split.describe(), shift.delay.as_millis()),
        },
        Check {
            name: "no_request_fails_while_weights_change",
            passed: shift.outcome.failed == 0 && shift.outcome.requests > 0,
            observed: describe_outcome(&shift.outcome),
        },
    ]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn weights_are_found_in_a_dump() {
        let dump = ConfigDump(
            json!({"configs": [{"@type": "x/envoy.admin.v3.RoutesConfigDump", "dynamic_route_configs": [
            {"route_config": {"virtual_hosts": [{"routes": [{"route": {"weighted_clusters": {"clusters": [
                {"name": "outbound|9080|v1|reviews", "weight": 10}, {"name": "outbound|9080|v2|reviews", "weight": 90}]}}}]}]}}]}]}),
        );
        assert!(has_weights(&dump, AFTER));
        assert!(!has_weights(&dump, BEFORE));
    }

    #[test]
    fn the_sample_holds_the_weights_that_change() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join(ROUTE_FILE);
        std::fs::write(&file, include_str!("../../../deploy/samples/bookinfo/reviews-route.yaml")).unwrap();
        change_weights(&file).unwrap();
        let changed = std::fs::read_to_string(&file).unwrap();
        assert!(changed.contains("weight: 10") && changed.contains("weight: 90") && !changed.contains("75"));
        assert!(change_weights(&file).is_err());
    }
}

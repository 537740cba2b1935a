//! What the proxies' own metrics tell of the traffic: the split, who talked to whom, latency and errors of each service.
//!
//! Everything here is read from Istio's standard metrics as the destination's sidecar reports them.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::metrics::{Sample, Samples};

const REQUESTS: &str = "istio_requests_total";
const DURATION: &str = "istio_request_duration_milliseconds";

/// Calls of one identity to one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Edge {
    /// Caller's SPIFFE id, from its certificate.
    pub source: String,
    /// Service called.
    pub service: String,
    /// The called workload's SPIFFE id.
    pub destination: String,
    /// Requests.
    pub requests: u64,
    /// Requests of these that a policy refused (403).
    pub refused: u64,
    /// True if every one of them came by mutual TLS.
    pub mutual_tls: bool,
}

/// How a service fared.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ServiceStats {
    /// The service.
    pub service: String,
    /// Requests.
    pub requests: u64,
    /// Latency at its sidecar.
    pub latency: Latency,
    /// Share of requests that ended in 5xx or in no answer, 0 to 1.
    pub error_rate: f64,
}

/// Quantiles in milliseconds, interpolated inside the metrics' buckets.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Latency {
    /// Median.
    pub p50_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
}

/// How requests were split between versions.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Split {
    /// Requests counted.
    pub requests: u64,
    /// Configured share by version, 0 to 1.
    pub wanted: BTreeMap<String, f64>,
    /// Observed share by version, 0 to 1.
    pub observed: BTreeMap<String, f64>,
    /// How far a share may be off: four standard deviations of as many random choices.
    pub tolerance: f64,
}

fn reported_by_destination(sample: &Sample) -> bool {
    sample.label("reporter") == "destination"
}

fn is_error(sample: &Sample) -> bool {
    // 0 is a request without an answer.
    matches!(sample.label("response_code").parse::<u16>(), Ok(0 | 500..) | Err(_))
}

/// Requests that reached a service.
pub fn requests(samples: &Samples, service: &str) -> u64 {
    let wanted = |sample: &Sample| reported_by_destination(sample) && sample.label("destination_app") == service;
    samples.sum(REQUESTS, wanted) as u64
}

/// Who talked to whom.
pub fn edges(samples: &Samples) -> Vec<Edge> {
    let mut edges: BTreeMap<(String, String, String), Edge> = BTreeMap::new();
    for sample in samples.named(REQUESTS).filter(|sample| reported_by_destination(sample) && sample.value > 0.0) {
        let [source, service, destination] =
            ["source_principal", "destination_app", "destination_principal"].map(|name| sample.label(name).to_owned());
        let key = (source.clone(), service.clone(), destination.clone());
        let edge = edges.entry(key).or_insert(Edge {
            source,
            service,
            destination,
            requests: 0,
            refused: 0,
            mutual_tls: true,
        });
        edge.requests += sample.value as u64;
        if sample.label("response_code") == "403" {
            edge.refused += sample.value as u64;
        }
        edge.mutual_tls &= sample.label("connection_security_policy") == "mutual_tls";
    }
    edges.into_values().collect()
}

/// How each service fared.
pub fn services(samples: &Samples) -> Vec<ServiceStats> {
    let names: BTreeSet<String> = samples
        .named(REQUESTS)
        .filter(|sample| reported_by_destination(sample))
        .map(|sample| sample.label("destination_app").to_owned())
        .collect();
    let stats = names.into_iter().filter_map(|service| {
        let mine = |sample: &Sample| reported_by_destination(sample) && sample.label("destination_app") == service;
        let total = samples.sum(REQUESTS, mine);
        let errors = samples.sum(REQUESTS, |sample| mine(sample) && is_error(sample));
        let latency =
            Latency { p50_ms: samples.quantile(DURATION, 0.5, mine)?, p99_ms: samples.quantile(DURATION, 0.99, mine)? };
        let error_rate = if total > 0.0 { errors / total } else { 0.0 };
        Some(ServiceStats { requests: total as u64, latency, error_rate, service })
    });
    stats.collect()
}

/// How requests to a service were split between the versions of `weights`.
pub fn split(samples: &Samples, service: &str, weights: &[(&str, u32)]) -> Split {
    let count = |version: &str| {
        samples.sum(REQUESTS, |sample| {
            reported_by_destination(sample)
                && sample.label("destination_app") == service
                && sample.label("destination_version") == version
        })
    };
    let total = requests(samples, service);
    let sum: u32 = weights.iter().map(|(_, weight)| weight).sum();
    let share = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
    let wanted: BTreeMap<String, f64> = weights
        .iter()
        .map(|(version, weight)| ((*version).to_owned(), share(f64::from(*weight), f64::from(sum))))
        .collect();
    let observed =
        weights.iter().map(|(version, _)| ((*version).to_owned(), share(count(version), total as f64))).collect();
    let widest = wanted.values().map(|share| share * (1.0 - share)).fold(0.0, f64::max);
    let tolerance = if total > 0 { 4.0 * (widest / total as f64).sqrt() } else { 0.0 };
    Split { requests: total, wanted, observed, tolerance }
}

impl Split {
    /// True if every share is as near as chance allows, and every request went to one of the versions.
    pub fn holds(&self) -> bool {
        let near = self.wanted.iter().all(|(version, wanted)| {
            let observed = self.observed.get(version).copied().unwrap_or(0.0);
            (observed - wanted).abs() <= self.tolerance
        });
        let whole: f64 = self.observed.values().sum();
        self.requests > 0 && near && (whole - 1.0).abs() < 1e-9
    }

    /// `v1 75.2 %, v2 24.8 % of 1,000 (wanted v1 75 %, v2 25 %, ± 5.5 %)`.
    pub fn describe(&self) -> String {
        let shares = |shares: &BTreeMap<String, f64>, digits: usize| {
            let parts = shares.iter().map(|(version, share)| format!("{version} {:.digits$} %", share * 100.0));
            parts.collect::<Vec<_>>().join(", ")
        };
        format!(
            "{} of {} (wanted {}, ± {:.1} %)",
            shares(&self.observed, 1),
            crate::output::thousands(self.requests),
            shares(&self.wanted, 0),
            self.tolerance * 100.0
        )
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn samples() -> Samples {
        let mut text = String::new();
        for (version, code, count) in [("v1", "200", 740), ("v1", "403", 10), ("v2", "200", 240), ("v2", "503", 10)] {
            text.push_str(&format!(
                "istio_requests_total{{reporter=\"destination\",source_principal=\"spiffe://a\",destination_app=\"reviews\",\
                 destination_principal=\"spiffe://b\",destination_version=\"{version}\",response_code=\"{code}\",\
                 connection_security_policy=\"mutual_tls\"}} {count}\n"
            ));
        }
        text.push_str(
            "istio_requests_total{reporter=\"source\",destination_app=\"reviews\",response_code=\"200\"} 9000\n",
        );
        for (bound, count) in [("1", 500), ("5", 1000), ("+Inf", 1000)] {
            text.push_str(&format!(
                "istio_request_duration_milliseconds_bucket{{reporter=\"destination\",destination_app=\"reviews\",le=\"{bound}\"}} {count}\n"
            ));
        }
        Samples::of(crate::metrics::parse(&text).unwrap())
    }

    #[test]
    fn the_split_is_judged_by_chance() {
        let good = split(&samples(), "reviews", &[("v1", 75), ("v2", 25)]);
        assert!(good.holds(), "{}", good.describe());
        assert_eq!(good.describe(), "v1 75.0 %, v2 25.0 % of 1,000 (wanted v1 75 %, v2 25 %, ± 5.5 %)");
        assert!(!split(&samples(), "reviews", &[("v1", 50), ("v2", 50)]).holds());
        assert!(!split(&samples(), "reviews", &[("v1", 1)]).holds());
        assert!(!split(&samples(), "nothing", &[("v1", 1)]).holds());
    }

    #[test]
    fn edges_and_services_come_from_the_destinations_reports() {
        let edges = edges(&samples());
        assert_eq!(edges.len(), 1);
        assert_eq!((edges[0].requests, edges[0].refused, edges[0].mutual_tls), (1000, 10, true));
        let services = services(&samples());
        assert_eq!(services.len(), 1);
        assert_eq!(services[0].requests, 1000);
        assert!((services[0].error_rate - 0.01).abs() < 1e-9);
        assert!((services[0].latency.p50_ms - 1.0).abs() < 1e-9);
    }
}

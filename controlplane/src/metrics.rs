//! The control plane's own metrics, by Istio's names (MT6), and their text for scrapes.
//!
//! Every handle is resolved once. The recorder is the control plane's own and not the process's, so that a control plane and proxies
//! can run in one process.

use std::sync::Arc;
use std::time::Duration;

use ::metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::xds::ResourceType;

/// Bounds of the time histograms, seconds; Istio's.
const SECONDS: &[f64] = &[0.01, 0.1, 0.5, 1.0, 3.0, 5.0, 10.0, 20.0, 30.0];
/// Bounds of the size histogram, bytes; Istio's.
const BYTES: &[f64] = &[1.0, 10_000.0, 1_000_000.0, 4_000_000.0, 10_000_000.0, 40_000_000.0];

/// Handles of all metrics.
#[derive(Clone)]
pub struct Metrics(Arc<Handles>);

impl std::ops::Deref for Metrics {
    type Target = Handles;

    fn deref(&self) -> &Handles {
        &self.0
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

/// The metrics of a type of resource.
pub struct TypeMetrics {
    /// `pilot_xds_pushes`.
    pub pushes: Counter,
    /// `pilot_xds_push_time`.
    pub push_time: Histogram,
    /// `pilot_xds_config_size_bytes`.
    pub size: Histogram,
    /// `pilot_xds_expired_nonce`.
    pub stale: Counter,
    /// `pilot_xds_cds_reject` and the like.
    pub rejects: Counter,
}

/// One handle a metric.
pub struct Handles {
    handle: PrometheusHandle,
    types: [TypeMetrics; ResourceType::ALL.len()],
    /// `pilot_xds`: streams.
    pub connected: Gauge,
    /// `pilot_total_xds_rejects`.
    pub rejects: Counter,
    /// `pilot_xds_internal_errors`.
    pub stream_errors: Counter,
    /// `pilot_debounce_time`.
    pub debounce_time: Histogram,
    /// `pilot_pushcontext_init_seconds`.
    pub context_time: Histogram,
    /// `pilot_proxy_convergence_time`.
    pub convergence_time: Histogram,
    /// `pilot_inbound_updates`.
    pub inbound_updates: Counter,
    /// `pilot_push_triggers` of full pushes.
    pub pushes_full: Counter,
    /// `pilot_push_triggers` of endpoints alone.
    pub pushes_endpoints: Counter,
    /// `pilot_services`.
    pub services: Gauge,
    /// `pilot_virt_services`.
    pub virtual_services: Gauge,
    /// `citadel_server_csr_count`.
    pub csr_received: Counter,
    /// `citadel_server_authentication_failure_count`.
    pub csr_unauthenticated: Counter,
    /// `citadel_server_success_cert_issuance_count`.
    pub csr_signed: Counter,
    /// `citadel_server_csr_sign_err_count`.
    pub csr_failed: Counter,
    /// `citadel_server_root_cert_expiry_timestamp`, seconds since 1970.
    pub root_expiry: Gauge,
}

impl Metrics {
    /// Metrics of a new control plane.
    pub fn new() -> Self {
        let mut builder = PrometheusBuilder::new();
        for (suffix, bounds) in [("_time", SECONDS), ("_seconds", SECONDS), ("_bytes", BYTES)] {
            // An error means no bounds were given.
            builder = match builder.set_buckets_for_metric(Matcher::Suffix(suffix.to_owned()), bounds) {
                Ok(builder) => builder,
                Err(_) => PrometheusBuilder::new(),
            };
        }
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        Self(Arc::new(::metrics::with_local_recorder(&recorder, || Handles::resolve(handle))))
    }

    /// The text format of Prometheus.
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// Folds samples in, so that histograms do not grow between scrapes. Never returns.
    pub async fn upkeep(self) {
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            self.handle.run_upkeep();
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Handles {
    /// Those of a type.
    pub fn of(&self, kind: ResourceType) -> &TypeMetrics {
        &self.types[kind as usize]
    }

    fn resolve(handle: PrometheusHandle) -> Self {
        gauge!("istio_build", "component" => "pilot", "tag" => env!("CARGO_PKG_VERSION")).set(1.0);
        Self {
            handle,
            types: ResourceType::ALL.map(|kind| {
                let short = kind.short().to_ascii_lowercase();
                TypeMetrics {
                    pushes: counter!("pilot_xds_pushes", "type" => short.clone()),
                    push_time: histogram!("pilot_xds_push_time", "type" => short.clone()),
                    size: histogram!("pilot_xds_config_size_bytes", "type" => kind.type_url()),
                    stale: counter!("pilot_xds_expired_nonce", "type" => kind.type_url()),
                    rejects: counter!(format!("pilot_xds_{short}_reject")),
                }
            }),
            connected: gauge!("pilot_xds"),
            rejects: counter!("pilot_total_xds_rejects"),
            stream_errors: counter!("pilot_total_xds_internal_errors"),
            debounce_time: histogram!("pilot_debounce_time"),
            context_time: histogram!("pilot_pushcontext_init_seconds"),
            convergence_time: histogram!("pilot_proxy_convergence_time"),
            inbound_updates: counter!("pilot_inbound_updates", "type" => "config"),
            pushes_full: counter!("pilot_push_triggers", "type" => "config"),
            pushes_endpoints: counter!("pilot_push_triggers", "type" => "endpoint"),
            services: gauge!("pilot_services"),
            virtual_services: gauge!("pilot_virt_services"),
            csr_received: counter!("citadel_server_csr_count"),
            csr_unauthenticated: counter!("citadel_server_authentication_failure_count"),
            csr_signed: counter!("citadel_server_success_cert_issuance_count"),
            csr_failed: counter!("citadel_server_csr_sign_err_count"),
            root_expiry: gauge!("citadel_server_root_cert_expiry_timestamp"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_control_planes_count_apart_and_by_istio_names() {
        let (a, b) = (Metrics::new(), Metrics::new());
        a.of(ResourceType::Cluster).pushes.increment(3);
        a.convergence_time.record(0.2);
        b.rejects.increment(1);
        let text = a.render();
        assert!(text.contains("pilot_xds_pushes{type=\"cds\"} 3"), "{text}");
        assert!(text.contains("pilot_proxy_convergence_time_bucket{le=\"0.5\"} 1"), "{text}");
        assert!(text.contains("istio_build{"), "{text}");
        assert!(text.contains("pilot_total_xds_rejects 0"), "{text}");
        assert!(b.render().contains("pilot_total_xds_rejects 1"));
    }
}

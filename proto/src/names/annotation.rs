//! Annotations (IN3).

/// Namespaces that see a Kubernetes Service, comma-separated (G4).
pub const EXPORT_TO: &str = "networking.istio.io/exportTo";
/// Distribution of a Service's traffic (G15).
pub const TRAFFIC_DISTRIBUTION: &str = "networking.istio.io/traffic-distribution";
/// Present on pods that carry a sidecar.
pub const SIDECAR_STATUS: &str = "sidecar.istio.io/status";
/// AuthorizationPolicy that only reports.
pub const DRY_RUN: &str = "istio.io/dry-run";
/// Whether metrics may be scraped.
pub const PROMETHEUS_SCRAPE: &str = "prometheus.io/scrape";
/// Port of the application's metrics.
pub const PROMETHEUS_PORT: &str = "prometheus.io/port";
/// Path of the application's metrics.
pub const PROMETHEUS_PATH: &str = "prometheus.io/path";
/// Scheme of the application's metrics.
pub const PROMETHEUS_SCHEME: &str = "prometheus.io/scheme";
/// Codes of findings that are known and not wanted, comma-separated; `*` is all.
pub const ANALYZE_SUPPRESS: &str = "galley.istio.io/analyze-suppress";

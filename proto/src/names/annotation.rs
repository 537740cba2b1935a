//! Annotations (IN3).

/// Namespaces that see a Kubernetes Service, comma-separated (G4).
pub const EXPORT_TO: &str = "networking.istio.io/exportTo";
/// Distribution of a Service's traffic (G15).
pub const TRAFFIC_DISTRIBUTION: &str = "networking.istio.io/traffic-distribution";
/// Present on pods that carry a sidecar.
pub const SIDECAR_STATUS: &str = "sidecar.istio.io/status";
/// Whether a sidecar is wanted.
pub const INJECT: &str = "sidecar.istio.io/inject";
/// ProxyConfig of a pod, YAML.
pub const PROXY_CONFIG: &str = "proxy.istio.io/config";
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
/// Findings that are not wanted, `IST0001=Kind name.namespace`.
pub const ANALYZE_SUPPRESS: &str = "galley.istio.io/analyze-suppress";
/// Ports that inbound capture includes.
pub const INCLUDE_INBOUND_PORTS: &str = "traffic.sidecar.istio.io/includeInboundPorts";
/// Ports that inbound capture leaves out.
pub const EXCLUDE_INBOUND_PORTS: &str = "traffic.sidecar.istio.io/excludeInboundPorts";
/// Ports that outbound capture includes.
pub const INCLUDE_OUTBOUND_PORTS: &str = "traffic.sidecar.istio.io/includeOutboundPorts";
/// Ports that outbound capture leaves out.
pub const EXCLUDE_OUTBOUND_PORTS: &str = "traffic.sidecar.istio.io/excludeOutboundPorts";
/// Address ranges that outbound capture includes.
pub const INCLUDE_OUTBOUND_IP_RANGES: &str = "traffic.sidecar.istio.io/includeOutboundIPRanges";
/// Address ranges that outbound capture leaves out.
pub const EXCLUDE_OUTBOUND_IP_RANGES: &str = "traffic.sidecar.istio.io/excludeOutboundIPRanges";

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

// Injection: whether, by what, and how (IN1-IN3).

/// `true` or `false`: whether the pod gets a sidecar; the label of the same name comes first.
pub const INJECT: &str = "sidecar.istio.io/inject";
/// Names of injection templates, comma-separated.
pub const TEMPLATES: &str = "inject.istio.io/templates";
/// A ProxyConfig in YAML, laid over `meshConfig.defaultConfig`.
pub const PROXY_CONFIG: &str = "proxy.istio.io/config";
/// The user's own containers under the proxy's names, as they were before injection: JSON.
pub const PROXY_OVERRIDES: &str = "proxy.istio.io/overrides";
/// Image of the proxy.
pub const PROXY_IMAGE: &str = "sidecar.istio.io/proxyImage";
/// Kind of image.
pub const PROXY_IMAGE_TYPE: &str = "sidecar.istio.io/proxyImageType";
/// Processor request.
pub const PROXY_CPU: &str = "sidecar.istio.io/proxyCPU";
/// Memory request.
pub const PROXY_MEMORY: &str = "sidecar.istio.io/proxyMemory";
/// Processor limit.
pub const PROXY_CPU_LIMIT: &str = "sidecar.istio.io/proxyCPULimit";
/// Memory limit.
pub const PROXY_MEMORY_LIMIT: &str = "sidecar.istio.io/proxyMemoryLimit";
/// REDIRECT or NONE.
pub const INTERCEPTION_MODE: &str = "sidecar.istio.io/interceptionMode";
/// Level of the proxy's log.
pub const LOG_LEVEL: &str = "sidecar.istio.io/logLevel";
/// Levels by component, `http:debug,xds:info`.
pub const COMPONENT_LOG_LEVEL: &str = "sidecar.istio.io/componentLogLevel";
/// Level of Istio's agent.
pub const AGENT_LOG_LEVEL: &str = "sidecar.istio.io/agentLogLevel";
/// ConfigMap with an Envoy bootstrap.
pub const BOOTSTRAP_OVERRIDE: &str = "sidecar.istio.io/bootstrapOverride";
/// Volumes for the proxy, JSON.
pub const USER_VOLUME: &str = "sidecar.istio.io/userVolume";
/// Mounts of the proxy, JSON.
pub const USER_VOLUME_MOUNT: &str = "sidecar.istio.io/userVolumeMount";
/// Whether the application's probes go through the proxy's agent port.
pub const REWRITE_PROBES: &str = "sidecar.istio.io/rewriteAppHTTPProbers";
/// Whether the proxy is a native sidecar.
pub const NATIVE_SIDECAR: &str = "sidecar.istio.io/nativeSidecar";
/// Whether the proxy may bind ports below 1024.
pub const CAP_NET_BIND: &str = "sidecar.istio.io/capNetBindService";
/// Outbound destinations that are captured.
pub const INCLUDE_OUTBOUND_RANGES: &str = "traffic.sidecar.istio.io/includeOutboundIPRanges";
/// Outbound destinations that are not.
pub const EXCLUDE_OUTBOUND_RANGES: &str = "traffic.sidecar.istio.io/excludeOutboundIPRanges";
/// Outbound ports that are captured whatever the destination.
pub const INCLUDE_OUTBOUND_PORTS: &str = "traffic.sidecar.istio.io/includeOutboundPorts";
/// Outbound ports that are not captured.
pub const EXCLUDE_OUTBOUND_PORTS: &str = "traffic.sidecar.istio.io/excludeOutboundPorts";
/// Inbound ports that are captured.
pub const INCLUDE_INBOUND_PORTS: &str = "traffic.sidecar.istio.io/includeInboundPorts";
/// Inbound ports that are not.
pub const EXCLUDE_INBOUND_PORTS: &str = "traffic.sidecar.istio.io/excludeInboundPorts";
/// Interfaces that are not captured.
pub const EXCLUDE_INTERFACES: &str = "traffic.sidecar.istio.io/excludeInterfaces";
/// Interfaces of virtual machines.
pub const KUBEVIRT_INTERFACES: &str = "traffic.sidecar.istio.io/kubevirtInterfaces";
/// The newer name of [`KUBEVIRT_INTERFACES`].
pub const REROUTE_INTERFACES: &str = "istio.io/reroute-virtual-interfaces";
/// Port of the proxy's agent duties.
pub const STATUS_PORT: &str = "status.sidecar.istio.io/port";
/// Readiness probe of the proxy: seconds before the first.
pub const READINESS_INITIAL_DELAY: &str = "readiness.status.sidecar.istio.io/initialDelaySeconds";
/// Readiness probe of the proxy: seconds between two.
pub const READINESS_PERIOD: &str = "readiness.status.sidecar.istio.io/periodSeconds";
/// Readiness probe of the proxy: failures that count.
pub const READINESS_FAILURES: &str = "readiness.status.sidecar.istio.io/failureThreshold";
/// Ports of the application that readiness waits for.
pub const READINESS_APPLICATION_PORTS: &str = "readiness.status.sidecar.istio.io/applicationPorts";
/// Whether the application's metrics are shown with the proxy's.
pub const MERGE_METRICS: &str = "prometheus.istio.io/merge-metrics";
/// The revision that injected.
pub const REVISION: &str = "istio.io/rev";
/// The container that kubectl means.
pub const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";
/// The container whose log kubectl shows.
pub const DEFAULT_LOGS_CONTAINER: &str = "kubectl.kubernetes.io/default-logs-container";
/// Names the class of an Ingress, from before Kubernetes had a field for it.
pub const INGRESS_CLASS: &str = "kubernetes.io/ingress.class";

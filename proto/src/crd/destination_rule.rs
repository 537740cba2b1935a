//! DestinationRule. Source: <https://istio.io/latest/docs/reference/config/networking/destination-rule/>.

use std::collections::BTreeMap;

use super::scalar::{number, number_map, numbers, optional_number};
use super::{Duration, Percent, PortSelector, WorkloadSelector};

message! {
    /// What holds for traffic to a host after routing.
    pub struct DestinationRule {
        /// Host; short names resolve in the rule's namespace; wildcards allowed.
        pub host: String,
        /// For all subsets that do not say otherwise.
        pub traffic_policy: Option<TrafficPolicy>,
        /// Named subsets.
        pub subsets: Vec<Subset>,
        /// Namespaces that see it.
        pub export_to: Vec<String>,
        /// Client workloads it holds for, in its own namespace.
        pub workload_selector: Option<WorkloadSelector>,
    }

    /// Policies of a host, subset or port.
    pub struct TrafficPolicy {
        /// Load balancing.
        pub load_balancer: Option<LoadBalancerSettings>,
        /// Limits and timeouts of connections.
        pub connection_pool: Option<ConnectionPoolSettings>,
        /// Ejection of failing hosts.
        pub outlier_detection: Option<OutlierDetection>,
        /// TLS to the host.
        pub tls: Option<ClientTlsSettings>,
        /// Per port; not inherited from.
        pub port_level_settings: Vec<PortTrafficPolicy>,
        /// Tunnel through a proxy.
        pub tunnel: Option<TunnelSettings>,
        /// PROXY protocol to the host.
        pub proxy_protocol: Option<ProxyProtocol>,
        /// Budget of retries.
        pub retry_budget: Option<RetryBudget>,
    }

    /// Policies of one port.
    pub struct PortTrafficPolicy {
        /// The port.
        pub port: Option<PortSelector>,
        /// Load balancing.
        pub load_balancer: Option<LoadBalancerSettings>,
        /// Limits and timeouts.
        pub connection_pool: Option<ConnectionPoolSettings>,
        /// Ejection.
        pub outlier_detection: Option<OutlierDetection>,
        /// TLS.
        pub tls: Option<ClientTlsSettings>,
    }

    /// A named subset of a host's endpoints.
    pub struct Subset {
        /// Name that routes use.
        pub name: String,
        /// Labels of its endpoints; none makes it an alias.
        pub labels: BTreeMap<String, String>,
        /// Overrides the rule's policy block by block.
        pub traffic_policy: Option<TrafficPolicy>,
    }

    /// Load balancing: `simple` or `consistentHash`.
    pub struct LoadBalancerSettings {
        /// Algorithm.
        pub simple: Option<SimpleLb>,
        /// Affinity by hash.
        pub consistent_hash: Option<ConsistentHashLb>,
        /// Locality preferences.
        pub locality_lb_setting: Option<LocalityLoadBalancerSetting>,
        /// Deprecated form of warmup.
        pub warmup_duration_secs: Option<Duration>,
        /// Slow start of new endpoints.
        pub warmup: Option<WarmupConfiguration>,
        /// Zone-aware routing.
        pub zone_aware_lb_setting: Option<ZoneAwareLbSetting>,
    }

    /// Slow start.
    pub struct WarmupConfiguration {
        /// How long.
        pub duration: Option<Duration>,
        /// First share in percent; 10 by default.
        pub minimum_percent: Option<f64>,
        /// Shape; 1.0 is linear.
        pub aggression: Option<f64>,
    }

    /// Affinity: one key, one algorithm.
    pub struct ConsistentHashLb {
        /// By header.
        pub http_header_name: Option<String>,
        /// By cookie.
        pub http_cookie: Option<HttpCookie>,
        /// By source address.
        pub use_source_ip: Option<bool>,
        /// By query parameter.
        pub http_query_parameter_name: Option<String>,
        /// Ring hash.
        pub ring_hash: Option<RingHash>,
        /// Maglev.
        pub maglev: Option<MagLev>,
        /// Deprecated form of ringHash.minimumRingSize.
        #[serde(deserialize_with = "number")]
        pub minimum_ring_size: u64,
    }

    /// Ring hash.
    pub struct RingHash {
        /// Smallest ring; 1024 by default.
        #[serde(deserialize_with = "number")]
        pub minimum_ring_size: u64,
    }

    /// Maglev.
    pub struct MagLev {
        /// A prime; 65537 by default.
        #[serde(deserialize_with = "number")]
        pub table_size: u64,
    }

    /// A cookie that is made when absent and a ttl is given.
    pub struct HttpCookie {
        /// Name.
        pub name: String,
        /// Path.
        pub path: String,
        /// Lifetime.
        pub ttl: Option<Duration>,
        /// More attributes.
        pub attributes: Vec<HttpCookieAttribute>,
    }

    /// An attribute of a cookie.
    pub struct HttpCookieAttribute {
        /// Name.
        pub name: String,
        /// Value.
        pub value: String,
    }

    /// Locality preferences: one of distribute, failover, failoverPriority.
    pub struct LocalityLoadBalancerSetting {
        /// Shares by locality.
        pub distribute: Vec<LocalityDistribute>,
        /// Regions to fail over to.
        pub failover: Vec<LocalityFailover>,
        /// Labels by which priorities are made.
        pub failover_priority: Vec<String>,
        /// On by default.
        pub enabled: Option<bool>,
    }

    /// Shares of one origin.
    pub struct LocalityDistribute {
        /// `region/zone/subzone`, `*`.
        pub from: String,
        /// Percent by locality; sums to 100.
        #[serde(deserialize_with = "number_map")]
        pub to: BTreeMap<String, u32>,
    }

    /// Failover of a region.
    pub struct LocalityFailover {
        /// From.
        pub from: String,
        /// To.
        pub to: String,
    }

    /// Zone-aware routing.
    pub struct ZoneAwareLbSetting {
        /// On.
        pub enabled: Option<bool>,
        /// Regions to fail over to.
        pub failover: Vec<LocalityFailover>,
        /// Labels by which priorities are made.
        pub failover_priority: Vec<String>,
        /// Smallest cluster it applies to; 6 by default.
        #[serde(deserialize_with = "optional_number")]
        pub min_cluster_size: Option<u32>,
    }

    /// Limits and timeouts of connections.
    pub struct ConnectionPoolSettings {
        /// Of TCP.
        pub tcp: Option<TcpSettings>,
        /// Of HTTP.
        pub http: Option<HttpSettings>,
    }

    /// TCP.
    pub struct TcpSettings {
        /// Most connections; 2^32-1 by default.
        #[serde(deserialize_with = "number")]
        pub max_connections: i32,
        /// 10 s by default.
        pub connect_timeout: Option<Duration>,
        /// Keep-alive probes.
        pub tcp_keepalive: Option<TcpKeepalive>,
        /// Longest life of a connection.
        pub max_connection_duration: Option<Duration>,
        /// Closes an idle connection; 1 h by default, 0 never.
        pub idle_timeout: Option<Duration>,
    }

    /// Keep-alive probes; the system's defaults when unset.
    pub struct TcpKeepalive {
        /// Probes before the connection is dead.
        #[serde(deserialize_with = "number")]
        pub probes: u32,
        /// Idle time before the first.
        pub time: Option<Duration>,
        /// Between probes.
        pub interval: Option<Duration>,
    }

    /// HTTP.
    pub struct HttpSettings {
        /// Most waiting requests.
        #[serde(deserialize_with = "number")]
        pub http1_max_pending_requests: i32,
        /// Most requests under way.
        #[serde(deserialize_with = "number")]
        pub http2_max_requests: i32,
        /// Requests on one connection; 0 no limit, 1 no keep-alive.
        #[serde(deserialize_with = "number")]
        pub max_requests_per_connection: i32,
        /// Most retries under way.
        #[serde(deserialize_with = "number")]
        pub max_retries: i32,
        /// Closes an idle connection; 1 h by default.
        pub idle_timeout: Option<Duration>,
        /// HTTP/2 to HTTP/1 ports.
        pub h2_upgrade_policy: Option<H2UpgradePolicy>,
        /// Speak what the client spoke.
        pub use_client_protocol: bool,
        /// Streams on one HTTP/2 connection.
        #[serde(deserialize_with = "number")]
        pub max_concurrent_streams: i32,
        /// HTTP/2 PING.
        pub http2_keep_alive: Option<Http2KeepAlive>,
    }

    /// HTTP/2 PING.
    pub struct Http2KeepAlive {
        /// Between pings.
        pub interval: Option<Duration>,
        /// For an answer.
        pub timeout: Option<Duration>,
    }

    /// Ejection of failing hosts.
    pub struct OutlierDetection {
        /// Deprecated.
        #[serde(deserialize_with = "number")]
        pub consecutive_errors: i32,
        /// Tell apart errors of the host from errors on the way.
        pub split_external_local_origin_errors: bool,
        /// Errors on the way in a row; 5 by default when told apart.
        #[serde(deserialize_with = "optional_number")]
        pub consecutive_local_origin_failures: Option<u32>,
        /// 502, 503, 504 in a row; off by default.
        #[serde(deserialize_with = "optional_number")]
        pub consecutive_gateway_errors: Option<u32>,
        /// 5xx in a row; 5 by default, 0 disables.
        #[serde(rename = "consecutive5xxErrors", deserialize_with = "optional_number")]
        pub consecutive_5xx_errors: Option<u32>,
        /// Between sweeps; 10 s by default.
        pub interval: Option<Duration>,
        /// Times the number of ejections; 30 s by default.
        pub base_ejection_time: Option<Duration>,
        /// Most hosts ejected; 10 by default.
        #[serde(deserialize_with = "number")]
        pub max_ejection_percent: i32,
        /// Below this share of healthy hosts all are used; 0 by default.
        #[serde(deserialize_with = "number")]
        pub min_health_percent: i32,
        /// Status codes that count as errors.
        #[serde(deserialize_with = "numbers")]
        pub outlier_detection_http_error_codes: Vec<u32>,
    }

    /// TLS to a host.
    pub struct ClientTlsSettings {
        /// Mode.
        pub mode: ClientTlsMode,
        /// File.
        pub client_certificate: String,
        /// File.
        pub private_key: String,
        /// File; the system's roots when empty.
        pub ca_certificates: String,
        /// Secret.
        pub credential_name: String,
        /// Names one of which the server must show.
        pub subject_alt_names: Vec<String>,
        /// Server name to send.
        pub sni: String,
        /// Do not verify the server.
        pub insecure_skip_verify: Option<bool>,
        /// File of revoked certificates.
        pub ca_crl: String,
    }

    /// Tunnel through a proxy.
    pub struct TunnelSettings {
        /// CONNECT or POST.
        pub protocol: String,
        /// Host to reach.
        pub target_host: String,
        /// Port to reach.
        #[serde(deserialize_with = "number")]
        pub target_port: u32,
    }

    /// PROXY protocol.
    pub struct ProxyProtocol {
        /// Version.
        pub version: ProxyProtocolVersion,
    }

    /// Budget of retries.
    pub struct RetryBudget {
        /// Share of requests under way; 20 by default.
        pub percent: Option<Percent>,
        /// Always allowed; 3 by default.
        #[serde(deserialize_with = "optional_number")]
        pub min_retry_concurrency: Option<u32>,
        /// Window over which requests count.
        pub budget_interval: Option<Duration>,
    }
}

choice! {
    /// Algorithms.
    pub enum SimpleLb {
        /// LEAST_REQUEST.
        #[default]
        Unspecified,
        /// Deprecated name of LEAST_REQUEST.
        LeastConn,
        /// Uniformly at random.
        Random,
        /// The address the client dialed.
        Passthrough,
        /// In turn.
        RoundRobin,
        /// The less busy of two.
        LeastRequest,
    }

    /// HTTP/2 to HTTP/1 ports.
    pub enum H2UpgradePolicy {
        /// The mesh's.
        #[default]
        Default,
        /// No.
        DoNotUpgrade,
        /// Yes.
        Upgrade,
    }

    /// TLS modes of a client.
    pub enum ClientTlsMode {
        /// Plaintext.
        #[default]
        Disable,
        /// TLS.
        Simple,
        /// TLS with a client certificate.
        Mutual,
        /// TLS with the workload's mesh certificate.
        IstioMutual,
    }

    /// Versions of PROXY protocol.
    pub enum ProxyProtocolVersion {
        /// Text.
        #[default]
        V1,
        /// Binary.
        V2,
    }
}

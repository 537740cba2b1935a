//! MeshConfig: what holds for the whole mesh. Source: <https://istio.io/latest/docs/reference/config/istio.mesh.v1alpha1/>.

use serde::{Deserialize, Serialize};

use super::Duration;
use super::destination_rule::{H2UpgradePolicy, LocalityLoadBalancerSetting, TcpKeepalive};
use super::proxy_config::ProxyStartConfig;
use super::scalar::number;
use super::sidecar::OutboundTrafficPolicy;
use super::virtual_service::HttpRetry;
use crate::kube::LabelSelector;

/// The mesh's settings; absent fields have Istio's defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MeshConfig {
    /// Outbound capture port.
    #[serde(deserialize_with = "number")]
    pub proxy_listen_port: u32,
    /// Inbound capture port.
    #[serde(deserialize_with = "number")]
    pub proxy_inbound_listen_port: u32,
    /// Local port that serves every HTTP service; 0 is off.
    #[serde(deserialize_with = "number")]
    pub proxy_http_port: u32,
    /// To connect to an endpoint.
    pub connect_timeout: Duration,
    /// Keep-alive probes.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// Class of Ingresses that are served.
    pub ingress_class: String,
    /// Service whose address Ingress status shows.
    pub ingress_service: String,
    /// OFF, DEFAULT, STRICT.
    pub ingress_controller_mode: String,
    /// Label `istio` of the gateway that serves Ingresses; by default the name of its Service, or `ingressgateway` for Istio's own.
    pub ingress_selector: String,
    /// Traces.
    pub enable_tracing: bool,
    /// Path of the access log; empty is off.
    pub access_log_file: String,
    /// Envoy format string, or a JSON object.
    pub access_log_format: String,
    /// TEXT or JSON.
    pub access_log_encoding: AccessLogEncoding,
    /// No listener logs.
    pub disable_envoy_listener_log: bool,
    /// gRPC access logs.
    pub enable_envoy_access_log_service: bool,
    /// What new proxies start with.
    pub default_config: ProxyStartConfig,
    /// Traffic to unknown destinations.
    pub outbound_traffic_policy: OutboundTrafficPolicy,
    /// Inbound traffic to unknown ports.
    pub inbound_traffic_policy: Option<serde_json::Value>,
    /// mTLS to endpoints that can.
    pub enable_auto_mtls: bool,
    /// Trust domain.
    pub trust_domain: String,
    /// Others that are taken as this one.
    pub trust_domain_aliases: Vec<String>,
    /// More trust roots.
    pub ca_certificates: Vec<serde_json::Value>,
    /// External CA.
    pub ca: Option<serde_json::Value>,
    /// Namespaces that see services by default.
    pub default_service_export_to: Vec<String>,
    /// Namespaces that see VirtualServices by default.
    pub default_virtual_service_export_to: Vec<String>,
    /// Namespaces that see DestinationRules by default.
    pub default_destination_rule_export_to: Vec<String>,
    /// Namespace whose policies are the mesh's.
    pub root_namespace: String,
    /// Locality preferences.
    pub locality_lb_setting: Option<LocalityLoadBalancerSetting>,
    /// Zone-aware routing.
    pub zone_aware_lb_setting: Option<serde_json::Value>,
    /// Between DNS lookups.
    pub dns_refresh_rate: Duration,
    /// HTTP/2 to HTTP/1 ports.
    pub h2_upgrade_policy: H2UpgradePolicy,
    /// Policy of hosts without a DestinationRule.
    pub default_traffic_policy: Option<serde_json::Value>,
    /// Pattern of statistics names.
    pub inbound_cluster_stat_name: String,
    /// Pattern of statistics names.
    pub outbound_cluster_stat_name: String,
    /// Merge the application's metrics.
    pub enable_prometheus_merge: bool,
    /// Settings by service.
    pub service_settings: Vec<serde_json::Value>,
    /// Scopes of services.
    pub service_scope_configs: Vec<serde_json::Value>,
    /// Visibility of ServiceEntries.
    pub service_entry_visibility: Option<serde_json::Value>,
    /// Tracing, metrics, log and authorization providers.
    pub extension_providers: Vec<serde_json::Value>,
    /// Providers used by default.
    pub default_providers: Option<serde_json::Value>,
    /// Namespaces that are looked at: those that any of these selects; all of them if there is none.
    pub discovery_selectors: Vec<LabelSelector>,
    /// Path normalisation.
    pub path_normalization: PathNormalization,
    /// Retry policy of routes without one.
    pub default_http_retry_policy: Option<HttpRetry>,
    /// TLS of the mesh.
    #[serde(rename = "meshMTLS")]
    pub mesh_mtls: Option<serde_json::Value>,
    /// TLS elsewhere.
    pub tls_defaults: Option<serde_json::Value>,
    /// Sources of configuration.
    pub config_sources: Vec<serde_json::Value>,
    /// To wait for the first bytes; 0 is no limit.
    pub protocol_detection_timeout: Duration,
    /// Idle HBONE connections.
    pub hbone_idle_timeout: Option<Duration>,
    /// Verify against the certificate of the destination.
    pub verify_certificate_at_client: Option<bool>,
    /// Other names of certificates.
    pub certificates: Vec<serde_json::Value>,
}

/// Encoding of access logs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum AccessLogEncoding {
    /// Lines.
    #[default]
    Text,
    /// Objects.
    Json,
}

message! {
    /// Path normalisation.
    pub struct PathNormalization {
        /// How much.
        pub normalization: Normalization,
    }
}

choice! {
    /// How much a path is normalised.
    pub enum Normalization {
        /// As Istio's default, BASE.
        #[default]
        Default,
        /// Not at all.
        None,
        /// RFC 3986, backslashes.
        Base,
        /// And adjacent slashes.
        MergeSlashes,
        /// And escaped slashes.
        DecodeAndMergeSlashes,
    }
}

impl Default for MeshConfig {
    fn default() -> Self {
        let everywhere = || vec!["*".to_owned()];
        Self {
            proxy_listen_port: 15001,
            proxy_inbound_listen_port: 15006,
            proxy_http_port: 0,
            connect_timeout: Duration::from_secs(10),
            tcp_keepalive: None,
            ingress_class: "istio".to_owned(),
            ingress_service: "istio-ingressgateway".to_owned(),
            ingress_controller_mode: "STRICT".to_owned(),
            ingress_selector: String::new(),
            enable_tracing: true,
            access_log_file: String::new(),
            access_log_format: String::new(),
            access_log_encoding: AccessLogEncoding::Text,
            disable_envoy_listener_log: false,
            enable_envoy_access_log_service: false,
            default_config: ProxyStartConfig::default(),
            outbound_traffic_policy: OutboundTrafficPolicy::default(),
            inbound_traffic_policy: None,
            enable_auto_mtls: true,
            trust_domain: "cluster.local".to_owned(),
            trust_domain_aliases: Vec::new(),
            ca_certificates: Vec::new(),
            ca: None,
            default_service_export_to: everywhere(),
            default_virtual_service_export_to: everywhere(),
            default_destination_rule_export_to: everywhere(),
            root_namespace: "istio-system".to_owned(),
            locality_lb_setting: None,
            zone_aware_lb_setting: None,
            dns_refresh_rate: Duration::from_secs(60),
            h2_upgrade_policy: H2UpgradePolicy::DoNotUpgrade,
            default_traffic_policy: None,
            inbound_cluster_stat_name: String::new(),
            outbound_cluster_stat_name: String::new(),
            enable_prometheus_merge: true,
            service_settings: Vec::new(),
            service_scope_configs: Vec::new(),
            service_entry_visibility: None,
            extension_providers: Vec::new(),
            default_providers: None,
            discovery_selectors: Vec::new(),
            path_normalization: PathNormalization::default(),
            default_http_retry_policy: None,
            mesh_mtls: None,
            tls_defaults: None,
            config_sources: Vec::new(),
            protocol_detection_timeout: Duration::default(),
            hbone_idle_timeout: None,
            verify_certificate_at_client: None,
            certificates: Vec::new(),
        }
    }
}

//! The HTTP connection manager of a filter chain: one builder for sidecars and gateways, so that both differ only where Istio's do.
//!
//! Settings come from MeshConfig and the proxy's own ProxyConfig; routes, policies and logs from the caller.

use std::time::Duration;

use mesh_proto::crd::mesh_config::Normalization;
use mesh_proto::crd::proxy_config::Topology;
use mesh_proto::crd::{MeshConfig, proxy_config};
use mesh_proto::xds::hcm::http_connection_manager as http;
use mesh_proto::xds::{accesslog, hcm, http_router, listener, pack, route};
use serde::Deserialize;

use super::wire;
use crate::model::Node;

/// Name of the filter in chains.
pub const FILTER: &str = "envoy.filters.network.http_connection_manager";
const ROUTER: &str = "envoy.filters.http.router";
/// `Server` header of gateways and of inbound chains. Outbound chains say `envoy`, as Istio's do.
const SERVER_NAME: &str = "istio-envoy";

/// Where a chain stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Towards the workload.
    SidecarInbound,
    /// From the workload.
    SidecarOutbound,
    /// At the edge.
    Gateway,
}

/// Where a chain's routes come from.
#[derive(Debug, Clone)]
pub enum Routes {
    /// A route configuration that is asked for by name.
    Named(String),
    /// Written in the chain.
    Inline(Box<route::RouteConfiguration>),
}

/// What the caller decides.
#[derive(Debug, Clone)]
pub struct Http {
    /// Where the chain stands.
    pub place: Place,
    /// For statistics, such as `outbound_0.0.0.0_80`.
    pub stat_prefix: String,
    /// Routes.
    pub routes: Routes,
    /// Policies and metrics, in order; the router is added after them.
    pub filters: Vec<hcm::HttpFilter>,
    /// Where requests are logged.
    pub access_log: Vec<accesslog::AccessLog>,
}

/// The filter that ends an HTTP chain.
pub fn connection_manager(mesh: &MeshConfig, node: &Node, settings: Http) -> listener::Filter {
    let config = ProxySettings::of(mesh, node);
    let mut manager = hcm::HttpConnectionManager {
        codec_type: http::CodecType::Auto.into(),
        stat_prefix: settings.stat_prefix,
        route_specifier: Some(match settings.routes {
            Routes::Named(name) => {
                http::RouteSpecifier::Rds(hcm::Rds { config_source: Some(wire::ads()), route_config_name: name })
            }
            Routes::Inline(table) => http::RouteSpecifier::RouteConfig(*table),
        }),
        http_filters: settings.filters,
        access_log: settings.access_log,
        upgrade_configs: vec![http::UpgradeConfig { upgrade_type: "websocket".to_owned(), ..Default::default() }],
        // A request may be silent for as long as its route allows; the route's timeouts are the only ones, as in Istio.
        stream_idle_timeout: Some(wire::duration(Duration::ZERO)),
        // Our own proxy always passes interim responses on.
        proxy_100_continue: !node.ferromesh,
        // Only a gateway is at the edge. As Istio's default, a sidecar's client is its own workload, whose request id and
        // `x-envoy-…` headers are to be kept; since 1.33 Envoy takes no address for an internal one unless it is told to.
        use_remote_address: wire::boolean(settings.place == Place::Gateway),
        ..Default::default()
    };
    normalize(&mut manager, mesh);
    config.server(&mut manager, settings.place, node);
    config.client_certificate(&mut manager, settings.place, node);
    if config.headers.request_id.disabled {
        manager.generate_request_id = wire::boolean(false);
    }
    if settings.place == Place::Gateway {
        manager.xff_num_trusted_hops = config.topology.num_trusted_proxies.unwrap_or(0);
    }
    manager.http_filters.push(config.router(node));
    listener::Filter {
        name: FILTER.to_owned(),
        config_type: Some(listener::filter::ConfigType::TypedConfig(pack(&manager))),
    }
}

/// A filter for [`Http::filters`].
pub fn filter<M: prost::Name>(name: &str, config: &M) -> hcm::HttpFilter {
    hcm::HttpFilter {
        name: name.to_owned(),
        config_type: Some(hcm::http_filter::ConfigType::TypedConfig(pack(config))),
        ..Default::default()
    }
}

/// Whether virtual hosts tell the application which try a request is (`proxyHeaders.attemptCount`, on by default).
pub fn attempt_count(mesh: &MeshConfig, node: &Node) -> bool {
    !ProxySettings::of(mesh, node).headers.attempt_count.disabled
}

/// Whether clients of a gateway come through a load balancer that writes a PROXY header (`gatewayTopology.proxyProtocol`).
pub fn expects_proxy_protocol(mesh: &MeshConfig, node: &Node) -> bool {
    ProxySettings::of(mesh, node).topology.proxy_protocol.is_some()
}

/// Paths are made canonical before routes and policies see them (MC13).
fn normalize(manager: &mut hcm::HttpConnectionManager, mesh: &MeshConfig) {
    use http::PathWithEscapedSlashesAction as Escaped;
    let wanted = mesh.path_normalization.normalization;
    manager.normalize_path = wire::boolean(wanted != Normalization::None);
    manager.merge_slashes = matches!(wanted, Normalization::MergeSlashes | Normalization::DecodeAndMergeSlashes);
    manager.path_with_escaped_slashes_action = match wanted {
        Normalization::DecodeAndMergeSlashes => Escaped::UnescapeAndForward,
        _ => Escaped::KeepUnchanged,
    }
    .into();
}

/// What a proxy's own settings say about HTTP.
struct ProxySettings {
    topology: Topology,
    headers: ProxyHeaders,
}

impl ProxySettings {
    /// The proxy's ProxyConfig, and the mesh's default for what it leaves out (PC1).
    fn of(mesh: &MeshConfig, node: &Node) -> Self {
        let own: proxy_config::ProxyStartConfig = serde_json::from_value(node.proxy_config.clone()).unwrap_or_default();
        let default = &mesh.default_config;
        let headers = own.proxy_headers.or_else(|| default.proxy_headers.clone());
        Self {
            topology: own.gateway_topology.or_else(|| default.gateway_topology.clone()).unwrap_or_default(),
            headers: headers.and_then(|value| serde_json::from_value(value).ok()).unwrap_or_default(),
        }
    }

    fn server(&self, manager: &mut hcm::HttpConnectionManager, place: Place, node: &Node) {
        let server = &self.headers.server;
        if server.disabled {
            manager.server_header_transformation = http::ServerHeaderTransformation::PassThrough.into();
        } else if !server.value.is_empty() {
            manager.server_name.clone_from(&server.value);
        } else if place != Place::SidecarOutbound {
            manager.server_name = SERVER_NAME.to_owned();
        } else if node.ferromesh {
            // What Envoy writes of itself, and what users of Istio see on responses inside the mesh.
            manager.server_name = "envoy".to_owned();
        }
    }

    /// `x-forwarded-client-cert` (PC3). Our own proxy does not forward whole chains. Outbound keeps Envoy's default: what the workload wrote is removed.
    fn client_certificate(&self, manager: &mut hcm::HttpConnectionManager, place: Place, node: &Node) {
        use http::ForwardClientCertDetails as Details;
        let (wanted, default) = match place {
            Place::SidecarOutbound => return,
            Place::SidecarInbound => (self.headers.forwarded_client_cert.as_str(), Details::AppendForward),
            Place::Gateway => (self.topology.forward_client_cert_details.as_str(), Details::SanitizeSet),
        };
        let details = match wanted {
            "" | "UNDEFINED" => default,
            name => Details::from_str_name(name).unwrap_or(default),
        };
        manager.forward_client_cert_details = details.into();
        if matches!(details, Details::AppendForward | Details::SanitizeSet) {
            let gateway = place == Place::Gateway;
            let wanted = self.headers.set_current_client_cert_details.clone().unwrap_or_default();
            manager.set_current_client_cert_details = Some(http::SetCurrentClientCertDetails {
                subject: wire::boolean(wanted.subject.unwrap_or(true)),
                cert: wanted.cert.unwrap_or(gateway),
                chain: wanted.chain.unwrap_or(false) && !node.ferromesh,
                dns: wanted.dns.unwrap_or(true),
                uri: wanted.uri.unwrap_or(true),
                ..Default::default()
            });
        }
    }

    fn router(&self, node: &Node) -> hcm::HttpFilter {
        let router = http_router::Router {
            suppress_envoy_headers: self.headers.envoy_debug_headers.disabled && !node.ferromesh,
            ..Default::default()
        };
        filter(ROUTER, &router)
    }
}

/// `proxyHeaders` of ProxyConfig (PC4).
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ProxyHeaders {
    server: ServerHeader,
    request_id: Switch,
    attempt_count: Switch,
    envoy_debug_headers: Switch,
    forwarded_client_cert: String,
    set_current_client_cert_details: Option<CertificateDetails>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct ServerHeader {
    disabled: bool,
    value: String,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
struct Switch {
    disabled: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct CertificateDetails {
    subject: Option<bool>,
    cert: Option<bool>,
    chain: Option<bool>,
    dns: Option<bool>,
    uri: Option<bool>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use mesh_proto::yaml;
    use serde_json::{Value, json};

    use super::*;
    use crate::model::{Interception, NodeKind};

    fn node(proxy_config: Value) -> Node {
        Node {
            id: "sidecar~10.0.0.1~a.shop~shop.svc.cluster.local".into(),
            kind: NodeKind::Sidecar,
            name: "a".into(),
            namespace: "shop".into(),
            service_account: "a".into(),
            workload_name: "a".into(),
            addresses: Vec::new(),
            labels: Default::default(),
            annotations: Default::default(),
            cluster: "Kubernetes".into(),
            network: "".into(),
            dns_domain: "shop.svc.cluster.local".into(),
            interception: Interception::Redirect,
            locality: "".into(),
            ferromesh: true,
            proxy_config,
            dns_capture: false,
            vhds: false,
            grpc: false,
        }
    }

    fn build(mesh: &str, proxy_config: Value, place: Place) -> Value {
        let mesh: MeshConfig = yaml_serde::from_str(mesh).unwrap();
        let settings = Http {
            place,
            stat_prefix: "outbound_0.0.0.0_80".to_owned(),
            routes: Routes::Named("80".to_owned()),
            filters: Vec::new(),
            access_log: Vec::new(),
        };
        let filter = connection_manager(&mesh, &node(proxy_config), settings);
        yaml::to_json(&filter).unwrap()["typed_config"].clone()
    }

    #[test]
    fn places_differ_as_istios_do() {
        let inbound = build("{}", json!({}), Place::SidecarInbound);
        assert_eq!(inbound["use_remote_address"], false);
        assert_eq!(inbound["forward_client_cert_details"], "APPEND_FORWARD");
        assert_eq!(inbound["set_current_client_cert_details"], json!({"subject": true, "dns": true, "uri": true}));
        assert_eq!(inbound["server_name"], "istio-envoy");

        let outbound = build("{}", json!({}), Place::SidecarOutbound);
        assert_eq!(outbound["use_remote_address"], false);
        assert_eq!(outbound.get("forward_client_cert_details"), None);
        assert_eq!(outbound["server_name"], "envoy");
        assert_eq!(outbound["rds"]["route_config_name"], "80");
        assert_eq!(outbound["upgrade_configs"], json!([{"upgrade_type": "websocket"}]));
        assert_eq!(outbound["stream_idle_timeout"], "0s");
        assert_eq!(outbound["http_filters"][0]["name"], "envoy.filters.http.router");

        let gateway = build("{}", json!({}), Place::Gateway);
        assert_eq!(gateway["use_remote_address"], true);
        assert_eq!(gateway["forward_client_cert_details"], "SANITIZE_SET");
        assert_eq!(gateway["set_current_client_cert_details"]["cert"], true);
    }

    #[test]
    fn paths_are_normalised_by_the_mesh() {
        for (wanted, path, merge, escaped) in [
            ("DEFAULT", true, false, "KEEP_UNCHANGED"),
            ("NONE", false, false, "KEEP_UNCHANGED"),
            ("BASE", true, false, "KEEP_UNCHANGED"),
            ("MERGE_SLASHES", true, true, "KEEP_UNCHANGED"),
            ("DECODE_AND_MERGE_SLASHES", true, true, "UNESCAPE_AND_FORWARD"),
        ] {
            let mesh = format!("pathNormalization: {{normalization: {wanted}}}");
            let built = build(&mesh, json!({}), Place::SidecarInbound);
            assert_eq!(built["normalize_path"], path, "{wanted}");
            assert_eq!(built.get("merge_slashes").is_some_and(|value| value == true), merge, "{wanted}");
            assert_eq!(built["path_with_escaped_slashes_action"], escaped, "{wanted}");
        }
    }

    #[test]
    fn a_proxys_own_settings_beat_the_meshs() {
        let mesh = "defaultConfig: {gatewayTopology: {numTrustedProxies: 1}, proxyHeaders: {server: {value: shop}}}";
        let built = build(mesh, json!({}), Place::Gateway);
        assert_eq!(built["xff_num_trusted_hops"], 1);
        assert_eq!(built["server_name"], "shop");

        let own = json!({
            "gatewayTopology": {"numTrustedProxies": 2, "forwardClientCertDetails": "ALWAYS_FORWARD_ONLY"},
            "proxyHeaders": {"server": {"disabled": true}, "requestId": {"disabled": true}},
        });
        let built = build(mesh, own, Place::Gateway);
        assert_eq!(built["xff_num_trusted_hops"], 2);
        assert_eq!(built["forward_client_cert_details"], "ALWAYS_FORWARD_ONLY");
        assert_eq!(built.get("set_current_client_cert_details"), None);
        assert_eq!(built["server_header_transformation"], "PASS_THROUGH");
        assert_eq!(built["generate_request_id"], false);
    }
}

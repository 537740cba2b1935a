//! The admin server and its siblings: dumps, stats, readiness, merged metrics; and bootstraps that are refused.

use http::{Method, Request};
use http_body_util::Full;
use mesh_proxy::app::{Options, Proxy};
use mesh_proxy::bootstrap::{ApplicationMetrics, Bootstrap};

use crate::support::*;

async fn post(address: std::net::SocketAddr, path: &str) -> Got {
    let request = Request::builder().method(Method::POST).uri(path).header("host", "a");
    send(address, request.body(Full::default()).unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_configured_is_shown_in_envoys_shape() {
    let app = says("ok").await;
    let (proxy, front) = Front::to(app.address).start().await;
    let admin = proxy.admin_addr().unwrap();
    assert_eq!(get(front, "/").await.status, 200);
    let dump: serde_json::Value = serde_json::from_str(&get(admin, "/config_dump?include_eds").await.body).unwrap();
    let of = |kind: &str| {
        let url = format!("type.googleapis.com/envoy.admin.v3.{kind}");
        dump["configs"].as_array().unwrap().iter().find(|config| config["@type"] == *url).unwrap().clone()
    };
    assert_eq!(of("ListenersConfigDump")["static_listeners"][0]["listener"]["name"], "front");
    assert_eq!(of("ClustersConfigDump")["static_clusters"][0]["cluster"]["name"], "backend");
    assert_eq!(of("RoutesConfigDump")["static_route_configs"][0]["route_config"]["name"], "inline");
    assert_eq!(of("EndpointsConfigDump")["static_endpoint_configs"][0]["endpoint_config"]["cluster_name"], "backend");
    let clusters: serde_json::Value = serde_json::from_str(&get(admin, "/clusters?format=json").await.body).unwrap();
    let host = &clusters["cluster_statuses"][0]["host_statuses"][0];
    assert_eq!(host["address"]["socket_address"]["port_value"], app.address.port());
    assert_eq!(host["health_status"]["eds_health_status"], "HEALTHY");
    assert_eq!(get(admin, "/listeners").await.body, format!("front::{front}\n"));
    assert_eq!((get(admin, "/ready").await.status, get(admin, "/ready").await.body.as_str()), (200, "LIVE\n"));
    let info: serde_json::Value = serde_json::from_str(&get(admin, "/server_info").await.body).unwrap();
    assert_eq!(info["state"], "LIVE");
    assert_eq!(stat(&proxy, "cluster.backend.upstream_rq_2xx").await, Some(1));
    let listener = front.to_string().replace(':', "_");
    assert_eq!(stat(&proxy, &format!("listener.{listener}.downstream_cx_total")).await, Some(1));
    let metrics = get(admin, "/stats/prometheus").await.body;
    assert!(
        metrics.contains("envoy_cluster_upstream_rq_xx{envoy_response_code_class=\"2\",cluster_name=\"backend\"} 1"),
        "{metrics}"
    );
    for path in ["/help", "/certs", "/stats?format=json&filter=cluster", "/clusters"] {
        assert_eq!(get(admin, path).await.status, 200, "{path}");
    }
    for (path, status) in
        [("/nowhere", 404), ("/config_dump?mask=x", 400), ("/stats?filter=(", 400), ("/quitquitquit", 405)]
    {
        assert_eq!(get(admin, path).await.status, status, "{path}");
    }
    assert_eq!(post(admin, "/stats").await.status, 405);
    assert_eq!(post(admin, "/quitquitquit").await.status, 200);
    within(proxy.quit_requested()).await;
    assert_eq!(post(admin, "/drain_listeners").await.status, 200);
    assert_eq!(get(admin, "/ready").await.status, 503);
    within(proxy.stop()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_and_metrics_have_doors_of_their_own() {
    let app = says("app_requests_total 7\n# EOF\n").await;
    let mut bootstrap = Bootstrap::from_yaml(&Front::to(app.address).yaml()).unwrap();
    let any = Some(([127, 0, 0, 1], 0).into());
    bootstrap.servers.status = any;
    bootstrap.servers.prometheus = any;
    bootstrap.servers.merged = any;
    bootstrap.application = Some(ApplicationMetrics { port: app.address.port(), path: "/metrics".into() });
    let proxy = Proxy::start(bootstrap, Options { workers: 1 }).await.unwrap();
    within(proxy.ready()).await;
    assert_eq!(get(proxy.status_addr().unwrap(), "/healthz/ready").await.status, 200);
    assert_eq!(get(proxy.status_addr().unwrap(), "/config_dump").await.status, 404);
    let ours = get(proxy.prometheus_addr().unwrap(), "/stats/prometheus").await.body;
    assert!(ours.contains("envoy_server_live 1") && !ours.contains("app_requests_total"), "{ours}");
    let both = get(proxy.merged_addr().unwrap(), "/stats/prometheus").await.body;
    assert!(both.contains("envoy_server_live 1") && both.contains("app_requests_total 7"), "{both}");
    assert!(!both.contains("# EOF"));
    assert_eq!(post(proxy.merged_addr().unwrap(), "/quitquitquit").await.status, 200);
    within(proxy.quit_requested()).await;
    within(proxy.stop()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_bootstrap_is_refused_by_the_path_of_its_field() {
    let good = Front::to(([127, 0, 0, 1], 1).into()).yaml();
    for (change, path) in [
        (
            ("connect_timeout: 2s", "connect_timeout: 2s, health_checks: [{timeout: 1s, interval: 1s}]"),
            "static_resources.clusters[0].health_checks",
        ),
        (
            ("port_value: 1}", "port_value: 70000}"),
            "static_resources.clusters[0].load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.port_value",
        ),
        (
            ("prefix: /", "safe_regex: {regex: '('}"),
            "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.route_config.virtual_hosts[0].routes[0].match.safe_regex",
        ),
        (
            ("stat_prefix: front", "stat_prefix: front, tracing: {}"),
            "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.tracing: is not supported",
        ),
        (
            ("filters.http.router.v3.Router", "filters.http.cors.v3.Cors"),
            "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.http_filters: must end in the router",
        ),
    ] {
        let yaml = good.replacen(change.0, change.1, 1);
        assert_ne!(yaml, good, "{}", change.0);
        let error = match Bootstrap::from_yaml(&yaml) {
            Ok(bootstrap) => match Proxy::start(bootstrap, Options { workers: 1 }).await {
                Ok(_) => panic!("{path} was taken"),
                Err(error) => format!("{error:#}"),
            },
            Err(error) => error.to_string(),
        };
        assert!(error.contains(path), "{error}");
    }
}

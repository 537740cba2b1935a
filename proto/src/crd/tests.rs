//! Tables of YAML in, what was understood or the error out.
#![allow(clippy::unwrap_used)]

use super::*;

fn read<T: serde::de::DeserializeOwned>(yaml: &str) -> Result<T, String> {
    yaml_serde::from_str(yaml).map_err(|error| error.to_string())
}

#[test]
fn durations_of_protobuf_and_go() {
    for (text, nanoseconds) in [
        ("1s", 1_000_000_000_u128),
        ("0s", 0),
        ("0", 0),
        ("1.5s", 1_500_000_000),
        ("0.3s", 300_000_000),
        ("300ms", 300_000_000),
        ("1h2m3.5s", 3_723_500_000_000),
        ("10us", 10_000),
        ("7ns", 7),
    ] {
        assert_eq!(text.parse::<Duration>().map(|duration| duration.0.as_nanos()), Ok(nanoseconds), "{text}");
    }
    for text in ["", "5", "s", "-1s", "1x", "1s2", "1..5s", "ten seconds"] {
        assert!(text.parse::<Duration>().is_err(), "{text}");
    }
    assert_eq!(Duration::from_millis(1500).to_string(), "1.5s");
    assert_eq!(Duration::from_secs(90).to_string(), "90s");
}

#[test]
fn a_virtual_service_with_every_plain_field() {
    let yaml = r#"
hosts: [reviews]
gateways: [mesh, istio-system/edge]
exportTo: ["."]
http:
- name: canary
  match:
  - uri: {prefix: /api}
    headers: {x-user: {exact: jason}, x-any: {}}
    withoutHeaders: {x-bot: {regex: ".*"}}
    queryParams: {debug: {exact: ""}}
    port: "80"
    ignoreUriCase: true
  route:
  - destination: {host: reviews, subset: v1, port: {number: 9080}}
    weight: 75
  - destination: {host: reviews, subset: v2}
    weight: 25
  timeout: 2s
  retries: {attempts: 3, perTryTimeout: 500ms, retryOn: "5xx,503"}
  headers: {request: {set: {a: b}, remove: [c]}}
"#;
    let service: VirtualService = read(yaml).unwrap();
    let route = &service.http[0];
    assert_eq!(route.matches[0].uri, Some(StringMatch::Prefix("/api".into())));
    assert_eq!(route.matches[0].headers["x-any"], StringMatch::Present);
    assert_eq!(route.matches[0].port, Some(80));
    assert_eq!(route.route.iter().map(|to| to.weight).collect::<Vec<_>>(), [75, 25]);
    assert_eq!(route.timeout, Some(Duration::from_secs(2)));
    assert_eq!(route.retries.as_ref().unwrap().per_try_timeout, Some(Duration::from_millis(500)));
    let again: VirtualService = read(&yaml_serde::to_string(&service).unwrap()).unwrap();
    assert_eq!(again, service);
}

#[test]
fn an_error_names_the_path_and_what_to_do() {
    for (yaml, error) in [
        (
            "http: [{match: [{uri: {exact: /a, prefix: /b}}]}]",
            "http[0].match[0].uri: has both `exact` and `prefix`; give one of exact, prefix, regex",
        ),
        ("http: [{timeout: fast}]", "http[0].timeout: `fast` is not a duration"),
        (
            "http: [{route: [{weight: many}]}]",
            "http[0].route[0].weight: invalid value: string \"many\", expected a whole number",
        ),
        ("hosts: reviews", "hosts: invalid type: string \"reviews\", expected a sequence"),
    ] {
        let found = read::<VirtualService>(yaml).unwrap_err();
        assert!(found.starts_with(error), "{yaml}\n  found: {found}\n  expected: {error}");
    }
}

#[test]
fn numbers_are_lenient_and_bounded() {
    let policy: DestinationRule = read(
        "{host: a, trafficPolicy: {outlierDetection: {consecutive5xxErrors: '7', interval: 5s}, connectionPool: {tcp: {maxConnections: 10.0}}}}",
    )
    .unwrap();
    let policy = policy.traffic_policy.unwrap();
    assert_eq!(policy.outlier_detection.unwrap().consecutive_5xx_errors, Some(7));
    assert_eq!(policy.connection_pool.unwrap().tcp.unwrap().max_connections, 10);
    assert!(read::<ServiceEntry>("{ports: [{number: -1}]}").unwrap_err().starts_with("ports[0].number: "));
    assert!(read::<ServiceEntry>("{ports: [{number: 1.5}]}").unwrap_err().starts_with("ports[0].number: "));
}

#[test]
fn enumerations_have_istio_names() {
    let rule: DestinationRule =
        read("{host: a, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}, loadBalancer: {simple: LEAST_CONN}}}").unwrap();
    let policy = rule.traffic_policy.unwrap();
    assert_eq!(policy.tls.unwrap().mode, destination_rule::ClientTlsMode::IstioMutual);
    assert_eq!(policy.load_balancer.unwrap().simple, Some(destination_rule::SimpleLb::LeastConn));
    let error = read::<PeerAuthentication>("{mtls: {mode: MAYBE}}").unwrap_err();
    assert!(error.starts_with("mtls.mode: unknown variant `MAYBE`, expected one of `UNSET`, `DISABLE`"), "{error}");
    let gateway: Gateway = read("{servers: [{port: {number: 443, name: https, protocol: HTTPS}, hosts: ['*'], tls: {mode: OPTIONAL_MUTUAL, minProtocolVersion: TLSV1_3}}]}").unwrap();
    assert_eq!(gateway.servers[0].tls.as_ref().unwrap().min_protocol_version, gateway::TlsProtocol::V1_3);
}

#[test]
fn mesh_config_has_the_defaults_of_istio() {
    let mesh: MeshConfig = read("{accessLogFile: /dev/stdout, outboundTrafficPolicy: {mode: REGISTRY_ONLY}}").unwrap();
    assert_eq!(mesh.access_log_file, "/dev/stdout");
    assert_eq!(mesh.outbound_traffic_policy.mode, sidecar::OutboundMode::RegistryOnly);
    assert_eq!(
        (mesh.proxy_listen_port, mesh.root_namespace.as_str(), mesh.enable_auto_mtls),
        (15001, "istio-system", true)
    );
    assert_eq!(mesh.connect_timeout, Duration::from_secs(10));
}

#[test]
fn kinds_are_known_in_their_served_versions_only() {
    for version in ["v1", "v1beta1", "v1alpha3"] {
        assert!(kind_info(&format!("networking.istio.io/{version}"), "VirtualService").is_some());
    }
    assert!(kind_info("networking.istio.io/v1", "EnvoyFilter").is_none());
    assert!(kind_info("networking.istio.io/v1beta1", "ProxyConfig").is_some());
    assert!(kind_info("security.istio.io/v1alpha3", "PeerAuthentication").is_none());
}

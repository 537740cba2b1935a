//! Which settings of a DestinationRule hold for a port and subset (DR4), and what they are in a cluster (LB1, CP1–CP14, OD1–OD8, DR8).

use mesh_proto::crd::destination_rule::{
    ConnectionPoolSettings, ConsistentHashLb, H2UpgradePolicy, HttpSettings, LoadBalancerSettings, OutlierDetection,
    SimpleLb, TcpKeepalive, TrafficPolicy,
};
use mesh_proto::crd::{DestinationRule, MeshConfig};
use mesh_proto::xds::cluster::cluster::{
    CommonLbConfig, LbConfig, LbPolicy, LeastRequestLbConfig, MaglevLbConfig, RingHashLbConfig, RoundRobinLbConfig,
};
use mesh_proto::xds::cluster::{self, CircuitBreakers, Cluster, circuit_breakers};
use mesh_proto::xds::http_protocol_options::http_protocol_options as upstream;
use mesh_proto::xds::{common_matcher, core, envoy_type, http_protocol_options, matcher, pack, route};

use super::super::wire;
use crate::model::{Node, Protocol};

/// Key of the HTTP options in a cluster.
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
/// Limits that are not set do not limit (CP1, CP6, CP7, CP9).
const UNLIMITED: u32 = u32::MAX;

/// The policy of a port: of the rule, overridden block by block by the subset's, in each the port's own settings replacing the
/// four blocks that ports have, with nothing inherited.
pub fn effective(rule: Option<&DestinationRule>, subset: Option<&str>, port: u16) -> TrafficPolicy {
    let Some(rule) = rule else { return TrafficPolicy::default() };
    let base = over(TrafficPolicy::default(), rule.traffic_policy.as_ref(), port);
    let subset = subset.and_then(|name| rule.subsets.iter().find(|subset| subset.name == name));
    over(base, subset.and_then(|subset| subset.traffic_policy.as_ref()), port)
}

fn over(mut base: TrafficPolicy, policy: Option<&TrafficPolicy>, port: u16) -> TrafficPolicy {
    let Some(policy) = policy else { return base };
    fn replace<T: Clone>(base: &mut Option<T>, value: &Option<T>) {
        if value.is_some() {
            base.clone_from(value);
        }
    }
    replace(&mut base.load_balancer, &policy.load_balancer);
    replace(&mut base.connection_pool, &policy.connection_pool);
    replace(&mut base.outlier_detection, &policy.outlier_detection);
    replace(&mut base.tls, &policy.tls);
    replace(&mut base.tunnel, &policy.tunnel);
    replace(&mut base.proxy_protocol, &policy.proxy_protocol);
    replace(&mut base.retry_budget, &policy.retry_budget);
    let own = policy.port_level_settings.iter();
    let own = own.filter(|own| own.port.as_ref().is_some_and(|selector| selector.number == u32::from(port)));
    if let Some(own) = own.into_iter().next() {
        base.load_balancer.clone_from(&own.load_balancer);
        base.connection_pool.clone_from(&own.connection_pool);
        base.outlier_detection.clone_from(&own.outlier_detection);
        base.tls.clone_from(&own.tls);
    }
    base
}

/// What a cluster speaks to its endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// Opaque bytes.
    Tcp,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// What the client spoke.
    Downstream,
}

impl Speaks {
    /// By the port's protocol and the pool's wishes (CP11, CP12).
    pub fn of(protocol: Protocol, http: Option<&HttpSettings>, mesh: &MeshConfig) -> Self {
        let upgrade = match http.and_then(|http| http.h2_upgrade_policy) {
            None | Some(H2UpgradePolicy::Default) => mesh.h2_upgrade_policy == H2UpgradePolicy::Upgrade,
            Some(policy) => policy == H2UpgradePolicy::Upgrade,
        };
        let follow = http.is_some_and(|http| http.use_client_protocol);
        match protocol {
            protocol if protocol.is_http() && follow => Self::Downstream,
            protocol if protocol.is_http2() => Self::Http2,
            protocol if protocol.is_http() && upgrade => Self::Http2,
            protocol if protocol.is_http() => Self::Http1,
            Protocol::Unknown if upgrade && !follow => Self::Http2,
            Protocol::Unknown => Self::Downstream,
            _ => Self::Tcp,
        }
    }
}

/// Writes limits, timeouts and the protocol into a cluster.
pub fn connection_pool(cluster: &mut Cluster, policy: &TrafficPolicy, speaks: Speaks, mesh: &MeshConfig) {
    let default = ConnectionPoolSettings::default();
    let pool = policy.connection_pool.as_ref().unwrap_or(&default);
    let (tcp, http) = (pool.tcp.clone().unwrap_or_default(), pool.http.clone().unwrap_or_default());
    cluster.connect_timeout = Some(wire::duration(tcp.connect_timeout.unwrap_or(mesh.connect_timeout).0));
    let limit = |value: i32| wire::number(u32::try_from(value).ok().filter(|value| *value > 0).unwrap_or(UNLIMITED));
    let budget = policy.retry_budget.as_ref().map(|budget| circuit_breakers::thresholds::RetryBudget {
        budget_percent: Some(envoy_type::Percent { value: budget.percent.map_or(20.0, |percent| percent.value) }),
        min_retry_concurrency: wire::number(budget.min_retry_concurrency.unwrap_or(3)),
        budget_interval: budget.budget_interval.map(|interval| wire::duration(interval.0)),
    });
    cluster.circuit_breakers = Some(CircuitBreakers {
        thresholds: vec![circuit_breakers::Thresholds {
            max_connections: limit(tcp.max_connections),
            max_pending_requests: limit(http.http1_max_pending_requests),
            max_requests: limit(http.http2_max_requests),
            // A budget takes the place of the fixed number.
            max_retries: if budget.is_some() { None } else { limit(http.max_retries) },
            retry_budget: budget,
            track_remaining: true,
            ..Default::default()
        }],
        ..Default::default()
    });
    if let Some(keepalive) = tcp.tcp_keepalive.as_ref().or(mesh.tcp_keepalive.as_ref()) {
        cluster.upstream_connection_options = Some(cluster::UpstreamConnectionOptions {
            tcp_keepalive: Some(tcp_keepalive(keepalive)),
            ..Default::default()
        });
    }
    let common = core::HttpProtocolOptions {
        idle_timeout: http.idle_timeout.map(|timeout| wire::duration(timeout.0)),
        max_connection_duration: tcp.max_connection_duration.map(|limit| wire::duration(limit.0)),
        max_requests_per_connection: u32::try_from(http.max_requests_per_connection)
            .ok()
            .filter(|limit| *limit > 0)
            .and_then(wire::number),
        ..Default::default()
    };
    let errors = policy.outlier_detection.as_ref().map(|raw| raw.outlier_detection_http_error_codes.as_slice());
    http_options(cluster, speaks, common, &http, errors.unwrap_or_default());
}

/// Retries while a fifth of the requests under way are retries already would make an outage worse (BX10): our proxies keep to that unless the
/// rule says how many there may be. Ten at a time are always allowed. See docs/decisions/007.
pub fn default_retry_budget(cluster: &mut Cluster, policy: &TrafficPolicy) {
    let pool = policy.connection_pool.as_ref().and_then(|pool| pool.http.as_ref());
    if policy.retry_budget.is_some() || pool.is_some_and(|http| http.max_retries > 0) {
        return;
    }
    for thresholds in cluster.circuit_breakers.iter_mut().flat_map(|breakers| &mut breakers.thresholds) {
        thresholds.max_retries = None;
        thresholds.retry_budget = Some(circuit_breakers::thresholds::RetryBudget {
            budget_percent: Some(envoy_type::Percent { value: 20.0 }),
            min_retry_concurrency: wire::number(10),
            budget_interval: None,
        });
    }
}

/// `errors` are the statuses that outlier detection counts (OD8); all 5xx if none is named.
fn http_options(
    cluster: &mut Cluster,
    speaks: Speaks,
    common: core::HttpProtocolOptions,
    http: &HttpSettings,
    errors: &[u32],
) {
    let http2 = || core::Http2ProtocolOptions {
        max_concurrent_streams: u32::try_from(http.max_concurrent_streams)
            .ok()
            .filter(|limit| *limit > 0)
            .and_then(wire::number),
        connection_keepalive: http.http2_keep_alive.as_ref().map(|keepalive| core::KeepaliveSettings {
            interval: keepalive.interval.map(|interval| wire::duration(interval.0)),
            // Envoy requires a timeout; it is the interval unless given.
            timeout: keepalive.timeout.or(keepalive.interval).map(|timeout| wire::duration(timeout.0)),
            ..Default::default()
        }),
        ..Default::default()
    };
    let explicit = |config| {
        upstream::UpstreamProtocolOptions::ExplicitHttpConfig(upstream::ExplicitHttpConfig {
            protocol_config: Some(config),
        })
    };
    use upstream::explicit_http_config::ProtocolConfig;
    let options = match speaks {
        Speaks::Tcp => return,
        Speaks::Http1 => explicit(ProtocolConfig::HttpProtocolOptions(core::Http1ProtocolOptions::default())),
        Speaks::Http2 => explicit(ProtocolConfig::Http2ProtocolOptions(http2())),
        Speaks::Downstream => {
            upstream::UpstreamProtocolOptions::UseDownstreamProtocolConfig(upstream::UseDownstreamHttpConfig {
                http_protocol_options: Some(core::Http1ProtocolOptions::default()),
                http2_protocol_options: Some(http2()),
                ..Default::default()
            })
        }
    };
    let empty = common == core::HttpProtocolOptions::default();
    let message = http_protocol_options::HttpProtocolOptions {
        common_http_protocol_options: (!empty).then_some(common),
        upstream_protocol_options: Some(options),
        outlier_detection: (!errors.is_empty())
            .then(|| upstream::OutlierDetection { error_matcher: Some(any_status(errors)) }),
        ..Default::default()
    };
    cluster.typed_extension_protocol_options.insert(HTTP_OPTIONS.to_owned(), pack(&message));
}

/// Matches answers with one of these statuses.
fn any_status(statuses: &[u32]) -> common_matcher::MatchPredicate {
    use common_matcher::match_predicate::{MatchSet, Rule};
    let one = |status: &u32| {
        let matcher = matcher::StringMatcher {
            match_pattern: Some(matcher::string_matcher::MatchPattern::Exact(status.to_string())),
            ..Default::default()
        };
        let header = route::HeaderMatcher {
            name: ":status".to_owned(),
            header_match_specifier: Some(route::header_matcher::HeaderMatchSpecifier::StringMatch(matcher)),
            ..Default::default()
        };
        let headers = common_matcher::HttpHeadersMatch { headers: vec![header] };
        common_matcher::MatchPredicate { rule: Some(Rule::HttpResponseHeadersMatch(headers)) }
    };
    match statuses {
        [only] => one(only),
        several => {
            let set = MatchSet { rules: several.iter().map(one).collect() };
            common_matcher::MatchPredicate { rule: Some(Rule::OrMatch(set)) }
        }
    }
}

fn tcp_keepalive(raw: &TcpKeepalive) -> core::TcpKeepalive {
    let seconds = |value: Option<mesh_proto::crd::Duration>| {
        value.and_then(|value| wire::number(u32::try_from(value.0.as_secs()).unwrap_or(u32::MAX)))
    };
    core::TcpKeepalive {
        keepalive_probes: (raw.probes > 0).then(|| wire::number(raw.probes)).flatten(),
        keepalive_time: seconds(raw.time),
        keepalive_interval: seconds(raw.interval),
    }
}

/// Writes the algorithm (LB1–LB3). True if the client's own destination is kept (PASSTHROUGH). Affinity by hash and slow start are for
/// Envoy: validation refuses them for our own proxies, which would refuse the cluster.
pub fn load_balancer(cluster: &mut Cluster, policy: &TrafficPolicy, node: &Node) -> bool {
    let default = LoadBalancerSettings::default();
    let settings = policy.load_balancer.as_ref().unwrap_or(&default);
    if let Some(hash) = settings.consistent_hash.as_ref().filter(|_| !node.ferromesh) {
        consistent_hash(cluster, hash);
        return false;
    }
    let simple = settings.simple.unwrap_or_default();
    let algorithm = match simple {
        SimpleLb::Unspecified | SimpleLb::LeastConn | SimpleLb::LeastRequest => LbPolicy::LeastRequest,
        SimpleLb::Random => LbPolicy::Random,
        SimpleLb::RoundRobin => LbPolicy::RoundRobin,
        SimpleLb::Passthrough => LbPolicy::ClusterProvided,
    };
    cluster.lb_policy = algorithm.into();
    if let Some(slow_start) = slow_start(settings).filter(|_| !node.ferromesh) {
        let slow_start_config = Some(slow_start);
        cluster.lb_config = match algorithm {
            LbPolicy::LeastRequest => {
                Some(LbConfig::LeastRequestLbConfig(LeastRequestLbConfig { slow_start_config, ..Default::default() }))
            }
            LbPolicy::RoundRobin => Some(LbConfig::RoundRobinLbConfig(RoundRobinLbConfig { slow_start_config })),
            _ => None,
        };
    }
    simple == SimpleLb::Passthrough
}

fn consistent_hash(cluster: &mut Cluster, hash: &ConsistentHashLb) {
    let size = |value: u64, default: u64| {
        Some(mesh_proto::xds::wkt::UInt64Value { value: if value > 0 { value } else { default } })
    };
    if let Some(maglev) = &hash.maglev {
        cluster.lb_policy = LbPolicy::Maglev.into();
        cluster.lb_config =
            Some(LbConfig::MaglevLbConfig(MaglevLbConfig { table_size: size(maglev.table_size, 65_537) }));
        return;
    }
    let ring = hash.ring_hash.as_ref().map_or(hash.minimum_ring_size, |ring| ring.minimum_ring_size);
    cluster.lb_policy = LbPolicy::RingHash.into();
    cluster.lb_config = Some(LbConfig::RingHashLbConfig(RingHashLbConfig {
        minimum_ring_size: size(ring, 1024),
        ..Default::default()
    }));
}

fn slow_start(settings: &LoadBalancerSettings) -> Option<cluster::cluster::SlowStartConfig> {
    let warmup = settings.warmup.clone();
    let window = warmup.as_ref().and_then(|warmup| warmup.duration).or(settings.warmup_duration_secs)?;
    let percent = warmup.as_ref().and_then(|warmup| warmup.minimum_percent).unwrap_or(10.0);
    let aggression = warmup.as_ref().and_then(|warmup| warmup.aggression).unwrap_or(1.0);
    Some(cluster::cluster::SlowStartConfig {
        slow_start_window: Some(wire::duration(window.0)),
        min_weight_percent: Some(envoy_type::Percent { value: percent }),
        aggression: Some(core::RuntimeDouble { default_value: aggression, ..Default::default() }),
    })
}

/// Writes the ejection of failing hosts (OD1–OD8). Source: Istio's `applyOutlierDetection`.
pub fn outlier_detection(cluster: &mut Cluster, raw: Option<&OutlierDetection>) {
    let Some(raw) = raw else { return };
    let positive = |value: i32| u32::try_from(value).ok().filter(|value| *value > 0).and_then(wire::number);
    // A count of 0 switches a detector off.
    let enforcing = |count: u32| wire::number(if count > 0 { 100 } else { 0 });
    let mut detection = cluster::OutlierDetection {
        interval: raw.interval.map(|interval| wire::duration(interval.0)),
        base_ejection_time: raw.base_ejection_time.map(|time| wire::duration(time.0)),
        max_ejection_percent: positive(raw.max_ejection_percent),
        // Ejection by success rate is Envoy's default, not Istio's.
        enforcing_success_rate: wire::number(0),
        ..Default::default()
    };
    let legacy = u32::try_from(raw.consecutive_errors).ok().filter(|count| *count > 0);
    if let Some(count) = raw.consecutive_5xx_errors {
        detection.consecutive_5xx = wire::number(count);
        detection.enforcing_consecutive_5xx = enforcing(count);
    }
    if let Some(count) = raw.consecutive_gateway_errors.or(legacy) {
        detection.consecutive_gateway_failure = wire::number(count);
        detection.enforcing_consecutive_gateway_failure = enforcing(count);
    }
    if raw.split_external_local_origin_errors {
        detection.split_external_local_origin_errors = true;
        detection.enforcing_local_origin_success_rate = wire::number(0);
        if let Some(count) = raw.consecutive_local_origin_failures.filter(|count| *count > 0) {
            detection.consecutive_local_origin_failure = wire::number(count);
            detection.enforcing_consecutive_local_origin_failure = wire::number(100);
        }
    }
    cluster.outlier_detection = Some(detection);
    // Few pods stand behind a service: with Envoy's default of 50 a single ejection would bring all of them back.
    cluster.common_lb_config = Some(CommonLbConfig {
        healthy_panic_threshold: Some(envoy_type::Percent { value: f64::from(raw.min_health_percent.max(0)) }),
        ..Default::default()
    });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use mesh_proto::crd::destination_rule::ClientTlsMode;

    use super::*;

    #[test]
    fn ports_replace_and_subsets_override_block_by_block() {
        let rule: DestinationRule = yaml_serde::from_str(
            "
host: a
trafficPolicy:
  loadBalancer: {simple: RANDOM}
  tls: {mode: SIMPLE}
  outlierDetection: {}
  portLevelSettings: [{port: {number: 81}, loadBalancer: {simple: ROUND_ROBIN}}]
subsets:
- {name: plain}
- {name: own, trafficPolicy: {tls: {mode: DISABLE}, portLevelSettings: [{port: {number: 82}, outlierDetection: {}}]}}",
        )
        .unwrap();
        use ClientTlsMode::{Disable, Simple};
        let (random, robin) = (Some(SimpleLb::Random), Some(SimpleLb::RoundRobin));
        for (subset, port, balancer, tls, outlier) in [
            (None, 80, random, Some(Simple), true),
            (None, 81, robin, None, false),
            (Some("plain"), 80, random, Some(Simple), true),
            (Some("plain"), 81, robin, None, false),
            (Some("own"), 80, random, Some(Disable), true),
            (Some("own"), 81, robin, Some(Disable), false),
            (Some("own"), 82, None, None, true),
            (Some("missing"), 80, random, Some(Simple), true),
        ] {
            let policy = effective(Some(&rule), subset, port);
            let found = (
                policy.load_balancer.and_then(|balancer| balancer.simple),
                policy.tls.map(|tls| tls.mode),
                policy.outlier_detection.is_some(),
            );
            assert_eq!(found, (balancer, tls, outlier), "{subset:?} {port}");
        }
    }

    #[test]
    fn affinity_and_slow_start_are_for_envoy() {
        let mut node = crate::model::tests::node("default", "web", "10.0.0.1");
        let settings = "{consistentHash: {httpHeaderName: x, maglev: {}}}";
        let warm = "{simple: ROUND_ROBIN, warmup: {duration: 30s}}";
        for (settings, ferromesh, expected, config) in [
            (settings, false, LbPolicy::Maglev, true),
            (settings, true, LbPolicy::LeastRequest, false),
            ("{consistentHash: {useSourceIp: true}}", false, LbPolicy::RingHash, true),
            (warm, false, LbPolicy::RoundRobin, true),
            (warm, true, LbPolicy::RoundRobin, false),
            ("{simple: LEAST_CONN}", false, LbPolicy::LeastRequest, false),
        ] {
            node.ferromesh = ferromesh;
            let policy =
                TrafficPolicy { load_balancer: Some(yaml_serde::from_str(settings).unwrap()), ..Default::default() };
            let mut cluster = Cluster::default();
            assert!(!load_balancer(&mut cluster, &policy, &node));
            assert_eq!(
                (cluster.lb_policy(), cluster.lb_config.is_some()),
                (expected, config),
                "{settings} {ferromesh}"
            );
        }
    }

    #[test]
    fn clusters_speak_what_ports_and_pools_say() {
        let settings = |yaml: &str| yaml_serde::from_str::<HttpSettings>(yaml).unwrap();
        let upgrade = MeshConfig { h2_upgrade_policy: H2UpgradePolicy::Upgrade, ..Default::default() };
        for (protocol, http, mesh, expected) in [
            (Protocol::Http, "{}", MeshConfig::default(), Speaks::Http1),
            (Protocol::Grpc, "{}", MeshConfig::default(), Speaks::Http2),
            (Protocol::Unknown, "{}", MeshConfig::default(), Speaks::Downstream),
            (Protocol::Tcp, "{h2UpgradePolicy: UPGRADE}", MeshConfig::default(), Speaks::Tcp),
            (Protocol::Http, "{h2UpgradePolicy: UPGRADE}", MeshConfig::default(), Speaks::Http2),
            (Protocol::Http, "{}", upgrade.clone(), Speaks::Http2),
            (Protocol::Http, "{h2UpgradePolicy: DO_NOT_UPGRADE}", upgrade, Speaks::Http1),
            (Protocol::Http, "{useClientProtocol: true}", MeshConfig::default(), Speaks::Downstream),
        ] {
            assert_eq!(Speaks::of(protocol, Some(&settings(http)), &mesh), expected, "{protocol:?} {http}");
        }
    }
}

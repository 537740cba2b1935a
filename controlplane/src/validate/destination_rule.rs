//! DestinationRule (DR, LB, CP, OD, TL).

use mesh_proto::crd::destination_rule::{
    ClientTlsMode, ClientTlsSettings, ConnectionPoolSettings, DestinationRule, H2UpgradePolicy, LoadBalancerSettings,
    OutlierDetection, RetryBudget, SimpleLb, TcpKeepalive, TrafficPolicy,
};

use super::check::{At, Check};
use super::finding::code;

/// Checks a DestinationRule.
pub(super) fn check(check: &mut Check<'_>, spec: &DestinationRule) {
    check.host(&At::top("host"), &spec.host, true);
    check.export_to(&spec.export_to, false);
    if let Some(selector) = &spec.workload_selector {
        let at = At::top("workloadSelector");
        check.labels(&at.field("matchLabels"), &selector.match_labels);
    }
    if let Some(policy) = &spec.traffic_policy {
        traffic_policy(check, &At::top("trafficPolicy"), policy);
    }
    for (index, subset) in spec.subsets.iter().enumerate() {
        let at = At::top("subsets").index(index);
        check.dns_label(&at.field("name"), &subset.name);
        if !subset.name.is_empty() && spec.subsets[..index].iter().any(|other| other.name == subset.name) {
            check
                .error(&at.field("name"), format!("`{}` is given twice; subsets have names of their own", subset.name));
        }
        check.labels(&at.field("labels"), &subset.labels);
        if let Some(policy) = &subset.traffic_policy {
            traffic_policy(check, &at.field("trafficPolicy"), policy);
        }
    }
}

fn traffic_policy(check: &mut Check<'_>, at: &At, policy: &TrafficPolicy) {
    blocks(check, at, &policy.load_balancer, &policy.connection_pool, &policy.outlier_detection, &policy.tls);
    let mut ports = Vec::new();
    for (index, settings) in policy.port_level_settings.iter().enumerate() {
        let at = at.field("portLevelSettings").index(index);
        match &settings.port {
            None => check.error(&at, "names no port; give port.number"),
            Some(port) => {
                let at = at.field("port").field("number");
                check.port(&at, port.number);
                if ports.contains(&port.number) {
                    check.error(&at, format!("{} is given twice; merge the settings", port.number));
                }
                ports.push(port.number);
            }
        }
        blocks(
            check,
            &at,
            &settings.load_balancer,
            &settings.connection_pool,
            &settings.outlier_detection,
            &settings.tls,
        );
    }
    check.unsupported(policy.tunnel.is_some(), &at.field("tunnel"), "");
    check.unsupported(policy.proxy_protocol.is_some(), &at.field("proxyProtocol"), "");
    if let Some(budget) = &policy.retry_budget {
        retry_budget(check, &at.field("retryBudget"), budget);
    }
}

/// What a policy has for all ports and for one.
fn blocks(
    check: &mut Check<'_>,
    at: &At,
    balancer: &Option<LoadBalancerSettings>,
    pool: &Option<ConnectionPoolSettings>,
    outliers: &Option<OutlierDetection>,
    tls: &Option<ClientTlsSettings>,
) {
    if let Some(balancer) = balancer {
        load_balancer(check, &at.field("loadBalancer"), balancer);
    }
    if let Some(pool) = pool {
        connection_pool(check, &at.field("connectionPool"), pool);
    }
    if let Some(outliers) = outliers {
        outlier_detection(check, &at.field("outlierDetection"), outliers);
    }
    if let Some(tls) = tls {
        client_tls(check, &at.field("tls"), tls);
    }
}

fn load_balancer(check: &mut Check<'_>, at: &At, balancer: &LoadBalancerSettings) {
    if balancer.simple.is_some() && balancer.consistent_hash.is_some() {
        check.error(at, "has both simple and consistentHash; give one");
    }
    if balancer.simple == Some(SimpleLb::LeastConn) {
        check.warning_of(code::DEPRECATED, &at.field("simple"), "LEAST_CONN is an old name; write LEAST_REQUEST");
    }
    let hash = balancer.consistent_hash.is_some();
    check.unsupported(hash, &at.field("consistentHash"), " or use simple: LEAST_REQUEST, which keeps no affinity");
    check.unsupported(balancer.warmup.is_some(), &at.field("warmup"), "");
    check.unsupported(balancer.warmup_duration_secs.is_some(), &at.field("warmupDurationSecs"), "");
    check.unsupported(balancer.locality_lb_setting.is_some(), &at.field("localityLbSetting"), "");
    check.unsupported(balancer.zone_aware_lb_setting.is_some(), &at.field("zoneAwareLbSetting"), "");
}

/// Limits and timeouts of connections (CP).
pub(super) fn connection_pool(check: &mut Check<'_>, at: &At, pool: &ConnectionPoolSettings) {
    if pool.tcp.is_none() && pool.http.is_none() {
        check.error(at, "is empty; give tcp or http");
    }
    if let Some(tcp) = &pool.tcp {
        let at = at.field("tcp");
        check.not_negative(&at.field("maxConnections"), tcp.max_connections);
        check.duration(&at.field("connectTimeout"), tcp.connect_timeout, false);
        check.duration(&at.field("maxConnectionDuration"), tcp.max_connection_duration, false);
        check.duration(&at.field("idleTimeout"), tcp.idle_timeout, true);
        if let Some(keepalive) = &tcp.tcp_keepalive {
            tcp_keepalive(check, &at.field("tcpKeepalive"), keepalive);
        }
    }
    if let Some(http) = &pool.http {
        let at = at.field("http");
        for (name, number) in [
            ("http1MaxPendingRequests", http.http1_max_pending_requests),
            ("http2MaxRequests", http.http2_max_requests),
            ("maxRequestsPerConnection", http.max_requests_per_connection),
            ("maxRetries", http.max_retries),
            ("maxConcurrentStreams", http.max_concurrent_streams),
        ] {
            check.not_negative(&at.field(name), number);
        }
        check.duration(&at.field("idleTimeout"), http.idle_timeout, true);
        if http.use_client_protocol && http.h2_upgrade_policy == Some(H2UpgradePolicy::Upgrade) {
            check.error(
                &at.field("useClientProtocol"),
                "speaks what the client spoke, and h2UpgradePolicy: UPGRADE speaks HTTP/2; give one",
            );
        }
        if let Some(keepalive) = &http.http2_keep_alive {
            let at = at.field("http2KeepAlive");
            if keepalive.interval.is_none() {
                check.error(&at.field("interval"), "is missing, so nothing would be sent; give the time between pings");
            }
            check.duration(&at.field("interval"), keepalive.interval, false);
            check.duration(&at.field("timeout"), keepalive.timeout, false);
        }
    }
}

/// Keep-alive probes of TCP; the system counts in whole seconds.
pub(super) fn tcp_keepalive(check: &mut Check<'_>, at: &At, keepalive: &TcpKeepalive) {
    for (name, duration) in [("time", keepalive.time), ("interval", keepalive.interval)] {
        if let Some(duration) = duration
            && duration.0.as_secs() == 0
        {
            check.error(&at.field(name), format!("{duration} is too short; the least is 1s"));
        }
    }
}

fn outlier_detection(check: &mut Check<'_>, at: &At, outliers: &OutlierDetection) {
    if outliers.consecutive_errors != 0 {
        check.error(
            &at.field("consecutiveErrors"),
            "was removed from Istio; use consecutive5xxErrors or consecutiveGatewayErrors",
        );
    }
    if outliers.consecutive_local_origin_failures.is_some_and(|failures| failures > 0)
        && !outliers.split_external_local_origin_errors
    {
        check.error(
            &at.field("consecutiveLocalOriginFailures"),
            "has no effect while errors are not told apart; set splitExternalLocalOriginErrors: true",
        );
    }
    check.duration(&at.field("interval"), outliers.interval, false);
    check.duration(&at.field("baseEjectionTime"), outliers.base_ejection_time, false);
    check.percent(&at.field("maxEjectionPercent"), f64::from(outliers.max_ejection_percent));
    check.percent(&at.field("minHealthPercent"), f64::from(outliers.min_health_percent));
    for (index, status) in outliers.outlier_detection_http_error_codes.iter().enumerate() {
        if !(100..=599).contains(status) {
            let at = at.field("outlierDetectionHttpErrorCodes").index(index);
            check.error(&at, format!("{status} is not a status of HTTP; use 100 to 599"));
        }
    }
}

fn client_tls(check: &mut Check<'_>, at: &At, tls: &ClientTlsSettings) {
    let files = " and give clientCertificate, privateKey and caCertificates as files of the proxy";
    check.unsupported(!tls.credential_name.is_empty(), &at.field("credentialName"), files);
    check.unsupported(!tls.ca_crl.is_empty(), &at.field("caCrl"), "");
    let own = [("clientCertificate", &tls.client_certificate), ("privateKey", &tls.private_key)];
    match tls.mode {
        ClientTlsMode::Mutual if tls.credential_name.is_empty() => {
            for (name, file) in own {
                if file.is_empty() {
                    check.error(&at.field(name), "is missing; mode MUTUAL needs the path of a file in the proxy");
                }
            }
        }
        ClientTlsMode::IstioMutual => {
            for (name, file) in own.into_iter().chain([("caCertificates", &tls.ca_certificates)]) {
                if !file.is_empty() {
                    check.error(
                        &at.field(name),
                        "has no place in mode ISTIO_MUTUAL, which uses the workload's mesh certificate; remove it",
                    );
                }
            }
        }
        ClientTlsMode::Disable | ClientTlsMode::Simple => {
            for (name, file) in own {
                if !file.is_empty() {
                    check.error(&at.field(name), "is not sent in this mode; use mode MUTUAL");
                }
            }
        }
        ClientTlsMode::Mutual => {}
    }
    if tls.mode == ClientTlsMode::Disable {
        for (name, set) in [
            ("caCertificates", !tls.ca_certificates.is_empty()),
            ("subjectAltNames", !tls.subject_alt_names.is_empty()),
            ("sni", !tls.sni.is_empty()),
        ] {
            if set {
                check.error(&at.field(name), "has no effect without TLS; use mode SIMPLE or MUTUAL");
            }
        }
    }
    if tls.insecure_skip_verify == Some(true) {
        for (name, set) in [
            ("caCertificates", !tls.ca_certificates.is_empty()),
            ("subjectAltNames", !tls.subject_alt_names.is_empty()),
        ] {
            if set {
                check.error(&at.field(name), "is not looked at when insecureSkipVerify is true; remove one of them");
            }
        }
    }
    for (index, name) in tls.subject_alt_names.iter().enumerate() {
        if name.is_empty() {
            check.error(&at.field("subjectAltNames").index(index), "is empty; give a name");
        }
    }
}

fn retry_budget(check: &mut Check<'_>, at: &At, budget: &RetryBudget) {
    if let Some(percent) = budget.percent {
        check.percent(&at.field("percent"), percent.value);
    }
    check.duration(&at.field("budgetInterval"), budget.budget_interval, true);
}

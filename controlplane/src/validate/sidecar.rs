//! Sidecar (SC).

use std::net::IpAddr;

use mesh_proto::crd::Port;
use mesh_proto::crd::destination_rule::ConnectionPoolSettings;
use mesh_proto::crd::sidecar::{CaptureMode, IstioEgressListener, IstioIngressListener, OutboundMode, Sidecar};

use super::check::{At, Check, is_dns_label};
use super::destination_rule::connection_pool;
use super::service_entry::protocol;

/// Checks a Sidecar.
pub(super) fn check(check: &mut Check<'_>, spec: &Sidecar) {
    if let Some(selector) = &spec.workload_selector {
        check.labels(&At::top("workloadSelector").field("labels"), &selector.labels);
    }
    for (index, listener) in spec.ingress.iter().enumerate() {
        let at = At::top("ingress").index(index);
        ingress(check, &at, listener);
        if spec.ingress[..index].iter().any(|other| other.port.number == listener.port.number) {
            check.error(
                &at.field("port").field("number"),
                format!("{} is given twice; remove one", listener.port.number),
            );
        }
    }
    for (index, listener) in spec.egress.iter().enumerate() {
        let at = At::top("egress").index(index);
        egress(check, &at, listener);
        match &listener.port {
            None if index + 1 < spec.egress.len() => {
                check.error(&at, "has no port, so it takes every port that no other listener has; move it to the end, and have one such");
            }
            Some(port)
                if spec.egress[..index].iter().any(|other| {
                    other.bind == listener.bind && other.port.as_ref().is_some_and(|other| other.number == port.number)
                }) =>
            {
                check.error(
                    &at.field("port").field("number"),
                    format!("{} is given twice; merge the hosts", port.number),
                );
            }
            _ => {}
        }
    }
    if let Some(pool) = &spec.inbound_connection_pool {
        inbound_pool(check, &At::top("inboundConnectionPool"), pool);
    }
    if let Some(policy) = &spec.outbound_traffic_policy {
        let at = At::top("outboundTrafficPolicy");
        let proxy = " and route to the gateway by a VirtualService";
        check.unsupported(policy.egress_proxy.is_some(), &at.field("egressProxy"), proxy);
        if policy.mode == OutboundMode::AllowAnyDynamicDns {
            check.error(&at.field("mode"), "ALLOW_ANY_DYNAMIC_DNS is not supported yet; use ALLOW_ANY");
        }
    }
}

fn ingress(check: &mut Check<'_>, at: &At, listener: &IstioIngressListener) {
    port(check, &at.field("port"), &listener.port);
    bind(check, &at.field("bind"), &listener.bind);
    let endpoint = &listener.default_endpoint;
    let field = at.field("defaultEndpoint");
    if endpoint.starts_with("unix:") || endpoint.starts_with('/') {
        check.unix_socket(&field, endpoint);
    } else if !endpoint.is_empty() {
        let local = ["127.0.0.1:", "0.0.0.0:", "[::1]:", "[::]:"]
            .iter()
            .find_map(|prefix| endpoint.strip_prefix(prefix))
            .is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
        if !local {
            check.error(
                &field,
                format!("`{endpoint}` is not an endpoint of the workload; write 127.0.0.1:PORT or 0.0.0.0:PORT"),
            );
        }
    }
    check.unsupported(listener.tls.is_some(), &at.field("tls"), " and use mesh mTLS, or end TLS in the application");
    if let Some(pool) = &listener.connection_pool {
        inbound_pool(check, &at.field("connectionPool"), pool);
    }
}

/// Limits on the way to the application, which is spoken to as its port's protocol says.
fn inbound_pool(check: &mut Check<'_>, at: &At, pool: &ConnectionPoolSettings) {
    connection_pool(check, at, pool);
    let Some(http) = &pool.http else { return };
    let at = at.field("http");
    for (name, set) in
        [("h2UpgradePolicy", http.h2_upgrade_policy.is_some()), ("useClientProtocol", http.use_client_protocol)]
    {
        if set {
            check.warning(&at.field(name), "has no effect here: the application is spoken to as the protocol of its port says; name that, by the port's name or appProtocol");
        }
    }
}

fn egress(check: &mut Check<'_>, at: &At, listener: &IstioEgressListener) {
    match &listener.port {
        Some(value) => port(check, &at.field("port"), value),
        None => {
            for (name, set) in
                [("bind", !listener.bind.is_empty()), ("captureMode", listener.capture_mode != CaptureMode::Default)]
            {
                if set {
                    check.error(&at.field(name), "needs a port to be bound; give port");
                }
            }
        }
    }
    bind(check, &at.field("bind"), &listener.bind);
    if listener.hosts.is_empty() {
        check.error(&at.field("hosts"), "is empty; name what may be reached, such as `./*`, or `~/*` for nothing");
    }
    for (index, host) in listener.hosts.iter().enumerate() {
        egress_host(check, &at.field("hosts").index(index), host);
    }
}

/// `namespace/host`; the namespace may be `*`, `.`, or `~` for none; `~namespace/host` takes out what others let in.
fn egress_host(check: &mut Check<'_>, at: &At, host: &str) {
    let Some((namespace, name)) = host.split_once('/') else {
        return check.error(at, format!("`{host}` names no namespace; write `namespace/host`, `./host` or `*/host`"));
    };
    match namespace.strip_prefix('~').filter(|rest| !rest.is_empty()).unwrap_or(namespace) {
        "~" if name != "*" => {
            check.error(at, format!("`{host}`: only `~/*` (nothing) can follow `~`; write that, or a namespace"))
        }
        "*" | "." | "~" => {}
        namespace if is_dns_label(namespace) => {}
        _ => check.error(at, format!("`{namespace}` is not a namespace; write `namespace/host`, `./host` or `*/host`")),
    }
    check.host(at, name, true);
}

fn port(check: &mut Check<'_>, at: &At, port: &Port) {
    check.port(&at.field("number"), port.number);
    if !port.protocol.eq_ignore_ascii_case("HTTP_PROXY") {
        protocol(check, &at.field("protocol"), &port.protocol);
    }
    if port.target_port.is_some() {
        check.error(&at.field("targetPort"), "has no effect in a Sidecar; use defaultEndpoint");
    }
}

fn bind(check: &mut Check<'_>, at: &At, bind: &str) {
    if bind.starts_with("unix:") || bind.starts_with('@') {
        check.error(at, "Unix sockets are not supported yet; give an IP address");
    } else if !bind.is_empty() && bind.parse::<IpAddr>().is_err() {
        check.error(at, format!("`{bind}` is not an IP address"));
    }
}

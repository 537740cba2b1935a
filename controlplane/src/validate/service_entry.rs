//! ServiceEntry and WorkloadEntry (SE, WE).

use std::net::IpAddr;

use mesh_proto::crd::Port;
use mesh_proto::crd::service_entry::{Resolution, ServiceEntry, WorkloadEntry};

use super::check::{At, Check, host_problem};
use super::metadata::ONE_NETWORK;

/// Protocols of ports of ServiceEntries and Sidecars (G9).
const PROTOCOLS: &[&str] =
    &["HTTP", "HTTPS", "GRPC", "GRPC-WEB", "HTTP2", "MONGO", "TCP", "TLS", "UDP", "REDIS", "MYSQL"];

/// The most addresses of a ServiceEntry (SE1).
const MOST_ADDRESSES: usize = 64;

/// Checks a ServiceEntry.
pub(super) fn check(check: &mut Check<'_>, spec: &ServiceEntry) {
    hosts(check, spec);
    if spec.addresses.len() > MOST_ADDRESSES {
        check.error(
            &At::top("addresses"),
            format!("has {} addresses; the most is {MOST_ADDRESSES}", spec.addresses.len()),
        );
    }
    for (index, address) in spec.addresses.iter().enumerate() {
        check.address_range(&At::top("addresses").index(index), address);
    }
    if spec.ports.is_empty() {
        check.error(&At::top("ports"), "is empty; a service needs a port");
    }
    ports(check, &At::top("ports"), &spec.ports);
    check.export_to(&spec.export_to, true);
    if let Some(selector) = &spec.workload_selector {
        let at = At::top("workloadSelector");
        check.labels(&at.field("labels"), &selector.labels);
        if selector.labels.is_empty() {
            check.error(&at.field("labels"), "is empty and would select nothing; give labels");
        }
        if !spec.endpoints.is_empty() {
            check.error(&at, "stands beside endpoints; give one of them");
        }
    }
    for (index, name) in spec.subject_alt_names.iter().enumerate() {
        if name.is_empty() {
            check.error(&At::top("subjectAltNames").index(index), "is empty; give a name");
        }
    }
    resolution(check, spec);
}

fn hosts(check: &mut Check<'_>, spec: &ServiceEntry) {
    if spec.hosts.is_empty() {
        check.error(&At::top("hosts"), "is empty; name the hosts of the service");
    }
    for (index, host) in spec.hosts.iter().enumerate() {
        let at = At::top("hosts").index(index);
        if host == "*" {
            check.error(&at, "`*` would be every host; name hosts, or a domain such as `*.example.com`");
        } else {
            check.host(&at, host, true);
        }
        if spec.hosts[..index].contains(host) {
            check.error(&at, format!("`{host}` is given twice; remove one"));
        }
    }
}

/// Whether endpoints fit how they are found (SE2, SE3).
fn resolution(check: &mut Check<'_>, spec: &ServiceEntry) {
    let at = At::top("resolution");
    let wildcard = spec.hosts.iter().find(|host| host.contains('*'));
    let selects = spec.workload_selector.is_some();
    match spec.resolution {
        Resolution::DynamicDns => {
            check.error(
                &at,
                "DYNAMIC_DNS is not supported yet; use NONE, which keeps the address that the client resolved",
            );
        }
        Resolution::None if !spec.endpoints.is_empty() || selects => {
            check.error(
                &at,
                "NONE goes where the client went, so endpoints have no effect; remove them, or use STATIC or DNS",
            );
        }
        Resolution::Dns | Resolution::DnsRoundRobin => {
            if let (Some(host), true) = (wildcard, spec.endpoints.is_empty() && !selects) {
                check.error(&at, format!("`{host}` cannot be resolved by DNS; give endpoints, or use NONE"));
            }
            if spec.resolution == Resolution::DnsRoundRobin && spec.endpoints.len() > 1 {
                check.error(&At::top("endpoints"), "DNS_ROUND_ROBIN takes one endpoint; use DNS, or remove the others");
            }
        }
        Resolution::None | Resolution::Static => {}
    }
    let names: Vec<&str> = spec.ports.iter().map(|port| port.name.as_str()).collect();
    let dns = matches!(spec.resolution, Resolution::Dns | Resolution::DnsRoundRobin);
    for (index, endpoint) in spec.endpoints.iter().enumerate() {
        let at = At::top("endpoints").index(index);
        workload_entry(check, &at, endpoint, dns);
        if dns && endpoint.address.starts_with("unix:") {
            check.error(&at.field("address"), "is a Unix socket, which DNS does not find; use resolution STATIC");
        }
        for name in endpoint.ports.keys() {
            if !names.contains(&name.as_str()) {
                let message = format!("the service has no port named `{name}`; its ports are {}", names.join(", "));
                check.error(&at.field("ports").key(name), message);
            }
        }
    }
}

/// Ports of a ServiceEntry.
fn ports(check: &mut Check<'_>, at: &At, ports: &[Port]) {
    for (index, port) in ports.iter().enumerate() {
        let at = at.index(index);
        check.port(&at.field("number"), port.number);
        check.dns_label(&at.field("name"), &port.name);
        protocol(check, &at.field("protocol"), &port.protocol);
        if let Some(target) = port.target_port {
            check.port(&at.field("targetPort"), target);
        }
        for other in &ports[..index] {
            if other.number == port.number {
                check.error(
                    &at.field("number"),
                    format!("{} is given twice; ports have numbers of their own", port.number),
                );
            }
            if other.name == port.name {
                check
                    .error(&at.field("name"), format!("`{}` is given twice; ports have names of their own", port.name));
            }
        }
    }
}

/// The protocol of a port; empty is found out by looking at the first bytes.
pub(super) fn protocol(check: &mut Check<'_>, at: &At, protocol: &str) {
    if !protocol.is_empty() && !PROTOCOLS.contains(&protocol.to_ascii_uppercase().as_str()) {
        check.error(at, format!("`{protocol}` is not a protocol; use one of {}", PROTOCOLS.join(", ")));
    }
}

/// Checks a WorkloadEntry.
pub(super) fn check_workload_entry(check: &mut Check<'_>, spec: &WorkloadEntry) {
    workload_entry(check, &At::default(), spec, true);
}

fn workload_entry(check: &mut Check<'_>, at: &At, entry: &WorkloadEntry, dns: bool) {
    let address = at.field("address");
    if entry.address.starts_with("unix:") || entry.address.starts_with('/') {
        check.unix_socket(&address, &entry.address);
        if !entry.ports.is_empty() {
            check.error(&at.field("ports"), "have no place in a Unix socket; remove them");
        }
    } else if entry.address.is_empty() {
        // Istio allows it for a workload of another network, reached by that network's gateway (MU2), which the mesh does not have.
        check.error(&address, "is missing; give an IP address or a DNS name");
    } else if entry.address.parse::<IpAddr>().is_err() {
        if !dns {
            check.error(&address, format!("`{}` is not an IP address; give one, or use resolution DNS", entry.address));
        } else if host_problem(&entry.address, false).is_some() {
            check.error(&address, format!("`{}` is neither an IP address nor a DNS name", entry.address));
        }
    }
    workload(check, at, entry);
}

/// What an entry says but where it is, and a group's template for each of its entries.
pub(super) fn workload(check: &mut Check<'_>, at: &At, entry: &WorkloadEntry) {
    for (name, port) in &entry.ports {
        let at = at.field("ports").key(name);
        check.dns_label(&at, name);
        check.port(&at, *port);
    }
    check.labels(&at.field("labels"), &entry.labels);
    if !entry.network.is_empty() {
        check.warning(&at.field("network"), ONE_NETWORK);
    }
    if entry.locality.split('/').count() > 3 || entry.locality.starts_with('/') {
        check
            .error(&at.field("locality"), format!("`{}` is not a locality; write region/zone/subzone", entry.locality));
    }
}

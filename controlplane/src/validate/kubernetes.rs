//! What the mesh needs to be right in Kubernetes' own objects. An API server has checked them; files have not been checked by anyone.

use std::net::IpAddr;

use mesh_proto::kube::{EndpointSlice, Service, ServiceSpec};

use super::check::{At, Check};
use crate::model::kubernetes::prefers_near;

/// Of a distribution that is none of the mesh's.
pub(super) const DISTRIBUTION: &str = "has no effect: use PreferClose or PreferSameZone, which mean the same here";

/// Checks a Service.
pub(super) fn check_service(check: &mut Check<'_>, service: &Service) {
    let Some(spec) = &service.spec else {
        return check.error(&At::top("spec"), "is missing; give spec.ports");
    };
    let at = At::top("spec");
    let ports = spec.ports.as_deref().unwrap_or_default();
    if spec.type_.as_deref() == Some("ExternalName") {
        let name = spec.external_name.as_deref().unwrap_or_default();
        check.host(&at.field("externalName"), name, false);
    } else if ports.is_empty() && spec.cluster_ip.as_deref() != Some("None") {
        check.error(&at.field("ports"), "is empty; a Service needs a port");
    }
    for (index, port) in ports.iter().enumerate() {
        let at = at.field("ports").index(index);
        check.port(&at.field("port"), u32::try_from(port.port).unwrap_or(0));
        let name = port.name.as_deref().unwrap_or_default();
        if name.is_empty() && ports.len() > 1 {
            check.error(&at.field("name"), "is missing; with several ports each needs a name");
        }
        for other in &ports[..index] {
            if !name.is_empty() && other.name == port.name {
                check.error(&at.field("name"), format!("`{name}` is given twice; ports have names of their own"));
            }
            if other.port == port.port && other.protocol == port.protocol {
                check
                    .error(&at.field("port"), format!("{} is given twice; ports have numbers of their own", port.port));
            }
        }
    }
    without_effect(check, &at, spec);
    for (index, address) in spec.cluster_ips.iter().flatten().enumerate() {
        if address != "None" && !address.is_empty() {
            ip(check, &at.field("clusterIPs").index(index), address);
        }
    }
    match spec.cluster_ip.as_deref() {
        None | Some("" | "None") => {}
        Some(address) => ip(check, &at.field("clusterIP"), address),
    }
}

/// What says where connections go and is not looked at; an API server fills in the defaults, which say nothing.
fn without_effect(check: &mut Check<'_>, at: &At, spec: &ServiceSpec) {
    let distribution = spec.traffic_distribution.as_deref();
    if distribution.is_some_and(|word| !prefers_near(word)) {
        check.warning(&at.field("trafficDistribution"), DISTRIBUTION);
    }
    let affinity = "has no effect on connections that a proxy makes; remove it";
    if spec.session_affinity.as_deref().is_some_and(|value| value != "None") {
        check.warning(&at.field("sessionAffinity"), affinity);
    }
}

/// Checks an EndpointSlice.
pub(super) fn check_endpoint_slice(check: &mut Check<'_>, slice: &EndpointSlice) {
    if slice.address_type != "IPv4" && slice.address_type != "IPv6" {
        let message = format!("{} is not supported yet; use IPv4 or IPv6", slice.address_type);
        return check.error(&At::top("addressType"), message);
    }
    for (index, endpoint) in slice.endpoints.iter().flatten().enumerate() {
        let at = At::top("endpoints").index(index).field("addresses");
        if endpoint.addresses.is_empty() {
            check.error(&at, "is empty; give an address");
        }
        for (index, address) in endpoint.addresses.iter().enumerate() {
            let at = at.index(index);
            ip(check, &at, address);
            let six = address.parse::<IpAddr>().is_ok_and(|address| address.is_ipv6());
            if address.parse::<IpAddr>().is_ok() && six != (slice.address_type == "IPv6") {
                check.error(
                    &at,
                    format!("`{address}` is not of addressType {}; put it into a slice of its own", slice.address_type),
                );
            }
        }
    }
    for (index, port) in slice.ports.iter().flatten().enumerate() {
        if let Some(number) = port.port {
            check.port(&At::top("ports").index(index).field("port"), u32::try_from(number).unwrap_or(0));
        }
    }
}

fn ip(check: &mut Check<'_>, at: &At, address: &str) {
    if address.parse::<IpAddr>().is_err() {
        check.error(at, format!("`{address}` is not an IP address"));
    }
}

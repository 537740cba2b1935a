//! WorkloadGroup (WG1): the template of the WorkloadEntries that proxies register.

use mesh_proto::crd::service_entry::{ReadinessProbe, WorkloadGroup};

use super::check::{At, Check};
use super::service_entry::workload;

pub(super) fn check(check: &mut Check<'_>, spec: &WorkloadGroup) {
    let at = At::top("template");
    match &spec.template {
        None => check.error(&at, "is missing; give the entries' ports, labels or serviceAccount"),
        Some(template) => {
            if !template.address.is_empty() {
                check.warning(&at.field("address"), "has no effect: each workload has its own; remove it");
            }
            workload(check, &at, template);
        }
    }
    if let Some(metadata) = &spec.metadata {
        check.labels(&At::top("metadata").field("labels"), &metadata.labels);
    }
    if let Some(given) = &spec.probe {
        probe(check, &At::top("probe"), given);
    }
}

fn probe(check: &mut Check<'_>, at: &At, probe: &ReadinessProbe) {
    let ports = [
        ("httpGet", probe.http_get.as_ref().map(|one| Some(one.port))),
        ("tcpSocket", probe.tcp_socket.as_ref().map(|one| Some(one.port))),
        ("exec", probe.exec.as_ref().map(|_| None)),
        ("grpc", probe.grpc.as_ref().map(|one| Some(one.port))),
    ];
    let given = ports.iter().filter_map(|(name, port)| Some((*name, (*port)?)));
    if given.clone().count() != 1 {
        check.error(at, "must have exactly one of httpGet, tcpSocket, exec and grpc");
    }
    for (name, port) in given {
        if let Some(port) = port {
            check.port(&at.field(name).field("port"), port);
        }
    }
    let advice =
        "has no effect yet: the proxy does not probe; an agent that does gives a readinessProbe in its PROXY_CONFIG";
    check.warning(at, advice);
}

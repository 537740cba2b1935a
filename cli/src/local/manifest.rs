//! Describes workloads to the control plane in Istio's own objects, as a user would write them by hand.
//!
//! A workload is a `WorkloadEntry` (which services select by its labels) and a `Sidecar` whose listeners bind their own
//! ports, since nothing is captured by the kernel. The ingress gateway is a `WorkloadEntry` and a `Service` that leads the ports that
//! `Gateway`s name to the ports that are really open.

use anyhow::Result;
use serde_json::{Value, json};

use super::plan::{GATEWAY_ACCOUNT, GATEWAY_NAME, Ingress, Workload};

/// Annotation that marks objects written here; users' own never carry it.
const GENERATED: &str = "local.ferromesh.io/generated";

/// The YAML of a workload.
pub fn workload(workload: &Workload) -> Result<String> {
    let metadata = json!({
        "name": workload.name,
        "namespace": workload.namespace,
        "annotations": {GENERATED: "true"},
    });
    let ports: serde_json::Map<String, Value> =
        workload.ports.iter().map(|port| (port.name.clone(), json!(port.inbound))).collect();
    let mut entry_metadata = metadata.clone();
    entry_metadata["labels"] = json!(workload.labels);
    let entry = json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "WorkloadEntry",
        "metadata": entry_metadata,
        "spec": {
            "address": workload.address,
            "labels": workload.labels,
            "ports": ports,
            "serviceAccount": workload.service_account,
        },
    });
    let ingress: Vec<Value> = workload
        .ports
        .iter()
        .map(|port| {
            json!({
                "port": {"number": port.inbound, "protocol": port.protocol, "name": port.name},
                "bind": workload.address,
                "captureMode": "NONE",
                "defaultEndpoint": port.application.to_string(),
            })
        })
        .collect();
    let mut sidecar = json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "Sidecar",
        "metadata": metadata,
        "spec": {
            "workloadSelector": {"labels": workload.labels},
            "egress": [{
                "port": {"number": workload.outbound.port(), "protocol": "HTTP_PROXY", "name": "http-proxy"},
                "bind": workload.outbound.ip(),
                "captureMode": "NONE",
                "hosts": ["*/*"],
            }],
        },
    });
    if !ingress.is_empty() {
        sidecar["spec"]["ingress"] = ingress.into();
    }
    documents(&[entry, sidecar])
}

/// The YAML of the ingress gateway.
pub fn ingress(ingress: &Ingress) -> Result<String> {
    let metadata = |labels: bool| {
        let mut metadata = json!({
            "name": GATEWAY_NAME,
            "namespace": ingress.namespace(),
            "annotations": {GENERATED: "true"},
        });
        if labels {
            metadata["labels"] = json!(ingress.labels());
        }
        metadata
    };
    let ports: Vec<Value> = ingress
        .ports
        .iter()
        .map(|(named, open)| json!({"name": format!("tcp-{named}"), "port": named, "targetPort": open}))
        .collect();
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(true),
        "spec": {"selector": {"istio": "ingressgateway"}, "ports": ports},
    });
    let open: serde_json::Map<String, Value> =
        ingress.ports.iter().map(|(named, open)| (format!("tcp-{named}"), json!(open))).collect();
    let entry = json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "WorkloadEntry",
        "metadata": metadata(true),
        "spec": {
            "address": ingress.address,
            "labels": ingress.labels(),
            "ports": open,
            "serviceAccount": GATEWAY_ACCOUNT,
        },
    });
    documents(&[service, entry])
}

fn documents(objects: &[Value]) -> Result<String> {
    let mut text = String::from("# Written by meshctl; do not edit.\n");
    for (index, object) in objects.iter().enumerate() {
        if index > 0 {
            text.push_str("---\n");
        }
        text.push_str(&yaml_serde::to_string(object)?);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use mesh_proto::crd;

    use super::super::plan::Allocator;
    use super::*;

    fn specs(text: &str) -> Vec<Value> {
        text.split("---\n").map(|document| yaml_serde::from_str::<Value>(document).unwrap()).collect()
    }

    #[test]
    fn a_workload_is_a_workload_entry_and_a_sidecar() {
        let mut workload =
            Workload::new(&mut Allocator::default(), "default", "reviews-v1", "bookinfo-reviews").unwrap();
        workload.label("app", "reviews");
        workload.label("version", "v1");
        let inbound = workload.serve("http", "HTTP", "127.0.0.1:9080".parse().unwrap()).unwrap();
        let documents = specs(&super::workload(&workload).unwrap());
        let entry: crd::WorkloadEntry = serde_json::from_value(documents[0]["spec"].clone()).unwrap();
        assert_eq!(entry.address, "127.0.1.1");
        assert_eq!(entry.ports.get("http").copied().map(u64::from), Some(inbound.into()));
        assert_eq!(entry.service_account, "bookinfo-reviews");
        let sidecar: crd::Sidecar = serde_json::from_value(documents[1]["spec"].clone()).unwrap();
        assert_eq!(sidecar.ingress[0].default_endpoint, "127.0.0.1:9080");
        assert_eq!(sidecar.ingress[0].bind, "127.0.1.1");
        assert_eq!(sidecar.egress[0].hosts, ["*/*"]);
        assert_eq!(sidecar.egress[0].port.as_ref().unwrap().protocol, "HTTP_PROXY");
    }

    #[test]
    fn a_client_has_no_inbound_listeners() {
        let workload = Workload::new(&mut Allocator::default(), "default", "client", "client").unwrap();
        let documents = specs(&super::workload(&workload).unwrap());
        assert!(documents[1]["spec"].get("ingress").is_none());
    }

    #[test]
    fn the_gateway_leads_named_ports_to_open_ones() {
        let gateway = Ingress::new(&mut Allocator::default(), &[(80, None), (8443, Some(18443))]).unwrap();
        let documents = specs(&ingress(&gateway).unwrap());
        let ports = documents[0]["spec"]["ports"].as_array().unwrap();
        assert_eq!(ports[0]["port"], 80);
        assert_eq!(ports[0]["targetPort"], gateway.ports[&80]);
        assert_eq!(ports[1]["targetPort"], 18443);
        assert_eq!(documents[1]["metadata"]["labels"]["istio"], "ingressgateway");
    }
}

//! What is known: objects, services, endpoints, findings.

use std::sync::Arc;

use mesh_proto::crd::KINDS;
use serde_json::{Map, Value, json};

use crate::model::{Address, Endpoint, Object, PushContext, Registry, Resolution, Service, Spec};
use crate::validate::Finding;

/// `/debug/registryz`, in the shape of istiod's services.
pub(super) fn services(context: &PushContext) -> Value {
    context.all_services().map(|service| one(service)).collect()
}

fn one(service: &Service) -> Value {
    let ports: Vec<Value> = service
        .ports
        .iter()
        .map(|port| json!({ "name": *port.name, "port": port.number, "protocol": format!("{:?}", port.protocol).to_uppercase() }))
        .collect();
    json!({
        "hostname": *service.host,
        "autoAllocatedAddresses": service.auto_addresses,
        "defaultAddress": service.addresses.first().map_or_else(|| "0.0.0.0".to_owned(), ToString::to_string),
        "clusterVIPs": { "Addresses": { "Kubernetes": service.addresses } },
        "ports": ports,
        "creationTime": jiff::Timestamp::from_second(service.created).unwrap_or_default().to_string(),
        "Attributes": {
            "ServiceRegistry": registry(service.registry),
            "Name": *service.name,
            "Namespace": *service.namespace,
            "Labels": service.labels,
        },
        "Resolution": match service.resolution {
            Resolution::Static => "ClientSideLB",
            Resolution::Dns => "DNSLB",
            Resolution::DnsRoundRobin => "DNSRoundRobinLB",
            Resolution::Passthrough => "Passthrough",
        },
        "MeshExternal": service.external,
    })
}

fn registry(registry: Registry) -> &'static str {
    match registry {
        Registry::Kubernetes => "Kubernetes",
        Registry::External => "External",
    }
}

/// `/debug/endpointz`: the endpoints of each port of each service.
pub(super) fn endpoints(context: &PushContext) -> Value {
    let mut out = Vec::new();
    for service in context.all_services() {
        for port in &service.ports {
            let all = context.endpoints(service, port);
            out.push(json!({
                "svc": format!("{}:{}", service.host, port.name),
                "ep": all.iter().map(endpoint).collect::<Vec<_>>(),
            }));
        }
    }
    Value::Array(out)
}

fn endpoint(endpoint: &Endpoint) -> Value {
    let workload = &endpoint.workload;
    let address = match &endpoint.address {
        Address::Ip(ip) => ip.to_string(),
        Address::Dns(name) | Address::Unix(name) => name.to_string(),
    };
    json!({
        "Addresses": [address],
        "EndpointPort": endpoint.port,
        "ServicePortName": *endpoint.port_name,
        "LbWeight": endpoint.weight,
        "HealthStatus": if endpoint.healthy { "Healthy" } else { "UnHealthy" },
        "Labels": workload.labels,
        "ServiceAccount": *workload.service_account,
        "Network": *workload.network,
        "Locality": { "Label": *workload.locality, "ClusterID": *workload.cluster },
        "TLSMode": if workload.mtls { "istio" } else { "disabled" },
        "Namespace": *workload.namespace,
        "WorkloadName": *workload.workload_name,
        "HostName": *workload.name,
    })
}

/// `/debug/configz`: every object, as it would be written.
pub(super) fn objects(objects: &[Arc<Object>]) -> Value {
    objects.iter().map(|object| written(object)).collect()
}

fn written(object: &Object) -> Value {
    let kind = format!("{:?}", object.key.kind);
    let mut body = match spec(&object.spec) {
        Ok(body) => body,
        Err(error) => json!({ "error": error.to_string() }),
    };
    let origin = object.origin.to_string();
    let mut metadata = json!({
        "name": *object.key.name,
        "labels": object.meta.labels,
        "annotations": object.meta.annotations,
    });
    if !object.key.namespace.is_empty() {
        metadata["namespace"] = json!(*object.key.namespace);
    }
    // Of Istio's objects only the spec is kept.
    if let Some(info) = KINDS.iter().find(|info| info.kind == kind) {
        let version = info.versions.first().copied().unwrap_or_default();
        return json!({
            "apiVersion": format!("{}/{version}", info.group),
            "kind": kind,
            "metadata": metadata,
            "spec": body,
            "origin": origin,
        });
    }
    if let Spec::Secret(_) = &object.spec {
        // Keys are shown to nobody.
        for field in ["data", "stringData"] {
            if let Some(Value::Object(data)) = body.get_mut(field) {
                data.values_mut().for_each(|value| *value = json!("(hidden)"));
            }
        }
    }
    if let Value::Object(fields) = &mut body {
        fields.insert("metadata".to_owned(), metadata);
        fields.insert("origin".to_owned(), json!(origin));
    }
    body
}

fn spec(spec: &Spec) -> Result<Value, serde_json::Error> {
    macro_rules! each {
        ($($kind:ident),*) => { match spec { $(Spec::$kind(one) => serde_json::to_value(one),)* } };
    }
    each!(
        VirtualService,
        DestinationRule,
        Gateway,
        ServiceEntry,
        WorkloadEntry,
        WorkloadGroup,
        Sidecar,
        EnvoyFilter,
        ProxyConfig,
        PeerAuthentication,
        RequestAuthentication,
        AuthorizationPolicy,
        Telemetry,
        WasmPlugin,
        TrafficExtension,
        Service,
        EndpointSlice,
        Pod,
        Node,
        Namespace,
        Secret,
        ConfigMap,
        Ingress,
        IngressClass
    )
}

/// `/debug/findings`.
pub(super) fn findings(findings: &[Finding]) -> Value {
    findings
        .iter()
        .map(|finding| {
            let mut out = Map::new();
            out.insert("severity".to_owned(), json!(finding.severity.to_string()));
            out.insert("code".to_owned(), json!(finding.code));
            out.insert("object".to_owned(), json!(finding.key.as_ref().map(ToString::to_string)));
            out.insert("field".to_owned(), json!(finding.field));
            out.insert("message".to_owned(), json!(finding.message));
            out.insert("file".to_owned(), json!(finding.origin.file.as_ref().map(|file| file.display().to_string())));
            out.insert("line".to_owned(), json!(finding.origin.line));
            out.insert("column".to_owned(), json!(finding.origin.column));
            Value::Object(out)
        })
        .collect()
}

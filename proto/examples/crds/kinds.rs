//! The definitions: names, versions, printed columns, and a schema each.

use std::error::Error;

use mesh_proto::crd::status::{IstioStatus, ServiceEntryStatus};
use mesh_proto::crd::{self, KINDS, KindInfo};
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Value, json};

use crate::rules::Used;
use crate::structural::structural;

/// What `kubectl get` shows of a kind beside name and age: name and path.
type Columns = &'static [(&'static str, &'static str, &'static str)];

/// Name and definition of every kind.
pub(crate) fn definitions(used: &mut Used) -> Result<Vec<(String, Value)>, Box<dyn Error>> {
    KINDS.iter().map(|info| Ok((format!("{}.{}", info.plural, info.group), definition(info, used)?))).collect()
}

fn definition(info: &KindInfo, used: &mut Used) -> Result<Value, Box<dyn Error>> {
    let singular = info.kind.to_lowercase();
    let schema = schema(info, used)?;
    let storage = storage(info);
    let mut columns: Vec<Value> = columns(info.kind)
        .iter()
        .map(|(name, path, about)| json!({"name": name, "type": "string", "jsonPath": path, "description": about}))
        .collect();
    columns.push(json!({
        "name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp",
        "description": "Time since the object was created.",
    }));
    let versions: Vec<Value> = info
        .versions
        .iter()
        .map(|version| {
            json!({
                "name": version,
                "served": true,
                "storage": *version == storage,
                "subresources": {"status": {}},
                "additionalPrinterColumns": columns,
                "schema": {"openAPIV3Schema": schema},
            })
        })
        .collect();
    let mut names = json!({
        "kind": info.kind,
        "listKind": format!("{}List", info.kind),
        "plural": info.plural,
        "singular": singular,
        "categories": ["istio-io", format!("{}-istio-io", info.group.split('.').next().unwrap_or_default())],
    });
    // A short name that is the singular would be a conflict.
    let short: Vec<&str> = info.short_names.iter().copied().filter(|name| *name != singular).collect();
    if !short.is_empty() {
        names["shortNames"] = json!(short);
    }
    Ok(json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{}.{}", info.plural, info.group),
            "annotations": {"helm.sh/resource-policy": "keep"},
            "labels": {"app": "istio-pilot", "chart": "istio", "heritage": "Tiller", "release": "istio"},
        },
        "spec": {
            "group": info.group,
            "names": names,
            "scope": "Namespaced",
            "conversion": {"strategy": "None"},
            "versions": versions,
        },
    }))
}

/// The version that etcd holds, as in Istio, so that a cluster may change from one to the other.
fn storage(info: &KindInfo) -> &'static str {
    match info.kind {
        "Telemetry" => "v1alpha1",
        _ => info.versions.first().copied().unwrap_or_default(),
    }
}

fn columns(kind: &str) -> Columns {
    match kind {
        "VirtualService" => &[
            ("Gateways", ".spec.gateways", "Gateways and sidecars that apply the routes."),
            ("Hosts", ".spec.hosts", "Hosts that traffic is sent to."),
        ],
        "DestinationRule" => &[("Host", ".spec.host", "Host that the rule is for.")],
        "ServiceEntry" => &[
            ("Hosts", ".spec.hosts", "Hosts of the service."),
            ("Location", ".spec.location", "MESH_EXTERNAL or MESH_INTERNAL."),
            ("Resolution", ".spec.resolution", "How endpoints are found."),
        ],
        "WorkloadEntry" => &[("Address", ".spec.address", "Address of the workload.")],
        "PeerAuthentication" => &[("Mode", ".spec.mtls.mode", "Mode of mTLS for all ports.")],
        "AuthorizationPolicy" => &[("Action", ".spec.action", "What a match means.")],
        _ => &[],
    }
}

fn schema(info: &KindInfo, used: &mut Used) -> Result<Value, Box<dyn Error>> {
    macro_rules! spec {
        ($($kind:ident),*) => {
            match info.kind {
                $(stringify!($kind) => described::<crd::$kind>(used),)*
                other => return Err(format!("{other} has no type here").into()),
            }
        };
    }
    let spec = spec!(
        VirtualService,
        DestinationRule,
        Gateway,
        ServiceEntry,
        Sidecar,
        WorkloadEntry,
        WorkloadGroup,
        EnvoyFilter,
        ProxyConfig,
        PeerAuthentication,
        RequestAuthentication,
        AuthorizationPolicy,
        Telemetry,
        WasmPlugin,
        TrafficExtension
    )?;
    let mut status = match info.kind {
        "ServiceEntry" => described::<ServiceEntryStatus>(used)?,
        _ => described::<IstioStatus>(used)?,
    };
    // Other controllers of Istio's objects have fields of their own.
    status["x-kubernetes-preserve-unknown-fields"] = true.into();
    let required = spec.get("required").is_some();
    let mut schema = json!({"type": "object", "properties": {"spec": spec, "status": status}});
    if required {
        schema["required"] = json!(["spec"]);
    }
    Ok(schema)
}

fn described<T: JsonSchema>(used: &mut Used) -> Result<Value, Box<dyn Error>> {
    let schema = SchemaGenerator::default().into_root_schema_for::<T>();
    structural(schema.as_value(), &T::schema_name(), used)
}

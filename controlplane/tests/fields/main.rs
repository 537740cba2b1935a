//! No field is accepted and ignored: every field of every type that users write changes what some proxy is sent, or is refused, or
//! is reported.
//!
//! `tests/fields/KIND.yaml` holds groups of fields with a value of each. A field is set in the group's object, and the world is read and
//! translated with and without it, for sidecars, a gateway and gRPC. What stands under `honoured` must change what one of them is sent;
//! what stands under `refused` and `warned` must be found at that field. The schema's own list of fields says what is missing in a table:
//! a field that is refused or reported as a whole stands for those below it.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod put;
mod schema;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use mesh_proto::{crd, kube};
use serde::Deserialize;
use serde_json::{Map, Value};

use put::put;
use schema::{Field, paths};
use world::World;

/// A table: fields of one kind.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    #[serde(rename = "apiVersion")]
    api_version: String,
    kind: String,
    /// Path of what the fields are fields of; `spec` in Istio's objects.
    #[serde(default = "spec")]
    within: String,
    #[serde(default)]
    metadata: Map<String, Value>,
    groups: Vec<Group>,
    /// Fields of which a proxy never hears for a good reason, with the reason.
    #[serde(default)]
    elsewhere: BTreeMap<String, String>,
}

fn spec() -> String {
    "spec".to_owned()
}

/// Fields that share an object.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Group {
    /// More objects of the world.
    world: String,
    /// Beside the table's.
    metadata: Map<String, Value>,
    /// The object without the fields.
    object: Map<String, Value>,
    honoured: Map<String, Value>,
    warned: Map<String, Value>,
    refused: Map<String, Value>,
}

/// A path of a table as the schema knows it: without indices and keys of maps.
fn plain(path: &str) -> String {
    let mut plain = String::new();
    let mut inside = false;
    for letter in path.chars() {
        match letter {
            '[' => inside = true,
            ']' => inside = false,
            _ if inside => {}
            _ => plain.push(letter),
        }
    }
    plain
}

fn check(table: &Table) -> Vec<String> {
    let mut wrong = Vec::new();
    // Paths that were tried, and those of them that stand for all below.
    let (mut tried, mut whole) = (BTreeSet::new(), BTreeSet::new());
    for group in &table.groups {
        let world = World::new(&group.world);
        let mut metadata = table.metadata.clone();
        metadata.entry("name").or_insert("subject".into());
        metadata.entry("namespace").or_insert("default".into());
        metadata.extend(group.metadata.clone());
        let mut base = serde_json::json!({"apiVersion": table.api_version, "kind": table.kind, "metadata": metadata});
        let body = if table.within.is_empty() { &mut base } else { &mut base[&table.within] };
        match body.as_object_mut() {
            Some(body) => body.extend(group.object.clone()),
            None => *body = Value::Object(group.object.clone()),
        }
        let before = world.with(&base);
        let fates = [("honoured", &group.honoured), ("warned", &group.warned), ("refused", &group.refused)];
        for (expected, fields) in fates {
            for (path, value) in fields {
                let mut changed = base.clone();
                let body = if table.within.is_empty() { &mut changed } else { &mut changed[&table.within] };
                put(body, path, value.clone());
                let after = world.with(&changed);
                tried.insert(plain(path));
                match before.fate(&after, path) {
                    Ok(found) if found.name == expected => {
                        if found.whole {
                            whole.insert(plain(path));
                        }
                    }
                    Ok(found) => {
                        wrong.push(format!("{} {path}: stands under {expected}, is {}", table.kind, found.name))
                    }
                    Err(reason) => wrong.push(format!("{} {path}: {reason}", table.kind)),
                }
            }
        }
    }
    wrong.extend(missing(table, &tried, &whole));
    wrong
}

/// Fields of the schema that the table says nothing of. What is said of a field of a type holds wherever that type stands.
fn missing(table: &Table, tried: &BTreeSet<String>, whole: &BTreeSet<String>) -> Vec<String> {
    let below = |path: &str, other: &str| path.strip_prefix(other).is_some_and(|rest| rest.starts_with('.'));
    let known = |path: &str| {
        tried.contains(path)
            || table.elsewhere.keys().any(|other| other == path || below(path, other))
            || tried.iter().any(|other| below(other, path))
            || whole.iter().any(|other| below(path, other))
    };
    let schema = schema_of(&table.kind);
    let (known, open): (Vec<_>, Vec<_>) = schema.into_iter().partition(|(path, _)| known(path));
    let known: BTreeSet<_> = known.into_iter().map(|(_, field)| field).collect();
    let open = open.into_iter().filter(|(_, field)| !known.contains(field));
    open.map(|(path, field)| format!("{} {path}: is in no table ({field:?})", table.kind)).collect()
}

/// The fields of what the table is within.
fn schema_of(kind: &str) -> Vec<(String, Field)> {
    match kind {
        "VirtualService" => paths::<crd::VirtualService>(&[]),
        "DestinationRule" => paths::<crd::DestinationRule>(&[]),
        "Gateway" => paths::<crd::Gateway>(&[]),
        "ServiceEntry" => paths::<crd::ServiceEntry>(&[]),
        "WorkloadEntry" => paths::<crd::WorkloadEntry>(&[]),
        "Sidecar" => paths::<crd::Sidecar>(&[]),
        "PeerAuthentication" => paths::<crd::PeerAuthentication>(&[]),
        "AuthorizationPolicy" => paths::<crd::AuthorizationPolicy>(&[]),
        "Telemetry" => paths::<crd::Telemetry>(&[]),
        "MeshConfig" => paths::<crd::MeshConfig>(&[]),
        "Service" => paths::<kube::Service>(&["spec"]),
        "EndpointSlice" => paths::<kube::EndpointSlice>(&[]),
        other => panic!("{other} has no schema here"),
    }
}

fn table(name: &str) -> Vec<String> {
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("tests/fields");
    let path = root.join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let table: Table = yaml_serde::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    check(&table)
}

fn holds(file: &str) {
    let wrong = table(file);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_field_of_virtual_service_is_ignored() {
    holds("virtual-service.yaml");
}

#[test]
fn no_field_of_destination_rule_is_ignored() {
    holds("destination-rule.yaml");
}

#[test]
fn no_field_of_gateway_is_ignored() {
    holds("gateway.yaml");
}

#[test]
fn no_field_of_service_entry_is_ignored() {
    holds("service-entry.yaml");
}

#[test]
fn no_field_of_workload_entry_is_ignored() {
    holds("workload-entry.yaml");
}

#[test]
fn no_field_of_sidecar_is_ignored() {
    holds("sidecar.yaml");
}

#[test]
fn no_field_of_peer_authentication_is_ignored() {
    holds("peer-authentication.yaml");
}

#[test]
fn no_field_of_authorization_policy_is_ignored() {
    holds("authorization-policy.yaml");
}

#[test]
fn no_field_of_telemetry_is_ignored() {
    holds("telemetry.yaml");
}

#[test]
fn no_field_of_mesh_config_is_ignored() {
    holds("mesh-config.yaml");
}

#[test]
fn no_field_of_service_is_ignored() {
    holds("service.yaml");
}

#[test]
fn no_field_of_endpoint_slice_is_ignored() {
    holds("endpoint-slice.yaml");
}

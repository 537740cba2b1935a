//! `/config_dump`: everything that is configured, in Envoy's shape, private keys left out.

use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::Query;
use crate::app::Running;
use crate::xds::kind::Kind;
use crate::xds::state::{Origin, Refused, Shown, State};

/// `[redacted]` in base64, as Envoy writes it.
const REDACTED: &str = "W3JlZGFjdGVkXQ==";

/// The dump; an error names a parameter that is not supported.
pub(super) fn config_dump(running: &Running, query: &Query) -> Result<Value, String> {
    if let Some((name, _)) =
        query.0.iter().find(|(name, _)| !["include_eds", "resource", "format"].contains(&name.as_str()))
    {
        return Err(format!("`{name}` is not a parameter of /config_dump; there are include_eds and resource"));
    }
    let state = running.publisher.state();
    let mut configs = vec![bootstrap(running), clusters(&state), listeners(&state), routes(&state)];
    if query.has("include_eds") {
        configs.push(endpoints(&state));
    }
    configs.push(secrets(running, &state));
    drop(state);
    configs.iter_mut().for_each(redact);
    if let Some(wanted) = query.get("resource") {
        let lists: Vec<Value> = configs
            .into_iter()
            .filter_map(|config| config.get(wanted).and_then(Value::as_array).cloned())
            .flatten()
            .collect();
        return Ok(json!({"configs": lists}));
    }
    Ok(json!({"configs": configs}))
}

fn kind(name: &str) -> String {
    format!("type.googleapis.com/envoy.admin.v3.{name}")
}

fn time(at: SystemTime) -> String {
    jiff::Timestamp::try_from(at).map(|at| at.to_string()).unwrap_or_default()
}

/// A resource's body with its type beside its fields.
fn body(kind: Kind, bytes: &[u8]) -> Value {
    let mut value =
        mesh_proto::yaml::bytes_to_json(kind.type_url(), bytes).unwrap_or_else(|error| json!({"error": error}));
    if let Some(fields) = value.as_object_mut() {
        let mut whole = Map::new();
        whole.insert("@type".to_owned(), kind.type_url().into());
        whole.append(fields);
        return Value::Object(whole);
    }
    value
}

fn bootstrap(running: &Running) -> Value {
    let node = mesh_proto::yaml::to_json(&running.bootstrap.node).unwrap_or_default();
    json!({
        "@type": kind("BootstrapConfigDump"),
        "bootstrap": {"node": node},
        "last_updated": time(running.started.1),
    })
}

fn entry(kind: Kind, field: &str, one: &Shown<'_>) -> Value {
    let mut value = json!({field: body(kind, one.body), "last_updated": time(one.updated)});
    if one.origin == Origin::Dynamic {
        value["version_info"] = one.version.into();
    }
    value
}

fn error_state(refused: &Refused) -> Value {
    json!({
        "details": refused.refusal.to_string(),
        "last_update_attempt": time(refused.at),
        "version_info": refused.version,
    })
}

/// Fills `field` with the entries for which `wanted` holds, unless there is none.
fn put(dump: &mut Value, field: &str, entries: Vec<Value>) {
    if !entries.is_empty() {
        dump[field] = entries.into();
    }
}

fn clusters(state: &State) -> Value {
    let all = state.show(Kind::Cluster);
    let pick = |origin: Origin, warming: bool| -> Vec<Value> {
        let chosen =
            all.iter().filter(|one| one.origin == origin && (one.warming == warming || origin == Origin::Static));
        chosen.map(|one| entry(Kind::Cluster, "cluster", one)).collect()
    };
    let mut dump = json!({"@type": kind("ClustersConfigDump")});
    put(&mut dump, "static_clusters", pick(Origin::Static, false));
    put(&mut dump, "dynamic_active_clusters", pick(Origin::Dynamic, false));
    let mut warming = pick(Origin::Dynamic, true);
    warming.extend(
        state
            .refused(Kind::Cluster)
            .map(|one| json!({"cluster": {"name": &*one.name}, "error_state": error_state(one)})),
    );
    put(&mut dump, "dynamic_warming_clusters", warming);
    dump
}

fn listeners(state: &State) -> Value {
    let all = state.show(Kind::Listener);
    let mut dump = json!({"@type": kind("ListenersConfigDump")});
    let fixed = all.iter().filter(|one| one.origin == Origin::Static);
    put(&mut dump, "static_listeners", fixed.map(|one| entry(Kind::Listener, "listener", one)).collect());
    let mut dynamic: Vec<Value> = all
        .iter()
        .filter(|one| one.origin == Origin::Dynamic)
        .map(|one| {
            let place = if one.warming { "warming_state" } else { "active_state" };
            json!({"name": &**one.name, place: entry(Kind::Listener, "listener", one)})
        })
        .collect();
    for refused in state.refused(Kind::Listener) {
        match dynamic.iter_mut().find(|one| one["name"] == *refused.name) {
            Some(known) => known["error_state"] = error_state(refused),
            None => dynamic.push(json!({"name": &*refused.name, "error_state": error_state(refused)})),
        }
    }
    put(&mut dump, "dynamic_listeners", dynamic);
    dump
}

fn routes(state: &State) -> Value {
    let mut dump = json!({"@type": kind("RoutesConfigDump")});
    let mut inline = Vec::new();
    for one in state.show(Kind::Listener) {
        find_inline(&body(Kind::Listener, one.body), &mut |table| {
            let mut table = table.clone();
            table["@type"] = Kind::Route.type_url().into();
            inline.push(json!({"route_config": table, "last_updated": time(one.updated)}));
        });
    }
    put(&mut dump, "static_route_configs", inline);
    let mut dynamic: Vec<Value> = state.show(Kind::Route).iter().map(|one| route_table(state, one)).collect();
    for refused in state.refused(Kind::Route) {
        match dynamic.iter_mut().find(|one| one["route_config"]["name"] == *refused.name) {
            Some(known) => known["error_state"] = error_state(refused),
            None => {
                dynamic.push(json!({"route_config": {"name": &*refused.name}, "error_state": error_state(refused)}))
            }
        }
    }
    put(&mut dump, "dynamic_route_configs", dynamic);
    dump
}

/// A table with the virtual hosts that came apart from it, and with what was refused of them.
fn route_table(state: &State, table: &Shown<'_>) -> Value {
    let mut value = entry(Kind::Route, "route_config", table);
    let mut hosts = state.show_hosts(table.name);
    // Not in the order of their arrival, so that proxies that hold the same say the same.
    hosts.sort_by(|one, other| one.name.cmp(other.name));
    if !hosts.is_empty() {
        let apart = hosts.iter().map(|one| {
            mesh_proto::yaml::bytes_to_json(Kind::VirtualHost.type_url(), one.body)
                .unwrap_or_else(|error| json!({"error": error}))
        });
        let own = value["route_config"]["virtual_hosts"].as_array().into_iter().flatten().cloned();
        value["route_config"]["virtual_hosts"] = own.chain(apart).collect();
    }
    let refused = state.refused(Kind::VirtualHost).find(|one| {
        let table_and_host = one.name.rsplit_once('/');
        table_and_host.is_some_and(|(of, _)| *of == **table.name)
    });
    if let Some(refused) = refused {
        value["error_state"] = error_state(refused);
        value["error_state"]["details"] = format!("{}: {}", refused.name, refused.refusal).into();
    }
    value
}

/// Calls `found` for every route table that is written inside a listener.
fn find_inline(value: &Value, found: &mut impl FnMut(&Value)) {
    match value {
        Value::Object(map) => {
            for (key, inner) in map {
                if key == "route_config" { found(inner) } else { find_inline(inner, found) }
            }
        }
        Value::Array(list) => list.iter().for_each(|inner| find_inline(inner, found)),
        _ => {}
    }
}

fn endpoints(state: &State) -> Value {
    let mut dump = json!({"@type": kind("EndpointsConfigDump")});
    let fixed = state.show(Kind::Cluster).into_iter().filter_map(|one| {
        let mut cluster = body(Kind::Cluster, one.body);
        let assignment = cluster.get_mut("load_assignment")?.take();
        Some(json!({"endpoint_config": assignment, "last_updated": time(one.updated)}))
    });
    put(&mut dump, "static_endpoint_configs", fixed.collect());
    let dynamic = state.show(Kind::Endpoint);
    let dynamic = dynamic.iter().map(|one| entry(Kind::Endpoint, "endpoint_config", one));
    put(&mut dump, "dynamic_endpoint_configs", dynamic.collect());
    dump
}

fn secrets(running: &Running, state: &State) -> Value {
    let fixed = state.show(Kind::Secret).into_iter().filter(|one| one.origin == Origin::Static);
    let fixed: Vec<Value> = fixed
        .map(|one| json!({"name": &**one.name, "secret": body(Kind::Secret, one.body), "last_updated": time(one.updated)}))
        .collect();
    let is_fixed = |name: &str| fixed.iter().any(|one| one["name"] == *name);
    let inline = |pem: &str| json!({"inline_bytes": STANDARD.encode(pem)});
    let (mut active, mut warming) = (Vec::new(), Vec::new());
    let mut add = |name: &str, field: &str, content: Option<Value>| {
        if is_fixed(name) {
            return;
        }
        let there = content.is_some();
        let mut secret = json!({"@type": Kind::Secret.type_url(), "name": name});
        secret[field] = content.unwrap_or_else(|| json!({}));
        let one = json!({"name": name, "secret": secret});
        if there { active.push(one) } else { warming.push(one) }
    };
    for (name, certificate) in running.secrets.certificates() {
        let content = certificate
            .map(|one| json!({"certificate_chain": inline(&one.chain_pem), "private_key": {"inline_bytes": REDACTED}}));
        add(&name, "tls_certificate", content);
    }
    for (name, trust) in running.secrets.trusts() {
        add(&name, "validation_context", trust.map(|one| json!({"trusted_ca": inline(&one.pem)})));
    }
    let mut dump = json!({"@type": kind("SecretsConfigDump")});
    put(&mut dump, "static_secrets", fixed);
    put(&mut dump, "dynamic_active_secrets", active);
    put(&mut dump, "dynamic_warming_secrets", warming);
    dump
}

/// Takes private keys out, wherever they stand.
fn redact(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, inner) in map {
                if matches!(key.as_str(), "private_key" | "password") {
                    for field in ["inline_string", "inline_bytes"] {
                        if let Some(text) = inner.get_mut(field) {
                            *text = REDACTED.into();
                        }
                    }
                } else {
                    redact(inner);
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(redact),
        _ => {}
    }
}

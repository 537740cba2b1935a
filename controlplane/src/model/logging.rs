//! Which access logs a workload writes: MeshConfig's `accessLogFile`, or Telemetry's `accessLogging` (TE1, TE4).
//! Source: Istio's `pilot/pkg/model/telemetry.go` and `telemetry_logging.go`.

use std::sync::Arc;

use mesh_proto::crd;
use mesh_proto::crd::mesh_config::AccessLogEncoding;
use mesh_proto::crd::telemetry::AccessLogging;

use super::context::{Config, Direction};
use super::{Name, Node, endpoints};

/// A log to write.
#[derive(Debug, Clone, PartialEq)]
pub struct AccessLog {
    /// File, `/dev/stdout` for the container's log.
    pub path: Name,
    /// How lines look.
    pub format: LogFormat,
    /// Keys without value are left out of JSON.
    pub omit_empty: bool,
}

/// How lines look.
#[derive(Debug, Clone, PartialEq)]
pub enum LogFormat {
    /// Istio's default line (AL1).
    DefaultText,
    /// Istio's default object (AL2).
    DefaultJson,
    /// A format string; it ends in a line feed where lines are wanted.
    Text(String),
    /// An object of format strings.
    Json(serde_json::Map<String, serde_json::Value>),
}

/// The provider that every mesh has.
const ENVOY: &str = "envoy";
const STDOUT: &str = "/dev/stdout";

/// The logs of a node's side. `all` has the older Telemetries first.
pub fn access_logs(
    all: &[Arc<Config<crd::Telemetry>>],
    mesh: &crd::MeshConfig,
    node: &Node,
    direction: Direction,
) -> Vec<AccessLog> {
    let settings = applicable(all, node, &mesh.root_namespace);
    let defaults = default_providers(mesh);
    if settings.is_empty() && defaults.is_empty() {
        return mesh_log(mesh).into_iter().collect();
    }
    let names = providers(&settings, &defaults, direction);
    names.iter().filter_map(|name| provider(name, mesh)).collect()
}

/// The settings of root, namespace and workload, in the order in which later ones override.
fn applicable<'a>(all: &'a [Arc<Config<crd::Telemetry>>], node: &Node, root: &str) -> Vec<&'a AccessLogging> {
    let labels = |one: &'a Config<crd::Telemetry>| {
        one.spec.selector.as_ref().map(|selector| &selector.match_labels).filter(|labels| !labels.is_empty())
    };
    let targeted = |one: &Config<crd::Telemetry>| !one.spec.target_refs.is_empty() || one.spec.target_ref.is_some();
    let wide = |namespace: &str| {
        all.iter().find(|one| *one.key.namespace == *namespace && labels(one).is_none() && !targeted(one))
    };
    let own = all.iter().find(|one| {
        one.key.namespace == node.namespace
            && !targeted(one)
            && labels(one).is_some_and(|labels| endpoints::selects(labels, &node.labels))
    });
    let namespace = (*node.namespace != *root).then(|| wide(&node.namespace)).flatten();
    let levels = [wide(root), namespace, own];
    levels.into_iter().flatten().flat_map(|one| &one.spec.access_logging).collect()
}

fn providers(settings: &[&AccessLogging], defaults: &[String], direction: Direction) -> Vec<String> {
    let names = |one: &AccessLogging| one.providers.iter().map(|provider| provider.name.clone()).collect::<Vec<_>>();
    let mut scope = defaults.to_vec();
    for one in settings {
        if !one.providers.is_empty() {
            scope = names(one);
        }
    }
    let mut on: Vec<String> = if settings.is_empty() { defaults.to_vec() } else { Vec::new() };
    let mut inherited = defaults.to_vec();
    for one in settings {
        if !one.providers.is_empty() {
            inherited = names(one);
        }
        if !matches_side(one, direction) {
            continue;
        }
        for name in inherited.iter().filter(|name| scope.contains(name)) {
            on.retain(|known| known != name);
            if one.disabled != Some(true) {
                on.push(name.clone());
            }
        }
    }
    on.sort();
    on
}

fn matches_side(one: &AccessLogging, direction: Direction) -> bool {
    match one.matches.as_ref().map_or("", |matches| matches.mode.as_str()) {
        "CLIENT" => direction == Direction::Outbound,
        "SERVER" => direction == Direction::Inbound,
        _ => true,
    }
}

fn default_providers(mesh: &crd::MeshConfig) -> Vec<String> {
    let list = mesh.default_providers.as_ref().and_then(|providers| providers.get("accessLogging"));
    let list = list.and_then(serde_json::Value::as_array);
    list.into_iter().flatten().filter_map(|name| Some(name.as_str()?.to_owned())).collect()
}

/// The log of `accessLogFile`.
fn mesh_log(mesh: &crd::MeshConfig) -> Option<AccessLog> {
    (!mesh.access_log_file.is_empty()).then(|| AccessLog {
        path: mesh.access_log_file.as_str().into(),
        format: mesh_format(mesh),
        omit_empty: false,
    })
}

fn mesh_format(mesh: &crd::MeshConfig) -> LogFormat {
    match (mesh.access_log_encoding, mesh.access_log_format.as_str()) {
        (AccessLogEncoding::Text, "") => LogFormat::DefaultText,
        (AccessLogEncoding::Text, format) => LogFormat::Text(lined(format)),
        (AccessLogEncoding::Json, format) => match serde_json::from_str(format) {
            Ok(serde_json::Value::Object(fields)) => LogFormat::Json(fields),
            // As in Istio, what is no object means the default.
            _ => LogFormat::DefaultJson,
        },
    }
}

/// Istio ends every text format with a line feed.
fn lined(format: &str) -> String {
    if format.ends_with('\n') { format.to_owned() } else { format!("{format}\n") }
}

/// A provider by name: the built-in one, or an `envoyFileAccessLog` of MeshConfig.
fn provider(name: &str, mesh: &crd::MeshConfig) -> Option<AccessLog> {
    let named =
        mesh.extension_providers.iter().find(|one| one.get("name").and_then(|name| name.as_str()) == Some(name));
    let Some(named) = named else {
        let log = AccessLog { path: STDOUT.into(), format: mesh_format(mesh), omit_empty: false };
        return (name == ENVOY).then(|| mesh_log(mesh).unwrap_or(log));
    };
    let file = named.get("envoyFileAccessLog")?;
    let text =
        |value: &serde_json::Value, key: &str| value.get(key).and_then(|value| value.as_str()).map(str::to_owned);
    let format = file.get("logFormat");
    let format = match (format.and_then(|format| text(format, "text")), format.and_then(|format| format.get("labels")))
    {
        (Some(line), _) if !line.is_empty() => LogFormat::Text(lined(&line)),
        (_, Some(serde_json::Value::Object(fields))) if !fields.is_empty() => LogFormat::Json(fields.clone()),
        (_, Some(_)) => LogFormat::DefaultJson,
        _ => mesh_format(mesh),
    };
    let path = text(file, "path").filter(|path| !path.is_empty()).unwrap_or_else(|| STDOUT.to_owned());
    let omit_empty = file.get("omitEmptyValues").and_then(serde_json::Value::as_bool).unwrap_or(false);
    Some(AccessLog { path: path.into(), format, omit_empty })
}

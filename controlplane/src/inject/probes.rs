//! The application's probes and hooks go through the proxy: the kubelet has no certificate, and a STRICT port would refuse it (AG3).
//!
//! What the kubelet would have asked is kept in [`mesh_proto::probe::VARIABLE`] of the proxy, which asks it from inside of the pod.

use mesh_proto::probe::{Action, Actions, Grpc, HEALTH, Header, HttpGet, LIFECYCLE, TcpSocket, VARIABLE};
use serde_json::{Map, Value, json};

use super::{InjectError, PROXY, REDIRECT, container, items};

/// Probes of a container, and the last part of their paths.
const PROBES: [(&str, &str); 3] =
    [("livenessProbe", "livez"), ("readinessProbe", "readyz"), ("startupProbe", "startupz")];

/// Hooks of a container, and the last part of their paths.
const HOOKS: [(&str, &str); 2] = [("postStart", "poststartz"), ("preStop", "prestopz")];

/// The ways in which something may be asked.
const HANDLERS: [&str; 3] = ["httpGet", "tcpSocket", "grpc"];

/// Rewrites every probe and hook of the application's containers, and returns what was left alone and why.
pub(super) fn rewrite(pod: &mut Value, status_port: u16) -> Result<Vec<String>, InjectError> {
    let (mut actions, mut warnings) = (Actions::new(), Vec::new());
    if container(pod, PROXY).is_none() {
        return Ok(warnings);
    }
    for list in ["containers", "initContainers"] {
        for item in items(pod, list).into_iter().flatten() {
            let name = item.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
            let runs_on = list == "containers" || item.get("restartPolicy").and_then(Value::as_str) == Some("Always");
            if name == PROXY || name == REDIRECT || !runs_on {
                continue;
            }
            let mut rewriter = Rewriter { ports: named_ports(item), status_port, actions: &mut actions };
            let mut each = |owner: &mut Value, field: &str, path: String| {
                if let Some(handler) = owner.get_mut(field).and_then(Value::as_object_mut)
                    && let Err(reason) = rewriter.handler(handler, path)
                {
                    warnings.push(format!("container {name}: {field} is left to the kubelet, because {reason}"));
                }
            };
            for (field, last) in PROBES {
                each(item, field, format!("{HEALTH}{name}/{last}"));
            }
            if let Some(lifecycle) = item.get_mut("lifecycle") {
                for (field, last) in HOOKS {
                    each(lifecycle, field, format!("{LIFECYCLE}{name}/{last}"));
                }
            }
        }
    }
    keep(pod, actions)?;
    Ok(warnings)
}

/// Ports of a container by their names.
fn named_ports(container: &Value) -> Map<String, Value> {
    let ports = container.get("ports").and_then(Value::as_array).into_iter().flatten();
    let named = |port: &Value| Some((port.get("name")?.as_str()?.to_owned(), port.get("containerPort")?.clone()));
    ports.filter_map(named).collect()
}

struct Rewriter<'a> {
    ports: Map<String, Value>,
    status_port: u16,
    actions: &'a mut Actions,
}

impl Rewriter<'_> {
    /// Rewrites one probe or hook, unless it runs a command or was rewritten before.
    fn handler(&mut self, handler: &mut Map<String, Value>, path: String) -> Result<(), String> {
        if handler.pointer_text("httpGet", "path").is_some_and(|found| found == path) {
            return Ok(());
        }
        let Some(action) = self.action(handler)? else { return Ok(()) };
        HANDLERS.iter().for_each(|name| drop(handler.remove(*name)));
        handler.insert("httpGet".to_owned(), json!({"path": path, "port": self.status_port}));
        self.actions.insert(path, action);
        Ok(())
    }

    /// What a handler asks; `None` if it asks nothing over the network.
    fn action(&self, handler: &Map<String, Value>) -> Result<Option<Action>, String> {
        let timeout =
            handler.get("timeoutSeconds").and_then(Value::as_u64).and_then(|seconds| u32::try_from(seconds).ok());
        let mut action = Action { timeout_seconds: timeout, ..Action::default() };
        let text = |object: &Value, name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        if let Some(get) = handler.get("httpGet") {
            if !text(get, "host").is_empty() {
                return Err("it names a host that is not the pod".to_owned());
            }
            let headers = get.get("httpHeaders").and_then(Value::as_array).into_iter().flatten();
            action.http_get = Some(HttpGet {
                path: text(get, "path"),
                port: self.port(get)?,
                scheme: text(get, "scheme"),
                http_headers: headers
                    .map(|one| Header { name: text(one, "name"), value: text(one, "value") })
                    .collect(),
            });
        } else if let Some(socket) = handler.get("tcpSocket") {
            if !text(socket, "host").is_empty() {
                return Err("it names a host that is not the pod".to_owned());
            }
            action.tcp_socket = Some(TcpSocket { port: self.port(socket)? });
        } else if let Some(grpc) = handler.get("grpc") {
            let service = Some(text(grpc, "service")).filter(|service| !service.is_empty());
            action.grpc = Some(Grpc { port: self.port(grpc)?, service });
        } else {
            return Ok(None);
        }
        Ok(Some(action))
    }

    fn port(&self, of: &Value) -> Result<u16, String> {
        let port = of.get("port").unwrap_or(&Value::Null);
        let number = match port.as_str() {
            // Numbers in quotes are numbers, too.
            Some(name) => self.ports.get(name).and_then(Value::as_u64).or_else(|| name.parse().ok()),
            None => port.as_u64(),
        };
        let number = number.and_then(|number| u16::try_from(number).ok()).filter(|number| *number != 0);
        number.ok_or_else(|| format!("the container has no port {port}"))
    }
}

/// Texts two levels down.
trait PointerText {
    fn pointer_text(&self, first: &str, second: &str) -> Option<&str>;
}

impl PointerText for Map<String, Value> {
    fn pointer_text(&self, first: &str, second: &str) -> Option<&str> {
        self.get(first)?.get(second)?.as_str()
    }
}

/// Adds actions to those that an earlier injection left in the proxy's environment.
fn keep(pod: &mut Value, actions: Actions) -> Result<(), InjectError> {
    let Some(proxy) = container(pod, PROXY).and_then(Value::as_object_mut) else { return Ok(()) };
    let Some(variables) = proxy.entry("env").or_insert_with(|| json!([])).as_array_mut() else { return Ok(()) };
    let at = variables.iter().position(|variable| super::named(variable, VARIABLE));
    let before = at.and_then(|at| variables[at].get("value")).and_then(Value::as_str);
    let mut all: Actions = match before {
        None => Actions::new(),
        Some(text) => serde_json::from_str(text)
            .map_err(|error| InjectError::Pod(format!("container {PROXY}: env {VARIABLE}: {error}; remove it")))?,
    };
    all.extend(actions);
    if all.is_empty() {
        return Ok(());
    }
    let text = serde_json::to_string(&all).map_err(|error| InjectError::Pod(error.to_string()))?;
    let variable = json!({"name": VARIABLE, "value": text});
    match at {
        Some(at) => variables[at] = variable,
        None => variables.push(variable),
    }
    Ok(())
}

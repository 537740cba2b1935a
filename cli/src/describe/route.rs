//! Rules of VirtualServices as people read them: when, where to with which share, and what else is done.

use mesh_controlplane::model::{Config, Service};
use mesh_proto::crd;
use mesh_proto::crd::virtual_service::{Destination, HttpRoute};
use serde::Serialize;
use serde_json::Value;

/// The rules of a VirtualService.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Routes {
    /// `VirtualService NAMESPACE/NAME`.
    pub object: String,
    /// Its hosts.
    pub hosts: Vec<String>,
    /// Its rules in order; delegates are merged in.
    pub rules: Vec<Rule>,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// `http[0]`, and its name if it has one.
    pub name: String,
    /// Conditions, any of which suffices; none matches everything.
    pub when: Vec<String>,
    /// Where to.
    pub to: Vec<Share>,
    /// What else it does: redirects, faults, timeouts and the like.
    pub does: Vec<String>,
}

/// A destination with its share.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Share {
    /// Host.
    pub host: String,
    /// Subset, if one is named.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subset: String,
    /// Port, if one is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u32>,
    /// Of what the rule takes, in percent.
    pub percent: f64,
}

impl Routes {
    /// Of a VirtualService with full names.
    pub fn of(config: &Config<crd::VirtualService>) -> Self {
        let spec = &config.spec;
        let http = spec.http.iter().enumerate().map(|(index, route)| http(index, route));
        let tls = spec.tls.iter().enumerate().map(|(index, route)| {
            let to = route.route.iter().map(|one| (&one.destination, one.weight));
            Rule { name: format!("tls[{index}]"), when: conditions(&route.matches), to: shares(to), does: Vec::new() }
        });
        let tcp = spec.tcp.iter().enumerate().map(|(index, route)| {
            let to = route.route.iter().map(|one| (&one.destination, one.weight));
            Rule { name: format!("tcp[{index}]"), when: conditions(&route.matches), to: shares(to), does: Vec::new() }
        });
        let rules = http.chain(tls).chain(tcp).collect();
        Self { object: config.key.to_string(), hosts: spec.hosts.clone(), rules }
    }

    /// Of it, what leads to a service.
    pub fn to(mut self, service: &Service) -> Self {
        self.rules.retain(|rule| rule.to.iter().any(|share| share.host == *service.host));
        self
    }
}

fn http(index: usize, route: &HttpRoute) -> Rule {
    let name = if route.name.is_empty() { format!("http[{index}]") } else { format!("http[{index}] {}", route.name) };
    let to = shares(route.route.iter().map(|one| (&one.destination, one.weight)));
    let mut rest = serde_json::to_value(route).unwrap_or_default();
    if let Some(fields) = rest.as_object_mut() {
        for shown in ["name", "match", "route", "delegate"] {
            fields.remove(shown);
        }
    }
    let mut does = Vec::new();
    words("", &rest, &mut does);
    if route.retries.as_ref().is_some_and(|retries| retries.attempts == 0) {
        does.push("retries off".to_owned());
    }
    Rule { name, when: conditions(&route.matches), to, does }
}

fn shares<'a>(routes: impl Iterator<Item = (&'a Destination, i32)>) -> Vec<Share> {
    let all: Vec<(&Destination, i32)> = routes.collect();
    let sum: f64 = all.iter().map(|(_, weight)| f64::from(*weight)).sum();
    let share = |(destination, weight): &(&Destination, i32)| Share {
        host: destination.host.clone(),
        subset: destination.subset.clone(),
        port: destination.port.as_ref().map(|port| port.number),
        // The only destination gets everything, whatever its weight.
        percent: if all.len() == 1 { 100.0 } else { (f64::from(*weight) * 1000.0 / sum.max(1.0)).round() / 10.0 },
    };
    all.iter().map(share).collect()
}

fn conditions<T: Serialize>(matches: &[T]) -> Vec<String> {
    let one = |condition: &T| {
        let mut all = Vec::new();
        let mut value = serde_json::to_value(condition).unwrap_or_default();
        if let Some(fields) = value.as_object_mut() {
            for name in ["name", "statPrefix"] {
                fields.remove(name);
            }
        }
        words("", &value, &mut all);
        if all.is_empty() { "anything".to_owned() } else { all.join(", ") }
    };
    matches.iter().map(one).collect()
}

/// What an object of the configuration says, a phrase a field: `uri prefix /x`. Fields that say nothing are left out.
pub(super) fn words(path: &str, value: &Value, out: &mut Vec<String>) {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path} {name}") };
    match value {
        Value::Null | Value::Bool(false) => {}
        Value::Bool(true) => out.push(path.to_owned()),
        Value::Number(number) if number.as_f64() == Some(0.0) => {}
        Value::String(text) if text.is_empty() => {}
        // The only object that says something by being empty is the condition that a header is there.
        Value::Object(fields) if fields.is_empty() && path.split(' ').count() > 1 => {
            out.push(format!("{path} present"))
        }
        Value::Object(fields) => fields.iter().for_each(|(name, value)| words(&below(name), value, out)),
        Value::Array(items) if items.iter().all(|item| !item.is_object()) => {
            let items: Vec<String> = items.iter().map(scalar).collect();
            if !items.is_empty() {
                out.push(format!("{path} {}", items.join("|")));
            }
        }
        Value::Array(items) => items.iter().for_each(|item| words(path, item, out)),
        scalar_value => out.push(format!("{path} {}", scalar(scalar_value))),
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

//! Reads a proxy's `/config_dump` and `/clusters` in Envoy's shapes and makes the rows of `meshctl proxy-config`.
//!
//! The columns are those of `istioctl proxy-config`, so that runbooks stay true. Works with dumps of a stock Envoy too.

pub mod cluster;
pub mod endpoint;
pub mod listener;
pub mod route;
pub mod secret;

use std::net::SocketAddr;

use anyhow::{Result, bail};
use serde_json::Value;

use crate::http_client;

/// The answer of `/config_dump`.
#[derive(Debug, Clone)]
pub struct ConfigDump(pub Value);

static NULL: Value = Value::Null;

impl ConfigDump {
    /// Asks a proxy's admin port.
    pub async fn fetch(admin: SocketAddr) -> Result<Self> {
        let dump = http_client::get_json(admin, "/config_dump").await?;
        if list(&dump, "configs").is_empty() {
            bail!("http://{admin}/config_dump holds no configuration yet: is the proxy connected to a control plane?");
        }
        Ok(Self(dump))
    }

    /// Listeners, static ones too.
    pub fn listeners(&self) -> Vec<&Value> {
        let mut found: Vec<&Value> = self.section("ListenersConfigDump", "static_listeners", "listener");
        let dynamic = self.entries("ListenersConfigDump", "dynamic_listeners");
        found.extend(dynamic.iter().map(|entry| field(field(entry, "active_state"), "listener")));
        found.retain(|value| value.is_object());
        found
    }

    /// Clusters.
    pub fn clusters(&self) -> Vec<&Value> {
        let mut found = self.section("ClustersConfigDump", "static_clusters", "cluster");
        found.extend(self.section("ClustersConfigDump", "dynamic_active_clusters", "cluster"));
        found
    }

    /// Route tables, inline ones too.
    pub fn routes(&self) -> Vec<&Value> {
        let mut found = self.section("RoutesConfigDump", "dynamic_route_configs", "route_config");
        found.extend(self.section("RoutesConfigDump", "static_route_configs", "route_config"));
        found
    }

    /// What the proxy was started with; null if the dump does not tell.
    pub fn bootstrap(&self) -> &Value {
        let configs = list(&self.0, "configs");
        let found = configs.iter().find(|config| text(config, "@type").ends_with("BootstrapConfigDump"));
        found.map_or(&NULL, |config| field(config, "bootstrap"))
    }

    /// Secrets: the dump's entries (`name`, `secret`, …), active and waiting.
    pub fn secrets(&self) -> Vec<&Value> {
        ["static_secrets", "dynamic_active_secrets", "dynamic_warming_secrets"]
            .iter()
            .flat_map(|name| self.entries("SecretsConfigDump", name))
            .collect()
    }

    fn section(&self, kind: &str, entries: &str, wanted: &str) -> Vec<&Value> {
        let entries = self.entries(kind, entries).iter().map(|entry| field(entry, wanted));
        entries.filter(|value| value.is_object()).collect()
    }

    fn entries(&self, kind: &str, name: &str) -> &[Value] {
        let configs = list(&self.0, "configs");
        let found = configs.iter().find(|config| text(config, "@type").ends_with(kind));
        found.map_or(&[], |config| list(config, name))
    }
}

/// A field by its name in Protobuf; Envoy writes those, others write camel case.
pub fn field<'a>(value: &'a Value, name: &str) -> &'a Value {
    value.get(name).or_else(|| value.get(camel(name))).unwrap_or(&NULL)
}

/// A field deep inside; null where a step is missing.
pub fn path<'a>(value: &'a Value, names: &[&str]) -> &'a Value {
    names.iter().fold(value, |value, name| field(value, name))
}

/// A list; empty if absent.
pub fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    field(value, name).as_array().map_or(&[], Vec::as_slice)
}

/// A text; empty if absent.
pub fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    field(value, name).as_str().unwrap_or("")
}

/// The texts of a list.
pub fn texts<'a>(value: &'a Value, name: &str) -> Vec<&'a str> {
    list(value, name).iter().filter_map(Value::as_str).collect()
}

/// A number, which Protobuf's JSON may write as a text.
pub fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok()).or_else(|| field(value, "value").as_u64())
}

/// `NAME.NAMESPACE` of the object whose path Istio's metadata tells
/// (`/apis/networking.istio.io/v1/namespaces/NAMESPACE/virtual-service/NAME`); empty without.
pub fn config_object(value: &Value) -> String {
    let config = text(path(value, &["metadata", "filter_metadata", "istio"]), "config");
    let mut parts = config.rsplit('/');
    let (name, _kind, namespace) = (parts.next(), parts.next(), parts.next());
    match (name, namespace) {
        (Some(name), Some(namespace)) if !name.is_empty() => format!("{name}.{namespace}"),
        _ => String::new(),
    }
}

/// `IP:PORT` of an Envoy `Address`, or a Unix socket's path.
pub fn address(value: &Value) -> (String, Option<u64>) {
    let socket = field(value, "socket_address");
    if socket.is_object() {
        return (text(socket, "address").to_owned(), number(field(socket, "port_value")));
    }
    let pipe = text(field(value, "pipe"), "path");
    (if pipe.is_empty() { String::new() } else { format!("unix://{pipe}") }, None)
}

fn camel(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut upper = false;
    for character in name.chars() {
        match character {
            '_' => upper = true,
            other if upper => {
                out.extend(other.to_uppercase());
                upper = false;
            }
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_are_found_in_both_spellings() {
        let value =
            json!({"filterChains": [1], "active_state": {"listener": {"name": "a"}}, "n": "7", "w": {"value": 3}});
        assert_eq!(list(&value, "filter_chains").len(), 1);
        assert_eq!(text(path(&value, &["active_state", "listener"]), "name"), "a");
        assert_eq!(number(field(&value, "n")), Some(7));
        assert_eq!(number(field(&value, "w")), Some(3));
    }

    #[test]
    fn objects_are_named_from_their_path() {
        let value = |config: &str| json!({"metadata": {"filter_metadata": {"istio": {"config": config}}}});
        let path = "/apis/networking.istio.io/v1/namespaces/default/virtual-service/reviews";
        assert_eq!(config_object(&value(path)), "reviews.default");
        assert_eq!(config_object(&json!({})), "");
    }
}

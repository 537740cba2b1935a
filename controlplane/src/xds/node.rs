//! Who connects: Envoy's `Node` to [`Node`], checked. The contract is docs/xds.md, "The node".

use std::collections::BTreeMap;
use std::net::IpAddr;

use mesh_proto::xds::{core, wkt};
use serde_json::Value;

use crate::model::{Interception, Node, NodeKind};

/// The longest `node.id` that is taken, bytes.
const MAX_ID: usize = 2048;

/// Why a node is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// The first request has none.
    #[error("the first request of a stream must hold `node`")]
    Missing,
    /// The id is of another form.
    #[error("node.id `{id}` is not TYPE~IP~NAME.NAMESPACE~DOMAIN: {reason}")]
    Id {
        /// What was sent, shortened.
        id: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A field of the metadata is wrong.
    #[error("node.metadata.{field}: {reason}")]
    Metadata {
        /// Its path.
        field: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// Reads a node.
pub fn parse(node: Option<&core::Node>) -> Result<Node, NodeError> {
    let node = node.ok_or(NodeError::Missing)?;
    let id = parse_id(&node.id)?;
    let metadata = node.metadata.as_ref().map(|fields| json(&fields.fields)).unwrap_or_default();
    let metadata = Metadata(metadata);
    let namespace = metadata.name("NAMESPACE")?.unwrap_or_else(|| id.namespace.to_owned());
    let name = metadata.name("NAME")?.unwrap_or_else(|| id.name.to_owned());
    let mut addresses: Vec<IpAddr> = id.address.into_iter().collect();
    for text in metadata.text("INSTANCE_IPS")?.iter().flat_map(|list| list.split(',')).filter(|text| !text.is_empty()) {
        let address = text.trim().parse().map_err(|_| wrong("INSTANCE_IPS", "an element is no IP address"))?;
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    let interception = match metadata.text("INTERCEPTION_MODE")?.as_deref() {
        None | Some("" | "REDIRECT") => Interception::Redirect,
        Some("TPROXY") => Interception::Tproxy,
        Some("NONE") => Interception::None,
        Some(_) => return Err(wrong("INTERCEPTION_MODE", "not one of REDIRECT, TPROXY, NONE")),
    };
    let generator = metadata.text("GENERATOR")?.unwrap_or_default();
    let grpc = generator == "grpc" || node.user_agent_name.to_ascii_lowercase().starts_with("grpc");
    if !matches!(generator.as_str(), "" | "grpc") {
        return Err(wrong("GENERATOR", "not `grpc`, the only generator beside the usual"));
    }
    let locality = node.locality.as_ref().map(|at| format!("{}/{}/{}", at.region, at.zone, at.sub_zone));
    let proxy_config = metadata.0.get("PROXY_CONFIG").cloned().unwrap_or(Value::Null);
    if !matches!(proxy_config, Value::Null | Value::Object(_)) {
        return Err(wrong("PROXY_CONFIG", "not an object"));
    }
    Ok(Node {
        id: node.id.as_str().into(),
        kind: id.kind,
        workload_name: metadata.text("WORKLOAD_NAME")?.unwrap_or_default().into(),
        service_account: metadata.name("SERVICE_ACCOUNT")?.unwrap_or_default().into(),
        name: name.into(),
        namespace: namespace.into(),
        addresses,
        labels: metadata.map("LABELS")?,
        annotations: metadata.map("ANNOTATIONS")?,
        cluster: metadata.text("CLUSTER_ID")?.unwrap_or_default().into(),
        network: metadata.text("NETWORK")?.unwrap_or_default().into(),
        dns_domain: id.domain.into(),
        interception,
        locality: locality.filter(|text| text != "//").unwrap_or_default().into(),
        ferromesh: metadata.text("FERROMESH")?.is_some_and(|version| !version.is_empty()),
        proxy_config,
        dns_capture: metadata.truth("DNS_CAPTURE")?.unwrap_or(false)
            && metadata.truth("DNS_AUTO_ALLOCATE")?.unwrap_or(true),
        vhds: metadata.truth("FERROMESH_VHDS")?.unwrap_or(false),
        grpc,
    })
}

/// The WorkloadGroup by whose template the workload registers itself (`AUTO_REGISTER_GROUP`), if it does.
pub fn register_group(node: Option<&core::Node>) -> Result<Option<String>, NodeError> {
    let metadata = node.and_then(|node| node.metadata.as_ref()).map(|fields| json(&fields.fields));
    Metadata(metadata.unwrap_or_default()).name("AUTO_REGISTER_GROUP")
}

struct Id<'a> {
    kind: NodeKind,
    address: Option<IpAddr>,
    name: &'a str,
    namespace: &'a str,
    domain: &'a str,
}

fn parse_id(id: &str) -> Result<Id<'_>, NodeError> {
    let wrong = |reason| NodeError::Id { id: id.chars().take(256).collect(), reason };
    if id.len() > MAX_ID {
        return Err(wrong("longer than 2048 bytes"));
    }
    let mut parts = id.split('~');
    let (Some(kind), Some(address), Some(name), Some(domain), None) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(wrong("it has not four parts"));
    };
    let kind = match kind {
        "sidecar" => NodeKind::Sidecar,
        "router" => NodeKind::Router,
        _ => return Err(wrong("TYPE is neither `sidecar` nor `router`")),
    };
    let address = match address {
        "" => None,
        text => Some(text.parse().map_err(|_| wrong("IP is no IP address"))?),
    };
    // Pod names hold dots, namespaces do not.
    let (name, namespace) = name.rsplit_once('.').ok_or_else(|| wrong("the third part is not NAME.NAMESPACE"))?;
    if !is_name(name) || !is_name(namespace) {
        return Err(wrong(
            "NAME or NAMESPACE is empty or holds a character that is not a letter, digit, `.`, `-`, `_`",
        ));
    }
    if domain.is_empty() || !is_name(domain) {
        return Err(wrong("DOMAIN is no domain"));
    }
    Ok(Id { kind, address, name, namespace, domain })
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
}

fn wrong(field: &str, reason: &'static str) -> NodeError {
    NodeError::Metadata { field: field.to_owned(), reason }
}

struct Metadata(serde_json::Map<String, Value>);

impl Metadata {
    fn text(&self, field: &str) -> Result<Option<String>, NodeError> {
        match self.0.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(wrong(field, "not a string")),
        }
    }

    /// A truth, as text or as JSON; Istio's agent sends text.
    fn truth(&self, field: &str) -> Result<Option<bool>, NodeError> {
        match self.0.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(truth)) => Ok(Some(*truth)),
            Some(Value::String(text)) => match text.to_ascii_lowercase().as_str() {
                "" => Ok(None),
                "true" | "1" | "t" => Ok(Some(true)),
                "false" | "0" | "f" => Ok(Some(false)),
                _ => Err(wrong(field, "neither `true` nor `false`")),
            },
            Some(_) => Err(wrong(field, "neither `true` nor `false`")),
        }
    }

    /// A text that becomes part of names; an empty one is as good as none.
    fn name(&self, field: &str) -> Result<Option<String>, NodeError> {
        match self.text(field)?.filter(|text| !text.is_empty()) {
            Some(text) if !is_name(&text) => {
                Err(wrong(field, "holds a character that is not a letter, digit, `.`, `-`, `_`"))
            }
            other => Ok(other),
        }
    }

    fn map(&self, field: &str) -> Result<BTreeMap<String, String>, NodeError> {
        let object = match self.0.get(field) {
            None | Some(Value::Null) => return Ok(BTreeMap::new()),
            Some(Value::Object(object)) => object,
            Some(_) => return Err(wrong(field, "not an object")),
        };
        let entry = |(key, value): (&String, &Value)| match value {
            Value::String(text) => Ok((key.clone(), text.clone())),
            _ => Err(wrong(&format!("{field}.{key}"), "not a string")),
        };
        object.iter().map(entry).collect()
    }
}

/// The fields of a `google.protobuf.Struct` as JSON.
fn json<'a>(fields: impl IntoIterator<Item = (&'a String, &'a wkt::Value)>) -> serde_json::Map<String, Value> {
    fields.into_iter().map(|(key, value)| (key.clone(), json_value(value))).collect()
}

fn json_value(value: &wkt::Value) -> Value {
    use wkt::value::Kind;
    // prost bounds the depth of what it decodes, so the recursion is bounded too.
    match &value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(flag)) => Value::Bool(*flag),
        Some(Kind::NumberValue(number)) => serde_json::Number::from_f64(*number).map_or(Value::Null, Value::Number),
        Some(Kind::StringValue(text)) => Value::String(text.clone()),
        Some(Kind::ListValue(list)) => Value::Array(list.values.iter().map(json_value).collect()),
        Some(Kind::StructValue(object)) => Value::Object(json(&object.fields)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn node(id: &str, metadata: &str) -> Result<Node, NodeError> {
        let yaml = format!("{{id: '{id}', metadata: {metadata}, locality: {{region: r, zone: z}}}}");
        parse(Some(&mesh_proto::yaml::from_yaml(&yaml).unwrap()))
    }

    #[test]
    fn a_node_of_istio_agent_is_read() {
        let metadata = "{NAMESPACE: default, NAME: a.b, SERVICE_ACCOUNT: sa, WORKLOAD_NAME: a, LABELS: {app: a}, \
             CLUSTER_ID: Kubernetes, INSTANCE_IPS: '10.0.0.1,fd00::1', INTERCEPTION_MODE: NONE, FERROMESH: '0.1.0', \
             PROXY_CONFIG: {concurrency: 2}}";
        let node = node("sidecar~10.0.0.1~a.b.default~default.svc.cluster.local", metadata).unwrap();
        assert_eq!((&*node.name, &*node.namespace, &*node.service_account), ("a.b", "default", "sa"));
        assert_eq!(node.addresses, ["10.0.0.1".parse::<IpAddr>().unwrap(), "fd00::1".parse().unwrap()]);
        assert_eq!((node.interception, node.ferromesh, node.grpc), (Interception::None, true, false));
        assert_eq!((&*node.locality, &*node.dns_domain), ("r/z/", "default.svc.cluster.local"));
        assert_eq!(node.labels["app"], "a");
        assert_eq!(node.proxy_config["concurrency"], 2.0);
        assert!(!node.dns_capture);
    }

    #[test]
    fn addresses_that_the_mesh_gave_are_for_proxies_that_answer_dns() {
        let id = "sidecar~10.0.0.1~a.default~default.svc.cluster.local";
        for (metadata, expected) in [
            ("{DNS_CAPTURE: 'true'}", true),
            ("{DNS_CAPTURE: true}", true),
            ("{DNS_CAPTURE: 'false'}", false),
            ("{DNS_CAPTURE: 'true', DNS_AUTO_ALLOCATE: 'false'}", false),
            ("{DNS_AUTO_ALLOCATE: 'true'}", false),
        ] {
            assert_eq!(node(id, metadata).unwrap().dns_capture, expected, "{metadata}");
        }
    }

    #[test]
    fn a_wrong_node_is_refused_with_its_reason() {
        assert_eq!(parse(None), Err(NodeError::Missing));
        let good = "sidecar~10.0.0.1~a.default~default.svc.cluster.local";
        for (id, metadata, reason) in [
            ("", "{}", "four parts"),
            ("sidecar~10.0.0.1~a.default", "{}", "four parts"),
            ("ztunnel~10.0.0.1~a.default~d", "{}", "neither `sidecar` nor `router`"),
            ("sidecar~ten~a.default~d", "{}", "IP is no IP address"),
            ("sidecar~10.0.0.1~a~d", "{}", "not NAME.NAMESPACE"),
            ("sidecar~10.0.0.1~a.~d", "{}", "NAME or NAMESPACE"),
            ("sidecar~10.0.0.1~a/b.c~d", "{}", "NAME or NAMESPACE"),
            ("sidecar~10.0.0.1~a.b~", "{}", "DOMAIN"),
            (good, "{LABELS: {app: 1}}", "node.metadata.LABELS.app: not a string"),
            (good, "{LABELS: x}", "node.metadata.LABELS: not an object"),
            (good, "{NAMESPACE: 'a b'}", "node.metadata.NAMESPACE: holds"),
            (good, "{INSTANCE_IPS: '10.0.0.1,x'}", "node.metadata.INSTANCE_IPS"),
            (good, "{INTERCEPTION_MODE: SOME}", "node.metadata.INTERCEPTION_MODE"),
            (good, "{GENERATOR: event}", "node.metadata.GENERATOR"),
            (good, "{PROXY_CONFIG: 1}", "node.metadata.PROXY_CONFIG"),
            (good, "{DNS_CAPTURE: some}", "node.metadata.DNS_CAPTURE"),
            (good, "{FERROMESH_VHDS: some}", "node.metadata.FERROMESH_VHDS"),
        ] {
            let error = node(id, metadata).unwrap_err().to_string();
            assert!(error.contains(reason), "{id} {metadata}: {error}");
        }
        assert!(node(&format!("sidecar~10.0.0.1~{}.b~d", "a".repeat(3000)), "{}").is_err());
    }
}

//! Who a peer is, in the words of metric labels.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mesh_proto::names::label;
use prost::Message;

use crate::Name;

/// A workload as metric labels name it (MT3, MT5). Unknown values are `unknown` when written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Peer {
    /// Workload, such as the Deployment.
    pub workload: Option<Name>,
    /// Namespace.
    pub namespace: Option<Name>,
    /// Label `app`.
    pub app: Option<Name>,
    /// Label `version`.
    pub version: Option<Name>,
    /// Canonical service.
    pub canonical_service: Option<Name>,
    /// Canonical revision.
    pub canonical_revision: Option<Name>,
    /// Cluster id.
    pub cluster: Option<Name>,
}

/// The largest peer metadata header in bytes that is read.
const MAX_HEADER: usize = 16 * 1024;

/// A map of JSON values, as node metadata and peer metadata are.
pub type Fields = serde_json::Map<String, serde_json::Value>;

impl Peer {
    /// From node metadata, or what a peer sent: `NAME`, `NAMESPACE`, `WORKLOAD_NAME`, `LABELS`, `CLUSTER_ID`.
    pub fn from_metadata(fields: &Fields) -> Self {
        let text = |key: &str| fields.get(key)?.as_str().filter(|text| !text.is_empty()).map(Name::from);
        let labels = fields.get("LABELS").and_then(|labels| labels.as_object());
        let get = |key: &str| labels?.get(key)?.as_str();
        let workload = text("WORKLOAD_NAME").or_else(|| text("NAME"));
        let (service, revision) = label::canonical(get, workload.as_deref().unwrap_or("unknown"));
        Self {
            namespace: text("NAMESPACE"),
            app: get(label::APP).map(Into::into),
            version: get(label::VERSION).map(Into::into),
            canonical_service: Some(service.into()),
            canonical_revision: Some(revision.into()),
            cluster: text("CLUSTER_ID"),
            workload,
        }
    }

    /// The value of `x-envoy-peer-metadata` that tells others of a node.
    pub fn encode(fields: &Fields) -> String {
        let wanted = ["NAME", "NAMESPACE", "WORKLOAD_NAME", "LABELS", "CLUSTER_ID", "OWNER", "INSTANCE_IPS"];
        let fields = fields.iter().filter(|(key, _)| wanted.contains(&key.as_str()));
        let fields = fields.map(|(key, value)| (key.clone(), to_proto(value))).collect();
        STANDARD.encode(prost_types::Struct { fields }.encode_to_vec())
    }

    /// Reads such a value; `None` if it is malformed.
    pub fn decode(header: &[u8]) -> Option<Self> {
        if header.len() > MAX_HEADER {
            return None;
        }
        let message = prost_types::Struct::decode(STANDARD.decode(header).ok()?.as_slice()).ok()?;
        let fields = message.fields.into_iter().map(|(key, value)| (key, from_proto(value))).collect();
        Some(Self::from_metadata(&fields))
    }
}

fn to_proto(value: &serde_json::Value) -> prost_types::Value {
    use prost_types::value::Kind;
    let kind = match value {
        serde_json::Value::String(text) => Kind::StringValue(text.clone()),
        serde_json::Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        serde_json::Value::Bool(truth) => Kind::BoolValue(*truth),
        serde_json::Value::Object(map) => Kind::StructValue(prost_types::Struct {
            fields: map.iter().map(|(key, value)| (key.clone(), to_proto(value))).collect(),
        }),
        _ => Kind::NullValue(0),
    };
    prost_types::Value { kind: Some(kind) }
}

fn from_proto(value: prost_types::Value) -> serde_json::Value {
    use prost_types::value::Kind;
    match value.kind {
        Some(Kind::StringValue(text)) => text.into(),
        Some(Kind::NumberValue(number)) => number.into(),
        Some(Kind::BoolValue(truth)) => truth.into(),
        Some(Kind::StructValue(fields)) => {
            serde_json::Value::Object(fields.fields.into_iter().map(|(key, value)| (key, from_proto(value))).collect())
        }
        _ => serde_json::Value::Null,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn metadata_makes_the_round_trip() {
        let node = serde_json::json!({
            "NAME": "reviews-v1-abc", "NAMESPACE": "default", "WORKLOAD_NAME": "reviews-v1", "CLUSTER_ID": "Kubernetes",
            "LABELS": {"app": "reviews", "version": "v1"}, "SECRET": "not told",
        });
        let peer = Peer::decode(Peer::encode(node.as_object().unwrap()).as_bytes()).unwrap();
        assert_eq!(peer.workload.as_deref(), Some("reviews-v1"));
        assert_eq!((peer.app.as_deref(), peer.version.as_deref()), (Some("reviews"), Some("v1")));
        assert_eq!(peer.canonical_service.as_deref(), Some("reviews"));
        assert_eq!(peer.canonical_revision.as_deref(), Some("v1"));
        for bad in [&b"%%"[..], b"AAAA", &[b'A'; 20_000]] {
            assert_eq!(Peer::decode(bad), None);
        }
    }
}

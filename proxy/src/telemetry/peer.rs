//! Who a peer is, in the words of metric labels.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mesh_proto::names::{header, label};
use prost::Message;
use prost_types::value::Kind;

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

/// The most peer metadata in bytes that is read, as a header or before a stream; Istio's proxies send less than 2 KiB.
pub const MAX_METADATA: usize = 16 * 1024;

const STRUCT: &str = "type.googleapis.com/google.protobuf.Struct";

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

    /// What others are told of a node.
    pub fn message(fields: &Fields) -> prost_types::Struct {
        let wanted = ["NAME", "NAMESPACE", "WORKLOAD_NAME", "LABELS", "CLUSTER_ID", "OWNER", "INSTANCE_IPS"];
        let fields = fields.iter().filter(|(key, _)| wanted.contains(&key.as_str()));
        prost_types::Struct { fields: fields.map(|(key, value)| (key.clone(), to_proto(value))).collect() }
    }

    /// The same as the value of `x-envoy-peer-metadata`.
    pub fn encode(message: &prost_types::Struct) -> String {
        STANDARD.encode(message.encode_to_vec())
    }

    /// Reads such a value; `None` if it is malformed.
    pub fn decode(header: &[u8]) -> Option<Self> {
        if header.len() > MAX_METADATA {
            return None;
        }
        Some(Self::from_message(prost_types::Struct::decode(STANDARD.decode(header).ok()?.as_slice()).ok()?))
    }

    /// Reads what [`told`] makes; `None` if it is malformed or says nothing of the peer.
    pub fn heard(message: &[u8]) -> Option<Self> {
        let any = prost_types::Any::decode(message).ok().filter(|any| any.type_url == STRUCT)?;
        let mut fields = prost_types::Struct::decode(any.value.as_slice()).ok()?.fields;
        match fields.remove(header::PEER_METADATA)?.kind? {
            Kind::StructValue(message) => Some(Self::from_message(message)),
            _ => None,
        }
    }

    fn from_message(message: prost_types::Struct) -> Self {
        Self::from_metadata(&message.fields.into_iter().map(|(key, value)| (key, from_proto(value))).collect())
    }
}

/// What is told over TCP ([`crate::tcp::exchange`]): an `Any` of a `Struct` with [`Peer::message`] and the node's id.
pub fn told(metadata: Option<prost_types::Struct>, id: &str) -> Vec<u8> {
    let field = |name: &str, kind| (name.to_owned(), prost_types::Value { kind: Some(kind) });
    let metadata = metadata.map(|metadata| field(header::PEER_METADATA, Kind::StructValue(metadata)));
    let id = field(header::PEER_METADATA_ID, Kind::StringValue(id.to_owned()));
    let both = prost_types::Struct { fields: metadata.into_iter().chain([id]).collect() };
    prost_types::Any { type_url: STRUCT.to_owned(), value: both.encode_to_vec() }.encode_to_vec()
}

fn to_proto(value: &serde_json::Value) -> prost_types::Value {
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
        let message = Peer::message(node.as_object().unwrap());
        let peer = Peer::decode(Peer::encode(&message).as_bytes()).unwrap();
        assert_eq!(Peer::heard(&told(Some(message), "sidecar~reviews")), Some(peer.clone()));
        assert_eq!(peer.workload.as_deref(), Some("reviews-v1"));
        assert_eq!((peer.app.as_deref(), peer.version.as_deref()), (Some("reviews"), Some("v1")));
        assert_eq!(peer.canonical_service.as_deref(), Some("reviews"));
        assert_eq!(peer.canonical_revision.as_deref(), Some("v1"));
        for bad in [&b"%%"[..], b"AAAA", &[b'A'; 20_000]] {
            assert_eq!(Peer::decode(bad), None);
        }
    }
}

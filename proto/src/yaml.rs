//! Protobuf messages as YAML and JSON, by protobuf's JSON mapping: bootstraps, config dumps, golden files.

use prost::Message;
use prost_reflect::{DynamicMessage, SerializeOptions};

use crate::descriptor;

/// Reads YAML (or JSON, which is YAML) as the message `M`. Unknown fields are errors; an error names the path of the field.
pub fn from_yaml<M: Message + prost::Name + Default>(text: &str) -> Result<M, String> {
    let message = dynamic_from_yaml(&M::full_name(), text)?;
    M::decode(message.encode_to_vec().as_slice()).map_err(|error| error.to_string())
}

/// As [`from_yaml`], for a message known by name.
pub fn dynamic_from_yaml(name: &str, text: &str) -> Result<DynamicMessage, String> {
    let descriptor = descriptor::message(name).ok_or_else(|| format!("message type {name} is not known"))?;
    // YAML first becomes JSON values: the mapping knows nothing of YAML's tags, and merge keys are resolved there.
    let value: yaml_serde::Value = yaml_serde::from_str(text).map_err(|error| error.to_string())?;
    let value: serde_json::Value = serde_json::to_value(value).map_err(|error| error.to_string())?;
    let mut track = serde_path_to_error::Track::new();
    let deserializer = serde_path_to_error::Deserializer::new(value, &mut track);
    DynamicMessage::deserialize(descriptor, deserializer).map_err(|error| {
        let path = track.path().to_string();
        if path == "." { error.to_string() } else { format!("{path}: {error}") }
    })
}

/// A message as JSON, fields by their proto names (as Envoy's config dump writes them), unset fields left out.
pub fn to_json<M: Message + prost::Name>(message: &M) -> Result<serde_json::Value, String> {
    bytes_to_json(&M::full_name(), &message.encode_to_vec())
}

/// Encoded bytes of a message known by name or type URL as JSON.
pub fn bytes_to_json(name: &str, bytes: &[u8]) -> Result<serde_json::Value, String> {
    let message = descriptor::dynamic(name, bytes)?;
    let options = SerializeOptions::new().use_proto_field_name(true).stringify_64_bit_integers(false);
    message.serialize_with_options(serde_json::value::Serializer, &options).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::xds;

    #[test]
    fn a_cluster_is_read_and_written() {
        let yaml = "{name: a, type: STATIC, connect_timeout: 0.25s, load_assignment: {cluster_name: a, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 80}}}}]}]}}";
        let cluster: xds::cluster::Cluster = from_yaml(yaml).unwrap();
        assert_eq!(cluster.connect_timeout.unwrap().nanos, 250_000_000);
        let json = to_json(&cluster).unwrap();
        assert_eq!(json["connect_timeout"], "0.250s");
        assert_eq!(json["load_assignment"]["cluster_name"], "a");
    }

    #[test]
    fn typed_config_is_read_through_any() {
        let yaml = "{name: l, filter_chains: [{filters: [{name: t, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: x, cluster: c}}]}]}";
        let listener: xds::listener::Listener = from_yaml(yaml).unwrap();
        let json = to_json(&listener).unwrap();
        assert_eq!(json["filter_chains"][0]["filters"][0]["typed_config"]["cluster"], "c");
    }

    #[test]
    fn an_error_names_the_field() {
        for (yaml, error) in [
            ("{name: a, lb_polici: RANDOM}", "lb_polici"),
            ("{name: a, connect_timeout: fast}", "connect_timeout"),
            ("{name: a, load_assignment: {endpoints: [{priority: many}]}}", "load_assignment.endpoints[0].priority"),
        ] {
            let found = from_yaml::<xds::cluster::Cluster>(yaml).unwrap_err();
            assert!(found.contains(error), "{yaml}: {found}");
        }
    }
}

//! Small pieces of Envoy messages that every translation uses.

use std::time::Duration;

use mesh_proto::xds::{core, listener, tls, wkt};

use crate::model::{Key, Node};

/// A duration.
pub fn duration(value: Duration) -> wkt::Duration {
    wkt::Duration {
        seconds: i64::try_from(value.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(value.subsec_nanos()).unwrap_or(0),
    }
}

/// A boolean that is told apart from an absent one.
pub fn boolean(value: bool) -> Option<wkt::BoolValue> {
    Some(wkt::BoolValue { value })
}

/// A number that is told apart from an absent one.
pub fn number(value: u32) -> Option<wkt::UInt32Value> {
    Some(wkt::UInt32Value { value })
}

/// "Ask on the stream that this came over." Waits without limit, as Istio does: a proxy must not go on without the resource.
pub fn ads() -> core::ConfigSource {
    core::ConfigSource {
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(
            core::AggregatedConfigSource::default(),
        )),
        resource_api_version: core::ApiVersion::V3.into(),
        initial_fetch_timeout: Some(duration(Duration::ZERO)),
        ..Default::default()
    }
}

/// A secret by its name. What control planes know (`kubernetes://`) comes with the rest; the workload's own certificate and files come from
/// the agent beside a stock Envoy, where Istio's bootstrap has the cluster `sds-grpc`. Our proxy is its own agent, whatever the source.
pub fn secret(node: &Node, name: impl Into<String>) -> tls::SdsSecretConfig {
    let name = name.into();
    let source = if node.ferromesh || name.starts_with("kubernetes://") { ads() } else { agent() };
    tls::SdsSecretConfig { name, sds_config: Some(source) }
}

fn agent() -> core::ConfigSource {
    use core::grpc_service::{EnvoyGrpc, TargetSpecifier};
    let agent = EnvoyGrpc { cluster_name: "sds-grpc".to_owned(), ..Default::default() };
    let source = core::ApiConfigSource {
        api_type: core::api_config_source::ApiType::Grpc.into(),
        transport_api_version: core::ApiVersion::V3.into(),
        set_node_on_first_message_only: true,
        grpc_services: vec![core::GrpcService {
            target_specifier: Some(TargetSpecifier::EnvoyGrpc(agent)),
            ..Default::default()
        }],
        ..Default::default()
    };
    let specifier = core::config_source::ConfigSourceSpecifier::ApiConfigSource(source);
    core::ConfigSource { config_source_specifier: Some(specifier), ..ads() }
}

/// `filter_metadata.istio.config`: the path of the object that a piece of configuration was made of, in Istio's form.
pub fn config_metadata(key: &Key) -> core::Metadata {
    let group = "networking.istio.io/v1alpha3";
    let kind = kebab(&format!("{:?}", key.kind));
    istio_metadata([("config", format!("/apis/{group}/namespaces/{}/{kind}/{}", key.namespace, key.name))])
}

/// `filter_metadata.istio` of these strings.
pub fn istio_metadata(fields: impl IntoIterator<Item = (&'static str, String)>) -> core::Metadata {
    let fields = fields.into_iter().map(|(name, text)| (name.to_owned(), string(text))).collect();
    core::Metadata {
        filter_metadata: [("istio".to_owned(), wkt::Struct { fields })].into(),
        typed_filter_metadata: Default::default(),
    }
}

/// A string as a value of a struct.
pub fn string(text: impl Into<String>) -> wkt::Value {
    wkt::Value { kind: Some(wkt::value::Kind::StringValue(text.into())) }
}

/// A TCP address.
pub fn socket_address(host: impl Into<String>, port: u16) -> core::Address {
    core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            address: host.into(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port.into())),
            ..Default::default()
        })),
    }
}

/// Where captured connections come to: every address, in each IP version that the node has.
pub fn any_address(node: &Node, port: u16) -> (core::Address, Vec<listener::AdditionalAddress>) {
    const IPV6: &str = "::";
    if !node.has_ipv4() {
        return (socket_address(IPV6, port), Vec::new());
    }
    let second = listener::AdditionalAddress { address: Some(socket_address(IPV6, port)), ..Default::default() };
    (socket_address("0.0.0.0", port), if node.has_ipv6() { vec![second] } else { Vec::new() })
}

/// An address to bind: an IP address with a port, or `unix://PATH`.
pub fn bind_address(bind: &str, port: u16) -> core::Address {
    match bind.strip_prefix("unix://") {
        None => socket_address(bind, port),
        Some(path) => {
            core::Address { address: Some(core::address::Address::Pipe(core::Pipe { path: path.to_owned(), mode: 0 })) }
        }
    }
}

/// `VirtualService` → `virtual-service`.
fn kebab(kind: &str) -> String {
    let mut name = String::new();
    for (at, letter) in kind.chars().enumerate() {
        if letter.is_ascii_uppercase() && at > 0 {
            name.push('-');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::model::Kind;

    #[test]
    fn the_path_of_an_object_is_istios() {
        let key = Key { kind: Kind::VirtualService, namespace: "shop".into(), name: "reviews".into() };
        let json = mesh_proto::yaml::to_json(&config_metadata(&key)).unwrap();
        assert_eq!(
            json["filter_metadata"]["istio"]["config"],
            "/apis/networking.istio.io/v1alpha3/namespaces/shop/virtual-service/reviews"
        );
    }
}

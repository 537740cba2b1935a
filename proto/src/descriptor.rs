//! Descriptors of everything that crosses the wire, for reading and writing messages as YAML and JSON.
//!
//! The set is generated (`cargo xtask codegen`) and unpacked once at first use.

use std::io::Read;
use std::sync::LazyLock;

use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};

static PACKED: &[u8] = include_bytes!("generated/descriptors.binpb.gz");

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let mut bytes = Vec::new();
    let unpacked = flate2::read::GzDecoder::new(PACKED).read_to_end(&mut bytes);
    // The bytes are part of the program, so a failure is a broken build; a test reads them.
    unpacked.ok().and_then(|_| DescriptorPool::decode(bytes.as_slice()).ok()).unwrap_or_default()
});

/// The descriptors of Envoy's v3 API, Istio's messages and ours.
pub fn pool() -> &'static DescriptorPool {
    &POOL
}

/// The descriptor of a message by full name or type URL.
pub fn message(name: &str) -> Option<MessageDescriptor> {
    pool().get_message_by_name(name.rsplit('/').next().unwrap_or(name))
}

/// Bytes of a known message as a value that can be walked field by field.
pub fn dynamic(name: &str, bytes: &[u8]) -> Result<DynamicMessage, String> {
    let descriptor = message(name).ok_or_else(|| format!("message type {name} is not known"))?;
    DynamicMessage::decode(descriptor, bytes).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_set_holds_what_crosses_the_wire() {
        for name in [
            crate::xds::type_url::LISTENER,
            crate::xds::type_url::CLUSTER,
            crate::xds::type_url::SECRET,
            crate::xds::type_url::NAME_TABLE,
            "envoy.config.bootstrap.v3.Bootstrap",
            "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "ferromesh.v1.Stats",
        ] {
            assert!(message(name).is_some(), "{name}");
        }
    }
}

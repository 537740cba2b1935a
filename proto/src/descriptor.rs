//! Descriptors of everything that crosses the wire, for reading and writing messages as YAML and JSON.
//!
//! The set is generated (`cargo xtask codegen`) and unpacked at first use. It takes megabytes, which a sidecar needs only while it reads
//! configuration, so it can be forgotten ([`forget_unused`]).

use std::io::Read;
use std::sync::{Mutex, PoisonError};

use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};

static PACKED: &[u8] = include_bytes!("generated/descriptors.binpb.gz");

static POOL: Mutex<Option<Unpacked>> = Mutex::new(None);

struct Unpacked {
    pool: DescriptorPool,
    used: bool,
}

/// Unpacks in a thread of its own: allocators keep threads apart, so that when the set is forgotten whole pages become free, and not
/// holes between what was made meanwhile.
fn unpack_apart() -> DescriptorPool {
    let apart = std::thread::Builder::new().spawn(unpack).ok().and_then(|thread| thread.join().ok());
    // Where no more threads may be made, holes are the lesser evil.
    apart.unwrap_or_else(unpack)
}

fn unpack() -> DescriptorPool {
    let mut bytes = Vec::new();
    let unpacked = flate2::read::GzDecoder::new(PACKED).read_to_end(&mut bytes);
    // The bytes are part of the program, so a failure is a broken build; a test reads them.
    unpacked.ok().and_then(|_| DescriptorPool::decode(bytes.as_slice()).ok()).unwrap_or_default()
}

/// The descriptors of Envoy's v3 API, Istio's messages and ours. A clone is cheap.
pub fn pool() -> DescriptorPool {
    let mut kept = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    let unpacked = kept.get_or_insert_with(|| Unpacked { pool: unpack_apart(), used: true });
    unpacked.used = true;
    unpacked.pool.clone()
}

/// Frees the descriptors if nobody has asked for them since the last call; true if it did.
pub fn forget_unused() -> bool {
    let mut kept = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    let unused = kept.as_mut().is_some_and(|unpacked| !std::mem::take(&mut unpacked.used));
    if unused {
        *kept = None;
    }
    unused
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

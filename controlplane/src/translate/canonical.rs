//! One encoding for one message. prost keeps protobuf maps in hash maps and writes them in random order, which would make every
//! resource look changed at every push. Here the entries of each map are put in the order of their bytes, inside `Any`s too.

use bytes::{Buf, Bytes};
use mesh_proto::descriptor;
use prost::Message;
use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint};
use prost_reflect::{Kind, MessageDescriptor};

const ANY: &str = "google.protobuf.Any";
/// Field numbers of `google.protobuf.Any`.
const TYPE_URL: u32 = 1;
const VALUE: u32 = 2;

/// The bytes of a message; equal messages have equal bytes.
pub fn encode<M: Message + prost::Name>(message: &M) -> Bytes {
    let bytes = message.encode_to_vec();
    // Unknown types and malformed bytes cannot come from our own encoder; if they did, they would be sent as they are.
    descriptor::message(&M::full_name()).and_then(|kind| ordered(&kind, &bytes)).unwrap_or(bytes).into()
}

/// The same message with ordered maps; `None` if the bytes are malformed.
fn ordered(kind: &MessageDescriptor, bytes: &[u8]) -> Option<Vec<u8>> {
    if kind.full_name() == ANY {
        return ordered_any(bytes);
    }
    let mut output = Vec::with_capacity(bytes.len());
    // Entries of the map field that is being read. Entries of one map follow one another.
    let mut map: Option<(u32, Vec<Vec<u8>>)> = None;
    let mut rest = bytes;
    while rest.has_remaining() {
        let start = rest;
        let (number, wire) = decode_key(&mut rest).ok()?;
        if map.as_ref().is_some_and(|(field, _)| *field != number) {
            write_map(&mut output, map.take());
        }
        if wire != WireType::LengthDelimited {
            skip(wire, &mut rest)?;
            output.extend_from_slice(&start[..start.len() - rest.len()]);
            continue;
        }
        let value = delimited(&mut rest)?;
        let field = kind.get_field(number);
        let nested = field.as_ref().and_then(|field| match field.kind() {
            Kind::Message(kind) => Some(kind),
            _ => None,
        });
        match (field.is_some_and(|field| field.is_map()), nested) {
            (true, Some(entry)) => {
                let entry = ordered(&entry, value)?;
                map.get_or_insert_with(|| (number, Vec::new())).1.push(entry);
            }
            (_, Some(kind)) => write(&mut output, number, &ordered(&kind, value)?),
            (_, None) => output.extend_from_slice(&start[..start.len() - rest.len()]),
        }
    }
    write_map(&mut output, map);
    Some(output)
}

fn ordered_any(bytes: &[u8]) -> Option<Vec<u8>> {
    let (mut type_url, mut value): (&[u8], &[u8]) = (&[], &[]);
    let mut rest = bytes;
    while rest.has_remaining() {
        let (number, wire) = decode_key(&mut rest).ok()?;
        if wire != WireType::LengthDelimited {
            return None;
        }
        let content = delimited(&mut rest)?;
        match number {
            TYPE_URL => type_url = content,
            VALUE => value = content,
            _ => {}
        }
    }
    let inner = descriptor::message(std::str::from_utf8(type_url).ok()?).and_then(|kind| ordered(&kind, value));
    let mut output = Vec::with_capacity(bytes.len());
    write(&mut output, TYPE_URL, type_url);
    match inner {
        Some(inner) if !inner.is_empty() => write(&mut output, VALUE, &inner),
        None if !value.is_empty() => write(&mut output, VALUE, value),
        _ => {}
    }
    Some(output)
}

fn write_map(output: &mut Vec<u8>, map: Option<(u32, Vec<Vec<u8>>)>) {
    let Some((number, mut entries)) = map else { return };
    entries.sort();
    entries.iter().for_each(|entry| write(output, number, entry));
}

fn write(output: &mut Vec<u8>, number: u32, content: &[u8]) {
    encode_key(number, WireType::LengthDelimited, output);
    encode_varint(content.len() as u64, output);
    output.extend_from_slice(content);
}

fn delimited<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(decode_varint(rest).ok()?).ok()?;
    let (content, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(content)
}

fn skip(wire: WireType, rest: &mut &[u8]) -> Option<()> {
    let length = match wire {
        WireType::Varint => {
            decode_varint(rest).ok()?;
            return Some(());
        }
        WireType::ThirtyTwoBit => 4,
        WireType::SixtyFourBit => 8,
        // proto3 has no groups.
        WireType::LengthDelimited | WireType::StartGroup | WireType::EndGroup => return None,
    };
    *rest = rest.get(length..)?;
    Some(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use mesh_proto::xds::{cluster, core, http_protocol_options, pack, wkt};

    use super::*;

    fn metadata(seed: u32) -> core::Metadata {
        let value = |text: String| wkt::Value { kind: Some(wkt::value::Kind::StringValue(text)) };
        let fields = |_| (0..20).map(|at| (format!("k{at}"), value(format!("v{seed}")))).collect();
        let filter_metadata = (0..20).map(|at| (format!("f{at}"), wkt::Struct { fields: fields(at) })).collect();
        core::Metadata { filter_metadata, typed_filter_metadata: Default::default() }
    }

    fn message(seed: u32) -> cluster::Cluster {
        let inner = cluster::Cluster { name: "inner".into(), metadata: Some(metadata(seed)), ..Default::default() };
        let options = http_protocol_options::HttpProtocolOptions::default();
        cluster::Cluster {
            name: "outer".into(),
            connect_timeout: Some(wkt::Duration { seconds: 10, nanos: 0 }),
            metadata: Some(metadata(seed)),
            typed_extension_protocol_options: [("a", pack(&inner)), ("b", pack(&options))]
                .map(|(name, any)| (name.to_owned(), any))
                .into(),
            ..Default::default()
        }
    }

    #[test]
    fn equal_messages_have_equal_bytes_and_mean_the_same() {
        let first = encode(&message(1));
        for _ in 0..8 {
            assert_eq!(encode(&message(1)), first);
        }
        assert_ne!(encode(&message(2)), first);
        let read = cluster::Cluster::decode(first).unwrap();
        assert_eq!(read.metadata, message(1).metadata);
        assert_eq!(read.connect_timeout, message(1).connect_timeout);
        let inner: cluster::Cluster = mesh_proto::xds::unpack(&read.typed_extension_protocol_options["a"]).unwrap();
        assert_eq!(inner.metadata, message(1).metadata);
    }
}

//! Discovery's responses as bytes on a stream of HTTP/2, written piece by piece while the peer takes them.
//!
//! Between [`super::server`], which makes a response when the one before is on its way, and the transport. A response of a large mesh has
//! megabytes: written as a whole, as generated servers do, each stream would keep a buffer of that size for as long as it lives.
//! Here a stream holds one piece, and otherwise resources that all streams share.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderMap;
use hyper::body::{Body, Frame};
use prost::encoding::{encode_varint, encoded_len_varint};
use tokio::sync::mpsc;
use tonic::Status;
use tonic::codec::{DecodeBuf, Decoder};

use super::Resource;

/// A piece is at least so long, bytes, unless it is the last; resources that are longer are pieces of their own.
const PIECE: usize = 16 * 1024;

/// How resources stand in a response. In both protocols they are field 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// With name and version, incremental.
    Named,
    /// As `Any`, state of the world.
    Plain,
}

/// Keys of length-delimited fields, by number.
const FIELD_1: u8 = 0x0a;
const FIELD_2: u8 = 0x12;
const FIELD_3: u8 = 0x1a;

/// A response in the making.
#[derive(Debug)]
pub struct Message {
    form: Form,
    resources: std::vec::IntoIter<Resource>,
    pieces: VecDeque<Bytes>,
}

impl Message {
    /// A response of these resources; `rest` is everything else of it.
    pub fn new(form: Form, rest: &impl prost::Message, resources: Vec<Resource>) -> Result<Self, Status> {
        let length: usize = resources.iter().map(|one| field(inner(form, one))).sum();
        let length = u32::try_from(length + rest.encoded_len());
        let length = length.map_err(|_| Status::resource_exhausted("a response is longer than 4 GiB"))?;
        let mut head = BytesMut::with_capacity(5 + rest.encoded_len());
        // The frame of gRPC: not compressed, and how long it is.
        head.put_u8(0);
        head.put_u32(length);
        head.put_slice(&rest.encode_to_vec());
        Ok(Self { form, resources: resources.into_iter(), pieces: [head.freeze()].into() })
    }

    fn next(&mut self) -> Option<Bytes> {
        if let Some(piece) = self.pieces.pop_front() {
            return Some(piece);
        }
        let mut piece = BytesMut::new();
        while piece.len() < PIECE {
            let Some(one) = self.resources.next() else { break };
            if piece.is_empty() {
                piece.reserve(PIECE.min(field(inner(self.form, &one)) + PIECE / 2));
            }
            before(self.form, &one, &mut piece);
            if one.body.len() >= PIECE {
                let mut after_body = BytesMut::new();
                after(self.form, &one, &mut after_body);
                self.pieces.extend([one.body.clone(), after_body.freeze()].into_iter().filter(|part| !part.is_empty()));
                break;
            }
            piece.put_slice(&one.body);
            after(self.form, &one, &mut piece);
        }
        (!piece.is_empty()).then(|| piece.freeze())
    }
}

/// Length of a field with its key.
fn field(content: usize) -> usize {
    1 + encoded_len_varint(content as u64) + content
}

fn any(one: &Resource) -> usize {
    field(one.type_url.len()) + field(one.body.len())
}

fn inner(form: Form, one: &Resource) -> usize {
    match form {
        Form::Plain => any(one),
        Form::Named => field(one.version.len()) + field(any(one)) + field(one.name.len()),
    }
}

/// All of a resource's field that stands before its body.
fn before(form: Form, one: &Resource, output: &mut BytesMut) {
    open(FIELD_2, inner(form, one), output);
    if form == Form::Named {
        open(FIELD_1, one.version.len(), output);
        output.put_slice(one.version.as_bytes());
        open(FIELD_2, any(one), output);
    }
    open(FIELD_1, one.type_url.len(), output);
    output.put_slice(one.type_url.as_bytes());
    open(FIELD_2, one.body.len(), output);
}

fn after(form: Form, one: &Resource, output: &mut BytesMut) {
    if form == Form::Named {
        open(FIELD_3, one.name.len(), output);
        output.put_slice(one.name.as_bytes());
    }
}

fn open(key: u8, length: usize, output: &mut BytesMut) {
    output.put_u8(key);
    encode_varint(length as u64, output);
}

/// The responses of a stream, as the body of its answer.
#[derive(Debug)]
pub struct Responses {
    receiver: mpsc::Receiver<Result<Message, Status>>,
    current: Option<Message>,
    ended: bool,
}

impl Responses {
    /// Of what comes from `receiver`.
    pub fn new(receiver: mpsc::Receiver<Result<Message, Status>>) -> Self {
        Self { receiver, current: None, ended: false }
    }
}

impl Body for Responses {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        loop {
            if let Some(piece) = self.current.as_mut().and_then(Message::next) {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            self.current = None;
            let status = match ready!(self.receiver.poll_recv(cx)) {
                Some(Ok(message)) => {
                    self.current = Some(message);
                    continue;
                }
                Some(Err(status)) => status,
                None => Status::ok(""),
            };
            self.ended = true;
            let mut trailers = HeaderMap::new();
            return Poll::Ready(Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))));
        }
    }
}

/// Reads requests.
#[derive(Debug)]
pub struct Requests<T>(PhantomData<T>);

impl<T> Default for Requests<T> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T: prost::Message + Default> Decoder for Requests<T> {
    type Item = T;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<T>, Status> {
        let read = T::decode(source).map_err(|error| Status::internal(format!("a request cannot be read: {error}")))?;
        Ok(Some(read))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use mesh_proto::xds::{discovery, wkt};
    use prost::Message as _;

    use super::*;
    use crate::xds::ResourceType;

    #[test]
    fn pieces_are_the_message_that_is_meant() {
        let make = |number: usize, length: usize| {
            Resource::encoded(format!("r{number}").into(), ResourceType::Cluster, vec![7; length].into())
        };
        let lengths = [&[][..], &[0], &[10, 20_000, 5, 40_000], &[1000; 50]];
        for lengths in lengths {
            let resources: Vec<Resource> = lengths.iter().enumerate().map(|(at, length)| make(at, *length)).collect();
            let any = |one: &Resource| wkt::Any { type_url: one.type_url.to_owned(), value: one.body.to_vec() };
            let rest = discovery::DeltaDiscoveryResponse { nonce: "n".into(), ..Default::default() };
            let read = read(Message::new(Form::Named, &rest, resources.clone()).unwrap());
            let named = resources.iter().map(|one| discovery::Resource {
                name: one.name.to_string(),
                version: one.version.to_string(),
                resource: Some(any(one)),
                ..Default::default()
            });
            let expected = discovery::DeltaDiscoveryResponse { resources: named.collect(), ..rest };
            assert_eq!(discovery::DeltaDiscoveryResponse::decode(read).unwrap(), expected);
            let rest = discovery::DiscoveryResponse { nonce: "n".into(), ..Default::default() };
            let read = self::read(Message::new(Form::Plain, &rest, resources.clone()).unwrap());
            let expected = discovery::DiscoveryResponse { resources: resources.iter().map(any).collect(), ..rest };
            assert_eq!(discovery::DiscoveryResponse::decode(read).unwrap(), expected);
        }
    }

    fn read(mut message: Message) -> Bytes {
        let mut all = BytesMut::new();
        while let Some(piece) = message.next() {
            assert!(!piece.is_empty());
            all.put_slice(&piece);
        }
        assert_eq!(all[..5], [&[0][..], &u32::try_from(all.len() - 5).unwrap().to_be_bytes()].concat());
        all.freeze().split_off(5)
    }
}

//! Malformed and hostile HTTP/2, frame by frame: the stream or the connection ends, no endpoint hears of it, and the neighbours go on.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::hostile::{Bystander, start, talk};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Literal fields, without index and without Huffman (RFC 7541, section 6.2.2).
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name, value] {
            assert!(text.len() < 127);
            bytes.push(text.len() as u8);
            bytes.extend(text.as_bytes());
        }
    }
    bytes
}

const GOOD: [(&str, &str); 4] = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/evil")];

fn with(more: &[(&'static str, &'static str)]) -> Vec<u8> {
    block(&[&GOOD[..], more].concat())
}

fn replaced(name: &str, value: &str) -> Vec<u8> {
    block(&GOOD.map(|(key, old)| (key, if key == name { value } else { old })))
}

fn without(name: &str) -> Vec<u8> {
    block(&GOOD.into_iter().filter(|(key, _)| *key != name).collect::<Vec<_>>())
}

fn request(stream: u32, block: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, block)
}

/// Opens a connection, sends `frames`, and says which kinds of frames came back until one that ends stream or connection, or the end.
async fn ended_by(address: std::net::SocketAddr, frames: &[u8]) -> Option<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let _ = stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[]), frames].concat()).await;
    let read = async {
        loop {
            let mut head = [0; 9];
            if stream.read_exact(&mut head).await.is_err() {
                return Some(GOAWAY);
            }
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            if stream.read_exact(&mut payload).await.is_err() {
                return Some(GOAWAY);
            }
            if matches!(head[3], RST_STREAM | GOAWAY | HEADERS) {
                return Some(head[3]);
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(3), read).await.unwrap_or(None)
}

#[tokio::test]
async fn malformed_frames_and_fields_end_their_stream_or_connection() {
    let (origin, _proxy, address) = start().await;
    let mut bystander = Bystander::at(address).await;
    let settings = |id: u16, value: u32| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
    let mut wrong = Vec::new();
    for (what, frames) in [
        ("headers on stream 0", request(0, &block(&GOOD))),
        ("headers on a stream of the server's", request(2, &block(&GOOD))),
        ("data on an idle stream", frame(DATA, END_STREAM, 1, b"x")),
        ("reset of an idle stream", frame(RST_STREAM, 0, 1, &[0; 4])),
        ("window of an idle stream", frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])),
        ("window by nothing", frame(WINDOW_UPDATE, 0, 0, &[0; 4])),
        ("window beyond 2³¹", frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff])),
        ("continuation of nothing", frame(CONTINUATION, END_HEADERS, 1, &block(&GOOD))),
        (
            "ping between headers and continuation",
            [frame(HEADERS, END_STREAM, 1, &block(&GOOD)), frame(PING, 0, 0, &[0; 8])].concat(),
        ),
        ("settings of a bad length", frame(SETTINGS, 0, 0, &[0; 5])),
        ("settings on a stream", frame(SETTINGS, 0, 1, &[])),
        ("acknowledgement with a payload", frame(SETTINGS, 1, 0, &[0; 6])),
        ("initial window beyond 2³¹", frame(SETTINGS, 0, 0, &settings(4, 0xffff_ffff))),
        ("frame size below the least", frame(SETTINGS, 0, 0, &settings(5, 1))),
        ("push by a client", frame(5, END_HEADERS, 1, &[0, 0, 0, 2, 0x82])),
        ("ping of a bad length", frame(PING, 0, 0, &[0; 7])),
        ("frame beyond our size", frame(DATA, 0, 1, &vec![0; 20_000])),
        ("padding longer than the frame", frame(HEADERS, END_STREAM | END_HEADERS | 8, 1, &[0xff, 0x82])),
        ("index beyond the table", request(1, &[0xff, 0xff, 0xff, 0x7f])),
        ("integer without end", request(1, &[0xff; 64])),
        ("table size beyond ours", request(1, &[0x3f, 0xff, 0xff, 0xff, 0x07])),
        ("stream that depends on itself", frame(PRIORITY, 0, 1, &[0, 0, 0, 1, 0])),
        ("upper-case name", request(1, &with(&[("X-Up", "1")]))),
        ("connection", request(1, &with(&[("connection", "close")]))),
        ("transfer-encoding", request(1, &with(&[("transfer-encoding", "chunked")]))),
        ("upgrade", request(1, &with(&[("upgrade", "h2c")]))),
        ("te other than trailers", request(1, &with(&[("te", "gzip")]))),
        ("line break in a value", request(1, &with(&[("x", "1\r\ny: 2")]))),
        ("NUL in a value", request(1, &with(&[("x", "1\0")]))),
        ("line break in the path", request(1, &replaced(":path", "/ HTTP/1.1\r\nx: y"))),
        ("space in the path", request(1, &replaced(":path", "/a b"))),
        ("empty path", request(1, &replaced(":path", ""))),
        ("path without slash", request(1, &replaced(":path", "evil"))),
        ("line break in the method", request(1, &replaced(":method", "GET /evil HTTP/1.1\r\n"))),
        ("user in the authority", request(1, &replaced(":authority", "u@a"))),
        ("no method", request(1, &without(":method"))),
        ("no path", request(1, &without(":path"))),
        ("two paths", request(1, &with(&[(":path", "/")]))),
        ("pseudo field of a response", request(1, &with(&[(":status", "200")]))),
        ("unknown pseudo field", request(1, &with(&[(":x", "y")]))),
        ("pseudo field after others", request(1, &block(&[&[("x", "y")][..], &GOOD].concat()))),
        ("host that differs", request(1, &with(&[("host", "b")]))),
        (
            "body shorter than its length",
            [frame(HEADERS, END_HEADERS, 1, &with(&[("content-length", "5")])), frame(DATA, END_STREAM, 1, b"ab")]
                .concat(),
        ),
        (
            "body longer than its length",
            [frame(HEADERS, END_HEADERS, 1, &with(&[("content-length", "1")])), frame(DATA, END_STREAM, 1, b"abcdef")]
                .concat(),
        ),
    ] {
        let end = ended_by(address, &frames).await;
        // HEADERS is our own 400.
        if end.is_none() {
            wrong.push(format!("{what}: nothing happened"));
        }
        let reached = origin.take().await;
        let whole = reached.iter().any(|head| head.contains("/evil") && !head.contains("content-length: "));
        if whole && !what.starts_with("body") {
            wrong.push(format!("{what}: reached the endpoint: {reached:?}"));
        }
        bystander.check(what).await;
        origin.take().await;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn floods_are_stopped_and_leave_the_neighbours_alone() {
    let (origin, _proxy, address) = start().await;
    let mut bystander = Bystander::at(address).await;
    let opening = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    let stream = |index: u32| 2 * index + 1;
    for (what, frames) in [
        (
            "rapid reset (CVE-2023-44487)",
            (0..20_000)
                .flat_map(|index| {
                    [request(stream(index), &block(&GOOD)), frame(RST_STREAM, 0, stream(index), &[0, 0, 0, 8])].concat()
                })
                .collect::<Vec<u8>>(),
        ),
        (
            "resets that we are made to send (CVE-2025-8671)",
            (0..20_000)
                .flat_map(|index| {
                    let open = frame(HEADERS, END_HEADERS, stream(index), &block(&GOOD));
                    [open, frame(WINDOW_UPDATE, 0, stream(index), &[0; 4])].concat()
                })
                .collect(),
        ),
        (
            "continuation without end (CVE-2024-27316)",
            [
                frame(HEADERS, END_STREAM, 1, &block(&GOOD)),
                (0..20_000).flat_map(|_| frame(CONTINUATION, 0, 1, &block(&[("x", "yyyyyyyyyyyyyyyy")]))).collect(),
            ]
            .concat(),
        ),
        (
            "empty continuations",
            [
                frame(HEADERS, END_STREAM, 1, &block(&GOOD)),
                (0..200_000).flat_map(|_| frame(CONTINUATION, 0, 1, &[])).collect(),
            ]
            .concat(),
        ),
        ("header list bomb", {
            // One long field enters the table, then is named again and again.
            let mut bomb = block(&GOOD);
            bomb.extend([0x40, 1, b'x', 126]);
            bomb.extend([b'y'; 126]);
            bomb.extend(vec![0xbe; 12_000]);
            request(1, &bomb)
        }),
    ] {
        let (answer, closed) = talk(address, &[&opening[..], &frames].concat()).await;
        let bomb = what == "header list bomb";
        assert!(closed || bomb, "{what}: the connection stands; {} bytes came", answer.len());
        bystander.check(what).await;
        let reached = origin.take().await;
        assert!(reached.len() < 3_000, "{what}: {} requests reached the endpoint", reached.len());
        if bomb {
            assert!(!reached.iter().any(|head| head.contains("/evil")), "{what}");
        }
    }
}

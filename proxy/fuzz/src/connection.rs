//! The first bytes of a connection.

use std::io::Write as _;
use std::net::Shutdown;
use std::time::Duration;

use mesh_proxy::detect::{detect, proxy_protocol, tls_hello};
use mesh_proxy::listener::Detect;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

/// What was understood of a beginning stays so when more comes.
pub fn tls_hello(data: &[u8]) {
    let whole = tls_hello::parse(data);
    if let tls_hello::Parsed::Hello(hello) = &whole {
        assert!(hello.server_name.as_ref().is_none_or(|name| !name.bytes().any(|byte| byte.is_ascii_uppercase())));
    }
    for length in pieces(data.len()) {
        match tls_hello::parse(&data[..length]) {
            tls_hello::Parsed::More => {}
            early => assert_eq!(early, whole, "{length} of {} bytes", data.len()),
        }
    }
}

/// A header is no longer than what there is, and needs nothing behind it.
pub fn proxy_protocol(data: &[u8]) {
    let whole = proxy_protocol::parse(data);
    if let proxy_protocol::Parsed::Header(length, _) = whole {
        assert!(length <= data.len());
        assert_eq!(proxy_protocol::parse(&data[..length]), whole);
    }
    for length in pieces(data.len()) {
        match proxy_protocol::parse(&data[..length]) {
            proxy_protocol::Parsed::More => {}
            early => assert_eq!(early, whole, "{length} of {} bytes", data.len()),
        }
    }
}

/// Some lengths to cut at: all of a short input, some of a long one.
fn pieces(length: usize) -> impl Iterator<Item = usize> {
    (0..length).step_by(length / 64 + 1)
}

/// Not a byte is lost: what was read and what is still on the wire are what was sent, without the PROXY header. The first byte chooses
/// what is looked for.
pub fn detection(data: &[u8]) {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap_or_else(|error| panic!("runtime: {error}"));
    }
    let Some((bits, sent)) = data.split_first() else { return };
    // More than this might not fit the socket's buffer before anybody reads.
    let sent = &sent[..sent.len().min(32 << 10)];
    let settings = Detect {
        proxy_protocol: bits & 1 != 0,
        tls: bits & 2 != 0,
        http: bits & 4 != 0,
        timeout: (bits & 8 != 0).then_some(Duration::from_secs(60)),
        ..Detect::default()
    };
    let looked = RUNTIME.with(|runtime| runtime.block_on(look(sent, &settings)));
    let (detected, rest) = match looked {
        Ok(found) => found,
        // A refusal: no PROXY header, or an end before the first byte.
        Err(_) => return assert!(settings.proxy_protocol || sent.is_empty(), "{settings:?}"),
    };
    let skipped = match proxy_protocol::parse(sent) {
        proxy_protocol::Parsed::Header(length, addresses) if settings.proxy_protocol => {
            assert_eq!(detected.addresses, addresses);
            length
        }
        _ => 0,
    };
    assert!(sent[skipped..] == [detected.prefix, rest].concat(), "bytes were lost or made up");
}

async fn look(sent: &[u8], settings: &Detect) -> std::io::Result<(mesh_proxy::detect::Detected, Vec<u8>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let mut client = std::net::TcpStream::connect(listener.local_addr()?)?;
    let (mut server, _) = listener.accept().await?;
    client.write_all(sent)?;
    client.shutdown(Shutdown::Write)?;
    let detected = detect(&mut server, settings, 80).await?;
    let mut rest = Vec::new();
    server.read_to_end(&mut rest).await?;
    Ok((detected, rest))
}

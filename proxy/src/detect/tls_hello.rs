//! Server name and ALPN of a TLS ClientHello (RFC 8446, section 4.1.2), read without ending TLS.

/// What a hello says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// Server name, lower case.
    pub server_name: Option<String>,
    /// Protocols offered.
    pub alpn: Vec<String>,
}

/// What the bytes are.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A whole hello.
    Hello(Hello),
    /// The beginning of one.
    More,
    /// Something else.
    NotTls,
}

/// A cursor over bytes; every read is bounded.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    fn number(&mut self, bytes: usize) -> Option<usize> {
        Some(self.take(bytes)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    /// A vector with its length before it.
    fn vector(&mut self, length_bytes: usize) -> Option<Reader<'a>> {
        let length = self.number(length_bytes)?;
        self.take(length).map(Reader)
    }
}

/// Reads the records of the hello, which may be split, then the hello.
pub fn parse(bytes: &[u8]) -> Parsed {
    let mut message = Vec::new();
    let mut rest = bytes;
    loop {
        let head = &rest[..rest.len().min(3)];
        // Handshake record, version 3.x; then the length.
        if head.first().is_some_and(|kind| *kind != 22) || head.get(1).is_some_and(|major| *major != 3) {
            return Parsed::NotTls;
        }
        if message.is_empty() && rest.len() > 5 && rest[5] != 1 {
            return Parsed::NotTls;
        }
        if rest.len() < 5 {
            return Parsed::More;
        }
        let length = usize::from(u16::from_be_bytes([rest[3], rest[4]]));
        if length == 0 || length > 1 << 14 {
            return Parsed::NotTls;
        }
        let Some(fragment) = rest.get(5..5 + length) else { return Parsed::More };
        message.extend_from_slice(fragment);
        rest = &rest[5 + length..];
        if message.len() >= 4 {
            let wanted = usize::from(message[1]) << 16 | usize::from(message[2]) << 8 | usize::from(message[3]);
            if wanted > 1 << 16 {
                return Parsed::NotTls;
            }
            if message.len() >= 4 + wanted {
                return hello(&message[4..4 + wanted]).map_or(Parsed::NotTls, Parsed::Hello);
            }
        }
    }
}

fn hello(body: &[u8]) -> Option<Hello> {
    let mut reader = Reader(body);
    reader.take(2 + 32)?;
    reader.vector(1)?;
    reader.vector(2)?;
    reader.vector(1)?;
    let mut hello = Hello::default();
    if reader.0.is_empty() {
        return Some(hello);
    }
    let mut extensions = reader.vector(2)?;
    while !extensions.0.is_empty() {
        let kind = extensions.number(2)?;
        let mut body = extensions.vector(2)?;
        match kind {
            0 => {
                let mut names = body.vector(2)?;
                while !names.0.is_empty() {
                    let kind = names.number(1)?;
                    let name = names.vector(2)?;
                    if kind == 0 && hello.server_name.is_none() {
                        hello.server_name = Some(std::str::from_utf8(name.0).ok()?.to_ascii_lowercase());
                    }
                }
            }
            16 => {
                let mut protocols = body.vector(2)?;
                while !protocols.0.is_empty() {
                    let protocol = protocols.vector(1)?;
                    hello.alpn.push(String::from_utf8_lossy(protocol.0).into_owned());
                }
            }
            _ => {}
        }
    }
    Some(hello)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn real_hello(name: &str, alpn: &[&str]) -> Vec<u8> {
        let mut config = rustls::ClientConfig::builder_with_provider(crate::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|one| one.as_bytes().to_vec()).collect();
        let name = name.to_owned().try_into().unwrap();
        let mut client = rustls::ClientConnection::new(config.into(), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_hello_is_read_at_every_length() {
        let bytes = real_hello("Foo.Example.com", &["istio", "h2"]);
        for length in 1..bytes.len() {
            assert_eq!(parse(&bytes[..length]), Parsed::More, "{length}");
        }
        let expected = Hello { server_name: Some("foo.example.com".into()), alpn: vec!["istio".into(), "h2".into()] };
        assert_eq!(parse(&bytes), Parsed::Hello(expected));
    }

    #[test]
    fn other_bytes_are_not_tls_and_never_panic() {
        for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"\x16\x02\x01", b"\x17\x03\x03\x00\x05", b"\x16\x03\x01\x00\x00"] {
            assert_eq!(parse(bytes), Parsed::NotTls, "{bytes:?}");
        }
        let good = real_hello("a.b", &["h2"]);
        for at in 0..good.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bad = good.clone();
                bad[at] = value;
                let _ = parse(&bad);
            }
        }
    }
}

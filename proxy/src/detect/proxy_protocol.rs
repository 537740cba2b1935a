//! PROXY protocol, versions 1 and 2. Source: <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Source and destination as the sender saw them.
pub type Addresses = (SocketAddr, SocketAddr);

/// What the bytes are.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A header of this length; no addresses for `LOCAL` and `UNKNOWN`.
    Header(usize, Option<Addresses>),
    /// The beginning of one.
    More,
    /// None.
    Malformed,
}

const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The longest line of version 1.
const V1_MAX: usize = 107;

/// Reads a header.
pub fn parse(bytes: &[u8]) -> Parsed {
    let starts = |with: &[u8]| {
        let length = bytes.len().min(with.len());
        bytes[..length] == with[..length]
    };
    if starts(V2) {
        return if bytes.len() < V2.len() { Parsed::More } else { version_2(bytes) };
    }
    if !starts(b"PROXY ") {
        return Parsed::Malformed;
    }
    match bytes.windows(2).position(|pair| pair == b"\r\n") {
        Some(end) if end + 2 <= V1_MAX => {
            version_1(&bytes[..end]).map_or(Parsed::Malformed, |addresses| Parsed::Header(end + 2, addresses))
        }
        None if bytes.len() < V1_MAX => Parsed::More,
        _ => Parsed::Malformed,
    }
}

fn version_1(line: &[u8]) -> Option<Option<Addresses>> {
    let line = std::str::from_utf8(line).ok()?;
    let parts: Vec<&str> = line.split(' ').collect();
    match parts.as_slice() {
        ["PROXY", "UNKNOWN", ..] => Some(None),
        ["PROXY", family @ ("TCP4" | "TCP6"), source, destination, source_port, destination_port] => {
            let source: IpAddr = source.parse().ok()?;
            let destination: IpAddr = destination.parse().ok()?;
            if source.is_ipv4() != (*family == "TCP4") || destination.is_ipv4() != source.is_ipv4() {
                return None;
            }
            let source = SocketAddr::new(source, source_port.parse().ok()?);
            Some(Some((source, SocketAddr::new(destination, destination_port.parse().ok()?))))
        }
        _ => None,
    }
}

fn version_2(bytes: &[u8]) -> Parsed {
    let Some(head) = bytes.get(12..16) else { return Parsed::More };
    if head[0] >> 4 != 2 {
        return Parsed::Malformed;
    }
    let length = 16 + usize::from(u16::from_be_bytes([head[2], head[3]]));
    let Some(body) = bytes.get(16..length) else { return Parsed::More };
    let port = |at: usize| Some(u16::from_be_bytes([*body.get(at)?, *body.get(at + 1)?]));
    let addresses = match (head[0] & 15, head[1]) {
        (0, _) => return Parsed::Header(length, None),
        (1, 0x11) => (|| {
            let ip = |at: usize| <[u8; 4]>::try_from(body.get(at..at + 4)?).ok().map(Ipv4Addr::from);
            Some((SocketAddr::new(ip(0)?.into(), port(8)?), SocketAddr::new(ip(4)?.into(), port(10)?)))
        })(),
        (1, 0x21) => (|| {
            // Policies name IPv4 addresses as such, however a load balancer writes them.
            let ip = |at: usize| <[u8; 16]>::try_from(body.get(at..at + 16)?).ok().map(Ipv6Addr::from);
            let canonical = |ip: Ipv6Addr| IpAddr::from(ip).to_canonical();
            Some((SocketAddr::new(canonical(ip(0)?), port(32)?), SocketAddr::new(canonical(ip(16)?), port(34)?)))
        })(),
        (1, _) => return Parsed::Header(length, None),
        _ => return Parsed::Malformed,
    };
    addresses.map_or(Parsed::Malformed, |addresses| Parsed::Header(length, Some(addresses)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn both_versions_are_read() {
        let line = b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 80\r\nGET /";
        let addresses = Some(("192.0.2.1:5000".parse().unwrap(), "192.0.2.2:80".parse().unwrap()));
        assert_eq!(parse(line), Parsed::Header(40, addresses));
        let mut v2 = V2.to_vec();
        v2.extend([0x21, 0x11, 0, 12, 192, 0, 2, 1, 192, 0, 2, 2, 0x13, 0x88, 0, 80]);
        assert_eq!(parse(&v2), Parsed::Header(28, addresses));
        for length in 1..v2.len() {
            assert_eq!(parse(&v2[..length]), Parsed::More);
        }
        assert_eq!(parse(b"PROXY UNKNOWN\r\n"), Parsed::Header(15, None));
        for bad in [&b"GET / HTTP/1.1"[..], b"PROXY TCP4 ::1 ::1 1 2\r\n", b"PROXY TCP4 1.2.3.4 1.2.3.4 1 99999\r\n"] {
            assert_eq!(parse(bad), Parsed::Malformed);
        }
    }
}

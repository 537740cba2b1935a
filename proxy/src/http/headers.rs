//! Headers that proxies themselves write and remove: hop-by-hop, forwarded-for, client certificates, request id.

use std::fmt::Write as _;
use std::net::IpAddr;

use http::header::{CONNECTION, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, header};

use super::{ForwardClientCert, Forwarded, names};
use crate::listener::ConnInfo;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Removes what belongs to one connection only (RFC 9110, section 7.6.1).
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if only_keep_alive(headers) {
        headers.remove(CONNECTION);
    } else if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| HeaderName::try_from(name.trim()).ok())
            .collect();
        for name in named {
            if name != TE {
                headers.remove(name);
            }
        }
        headers.remove(CONNECTION);
    }
    for name in [KEEP_ALIVE, PROXY_CONNECTION, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
    // `TE: trailers` is end to end for gRPC; anything else in it is of this hop.
    if let Some(te) = headers.get(TE)
        && !te.as_bytes().eq_ignore_ascii_case(b"trailers")
    {
        let trailers = te.to_str().is_ok_and(|te| te.split(',').any(|one| one.trim().eq_ignore_ascii_case("trailers")));
        if trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        } else {
            headers.remove(TE);
        }
    }
}

/// True if `connection` says only whether the connection stays, as it nearly always does.
fn only_keep_alive(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(CONNECTION).iter();
    let only = lines.next().map(HeaderValue::as_bytes);
    let plain =
        only.is_some_and(|text| text.eq_ignore_ascii_case(b"keep-alive") || text.eq_ignore_ascii_case(b"close"));
    plain && lines.next().is_none()
}

/// Writes the client's address and scheme, and removes what an outside client may not say. Returns the client's address.
///
/// With `use_remote_address` we are the edge: the socket's peer is the client (or `trusted_hops` before it).
/// Source: <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/headers#x-forwarded-for>.
pub fn forwarded(headers: &mut HeaderMap, conn: &ConnInfo, settings: &Forwarded, scheme: &'static str) -> IpAddr {
    let peer = conn.peer_ip();
    let client = client(&listed(headers), peer, settings);
    if settings.use_remote_address {
        if !settings.skip_append {
            append(headers, names::FORWARDED_FOR, &peer.to_string());
        }
        // No address counts as internal by itself, as in Envoy since 1.33: a private address may well be a stranger's.
        let reserved: Vec<HeaderName> = headers
            .keys()
            .filter(|name| {
                let name = name.as_str();
                name.starts_with("x-envoy-") && !name.starts_with("x-envoy-peer-metadata")
            })
            .cloned()
            .collect();
        for name in reserved {
            headers.remove(name);
        }
        if let Ok(address) = HeaderValue::try_from(client.to_string()) {
            headers.insert(names::EXTERNAL_ADDRESS, address);
        }
        if settings.trusted_hops == 0 || !headers.contains_key(names::FORWARDED_PROTO) {
            headers.insert(names::FORWARDED_PROTO, HeaderValue::from_static(scheme));
        }
    } else if !headers.contains_key(names::FORWARDED_PROTO) {
        headers.insert(names::FORWARDED_PROTO, HeaderValue::from_static(scheme));
    }
    headers.remove(names::INTERNAL);
    client
}

/// All entries of `x-forwarded-for`, in order.
fn listed(headers: &HeaderMap) -> Vec<String> {
    let lines = headers.get_all(names::FORWARDED_FOR).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
    lines.flat_map(|line| line.split(',').map(|entry| entry.trim().to_owned()).collect::<Vec<_>>()).collect()
}

/// The client by the entry that the trusted proxies before us put there, counted from the end. An entry that is no address still
/// counts: to skip it would trust one that the client wrote.
fn client(listed: &[String], peer: IpAddr, settings: &Forwarded) -> IpAddr {
    let hops = settings.trusted_hops as usize;
    let at = match (settings.use_remote_address, hops) {
        (true, 0) => return peer,
        (true, hops) => hops - 1,
        (false, hops) => hops,
    };
    let told = listed.iter().rev().nth(at).and_then(|entry| entry.parse::<IpAddr>().ok());
    told.map_or(peer, |address| address.to_canonical())
}

/// Joins the lines of `cookie` into one: HTTP/2 may send it in pieces, HTTP/1 may not (RFC 9113, section 8.2.3).
pub fn join_cookies(headers: &mut HeaderMap) {
    let mut lines = headers.get_all(header::COOKIE).iter();
    if lines.next().is_none() || lines.next().is_none() {
        return;
    }
    let all: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
        headers.insert(header::COOKIE, joined);
    }
}

/// Adds to a comma-separated header. All its lines become one: to keep only the first would drop what a proxy before us said.
pub fn append(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    join(headers, name, value, ",");
}

/// Adds our name to `via`.
pub fn via(headers: &mut HeaderMap, name: &str) {
    join(headers, header::VIA, name, ", ");
}

fn join(headers: &mut HeaderMap, name: HeaderName, value: &str, between: &str) {
    let before = headers.get_all(&name).iter().filter_map(|line| line.to_str().ok()).filter(|line| !line.is_empty());
    let joined: Vec<&str> = before.chain([value]).collect();
    if let Ok(joined) = HeaderValue::try_from(joined.join(between)) {
        headers.insert(name, joined);
    }
}

/// `x-forwarded-client-cert`: kept, removed, or written, as configured. What the client says of itself counts only on mTLS.
pub fn client_certificate(headers: &mut HeaderMap, conn: &ConnInfo, settings: &Forwarded) {
    use ForwardClientCert as F;
    let peer = conn.tls.as_ref().and_then(|tls| tls.peer.as_ref().map(|peer| (tls, peer)));
    let Some((tls, peer)) = peer else {
        if settings.client_cert != F::AlwaysForwardOnly {
            headers.remove(names::FORWARDED_CLIENT_CERT);
        }
        return;
    };
    match settings.client_cert {
        F::AlwaysForwardOnly | F::ForwardOnly => return,
        F::Sanitize => {
            headers.remove(names::FORWARDED_CLIENT_CERT);
            return;
        }
        F::SanitizeSet => {
            headers.remove(names::FORWARDED_CLIENT_CERT);
        }
        F::AppendForward => {}
    }
    let mut element = String::with_capacity(256);
    // Writing to a string cannot fail.
    for uri in tls.local_uri_sans.split(',').filter(|uri| !uri.is_empty()) {
        let _ = write!(element, "By={uri};");
    }
    let _ = write!(element, "Hash={}", peer.sha256);
    let details = settings.client_cert_details;
    if details.cert {
        let _ = write!(element, ";Cert=\"{}\"", peer.pem_url_encoded());
    }
    if details.subject {
        let _ = write!(element, ";Subject=\"{}\"", peer.subject.replace('"', "\\\""));
    }
    if details.uri {
        if peer.uri_sans.is_empty() {
            element.push_str(";URI=");
        }
        for uri in &peer.uri_sans {
            let _ = write!(element, ";URI={uri}");
        }
    }
    if details.dns {
        for name in &peer.dns_sans {
            let _ = write!(element, ";DNS={name}");
        }
    }
    append(headers, names::FORWARDED_CLIENT_CERT, &element);
}

/// Gives the request an id unless it has one that may stay.
pub fn request_id(headers: &mut HeaderMap, edge: bool, keep_external: bool, random: u128) {
    if headers.contains_key(names::REQUEST_ID) && (!edge || keep_external) {
        return;
    }
    let id = uuid::Builder::from_random_bytes(random.to_be_bytes()).into_uuid();
    if let Ok(value) = HeaderValue::try_from(id.to_string()) {
        headers.insert(names::REQUEST_ID, value);
    }
}

/// True if `Connection` asks for an upgrade; the protocol in lower case.
pub fn upgrade(headers: &HeaderMap) -> Option<String> {
    let asks = headers.get_all(CONNECTION).iter().any(|value| {
        value.to_str().is_ok_and(|value| value.split(',').any(|one| one.trim().eq_ignore_ascii_case("upgrade")))
    });
    if !asks {
        return None;
    }
    let protocol = headers.get(header::UPGRADE)?.to_str().ok()?.trim().to_ascii_lowercase();
    // As in Envoy, an offer to go on with HTTP/2 in plaintext is not taken up, and the request is served as it is: curl and Java's
    // client make it with every first request.
    (protocol != "h2c").then_some(protocol)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn map(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let parsed = lines.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        let mut headers = HeaderMap::new();
        for (name, value) in parsed {
            headers.append(name, value);
        }
        headers
    }

    #[test]
    fn what_is_appended_keeps_every_line() {
        for (lines, expected) in [
            (&[][..], "9.9.9.9"),
            (&[("x-forwarded-for", "")], "9.9.9.9"),
            (&[("x-forwarded-for", "1.1.1.1")], "1.1.1.1,9.9.9.9"),
            (
                &[("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "2.2.2.2, 3.3.3.3")],
                "1.1.1.1,2.2.2.2, 3.3.3.3,9.9.9.9",
            ),
        ] {
            let mut headers = map(lines);
            append(&mut headers, names::FORWARDED_FOR, "9.9.9.9");
            let lines: Vec<_> = headers.get_all(names::FORWARDED_FOR).iter().collect();
            assert_eq!(lines, [expected]);
        }
    }

    #[test]
    fn the_client_is_who_trusted_proxies_say() {
        for (edge, hops, lines, expected) in [
            (true, 0, &["1.1.1.1"][..], "9.9.9.9"),
            (true, 1, &["1.1.1.1"], "1.1.1.1"),
            (true, 1, &["6.6.6.6, 1.1.1.1"], "1.1.1.1"),
            (true, 1, &["6.6.6.6", "1.1.1.1"], "1.1.1.1"),
            (true, 2, &["6.6.6.6, 1.1.1.1, 2.2.2.2"], "1.1.1.1"),
            (true, 2, &["1.1.1.1"], "9.9.9.9"),
            // A port makes the entry unreadable, and the one before it is the client's own invention.
            (true, 1, &["6.6.6.6, 1.1.1.1:5000"], "9.9.9.9"),
            (true, 2, &["6.6.6.6, 1.1.1.1, "], "1.1.1.1"),
            (true, 1, &["::ffff:1.1.1.1"], "1.1.1.1"),
            (false, 0, &["6.6.6.6, 1.1.1.1"], "1.1.1.1"),
            (false, 1, &["6.6.6.6, 1.1.1.1"], "6.6.6.6"),
            (false, 0, &[], "9.9.9.9"),
        ] {
            let settings = Forwarded { use_remote_address: edge, trusted_hops: hops, ..Forwarded::default() };
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(names::FORWARDED_FOR, HeaderValue::from_static(line));
            }
            let peer = "9.9.9.9".parse().unwrap();
            assert_eq!(client(&listed(&headers), peer, &settings).to_string(), expected, "{edge} {hops} {lines:?}");
        }
    }

    #[test]
    fn ids_of_requests_stay_unless_they_come_from_outside() {
        for (edge, keep, stays) in [(true, false, false), (true, true, true), (false, false, true)] {
            let mut headers = map(&[("x-request-id", "mine")]);
            request_id(&mut headers, edge, keep, 7);
            assert_eq!(headers["x-request-id"] == "mine", stays, "{edge} {keep}");
        }
    }

    #[test]
    fn upgrades_are_asked_for_by_connection_and_h2c_is_none() {
        for (lines, expected) in [
            (&[("connection", "Upgrade"), ("upgrade", "WebSocket")][..], Some("websocket")),
            (&[("connection", "keep-alive, upgrade"), ("upgrade", "websocket")], Some("websocket")),
            (&[("upgrade", "websocket")], None),
            (&[("connection", "upgrade")], None),
            (&[("connection", "Upgrade, HTTP2-Settings"), ("upgrade", "h2c"), ("http2-settings", "AAMAAABk")], None),
        ] {
            assert_eq!(upgrade(&map(lines)).as_deref(), expected, "{lines:?}");
        }
    }

    #[test]
    fn headers_of_one_hop_are_removed() {
        let mut headers = map(&[
            ("connection", "close, X-Own, te"),
            ("x-own", "1"),
            ("keep-alive", "1"),
            ("proxy-connection", "1"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("te", "gzip, trailers"),
            ("x-other", "1"),
        ]);
        strip_hop_by_hop(&mut headers);
        let mut left: Vec<_> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        left.sort();
        assert_eq!(left, ["te: trailers", "x-other: 1"]);
    }
}

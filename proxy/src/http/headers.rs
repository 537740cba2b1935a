//! Headers that proxies themselves write and remove: hop-by-hop, forwarded-for, client certificates, request id.

use std::fmt::Write as _;
use std::net::IpAddr;

use http::header::{CONNECTION, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, header};
use mesh_proto::names::header as names;

use super::{ForwardClientCert, Forwarded};
use crate::listener::ConnInfo;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const XFF: HeaderName = HeaderName::from_static(names::FORWARDED_FOR);
const XFP: HeaderName = HeaderName::from_static(names::FORWARDED_PROTO);
const XFCC: HeaderName = HeaderName::from_static(names::FORWARDED_CLIENT_CERT);
const REQUEST_ID: HeaderName = HeaderName::from_static(names::REQUEST_ID);

/// Removes what belongs to one connection only (RFC 9110, section 7.6.1).
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
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

/// Writes the client's address and scheme, and removes what an outside client may not say. Returns the client's address.
///
/// With `use_remote_address` we are the edge: the socket's peer is the client (or `trusted_hops` before it).
/// Source: <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/headers#x-forwarded-for>.
pub fn forwarded(headers: &mut HeaderMap, conn: &ConnInfo, settings: &Forwarded, scheme: &'static str) -> IpAddr {
    let peer = conn.peer_ip();
    let listed = last_addresses(headers);
    let trusted = settings.trusted_hops as usize;
    let client = if settings.use_remote_address {
        match trusted {
            0 => peer,
            hops => listed.iter().rev().nth(hops - 1).copied().unwrap_or(peer),
        }
    } else {
        listed.iter().rev().nth(trusted).copied().unwrap_or(peer)
    };
    if settings.use_remote_address {
        if !settings.skip_append {
            append(headers, XFF, &peer.to_string());
        }
        let internal = is_private(client) && listed.is_empty();
        if !internal {
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
        } else {
            headers.insert(names::INTERNAL, HeaderValue::from_static("true"));
        }
        if trusted == 0 || !headers.contains_key(XFP) {
            headers.insert(XFP, HeaderValue::from_static(scheme));
        }
    } else if !headers.contains_key(XFP) {
        headers.insert(XFP, HeaderValue::from_static(scheme));
    }
    client
}

fn last_addresses(headers: &HeaderMap) -> Vec<IpAddr> {
    headers
        .get_all(XFF)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|address| address.trim().parse().ok())
        .collect()
}

fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => address.is_private() || address.is_loopback() || address.is_link_local(),
        IpAddr::V6(address) => address.is_loopback() || address.is_unique_local(),
    }
}

/// Adds to a comma-separated header.
fn append(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    let joined = match headers.get(&name).and_then(|before| before.to_str().ok()) {
        Some(before) if !before.is_empty() => HeaderValue::try_from(format!("{before},{value}")),
        _ => HeaderValue::try_from(value),
    };
    if let Ok(joined) = joined {
        headers.insert(name, joined);
    }
}

/// `x-forwarded-client-cert`: kept, removed, or written, as configured. What the client says of itself counts only on mTLS.
pub fn client_certificate(headers: &mut HeaderMap, conn: &ConnInfo, settings: &Forwarded) {
    use ForwardClientCert as F;
    let peer = conn.tls.as_ref().and_then(|tls| tls.peer.as_ref().map(|peer| (tls, peer)));
    let Some((tls, peer)) = peer else {
        if settings.client_cert != F::AlwaysForwardOnly {
            headers.remove(XFCC);
        }
        return;
    };
    match settings.client_cert {
        F::AlwaysForwardOnly | F::ForwardOnly => return,
        F::Sanitize => {
            headers.remove(XFCC);
            return;
        }
        F::SanitizeSet => {
            headers.remove(XFCC);
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
    append(headers, XFCC, &element);
}

/// Gives the request an id unless it has one that may stay.
pub fn request_id(headers: &mut HeaderMap, edge: bool, keep_external: bool, random: u128) {
    if headers.contains_key(REQUEST_ID) && (!edge || keep_external) {
        return;
    }
    let id = uuid::Builder::from_random_bytes(random.to_be_bytes()).into_uuid();
    if let Ok(value) = HeaderValue::try_from(id.to_string()) {
        headers.insert(REQUEST_ID, value);
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
    headers.get(header::UPGRADE)?.to_str().ok().map(str::to_ascii_lowercase)
}

//! Adding, replacing and removing headers, with Envoy's `%VARIABLE%` formatters in values.

use std::net::SocketAddr;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::listener::ConnInfo;

/// What values of a header may refer to.
#[derive(Debug, Clone, Copy)]
pub struct FormatContext<'a> {
    /// The connection.
    pub conn: &'a ConnInfo,
    /// The client as trusted headers tell, if that is not the peer.
    pub client: Option<std::net::IpAddr>,
    /// Host as the client sent it.
    pub authority: &'a str,
    /// Path with query as it stands.
    pub path: &'a str,
    /// Method.
    pub method: &'a str,
    /// `HTTP/1.1` or `HTTP/2`.
    pub protocol: &'a str,
    /// Name of the route.
    pub route: &'a str,
    /// Cluster chosen.
    pub cluster: &'a str,
    /// Endpoint, once picked.
    pub upstream: Option<SocketAddr>,
    /// Request headers, for `%REQ(name)%`.
    pub request: Option<&'a HeaderMap>,
    /// Status, for responses.
    pub status: u16,
}

/// What happens when the header is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Append {
    /// Add a value.
    Always,
    /// Only if it is absent.
    IfAbsent,
    /// Replace all values.
    Replace,
    /// Replace only what is there.
    ReplaceIfPresent,
}

/// One header to add.
#[derive(Debug, Clone)]
pub struct Addition {
    /// Name.
    pub name: HeaderName,
    /// Value.
    pub value: Value,
    /// What to do if it is there.
    pub append: Append,
    /// Keep it when its value comes out empty.
    pub keep_empty: bool,
}

/// A value, fixed or made of pieces.
#[derive(Debug, Clone)]
pub enum Value {
    /// Fixed.
    Fixed(HeaderValue),
    /// Text and variables.
    Pieces(Vec<Piece>),
}

/// A piece of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Piece {
    /// As written.
    Text(String),
    DownstreamRemoteAddress,
    DownstreamRemoteAddressWithoutPort,
    DownstreamDirectRemoteAddress,
    DownstreamDirectRemoteAddressWithoutPort,
    DownstreamLocalAddress,
    DownstreamLocalAddressWithoutPort,
    DownstreamLocalPort,
    DownstreamPeerUriSan,
    DownstreamLocalUriSan,
    DownstreamPeerSubject,
    DownstreamTlsVersion,
    RequestedServerName,
    Protocol,
    RouteName,
    UpstreamCluster,
    UpstreamRemoteAddress,
    ResponseCode,
    Hostname,
    /// `%REQ(name)%` or `%REQ(name?other)%`.
    Request(String, Option<String>),
}

impl Value {
    /// Compiles a value; `Err` names a variable that is not known.
    pub fn parse(text: &str) -> Result<Self, String> {
        if !text.contains('%') {
            return HeaderValue::from_str(text).map(Self::Fixed).map_err(|_| "is not a valid header value".into());
        }
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(start) = rest.find('%') {
            if start > 0 {
                pieces.push(Piece::Text(rest[..start].to_owned()));
            }
            let after = &rest[start + 1..];
            let end = after.find('%').ok_or("has a single `%`; write `%%` for the character")?;
            pieces.push(match &after[..end] {
                "" => Piece::Text("%".into()),
                name => Piece::parse(name)?,
            });
            rest = &after[end + 1..];
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        if pieces.iter().all(|piece| matches!(piece, Piece::Text(_))) {
            let text: String =
                pieces.iter().map(|piece| if let Piece::Text(text) = piece { text.as_str() } else { "" }).collect();
            return HeaderValue::from_str(&text).map(Self::Fixed).map_err(|_| "is not a valid header value".into());
        }
        Ok(Self::Pieces(pieces))
    }

    fn render(&self, context: &FormatContext<'_>) -> Option<HeaderValue> {
        match self {
            Self::Fixed(value) => Some(value.clone()),
            Self::Pieces(pieces) => {
                let mut text = String::new();
                for piece in pieces {
                    piece.write(context, &mut text);
                }
                HeaderValue::from_str(&text).ok()
            }
        }
    }
}

impl Piece {
    fn parse(name: &str) -> Result<Self, String> {
        Ok(match name {
            "DOWNSTREAM_REMOTE_ADDRESS" => Self::DownstreamRemoteAddress,
            "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => Self::DownstreamRemoteAddressWithoutPort,
            "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => Self::DownstreamDirectRemoteAddress,
            "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => Self::DownstreamDirectRemoteAddressWithoutPort,
            "DOWNSTREAM_LOCAL_ADDRESS" => Self::DownstreamLocalAddress,
            "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => Self::DownstreamLocalAddressWithoutPort,
            "DOWNSTREAM_LOCAL_PORT" => Self::DownstreamLocalPort,
            "DOWNSTREAM_PEER_URI_SAN" => Self::DownstreamPeerUriSan,
            "DOWNSTREAM_LOCAL_URI_SAN" => Self::DownstreamLocalUriSan,
            "DOWNSTREAM_PEER_SUBJECT" => Self::DownstreamPeerSubject,
            "DOWNSTREAM_TLS_VERSION" => Self::DownstreamTlsVersion,
            "REQUESTED_SERVER_NAME" => Self::RequestedServerName,
            "PROTOCOL" => Self::Protocol,
            "ROUTE_NAME" => Self::RouteName,
            "UPSTREAM_CLUSTER" | "UPSTREAM_CLUSTER_RAW" => Self::UpstreamCluster,
            "UPSTREAM_REMOTE_ADDRESS" | "UPSTREAM_HOST" => Self::UpstreamRemoteAddress,
            "RESPONSE_CODE" => Self::ResponseCode,
            "HOSTNAME" => Self::Hostname,
            other => match other.strip_prefix("REQ(").and_then(|rest| rest.strip_suffix(')')) {
                Some(names) => {
                    let (first, second) = names.split_once('?').map_or((names, None), |(a, b)| (a, Some(b.to_owned())));
                    Self::Request(first.to_ascii_lowercase(), second.map(|name| name.to_ascii_lowercase()))
                }
                None => return Err(format!("has the variable %{other}%, which is not supported in headers")),
            },
        })
    }

    fn write(&self, context: &FormatContext<'_>, out: &mut String) {
        use std::fmt::Write;
        let conn = context.conn;
        let tls = conn.tls.as_deref();
        let peer = tls.and_then(|tls| tls.peer.as_deref());
        let _ = match self {
            Self::Text(text) => out.write_str(text),
            Self::DownstreamRemoteAddress => match context.client {
                // A header tells no port.
                Some(client) => write!(out, "{}", SocketAddr::new(client, 0)),
                None => write!(out, "{}", conn.peer),
            },
            Self::DownstreamRemoteAddressWithoutPort => {
                write!(out, "{}", context.client.unwrap_or_else(|| conn.peer.ip()))
            }
            Self::DownstreamDirectRemoteAddress => write!(out, "{}", conn.direct_peer),
            Self::DownstreamDirectRemoteAddressWithoutPort => write!(out, "{}", conn.direct_peer.ip()),
            Self::DownstreamLocalAddress => write!(out, "{}", conn.local),
            Self::DownstreamLocalAddressWithoutPort => write!(out, "{}", conn.local.ip()),
            Self::DownstreamLocalPort => write!(out, "{}", conn.local.port()),
            Self::DownstreamPeerUriSan => {
                let sans: Vec<&str> = peer.map_or(Vec::new(), |peer| peer.uri_sans.iter().map(|san| &**san).collect());
                out.write_str(&sans.join(","))
            }
            Self::DownstreamLocalUriSan => out.write_str(tls.map_or("", |tls| &tls.local_uri_sans)),
            Self::DownstreamPeerSubject => out.write_str(peer.map_or("", |peer| &peer.subject)),
            Self::DownstreamTlsVersion => out.write_str(tls.map_or("", |tls| tls.version)),
            Self::RequestedServerName => out.write_str(conn.server_name.as_deref().unwrap_or("")),
            Self::Protocol => out.write_str(context.protocol),
            Self::RouteName => out.write_str(context.route),
            Self::UpstreamCluster => out.write_str(context.cluster),
            Self::UpstreamRemoteAddress => match context.upstream {
                Some(address) => write!(out, "{address}"),
                None => Ok(()),
            },
            Self::ResponseCode => write!(out, "{}", context.status),
            Self::Hostname => out.write_str(hostname()),
            Self::Request(name, other) => {
                let value = self::lookup(context, name).or_else(|| self::lookup(context, other.as_deref()?));
                out.write_str(value.unwrap_or(""))
            }
        };
    }
}

fn lookup<'a>(context: &FormatContext<'a>, name: &str) -> Option<&'a str> {
    match name {
        ":authority" => Some(context.authority),
        ":path" => Some(context.path),
        ":method" => Some(context.method),
        _ => context.request?.get(name)?.to_str().ok(),
    }
}

/// This machine's name.
pub fn hostname() -> &'static str {
    static NAME: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    NAME.get_or_init(|| {
        let name = std::env::var("HOSTNAME").or_else(|_| std::fs::read_to_string("/proc/sys/kernel/hostname"));
        name.map_or_else(|_| "unknown".into(), |name| name.trim().to_owned())
    })
}

/// Operations of one level: additions in order, then removals, as Envoy does.
#[derive(Debug, Clone, Default)]
pub struct HeaderOps {
    /// Added.
    pub add: Vec<Addition>,
    /// Removed.
    pub remove: Vec<HeaderName>,
}

impl HeaderOps {
    /// True if there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.add.is_empty() && self.remove.is_empty()
    }

    /// Changes `headers`.
    pub fn apply(&self, headers: &mut HeaderMap, context: &FormatContext<'_>) {
        for name in &self.remove {
            headers.remove(name);
        }
        for addition in &self.add {
            let Some(value) = addition.value.render(context) else { continue };
            if value.is_empty() && !addition.keep_empty && matches!(addition.value, Value::Pieces(_)) {
                continue;
            }
            match addition.append {
                Append::Always => {
                    headers.append(addition.name.clone(), value);
                }
                Append::IfAbsent => {
                    if !headers.contains_key(&addition.name) {
                        headers.insert(addition.name.clone(), value);
                    }
                }
                Append::Replace => {
                    headers.insert(addition.name.clone(), value);
                }
                Append::ReplaceIfPresent => {
                    if headers.contains_key(&addition.name) {
                        headers.insert(addition.name.clone(), value);
                    }
                }
            }
        }
    }
}

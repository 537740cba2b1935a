//! THE request function: what happens to a request, in the order in which it happens.
//!
//! normalize → route → policy → (redirect | direct response | forward) → account. `forward` is the part that talks to endpoints.

use std::borrow::Cow;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, EXPECT, HOST, HeaderValue, SERVER, TRANSFER_ENCODING};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;

use super::body::ResponseBody;
use super::error::Error;
use super::forward;
use super::names;
use super::normalize::{self, Path};
use super::reply::{local, locate, redirect, reply};
use super::serve::{Active, Activity};
use super::{HttpChain, RouteSource, ServerHeader, StripPort, Underscores, headers};
use crate::drain::Phase;
use crate::listener::ChainProtocol;
use crate::listener::place::Place;
use crate::policy::HttpPolicy;
use crate::policy::authz::{AuthzView, Verdict};
use crate::policy::headers::FormatContext;
use crate::route::action::Action;
use crate::route::domain::without_port;
use crate::route::{RequestHead, Route, RouteTable, VirtualHost, is_grpc};
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::answers::Ended;
use crate::telemetry::record::{Flags, Record};
use crate::worker::Worker;

/// The end of a request: what it gathered, and who wants to know.
#[derive(Debug)]
pub struct Finish {
    /// What it gathered.
    pub record: Box<Record>,
    /// Nobody will read a body (HEAD, 204, 304).
    pub bodiless: bool,
    logs: Vec<Arc<AccessLog>>,
    worker: Rc<Worker>,
    progress: Option<Rc<super::body::Progress>>,
    accounted: bool,
    /// Keeps the connection from being taken for idle.
    pub(super) active: Active,
    /// Held until the end: the endpoint's load, the circuit breakers' permits.
    pub held: forward::Held,
}

impl Finish {
    /// Notes the trailers of the response.
    pub fn trailers(&mut self, trailers: &HeaderMap) {
        if let Some(status) = grpc_status(trailers) {
            self.record.grpc_status = Some(status);
        }
        if !self.logs.is_empty() {
            self.record.response_trailers = Some(Box::new(trailers.clone()));
        }
    }

    /// Takes the byte counts of a request body when it ends.
    pub fn follow(&mut self, progress: Rc<super::body::Progress>) {
        self.progress = Some(progress);
    }

    /// The exchange ended as it should: writes logs and metrics.
    pub fn complete(mut self) {
        self.account();
    }

    fn account(&mut self) {
        self.accounted = true;
        if let Some(progress) = &self.progress {
            self.record.bytes_received = progress.received.get();
            self.record.grpc_messages.0 = progress.messages.count();
        }
        if let Some(cluster) = &self.record.cluster {
            let ended = Ended {
                status: self.record.status,
                attempts: self.record.attempts,
                timed_out: self.record.flags.has(Flags::UT),
            };
            cluster.usage.answers.ended(ended);
            if let Some(counts) = &self.record.route_counts {
                counts.answers.ended(ended);
            }
        }
        self.worker.metrics.http(&self.record);
        for log in &self.logs {
            log.write(&self.record);
        }
    }
}

impl Drop for Finish {
    /// A client that goes away takes the request's future with it; that request counts too.
    fn drop(&mut self) {
        if !self.accounted {
            self.record.flags.set(Flags::DC);
            self.record.details = Some("downstream_remote_disconnect".into());
            self.account();
        }
    }
}

/// `grpc-status` of headers or trailers.
pub fn grpc_status(headers: &HeaderMap) -> Option<u32> {
    headers.get(&names::GRPC_STATUS)?.to_str().ok()?.parse().ok()
}

/// What the later stages need of a request.
pub(super) struct Exchange {
    pub(super) worker: Rc<Worker>,
    pub(super) place: Rc<Place>,
    pub(super) chain: Arc<HttpChain>,
    pub(super) snapshot: Arc<crate::snapshot::Snapshot>,
    pub(super) parts: http::request::Parts,
    pub(super) authority: String,
    pub(super) scheme: &'static str,
    pub(super) version: Version,
    pub(super) upgrade: Option<String>,
    pub(super) grpc: bool,
    /// The client as trusted headers tell.
    client: IpAddr,
}

/// Where a request was found to belong.
#[derive(Clone, Copy)]
pub(super) struct Matched<'t> {
    pub(super) table: &'t RouteTable,
    pub(super) host: &'t VirtualHost,
    pub(super) route: &'t Arc<Route>,
}

impl Exchange {
    /// Notes the request as it stands for the access logs, which see it as the endpoint does.
    pub(super) fn note(&self, finish: &mut Finish) {
        if finish.logs.is_empty() {
            return;
        }
        let mut head = copy_head(&self.parts);
        if let Ok(host) = HeaderValue::try_from(self.authority.as_str()) {
            head.headers.insert(HOST, host);
        }
        if self.upgrade.as_deref() == Some("connect") {
            head.uri = Uri::default();
        }
        finish.record.request_head = Some(Box::new(head));
    }

    /// Replaces the authority, and tells the endpoint what it was.
    pub(super) fn rewrite_authority(&mut self, headers: &mut HeaderMap, authority: String, append: bool) {
        if let Ok(original) = HeaderValue::try_from(self.authority.as_str()) {
            headers.insert(names::ORIGINAL_HOST, original);
        }
        if append {
            headers::append(headers, names::FORWARDED_HOST, &self.authority);
        }
        self.authority = authority;
    }

    pub(super) fn head(&self) -> RequestHead<'_> {
        RequestHead {
            method: &self.parts.method,
            path_and_query: self.parts.uri.path_and_query().map_or("/", PathAndQuery::as_str),
            authority: &self.authority,
            scheme: self.scheme,
            headers: &self.parts.headers,
        }
    }

    /// The client, if headers tell another than the connection does.
    fn told_client(&self) -> Option<IpAddr> {
        (self.client != self.place.conn.peer.ip().to_canonical()).then_some(self.client)
    }

    pub(super) fn format<'a>(
        &'a self,
        route: &'a Route,
        cluster: &'a str,
        head: &RequestHead<'a>,
    ) -> FormatContext<'a> {
        FormatContext {
            conn: &self.place.conn,
            client: self.told_client(),
            authority: head.authority,
            path: head.path_and_query,
            method: head.method.as_str(),
            protocol: if self.version == Version::HTTP_2 { "HTTP/2" } else { "HTTP/1.1" },
            route: route.name.as_deref().unwrap_or(""),
            cluster,
            upstream: None,
            request: Some(head.headers),
            status: 0,
        }
    }
}

/// Serves one request.
pub async fn handle(
    worker: Rc<Worker>,
    place: Rc<Place>,
    request: Request<Incoming>,
    activity: Rc<Activity>,
    active: Active,
) -> Response<ResponseBody> {
    let filter_chain = place.chain(&worker);
    if place.is_gone() {
        activity.close();
    }
    let ChainProtocol::Http(chain) = &filter_chain.protocol else {
        // A chain of HTTP is never followed by one of another protocol.
        return Response::new(ResponseBody::full(Bytes::new(), None));
    };
    let chain = chain.clone();
    let version = request.version();
    let mut record = Box::new(Record::begin(place.conn.clone(), chain.stats.clone()));
    record.protocol = Some(version);
    let mut finish = Finish {
        bodiless: request.method() == Method::HEAD,
        record,
        logs: chain.access_logs.clone(),
        worker: worker.clone(),
        progress: None,
        accounted: false,
        active,
        held: forward::Held::default(),
    };
    if !finish.logs.is_empty() {
        // Until more is known; what is refused before it is routed is logged so.
        let (parts, body) = request.into_parts();
        finish.record.request_head = Some(Box::new(copy_head(&parts)));
        return finish_response(Request::from_parts(parts, body), worker, place, chain, version, finish, activity)
            .await;
    }
    finish_response(request, worker, place, chain, version, finish, activity).await
}

fn copy_head(parts: &http::request::Parts) -> http::request::Parts {
    let mut request = Request::new(());
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = parts.uri.clone();
    *request.version_mut() = parts.version;
    *request.headers_mut() = parts.headers.clone();
    request.into_parts().0
}

async fn finish_response(
    request: Request<Incoming>,
    worker: Rc<Worker>,
    place: Rc<Place>,
    chain: Arc<HttpChain>,
    version: Version,
    finish: Finish,
    activity: Rc<Activity>,
) -> Response<ResponseBody> {
    let draining = worker.clone();
    let stands = place.clone();
    let mut response = respond(request, worker, place, chain.clone(), finish).await;
    let headers = response.headers_mut();
    match &chain.server_header {
        ServerHeader::Overwrite(name) => {
            headers.insert(SERVER, name.clone());
        }
        ServerHeader::AppendIfAbsent(name) => {
            headers.entry(SERVER).or_insert_with(|| name.clone());
        }
        ServerHeader::PassThrough => {}
    }
    if let Some(via) = chain.via.as_deref() {
        self::headers::via(headers, via);
    }
    let full = chain.max_requests_per_connection.is_some_and(|limit| activity.requests.get() >= limit);
    if version < Version::HTTP_2
        && (full || stands.is_gone() || draining.drain.phase() >= Phase::Leaving)
        && !is_upgrade(response.status())
    {
        response.headers_mut().insert(http::header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn is_upgrade(status: StatusCode) -> bool {
    status == StatusCode::SWITCHING_PROTOCOLS
}

async fn respond(
    request: Request<Incoming>,
    worker: Rc<Worker>,
    place: Rc<Place>,
    chain: Arc<HttpChain>,
    mut finish: Finish,
) -> Response<ResponseBody> {
    let (parts, body, on_upgrade) = {
        let mut request = request;
        let on_upgrade = hyper::upgrade::on(&mut request);
        let (parts, body) = request.into_parts();
        (parts, body, on_upgrade)
    };
    let snapshot = worker.snapshot();
    let mut exchange = match prepare(worker, place, chain, snapshot, parts, &mut finish) {
        Ok(exchange) => exchange,
        Err(refusal) => return refusal.response(finish, false),
    };
    let table = match &exchange.chain.routes {
        RouteSource::Inline(table) => Some(table.clone()),
        RouteSource::Named(name) => exchange.snapshot.routes.get(name).cloned(),
    };
    let random = exchange.worker.random();
    let selected: Option<(&VirtualHost, &Arc<Route>)> = table.as_ref().and_then(|table| {
        let selected = table.select(&exchange.head(), random)?;
        Some((selected.virtual_host, selected.route))
    });
    finish.record.client = exchange.told_client();
    if let Some((_, route)) = selected {
        finish.record.route_name = route.name.clone();
        finish.record.route_counts = route.counts.clone();
        if let Action::Forward(action) = &route.action {
            let named = action.target.only().filter(|name| exchange.snapshot.clusters.contains_key(*name));
            finish.record.cluster_name = named.cloned();
        }
    }
    let matched = match (&table, selected) {
        (Some(table), Some((host, route))) => Some(Matched { table, host, route }),
        _ => None,
    };
    if let Err(error) = authorize(&exchange, selected) {
        exchange.note(&mut finish);
        let response = local(error, finish, exchange.grpc);
        return match matched {
            Some(matched) => with_response_headers(response, &exchange, matched),
            None => response,
        };
    }
    let Some(matched) = matched else {
        exchange.note(&mut finish);
        return local(Error::NoRoute, finish, exchange.grpc);
    };
    let Matched { host, route, .. } = matched;
    if host.require_tls && exchange.scheme == "http" {
        exchange.note(&mut finish);
        // No route of the host has a part in this.
        (finish.record.route_name, finish.record.cluster_name) = (None, None);
        finish.record.route_counts = None;
        let location = format!("https://{}{}", exchange.authority, exchange.head().path_and_query);
        return redirect(StatusCode::MOVED_PERMANENTLY, &location, finish, exchange.grpc);
    }
    match &route.action {
        Action::Redirect(action) => {
            exchange.note(&mut finish);
            let location = action.location(&route.matches.path, &exchange.head());
            let response = redirect(action.status, &location, finish, exchange.grpc);
            with_response_headers(response, &exchange, matched)
        }
        Action::Direct(direct) => {
            exchange.note(&mut finish);
            finish.record.details = Some("direct_response".into());
            let mut response = reply(direct.status, direct.body.clone(), finish, exchange.grpc.then_some(None));
            if direct.status == StatusCode::CREATED {
                // What was made is where it was asked for (RFC 9110, section 15.3.2), as Envoy says too.
                let head = exchange.head();
                let location = format!("{}://{}{}", head.scheme, head.authority, head.path_and_query);
                locate(&mut response, &location);
            }
            with_response_headers(response, &exchange, matched)
        }
        Action::Forward(action) => {
            let route = route.clone();
            let matched = Matched { route: &route, ..matched };
            Box::pin(forward::forward(&mut exchange, matched, action, body, on_upgrade, finish, random)).await
        }
    }
}

/// A request that is answered before it is routed.
enum Early {
    Error(Error),
    Redirect(String),
}

impl Early {
    fn response(self, finish: Finish, grpc: bool) -> Response<ResponseBody> {
        match self {
            Self::Error(error) => {
                let mut response = local(error, finish, grpc);
                // What came after a malformed head on this connection cannot be trusted.
                response.headers_mut().insert(http::header::CONNECTION, HeaderValue::from_static("close"));
                response
            }
            Self::Redirect(path) => {
                let mut response = redirect(StatusCode::TEMPORARY_REDIRECT, &path, finish, grpc);
                response.body_mut().note("path_normalization_failed");
                response
            }
        }
    }
}

/// Checks and normalises a request: one authority, one path, the headers that proxies write.
fn prepare(
    worker: Rc<Worker>,
    place: Rc<Place>,
    chain: Arc<HttpChain>,
    snapshot: Arc<crate::snapshot::Snapshot>,
    mut parts: http::request::Parts,
    finish: &mut Finish,
) -> Result<Exchange, Early> {
    let bad = |text: &'static str| Early::Error(Error::BadRequest(text.into()));
    let version = parts.version;
    let http1 = version < Version::HTTP_2;
    if http1 {
        framing(&parts)?;
    }
    let fields = fields_size(&parts.headers);
    if parts.headers.len() > chain.max_headers as usize || head_size(&parts, fields) > u64::from(chain.max_head_bytes) {
        return Err(Early::Error(Error::HeadTooLarge));
    }
    if version == Version::HTTP_10 && !chain.accept_http_10 {
        return Err(bad("HTTP/1.0 is not accepted here"));
    }
    let authority = stripped(&chain, place.conn.local.port(), authority(&parts, version).map_err(bad)?);
    match chain.normalize.underscores {
        Underscores::Allow => {}
        Underscores::Reject => {
            if parts.headers.keys().any(|name| name.as_str().contains('_')) {
                return Err(bad("a header name holds an underscore"));
            }
        }
        Underscores::Drop => {
            let names: Vec<_> = parts.headers.keys().filter(|name| name.as_str().contains('_')).cloned().collect();
            for name in names {
                parts.headers.remove(name);
            }
        }
    }
    let extended = parts.extensions.get::<hyper::ext::Protocol>().is_some();
    if parts.method != Method::CONNECT || extended {
        let raw = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let canonical = match normalize::path(raw, &chain.normalize) {
            Path::Canonical(Cow::Borrowed(_)) => None,
            Path::Canonical(Cow::Owned(path)) => Some(path),
            Path::Rejected(why) => return Err(Early::Error(Error::Path(why))),
            Path::Redirect(path) => return Err(Early::Redirect(path)),
        };
        let path = match canonical {
            Some(path) => PathAndQuery::try_from(path).map_err(|_| bad("the path is not valid"))?,
            None => parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/")),
        };
        parts.uri = Uri::from(path);
    }
    let scheme = if place.conn.tls.is_some() { "https" } else { "http" };
    let upgrade = match parts.extensions.get::<hyper::ext::Protocol>() {
        Some(protocol) => {
            let protocol = protocol.as_str().to_ascii_lowercase();
            // An extended CONNECT is to HTTP/2 what an upgrading GET is to HTTP/1 (RFC 8441), and is routed as one.
            parts.method = Method::GET;
            Some(protocol)
        }
        None if parts.method == Method::CONNECT => Some("connect".to_owned()),
        None if http1 => headers::upgrade(&parts.headers),
        None => None,
    };
    if upgrade.is_some() {
        // What follows the head is the new protocol's. A body as well would leave two opinions on where that begins.
        let length = parts.headers.remove(CONTENT_LENGTH);
        let empty = length.is_none_or(|length| length.as_bytes() == b"0");
        if http1 && (!empty || parts.headers.contains_key(TRANSFER_ENCODING)) {
            return Err(bad("an upgrade with a body"));
        }
    }
    let grpc = is_grpc(&parts.headers);
    finish.record.grpc = grpc;
    finish.record.head_bytes.0 = fields;
    headers::strip_hop_by_hop(&mut parts.headers);
    if !http1 {
        headers::join_cookies(&mut parts.headers);
    }
    if parts.headers.get(EXPECT).is_some_and(|expect| expect.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        // Answered here: the client sends its body as soon as it is read.
        parts.headers.remove(EXPECT);
    }
    let client = headers::forwarded(&mut parts.headers, &place.conn, &chain.forwarded, scheme);
    headers::client_certificate(&mut parts.headers, &place.conn, &chain.forwarded);
    if chain.generate_request_id {
        let random = u128::from(worker.random()) << 64 | u128::from(worker.random());
        let edge = chain.forwarded.use_remote_address;
        headers::request_id(&mut parts.headers, edge, chain.preserve_external_request_id, random);
    }
    if chain.stats.as_ref().is_some_and(|stats| stats.metadata_exchange)
        && place.conn.direction == crate::listener::Direction::Inbound
    {
        let told = parts.headers.remove(names::PEER_METADATA);
        parts.headers.remove(names::PEER_METADATA_ID);
        finish.record.source_peer = told.and_then(|value| place.peer(&value));
    }
    Ok(Exchange { worker, place, chain, snapshot, parts, authority, scheme, version, upgrade, grpc, client })
}

/// Refuses a request whose end one could be of two minds about.
fn framing(parts: &http::request::Parts) -> Result<(), Early> {
    let bad = |text: &'static str| Early::Error(Error::BadRequest(text.into()));
    if !parts.headers.contains_key(TRANSFER_ENCODING) {
        return Ok(());
    }
    // Two ways to tell where a body ends is how requests are smuggled (RFC 9112, section 6.1).
    if parts.headers.contains_key(CONTENT_LENGTH) {
        return Err(bad("both content-length and transfer-encoding"));
    }
    if parts.version == Version::HTTP_10 {
        return Err(bad("transfer-encoding in HTTP/1.0"));
    }
    let mut codings = parts.headers.get_all(TRANSFER_ENCODING).iter();
    let chunked = codings.next().is_some_and(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
    if !chunked || codings.next().is_some() {
        // The body is sent on in chunks alone: any other coding would be lost on the way.
        return Err(Early::Error(Error::TransferCoding));
    }
    Ok(())
}

/// The one authority of a request: absolute form or `:authority` first (RFC 9112, section 3.2.2), then `Host`, of which there is one.
fn authority(parts: &http::request::Parts, version: Version) -> Result<String, &'static str> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err("more than one host header");
    }
    let host = match host.map(HeaderValue::to_str) {
        Some(Ok(host)) => Some(host),
        Some(Err(_)) => return Err("the host header is not text"),
        None => None,
    };
    let named = match (parts.uri.authority(), host) {
        (Some(authority), _) if authority.as_str().contains('@') => return Err("the authority holds user information"),
        (Some(_), _) if version < Version::HTTP_2 && parts.method != Method::CONNECT => {
            // `GET host` would be read as an authority without a path (RFC 9112, section 3.2.3 has it for CONNECT only).
            match parts.uri.scheme_str() {
                Some("http" | "https") => parts.uri.authority().map_or("", |authority| authority.as_str()),
                _ => return Err("the request target is neither a path nor an http URL"),
            }
        }
        (Some(authority), Some(host))
            if version == Version::HTTP_2 && !host.eq_ignore_ascii_case(authority.as_str()) =>
        {
            return Err("host and :authority differ");
        }
        (Some(authority), _) => authority.as_str(),
        (None, Some(host)) => host,
        (None, None) if version <= Version::HTTP_10 => "",
        (None, None) => return Err("no host"),
    };
    if named.bytes().any(|byte| matches!(byte, b'/' | b'?' | b'#' | b'@' | b'\\' | b' ' | b',')) {
        return Err("the host is not valid");
    }
    // A name with its root's dot is the same name, for routes and policies alike.
    let host = without_port(named);
    Ok(match host.strip_suffix('.') {
        Some(short) => format!("{short}{}", &named[host.len()..]),
        None => named.to_owned(),
    })
}

/// The authority without its port, where the chain says so. `port` is the connection's own.
fn stripped(chain: &HttpChain, port: u16, authority: String) -> String {
    match chain.strip_port {
        StripPort::Keep => authority,
        StripPort::Any => without_port(&authority).to_owned(),
        StripPort::Matching => match authority.strip_suffix(&format!(":{port}")) {
            Some(host) => host.to_owned(),
            None => authority,
        },
    }
}

/// Bytes of a head with so many bytes of fields, about as they were sent.
fn head_size(parts: &http::request::Parts, fields: u64) -> u64 {
    let target = parts.uri.path_and_query().map_or(0, |path| path.as_str().len());
    fields + target as u64 + 16
}

fn fields_size(headers: &HeaderMap) -> u64 {
    headers.iter().map(|(name, value)| (name.as_str().len() + value.len() + 4) as u64).sum()
}

/// Asks the chain's policies, or those that the route or virtual host puts in their place.
fn authorize(exchange: &Exchange, selected: Option<(&VirtualHost, &Arc<Route>)>) -> Result<(), Error> {
    let head = exchange.head();
    let conn = &exchange.place.conn;
    let view = AuthzView { head: Some(&head), conn, remote: exchange.client };
    let check = |rbac: &crate::policy::authz::Rbac| match rbac.check(&view) {
        Verdict::Allow => Ok(()),
        Verdict::Deny(detail) => Err(Error::Denied(detail)),
    };
    let own = selected.and_then(|(host, route)| route.rbac.as_ref().or(host.rbac.as_ref()));
    if let Some(own) = own {
        return own.0.as_ref().map_or(Ok(()), |rbac| check(rbac));
    }
    exchange.chain.policies.iter().try_for_each(|policy| match policy {
        HttpPolicy::Rbac(rbac) => check(rbac),
    })
}

/// Applies the header operations of route, virtual host and table to a response.
pub(super) fn with_response_headers(
    mut response: Response<ResponseBody>,
    exchange: &Exchange,
    matched: Matched<'_>,
) -> Response<ResponseBody> {
    let Matched { table, host, route } = matched;
    let levels = [&route.response_headers, &host.response_headers, &table.response_headers];
    if levels.iter().all(|ops| ops.is_empty()) {
        return response;
    }
    let head = exchange.head();
    let mut context = exchange.format(route, "", &head);
    context.status = response.status().as_u16();
    let ordered: Vec<_> = if table.most_specific_wins { levels.into_iter().rev().collect() } else { levels.to_vec() };
    for ops in ordered {
        ops.apply(response.headers_mut(), &context);
    }
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_request_has_one_authority_or_is_refused() {
        let (v1, v2) = (Version::HTTP_11, Version::HTTP_2);
        for (version, method, target, hosts, expected) in [
            (v1, "GET", "/", &["a.example"][..], Ok("a.example")),
            (v1, "GET", "/", &["a.example.:80"], Ok("a.example:80")),
            (v1, "GET", "/", &["a.example."], Ok("a.example")),
            (v1, "GET", "http://b.example/", &["a.example"], Ok("b.example")),
            (v1, "GET", "/", &["a", "a"], Err("more than one")),
            (v1, "GET", "/", &[], Err("no host")),
            (v1, "GET", "/", &["a/b"], Err("not valid")),
            (v1, "GET", "/", &["a,b"], Err("not valid")),
            (v1, "GET", "/", &["u@a"], Err("not valid")),
            (v1, "GET", "admin", &["a"], Err("request target")),
            (v1, "GET", "ftp://a/", &["a"], Err("request target")),
            (v1, "GET", "http://u:p@a/", &["a"], Err("user information")),
            (v1, "CONNECT", "a.example:443", &["a.example:443"], Ok("a.example:443")),
            (v2, "GET", "https://a.example/", &[], Ok("a.example")),
            (v2, "GET", "https://a.example/", &["A.example"], Ok("a.example")),
            (v2, "GET", "https://a.example/", &["b.example"], Err("differ")),
            (v2, "GET", "/", &[], Err("no host")),
        ] {
            let mut request = Request::builder().version(version).method(method).uri(target);
            for host in hosts {
                request = request.header(HOST, *host);
            }
            let (parts, ()) = request.body(()).unwrap().into_parts();
            match (authority(&parts, version), expected) {
                (Ok(got), Ok(expected)) => assert_eq!(got, expected, "{target} {hosts:?}"),
                (Err(got), Err(reason)) => assert!(got.contains(reason), "{target} {hosts:?}: {got}"),
                (got, _) => panic!("{target} {hosts:?}: {got:?}, not {expected:?}"),
            }
        }
    }
}

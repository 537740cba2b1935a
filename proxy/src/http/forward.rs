//! Sending a request to an endpoint, again if that is wanted and safe, and its response back.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderValue, TRANSFER_ENCODING, UPGRADE};
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::{Body as _, Incoming};
use hyper::upgrade::OnUpgrade;

use super::body::{Limits, Progress, Replay, RequestBody, ResponseBody};
use super::error::Error;
use super::handle::{Exchange, Finish, Matched, grpc_status, with_response_headers};
use super::reply::local_as;
use super::serve::Active;
use super::time_limit::{TimeLimit, Times, expected, grpc_timeout};
use super::{headers, names, upgrade};
use crate::balance::{Cluster, Discovery, Endpoint, Observation, Permit, PickRequest, Picked, Resource};
use crate::connect::{Taken, Want};
use crate::listener::Direction;
use crate::policy::headers::HeaderOps;
use crate::policy::retry::{Decision, Outcome, REFUSED_STREAM, RetryPolicy, Try, unprocessed};
use crate::route::VirtualHost;
use crate::route::action::{Forward, HostRewrite, Target, WeightedCluster};
use crate::telemetry::record::Flags;
use crate::tls::TlsInfo;

/// What a request holds of others until it is over.
#[derive(Debug, Default)]
pub struct Held {
    picked: Option<Picked>,
    request: Option<Permit>,
    retry: Option<Permit>,
}

/// The body of a request, for as many tries as may be.
enum Source {
    Empty,
    Once(Option<RequestBody>, Rc<Progress>),
    Replay(Rc<Replay>),
}

impl Source {
    fn new(body: Incoming, version: Version, keep: bool, active: &Active) -> Self {
        if body.is_end_stream() {
            return Self::Empty;
        }
        let progress = Progress::begin(version, active.also());
        if keep {
            Self::Replay(Replay::new(body, progress))
        } else {
            Self::Once(Some(RequestBody::Direct(body, progress.clone())), progress)
        }
    }

    fn next(&mut self) -> Option<RequestBody> {
        match self {
            Self::Empty => Some(RequestBody::Empty),
            Self::Once(body, _) => body.take(),
            Self::Replay(replay) => Some(replay.next()),
        }
    }

    fn progress(&self) -> Option<&Rc<Progress>> {
        match self {
            Self::Empty => None,
            Self::Once(_, progress) => Some(progress),
            Self::Replay(replay) => Some(&replay.progress),
        }
    }

    fn is_replayable(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Once(body, _) => body.is_some(),
            Self::Replay(replay) => replay.is_whole(),
        }
    }
}

/// How long a retry waits for another endpoint, when all that are known took no connection: they are being replaced, and the one that
/// is to take over is ready before they go.
const SUCCESSOR: Duration = Duration::from_millis(500);

/// One try's result.
type Tried = Result<(Response<Incoming>, Taken), (Error, bool)>;

/// Forwards a request.
#[allow(clippy::too_many_arguments)]
pub(super) async fn forward(
    exchange: &mut Exchange,
    matched: Matched<'_>,
    action: &Forward,
    body: Incoming,
    on_upgrade: OnUpgrade,
    mut finish: Finish,
    random: u64,
) -> Response<ResponseBody> {
    let (cluster, weighted) = match target(exchange, action, random.rotate_left(32)) {
        Ok(found) => found,
        Err(error) => {
            exchange.note(&mut finish);
            return refuse(exchange, matched, error, Some(action.cluster_not_found), finish);
        }
    };
    finish.record.cluster = Some(cluster.clone());
    if let Some(protocol) = &exchange.upgrade
        && !upgrade_allowed(exchange, action, protocol)
    {
        exchange.note(&mut finish);
        return refuse(exchange, matched, Error::Upgrade, None, finish);
    }
    prepare_request(exchange, matched, action, weighted, &cluster);
    exchange.note(&mut finish);
    finish.record.attempts = 1;
    match cluster.acquire(Resource::Requests) {
        Ok(permit) => finish.held.request = Some(permit),
        Err(error) => return refuse(exchange, matched, error, None, finish),
    }
    if action.terminate_connect && exchange.upgrade.as_deref() == Some("connect") {
        return upgrade::terminate(exchange, &cluster, on_upgrade, finish).await;
    }
    let retry = action.retry.as_ref().or(matched.host.retry.as_ref()).cloned();
    let upgrading = exchange.upgrade.is_some();
    let version = exchange.version;
    let mut source =
        if upgrading { Source::Empty } else { Source::new(body, version, retry.is_some(), &finish.active) };
    if let Some(progress) = source.progress() {
        finish.follow(progress.clone());
    }
    let times = Times::new(exchange, action, &finish);
    let result = attempts(exchange, matched, action, &cluster, retry.as_deref(), &mut source, &mut finish, times).await;
    let (response, taken) = match result {
        Ok(answered) => answered,
        Err(error) => return refuse(exchange, matched, error, None, finish),
    };
    finish.record.upstream_service_time = Some(times.started.elapsed());
    let switching = response.status() == StatusCode::SWITCHING_PROTOCOLS
        || (exchange.upgrade.as_deref() == Some("connect") && response.status().is_success());
    if upgrading && switching {
        return upgrade::switch(exchange, response, taken, on_upgrade, finish);
    }
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        // The endpoint would speak something that nobody asked for, on a connection that the client takes for HTTP.
        let error = Error::UpstreamProtocol("101 without an upgrade".into());
        return refuse(exchange, matched, error, None, finish);
    }
    let limits = Limits {
        timeout: times.timeout.filter(|_| !upgrading),
        request: source.progress().cloned(),
        started: Some(times.started),
        idle: times.idle,
        end: times.end,
    };
    respond(exchange, matched, weighted, response, taken, limits, finish)
}

/// Answers with an error of ours, by the route's rules for responses.
fn refuse(
    exchange: &Exchange,
    matched: Matched<'_>,
    error: Error,
    status: Option<StatusCode>,
    finish: Finish,
) -> Response<ResponseBody> {
    // An application that is told to end closes its port before its clients hear of it. Only their proxies can try another.
    let conn = &exchange.place.conn;
    let told = conn.direction == Direction::Inbound && unprocessed(&error) && is_of_the_mesh(conn.tls.as_deref());
    let mut response = with_response_headers(local_as(error, status, finish, exchange.grpc), exchange, matched);
    if told {
        let value = HeaderValue::from_static(mesh_proto::names::header::UNPROCESSED_CONNECT_FAILURE);
        response.headers_mut().insert(names::UNPROCESSED, value);
    }
    response
}

/// True if the peer showed who it is in a mesh.
fn is_of_the_mesh(tls: Option<&TlsInfo>) -> bool {
    tls.and_then(|tls| tls.peer.as_ref()).is_some_and(|peer| peer.spiffe.is_some())
}

/// The cluster of a request.
fn target<'a>(
    exchange: &Exchange,
    action: &'a Forward,
    random: u64,
) -> Result<(Arc<Cluster>, Option<&'a WeightedCluster>), Error> {
    let (name, weighted) = match &action.target {
        Target::Weighted { .. } => {
            let weighted = action.target.choose(random);
            (weighted.map_or("", |weighted| &*weighted.cluster), weighted)
        }
        Target::Header(name) => {
            (exchange.parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or(""), None)
        }
    };
    let cluster = exchange.snapshot.clusters.get(name).cloned();
    cluster.map(|cluster| (cluster, weighted)).ok_or_else(|| Error::NoCluster(name.into()))
}

fn upgrade_allowed(exchange: &Exchange, action: &Forward, protocol: &str) -> bool {
    let find = |list: &[(String, bool)]| list.iter().find(|(name, _)| name == protocol).map(|(_, allowed)| *allowed);
    find(&action.upgrades).or_else(|| find(&exchange.chain.upgrades)).unwrap_or(false)
}

/// Rewrites path, host and headers as the route says. Runs once: tries send the same request.
fn prepare_request(
    exchange: &mut Exchange,
    matched: Matched<'_>,
    action: &Forward,
    weighted: Option<&WeightedCluster>,
    cluster: &Cluster,
) {
    let Matched { table, host, route } = matched;
    let head = exchange.head();
    let rewritten = action.path.apply(&route.matches.path, &head);
    let rewritten = rewritten.and_then(|path| PathAndQuery::try_from(path).ok());
    let original = rewritten.as_ref().and_then(|_| HeaderValue::try_from(head.path_and_query).ok());
    let empty = HeaderOps::default();
    let own = weighted.map_or(&empty, |weighted| &weighted.request_headers);
    let levels = [own, &route.request_headers, &host.request_headers, &table.request_headers];
    let mut changed = if levels.iter().any(|ops| !ops.is_empty()) {
        // Values may refer to headers as they came, so these stay while others change.
        let mut changed = exchange.parts.headers.clone();
        let context = exchange.format(route, &cluster.config.name, &head);
        let ordered: Vec<_> =
            if table.most_specific_wins { levels.into_iter().rev().collect() } else { levels.to_vec() };
        for ops in ordered {
            ops.apply(&mut changed, &context);
        }
        changed
    } else {
        std::mem::take(&mut exchange.parts.headers)
    };
    if let Some(path) = rewritten {
        if let Some(original) = original {
            changed.insert(names::ORIGINAL_PATH, original);
        }
        exchange.parts.uri = Uri::from(path);
    }
    let rewrite = match weighted.map(|weighted| &weighted.host) {
        None | Some(HostRewrite::Keep) => &action.host,
        Some(own) => own,
    };
    let own = !std::ptr::eq(rewrite, &action.host);
    let rewritten = match rewrite {
        HostRewrite::Keep | HostRewrite::Auto => None,
        HostRewrite::Literal(value) => value.to_str().ok().map(str::to_owned),
        HostRewrite::Header(name) => {
            changed.get(name).and_then(|value| value.to_str().ok()).filter(|host| !host.is_empty()).map(str::to_owned)
        }
    };
    if let Some(rewritten) = rewritten {
        if own {
            // As in Envoy, what a weighted cluster does to the host is not told.
            exchange.authority = rewritten;
        } else {
            exchange.rewrite_authority(&mut changed, rewritten, action.append_forwarded_host);
        }
    }
    if let Some(via) = exchange.chain.via.as_deref() {
        headers::via(&mut changed, via);
    }
    if action.grpc_timeout_max.is_some_and(|most| !most.is_zero())
        && exchange.grpc
        && let (Some(most), Some(told)) = (action.grpc_timeout_max, grpc_timeout(&changed))
        && let Ok(value) = HeaderValue::try_from(format!("{}m", told.min(most).as_millis()))
    {
        changed.insert(names::GRPC_TIMEOUT, value);
    }
    if exchange.chain.stats.as_ref().is_some_and(|stats| stats.metadata_exchange)
        && exchange.place.conn.direction == Direction::Outbound
    {
        let node = &exchange.worker.node;
        changed.insert(names::PEER_METADATA, node.metadata.clone());
        changed.insert(names::PEER_METADATA_ID, node.id.clone());
    }
    exchange.parts.headers = changed;
}

/// Tries until there is an answer for the client.
#[allow(clippy::too_many_arguments)]
async fn attempts(
    exchange: &mut Exchange,
    matched: Matched<'_>,
    action: &Forward,
    cluster: &Arc<Cluster>,
    retry: Option<&RetryPolicy>,
    source: &mut Source,
    finish: &mut Finish,
    times: Times,
) -> Result<(Response<Incoming>, Taken), Error> {
    let worker = exchange.worker.clone();
    let mut failed: Vec<Arc<Endpoint>> = Vec::new();
    let mut number = 1;
    loop {
        finish.record.attempts = number;
        let avoid: &[Arc<Endpoint>] = if retry.is_some_and(|retry| retry.avoid_previous) { &failed } else { &[] };
        let avoid_priorities = retry.map_or(&failed[..0], |retry| retry.left_out(&failed));
        let original_dst = Some(exchange.place.conn.local);
        let request = PickRequest { avoid, avoid_priorities, original_dst };
        let picked = worker.with_random(|random| cluster.pick(&request, random))?;
        let endpoint = picked.endpoint().clone();
        finish.record.endpoint = Some(endpoint.clone());
        finish.held.picked = Some(picked);
        if matches!(action.host, HostRewrite::Auto)
            && let Some(name) = endpoint.spec.hostname.as_deref()
            && exchange.authority != name
        {
            let mut headers = std::mem::take(&mut exchange.parts.headers);
            exchange.rewrite_authority(&mut headers, name.to_owned(), action.append_forwarded_host);
            exchange.parts.headers = headers;
            exchange.note(finish);
        }
        let limit = TimeLimit::new(times, retry, source.progress());
        let told = expected(times, retry);
        let tried = one(exchange, matched.host, cluster, &endpoint, source, number, told, finish, limit).await;
        observe(cluster, &endpoint, &tried);
        let Some(retry) = retry else { return tried.map_err(|(error, _)| error) };
        let (outcome, sent) = match &tried {
            Ok((response, _)) => {
                let headers = response.headers();
                let unprocessed = headers.contains_key(names::UNPROCESSED)
                    && exchange.place.conn.direction == Direction::Outbound
                    && is_of_the_mesh(finish.record.upstream_tls.as_deref());
                let (status, grpc) = (response.status(), grpc_status(headers));
                let outcome = Outcome::Answer { status, grpc, headers, unprocessed };
                (outcome, true)
            }
            Err((error, sent)) => (Outcome::Failure(error), *sent),
        };
        let attempt = Try {
            number,
            method: &exchange.parts.method,
            outcome,
            sent,
            replayable: source.is_replayable() && exchange.upgrade.is_none(),
        };
        match retry.decide(&attempt) {
            Decision::Stop => return tried.map_err(|(error, _)| error),
            Decision::Exhausted => {
                finish.record.flags.set(Flags::URX);
                return tried.map_err(|(error, _)| error);
            }
            Decision::Again => {}
        }
        // The retry before is over; its room is free for this one.
        finish.held.retry = None;
        match cluster.acquire(Resource::Retries) {
            Ok(permit) => finish.held.retry = Some(permit),
            // Out of budget: the client gets the answer that there is.
            Err(_) => {
                finish.record.flags.set(Flags::UO);
                return tried.map_err(|(error, _)| error);
            }
        }
        let refused = outcome.is_unprocessed() && matches!(cluster.config.discovery, Discovery::Eds(_));
        drop(tried);
        failed.push(endpoint);
        number += 1;
        let wait = retry.backoff(number, worker.with_random(fastrand::Rng::f64));
        let left = action.timeout.map(|timeout| timeout.saturating_sub(times.started.elapsed()));
        if left.is_some_and(|left| wait >= left) {
            return Err(Error::Timeout { per_try: false });
        }
        tokio::time::sleep(wait).await;
        if refused {
            // With nobody else to ask, another try so soon would fail too; it is made all the same if nobody comes.
            let longest = left.map_or(SUCCESSOR, |left| SUCCESSOR.min(left.saturating_sub(wait) / 2));
            let _ = tokio::time::timeout(longest, cluster.has_other_than(&failed)).await;
        }
    }
}

#[allow(clippy::too_many_arguments)]
async fn one(
    exchange: &Exchange,
    host: &VirtualHost,
    cluster: &Arc<Cluster>,
    endpoint: &Endpoint,
    source: &mut Source,
    number: u32,
    told: Option<Duration>,
    finish: &mut Finish,
    limit: TimeLimit,
) -> Tried {
    let mut sent = false;
    let result = {
        let trying = send(exchange, host, cluster, endpoint, source, number, told, finish, &mut sent);
        if limit.is_endless() {
            trying.await
        } else {
            tokio::select! {
                biased;
                result = trying => result,
                error = limit.expired() => Err(error),
            }
        }
    };
    result.map_err(|error| (error, sent))
}

#[allow(clippy::too_many_arguments)]
async fn send(
    exchange: &Exchange,
    host: &VirtualHost,
    cluster: &Arc<Cluster>,
    endpoint: &Endpoint,
    source: &mut Source,
    number: u32,
    told: Option<Duration>,
    finish: &mut Finish,
    sent: &mut bool,
) -> Result<(Response<Incoming>, Taken), Error> {
    let authority = exchange.authority.as_str();
    let name = crate::route::domain::without_port(authority);
    let want = Want::of(cluster.config.protocol, exchange.version, exchange.upgrade.is_some());
    let pools = &exchange.worker.pools;
    // A connection that turns out to be dead before anything was sent costs nothing but this loop.
    for _ in 0..3 {
        let mut taken = pools.take(cluster, endpoint, want, Some(name)).await?;
        let meta = match &taken {
            Taken::Http1(connection) => &connection.meta,
            Taken::Http2(connection) => &connection.meta,
        };
        finish.record.upstream_local = meta.local;
        finish.record.upstream_tls = meta.tls.clone();
        let body = source.next().ok_or(Error::UpstreamClosed)?;
        let http2 = matches!(taken, Taken::Http2(_));
        let request = build(exchange, host, endpoint, number, told, http2, body)?;
        let idempotent = crate::policy::retry::is_idempotent(&exchange.parts.method);
        *sent = true;
        let (result, reused) = match &mut taken {
            Taken::Http1(connection) => (connection.sender.try_send_request(request).await, connection.reused),
            Taken::Http2(connection) => {
                // Waits for room among the peer's streams; a connection that closed meanwhile says so here.
                if connection.sender.ready().await.is_err() && connection.reused {
                    *sent = false;
                    continue;
                }
                (connection.sender.try_send_request(request).await, connection.reused)
            }
        };
        match result {
            Ok(response) => {
                let headers = response.headers();
                if !http2 && headers.contains_key(TRANSFER_ENCODING) && headers.contains_key(CONTENT_LENGTH) {
                    // Two opinions on where the answer ends: the next one on this connection could be anybody's.
                    return Err(Error::UpstreamProtocol("both content-length and transfer-encoding".into()));
                }
                if let Taken::Http1(connection) = &taken {
                    connection.meta.learn(headers);
                }
                return Ok((response, taken));
            }
            Err(mut failed) => {
                let unsent = failed.take_message();
                if source.progress().is_some_and(|progress| progress.broken.get()) {
                    // The client's doing, which says nothing of the endpoint.
                    return Err(Error::BadRequest("the request's body broke off".into()));
                }
                let error = failure(&failed.into_error());
                if let Some(request) = unsent {
                    *sent = false;
                    if let Source::Once(body, _) = source {
                        *body = Some(request.into_body());
                    }
                    if reused {
                        continue;
                    }
                } else if reused && idempotent && source.is_replayable() && matches!(error, Error::UpstreamClosed) {
                    // The endpoint closed an idle connection while the request was on its way: the race of keep-alive.
                    continue;
                }
                return Err(error);
            }
        }
    }
    Err(Error::UpstreamClosed)
}

/// What a client error of hyper's means.
pub(super) fn failure(error: &hyper::Error) -> Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(inner) = cause {
        if let Some(h2) = inner.downcast_ref::<h2::Error>() {
            if h2.is_io() {
                return Error::UpstreamClosed;
            }
            if h2.is_go_away() && h2.is_remote() && h2.reason() == Some(h2::Reason::NO_ERROR) {
                return Error::UpstreamReset(Some(REFUSED_STREAM));
            }
            return Error::UpstreamReset(h2.reason().map(Into::into));
        }
        cause = inner.source();
    }
    if error.is_parse() || error.is_parse_too_large() {
        Error::UpstreamProtocol(error.to_string().into())
    } else {
        Error::UpstreamClosed
    }
}

fn build(
    exchange: &Exchange,
    host: &VirtualHost,
    endpoint: &Endpoint,
    number: u32,
    told: Option<Duration>,
    http2: bool,
    body: RequestBody,
) -> Result<Request<RequestBody>, Error> {
    let authority = exchange.authority.as_str();
    let bodiless = matches!(body, RequestBody::Empty);
    let invalid = |_: http::Error| Error::BadRequest("the rewritten request is not valid".into());
    let mut request = Request::new(body);
    let mut headers: HeaderMap = exchange.parts.headers.clone();
    *request.method_mut() = exchange.parts.method.clone();
    let connect = exchange.upgrade.as_deref() == Some("connect");
    let path = exchange.parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    if http2 {
        let secure = matches!(endpoint.transport, crate::balance::Transport::Tls(_));
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(if secure { Scheme::HTTPS } else { Scheme::HTTP });
        uri.authority = Some(authority.parse().map_err(|error: http::uri::InvalidUri| invalid(error.into()))?);
        uri.path_and_query = Some(path);
        *request.uri_mut() = Uri::from_parts(uri).map_err(|error| invalid(error.into()))?;
        *request.version_mut() = Version::HTTP_2;
        headers.remove(HOST);
    } else {
        *request.uri_mut() = if connect && exchange.parts.method == Method::CONNECT {
            authority.parse().map_err(|error: http::uri::InvalidUri| invalid(error.into()))?
        } else {
            Uri::from(path)
        };
        let value = HeaderValue::try_from(authority).map_err(|error| invalid(error.into()))?;
        headers.insert(HOST, value);
        if let Some(protocol) = exchange.upgrade.as_deref()
            && !connect
        {
            // An extended CONNECT of HTTP/2 becomes the GET that HTTP/1 upgrades with (RFC 8441).
            *request.method_mut() =
                if exchange.version == Version::HTTP_2 { Method::GET } else { exchange.parts.method.clone() };
            headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(UPGRADE, HeaderValue::try_from(protocol).map_err(|error| invalid(error.into()))?);
            if exchange.version == Version::HTTP_2 && !headers.contains_key("sec-websocket-key") {
                headers.insert("sec-websocket-key", HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="));
            }
        }
        // The case of the client's header names lives in an extension of hyper's.
        *request.extensions_mut() = exchange.parts.extensions.clone();
    }
    let method = request.method();
    if bodiless
        && !http2
        && exchange.upgrade.is_none()
        && !matches!(*method, Method::GET | Method::HEAD | Method::DELETE | Method::TRACE | Method::CONNECT)
        && !headers.contains_key(CONTENT_LENGTH)
    {
        // Methods that usually have a body say so when they have none (RFC 9110, section 8.6).
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    headers.remove(names::EXPECTED_RQ_TIMEOUT);
    if let Some(told) = told.and_then(|told| u64::try_from(told.as_millis()).ok()) {
        headers.insert(names::EXPECTED_RQ_TIMEOUT, HeaderValue::from(told));
    }
    if host.attempt_count {
        headers.insert(names::ATTEMPT_COUNT, HeaderValue::from(number));
    }
    *request.headers_mut() = headers;
    Ok(request)
}

fn observe(cluster: &Cluster, endpoint: &Endpoint, tried: &Tried) {
    let seen = match tried {
        Ok((response, _)) => {
            let grpc = grpc_status(response.headers());
            // A gRPC error in a trailers-only answer counts as its HTTP counterpart.
            match grpc {
                Some(14) => Observation::Status(503),
                Some(2 | 13) => Observation::Status(500),
                Some(4) => Observation::Status(504),
                _ => cluster.judge(response.status().as_u16()),
            }
        }
        Err((error, _)) if error.is_upstream() => Observation::LocalFailure,
        Err((Error::Timeout { .. }, _)) => Observation::Status(504),
        Err(_) => return,
    };
    cluster.observe(endpoint, seen);
}

/// The endpoint's response for the client.
#[allow(clippy::too_many_arguments)]
fn respond(
    exchange: &Exchange,
    matched: Matched<'_>,
    weighted: Option<&WeightedCluster>,
    response: Response<Incoming>,
    taken: Taken,
    limits: Limits,
    mut finish: Finish,
) -> Response<ResponseBody> {
    let Matched { table, host, route } = matched;
    let (mut parts, body) = response.into_parts();
    headers::strip_hop_by_hop(&mut parts.headers);
    let time = finish.record.upstream_service_time.map_or(0, |time| time.as_millis());
    parts.headers.insert(names::UPSTREAM_SERVICE_TIME, HeaderValue::from(u64::try_from(time).unwrap_or(u64::MAX)));
    let head = exchange.head();
    let empty = HeaderOps::default();
    let own = weighted.map_or(&empty, |weighted| &weighted.response_headers);
    let levels = [own, &route.response_headers, &host.response_headers, &table.response_headers];
    if levels.iter().any(|ops| !ops.is_empty()) {
        let cluster = finish.record.cluster.clone();
        let mut context = exchange.format(route, cluster.as_ref().map_or("", |cluster| &cluster.config.name), &head);
        context.status = parts.status.as_u16();
        context.upstream = finish.record.upstream_address();
        let ordered: Vec<_> =
            if table.most_specific_wins { levels.into_iter().rev().collect() } else { levels.to_vec() };
        for ops in ordered {
            ops.apply(&mut parts.headers, &context);
        }
    }
    if exchange.place.conn.direction == Direction::Outbound {
        // The peer tells who it is in its response too; the application has no use for it.
        parts.headers.remove(names::PEER_METADATA);
        parts.headers.remove(names::PEER_METADATA_ID);
    }
    // Neither may an application say so in its sidecar's name.
    parts.headers.remove(names::UNPROCESSED);
    let record = &mut finish.record;
    record.status = parts.status.as_u16();
    record.details = Some("via_upstream".into());
    record.head_bytes.1 =
        parts.headers.iter().map(|(name, value)| (name.as_str().len() + value.len() + 4) as u64).sum();
    record.grpc_status = grpc_status(&parts.headers);
    if record.request_head.is_some() {
        record.response_headers = Some(Box::new(parts.headers.clone()));
    }
    finish.bodiless |= matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    parts.version = Version::HTTP_11;
    parts.extensions.remove::<OnUpgrade>();
    Response::from_parts(parts, ResponseBody::upstream(body, taken, limits, finish))
}

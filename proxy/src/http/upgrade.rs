//! Protocol upgrades (WebSocket and others) and CONNECT: raw bytes both ways, but only after the endpoint has agreed.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::{Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::body::ResponseBody;
use super::error::Error;
use super::handle::{Exchange, Finish};
use super::headers;
use super::reply;
use crate::balance::{Cluster, Observation, PickRequest, Resource};
use crate::connect::Taken;
use crate::connect::dial;
use crate::tcp::copy;
use crate::tls::AlpnUse;

/// Answers with the endpoint's agreement and joins the two connections.
pub(super) fn switch(
    exchange: &Exchange,
    mut response: Response<Incoming>,
    taken: Taken,
    client: OnUpgrade,
    mut finish: Finish,
) -> Response<ResponseBody> {
    let endpoint = hyper::upgrade::on(&mut response);
    let (mut parts, _) = response.into_parts();
    let agreed = parts.headers.get(UPGRADE).cloned();
    headers::strip_hop_by_hop(&mut parts.headers);
    let connect = exchange.upgrade.as_deref() == Some("connect");
    let mut answer = Response::new(ResponseBody::full(Bytes::new(), None));
    if exchange.version == Version::HTTP_2 || connect {
        *answer.status_mut() = StatusCode::OK;
    } else {
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        parts.headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        let named = || exchange.upgrade.as_deref().and_then(|one| HeaderValue::try_from(one).ok());
        if let Some(protocol) = agreed.or_else(named) {
            parts.headers.insert(UPGRADE, protocol);
        }
    }
    *answer.headers_mut() = parts.headers;
    finish.record.status = answer.status().as_u16();
    finish.record.details = Some("via_upstream".into());
    join(exchange, client, taken, finish, async { endpoint.await.map(TokioIo::new) });
    answer
}

/// Ends a CONNECT here: its payload goes to an endpoint as plain bytes.
pub(super) async fn terminate(
    exchange: &Exchange,
    cluster: &Arc<Cluster>,
    client: OnUpgrade,
    mut finish: Finish,
) -> Response<ResponseBody> {
    let reached = async {
        let permit = cluster.acquire(Resource::Connections)?;
        let request = PickRequest { original_dst: Some(exchange.place.conn.local), ..PickRequest::default() };
        let picked = exchange.worker.with_random(|random| cluster.pick(&request, random))?;
        finish.record.endpoint = Some(picked.endpoint().clone());
        finish.record.attempts = 1;
        let host = crate::route::domain::without_port(&exchange.authority);
        let dialed = dial::raw(cluster, picked.endpoint(), Some(host), AlpnUse::Tcp).await;
        let seen = if dialed.is_ok() { Observation::Connected } else { Observation::LocalFailure };
        cluster.observe(picked.endpoint(), seen);
        Ok::<_, Error>((dialed?, permit, picked))
    };
    let (raw, permit, picked) = match reached.await {
        Ok(reached) => reached,
        Err(error) => return reply::local(error, finish, false),
    };
    finish.record.upstream_local = raw.local;
    finish.record.upstream_tls = raw.tls;
    finish.record.status = StatusCode::OK.as_u16();
    finish.record.details = Some("via_upstream".into());
    let stream = raw.stream;
    join(exchange, client, (permit, picked), finish, async { Ok(stream) });
    Response::new(ResponseBody::full(Bytes::new(), None))
}

/// Copies between the client and the endpoint in a task of its own; `held` is given back at the end.
fn join<S, H>(
    exchange: &Exchange,
    client: OnUpgrade,
    held: H,
    mut finish: Finish,
    endpoint: impl Future<Output = Result<S, hyper::Error>> + 'static,
) where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    H: 'static,
{
    let idle = exchange.chain.stream_idle_timeout;
    let counted = exchange.worker.drain.count();
    let place = exchange.place.clone();
    crate::runtime::spawn(async move {
        let moved = copy::Moved::default();
        let joined = async {
            let (client, endpoint) = tokio::try_join!(client, endpoint)?;
            copy::both(TokioIo::new(client), endpoint, idle, None, &moved).await;
            Ok::<(), hyper::Error>(())
        };
        tokio::select! {
            _ = joined => {}
            _ = place.over() => {}
        }
        finish.record.bytes_received = moved.up.get();
        finish.record.bytes_sent = moved.down.get();
        finish.complete();
        drop((held, counted));
    });
}

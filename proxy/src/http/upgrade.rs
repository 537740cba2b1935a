//! Protocol upgrades (WebSocket and others) and CONNECT: raw bytes both ways, but only after the endpoint has agreed.

use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::{Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::body::ResponseBody;
use super::handle::{Exchange, Finish};
use super::headers;
use crate::connect::Taken;
use crate::drain::Phase;
use crate::tcp::copy;

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
    headers::strip_hop_by_hop(&mut parts.headers);
    let connect = exchange.upgrade.as_deref() == Some("connect");
    let mut answer = Response::new(ResponseBody::full(Bytes::new(), None));
    if exchange.version == Version::HTTP_2 || connect {
        *answer.status_mut() = StatusCode::OK;
    } else {
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        if let Some(protocol) = exchange.upgrade.as_deref().and_then(|one| HeaderValue::try_from(one).ok()) {
            parts.headers.insert(UPGRADE, protocol);
        }
    }
    *answer.headers_mut() = parts.headers;
    finish.record.status = answer.status().as_u16();
    finish.record.details = Some("via_upstream".into());
    let idle = exchange.chain.stream_idle_timeout;
    let counted = exchange.worker.drain.count();
    let drain = exchange.worker.drain.clone();
    tokio::task::spawn_local(async move {
        let joined = async {
            let (client, endpoint) = tokio::try_join!(client, endpoint)?;
            let (client, endpoint) = (TokioIo::new(client), TokioIo::new(endpoint));
            let copied = copy::both(client, endpoint, idle).await;
            finish.record.bytes_received = copied.up;
            finish.record.bytes_sent = copied.down;
            Ok::<(), hyper::Error>(())
        };
        tokio::select! {
            _ = joined => {}
            () = drain.reached(Phase::Stopped) => {}
        }
        finish.complete();
        drop((taken, counted));
    });
    answer
}

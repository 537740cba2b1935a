//! Bytes inside an HTTP CONNECT towards the endpoint (`tunneling_config`), over pooled connections of the cluster's HTTP version.

use http::uri::Authority;
use http::{Method, Request, Uri, Version};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;

use crate::balance::{Cluster, Endpoint};
use crate::connect::{Taken, Want};
use crate::http::body::RequestBody;
use crate::http::error::Error;
use crate::worker::Worker;

/// A stream through the endpoint. Keep [`Taken`] for as long as the stream lives.
pub(super) async fn open(
    worker: &Worker,
    cluster: &std::sync::Arc<Cluster>,
    endpoint: &Endpoint,
    authority: &Authority,
) -> Result<(TokioIo<Upgraded>, Taken), Error> {
    let want = Want::of(cluster.config.protocol, Version::HTTP_2, false);
    let mut taken = worker.pools.take(cluster, endpoint, want, Some(authority.host())).await?;
    let mut request = Request::new(RequestBody::Empty);
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = Uri::from(authority.clone());
    let failed = |error: hyper::Error| Error::UpstreamProtocol(error.to_string().into());
    let mut response = match &mut taken {
        Taken::Http1(connection) => {
            if let Ok(host) = http::HeaderValue::try_from(authority.as_str()) {
                request.headers_mut().insert(http::header::HOST, host);
            }
            connection.sender.send_request(request).await.map_err(failed)?
        }
        Taken::Http2(connection) => {
            *request.version_mut() = Version::HTTP_2;
            connection.sender.send_request(request).await.map_err(failed)?
        }
    };
    if !response.status().is_success() {
        return Err(Error::UpstreamProtocol(format!("CONNECT was answered with {}", response.status()).into()));
    }
    let upgraded = hyper::upgrade::on(&mut response).await.map_err(failed)?;
    Ok((TokioIo::new(upgraded), taken))
}

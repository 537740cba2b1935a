//! The monitoring port: metrics, version, readiness, and debug pages in istiod's shapes.
//!
//! Metrics, version and readiness are for everybody. Debug pages are for this machine, and for bearers of a token of the root namespace.

mod dump;
mod registry;
mod status;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use axum::extract::{ConnectInfo, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::model::PushContext;
use crate::push::Published;
use crate::push::engine::Event;
use crate::validate::Finding;
use crate::xds::auth::Authenticator;
use crate::xds::connection::Streams;

/// What the pages show.
#[derive(Debug, Clone)]
pub struct Pages {
    /// Metrics.
    pub metrics: Metrics,
    /// Open streams.
    pub streams: Streams,
    /// The newest state.
    pub published: watch::Receiver<Arc<Published>>,
    /// The context that it is made of.
    pub shown: Arc<ArcSwap<PushContext>>,
    /// What sources found wrong.
    pub findings: Arc<ArcSwap<Vec<Finding>>>,
    /// Asks the engine.
    pub events: mpsc::Sender<Event>,
    /// Who calls.
    pub authenticator: Authenticator,
}

/// Serves the pages until `stop`.
pub async fn serve(listener: TcpListener, pages: Pages, stop: CancellationToken) {
    let service = router(pages).into_make_service_with_connect_info::<SocketAddr>();
    if let Err(error) = axum::serve(listener, service).with_graceful_shutdown(stop.cancelled_owned()).await {
        tracing::error!(%error, "the monitoring listener failed");
    }
}

fn router(pages: Pages) -> Router {
    let debug = Router::new()
        .route("/debug", get(index))
        .route("/debug/syncz", get(async |State(pages): State<Pages>| Json(status::syncz(&pages.streams))))
        .route("/debug/adsz", get(async |State(pages): State<Pages>| Json(status::adsz(&pages.streams))))
        .route("/debug/push_status", get(push_status))
        .route("/debug/config_dump", get(config_dump))
        .route("/debug/configz", get(configz))
        .route(
            "/debug/registryz",
            get(async |State(pages): State<Pages>| Json(registry::services(&pages.shown.load()))),
        )
        .route(
            "/debug/endpointz",
            get(async |State(pages): State<Pages>| Json(registry::endpoints(&pages.shown.load()))),
        )
        .route("/debug/findings", get(findings))
        .route_layer(middleware::from_fn_with_state(pages.clone(), guard));
    Router::new()
        .route(
            "/metrics",
            get(async |State(pages): State<Pages>| {
                ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], pages.metrics.render())
            }),
        )
        .route("/version", get(async || concat!("ferromesh-", env!("CARGO_PKG_VERSION"))))
        .route("/ready", get(ready))
        .merge(debug)
        .with_state(pages)
}

/// Lets this machine in, and bearers of a token of the root namespace.
async fn guard(
    State(pages): State<Pages>,
    ConnectInfo(remote): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    let token = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = token.and_then(|value| value.strip_prefix("Bearer ")).map(str::to_owned);
    let root = pages.shown.load().mesh.root_namespace.clone();
    let is_known = match &token {
        _ if remote.ip().to_canonical().is_loopback() => true,
        Some(token) => pages.authenticator.is_of(token, &root, SystemTime::now()).await,
        None => false,
    };
    if is_known {
        return next.run(request).await;
    }
    let reason = format!("debug pages are for this machine, and for bearers of a token of namespace {root}\n");
    (StatusCode::UNAUTHORIZED, reason).into_response()
}

async fn index() -> Json<Value> {
    Json(json!([
        "/debug/syncz",
        "/debug/adsz",
        "/debug/push_status",
        "/debug/config_dump?proxyID=NAME.NAMESPACE",
        "/debug/configz",
        "/debug/registryz",
        "/debug/endpointz",
        "/debug/findings"
    ]))
}

async fn ready(State(pages): State<Pages>) -> Response {
    match pages.published.borrow().number {
        0 => (StatusCode::SERVICE_UNAVAILABLE, "configuration is not read yet\n").into_response(),
        _ => (StatusCode::OK, "ready\n").into_response(),
    }
}

async fn push_status(State(pages): State<Pages>) -> Json<Value> {
    let published = pages.published.borrow().clone();
    Json(json!({
        "number": published.number,
        "seconds_since": published.since.elapsed().as_secs_f64(),
        "findings": pages.findings.load().len(),
        "proxies": status::behind(&pages.streams),
    }))
}

#[derive(Debug, Deserialize)]
struct DumpQuery {
    #[serde(rename = "proxyID")]
    proxy_id: Option<String>,
}

async fn config_dump(State(pages): State<Pages>, Query(query): Query<DumpQuery>) -> Response {
    let Some(proxy) = query.proxy_id else {
        return (StatusCode::BAD_REQUEST, "say which proxy: ?proxyID=NAME.NAMESPACE\n").into_response();
    };
    let Some(stream) = pages.streams.find(&proxy) else {
        return (StatusCode::NOT_FOUND, format!("proxy `{proxy}` is not connected to this control plane\n"))
            .into_response();
    };
    let published = pages.published.borrow().clone();
    Json(dump::dump(&stream, &*published.world)).into_response()
}

async fn configz(State(pages): State<Pages>) -> Response {
    let (reply, objects) = oneshot::channel();
    let asked = pages.events.send(Event::Objects(reply)).await.is_ok();
    match objects.await {
        Ok(objects) if asked => Json(registry::objects(&objects)).into_response(),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "the control plane stops\n").into_response(),
    }
}

async fn findings(State(pages): State<Pages>) -> Json<Value> {
    Json(registry::findings(&pages.findings.load()))
}

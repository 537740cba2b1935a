//! The HTTPS server that the API server calls, on port 15017: `/inject` and `/validate`.
//!
//! It shows the control plane's own certificate, which is made anew in time; [`ca_bundle`] tells the API server whom to trust. Every answer is
//! computed from one request; only [`injector`] reads a file now and then.

pub mod ca_bundle;
pub mod injector;

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::{Stream, StreamExt};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::ca::serving::ServingTls;
use crate::inject::review::review;
use crate::validate::admission;
use crate::xds::transport::{self, Connection};
pub use injector::Injector;

/// The most bytes of a review: the API server stores no object above 1.5 MiB, and a review holds two and what goes with them.
const MAX_REVIEW: usize = 8 << 20;
/// How long a request may take, most of which is its arrival. The API server itself waits ten seconds unless configured.
const PATIENCE: Duration = Duration::from_secs(30);

/// The routes of injection: `/inject`, and with values for the proxy `/inject/cluster/NAME/net/NAME`.
pub fn injection(injector: Injector) -> Router {
    let root = async |State(injector): State<Injector>, body: Bytes| answer(&injector, "", &body);
    let values = async |State(injector): State<Injector>, Path(values): Path<String>, body: Bytes| {
        answer(&injector, &values, &body)
    };
    Router::new()
        .route("/inject", post(root))
        .route("/inject/{*values}", post(values))
        .route("/ready", get(async || "ready\n"))
        .with_state(injector)
}

/// The route of validation: `/validate`.
pub fn validation(settings: admission::Settings) -> Router {
    let judge =
        async |State(settings): State<Arc<admission::Settings>>, body: Bytes| match admission::review(&body, &settings)
        {
            Ok(json) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
            Err(error) => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
        };
    Router::new().route("/validate", post(judge)).with_state(Arc::new(settings))
}

fn answer(injector: &Injector, values: &str, body: &[u8]) -> Response {
    let review = review(body, values, &injector.settings(), &injector.mesh());
    match serde_json::to_vec(&review) {
        Ok(json) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Serves `routes` over TLS until `stop`.
pub async fn serve(listener: TcpListener, tls: &ServingTls, routes: Router, stop: CancellationToken) {
    let Ok(address) = listener.local_addr() else { return };
    let incoming =
        Incoming { stream: Box::pin(transport::incoming(listener, Some(tls.https()), stop.clone())), address };
    let routes = routes.layer(DefaultBodyLimit::max(MAX_REVIEW)).layer(middleware::from_fn(in_time));
    if let Err(error) = axum::serve(incoming, routes).with_graceful_shutdown(stop.cancelled_owned()).await {
        tracing::error!(%error, "the webhook's listener failed");
    }
}

async fn in_time(request: Request, next: Next) -> Response {
    let answered = tokio::time::timeout(PATIENCE, next.run(request)).await;
    answered.unwrap_or_else(|_| StatusCode::REQUEST_TIMEOUT.into_response())
}

/// Connections after their handshake.
struct Incoming {
    stream: Pin<Box<dyn Stream<Item = std::io::Result<Connection>> + Send>>,
    address: SocketAddr,
}

impl axum::serve::Listener for Incoming {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            match self.stream.next().await {
                Some(Ok(connection)) => {
                    let remote = connection.remote();
                    return (connection, remote);
                }
                Some(Err(_)) => {}
                // It ended with `stop`, which ends the server, too.
                None => std::future::pending().await,
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        Ok(self.address)
    }
}

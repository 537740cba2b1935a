//! The demo's application, in the shape of Istio's Bookinfo: real HTTP servers that know nothing of the mesh.
//!
//! Each is told how it reaches other services: through its sidecar's outbound port, or by their names, as in a cluster, where a mesh
//! may capture that. Each notes who called it, as its sidecar tells in `x-forwarded-client-cert`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use clap::ValueEnum;
use clap::builder::PossibleValue;
use serde_json::json;
use tokio::task::JoinHandle;

use crate::http_client::{Answer, Connection};
use crate::local::ports;

/// Where every part serves, unless it is told otherwise, and where it finds the others.
pub const PORT: u16 = 9080;

/// Which part of the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The page: asks details and reviews.
    Productpage,
    /// Details of a book.
    Details,
    /// Reviews; from version 2 on with ratings.
    Reviews(u8),
    /// Ratings.
    Ratings,
}

impl ValueEnum for Part {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Productpage, Self::Details, Self::Reviews(1), Self::Reviews(2), Self::Reviews(3), Self::Ratings]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(match self {
            Self::Reviews(1) => "reviews-v1",
            Self::Reviews(2) => "reviews-v2",
            Self::Reviews(3) => "reviews-v3",
            Self::Reviews(_) => return None,
            part => part.name(),
        }))
    }
}

impl Part {
    /// The service that it is a part of.
    fn name(self) -> &'static str {
        match self {
            Self::Productpage => "productpage",
            Self::Details => "details",
            Self::Reviews(_) => "reviews",
            Self::Ratings => "ratings",
        }
    }
}

/// How other services are reached.
#[derive(Debug, Clone, Copy)]
pub enum Outbound {
    /// At one address, which tells them apart by `Host`.
    Sidecar(SocketAddr),
    /// By their names.
    Names,
}

/// Who called, by caller's SPIFFE id and the service called, with the number of calls.
pub type Edges = Arc<Mutex<BTreeMap<(String, &'static str), u64>>>;

/// A running server; it stops when dropped.
#[derive(Debug)]
pub struct Server {
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug)]
struct App {
    part: Part,
    outbound: Outbound,
    edges: Edges,
    /// By service.
    idle: Mutex<BTreeMap<&'static str, Vec<Connection>>>,
}

/// Starts a part on `port` of loopback, with its sidecar's outbound port.
pub fn serve(part: Part, port: u16, outbound: SocketAddr, edges: Edges) -> Result<Server> {
    let listener = ports::listen(port)?;
    let router = router(part, Outbound::Sidecar(outbound), edges);
    let task = tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, ?part, "the application stopped");
        }
    });
    Ok(Server { task })
}

/// A part's pages.
pub fn router(part: Part, outbound: Outbound, edges: Edges) -> Router {
    let app = Arc::new(App { part, outbound, edges, idle: Mutex::default() });
    let router = match part {
        Part::Productpage => Router::new().route("/productpage", get(productpage)),
        Part::Details => Router::new().route("/details/{id}", get(details)),
        Part::Reviews(_) => Router::new().route("/reviews/{id}", get(reviews)),
        Part::Ratings => Router::new().route("/ratings/{id}", get(ratings).delete(ratings)),
    };
    router.route("/health", get(|| async { "ok" })).with_state(app)
}

impl App {
    /// Notes the caller's identity: the last element of the header is the direct peer's.
    fn note(&self, headers: &HeaderMap) {
        let certificates = headers.get("x-forwarded-client-cert").and_then(|value| value.to_str().ok()).unwrap_or("");
        let last = certificates.rsplit(',').next().unwrap_or("");
        let caller = last.split(';').find_map(|pair| pair.strip_prefix("URI=")).unwrap_or("unknown").to_owned();
        let mut edges = self.edges.lock().unwrap_or_else(PoisonError::into_inner);
        *edges.entry((caller, self.part.name())).or_default() += 1;
    }

    /// Asks another service, passing on the headers that belong to the request as a whole.
    async fn ask(&self, service: &'static str, path: &str, incoming: &HeaderMap) -> (StatusCode, serde_json::Value) {
        let mut headers = HeaderMap::new();
        for name in ["x-request-id", "traceparent", "tracestate", "x-b3-traceid", "x-b3-spanid", "x-b3-sampled"] {
            if let Some(value) = incoming.get(name) {
                headers.insert(name, value.clone());
            }
        }
        match self.exchange(service, path, &headers).await {
            Ok(answer) => {
                let body = serde_json::from_slice(&answer.body).unwrap_or_else(|_| json!({"text": answer.text()}));
                (answer.status, body)
            }
            Err(error) => (StatusCode::BAD_GATEWAY, json!({"error": format!("{error:#}")})),
        }
    }

    async fn exchange(&self, service: &'static str, path: &str, headers: &HeaderMap) -> Result<Answer> {
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle().get_mut(service).and_then(Vec::pop);
        let mut connection = match kept {
            Some(connection) => connection,
            None => Connection::new(self.outbound.address(service).await?),
        };
        let answer = connection.send(Method::GET, &format!("{service}:{PORT}"), path, headers).await?;
        idle().entry(service).or_default().push(connection);
        Ok(answer)
    }
}

impl Outbound {
    async fn address(self, service: &str) -> Result<SocketAddr> {
        match self {
            Self::Sidecar(address) => Ok(address),
            Self::Names => {
                let found = tokio::net::lookup_host((service, PORT)).await.with_context(|| service.to_owned())?.next();
                found.with_context(|| format!("{service} has no address"))
            }
        }
    }
}

fn answer(status: StatusCode, body: &serde_json::Value) -> Response {
    (status, axum::Json(body)).into_response()
}

async fn productpage(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    app.note(&headers);
    let (details, reviews) =
        tokio::join!(app.ask("details", "/details/0", &headers), app.ask("reviews", "/reviews/0", &headers));
    let status =
        if details.0.is_success() && reviews.0.is_success() { StatusCode::OK } else { StatusCode::BAD_GATEWAY };
    answer(
        status,
        &json!({
            "title": "The Comedy of Errors",
            "details": details.1,
            "reviews": reviews.1,
            "statuses": {"details": details.0.as_u16(), "reviews": reviews.0.as_u16()},
        }),
    )
}

async fn details(State(app): State<Arc<App>>, Path(id): Path<String>, headers: HeaderMap) -> Response {
    app.note(&headers);
    answer(StatusCode::OK, &json!({"id": id, "author": "William Shakespeare", "year": 1595, "pages": 200}))
}

async fn reviews(State(app): State<Arc<App>>, Path(id): Path<String>, headers: HeaderMap) -> Response {
    app.note(&headers);
    let Part::Reviews(version) = app.part else { return StatusCode::NOT_FOUND.into_response() };
    let mut body = json!({"id": id, "version": format!("v{version}"), "text": "An extremely entertaining play."});
    if version > 1 {
        let (status, ratings) = app.ask("ratings", &format!("/ratings/{id}"), &headers).await;
        if !status.is_success() {
            return answer(StatusCode::BAD_GATEWAY, &json!({"ratings": ratings, "status": status.as_u16()}));
        }
        body["ratings"] = ratings;
    }
    answer(StatusCode::OK, &body)
}

async fn ratings(State(app): State<Arc<App>>, Path(id): Path<String>, headers: HeaderMap) -> Response {
    app.note(&headers);
    answer(StatusCode::OK, &json!({"id": id, "reviewer1": 5, "reviewer2": 4}))
}

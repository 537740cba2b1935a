//! The demo's application, in the shape of Istio's Bookinfo: real HTTP servers that know nothing of the mesh.
//!
//! Each takes its port, and the address through which it reaches other services by their names (its sidecar's outbound
//! port). Each notes who called it, as its sidecar tells in `x-forwarded-client-cert`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;
use tokio::task::JoinHandle;

use crate::http_client::Connection;
use crate::local::ports;

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
    /// Where other services are reached, by `Host`.
    outbound: SocketAddr,
    edges: Edges,
    idle: Mutex<Vec<Connection>>,
}

/// Starts a part on `port` of loopback.
pub fn serve(part: Part, port: u16, outbound: SocketAddr, edges: Edges) -> Result<Server> {
    let listener = ports::listen(port)?;
    let app = Arc::new(App { part, outbound, edges, idle: Mutex::default() });
    let router = match part {
        Part::Productpage => Router::new().route("/productpage", get(productpage)),
        Part::Details => Router::new().route("/details/{id}", get(details)),
        Part::Reviews(_) => Router::new().route("/reviews/{id}", get(reviews)),
        Part::Ratings => Router::new().route("/ratings/{id}", get(ratings).delete(ratings)),
    };
    let router = router.route("/health", get(|| async { "ok" })).with_state(app);
    let task = tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, ?part, "the application stopped");
        }
    });
    Ok(Server { task })
}

impl App {
    fn name(&self) -> &'static str {
        match self.part {
            Part::Productpage => "productpage",
            Part::Details => "details",
            Part::Reviews(_) => "reviews",
            Part::Ratings => "ratings",
        }
    }

    /// Notes the caller's identity: the last element of the header is the direct peer's.
    fn note(&self, headers: &HeaderMap) {
        let certificates = headers.get("x-forwarded-client-cert").and_then(|value| value.to_str().ok()).unwrap_or("");
        let last = certificates.rsplit(',').next().unwrap_or("");
        let caller = last.split(';').find_map(|pair| pair.strip_prefix("URI=")).unwrap_or("unknown").to_owned();
        let mut edges = self.edges.lock().unwrap_or_else(PoisonError::into_inner);
        *edges.entry((caller, self.name())).or_default() += 1;
    }

    /// Asks another service, passing on the headers that belong to the request as a whole.
    async fn ask(&self, service: &str, path: &str, incoming: &HeaderMap) -> (StatusCode, serde_json::Value) {
        let mut headers = HeaderMap::new();
        for name in ["x-request-id", "traceparent", "tracestate", "x-b3-traceid", "x-b3-spanid", "x-b3-sampled"] {
            if let Some(value) = incoming.get(name) {
                headers.insert(name, value.clone());
            }
        }
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut connection = idle.unwrap_or_else(|| Connection::new(self.outbound));
        match connection.send(Method::GET, &format!("{service}:9080"), path, &headers).await {
            Ok(answer) => {
                self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
                let body = serde_json::from_slice(&answer.body).unwrap_or_else(|_| json!({"text": answer.text()}));
                (answer.status, body)
            }
            Err(error) => (StatusCode::BAD_GATEWAY, json!({"error": format!("{error:#}")})),
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

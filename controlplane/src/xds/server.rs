//! The aggregated discovery service: one task a stream, between the peer's requests, what is published, and what the peer can take.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use mesh_proto::xds::core;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service};
use tonic::metadata::GRPC_CONTENT_TYPE;
use tonic::server::NamedService;
use tonic::{Request, Status, Streaming};

use super::auth::{Authenticator, Caller, Shown, check_node};
use super::connection::{Open, Streams};
use super::delta::Delta;
use super::message::{Message, Requests, Responses};
use super::session::{self, Mode, Seen, Session};
use super::sotw::Sotw;
use super::{ResourceType, node};
use crate::metrics::Metrics;
use crate::model::Node;
use crate::push::Published;
use crate::register::{Registered, Registrar};

/// The longest silence before the first request.
const FIRST_REQUEST: Duration = Duration::from_secs(30);
/// Responses that wait for the transport. Everything else is made when there is room, from the newest state.
const QUEUE: usize = 1;
/// By a request for this type an agent tells that its workload is well, or by its error why it is not. Istio's own message.
const HEALTH: &str = "type.googleapis.com/istio.v1.HealthInformation";
/// The largest request, bytes. One that resumes names every resource it has.
const MAX_REQUEST: usize = 16 << 20;

/// One of the two protocols.
pub trait Protocol: 'static {
    /// Its request.
    type Request: prost::Message + Default + Send + 'static;
    /// Which it is.
    const MODE: Mode;

    /// The node of a request; only the first needs one.
    fn node(request: &Self::Request) -> Option<&core::Node>;
    /// The type of a request.
    fn type_url(request: &Self::Request) -> &str;
    /// Reads a request.
    fn read(request: Self::Request) -> session::Request;
    /// Writes a response.
    fn write(response: session::Response) -> Result<Message, Status>;
    /// An answer without resources, unless the request is an answer itself.
    fn empty(type_url: &str, request: &Self::Request) -> Option<Result<Message, Status>>;
}

/// What every stream needs.
#[derive(Debug)]
pub struct Shared {
    /// The newest state.
    pub published: watch::Receiver<Arc<Published>>,
    /// Who calls.
    pub authenticator: Authenticator,
    /// Who is there.
    pub streams: Streams,
    /// What is counted.
    pub metrics: Metrics,
    /// How many streams may make resources at a time (`PILOT_PUSH_THROTTLE`).
    pub throttle: Semaphore,
    /// Gives workloads outside the cluster their entries; absent without one.
    pub registrar: Option<Registrar>,
    /// Ends every stream.
    pub stop: CancellationToken,
}

/// The service.
#[derive(Debug, Clone)]
pub struct Discovery(pub Arc<Shared>);

impl NamedService for Discovery {
    const NAME: &'static str = "envoy.service.discovery.v3.AggregatedDiscoveryService";
}

// In place of the generated server, whose buffers [`super::message`] avoids.
impl Service<http::Request<Body>> for Discovery {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let method = request.uri().path().rsplit('/').next().unwrap_or_default();
            let started = match method {
                "DeltaAggregatedResources" => this.start::<Delta>(request).await,
                "StreamAggregatedResources" => this.start::<Sotw>(request).await,
                _ => Err(Status::unimplemented("not a method of the aggregated discovery service")),
            };
            let body = match started {
                Ok(responses) => Body::new(responses),
                Err(status) => return Ok(status.into_http()),
            };
            let mut response = http::Response::new(body);
            response.headers_mut().insert(http::header::CONTENT_TYPE, GRPC_CONTENT_TYPE);
            Ok(response)
        })
    }
}

/// `control_plane` of every response.
pub fn control_plane() -> Option<core::ControlPlane> {
    Some(core::ControlPlane { identifier: concat!("ferromesh-", env!("CARGO_PKG_VERSION")).to_owned() })
}

impl Discovery {
    // The headers must go out before the first request comes in: some clients wait for them.
    async fn start<P: Protocol>(&self, request: http::Request<Body>) -> Result<Responses, Status> {
        let read = |body| Streaming::new_request(Requests::<P::Request>::default(), body, None, Some(MAX_REQUEST));
        let request = Request::from_http(request.map(read));
        let shown = Shown::by(&request)?;
        let remote = shown.remote();
        let caller = self.0.authenticator.for_discovery(&shown, SystemTime::now()).await;
        let caller = caller.inspect_err(|status| tracing::info!(reason = status.message(), "a stream is refused"))?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        let shared = self.0.clone();
        tokio::spawn(async move {
            let Err(status) = serve::<P>(&shared, caller, remote, request.into_inner(), &sender).await else { return };
            tracing::info!(%remote, code = ?status.code(), reason = status.message(), "a stream ends");
            // The peer may be gone, and it may not read; nobody waits for it for ever.
            let _ = tokio::time::timeout(Duration::from_secs(5), sender.send(Err(status))).await;
        });
        Ok(Responses::new(receiver))
    }
}

async fn serve<P: Protocol>(
    shared: &Shared,
    caller: Option<Caller>,
    remote: SocketAddr,
    mut requests: Streaming<P::Request>,
    sender: &mpsc::Sender<Result<Message, Status>>,
) -> Result<(), Status> {
    let first = tokio::select! {
        () = shared.stop.cancelled() => return Err(stopping()),
        first = tokio::time::timeout(FIRST_REQUEST, requests.message()) => {
            first.map_err(|_| Status::deadline_exceeded("no request within 30 s"))??
        }
    };
    let Some(first) = first else { return Ok(()) };
    let mut node = node::parse(P::node(&first)).map_err(|error| Status::invalid_argument(error.to_string()))?;
    check_node(&mut node, caller.as_ref())?;
    let registered = register(shared, P::node(&first), &mut node, caller.as_ref()).await?;
    // Virtual hosts of their own are of the incremental protocol alone.
    node.vhds &= P::MODE == Mode::Delta;
    tracing::info!(node = %node.id, %remote, mode = ?P::MODE, "a proxy is connected");
    let session = Session::new(P::MODE);
    let open = shared.streams.open(node, remote, caller.map(|caller| caller.identity), session, &shared.metrics);
    let mut published = shared.published.clone();
    let mut seen = published.borrow_and_update().clone();
    let mut empty = take::<P>(shared, &open, registered.as_ref(), first)?;
    // Since when the peer lags behind.
    let mut behind: Option<Instant> = None;
    loop {
        let due = empty.is_some() || (seen.number > 0 && open.session.lock().is_due());
        if !due {
            open.offered.store(seen.number, Ordering::Relaxed);
        }
        tokio::select! {
            () = shared.stop.cancelled() => return Err(stopping()),
            changed = published.changed() => {
                if changed.is_err() {
                    return Err(stopping());
                }
                let newest = published.borrow_and_update().clone();
                let changes = newest.changes_since(seen.number);
                let touched = newest.world.touched(&open.node, seen.world.number(), &changes);
                open.session.lock().changed(&touched);
                behind.get_or_insert(newest.since);
                seen = newest;
            }
            // A peer that asks for types that are not served waits for its answer before it is heard again.
            request = requests.message(), if empty.is_none() => match request? {
                Some(request) => empty = take::<P>(shared, &open, registered.as_ref(), request)?,
                None => return Ok(()),
            },
            permit = sender.reserve(), if due => {
                let Ok(permit) = permit else { return Ok(()) };
                if let Some(response) = empty.take() {
                    permit.send(response);
                    continue;
                }
                let Ok(_throttle) = shared.throttle.acquire().await else { return Err(stopping()) };
                match next(shared, &open, &seen) {
                    Some(response) => permit.send(P::write(response)),
                    None => if let Some(since) = behind.take() {
                        shared.metrics.convergence_time.record(since.elapsed().as_secs_f64());
                    }
                }
            }
            () = sender.closed() => return Ok(()),
        }
    }
}

/// Gives the proxy its WorkloadEntry if it asks for one, and the node the entry's name, so that it hears of changes of it.
async fn register(
    shared: &Shared,
    raw: Option<&core::Node>,
    node: &mut Node,
    caller: Option<&Caller>,
) -> Result<Option<Registered>, Status> {
    let group = node::register_group(raw).map_err(|error| Status::invalid_argument(error.to_string()))?;
    let Some(group) = group else { return Ok(None) };
    let registrar = shared.registrar.as_ref().ok_or_else(|| {
        Status::failed_precondition(
            "workloads register themselves only where the control plane may write to a cluster; give the workload a WorkloadEntry",
        )
    })?;
    let registered = registrar.register(&group, node, caller.map(|caller| &caller.identity)).await?;
    node.name = registered.entry().clone();
    Ok(Some(registered))
}

fn stopping() -> Status {
    Status::unavailable("the control plane stops; connect again")
}

/// Takes a request in. A type that is not served is answered without resources, so that the peer does not wait for it; what Istio's agents
/// tell of themselves needs no answer.
fn take<P: Protocol>(
    shared: &Shared,
    open: &Open,
    registered: Option<&Registered>,
    request: P::Request,
) -> Result<Option<Result<Message, Status>>, Status> {
    let url = P::type_url(&request);
    let Some(kind) = ResourceType::from_type_url(url) else {
        if url.is_empty() {
            return Err(Status::invalid_argument("type_url is empty"));
        }
        let url = url.to_owned();
        if let (HEALTH, Some(registered)) = (&*url, registered) {
            registered.tell_health(P::read(request).error.map_or(Ok(()), Err));
            return Ok(None);
        }
        tracing::debug!(node = %open.node.id, url, "a type is asked for that is not served");
        return Ok(if url.starts_with("type.googleapis.com/istio.") { None } else { P::empty(&url, &request) });
    };
    if kind == ResourceType::VirtualHost && P::MODE == Mode::Sotw {
        return Err(Status::invalid_argument("virtual hosts are served by the incremental protocol only"));
    }
    let request = P::read(request);
    let mut session = open.session.lock();
    let seen = session
        .request(kind, &request, SystemTime::now())
        .map_err(|error| Status::resource_exhausted(error.to_string()))?;
    match seen {
        Seen::Nack => {
            shared.metrics.rejects.increment(1);
            shared.metrics.of(kind).rejects.increment(1);
            let error = request.error.as_deref().unwrap_or_default();
            tracing::warn!(node = %open.node.id, kind = kind.short(), nonce = request.nonce, error, "a proxy refuses a response");
        }
        Seen::Stale => shared.metrics.of(kind).stale.increment(1),
        Seen::Ack | Seen::Subscribed => {}
    }
    Ok(None)
}

/// The next response of the newest state.
fn next(shared: &Shared, open: &Open, published: &Published) -> Option<session::Response> {
    let start = Instant::now();
    let response = open.session.lock().next(published.number, |kind, names| {
        // Keys go only to callers that are known, as istiod does.
        if kind == ResourceType::Secret && open.identity.is_none() {
            return Vec::new();
        }
        published.world.resources(&open.node, kind, names)
    })?;
    let metrics = shared.metrics.of(response.kind);
    metrics.pushes.increment(1);
    metrics.push_time.record(start.elapsed().as_secs_f64());
    let bytes: usize = response.resources.iter().map(|one| one.body.len()).sum();
    metrics.size.record(bytes as f64);
    tracing::debug!(
        node = %open.node.id, kind = response.kind.short(), nonce = %response.nonce,
        resources = response.resources.len(), removed = response.removed.len(), bytes, "sent"
    );
    Some(response)
}

//! Istio's standard metrics (MT1–MT5): which labels a request has, and handles that are resolved once for each set of them.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use metrics::{Counter, Histogram, Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use metrics_util::MetricKindMask;
use tokio::time::Instant;

use super::peer::Peer;
use super::record::Record;
use crate::Name;
use crate::balance::{Cluster, Endpoint};

/// `ferromesh.v1.Stats`, resolved: which side reports, and what service an inbound chain stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatsFilter {
    /// Which side.
    pub reporter: Reporter,
    /// Exchange peer metadata (`x-envoy-peer-metadata`, or ALPN `istio-peer-exchange` for TCP).
    pub metadata_exchange: bool,
    /// The service behind an inbound chain: host, name, namespace.
    pub destination: Option<DestinationService>,
}

/// The value of the `reporter` label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reporter {
    /// The client's side.
    Source,
    /// The server's side.
    Destination,
}

/// A destination service as labels name it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DestinationService {
    /// `destination_service`.
    pub host: Name,
    /// `destination_service_name`.
    pub name: Name,
    /// `destination_service_namespace`.
    pub namespace: Name,
}

/// Envoy's histogram buckets, in milliseconds or bytes.
const BUCKETS: &[f64] = &[
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1_000.0,
    2_500.0,
    5_000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];
/// A series that nothing was added to for so long is removed (BX17).
const IDLE: Duration = Duration::from_secs(3600);
/// Handles are looked up anew after this, well before [`IDLE`]: adding to a series that was removed would be lost.
const CACHE: Duration = Duration::from_secs(600);

/// The metrics of one proxy, and who it is.
#[derive(Debug)]
pub struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    /// This workload, for the labels of its own side.
    pub local: Peer,
}

impl std::fmt::Debug for Local {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("metric handles")
    }
}

const METADATA: Metadata<'static> = Metadata::new("ferromesh", Level::INFO, None);

impl Metrics {
    /// Metrics of a proxy that is `local`.
    pub fn new(local: Peer) -> Self {
        let builder = PrometheusBuilder::new()
            .idle_timeout(MetricKindMask::ALL, Some(IDLE))
            .set_buckets_for_metric(Matcher::Prefix("istio_".into()), BUCKETS);
        // The only error is an empty list of buckets.
        let builder = builder.unwrap_or_else(|_| PrometheusBuilder::new());
        let recorder = builder.build_recorder();
        Self { handle: recorder.handle(), recorder, local }
    }

    /// Everything in Prometheus' text format.
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// Must be called every few seconds: empties histograms' buffers and removes idle series.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }

    /// A counter outside the request path.
    pub fn counter(&self, name: &'static str, labels: Vec<Label>) -> Counter {
        self.recorder.register_counter(&Key::from_parts(name, labels), &METADATA)
    }

    /// A gauge outside the request path.
    pub fn gauge(&self, name: &'static str, labels: Vec<Label>) -> metrics::Gauge {
        self.recorder.register_gauge(&Key::from_parts(name, labels), &METADATA)
    }

    fn histogram(&self, name: &'static str, labels: Vec<Label>) -> Histogram {
        self.recorder.register_histogram(&Key::from_parts(name, labels), &METADATA)
    }
}

/// What tells one set of labels from another. Pointers are kept alive by the entry they lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
struct HandleKey {
    stats: usize,
    cluster: usize,
    endpoint_peer: usize,
    source_peer: Option<Arc<Peer>>,
    source_principal: Option<Arc<str>>,
    destination_principal: Option<Arc<str>>,
    protocol: u8,
    status: u16,
    flags: u32,
    grpc_status: Option<u32>,
    mutual: bool,
}

impl std::hash::Hash for HandleKey {
    /// Of the peers only what nearly always tells them apart: most requests come from few.
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        let (grpc, mutual) = (self.grpc_status.map_or(u32::MAX, |status| status), u8::from(self.mutual));
        (self.stats, self.cluster, self.endpoint_peer).hash(state);
        (self.status, self.flags, grpc, self.protocol << 1 | mutual).hash(state);
        self.source_peer.as_ref().and_then(|peer| peer.workload.as_deref()).hash(state);
        self.source_principal.hash(state);
    }
}

/// What the pointers of a [`HandleKey`] point to.
type Alive = (Option<Arc<StatsFilter>>, Option<Arc<Cluster>>, Option<Arc<Endpoint>>);

struct Handles {
    _alive: Alive,
    requests: Counter,
    duration: Histogram,
    request_bytes: Histogram,
    response_bytes: Histogram,
    messages: Option<(Counter, Counter)>,
}

/// The metrics as one worker uses them: handles by set of labels, no lock.
pub struct Local {
    metrics: Arc<Metrics>,
    handles: RefCell<foldhash::HashMap<HandleKey, Rc<Handles>>>,
    cleared: std::cell::Cell<Instant>,
}

impl Local {
    /// A worker's view.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, handles: RefCell::default(), cleared: Instant::now().into() }
    }

    /// Who this proxy is.
    pub fn local(&self) -> &Peer {
        &self.metrics.local
    }

    /// The shared part.
    pub fn shared(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Adds a finished HTTP request.
    pub fn http(&self, record: &Record) {
        let Some(stats) = &record.stats else { return };
        let mut handles = self.handles.borrow_mut();
        if self.cleared.get().elapsed() > CACHE {
            handles.clear();
            self.cleared.set(Instant::now());
        }
        let key = handle_key(stats, record);
        let found = handles.entry(key).or_insert_with(|| Rc::new(self.resolve(stats, record))).clone();
        drop(handles);
        found.requests.increment(1);
        found.duration.record(record.start.elapsed().as_secs_f64() * 1_000.0);
        found.request_bytes.record((record.bytes_received + record.head_bytes.0) as f64);
        found.response_bytes.record((record.bytes_sent + record.head_bytes.1) as f64);
        if let Some((requests, responses)) = &found.messages {
            requests.increment(record.grpc_messages.0);
            responses.increment(record.grpc_messages.1);
        }
    }

    /// Adds what is new of a TCP connection whose peer is known: that it was opened, what has moved since this was called last, and that it
    /// is over. One that never reached an endpoint counts as opened and closed at once, as in Istio.
    pub fn tcp(&self, record: &mut Record, over: bool) {
        let Some(stats) = &record.stats else { return };
        let now = (record.bytes_received, record.bytes_sent);
        let has_moved = now != record.counted;
        if record.opened && !has_moved && !over {
            return;
        }
        let labels = labels(&self.metrics.local, stats, record, "tcp");
        let counter = |name| self.metrics.counter(name, labels.clone());
        if !record.opened {
            counter("istio_tcp_connections_opened_total").increment(1);
        }
        if has_moved || over {
            counter("istio_tcp_received_bytes_total").increment(now.0 - record.counted.0);
            counter("istio_tcp_sent_bytes_total").increment(now.1 - record.counted.1);
        }
        if over {
            counter("istio_tcp_connections_closed_total").increment(1);
        }
        (record.opened, record.counted) = (true, now);
    }

    fn resolve(&self, stats: &Arc<StatsFilter>, record: &Record) -> Handles {
        let protocol = if record.grpc { "grpc" } else { "http" };
        let labels = labels(&self.metrics.local, stats, record, protocol);
        let metrics = &self.metrics;
        Handles {
            requests: metrics.counter("istio_requests_total", labels.clone()),
            duration: metrics.histogram("istio_request_duration_milliseconds", labels.clone()),
            request_bytes: metrics.histogram("istio_request_bytes", labels.clone()),
            response_bytes: metrics.histogram("istio_response_bytes", labels.clone()),
            messages: record.grpc.then(|| {
                (
                    metrics.counter("istio_request_messages_total", labels.clone()),
                    metrics.counter("istio_response_messages_total", labels),
                )
            }),
            _alive: (Some(stats.clone()), record.cluster.clone(), record.endpoint.clone()),
        }
    }
}

fn address<T: ?Sized>(value: &Arc<T>) -> usize {
    Arc::as_ptr(value).cast::<()>() as usize
}

fn spiffe(tls: Option<&crate::tls::TlsInfo>) -> Option<Arc<str>> {
    tls?.peer.as_ref()?.spiffe.clone()
}

fn own(tls: Option<&crate::tls::TlsInfo>) -> Option<Arc<str>> {
    tls.map(|tls| tls.local_uri_sans.clone()).filter(|sans| !sans.is_empty())
}

/// Principals of source and destination.
fn principals(stats: &StatsFilter, record: &Record) -> (Option<Arc<str>>, Option<Arc<str>>) {
    match stats.reporter {
        Reporter::Source => (own(record.upstream_tls.as_deref()), spiffe(record.upstream_tls.as_deref())),
        Reporter::Destination => (spiffe(record.conn.tls.as_deref()), own(record.conn.tls.as_deref())),
    }
}

fn handle_key(stats: &Arc<StatsFilter>, record: &Record) -> HandleKey {
    let (source_principal, destination_principal) = principals(stats, record);
    HandleKey {
        stats: address(stats),
        cluster: record.cluster.as_ref().map_or(0, address),
        endpoint_peer: record.endpoint.as_ref().map_or(0, |endpoint| address(&endpoint.spec.peer)),
        source_peer: record.source_peer.clone(),
        source_principal,
        destination_principal,
        protocol: record.grpc.into(),
        status: record.status,
        flags: record.flags.0,
        grpc_status: record.grpc_status,
        mutual: record.conn.tls.as_ref().is_some_and(|tls| tls.peer.is_some()),
    }
}

/// The labels of MT3, in Istio's order.
pub fn labels(local: &Peer, stats: &StatsFilter, record: &Record, protocol: &'static str) -> Vec<Label> {
    let unknown = Peer::default();
    let from_certificate = |tls: Option<&crate::tls::TlsInfo>| -> Peer {
        let identity = spiffe(tls).and_then(|id| id.parse::<mesh_proto::spiffe::Identity>().ok());
        Peer { namespace: identity.map(|identity| identity.namespace.into()), ..Peer::default() }
    };
    let certified;
    let (source, destination): (&Peer, &Peer) = match stats.reporter {
        Reporter::Source => (local, record.endpoint.as_ref().map_or(&unknown, |endpoint| &endpoint.spec.peer)),
        Reporter::Destination => match &record.source_peer {
            Some(peer) => (peer, local),
            None => {
                certified = from_certificate(record.conn.tls.as_deref());
                (&certified, local)
            }
        },
    };
    let (source_principal, destination_principal) = principals(stats, record);
    let service =
        stats.destination.as_ref().or(record.cluster.as_ref().and_then(|cluster| cluster.config.service.as_ref()));
    let text = |value: &Option<Name>| value.as_deref().unwrap_or("unknown").to_owned();
    let security = match stats.reporter {
        Reporter::Source => "unknown",
        Reporter::Destination if record.conn.tls.as_ref().is_some_and(|tls| tls.peer.is_some()) => "mutual_tls",
        Reporter::Destination => "none",
    };
    let name =
        |pick: fn(&DestinationService) -> &Name| service.map_or("unknown".to_owned(), |one| pick(one).to_string());
    let mut labels = vec![
        Label::new("reporter", if stats.reporter == Reporter::Source { "source" } else { "destination" }),
        Label::new("source_workload", text(&source.workload)),
        Label::new("source_workload_namespace", text(&source.namespace)),
        Label::new("source_principal", text(&source_principal)),
        Label::new("source_app", text(&source.app)),
        Label::new("source_version", text(&source.version)),
        Label::new("source_cluster", text(&source.cluster)),
        Label::new("source_canonical_service", text(&source.canonical_service)),
        Label::new("source_canonical_revision", source.canonical_revision.as_deref().unwrap_or("latest").to_owned()),
        Label::new("destination_workload", text(&destination.workload)),
        Label::new("destination_workload_namespace", text(&destination.namespace)),
        Label::new("destination_principal", text(&destination_principal)),
        Label::new("destination_app", text(&destination.app)),
        Label::new("destination_version", text(&destination.version)),
        Label::new("destination_service", name(|service| &service.host)),
        Label::new("destination_service_name", name(|service| &service.name)),
        Label::new("destination_service_namespace", name(|service| &service.namespace)),
        Label::new("destination_cluster", text(&destination.cluster)),
        Label::new("destination_canonical_service", text(&destination.canonical_service)),
        Label::new(
            "destination_canonical_revision",
            destination.canonical_revision.as_deref().unwrap_or("latest").to_owned(),
        ),
        Label::new("request_protocol", protocol),
        Label::new("connection_security_policy", security),
        Label::new("response_flags", record.flags.to_string()),
    ];
    if protocol != "tcp" {
        labels.push(Label::new("response_code", record.status.to_string()));
        let grpc = record.grpc_status.map_or(String::new(), |status| status.to_string());
        labels.push(Label::new("grpc_response_status", grpc));
    }
    labels
}

//! Under a control plane: a fake one that the test drives request by request.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use mesh_proto::xds::discovery::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use mesh_proto::xds::{discovery, type_url, wkt};
use mesh_proxy::app::{Options, Proxy};
use mesh_proxy::bootstrap::Bootstrap;
use prost::Message;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tonic::{Request, Response, Status, Streaming};

use crate::support::*;

type Answers<T> = Pin<Box<dyn tokio_stream::Stream<Item = Result<T, Status>> + Send>>;

/// A stream as the test sees it.
pub struct Stream<Q, A> {
    requests: UnboundedReceiver<Q>,
    answers: UnboundedSender<Result<A, Status>>,
}

pub type DeltaStream = Stream<discovery::DeltaDiscoveryRequest, discovery::DeltaDiscoveryResponse>;
pub type SotwStream = Stream<discovery::DiscoveryRequest, discovery::DiscoveryResponse>;

#[derive(Clone)]
struct Fake {
    delta: UnboundedSender<DeltaStream>,
    sotw: UnboundedSender<SotwStream>,
}

fn joined<Q: Send + 'static, A: Send + 'static>(
    mut incoming: Streaming<Q>,
    streams: &UnboundedSender<Stream<Q, A>>,
) -> Response<Answers<A>> {
    let (heard, requests) = unbounded_channel();
    let (answers, told) = unbounded_channel();
    tokio::spawn(async move {
        while let Ok(Some(request)) = incoming.message().await {
            if heard.send(request).is_err() {
                return;
            }
        }
    });
    let _ = streams.send(Stream { requests, answers });
    Response::new(Box::pin(UnboundedReceiverStream::new(told)))
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Fake {
    type StreamAggregatedResourcesStream = Answers<discovery::DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Answers<discovery::DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<discovery::DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Ok(joined(request.into_inner(), &self.sotw))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<discovery::DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        Ok(joined(request.into_inner(), &self.delta))
    }
}

pub struct Plane {
    address: SocketAddr,
    pub delta: UnboundedReceiver<DeltaStream>,
    pub sotw: UnboundedReceiver<SotwStream>,
}

pub async fn plane() -> Plane {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let ((delta_sender, delta), (sotw_sender, sotw)) = (unbounded_channel(), unbounded_channel());
    let service = AggregatedDiscoveryServiceServer::new(Fake { delta: delta_sender, sotw: sotw_sender });
    tokio::spawn(
        tonic::transport::Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)),
    );
    Plane { address, delta, sotw }
}

impl Plane {
    pub async fn proxy(&self, api_type: &str) -> Proxy {
        let yaml = format!(
            "{{node: {{id: sidecar~1.2.3.4~a.b~b.svc.cluster.local, cluster: a.b}}, admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}, dynamic_resources: {{ads_config: {{api_type: {api_type}, transport_api_version: V3, grpc_services: [{{envoy_grpc: {{cluster_name: xds}}}}]}}, cds_config: {{ads: {{}}}}, lds_config: {{ads: {{}}}}}}, static_resources: {{clusters: [{}]}}}}",
            cluster("xds", &[self.address], HTTP2)
        );
        Proxy::start(Bootstrap::from_yaml(&yaml).unwrap(), Options { workers: 2 }).await.unwrap()
    }
}

impl DeltaStream {
    /// The next request of a type that is no mere acknowledgement.
    pub async fn asks(&mut self, url: &str) -> discovery::DeltaDiscoveryRequest {
        loop {
            let request = within(self.requests.recv()).await.expect("the stream is open");
            let mere = request.error_detail.is_none()
                && request.resource_names_subscribe.is_empty()
                && request.resource_names_unsubscribe.is_empty();
            if request.type_url == url && !mere {
                return request;
            }
        }
    }

    /// The answer to the response with this nonce.
    pub async fn answered(&mut self, nonce: &str) -> discovery::DeltaDiscoveryRequest {
        loop {
            let request = within(self.requests.recv()).await.expect("the stream is open");
            if request.response_nonce == nonce {
                return request;
            }
        }
    }

    pub fn send(&self, url: &str, nonce: &str, resources: &[(&str, &str, String)], removed: &[&str]) {
        let resources = resources
            .iter()
            .map(|(name, version, yaml)| discovery::Resource {
                name: (*name).to_owned(),
                version: (*version).to_owned(),
                resource: Some(any(url, yaml)),
                ..Default::default()
            })
            .collect();
        let response = discovery::DeltaDiscoveryResponse {
            type_url: url.to_owned(),
            nonce: nonce.to_owned(),
            resources,
            removed_resources: removed.iter().map(|name| (*name).to_owned()).collect(),
            ..Default::default()
        };
        self.answers.send(Ok(response)).unwrap();
    }
}

impl SotwStream {
    pub async fn answered(&mut self, nonce: &str) -> discovery::DiscoveryRequest {
        loop {
            let request = within(self.requests.recv()).await.expect("the stream is open");
            if request.response_nonce == nonce {
                return request;
            }
        }
    }

    pub fn send(&self, url: &str, version: &str, nonce: &str, bodies: &[String]) {
        let response = discovery::DiscoveryResponse {
            version_info: version.to_owned(),
            type_url: url.to_owned(),
            nonce: nonce.to_owned(),
            resources: bodies.iter().map(|yaml| any(url, yaml)).collect(),
            ..Default::default()
        };
        self.answers.send(Ok(response)).unwrap();
    }
}

fn any(url: &str, yaml: &str) -> wkt::Any {
    let message = mesh_proto::yaml::dynamic_from_yaml(url.rsplit('/').next().unwrap(), yaml)
        .unwrap_or_else(|error| panic!("{error}\n{yaml}"));
    wkt::Any { type_url: url.to_owned(), value: message.encode_to_vec() }
}

pub fn eds_cluster(name: &str) -> String {
    format!("{{name: {name}, type: EDS, connect_timeout: 2s, eds_cluster_config: {{eds_config: {{ads: {{}}}}}}}}")
}

pub fn endpoints(name: &str, address: SocketAddr) -> String {
    format!(
        "{{cluster_name: {name}, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}}}]}}]}}",
        address.port()
    )
}

pub fn rds_listener(name: &str, table: &str) -> String {
    let manager = format!(
        "{{name: http, typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: x, rds: {{route_config_name: {table}, config_source: {{ads: {{}}}}}}, http_filters: [{ROUTER}]}}}}"
    );
    listener(name, &manager)
}

fn table(name: &str, cluster: &str) -> String {
    format!(
        "{{name: {name}, virtual_hosts: [{{name: all, domains: ['*'], routes: [{{match: {{prefix: /}}, route: {{cluster: {cluster}}}}}]}}]}}"
    )
}

/// A proxy that serves one application by one cluster, listener and route table.
async fn settled(plane: &mut Plane, app: SocketAddr) -> (Proxy, DeltaStream, SocketAddr) {
    let proxy = plane.proxy("DELTA_GRPC").await;
    let mut stream = within(plane.delta.recv()).await.unwrap();
    let first = stream.asks(type_url::CLUSTER).await;
    assert_eq!(first.resource_names_subscribe, ["*"]);
    assert_eq!(first.node.as_ref().map(|node| node.cluster.as_str()), Some("a.b"));
    stream.send(type_url::CLUSTER, "c1", &[("one", "1", eds_cluster("one"))], &[]);
    assert_eq!(stream.asks(type_url::ENDPOINT).await.resource_names_subscribe, ["one"]);
    stream.asks(type_url::LISTENER).await;
    stream.send(type_url::LISTENER, "l1", &[("in", "1", rds_listener("in", "r"))], &[]);
    assert_eq!(stream.asks(type_url::ROUTE).await.resource_names_subscribe, ["r"]);
    stream.send(type_url::ROUTE, "r1", &[("r", "1", table("r", "one"))], &[]);
    stream.answered("r1").await;
    assert_eq!(get(proxy.admin_addr().unwrap(), "/ready").await.status, 503, "the endpoints are missing");
    assert_eq!(proxy.listener_addr("in"), None, "nobody is let in before there is something to serve");
    stream.send(type_url::ENDPOINT, "e1", &[("one", "1", endpoints("one", app))], &[]);
    within(proxy.ready()).await;
    let address = proxy.listener_addr("in").unwrap();
    assert_eq!(get(address, "/").await.status, 200);
    (proxy, stream, address)
}

/// Clients that never stop; the number of answers that were not 200.
pub fn hammer(address: SocketAddr) -> (Arc<AtomicBool>, tokio::task::JoinHandle<usize>, Arc<AtomicUsize>) {
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (stopped, counted) = (stop.clone(), count.clone());
    let task = tokio::spawn(async move {
        let mut bad = 0;
        while !stopped.load(Ordering::SeqCst) {
            bad += usize::from(get(address, "/").await.status != 200);
            counted.fetch_add(1, Ordering::SeqCst);
        }
        bad
    });
    (stop, task, count)
}

pub async fn some_more(count: &AtomicUsize) {
    let from = count.load(Ordering::SeqCst);
    eventually("requests go on", async || count.load(Ordering::SeqCst) > from + 5).await;
}

/// BX8.
#[tokio::test(flavor = "multi_thread")]
async fn new_configuration_never_costs_a_request() {
    let (one, two) = (says("one").await, says("two").await);
    let mut plane = plane().await;
    let (proxy, mut stream, address) = settled(&mut plane, one.address).await;
    let (stop, hammering, count) = hammer(address);
    // The route comes before the endpoints of its cluster: it waits.
    stream.send(type_url::CLUSTER, "c2", &[("two", "1", eds_cluster("two"))], &[]);
    stream.asks(type_url::ENDPOINT).await;
    stream.send(type_url::ROUTE, "r2", &[("r", "2", table("r", "two"))], &[]);
    stream.answered("r2").await;
    some_more(&count).await;
    assert_eq!(get(address, "/").await.body, "one");
    stream.send(type_url::ENDPOINT, "e2", &[("two", "1", endpoints("two", two.address))], &[]);
    eventually("the new route is used", async || get(address, "/").await.body == "two").await;
    // A cluster that changes keeps its endpoints; one that goes while it is still referred to stays.
    stream.send(type_url::CLUSTER, "c3", &[("two", "2", eds_cluster("two").replace("2s", "3s"))], &["one"]);
    stream.answered("c3").await;
    some_more(&count).await;
    stream.send(type_url::CLUSTER, "c4", &[], &["two"]);
    stream.answered("c4").await;
    some_more(&count).await;
    assert_eq!(get(address, "/").await.body, "two");
    stop.store(true, Ordering::SeqCst);
    assert_eq!(within(hammering).await.unwrap(), 0, "of {} requests", count.load(Ordering::SeqCst));
    // Once nothing refers to it, it is gone.
    stream.send(type_url::CLUSTER, "c5", &[("one", "2", eds_cluster("one"))], &[]);
    stream.send(type_url::ENDPOINT, "e3", &[("one", "2", endpoints("one", one.address))], &[]);
    stream.send(type_url::ROUTE, "r3", &[("r", "3", table("r", "one"))], &[]);
    eventually("the old cluster is gone", async || !proxy.snapshot().clusters.contains_key("two")).await;
    assert_eq!(get(address, "/").await.body, "one");
    within(proxy.stop()).await;
}

/// BX12: the only endpoint takes no connection, since its successor's turn has come; the retry waits until that is known.
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_waits_for_the_successor_of_the_only_endpoint() {
    let (before, after) = (says("before").await, says("after").await);
    let mut plane = plane().await;
    let (proxy, mut stream, address) = settled(&mut plane, before.address).await;
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let policy = "retry_policy: {retry_on: connect-failure, num_retries: 6, retry_back_off: {base_interval: 0.001s, max_interval: 0.001s}, retry_host_predicate: [{name: envoy.retry_host_predicates.previous_hosts, typed_config: {'@type': type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate}}]}";
    let retrying = table("r", "one").replace("{cluster: one}", &format!("{{cluster: one, {policy}}}"));
    stream.send(type_url::ROUTE, "r2", &[("r", "2", retrying)], &[]);
    stream.answered("r2").await;
    stream.send(type_url::ENDPOINT, "e2", &[("one", "2", endpoints("one", closed))], &[]);
    stream.answered("e2").await;
    let request = tokio::spawn(async move { get(address, "/").await });
    eventually("a try fails", async || stat(&proxy, "cluster.one.upstream_cx_connect_fail").await >= Some(1)).await;
    stream.send(type_url::ENDPOINT, "e3", &[("one", "3", endpoints("one", after.address))], &[]);
    let answer = within(request).await.unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, "after"));
    within(proxy.stop()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_resource_is_named_and_the_good_ones_are_used() {
    let app = says("app").await;
    let mut plane = plane().await;
    let (proxy, mut stream, address) = settled(&mut plane, app.address).await;
    let bad = eds_cluster("bad").replace("type: EDS", "type: EDS, lb_policy: MAGLEV");
    let broken = eds_cluster("one").replace("type: EDS", "type: EDS, health_checks: [{timeout: 1s, interval: 1s}]");
    let good = eds_cluster("good").replace("type: EDS", "type: STATIC");
    stream.send(type_url::CLUSTER, "c2", &[("bad", "1", bad), ("one", "2", broken), ("good", "1", good)], &[]);
    let nack = stream.answered("c2").await.error_detail.expect("refused");
    assert!(nack.message.contains("bad: lb_policy: is not supported"), "{}", nack.message);
    assert!(nack.message.contains("one: health_checks: is not supported"), "{}", nack.message);
    assert!(!nack.message.contains("good"), "{}", nack.message);
    let snapshot = proxy.snapshot();
    assert!(snapshot.clusters.contains_key("good") && !snapshot.clusters.contains_key("bad"));
    assert_eq!(get(address, "/").await.body, "app", "the last good version stays");
    let dump = get(proxy.admin_addr().unwrap(), "/config_dump").await.body;
    assert!(dump.contains("health_checks: is not supported"));
    // Mended: acknowledged again.
    stream.send(type_url::CLUSTER, "c3", &[("one", "3", eds_cluster("one"))], &["bad"]);
    assert_eq!(stream.answered("c3").await.error_detail, None);
    within(proxy.stop()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_stream_resumes_by_version() {
    let app = says("app").await;
    let mut plane = plane().await;
    let (proxy, stream, address) = settled(&mut plane, app.address).await;
    drop(stream);
    let mut stream = within(plane.delta.recv()).await.unwrap();
    let clusters = stream.asks(type_url::CLUSTER).await;
    assert_eq!(clusters.initial_resource_versions.get("one").map(String::as_str), Some("1"));
    assert!(clusters.node.is_some());
    let endpoints = stream.asks(type_url::ENDPOINT).await;
    assert_eq!(endpoints.resource_names_subscribe, ["one"]);
    assert_eq!(endpoints.initial_resource_versions.get("one").map(String::as_str), Some("1"));
    let listeners = stream.asks(type_url::LISTENER).await;
    assert_eq!(listeners.initial_resource_versions.get("in").map(String::as_str), Some("1"));
    assert_eq!(get(address, "/").await.body, "app", "what was known stays in use meanwhile");
    within(proxy.stop()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_of_the_world_is_understood_too() {
    let app = says("app").await;
    let mut plane = plane().await;
    let proxy = plane.proxy("GRPC").await;
    let mut stream = within(plane.sotw.recv()).await.unwrap();
    stream.send(type_url::CLUSTER, "v1", "c1", &[eds_cluster("one"), eds_cluster("gone")]);
    assert_eq!(stream.answered("c1").await.version_info, "v1");
    stream.send(type_url::ENDPOINT, "v1", "e1", &[endpoints("one", app.address), endpoints("gone", app.address)]);
    assert_eq!(stream.answered("e1").await.resource_names, ["gone", "one"]);
    stream.send(type_url::LISTENER, "v1", "l1", &[rds_listener("in", "r")]);
    stream.answered("l1").await;
    stream.send(type_url::ROUTE, "v1", "r1", &[table("r", "one")]);
    within(proxy.ready()).await;
    let address = proxy.listener_addr("in").unwrap();
    assert_eq!(get(address, "/").await.body, "app");
    let bad = eds_cluster("bad").replace("type: EDS", "type: EDS, lb_policy: MAGLEV");
    let static_one = eds_cluster("added").replace("type: EDS", "type: STATIC");
    stream.send(type_url::CLUSTER, "v2", "c2", &[eds_cluster("one"), bad, static_one]);
    let nack = stream.answered("c2").await;
    assert_eq!(nack.version_info, "v1", "the last version that was taken whole");
    assert!(nack.error_detail.unwrap().message.starts_with("bad: lb_policy"));
    let snapshot = proxy.snapshot();
    assert!(snapshot.clusters.contains_key("added") && !snapshot.clusters.contains_key("gone"));
    assert!(snapshot.clusters.contains_key("xds"), "the bootstrap's own stay");
    assert_eq!(get(address, "/").await.body, "app");
    within(proxy.stop()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watched_file_is_a_source_too() {
    let (one, two) = (says("one").await, says("two").await);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lds.yaml");
    let write = |cluster: &str| {
        let filter = http_filter("", &format!("{{match: {{prefix: /}}, route: {{cluster: {cluster}}}}}"));
        let listener = listener("in", &filter).replacen(
            '{',
            "{'@type': type.googleapis.com/envoy.config.listener.v3.Listener, ",
            1,
        );
        let fresh = folder.path().join("fresh");
        std::fs::write(&fresh, format!("{{version_info: '1', resources: [{listener}]}}")).unwrap();
        std::fs::rename(&fresh, &path).unwrap();
    };
    write("one");
    let yaml = format!(
        "{{dynamic_resources: {{lds_config: {{path_config_source: {{path: '{}'}}}}}}, static_resources: {{clusters: [{}, {}]}}}}",
        path.display(),
        cluster("one", &[one.address], ""),
        cluster("two", &[two.address], "")
    );
    let proxy = proxy(&yaml).await;
    let address = proxy.listener_addr("in").unwrap();
    assert_eq!(get(address, "/").await.body, "one");
    write("two");
    eventually("the file is read again", async || get(address, "/").await.body == "two").await;
    assert_eq!(proxy.listener_addr("in"), Some(address), "the socket stays");
    within(proxy.stop()).await;
}

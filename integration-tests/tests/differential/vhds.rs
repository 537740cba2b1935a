//! Virtual hosts that come apart from their table (VHDS): the same control plane, which the test plays, in front of both proxies.

use std::net::SocketAddr;
use std::pin::Pin;

use integration_tests::eventually::until;
use mesh_proto::xds::discovery::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use mesh_proto::xds::type_url::{LISTENER, ROUTE, VIRTUAL_HOST};
use mesh_proto::xds::{discovery, wkt};
use prost::Message;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tonic::{Request, Response, Status, Streaming};

use super::backend::Reserved;
use super::proxy::{Kind, Proxy};

type Answers<A> = Pin<Box<dyn tokio_stream::Stream<Item = Result<A, Status>> + Send>>;

/// A stream of a proxy, as the test sees it.
struct Stream {
    requests: UnboundedReceiver<discovery::DeltaDiscoveryRequest>,
    answers: UnboundedSender<Result<discovery::DeltaDiscoveryResponse, Status>>,
}

/// Hands each stream over to the test.
struct Plane(UnboundedSender<Stream>);

#[tonic::async_trait]
impl AggregatedDiscoveryService for Plane {
    type StreamAggregatedResourcesStream = Answers<discovery::DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Answers<discovery::DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        _: Request<Streaming<discovery::DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("delta only"))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<discovery::DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let ((heard, requests), (answers, told)) = (unbounded_channel(), unbounded_channel());
        let mut incoming = request.into_inner();
        tokio::spawn(async move {
            while let Ok(Some(request)) = incoming.message().await {
                if heard.send(request).is_err() {
                    return;
                }
            }
        });
        // A test that is over hears no more streams.
        let _ = self.0.send(Stream { requests, answers });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(told))))
    }
}

impl Stream {
    /// The next request of a type for which `wanted` holds.
    async fn request(
        &mut self,
        url: &str,
        wanted: impl Fn(&discovery::DeltaDiscoveryRequest) -> bool,
    ) -> discovery::DeltaDiscoveryRequest {
        let found = async {
            loop {
                let request = self.requests.recv().await.expect("the stream is open");
                if request.type_url == url && wanted(&request) {
                    return request;
                }
            }
        };
        tokio::time::timeout(integration_tests::eventually::DEADLINE, found).await.expect("it is asked")
    }

    async fn subscribed(&mut self, url: &str) -> Vec<String> {
        self.request(url, |request| !request.resource_names_subscribe.is_empty()).await.resource_names_subscribe
    }

    /// Sends resources, and removes others; returns whether the proxy took them.
    async fn send(&mut self, url: &str, nonce: &str, resources: &[(&str, String)], removed: &[&str]) -> bool {
        let resources = resources.iter().map(|(name, yaml)| {
            let message = mesh_proto::yaml::dynamic_from_yaml(url.rsplit('/').next().expect("a name"), yaml)
                .unwrap_or_else(|error| panic!("{error}\n{yaml}"));
            discovery::Resource {
                name: (*name).to_owned(),
                version: nonce.to_owned(),
                resource: Some(wkt::Any { type_url: url.to_owned(), value: message.encode_to_vec() }),
                ..Default::default()
            }
        });
        let response = discovery::DeltaDiscoveryResponse {
            type_url: url.to_owned(),
            nonce: nonce.to_owned(),
            resources: resources.collect(),
            removed_resources: removed.iter().map(|name| (*name).to_owned()).collect(),
            ..Default::default()
        };
        self.answers.send(Ok(response)).expect("the stream is open");
        self.request(url, |request| request.response_nonce == nonce).await.error_detail.is_none()
    }
}

fn bootstrap(plane: SocketAddr) -> String {
    const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    format!(
        "{{node: {{id: node, cluster: proxies}}, dynamic_resources: {{\
         ads_config: {{api_type: DELTA_GRPC, transport_api_version: V3, grpc_services: [{{envoy_grpc: {{cluster_name: xds}}}}]}}, \
         lds_config: {{ads: {{}}, resource_api_version: V3}}}}, static_resources: {{clusters: [{{\
         name: xds, type: STATIC, connect_timeout: 2s, \
         typed_extension_protocol_options: {{{OPTIONS}: {{'@type': type.googleapis.com/{OPTIONS}, explicit_http_config: {{http2_protocol_options: {{}}}}}}}}, \
         load_assignment: {{cluster_name: xds, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}}}]}}]}}}}]}}}}",
        plane.port()
    )
}

fn listener(port: u16) -> String {
    const FILTERS: &str = "type.googleapis.com/envoy.extensions.filters";
    format!(
        "{{name: in, address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}, filter_chains: [{{filters: [{{name: http, typed_config: {{\
         '@type': {FILTERS}.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: x, \
         rds: {{route_config_name: r, config_source: {{ads: {{}}, resource_api_version: V3}}}}, \
         http_filters: [{{name: router, typed_config: {{'@type': {FILTERS}.http.router.v3.Router}}}}]}}}}]}}]}}"
    )
}

/// A virtual host of one domain that answers with a text. Envoy removes hosts by their own names, so that these are whole.
fn host(name: &'static str, domain: &str, says: &str) -> (&'static str, String) {
    let route = format!("{{match: {{prefix: /}}, direct_response: {{status: 200, body: {{inline_string: {says}}}}}}}");
    (name, format!("{{name: {name}, domains: [{domain}], routes: [{route}]}}"))
}

/// Plays the control plane for one of them.
async fn play(kind: Kind) {
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let plane = socket.local_addr().expect("an address");
    let (sender, mut streams) = unbounded_channel();
    let service = AggregatedDiscoveryServiceServer::new(Plane(sender));
    tokio::spawn(
        tonic::transport::Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(socket)),
    );
    let (port, folder) = (Reserved::new(), tempfile::tempdir().expect("a folder"));
    let (bootstrap, ports) = (bootstrap(plane), [port.port]);
    let address = SocketAddr::from(([127, 0, 0, 1], port.port));
    let script = async {
        let mut stream = streams.recv().await.expect("the proxy comes");
        stream.subscribed(LISTENER).await;
        assert!(stream.send(LISTENER, "l1", &[("in", listener(port.port))], &[]).await, "{kind:?}");
        assert_eq!(stream.subscribed(ROUTE).await, ["r"], "{kind:?}");
        let inline = host("inline", "inline.test", "inline").1;
        let table = format!(
            "{{name: r, virtual_hosts: [{inline}], vhds: {{config_source: {{ads: {{}}, resource_api_version: V3}}}}}}"
        );
        assert!(stream.send(ROUTE, "r1", &[("r", table)], &[]).await, "{kind:?}");
        assert_eq!(stream.subscribed(VIRTUAL_HOST).await, ["r"], "{kind:?}");
        let first = [host("r/a", "a.test", "a1"), host("r/b", "b.test", "b1")];
        assert!(stream.send(VIRTUAL_HOST, "v1", &first, &[]).await, "{kind:?}");
        stream
    };
    let (_proxy, mut stream) = tokio::join!(Proxy::start(kind, &bootstrap, folder.path(), &ports), script);
    see(kind, address, "the first set", "inline a1 b1 - -").await;
    // What comes and goes, whether it is taken, and what a, b, c and d answer afterwards.
    for (nonce, hosts, removed, taken, answers) in [
        ("v2", [host("r/a", "a.test", "a2")].as_slice(), [].as_slice(), true, "inline a2 b1 - -"),
        ("v3", &[host("r/c", "c.test", "c1")], &["r/b"], true, "inline a2 - c1 -"),
        ("v4", &[host("r/a", "c.test", "a3"), host("r/c", "a.test", "c2")], &[], true, "inline c2 - a3 -"),
        ("v5", &[host("r/d", "inline.test", "d1")], &[], false, "inline c2 - a3 -"),
        ("v6", &[host("r/d", "d.test", "d2")], &[], true, "inline c2 - a3 d2"),
        ("v7", &[], &["r/a", "r/c", "r/d"], true, "inline - - - -"),
    ] {
        assert_eq!(stream.send(VIRTUAL_HOST, nonce, hosts, removed).await, taken, "{kind:?}: {nonce}");
        see(kind, address, nonce, answers).await;
    }
}

/// Waits until the five authorities are answered so; `-` is 404.
async fn see(kind: Kind, address: SocketAddr, when: &str, answers: &str) {
    until(&format!("{kind:?}: {when}: {answers}"), async || {
        let mut all = Vec::new();
        for authority in ["inline.test", "a.test", "b.test", "c.test", "d.test"] {
            all.push(match meshctl::http_client::get(address, authority, "/").await {
                Ok(answer) if answer.status == 404 => "-".to_owned(),
                Ok(answer) => answer.text(),
                Err(error) => error.to_string(),
            });
        }
        all.join(" ") == answers
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn virtual_hosts_come_apart_as_in_envoy() {
    tokio::join!(play(Kind::Envoy), play(Kind::Ours));
}

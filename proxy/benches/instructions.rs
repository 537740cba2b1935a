//! How many instructions the stages of a request take, counted by callgrind, with a limit for each: `cargo xtask ci --only instructions`.
//!
//! Counts are of one thread in user space and hardly differ from run to run, so they guard against growth where times cannot. A limit that is
//! passed on purpose is raised in the same change; one that is far above the count is lowered.

#![allow(missing_docs, reason = "the macros make functions of their own")]

use std::hint::black_box;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use gungraun::{Callgrind, EventKind, LibraryBenchmarkConfig, library_benchmark, library_benchmark_group, main};
use http::{HeaderMap, HeaderValue, Method};
use mesh_proto::xds::listener::filter::ConfigType::TypedConfig;
use mesh_proto::xds::{cluster, hcm, listener, pack, route};
use mesh_proto::yaml::from_yaml;
use mesh_proxy::balance::{Cluster, PickRequest};
use mesh_proxy::listener::accept;
use mesh_proxy::route::{RequestHead, RouteTable};
use mesh_proxy::runtime::Shared;
use mesh_proxy::snapshot::{Snapshot, Store};
use mesh_proxy::tcp::copy;
use mesh_proxy::tcp::exchange;
use mesh_proxy::telemetry::peer::{Fields, Peer};
use mesh_proxy::telemetry::stats::Metrics;
use mesh_proxy::worker::{NodeTold, Worker};
use mesh_proxy::xds::decode::Context;
use mesh_proxy::xds::decode::route::route_config;
use mesh_proxy::xds::kind::Kind;
use mesh_proxy::xds::state::{Origin, Resource, State, Update};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::task::LocalSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Requests, choices or picks in one measurement: what is done once hardly counts.
const TIMES: usize = 100;

fn at_most(instructions: u64) -> LibraryBenchmarkConfig {
    let mut config = LibraryBenchmarkConfig::default();
    config.tool(Callgrind::default().hard_limits([(EventKind::Ir, instructions)]));
    config
}

/// 100 virtual hosts of 10 routes each.
fn table() -> RouteTable {
    let routes: Vec<String> = (0..9)
        .map(|n| format!("{{match: {{prefix: /v{n}/, headers: [{{name: x-user, string_match: {{exact: u{n}}}}}]}}, route: {{cluster: c{n}}}}}"))
        .chain(["{match: {prefix: /}, route: {cluster: last}}".to_owned()])
        .collect();
    let hosts: Vec<String> = (0..100)
        .map(|n| {
            let domains = format!("[s{n}, s{n}.shop, s{n}.shop.svc.cluster.local, '*.s{n}.example.com']");
            format!("{{name: h{n}, domains: {domains}, routes: [{}]}}", routes.join(", "))
        })
        .collect();
    let raw = from_yaml(&format!("{{name: '80', virtual_hosts: [{}]}}", hosts.join(", ")));
    route_config(&raw.unwrap_or_else(|error| panic!("{error}")), None).unwrap_or_else(|error| panic!("{error}"))
}

#[library_benchmark(setup = table, config = at_most(625_000))]
fn select(table: RouteTable) -> RouteTable {
    let mut headers = HeaderMap::new();
    headers.insert("x-user", HeaderValue::from_static("u5"));
    for _ in 0..TIMES {
        for (authority, path) in [("s42.shop.svc.cluster.local", "/v5/a?b=c"), ("a.s99.example.com:80", "/else")] {
            let head = RequestHead {
                method: &Method::GET,
                authority,
                path_and_query: path,
                scheme: "http",
                headers: &headers,
            };
            black_box(table.select(&head, 7).is_some());
        }
    }
    table
}

/// A virtual host of eight domains that comes apart from its table.
fn host(number: usize, timeout: u32) -> Resource {
    let service = format!("s{number}.shop.svc.cluster.local");
    let domains = [&service, &format!("s{number}"), &format!("s{number}.shop"), &format!("s{number}.shop.svc")];
    let domains = domains.into_iter().flat_map(|domain| [domain.clone(), format!("{domain}:80")]).collect();
    let route = format!("{{match: {{prefix: /}}, route: {{cluster: 'outbound|80||{service}', timeout: {timeout}s}}}}");
    let route = from_yaml(&route).unwrap_or_else(|error| panic!("{error}"));
    let host = route::VirtualHost { name: format!("{service}:80"), domains, routes: vec![route], ..Default::default() };
    resource(&format!("80/{}", host.name), host.encode_to_vec())
}

fn update(state: &mut State, kind: Kind, resources: Vec<Resource>) -> Option<Snapshot> {
    let update = Update { resources, ..Update::default() };
    let refused = state.update(kind, update, Origin::Dynamic, Instant::now());
    assert!(refused.is_empty(), "{refused:?}");
    state.build(Instant::now())
}

/// A table with 1,000 of them, in use.
fn thousand_hosts() -> (State, Option<Snapshot>) {
    let mut state = State::new(Context { delta: true, ..Context::default() }, []);
    let mut listener: listener::Listener = from_yaml(LISTENER).unwrap_or_else(|error| panic!("{error}"));
    let manager: hcm::HttpConnectionManager = from_yaml(
        "{stat_prefix: x, rds: {route_config_name: '80', config_source: {ads: {}}}, \
         http_filters: [{name: router, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]}",
    )
    .unwrap_or_else(|error| panic!("{error}"));
    listener.filter_chains[0].filters[0].config_type = Some(TypedConfig(pack(&manager)));
    update(&mut state, Kind::Listener, vec![resource("front", listener.encode_to_vec())]);
    let table: route::RouteConfiguration =
        from_yaml("{name: '80', vhds: {config_source: {ads: {}}}}").unwrap_or_else(|error| panic!("{error}"));
    update(&mut state, Kind::Route, vec![resource("80", table.encode_to_vec())]);
    let snapshot = update(&mut state, Kind::VirtualHost, (0..1000).map(|number| host(number, 0)).collect());
    assert!(state.is_settled() && snapshot.is_some());
    (state, snapshot)
}

// One virtual host of a thousand changes, from its bytes, whose making is counted too, to the next snapshot; the one before goes.
#[library_benchmark(setup = thousand_hosts, config = at_most(24_000_000))]
fn change_host((mut state, mut snapshot): (State, Option<Snapshot>)) -> (State, Option<Snapshot>) {
    for number in 0..TIMES {
        snapshot = update(&mut state, Kind::VirtualHost, vec![host(number, 1)]);
        assert!(black_box(&snapshot).is_some());
    }
    (state, snapshot)
}

fn ten_endpoints() -> Cluster {
    let endpoints: Vec<String> = (1..=10).map(|n| endpoint(SocketAddr::from(([10, 0, 0, n], 80)))).collect();
    let raw: cluster::Cluster =
        from_yaml(&cluster("ten", &endpoints.join(", "))).unwrap_or_else(|error| panic!("{error}"));
    let (config, endpoints) =
        mesh_proxy::xds::decode::cluster::cluster(&raw, &Context::default()).unwrap_or_else(|error| panic!("{error}"));
    Cluster::new(config, endpoints, None)
}

fn endpoint(address: SocketAddr) -> String {
    format!(
        "{{endpoint: {{address: {{socket_address: {{address: {}, port_value: {}}}}}}}}}",
        address.ip(),
        address.port()
    )
}

fn cluster(name: &str, endpoints: &str) -> String {
    format!(
        "{{name: {name}, type: STATIC, lb_policy: LEAST_REQUEST, connect_timeout: 5s, load_assignment: {{cluster_name: {name}, endpoints: [{{lb_endpoints: [{endpoints}]}}]}}}}"
    )
}

#[library_benchmark(setup = ten_endpoints, config = at_most(66_500))]
fn pick(cluster: Cluster) -> Cluster {
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..TIMES {
        black_box(cluster.pick(&PickRequest::default(), &mut random).is_ok());
    }
    cluster
}

struct Pipes {
    runtime: Runtime,
    local: LocalSet,
    near: (tokio::io::DuplexStream, tokio::io::DuplexStream),
    far: (tokio::io::DuplexStream, tokio::io::DuplexStream),
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap_or_else(|error| panic!("{error}"))
}

fn pipes() -> Pipes {
    let (client, a) = tokio::io::duplex(64 << 10);
    let (b, server) = tokio::io::duplex(64 << 10);
    Pipes { runtime: runtime(), local: LocalSet::new(), near: (client, server), far: (a, b) }
}

// 1 MiB each way.
#[library_benchmark(setup = pipes, config = at_most(6_900_000))]
fn copy_bytes(pipes: Pipes) -> (Runtime, LocalSet) {
    let Pipes { runtime, local, near: (mut client, mut server), far: (a, b) } = pipes;
    local.block_on(&runtime, async move {
        let piece = vec![7; 16 << 10];
        let moved = copy::Moved::default();
        let speak = async |stream: &mut tokio::io::DuplexStream| {
            for _ in 0..64 {
                stream.write_all(&piece).await?;
            }
            stream.shutdown().await
        };
        let hear = async |stream: &mut tokio::io::DuplexStream| tokio::io::copy(stream, &mut tokio::io::sink()).await;
        // Each way is read while it is written: the pipes hold less than what passes.
        let talk = async {
            tokio::try_join!(speak(&mut client), hear(&mut server))?;
            tokio::try_join!(speak(&mut server), hear(&mut client))
        };
        let (copied, _) = tokio::join!(copy::both(a, b, None, None, &moved), talk);
        assert!(copied.error.is_none() && moved.up.get() == 1 << 20);
    });
    (runtime, local)
}

/// A worker with a listener and an application, all on this thread, and a client's connection to it.
struct Bed {
    runtime: Runtime,
    local: LocalSet,
    client: TcpStream,
}

const LISTENER: &str = include_str!("listener.yaml");

fn resource(name: &str, body: Vec<u8>) -> Resource {
    Resource { name: Some(name.into()), version: "1".to_owned(), body }
}

fn snapshot(application: SocketAddr) -> Snapshot {
    let mut state = State::new(Context::default(), []);
    let cluster: cluster::Cluster =
        from_yaml(&cluster("application", &endpoint(application))).unwrap_or_else(|error| panic!("{error}"));
    let listener: listener::Listener = from_yaml(LISTENER).unwrap_or_else(|error| panic!("{error}"));
    for (kind, name, body) in
        [(Kind::Cluster, "application", cluster.encode_to_vec()), (Kind::Listener, "front", listener.encode_to_vec())]
    {
        let update = Update { resources: vec![resource(name, body)], ..Update::default() };
        let refused = state.update(kind, update, Origin::Static, Instant::now());
        assert!(refused.is_empty(), "{refused:?}");
    }
    state.build(Instant::now()).unwrap_or_else(|| panic!("nothing to serve"))
}

async fn application(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::task::spawn_local(async move {
            while read_head(&mut stream).await.is_ok() {
                let answer = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n\r\nhello";
                if stream.write_all(answer).await.is_err() {
                    return;
                }
            }
        });
    }
}

async fn read_head(stream: &mut TcpStream) -> io::Result<()> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

fn bed() -> Bed {
    let (runtime, local) = (runtime(), LocalSet::new());
    let client = local.block_on(&runtime, async {
        let bind = async || TcpListener::bind("127.0.0.1:0").await.unwrap_or_else(|error| panic!("{error}"));
        let (front, behind) = (bind().await, bind().await);
        let address = |socket: &TcpListener| socket.local_addr().unwrap_or_else(|error| panic!("{error}"));
        let (to, store) = (address(&front), Arc::new(Store::default()));
        store.publish(snapshot(address(&behind)));
        let node = Fields::default();
        let shared = Shared {
            store,
            metrics: Arc::new(Metrics::new(Peer::from_metadata(&node))),
            drain: mesh_proxy::drain::Drain::default(),
            node: Arc::new(NodeTold {
                metadata: HeaderValue::from_static(""),
                id: HeaderValue::from_static(""),
                preamble: exchange::preamble(Peer::message(&node), ""),
            }),
            listener_drain: Duration::from_secs(1),
        };
        let worker = Worker::new(0, shared);
        tokio::task::spawn_local(accept::run(worker, "front".into(), front, CancellationToken::new()));
        tokio::task::spawn_local(application(behind));
        let mut client = TcpStream::connect(to).await.unwrap_or_else(|error| panic!("{error}"));
        for path in ["/", "/direct"] {
            ask(&mut client, path).await;
        }
        client
    });
    Bed { runtime, local, client }
}

async fn ask(client: &mut TcpStream, path: &str) {
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: reviews.shop:9080\r\nuser-agent: bench/1\r\naccept: */*\r\nx-request-id: 3f1c7f9e-2f0e-4b9b-9a53-2f1d5f3a7c11\r\n\r\n"
    );
    let mut answer = Vec::new();
    let asked = async {
        client.write_all(request.as_bytes()).await?;
        while !answer.ends_with(b"hello") {
            if client.read_buf(&mut answer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        io::Result::Ok(())
    };
    asked.await.unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&answer)));
}

fn requests(mut bed: Bed, path: &str) -> Bed {
    bed.local.block_on(&bed.runtime, async {
        for _ in 0..TIMES {
            ask(&mut bed.client, path).await;
        }
    });
    bed
}

// `handle` without what comes after it: a policy, a route and an answer of the proxy's own. The client is counted too.
#[library_benchmark(setup = bed, config = at_most(3_750_000))]
fn handle(bed: Bed) -> Bed {
    requests(bed, "/direct")
}

// `handle` with all that follows: balancing, the pool, the application's answer, metrics. Client and application are counted too.
#[library_benchmark(setup = bed, config = at_most(8_100_000))]
fn forward(bed: Bed) -> Bed {
    requests(bed, "/")
}

library_benchmark_group!(name = stages, benchmarks = [select, change_host, pick, copy_bytes, handle, forward]);

main!(library_benchmark_groups = stages);

//! Virtual hosts that come apart from their route table: a fake control plane sends them one by one.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use http::Request;
use http_body_util::Full;
use mesh_proto::xds::type_url::{CLUSTER, ENDPOINT, LISTENER, ROUTE, VIRTUAL_HOST};
use mesh_proxy::app::Proxy;

use crate::support::*;
use crate::xds::*;

/// A table whose virtual hosts come apart, but for these.
fn table(name: &str, inline: &str) -> String {
    format!(
        "{{name: {name}, virtual_hosts: [{inline}], vhds: {{config_source: {{ads: {{}}, resource_api_version: V3}}}}}}"
    )
}

/// A virtual host whose only domain is its name with `.test`.
fn host(name: &str, cluster: &str) -> String {
    host_of(name, &format!("{name}.test"), cluster)
}

fn host_of(name: &str, domain: &str, cluster: &str) -> String {
    format!(
        "{{name: {name}, domains: ['{domain}'], routes: [{{match: {{prefix: /}}, route: {{cluster: {cluster}}}}}]}}"
    )
}

/// The answer for an authority: its status and body.
async fn ask(address: SocketAddr, authority: &str) -> (u16, String) {
    let request = Request::builder().uri("/").header("host", authority).body(Full::default()).unwrap();
    let got = send(address, request).await;
    (got.status, got.body)
}

async fn status(address: SocketAddr, authority: &str) -> u16 {
    ask(address, authority).await.0
}

/// A proxy with a listener `in`, whose table `r` has come but none of the virtual hosts apart from it.
async fn waiting(plane: &mut Plane, clusters: &[(&str, SocketAddr)]) -> (Proxy, DeltaStream) {
    let proxy = plane.proxy("DELTA_GRPC").await;
    let mut stream = within(plane.delta.recv()).await.unwrap();
    stream.asks(CLUSTER).await;
    let all: Vec<_> = clusters.iter().map(|(name, address)| (*name, "1", cluster(name, &[*address], ""))).collect();
    stream.send(CLUSTER, "c1", &all, &[]);
    stream.asks(LISTENER).await;
    stream.send(LISTENER, "l1", &[("in", "1", rds_listener("in", "r"))], &[]);
    stream.asks(ROUTE).await;
    let inline = host("inline", clusters[0].0);
    stream.send(ROUTE, "r1", &[("r", "1", table("r", &inline))], &[]);
    let asked = stream.asks(VIRTUAL_HOST).await;
    assert_eq!(asked.resource_names_subscribe, ["r"]);
    assert!(asked.initial_resource_versions.is_empty());
    (proxy, stream)
}

/// The same, where the virtual hosts `a` and `b` have come.
async fn serving(plane: &mut Plane, clusters: &[(&str, SocketAddr)]) -> (Proxy, DeltaStream, SocketAddr) {
    let (proxy, mut stream) = waiting(plane, clusters).await;
    let name = clusters[0].0;
    stream.send(VIRTUAL_HOST, "v1", &[("r/a", "1", host("a", name)), ("r/b", "1", host("b", name))], &[]);
    assert_eq!(stream.answered("v1").await.error_detail, None);
    within(proxy.ready()).await;
    let address = proxy.listener_addr("in").unwrap();
    for authority in ["a.test", "b.test", "inline.test"] {
        assert_eq!(status(address, authority).await, 200, "{authority}");
    }
    (proxy, stream, address)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_waits_for_its_first_set_and_then_follows_each_host() {
    let (one, two) = (says("one").await, says("two").await);
    let mut plane = plane().await;
    let clusters = [("one", one.address), ("two", two.address)];
    let (proxy, mut stream) = waiting(&mut plane, &clusters).await;
    assert_eq!(get(proxy.admin_addr().unwrap(), "/ready").await.status, 503, "the hosts are missing");
    assert_eq!(proxy.listener_addr("in"), None, "nobody is let in before it is known who is served");
    stream.send(
        VIRTUAL_HOST,
        "v1",
        &[("r/a", "1", host("a", "one")), ("r/example", "1", host_of("example", "example.com", "one"))],
        &[],
    );
    within(proxy.ready()).await;
    let address = proxy.listener_addr("in").unwrap();
    assert_eq!(ask(address, "a.test").await, (200, "one".into()));
    assert_eq!(ask(address, "inline.test").await, (200, "one".into()));
    // One changes, one is new, and one takes over a domain, while others are asked for without a pause.
    let (stop, task, count) = hammer(address);
    some_more(&count).await;
    stream.send(VIRTUAL_HOST, "v2", &[("r/example", "2", host_of("example", "example.com", "two"))], &[]);
    assert_eq!(stream.answered("v2").await.error_detail, None);
    assert_eq!(ask(address, "example.com").await, (200, "two".into()));
    stream.send(VIRTUAL_HOST, "v3", &[("r/c", "1", host_of("r/c", "c.test", "two"))], &[]);
    eventually("a new one", async || status(address, "c.test").await == 200).await;
    let swapped = [("r/a", "2", host_of("a", "c.test", "one")), ("r/c", "2", host_of("c", "a.test", "two"))];
    stream.send(VIRTUAL_HOST, "v4", &swapped, &[]);
    assert_eq!(stream.answered("v4").await.error_detail, None);
    assert_eq!(ask(address, "c.test").await, (200, "one".into()));
    assert_eq!(ask(address, "a.test").await, (200, "two".into()));
    some_more(&count).await;
    stop.store(true, Ordering::SeqCst);
    assert_eq!(task.await.unwrap(), 0, "requests that failed");
    // Gone, and all gone.
    stream.send(VIRTUAL_HOST, "v5", &[], &["r/a"]);
    stream.answered("v5").await;
    assert_eq!([status(address, "c.test").await, status(address, "a.test").await], [404, 200]);
    stream.send(VIRTUAL_HOST, "v6", &[], &["r"]);
    stream.answered("v6").await;
    assert_eq!([status(address, "a.test").await, status(address, "inline.test").await], [404, 200]);
    within(proxy.stop()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_hosts_is_told_so() {
    let one = says("one").await;
    // By the table's name, and by an answer with nothing in it.
    for removed in [["r"].as_slice(), &[]] {
        let mut plane = plane().await;
        let (proxy, stream) = waiting(&mut plane, &[("one", one.address)]).await;
        stream.send(VIRTUAL_HOST, "v1", &[], removed);
        within(proxy.ready()).await;
        let address = proxy.listener_addr("in").unwrap();
        assert_eq!([status(address, "inline.test").await, status(address, "a.test").await], [200, 404]);
        within(proxy.stop()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_host_is_named_and_its_last_good_one_stays() {
    let (one, two) = (says("one").await, says("two").await);
    let mut plane = plane().await;
    let (proxy, mut stream, address) = serving(&mut plane, &[("one", one.address), ("two", two.address)]).await;
    let hosts = [
        ("r/a", "2", "{name: a, domains: [a.test], routes: [{match: {prefix: /}}]}".to_owned()),
        ("r/b", "2", host("b", "two")),
        ("r/c", "1", host_of("c", "A.test", "two")),
        ("r/d", "1", host_of("d", "inline.test", "two")),
        ("r/e", "1", host_of("another", "e.test", "two")),
        ("r/f", "1", host("f", "two")),
        ("nowhere", "1", host("nowhere", "two")),
    ];
    stream.send(VIRTUAL_HOST, "v2", &hosts, &[]);
    let nack = stream.answered("v2").await.error_detail.expect("refused").message;
    let mut lines: Vec<&str> = nack.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "nowhere: name: `nowhere` must be ROUTE_TABLE/VIRTUAL_HOST",
            "r/a: routes[0].action: needs one of route, redirect, direct_response",
            "r/c: domains: domain `a.test` is in two virtual hosts, `a` and `c`",
            "r/d: domains: domain `inline.test` is in two virtual hosts, `inline` and `d`",
            "r/e: name: is `another`, but the resource was sent under another name",
        ]
    );
    for (authority, answer) in
        [("a.test", (200, "one")), ("b.test", (200, "two")), ("inline.test", (200, "one")), ("f.test", (200, "two"))]
    {
        assert_eq!(ask(address, authority).await, (answer.0, answer.1.to_owned()), "{authority}");
    }
    let dump = get(proxy.admin_addr().unwrap(), "/config_dump?resource=dynamic_route_configs").await.body;
    let dump: serde_json::Value = serde_json::from_str(&dump).unwrap();
    let table = &dump["configs"][0];
    let hosts: Vec<&str> = table["route_config"]["virtual_hosts"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|host| host["name"].as_str())
        .collect();
    assert_eq!(hosts, ["inline", "a", "b", "f"]);
    assert!(table["error_state"]["details"].as_str().unwrap().starts_with("r/a: routes[0]"), "{table}");
    // A table whose own host takes a domain of one that came apart from it.
    stream.send(ROUTE, "r2", &[("r", "2", table_with_b())], &[]);
    let nack = stream.answered("r2").await.error_detail.expect("refused").message;
    assert_eq!(nack, "r: virtual_hosts: domain `b.test` is in two virtual hosts, `new` and `b`");
    assert_eq!(ask(address, "b.test").await, (200, "two".into()));
    within(proxy.stop()).await;
}

fn table_with_b() -> String {
    table("r", &host_of("new", "b.test", "one"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_stream_resumes_hosts_by_version() {
    let one = says("one").await;
    let mut plane = plane().await;
    let (proxy, stream, address) = serving(&mut plane, &[("one", one.address)]).await;
    drop(stream);
    let mut stream = within(plane.delta.recv()).await.unwrap();
    let asked = stream.asks(VIRTUAL_HOST).await;
    assert_eq!(asked.resource_names_subscribe, ["r"]);
    let mut versions: Vec<_> = asked.initial_resource_versions.into_iter().collect();
    versions.sort();
    assert_eq!(versions, [("r/a".to_owned(), "1".to_owned()), ("r/b".to_owned(), "1".to_owned())]);
    stream.send(VIRTUAL_HOST, "v1", &[], &["r/b"]);
    stream.answered("v1").await;
    assert_eq!([status(address, "a.test").await, status(address, "b.test").await], [200, 404]);
    within(proxy.stop()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_waits_for_its_cluster_and_endpoints() {
    let (one, two) = (says("one").await, says("two").await);
    let mut plane = plane().await;
    let (proxy, mut stream, address) = serving(&mut plane, &[("one", one.address)]).await;
    stream.send(CLUSTER, "c2", &[("two", "1", eds_cluster("two"))], &[]);
    stream.asks(ENDPOINT).await;
    stream.send(VIRTUAL_HOST, "v2", &[("r/a", "2", host("a", "two"))], &[]);
    assert_eq!(stream.answered("v2").await.error_detail, None);
    assert_eq!(ask(address, "a.test").await, (200, "one".into()), "the endpoints are missing");
    stream.send(ENDPOINT, "e2", &[("two", "1", endpoints("two", two.address))], &[]);
    stream.answered("e2").await;
    assert_eq!(ask(address, "a.test").await, (200, "two".into()));
    within(proxy.stop()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_needs_no_hosts_any_more_asks_for_none() {
    let one = says("one").await;
    let mut plane = plane().await;
    let (proxy, mut stream, address) = serving(&mut plane, &[("one", one.address)]).await;
    // Whole again, with a host that came apart before.
    let whole = format!("{{name: r, virtual_hosts: [{}]}}", host("b", "one"));
    stream.send(ROUTE, "r2", &[("r", "2", whole)], &[]);
    assert_eq!(stream.asks(VIRTUAL_HOST).await.resource_names_unsubscribe, ["r"]);
    assert_eq!([status(address, "a.test").await, status(address, "b.test").await], [404, 200]);
    // Late ones are nobody's.
    stream.send(VIRTUAL_HOST, "v2", &[("r/a", "2", host("a", "one"))], &[]);
    assert_eq!(stream.answered("v2").await.error_detail, None);
    assert_eq!(status(address, "a.test").await, 404);
    // Apart again: what was known before is not; what serves meanwhile is the table before.
    stream.send(ROUTE, "r3", &[("r", "3", table("r", ""))], &[]);
    assert_eq!(stream.asks(VIRTUAL_HOST).await.resource_names_subscribe, ["r"]);
    assert_eq!([status(address, "a.test").await, status(address, "b.test").await], [404, 200]);
    stream.send(VIRTUAL_HOST, "v3", &[("r/a", "3", host("a", "one"))], &[]);
    stream.answered("v3").await;
    assert_eq!([status(address, "a.test").await, status(address, "b.test").await], [200, 404]);
    // The listener goes, and with it the table.
    stream.send(LISTENER, "l2", &[], &["in"]);
    assert_eq!(stream.asks(VIRTUAL_HOST).await.resource_names_unsubscribe, ["r"]);
    within(proxy.stop()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_apart_need_the_delta_form() {
    let one = says("one").await;
    let mut plane = plane().await;
    let proxy = plane.proxy("GRPC").await;
    let mut stream = within(plane.sotw.recv()).await.unwrap();
    stream.send(CLUSTER, "v1", "c1", &[cluster("one", &[one.address], "")]);
    stream.answered("c1").await;
    stream.send(LISTENER, "v1", "l1", &[rds_listener("in", "r")]);
    stream.answered("l1").await;
    stream.send(ROUTE, "v1", "r1", &[table("r", "")]);
    let nack = stream.answered("r1").await.error_detail.expect("refused").message;
    assert!(nack.starts_with("r: vhds: virtual hosts of their own need the delta form"), "{nack}");
    within(proxy.stop()).await;
}

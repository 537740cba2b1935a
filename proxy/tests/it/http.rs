//! HTTP/1 and HTTP/2 through the proxy: keep-alive, versions, routes, weights, retries, time-outs, pooled connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{Method, Request, Version};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_every_version_reach_the_application() {
    let app = application(|request| async move {
        let seen = format!("{} {} {:?}", request.method(), request.uri(), request.version());
        let body = request.into_body().collect().await.unwrap().to_bytes();
        answer(200, format!("{seen} [{}]", String::from_utf8_lossy(&body)))
    })
    .await;
    let (proxy, front) = Front::to(app.address).start().await;
    let got = send(front, request_of(Method::POST, "/a?b=c", "hello")).await;
    assert_eq!((got.status, got.body.as_str()), (200, "POST /a?b=c HTTP/1.1 [hello]"));
    assert_eq!(got.headers["server"], "ferromesh");
    assert!(got.headers.contains_key("x-envoy-upstream-service-time"));

    let old = raw(front, b"GET /old HTTP/1.0\r\n\r\n").await;
    assert!(old.starts_with("HTTP/1.0 200 OK") || old.starts_with("HTTP/1.1 200 OK"), "{old}");
    assert!(old.contains("GET /old HTTP/1.1"), "{old}");

    let mut client = http2(front).await;
    let request = Request::post(format!("http://{front}/two")).body(full("h2")).unwrap();
    let got = collect(client.send_request(request).await.unwrap()).await;
    assert_eq!((got.version, got.body.as_str()), (Version::HTTP_2, "POST /two HTTP/1.1 [h2]"));
    within(proxy.stop()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_kept_on_both_sides() {
    let app = says("ok").await;
    let yaml = Front::to(app.address).yaml();
    let bootstrap = mesh_proxy::bootstrap::Bootstrap::from_yaml(&yaml).unwrap();
    let proxy = mesh_proxy::app::Proxy::start(bootstrap, mesh_proxy::app::Options { workers: 1 }).await.unwrap();
    let front = proxy.listener_addr("front").unwrap();
    let stream = TcpStream::connect(front).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..10 {
        sender.ready().await.unwrap();
        let got = collect(sender.send_request(request("/")).await.unwrap()).await;
        assert_eq!((got.status, got.body.as_str()), (200, "ok"));
    }
    assert_eq!((app.connections(), app.requests()), (1, 10));
    within(proxy.stop()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_to_the_application_keeps_trailers_and_multiplexes() {
    let app = application(|request| async move { answer(200, format!("{:?}", request.version())) }).await;
    let (proxy, front) = Front::to(app.address).clusters(&cluster("backend", &[app.address], HTTP2)).start().await;
    let clients = (0..20).map(|_| tokio::spawn(async move { get(front, "/").await.body }));
    for client in clients.collect::<Vec<_>>() {
        assert_eq!(within(client).await.unwrap(), "HTTP/2.0");
    }
    assert!(app.connections() <= 2, "one connection for each worker: {}", app.connections());
    within(proxy.stop()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_decide_by_path_header_and_weight() {
    let (one, two) = (says("one").await, says("two").await);
    let routes = "{match: {path: /exact}, direct_response: {status: 418, body: {inline_string: teapot}}},
        {match: {prefix: /old}, redirect: {path_redirect: /new, response_code: FOUND}},
        {match: {prefix: /, headers: [{name: x-two, string_match: {exact: 'yes'}}]}, route: {cluster: two}},
        {match: {prefix: /split}, route: {weighted_clusters: {clusters: [{name: one, weight: 75}, {name: two, weight: 25}]}}},
        {match: {prefix: /missing}, route: {cluster: nowhere}},
        {match: {prefix: /}, route: {cluster: one}}";
    let clusters = format!("{}, {}", cluster("one", &[one.address], ""), cluster("two", &[two.address], ""));
    let (proxy, front) = Front::to(one.address).routes(routes).clusters(&clusters).start().await;
    let got = get(front, "/exact").await;
    assert_eq!((got.status, got.body.as_str()), (418, "teapot"));
    let got = get(front, "/old/x").await;
    assert_eq!((got.status, got.headers["location"].to_str().unwrap()), (302, "http://example.com/new"));
    assert_eq!(get(front, "/").await.body, "one");
    let mut wanted = request("/");
    wanted.headers_mut().insert("x-two", "yes".parse().unwrap());
    assert_eq!(send(front, wanted).await.body, "two");
    assert_eq!(get(front, "/missing").await.status, 503);
    let mut ones = 0;
    for _ in 0..200 {
        ones += usize::from(get(front, "/split").await.body == "one");
    }
    assert!((120..=180).contains(&ones), "{ones} of 200 for a weight of 75 %");
    within(proxy.stop()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_stop_at_the_first_good_answer() {
    let failures = Arc::new(AtomicUsize::new(2));
    let left = failures.clone();
    let app = application(move |_| {
        let failed = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        async move { if failed { answer(503, "no") } else { answer(200, "yes") } }
    })
    .await;
    let routes = "{match: {prefix: /}, route: {cluster: backend, retry_policy: {retry_on: 5xx, num_retries: 3}}}";
    let (proxy, front) = Front::to(app.address).routes(routes).start().await;
    let got = send(front, request_of(Method::POST, "/", "body that is sent again")).await;
    assert_eq!((got.status, got.body.as_str()), (200, "yes"));
    assert_eq!(app.requests(), 3);
    failures.store(100, Ordering::SeqCst);
    assert_eq!(get(front, "/").await.status, 503);
    assert_eq!(app.requests(), 7, "one try and three retries");
    assert_eq!(stat(&proxy, "cluster.backend.upstream_rq_retry").await, Some(5));
    within(proxy.stop()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn time_is_limited_for_a_request_and_for_a_try() {
    let app = application(|_| async {
        tokio::time::sleep(Duration::from_secs(30)).await;
        answer(200, "late")
    })
    .await;
    let routes = "{match: {prefix: /try}, route: {cluster: backend, timeout: 5s, retry_policy: {retry_on: gateway-error, num_retries: 1, per_try_timeout: 0.1s}}},
        {match: {prefix: /}, route: {cluster: backend, timeout: 0.2s}}";
    let (proxy, front) = Front::to(app.address).routes(routes).start().await;
    let got = get(front, "/").await;
    assert_eq!((got.status, got.body.as_str()), (504, "upstream request timeout"));
    assert_eq!(get(front, "/try").await.status, 504);
    assert_eq!(app.requests(), 3, "one, then two tries");
    within(proxy.stop()).await;
}

/// BX11.
#[tokio::test(flavor = "multi_thread")]
async fn a_pooled_connection_that_died_costs_no_request() {
    // An application that closes every connection a moment after its answer, without saying so.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                let read = stream.read(&mut buffer).await.unwrap_or(0);
                if read > 0 {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                }
            });
        }
    });
    let (proxy, front) = Front::to(address).start().await;
    for round in 0..50 {
        let got = send(front, request_of(Method::POST, "/", "x")).await;
        assert_eq!((got.status, got.body.as_str()), (200, "ok"), "round {round}");
    }
    within(proxy.stop()).await;
}

/// BX11: how long an application keeps a connection is learned from its answers. One that keeps it no longer than the answer is never sent
/// a second request on it.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_not_used_longer_than_its_server_keeps_it() {
    for (keep_alive, reused) in [("timeout=0", false), ("timeout=60, max=1000", true), ("max=9", true)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let counted = accepted.clone();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                counted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    let mut buffer = [0; 4096];
                    while stream.read(&mut buffer).await.unwrap_or(0) > 0 {
                        let answer =
                            format!("HTTP/1.1 200 OK\r\nkeep-alive: {keep_alive}\r\ncontent-length: 2\r\n\r\nok");
                        stream.write_all(answer.as_bytes()).await.unwrap();
                    }
                });
            }
        });
        let proxy = proxy_with(&Front::to(address).yaml(), 1).await;
        let front = proxy.listener_addr("front").unwrap();
        for _ in 0..5 {
            assert_eq!(send(front, request_of(Method::GET, "/", "")).await.status, 200);
        }
        assert_eq!(accepted.load(Ordering::SeqCst) < 5, reused, "{keep_alive}");
        within(proxy.stop()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn header_case_and_trailers_pass() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let told = told.clone();
            tokio::spawn(async move {
                let mut buffer = vec![0; 4096];
                let read = stream.read(&mut buffer).await.unwrap();
                told.send(String::from_utf8_lossy(&buffer[..read]).into_owned()).unwrap();
                let answer = b"HTTP/1.1 200 OK\r\nX-MiXeD: 1\r\nTrailer: X-After\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-After: end\r\n\r\n";
                stream.write_all(answer).await.unwrap();
            });
        }
    });
    let (proxy, front) = Front::to(address).start().await;
    let got = raw(front, b"GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nX-FooBar: 1\r\n\r\n").await;
    let mut client = http2(front).await;
    let request = Request::get(format!("http://{front}/")).header("te", "trailers").body(full("")).unwrap();
    let two = collect(client.send_request(request).await.unwrap()).await;
    assert_eq!(two.trailers.unwrap()["x-after"], "end");
    let seen = heard.recv().await.unwrap();
    assert!(seen.contains("X-FooBar: 1"), "{seen}");
    assert!(got.contains("X-MiXeD: 1"), "{got}");
    assert!(got.to_ascii_lowercase().contains("x-after: end"), "{got}");
    within(proxy.stop()).await;
}

/// BX14.
#[tokio::test(flavor = "multi_thread")]
async fn ambiguous_requests_are_refused() {
    let app = says("ok").await;
    let (proxy, front) = Front::to(app.address).start().await;
    for payload in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\nhello",
        "GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n",
    ] {
        let got = raw(front, payload.as_bytes()).await;
        assert!(
            got.is_empty() || got.starts_with("HTTP/1.1 400") || got.starts_with("HTTP/1.0 400"),
            "{payload:?}: {got:?}"
        );
    }
    assert_eq!(app.requests(), 0);
    // Two ways to tell the length: one is taken, the other is gone, and nothing after it on this connection is read.
    let both = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let got = raw(front, both).await;
    assert_eq!(got.matches("HTTP/1.1").count(), 1, "{got}");
    assert!(got.contains("connection: close"), "{got}");
    assert_eq!(app.requests(), 1);
    within(proxy.stop()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_finishes_what_is_under_way() {
    let (app, gate) = crate::limits::held().await;
    let (proxy, front) = Front::to(app.address).start().await;
    let one = tokio::spawn(async move { get(front, "/").await });
    let mut two = http2(front).await;
    let two = two.send_request(Request::get(format!("http://{front}/")).body(full("")).unwrap());
    let two = tokio::spawn(async move { collect(two.await.unwrap()).await });
    eventually("both are under way", async || app.requests() == 2).await;
    let drained = async {
        let left = proxy.drain(Duration::from_secs(20)).await;
        assert_eq!(left, 0);
    };
    let opened = async {
        eventually("no new connections", async || TcpStream::connect(front).await.is_err()).await;
        gate.add_permits(2);
    };
    within(async { tokio::join!(drained, opened) }).await;
    let one = one.await.unwrap();
    assert_eq!((one.status, one.body.as_str()), (200, "ok"));
    assert_eq!(one.headers["connection"], "close");
    assert_eq!(two.await.unwrap().body, "ok");
    within(proxy.stop()).await;
}

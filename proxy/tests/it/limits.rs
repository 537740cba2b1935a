//! Circuit breakers, outlier ejection, time limits.

use std::sync::Arc;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::support::*;

/// An application that answers only when it is let.
pub async fn held() -> (Application, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let inside = gate.clone();
    let app = application(move |_| {
        let gate = inside.clone();
        async move {
            gate.acquire().await.unwrap().forget();
            answer(200, "ok")
        }
    })
    .await;
    (app, gate)
}

async fn one_worker(yaml: &str) -> mesh_proxy::app::Proxy {
    let bootstrap = mesh_proxy::bootstrap::Bootstrap::from_yaml(yaml).unwrap();
    mesh_proxy::app::Proxy::start(bootstrap, mesh_proxy::app::Options { workers: 1 }).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_beyond_the_limit_are_refused_at_once() {
    let (app, gate) = held().await;
    let limits = ", circuit_breakers: {thresholds: [{max_requests: 2}]}";
    let (proxy, front) = Front::to(app.address).clusters(&cluster("backend", &[app.address], limits)).start().await;
    let waiting: Vec<_> = (0..2).map(|_| tokio::spawn(async move { get(front, "/").await.status })).collect();
    eventually("two are under way", async || app.requests() == 2).await;
    let refused = get(front, "/").await;
    assert_eq!((refused.status, &refused.headers["x-envoy-overloaded"]), (503, &"true".parse().unwrap()));
    assert!(refused.body.contains("overflow"), "{}", refused.body);
    gate.add_permits(10);
    for one in waiting {
        assert_eq!(within(one).await.unwrap(), 200);
    }
    assert_eq!(get(front, "/").await.status, 200);
    assert_eq!(stat(&proxy, "cluster.backend.upstream_rq_pending_overflow").await, Some(1));
    within(proxy.stop()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_wait_for_a_connection_as_many_as_may() {
    let (app, gate) = held().await;
    let limits = ", circuit_breakers: {thresholds: [{max_connections: 1, max_pending_requests: 1}]}";
    let proxy = one_worker(&Front::to(app.address).clusters(&cluster("backend", &[app.address], limits)).yaml()).await;
    let front = proxy.listener_addr("front").unwrap();
    let first = tokio::spawn(async move { get(front, "/").await.status });
    eventually("one is under way", async || app.requests() == 1).await;
    let second = tokio::spawn(async move { get(front, "/").await.status });
    eventually("one waits", async || stat(&proxy, "cluster.backend.upstream_rq_pending_active").await == Some(1)).await;
    assert_eq!(get(front, "/").await.status, 503, "one is served, one waits, there is no room for a third");
    gate.add_permits(2);
    assert_eq!((within(first).await.unwrap(), within(second).await.unwrap()), (200, 200));
    assert_eq!(app.connections(), 1);
    within(proxy.stop()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_fails_is_left_out() {
    let good = says("good").await;
    let bad = application(|_| async { answer(500, "bad") }).await;
    let outlier = ", lb_policy: ROUND_ROBIN, outlier_detection: {consecutive_5xx: 3, base_ejection_time: 60s, max_ejection_percent: 50}";
    let clusters = cluster("backend", &[good.address, bad.address], outlier);
    let (proxy, front) = Front::to(good.address).clusters(&clusters).start().await;
    let mut failures = 0;
    for _ in 0..40 {
        failures += usize::from(get(front, "/").await.status == 500);
    }
    assert_eq!(failures, 3);
    assert_eq!(stat(&proxy, "cluster.backend.outlier_detection.ejections_active").await, Some(1));
    let shown = get(proxy.admin_addr().unwrap(), "/clusters").await.body;
    assert!(shown.contains(&format!("backend::{}::health_flags::/failed_outlier_check", bad.address)), "{shown}");
    within(proxy.stop()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_senders_and_long_streams_are_ended() {
    let (app, _gate) = held().await;
    let front = Front::to(app.address).manager("request_timeout: 0.2s,");
    let (proxy, address) = front.start().await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf").await.unwrap();
    let mut answer = vec![0; 64];
    let read = within(tokio::io::AsyncReadExt::read(&mut stream, &mut answer)).await.unwrap();
    let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    within(proxy.stop()).await;

    let routes = "{match: {prefix: /}, route: {cluster: backend, timeout: 0s, max_stream_duration: {max_stream_duration: 0.2s}}}";
    let (proxy, address) = Front::to(app.address).routes(routes).start().await;
    let got = get(address, "/").await;
    assert_eq!((got.status, got.body.as_str()), (504, "downstream duration timeout"));
    within(proxy.stop()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_upload_is_not_the_responses_time() {
    let app = application(|request| async move {
        if request.uri().path() == "/never" {
            std::future::pending::<()>().await;
        }
        let body = http_body_util::BodyExt::collect(request.into_body()).await.unwrap().to_bytes();
        answer(200, body)
    })
    .await;
    let routes = "{match: {prefix: /}, route: {cluster: backend, timeout: 0.5s}}";
    let (proxy, front) = Front::to(app.address).routes(routes).start().await;
    let mut stream = TcpStream::connect(front).await.unwrap();
    stream.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 6\r\n\r\n").await.unwrap();
    stream.write_all(b"uploa").await.unwrap();
    eventually("the upload is under way", async || app.requests() == 1).await;
    // Another request, made later, has had the route's time by now; the upload's begins when everything has been sent.
    assert_eq!(get(front, "/never").await.status, 504);
    stream.write_all(b"d").await.unwrap();
    let mut answer = String::new();
    within(tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("upload"), "{answer}");
    within(proxy.stop()).await;
}

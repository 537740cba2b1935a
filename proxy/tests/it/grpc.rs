//! gRPC as clients use it: trailers, streams in both directions, errors of the proxy in gRPC's own form, deadlines.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::support::*;

/// Echoes every frame, then answers with trailers.
pub async fn echo() -> Application {
    application(|request| async move {
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut body = request.into_body();
            while let Some(Ok(frame)) = body.frame().await {
                if let Ok(data) = frame.into_data() {
                    let _ = sender.send(Ok(Frame::data(data)));
                }
            }
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            trailers.insert("x-end", "yes".parse().unwrap());
            let _ = sender.send(Ok(Frame::trailers(trailers)));
        });
        let mut response = Response::new(BodyExt::boxed(StreamBody::new(UnboundedReceiverStream::new(receiver))));
        response.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
        response
    })
    .await
}

/// A call whose messages are `body`.
pub fn grpc(front: std::net::SocketAddr, body: AnyBody) -> Request<AnyBody> {
    Request::post(format!("http://{front}/pkg.Service/Method"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)
        .unwrap()
}

/// A message with its prefix.
pub fn message(text: &str) -> Bytes {
    let mut bytes = vec![0];
    bytes.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
    bytes.extend(text.as_bytes());
    bytes.into()
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_flow_both_ways_and_trailers_arrive() {
    let app = echo().await;
    let (proxy, front) = Front::to(app.address).clusters(&cluster("backend", &[app.address], HTTP2)).start().await;
    let mut client = http2(front).await;
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    let body: AnyBody = BodyExt::boxed(StreamBody::new(UnboundedReceiverStream::new(receiver)));
    let response = within(client.send_request(grpc(front, body))).await.unwrap();
    assert_eq!(response.status(), 200);
    let mut answers = response.into_body();
    // Each message comes back before the next is sent: nothing on the way waits for the end.
    for text in ["one", "two", "three"] {
        sender.send(Ok(Frame::data(message(text)))).unwrap();
        let frame = within(answers.frame()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), message(text));
    }
    drop(sender);
    let trailers = within(answers.frame()).await.unwrap().unwrap().into_trailers().unwrap();
    assert_eq!((&trailers["grpc-status"], &trailers["x-end"]), (&"0".parse().unwrap(), &"yes".parse().unwrap()));
    within(proxy.stop()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_the_proxy_speak_grpc() {
    let app = echo().await;
    let routes = "{match: {prefix: /pkg.Service}, route: {cluster: nowhere}}";
    let (proxy, front) = Front::to(app.address).routes(routes).start().await;
    let mut client = http2(front).await;
    let got = collect(within(client.send_request(grpc(front, full("")))).await.unwrap()).await;
    assert_eq!((got.status, &got.headers["grpc-status"]), (200, &"14".parse().unwrap()));
    within(proxy.stop()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clients_deadline_holds_where_the_route_lets_it() {
    let app = application(|_| async {
        tokio::time::sleep(Duration::from_secs(30)).await;
        answer(200, "")
    })
    .await;
    let routes = "{match: {prefix: /}, route: {cluster: backend, timeout: 0s, max_stream_duration: {grpc_timeout_header_max: 0s}}}";
    let (proxy, front) =
        Front::to(app.address).routes(routes).clusters(&cluster("backend", &[app.address], HTTP2)).start().await;
    let mut client = http2(front).await;
    let mut request = grpc(front, full(""));
    request.headers_mut().insert("grpc-timeout", "150m".parse().unwrap());
    let got = collect(within(client.send_request(request)).await.unwrap()).await;
    assert_eq!(got.headers["grpc-status"], "4");
    within(proxy.stop()).await;
}

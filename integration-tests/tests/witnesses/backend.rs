//! Applications: HTTP/1.1 and HTTP/2 without TLS on one port, and gRPC by hand on the same. The server ends with its value.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;

/// A running application.
#[derive(Debug)]
pub struct Backend {
    address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Backend {
    /// Answers `/` with its name, `/headers` with the request's protocol and headers, and gRPC calls with its name: once, or as often as the
    /// first byte of the request says on a path that ends in `Stream`.
    pub async fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let service = hyper::service::service_fn(move |request| answer(name, request));
                connections.spawn(async move {
                    let server = auto::Builder::new(TokioExecutor::new());
                    // A client that goes away is none of the application's business.
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, task }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }
}

type Answer = http::Response<BoxBody<Bytes, Infallible>>;

async fn answer(name: &'static str, request: http::Request<Incoming>) -> Result<Answer, Infallible> {
    let grpc = request.headers().get("content-type").is_some_and(|kind| kind == "application/grpc");
    if grpc {
        return Ok(call(name, request).await);
    }
    let body = match request.uri().path() {
        "/headers" => {
            let headers = request.headers().iter().map(|(key, value)| format!("{key}: {}\n", value.to_str().unwrap()));
            format!("{:?}\n{}", request.version(), headers.collect::<String>())
        }
        _ => name.to_owned(),
    };
    Ok(http::Response::new(Full::new(Bytes::from(body)).boxed()))
}

async fn call(name: &str, request: http::Request<Incoming>) -> Answer {
    let many = request.uri().path().ends_with("Stream");
    let message = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let count = if many { message.get(5).copied().unwrap_or(1) } else { 1 };
    let mut one = BytesMut::new();
    one.put_u8(0);
    one.put_u32(u32::try_from(name.len()).unwrap());
    one.put_slice(name.as_bytes());
    let one = one.freeze();
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    let frames = (0..count).map(move |_| Ok(Frame::data(one.clone())));
    let frames = frames.chain([Ok(Frame::trailers(trailers))]);
    let body = BodyExt::boxed(StreamBody::new(tokio_stream::iter(frames)));
    http::Response::builder().header("content-type", "application/grpc").body(body).unwrap()
}

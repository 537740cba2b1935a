//! The application's probes and hooks, asked from inside of the pod on the kubelet's behalf (AG3).
//!
//! The kubelet has no certificate of the mesh, and what it opens would be captured; so injection sends its probes to the agent's port, and this asks
//! the application what the kubelet would have asked. Beside the request path, on the control thread; [`ask`] speaks the protocols.

mod ask;
mod verify;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use mesh_proto::probe::{Action, Actions, HEALTH, LIFECYCLE};

/// What probes are given that name no timeout, as in Kubernetes.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Hooks have no timeout of their own: the kubelet ends them with the pod's grace period. This is for a kubelet that is gone.
const HOOK_TIMEOUT: Duration = Duration::from_secs(3600);

/// The probes and hooks of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probes {
    actions: Actions,
    /// The pod's address, at which the kubelet would ask.
    address: IpAddr,
}

impl Default for Probes {
    fn default() -> Self {
        Self { actions: Actions::new(), address: Ipv4Addr::LOCALHOST.into() }
    }
}

/// What the application answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// 200 to 399 if all is well.
    pub status: StatusCode,
    /// For people.
    pub body: Vec<u8>,
}

impl Answer {
    fn new(status: StatusCode, body: impl Into<Vec<u8>>) -> Self {
        Self { status, body: body.into() }
    }
}

impl Probes {
    /// Reads [`mesh_proto::probe::VARIABLE`].
    ///
    /// # Errors
    /// With the path and what is wrong.
    pub fn parse(json: &str, address: IpAddr) -> Result<Self, String> {
        let actions: Actions = serde_json::from_str(json).map_err(|error| error.to_string())?;
        for (path, action) in &actions {
            let ways = [action.http_get.is_some(), action.tcp_socket.is_some(), action.grpc.is_some()];
            if ways.iter().filter(|way| **way).count() != 1 {
                return Err(format!("{path}: needs exactly one of httpGet, tcpSocket, grpc"));
            }
            if let Some(get) = &action.http_get
                && !["", "HTTP", "HTTPS"].contains(&get.scheme.as_str())
            {
                return Err(format!("{path}: httpGet.scheme: `{}` is neither HTTP nor HTTPS", get.scheme));
            }
        }
        Ok(Self { actions, address })
    }

    /// True for paths that are probes and hooks.
    pub fn is_path(path: &str) -> bool {
        path.starts_with(HEALTH) || path.starts_with(LIFECYCLE)
    }

    /// Asks the application what `path` stands for. `headers` are the kubelet's.
    pub async fn answer(&self, path: &str, headers: &HeaderMap) -> Answer {
        let Some(action) = self.actions.get(path) else {
            return Answer::new(StatusCode::NOT_FOUND, format!("no probe was rewritten to {path}\n"));
        };
        let patience = match action.timeout_seconds {
            Some(seconds) => Duration::from_secs(u64::from(seconds.max(1))),
            None if path.starts_with(LIFECYCLE) => HOOK_TIMEOUT,
            None => TIMEOUT,
        };
        match tokio::time::timeout(patience, self.ask(action, headers)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => Answer::new(StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}\n")),
            Err(_) => {
                let text = format!("the application did not answer within {} s\n", patience.as_secs());
                Answer::new(StatusCode::GATEWAY_TIMEOUT, text)
            }
        }
    }

    async fn ask(&self, action: &Action, headers: &HeaderMap) -> anyhow::Result<Answer> {
        match action {
            Action { http_get: Some(get), .. } => ask::http(self.address, get, headers).await,
            Action { tcp_socket: Some(socket), .. } => ask::tcp(self.address, socket.port).await,
            Action { grpc: Some(grpc), .. } => ask::grpc(self.address, grpc).await,
            // `parse` has seen to it.
            _ => Ok(Answer::new(StatusCode::NOT_FOUND, "nothing to ask\n")),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// An application that answers every connection with `reply`, and hands out what it was asked.
    async fn application(reply: &'static str) -> (u16, tokio::sync::mpsc::UnboundedReceiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut bytes = vec![0; 4096];
                let read = stream.read(&mut bytes).await.unwrap_or(0);
                let _ = sender.send(String::from_utf8_lossy(&bytes[..read]).into_owned());
                let _ = stream.write_all(reply.as_bytes()).await;
            }
        });
        (port, receiver)
    }

    async fn ask(action: String) -> Answer {
        let probes =
            Probes::parse(&format!("{{\"/app-health/a/livez\": {action}}}"), Ipv4Addr::LOCALHOST.into()).unwrap();
        let headers = HeaderMap::from_iter([(http::header::USER_AGENT, "kube-probe/1.34".parse().unwrap())]);
        probes.answer("/app-health/a/livez", &headers).await
    }

    #[tokio::test]
    async fn an_http_probe_asks_what_the_kubelet_would() {
        let (port, mut asked) = application("HTTP/1.1 204 No Content\r\nx: y\r\n\r\n").await;
        let headers = "[{\"name\": \"X-Probe\", \"value\": \"1\"}, {\"name\": \"host\", \"value\": \"app.local\"}]";
        let answer =
            ask(format!("{{\"httpGet\": {{\"path\": \"/ready?a=b\", \"port\": {port}, \"httpHeaders\": {headers}}}}}"))
                .await;
        assert_eq!(answer.status, StatusCode::NO_CONTENT);
        let request = asked.recv().await.unwrap();
        assert!(request.starts_with("GET /ready?a=b HTTP/1.1\r\n"), "{request}");
        for header in ["host: app.local\r\n", "x-probe: 1\r\n", "user-agent: kube-probe/1.34\r\n"] {
            assert!(request.contains(header), "{header} in {request}");
        }
    }

    #[tokio::test]
    async fn statuses_and_redirects_are_judged_as_the_kubelet_judges_them() {
        for (reply, status) in [
            ("HTTP/1.1 500 Oh\r\ncontent-length: 3\r\n\r\nbad", 500),
            ("HTTP/1.1 302 Found\r\nlocation: https://elsewhere.example/\r\ncontent-length: 0\r\n\r\n", 200),
            // It would go round for ever.
            ("HTTP/1.1 302 Found\r\nlocation: /again\r\ncontent-length: 0\r\nconnection: close\r\n\r\n", 503),
            ("nonsense", 503),
        ] {
            let (port, _asked) = application(reply).await;
            let answer = ask(format!("{{\"httpGet\": {{\"port\": {port}}}, \"timeoutSeconds\": 5}}")).await;
            assert_eq!(answer.status.as_u16(), status, "{reply}: {}", String::from_utf8_lossy(&answer.body));
        }
    }

    #[tokio::test]
    async fn an_https_probe_takes_any_certificate() {
        let key = rcgen::generate_simple_self_signed(vec!["nobody".to_owned()]).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![key.cert.der().clone()],
                rustls_pki_types::PrivatePkcs8KeyDer::from(key.signing_key.serialize_der()).into(),
            )
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = acceptor.accept(stream).await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            let _ = stream.flush().await;
        });
        let answer =
            ask(format!("{{\"httpGet\": {{\"port\": {port}, \"scheme\": \"HTTPS\"}}, \"timeoutSeconds\": 5}}")).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", String::from_utf8_lossy(&answer.body));
    }

    #[tokio::test]
    async fn tcp_and_silence() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(ask(format!("{{\"tcpSocket\": {{\"port\": {port}}}}}")).await.status, StatusCode::OK);
        // Connections wait in the queue of the socket, which nobody accepts.
        let silent = ask(format!("{{\"httpGet\": {{\"port\": {port}}}, \"timeoutSeconds\": 1}}")).await;
        assert_eq!(silent.status, StatusCode::GATEWAY_TIMEOUT);
        drop(listener);
        assert_eq!(
            ask(format!("{{\"tcpSocket\": {{\"port\": {port}}}}}")).await.status,
            StatusCode::SERVICE_UNAVAILABLE
        );
    }

    #[tokio::test]
    async fn a_grpc_probe_asks_the_health_service() {
        // A server of HTTP/2 that knows no service at all: an answer of gRPC that is not SERVING.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let service = hyper::service::service_fn(async |request: http::Request<hyper::body::Incoming>| {
                use http_body_util::BodyExt;
                let path = request.uri().path().to_owned();
                let body = request.into_body().collect().await.unwrap().to_bytes();
                // Field 1 of the request is the service; field 1 of the answer is SERVING (1).
                let known = path == "/grpc.health.v1.Health/Check" && body.ends_with(b"db");
                let frames: &[u8] = if known { b"\0\0\0\0\x02\x08\x01" } else { b"\0\0\0\0\x02\x08\x02" };
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", "0".parse().unwrap());
                let body = http_body_util::Full::new(bytes::Bytes::from_static(frames))
                    .with_trailers(std::future::ready(Some(Ok::<_, std::convert::Infallible>(trailers))));
                let response = http::Response::builder().header("content-type", "application/grpc").body(body);
                Ok::<_, std::convert::Infallible>(response.unwrap())
            });
            while let Ok((stream, _)) = listener.accept().await {
                let executor = hyper_util::rt::TokioExecutor::new();
                let io = hyper_util::rt::TokioIo::new(stream);
                tokio::spawn(hyper::server::conn::http2::Builder::new(executor).serve_connection(io, service));
            }
        });
        for (service, status) in [("db", 200), ("other", 503)] {
            let action =
                format!("{{\"grpc\": {{\"port\": {port}, \"service\": \"{service}\"}}, \"timeoutSeconds\": 5}}");
            let answer = ask(action).await;
            assert_eq!(answer.status.as_u16(), status, "{service}: {}", String::from_utf8_lossy(&answer.body));
        }
    }

    #[tokio::test]
    async fn what_was_not_rewritten_is_not_found_and_what_is_malformed_refused() {
        let answer = Probes::default().answer("/app-health/x/livez", &HeaderMap::new()).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND);
        for (json, reason) in [
            ("[]", "expected a map"),
            ("{\"/a\": {}}", "/a: needs exactly one of"),
            ("{\"/a\": {\"httpGet\": {\"port\": 1}, \"tcpSocket\": {\"port\": 1}}}", "/a: needs exactly one of"),
            ("{\"/a\": {\"httpGet\": {\"port\": 1, \"scheme\": \"FTP\"}}}", "`FTP` is neither HTTP nor HTTPS"),
        ] {
            let error = Probes::parse(json, Ipv4Addr::LOCALHOST.into()).unwrap_err();
            assert!(error.contains(reason), "{json}: {error}");
        }
    }
}

//! The ADS client: one stream to the control plane, kept for as long as the proxy lives.
//!
//! Speaks both forms of the protocol ([`super::subscription`]) and hands what comes to the [`Publisher`]. A stream that breaks is opened
//! again after a jittered, growing pause; meanwhile the last configuration stays in use, and the new stream asks only
//! for what has changed since.

use std::sync::Arc;
use std::time::Duration;

use mesh_proto::names::{CONTROL_PLANE_HOST, SECRET_DEFAULT, SECRET_ROOT};
use mesh_proto::xds::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use mesh_proto::xds::{core, discovery};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue};
use tonic::transport::{Channel, Endpoint, Uri};

use super::kind::Kind;
use super::publisher::Publisher;
use super::state::{Origin, Refused, Update};
use super::subscription::{Accepted, Delta, Sotw};
use crate::Name;
use crate::balance::PickRequest;
use crate::connect::dial;
use crate::connect::io::{Shared, Stream};
use crate::identity::{Root, Token};
use crate::tls::secrets::Cell;
use crate::tls::{AlpnUse, ClientTls, Parameters, SecretStore};

/// Pauses between streams: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(25), Duration::from_secs(15));
/// For connecting, TLS included.
const CONNECT: Duration = Duration::from_secs(10);
/// HTTP/2 pings unless configured, Istio's: how often, and how long an answer may take.
pub const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));
/// Listeners are asked for when the clusters have come, or after this.
const CLUSTERS_FIRST: Duration = Duration::from_secs(15);

/// Form of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Only what changed is sent.
    Delta,
    /// Everything of a kind is sent each time.
    StateOfTheWorld,
}

/// Where the control plane is.
#[derive(Debug, Clone)]
pub enum Target {
    /// A cluster of the bootstrap.
    Cluster(Name),
    /// An address.
    Address {
        /// `HOST:PORT`.
        address: String,
        /// TLS, or plaintext when absent.
        tls: Option<ServerTrust>,
        /// What is shown while there is no certificate.
        token: Token,
    },
}

/// How the control plane's server is known.
#[derive(Debug, Clone)]
pub struct ServerTrust {
    /// Whom it must be signed by; the mesh's own roots when [`Root::None`].
    pub root: Root,
    /// The name in its certificate, unless `istiod.istio-system.svc`.
    pub server_name: Option<String>,
}

/// The control plane and how it is spoken to.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where.
    pub target: Target,
    /// Form of the protocol.
    pub protocol: Protocol,
    /// gRPC metadata of the stream.
    pub metadata: Vec<(String, String)>,
    /// `:authority`, unless the target's own.
    pub authority: Option<String>,
    /// Kinds that come from it.
    pub kinds: Vec<Kind>,
    /// HTTP/2 pings: how often, and how long an answer may take until the connection is given up. A cluster's own
    /// `connection_keepalive` comes before it.
    pub keepalive: (Duration, Duration),
}

/// Why a stream could not be opened or broke.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The bootstrap has no such cluster, or it has no endpoint.
    #[error("control plane {0}: {1}")]
    Target(String, String),
    /// Connecting.
    #[error("control plane {0} cannot be reached: {1}")]
    Connect(String, String),
    /// Not in time.
    #[error("control plane {0} did not answer in time")]
    Timeout(String),
    /// gRPC metadata that is none.
    #[error("`{0}` is not gRPC metadata")]
    Metadata(String),
    /// The stream.
    #[error("the stream ended: {0}")]
    Stream(String),
}

/// Keeps a stream until `stop`.
pub async fn run(
    settings: Settings,
    node: core::Node,
    publisher: Arc<Publisher>,
    secrets: Arc<SecretStore>,
    stop: CancellationToken,
) {
    let mut client = Client { settings, node, publisher, secrets, accepted: Accepted::new(), clusters_came: false };
    let mut attempt = 0_u32;
    loop {
        let mut answered = false;
        let ended = tokio::select! {
            () = stop.cancelled() => return,
            ended = client.stream(&mut answered) => ended,
        };
        client.publisher.connected(false);
        if answered {
            attempt = 0;
        }
        let pause = pause(attempt, fastrand::f64());
        attempt = attempt.saturating_add(1);
        if let Err(error) = ended {
            tracing::warn!(%error, pause_ms = pause.as_millis() as u64, "no configuration stream");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// The pause after so many streams that failed in a row; `random` from 0 to 1 keeps proxies from coming back all at once.
fn pause(failed: u32, random: f64) -> Duration {
    let ceiling = PAUSES.0.saturating_mul(1 << failed.min(16)).min(PAUSES.1);
    ceiling.mul_f64(0.5 + random / 2.0)
}

struct Client {
    settings: Settings,
    node: core::Node,
    publisher: Arc<Publisher>,
    secrets: Arc<SecretStore>,
    accepted: Accepted,
    clusters_came: bool,
}

impl Client {
    /// One stream, to its end.
    async fn stream(&mut self, answered: &mut bool) -> Result<(), ClientError> {
        let connected = timeout(CONNECT, self.connect()).await;
        let (channel, bearer) = connected.map_err(|_| ClientError::Timeout(self.name()))??;
        let mut metadata = tonic::metadata::MetadataMap::new();
        for (name, value) in &self.settings.metadata {
            let wrong = || ClientError::Metadata(name.clone());
            let key = AsciiMetadataKey::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
            metadata.append(key, AsciiMetadataValue::try_from(value).map_err(|_| wrong())?);
        }
        if let Some(token) = bearer {
            let value = AsciiMetadataValue::try_from(format!("Bearer {token}"));
            let mut value = value.map_err(|_| ClientError::Metadata("authorization".to_owned()))?;
            value.set_sensitive(true);
            metadata.insert("authorization", value);
        }
        let mut wire = self.open(channel, metadata).await?;
        self.publisher.connected(true);
        let mut changed = self.publisher.changed();
        let gate = Instant::now() + CLUSTERS_FIRST;
        loop {
            let waiting = !self.clusters_came;
            tokio::select! {
                biased;
                message = wire.next() => {
                    let message = message?.ok_or_else(|| ClientError::Stream("closed by the control plane".into()))?;
                    *answered = true;
                    self.take(&mut wire, message);
                }
                _ = changed.changed() => {}
                () = tokio::time::sleep_until(gate), if waiting => self.clusters_came = true,
            }
            wire.ask(&self.publisher, &self.kinds(), &self.accepted);
        }
    }

    fn name(&self) -> String {
        match &self.settings.target {
            Target::Cluster(name) => name.to_string(),
            Target::Address { address, .. } => address.clone(),
        }
    }

    /// Kinds to ask for now: listeners only after the clusters, so that no listener names one that is still to come.
    fn kinds(&self) -> Vec<Kind> {
        let hold = !self.clusters_came && self.settings.kinds.contains(&Kind::Cluster);
        self.settings.kinds.iter().copied().filter(|kind| !(hold && *kind == Kind::Listener)).collect()
    }

    fn take(&mut self, wire: &mut Wire, message: Message) {
        let Some((kind, update)) = wire.open(&message) else {
            tracing::debug!("a response of a kind that nobody asked for");
            return;
        };
        let refused = self.publisher.update(kind, update, Origin::Dynamic);
        self.clusters_came |= kind == Kind::Cluster;
        wire.answer(kind, &message, &refused, &mut self.accepted);
    }

    async fn open(&self, channel: Channel, metadata: tonic::metadata::MetadataMap) -> Result<Wire, ClientError> {
        let mut client = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(usize::MAX);
        let failed = |status: tonic::Status| ClientError::Stream(describe(&status));
        // The first requests must be on their way before the answer's head is awaited: servers wait for them.
        match self.settings.protocol {
            Protocol::Delta => {
                let (requests, receiver) = unbounded_channel();
                let mut machine = Delta::new(self.node.clone());
                for request in machine.ask(&self.publisher.state(), &self.kinds()) {
                    let _ = requests.send(request);
                }
                let mut request = tonic::Request::new(UnboundedReceiverStream::new(receiver));
                *request.metadata_mut() = metadata;
                let responses = client.delta_aggregated_resources(request).await.map_err(failed)?.into_inner();
                Ok(Wire::Delta { machine, requests, responses })
            }
            Protocol::StateOfTheWorld => {
                let (requests, receiver) = unbounded_channel();
                let mut machine = Sotw::new(self.node.clone());
                for request in machine.ask(&self.publisher.state(), &self.kinds(), &self.accepted) {
                    let _ = requests.send(request);
                }
                let mut request = tonic::Request::new(UnboundedReceiverStream::new(receiver));
                *request.metadata_mut() = metadata;
                let responses = client.stream_aggregated_resources(request).await.map_err(failed)?.into_inner();
                Ok(Wire::Sotw { machine, requests, responses })
            }
        }
    }

    /// A connection, and the token to show on it if there is no certificate.
    async fn connect(&self) -> Result<(Channel, Option<String>), ClientError> {
        let target = |error: String| ClientError::Target(self.name(), error);
        let mut keepalive = self.settings.keepalive;
        let (stream, origin, token) = match &self.settings.target {
            Target::Cluster(name) => {
                let cluster = self.publisher.state().cluster(name);
                let cluster = cluster.ok_or_else(|| target("is not a cluster of the bootstrap".into()))?;
                let picked = cluster
                    .pick(&PickRequest::default(), &mut fastrand::Rng::new())
                    .map_err(|error| target(error.to_string()))?;
                let raw = dial::raw(&cluster, picked.endpoint(), None, AlpnUse::Http2).await;
                let raw = raw.map_err(|error| ClientError::Connect(self.name(), error.to_string()))?;
                keepalive = cluster.config.http2_keepalive.unwrap_or(keepalive);
                (raw.stream, format!("http://{name}"), None)
            }
            Target::Address { address, tls, token } => self.dial(address, tls.as_ref(), token).await?,
        };
        let origin = match &self.settings.authority {
            Some(authority) => format!("http://{authority}"),
            None => origin,
        };
        let origin: Uri = origin.parse().map_err(|_| target(format!("`{origin}` is no authority")))?;
        let endpoint = Endpoint::from(origin)
            .http2_keep_alive_interval(keepalive.0)
            .keep_alive_timeout(keepalive.1)
            .keep_alive_while_idle(true);
        let once = parking_lot::Mutex::new(Some(stream));
        let connector = tower::service_fn(move |_: Uri| {
            let stream = once.lock().take();
            async move { stream.map(hyper_util::rt::TokioIo::new).ok_or_else(|| std::io::Error::other("used up")) }
        });
        let channel = endpoint.connect_with_connector(connector).await;
        Ok((channel.map_err(|error| ClientError::Connect(self.name(), causes(&error)))?, token))
    }

    async fn dial(
        &self,
        address: &str,
        tls: Option<&ServerTrust>,
        token: &Token,
    ) -> Result<(Stream, String, Option<String>), ClientError> {
        let failed = |error: String| ClientError::Connect(address.to_owned(), error);
        let stream = TcpStream::connect(address).await.map_err(|error| failed(error.to_string()))?;
        crate::listener::socket::tune(&stream);
        let ip = stream.peer_addr().map_err(|error| failed(error.to_string()))?.ip();
        let shared = Shared(Arc::new(stream));
        let certificate = Some(self.secrets.certificate(SECRET_DEFAULT)).filter(|cell| cell.load().is_some());
        let read = |token: &Token| token.read().map_err(|error| failed(error.to_string()));
        let Some(trust) = tls else {
            // A token in plaintext stays on this machine; a control plane there may do without one.
            let token = if ip.is_loopback() { token.read().ok().flatten() } else { None };
            return Ok((Stream::Plain(shared), format!("http://{address}"), token));
        };
        let root = match &trust.root {
            Root::None => self.secrets.trust(SECRET_ROOT),
            root => {
                let trust = root.and_mesh(&self.secrets).map_err(|error| failed(error.to_string()))?;
                Cell::fixed("root of the control plane", trust)
            }
        };
        let name = trust.server_name.as_deref().unwrap_or(CONTROL_PLANE_HOST);
        let token = if certificate.is_some() { None } else { read(token)? };
        let context = ClientTls {
            certificate,
            trust: Some(root),
            sans: Vec::new(),
            sni: Some(name.to_owned()),
            auto_sni: false,
            check_name: true,
            alpn: vec![b"h2".to_vec()],
            parameters: Parameters::default(),
            cache: Default::default(),
        };
        let shaken = context.connect(shared, None, ip, AlpnUse::Configured).await;
        let (stream, _) = shaken.map_err(|error| failed(error.to_string()))?;
        Ok((Stream::Tls(Box::new(stream)), format!("http://{name}"), token))
    }
}

/// A stream of either form.
enum Wire {
    Delta {
        machine: Delta,
        requests: UnboundedSender<discovery::DeltaDiscoveryRequest>,
        responses: tonic::Streaming<discovery::DeltaDiscoveryResponse>,
    },
    Sotw {
        machine: Sotw,
        requests: UnboundedSender<discovery::DiscoveryRequest>,
        responses: tonic::Streaming<discovery::DiscoveryResponse>,
    },
}

enum Message {
    Delta(discovery::DeltaDiscoveryResponse),
    Sotw(discovery::DiscoveryResponse),
}

impl Wire {
    async fn next(&mut self) -> Result<Option<Message>, ClientError> {
        let failed = |status: tonic::Status| ClientError::Stream(describe(&status));
        match self {
            Self::Delta { responses, .. } => Ok(responses.message().await.map_err(failed)?.map(Message::Delta)),
            Self::Sotw { responses, .. } => Ok(responses.message().await.map_err(failed)?.map(Message::Sotw)),
        }
    }

    /// Asks for what has come to be wanted. A receiver that is gone shows as the end of the responses.
    fn ask(&mut self, publisher: &Publisher, kinds: &[Kind], accepted: &Accepted) {
        match self {
            Self::Delta { machine, requests, .. } => {
                for request in machine.ask(&publisher.state(), kinds) {
                    let _ = requests.send(request);
                }
            }
            Self::Sotw { machine, requests, .. } => {
                for request in machine.ask(&publisher.state(), kinds, accepted) {
                    let _ = requests.send(request);
                }
            }
        }
    }

    fn open(&self, message: &Message) -> Option<(Kind, Update)> {
        match (self, message) {
            (Self::Delta { machine, .. }, Message::Delta(response)) => machine.open(response),
            (Self::Sotw { machine, .. }, Message::Sotw(response)) => machine.open(response),
            _ => None,
        }
    }

    fn answer(&mut self, kind: Kind, message: &Message, refused: &[Refused], accepted: &mut Accepted) {
        match (self, message) {
            (Self::Delta { machine, requests, .. }, Message::Delta(response)) => {
                let _ = requests.send(machine.answer(kind, &response.nonce, refused));
            }
            (Self::Sotw { machine, requests, .. }, Message::Sotw(response)) => {
                let _ = requests.send(machine.answer(kind, response, refused, accepted));
            }
            _ => {}
        }
    }
}

fn describe(status: &tonic::Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

/// An error with its causes: tonic's own says only "transport error".
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many streams have failed, and bounds of the pause in milliseconds.
    #[test]
    fn pauses_grow_are_spread_and_have_a_limit() {
        for (failed, least, most) in [
            (0, 12.5, 25.0),
            (1, 25.0, 50.0),
            (5, 400.0, 800.0),
            (9, 6400.0, 12800.0),
            (10, 7500.0, 15000.0),
            (99, 7500.0, 15000.0),
        ] {
            for (random, expected) in [(0.0, least), (1.0, most)] {
                let milliseconds = pause(failed, random).as_secs_f64() * 1000.0;
                assert!((milliseconds - expected).abs() < 0.001, "{failed}, {random}: {milliseconds}");
            }
        }
    }
}

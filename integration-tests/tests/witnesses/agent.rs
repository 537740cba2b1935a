//! What Istio's agent is to a stock Envoy: a server of secrets on a local socket, by the names that the control plane uses.

use std::path::Path;

use mesh_proto::xds::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse};
use mesh_proto::xds::secret_service::secret_discovery_service_server::{
    SecretDiscoveryService, SecretDiscoveryServiceServer,
};
use mesh_proto::xds::{core, pack, tls, type_url};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status, Streaming};

use crate::plane::Identity;

/// Serves `default` and `ROOTCA`, and the same in place of files that certificates are read from.
pub fn serve(socket: &Path, identity: Identity) -> tokio::task::JoinHandle<()> {
    let incoming = UnixListenerStream::new(UnixListener::bind(socket).unwrap());
    let service = SecretDiscoveryServiceServer::new(Agent { identity });
    tokio::spawn(async move {
        tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming).await.unwrap();
    })
}

#[derive(Debug, Clone)]
struct Agent {
    identity: Identity,
}

impl Agent {
    fn secret(&self, name: &str) -> tls::Secret {
        let text = |text: &str| {
            let specifier = core::data_source::Specifier::InlineString(text.to_owned());
            Some(core::DataSource { specifier: Some(specifier), ..Default::default() })
        };
        let secret = if name == "ROOTCA" || name.starts_with("file-root:") {
            tls::secret::Type::ValidationContext(tls::CertificateValidationContext {
                trusted_ca: text(&self.identity.roots),
                ..Default::default()
            })
        } else {
            tls::secret::Type::TlsCertificate(tls::TlsCertificate {
                certificate_chain: text(&self.identity.chain),
                private_key: text(&self.identity.key),
                ..Default::default()
            })
        };
        tls::Secret { name: name.to_owned(), r#type: Some(secret) }
    }
}

#[tonic::async_trait]
impl SecretDiscoveryService for Agent {
    type StreamSecretsStream = ReceiverStream<Result<DiscoveryResponse, Status>>;
    type DeltaSecretsStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        let (sender, receiver) = mpsc::channel(4);
        let (agent, mut requests) = (self.clone(), request.into_inner());
        tokio::spawn(async move {
            let mut served = Vec::new();
            while let Some(Ok(request)) = requests.next().await {
                // The same names again are an acknowledgement.
                if request.resource_names == served {
                    assert!(request.error_detail.is_none(), "{:?}", request.error_detail);
                    continue;
                }
                served = request.resource_names;
                let response = DiscoveryResponse {
                    version_info: "1".to_owned(),
                    resources: served.iter().map(|name| pack(&agent.secret(name))).collect(),
                    type_url: type_url::SECRET.to_owned(),
                    nonce: served.join(","),
                    ..Default::default()
                };
                if sender.send(Ok(response)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn delta_secrets(
        &self,
        _: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        Err(Status::unimplemented("the agent's secrets come whole"))
    }

    async fn fetch_secrets(&self, _: Request<DiscoveryRequest>) -> Result<Response<DiscoveryResponse>, Status> {
        Err(Status::unimplemented("the agent's secrets come by a stream"))
    }
}

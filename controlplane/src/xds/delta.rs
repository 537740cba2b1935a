//! The incremental protocol's messages.

use mesh_proto::xds::{core, discovery};
use tonic::Status;

use super::message::{Form, Message};
use super::server::{Protocol, control_plane};
use super::session::{Mode, Request, Response};

/// Incremental xDS.
#[derive(Debug)]
pub enum Delta {}

impl Protocol for Delta {
    type Request = discovery::DeltaDiscoveryRequest;
    const MODE: Mode = Mode::Delta;

    fn node(request: &Self::Request) -> Option<&core::Node> {
        request.node.as_ref()
    }

    fn type_url(request: &Self::Request) -> &str {
        &request.type_url
    }

    fn read(request: Self::Request) -> Request {
        Request {
            subscribe: request.resource_names_subscribe,
            unsubscribe: request.resource_names_unsubscribe,
            initial_versions: request.initial_resource_versions.into_iter().collect(),
            nonce: request.response_nonce,
            error: request.error_detail.map(|status| status.message),
        }
    }

    fn write(response: Response) -> Result<Message, Status> {
        let rest = discovery::DeltaDiscoveryResponse {
            system_version_info: response.version.to_string(),
            type_url: response.kind.type_url().to_owned(),
            removed_resources: response.removed.iter().map(ToString::to_string).collect(),
            nonce: response.nonce.to_string(),
            control_plane: control_plane(),
            ..Default::default()
        };
        Message::new(Form::Named, &rest, response.resources)
    }

    fn empty(type_url: &str, request: &Self::Request) -> Option<Result<Message, Status>> {
        // An answer to an answer would go on for ever.
        let asks = request.response_nonce.is_empty() || !request.resource_names_subscribe.is_empty();
        let rest = || discovery::DeltaDiscoveryResponse {
            type_url: type_url.to_owned(),
            removed_resources: request.resource_names_subscribe.iter().filter(|name| *name != "*").cloned().collect(),
            nonce: "none".to_owned(),
            control_plane: control_plane(),
            ..Default::default()
        };
        asks.then(|| Message::new(Form::Named, &rest(), Vec::new()))
    }
}

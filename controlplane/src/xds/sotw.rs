//! The state-of-the-world protocol's messages.

use mesh_proto::xds::{core, discovery};
use tonic::Status;

use super::message::{Form, Message};
use super::server::{Protocol, control_plane};
use super::session::{Mode, Request, Response};

/// State-of-the-world xDS.
#[derive(Debug)]
pub enum Sotw {}

impl Protocol for Sotw {
    type Request = discovery::DiscoveryRequest;
    const MODE: Mode = Mode::Sotw;

    fn node(request: &Self::Request) -> Option<&core::Node> {
        request.node.as_ref()
    }

    fn type_url(request: &Self::Request) -> &str {
        &request.type_url
    }

    fn read(request: Self::Request) -> Request {
        Request {
            subscribe: request.resource_names,
            nonce: request.response_nonce,
            error: request.error_detail.map(|status| status.message),
            ..Default::default()
        }
    }

    fn write(response: Response) -> Result<Message, Status> {
        let rest = discovery::DiscoveryResponse {
            version_info: response.version.to_string(),
            type_url: response.kind.type_url().to_owned(),
            nonce: response.nonce.to_string(),
            control_plane: control_plane(),
            ..Default::default()
        };
        Message::new(Form::Plain, &rest, response.resources)
    }

    fn empty(type_url: &str, request: &Self::Request) -> Option<Result<Message, Status>> {
        // An answer to an answer would go on for ever.
        let rest = || discovery::DiscoveryResponse {
            version_info: "0".to_owned(),
            type_url: type_url.to_owned(),
            nonce: "none".to_owned(),
            control_plane: control_plane(),
            ..Default::default()
        };
        request.response_nonce.is_empty().then(|| Message::new(Form::Plain, &rest(), Vec::new()))
    }
}

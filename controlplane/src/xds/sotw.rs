//! The state-of-the-world protocol's messages.

use mesh_proto::xds::{core, discovery};

use super::server::{Protocol, control_plane};
use super::session::{Mode, Request, Response};

/// State-of-the-world xDS.
#[derive(Debug)]
pub enum Sotw {}

impl Protocol for Sotw {
    type Request = discovery::DiscoveryRequest;
    type Response = discovery::DiscoveryResponse;
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

    fn write(response: Response) -> Self::Response {
        discovery::DiscoveryResponse {
            version_info: response.version.to_string(),
            resources: response.resources.iter().map(|one| one.any()).collect(),
            type_url: response.kind.type_url().to_owned(),
            nonce: response.nonce.to_string(),
            control_plane: control_plane(),
            ..Default::default()
        }
    }

    fn empty(type_url: &str, request: &Self::Request) -> Option<Self::Response> {
        // An answer to an answer would go on for ever.
        request.response_nonce.is_empty().then(|| discovery::DiscoveryResponse {
            version_info: "0".to_owned(),
            type_url: type_url.to_owned(),
            nonce: "none".to_owned(),
            control_plane: control_plane(),
            ..Default::default()
        })
    }
}

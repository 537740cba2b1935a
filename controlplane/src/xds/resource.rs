//! What the server knows of translation's types: short names, which have a wildcard, and resources as `Any`.

use mesh_proto::xds::wkt;

pub use crate::translate::{Names, Resource, ResourceType};

impl ResourceType {
    /// The short name in metrics and status: `CDS`.
    pub fn short(self) -> &'static str {
        match self {
            Self::Cluster => "CDS",
            Self::Endpoint => "EDS",
            Self::Listener => "LDS",
            Self::Route => "RDS",
            Self::Secret => "SDS",
            Self::NameTable => "NDS",
        }
    }

    /// A first request without names asks for all of it.
    pub fn is_wildcard(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener | Self::NameTable)
    }
}

impl Resource {
    /// As it goes into a response.
    pub fn any(&self) -> wkt::Any {
        wkt::Any { type_url: self.type_url.to_owned(), value: self.body.to_vec() }
    }
}

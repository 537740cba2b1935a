//! What the server knows of translation's types: short names and which have a wildcard.

pub use crate::translate::{Names, Resource, ResourceType};

impl ResourceType {
    /// The short name in metrics and status: `CDS`.
    pub fn short(self) -> &'static str {
        match self {
            Self::Cluster => "CDS",
            Self::Endpoint => "EDS",
            Self::Listener => "LDS",
            Self::Route => "RDS",
            Self::VirtualHost => "VHDS",
            Self::Secret => "SDS",
            Self::NameTable => "NDS",
        }
    }

    /// A first request without names asks for all of it.
    pub fn is_wildcard(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener | Self::NameTable)
    }
}

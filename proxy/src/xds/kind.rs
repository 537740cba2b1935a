//! The types of resource that a proxy asks for, and what each is called.

use mesh_proto::xds::{cluster, endpoint, listener, route, tls, type_url};
use prost::Message;

use super::decode::Refusal;
use super::state::Resource;
use crate::Name;

/// What a name table is called that comes without a name.
const NAME_TABLE: &str = "name-table";

/// A type of resource, in the order in which they are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Clusters (CDS).
    Cluster,
    /// Endpoints (EDS).
    Endpoint,
    /// Listeners (LDS).
    Listener,
    /// Route tables (RDS).
    Route,
    /// Virtual hosts that come apart from their route table, by whose name they are asked for (VHDS).
    VirtualHost,
    /// Secrets (SDS).
    Secret,
    /// Names for the workload's DNS (NDS).
    NameTable,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Cluster, Self::Endpoint, Self::Listener, Self::Route, Self::VirtualHost, Self::Secret, Self::NameTable];

    /// The type URL.
    pub fn type_url(self) -> &'static str {
        match self {
            Self::Cluster => type_url::CLUSTER,
            Self::Endpoint => type_url::ENDPOINT,
            Self::Listener => type_url::LISTENER,
            Self::Route => type_url::ROUTE,
            Self::VirtualHost => type_url::VIRTUAL_HOST,
            Self::Secret => type_url::SECRET,
            Self::NameTable => type_url::NAME_TABLE,
        }
    }

    /// The kind of a type URL.
    pub fn of(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == url)
    }

    /// True for those of which all are wanted; of the others only what is referred to.
    pub fn is_wildcard(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener | Self::NameTable)
    }
}

/// The name that a resource has by its body; it must be the one by which it was sent.
pub(super) fn name_of(kind: Kind, resource: &Resource) -> Result<Name, (Name, Refusal)> {
    let told: Name = resource.name.as_deref().unwrap_or_default().into();
    let body = resource.body.as_slice();
    let own = match kind {
        Kind::Cluster => cluster::Cluster::decode(body).map(|one| one.name),
        Kind::Endpoint => endpoint::ClusterLoadAssignment::decode(body).map(|one| one.cluster_name),
        Kind::Listener => listener::Listener::decode(body).map(|one| one.name),
        Kind::Route => route::RouteConfiguration::decode(body).map(|one| one.name),
        Kind::VirtualHost => route::VirtualHost::decode(body).map(|one| match told.rsplit_once('/') {
            // In its table it may be called by what follows the table's name.
            Some((_, host)) if host == one.name => told.to_string(),
            _ => one.name,
        }),
        Kind::Secret => tls::Secret::decode(body).map(|one| one.name),
        // It has no name of its own; there is one only.
        Kind::NameTable => Ok(if told.is_empty() { NAME_TABLE.to_owned() } else { told.to_string() }),
    };
    match own {
        Err(error) => Err((told, Refusal::new(format!("malformed: {error}")))),
        Ok(own) if told.is_empty() || *told == *own => Ok(own.into()),
        Ok(own) => {
            Err((told, Refusal::field("name", format!("is `{own}`, but the resource was sent under another name"))))
        }
    }
}

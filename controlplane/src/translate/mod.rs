//! From what is known to what a proxy is told: pure functions of a context and a node.
//!
//! Fed by [`crate::push`], sent by the discovery server. The shapes are the contract of docs/xds.md.

use std::collections::BTreeSet;

use bytes::Bytes;
use mesh_proto::xds::type_url;
use prost::Message;

use crate::model::{Name, Node, PushContext};

pub mod authz;
pub mod canonical;
pub mod cluster;
pub mod endpoint;
pub mod grpc;
pub mod http;
pub mod listener;
pub mod locality;
pub mod name_table;
pub mod route;
pub mod secret;
pub mod servers;
pub mod telemetry;
pub mod wire;

/// The types of resources that are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceType {
    /// CDS.
    Cluster,
    /// EDS.
    Endpoint,
    /// LDS.
    Listener,
    /// RDS.
    Route,
    /// VHDS: the virtual hosts of a route table, one by one.
    VirtualHost,
    /// SDS.
    Secret,
    /// NDS.
    NameTable,
}

impl ResourceType {
    /// All, in the order in which a proxy needs them: clusters and their endpoints before listeners and their routes.
    pub const ALL: [Self; 7] =
        [Self::Cluster, Self::Endpoint, Self::Listener, Self::Route, Self::VirtualHost, Self::Secret, Self::NameTable];

    /// The type URL in discovery requests.
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

    /// The type of a URL, if it is served.
    pub fn from_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == url)
    }
}

/// Which resources are wanted.
#[derive(Debug, Clone, Copy)]
pub enum Names<'a> {
    /// All of the type (`*`).
    All,
    /// These.
    Some(&'a [Name]),
}

impl Names<'_> {
    /// True if a resource of this name is wanted.
    pub fn contains(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Some(names) => names.iter().any(|wanted| **wanted == *name),
        }
    }
}

/// A resource as it is sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Resource {
    /// Its name.
    pub name: Name,
    /// XXH3 of its bytes in hexadecimal: equal resources have equal versions, in every control plane and at every time.
    pub version: Name,
    /// Type URL of the body.
    pub type_url: &'static str,
    /// The encoded message: the value of its `Any`.
    pub body: Bytes,
}

impl Resource {
    /// A resource of this message.
    pub fn new<M: Message + prost::Name>(name: Name, kind: ResourceType, message: &M) -> Self {
        Self::encoded(name, kind, canonical::encode(message))
    }

    /// A resource of an encoded message.
    pub fn encoded(name: Name, kind: ResourceType, body: Bytes) -> Self {
        let version = format!("{:016x}", xxhash_rust::xxh3::xxh3_64(&body)).into();
        Self { name, version, type_url: kind.type_url(), body }
    }
}

/// The resources of one type that a proxy is to have, made from nothing. [`crate::push::view`] keeps them, and makes anew what changed.
///  A name that is asked for and missing here does not exist for this proxy.
pub fn resources(context: &PushContext, node: &Node, kind: ResourceType, names: Names<'_>) -> Vec<Resource> {
    match kind {
        ResourceType::Cluster => {
            let clusters = match node.grpc {
                false => cluster::clusters(context, node, names),
                true => grpc::clusters(context, node, names),
            };
            clusters.iter().map(|one| Resource::new(one.name.as_str().into(), kind, one)).collect()
        }
        ResourceType::Endpoint => {
            let assignments = match node.grpc {
                false => endpoint::assignments(context, node, names),
                true => grpc::assignments(context, node, names),
            };
            assignments.iter().map(|one| Resource::new(one.cluster_name.as_str().into(), kind, one)).collect()
        }
        ResourceType::Listener => {
            let listeners = match node.grpc {
                false => listener::listeners(context, node),
                true => grpc::listeners(context, node, names),
            };
            let listeners = listeners.into_iter();
            let wanted = listeners.filter(|one| names.contains(&one.name));
            wanted.map(|one| Resource::new(one.name.as_str().into(), kind, &one)).collect()
        }
        ResourceType::Route => {
            let all;
            let table = if node.grpc { grpc::table } else { route::table };
            let wanted = match names {
                Names::Some(wanted) => wanted,
                Names::All => {
                    all = listener::table_names(&listener::listeners(context, node));
                    all.as_slice()
                }
            };
            let tables = wanted.iter().filter_map(|name| Some((name, table(context, node, name)?)));
            let tables = tables.map(|(name, table)| (name, route::virtual_hosts::apart(node, name, table).0));
            tables.map(|(name, table)| Resource::new(name.clone(), kind, &table)).collect()
        }
        ResourceType::VirtualHost => {
            // Hosts are asked for by the name of their table; there is no wildcard.
            let Names::Some(wanted) = names else { return Vec::new() };
            let tables: BTreeSet<&str> = wanted.iter().map(|name| route::virtual_hosts::table_of(name)).collect();
            let tables = tables.into_iter().filter_map(|name| Some((name, route::table(context, node, name)?)));
            let hosts = tables.flat_map(|(name, table)| {
                let hosts = route::virtual_hosts::apart(node, name, table).1.into_iter();
                hosts.map(move |host| (route::virtual_hosts::resource_name(name, &host.name), host))
            });
            let whole = |name: &str| names.contains(name) || names.contains(route::virtual_hosts::table_of(name));
            let hosts = hosts.filter(|(name, _)| whole(name));
            hosts.map(|(name, host)| Resource::new(name, kind, &host)).collect()
        }
        ResourceType::Secret => {
            let secrets = secret::secrets(context, node, names);
            secrets.iter().map(|one| Resource::new(one.name.as_str().into(), kind, one)).collect()
        }
        ResourceType::NameTable => {
            let table = name_table::name_table(context, node);
            vec![Resource::new(name_table::NAME.into(), kind, &table)]
        }
    }
}

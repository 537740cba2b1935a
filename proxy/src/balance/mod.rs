//! Which endpoint of a cluster takes a request.
//!
//! Comes after [`crate::policy`], before [`crate::connect`]. `cluster` holds a cluster and its limits, `endpoint` its endpoints, `pick`
//! the algorithms, `outlier` the ejection of failing endpoints, `dns` the clusters whose endpoints a resolver finds.
//! Picking is synchronous; time and randomness are arguments.

pub mod cluster;
pub mod dns;
pub mod endpoint;
pub mod outlier;
pub mod pick;
pub mod recent;

pub use cluster::{
    Cluster, ClusterConfig, Discovery, Limits, Permit, Resource, RetryBudget, Transport, UpstreamProtocol,
};
pub use endpoint::{Address, Endpoint, EndpointSet, EndpointSpec};
pub use outlier::{Observation, OutlierConfig};
pub use pick::{Algorithm, PickRequest, Picked};

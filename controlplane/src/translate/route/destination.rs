//! The cluster that a destination of a rule means (VA1, G8), shared by HTTP, TLS and TCP routes.

use mesh_proto::crd::virtual_service::{Destination, RouteDestination};
use mesh_proto::names::cluster;

use super::Site;

/// `outbound|PORT|SUBSET|HOST`. The port is the destination's own, else the only one of the service, else the one that was called.
/// A destination that does not exist has a name all the same: requests to it fail with 503 and `NC` while the route stays (G18).
pub fn cluster(site: &Site<'_>, destination: &Destination) -> String {
    cluster::outbound(port(site, destination), &destination.subset, &destination.host)
}

/// The port of a destination.
pub fn port(site: &Site<'_>, destination: &Destination) -> u16 {
    let written = destination.port.as_ref().and_then(|port| u16::try_from(port.number).ok()).filter(|port| *port != 0);
    let only = || match site.service(&destination.host)?.ports.as_slice() {
        [only] => Some(only.number),
        _ => None,
    };
    written.or_else(only).unwrap_or(site.port)
}

/// Clusters with their shares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Clusters {
    /// All goes to one.
    One(String),
    /// Shares of the sum of weights, none 0, at least two.
    Weighted(Vec<(String, u32)>),
}

/// Where a TLS or TCP route sends connections. A destination without a share among several gets nothing; a single one gets everything.
pub fn clusters(site: &Site<'_>, route: &[RouteDestination]) -> Option<Clusters> {
    if let [only] = route {
        return Some(Clusters::One(cluster(site, &only.destination)));
    }
    let shares: Vec<(String, u32)> = route
        .iter()
        .filter_map(|one| share(one.weight).map(|weight| (cluster(site, &one.destination), weight)))
        .collect();
    match shares.as_slice() {
        [] => None,
        [(only, _)] => Some(Clusters::One(only.clone())),
        _ => Some(Clusters::Weighted(shares)),
    }
}

/// A weight that is not 0.
pub fn share(weight: i32) -> Option<u32> {
    u32::try_from(weight).ok().filter(|weight| *weight > 0)
}

//! Istio's standard metrics.

use crate::Name;

/// `ferromesh.v1.Stats`, resolved: which side reports, and what service an inbound chain stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatsFilter {
    /// Which side.
    pub reporter: Reporter,
    /// Exchange peer metadata (`x-envoy-peer-metadata`, or ALPN `istio-peer-exchange` for TCP).
    pub metadata_exchange: bool,
    /// The service behind an inbound chain: host, name, namespace.
    pub destination: Option<DestinationService>,
}

/// The value of the `reporter` label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reporter {
    /// The client's side.
    Source,
    /// The server's side.
    Destination,
}

/// A destination service as labels name it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DestinationService {
    /// `destination_service`.
    pub host: Name,
    /// `destination_service_name`.
    pub name: Name,
    /// `destination_service_namespace`.
    pub namespace: Name,
}

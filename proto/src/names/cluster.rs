//! Names of clusters as users and tools see them (G8): `outbound|PORT|SUBSET|HOST`, `inbound|PORT||`.

use std::fmt;

/// Traffic to destinations that the mesh does not know.
pub const PASSTHROUGH: &str = "PassthroughCluster";
/// Traffic that is not allowed to go anywhere.
pub const BLACK_HOLE: &str = "BlackHoleCluster";
/// Inbound traffic to ports that no service names.
pub const INBOUND_PASSTHROUGH: &str = "InboundPassthroughCluster";

/// Which way a cluster's traffic goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the workload to a service.
    Outbound,
    /// To the workload itself.
    Inbound,
}

/// The parts of a cluster's name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClusterName<'a> {
    /// Direction.
    pub direction: Direction,
    /// Port of the service; of the workload for inbound.
    pub port: u16,
    /// Subset of the DestinationRule, or empty.
    pub subset: &'a str,
    /// Host of the service; empty for inbound.
    pub host: &'a str,
}

/// `outbound|PORT|SUBSET|HOST`.
pub fn outbound(port: u16, subset: &str, host: &str) -> String {
    format!("outbound|{port}|{subset}|{host}")
}

/// `inbound|PORT||`.
pub fn inbound(port: u16) -> String {
    format!("inbound|{port}||")
}

/// The server name of mesh mTLS: `outbound_.PORT_.SUBSET_.HOST`.
pub fn sni(port: u16, subset: &str, host: &str) -> String {
    format!("outbound_.{port}_.{subset}_.{host}")
}

/// Splits a name; `None` for names of another form.
pub fn parse(name: &str) -> Option<ClusterName<'_>> {
    let mut parts = name.split('|');
    let direction = match parts.next()? {
        "outbound" => Direction::Outbound,
        "inbound" => Direction::Inbound,
        _ => return None,
    };
    let (port, subset, host) = (parts.next()?.parse().ok()?, parts.next()?, parts.next()?);
    parts.next().is_none().then_some(ClusterName { direction, port, subset, host })
}

impl fmt::Display for ClusterName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = match self.direction {
            Direction::Outbound => "outbound",
            Direction::Inbound => "inbound",
        };
        write!(f, "{direction}|{}|{}|{}", self.port, self.subset, self.host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cluster_names_are_istio_names() {
        assert_eq!(
            outbound(9080, "v1", "reviews.default.svc.cluster.local"),
            "outbound|9080|v1|reviews.default.svc.cluster.local"
        );
        assert_eq!(inbound(9080), "inbound|9080||");
        assert_eq!(sni(80, "", "a.b"), "outbound_.80_._.a.b");
        for name in ["outbound|80||a.b", "outbound|80|v1|a.b", "inbound|9080||"] {
            assert_eq!(parse(name).map(|parsed| parsed.to_string()).as_deref(), Some(name));
        }
        for name in ["", PASSTHROUGH, "outbound|x||a", "outbound|80|a", "outbound|80||a|b"] {
            assert_eq!(parse(name), None, "{name}");
        }
    }
}

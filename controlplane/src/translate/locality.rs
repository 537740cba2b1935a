//! Endpoints by distance: those of the client's own zone first, those farther away when these fail (LB4).
//! Source: Istio's `pilot/pkg/networking/core/loadbalancer`.

use std::collections::{BTreeMap, BTreeSet};

use mesh_proto::crd::destination_rule::{LocalityFailover, TrafficPolicy};

use crate::model::{Node, PushContext, Service};

/// How endpoints farther away are held back.
#[derive(Debug, Clone)]
pub struct Failover<'a> {
    /// `region/zone/subzone` of the client.
    own: &'a str,
    regions: &'a [LocalityFailover],
}

impl<'a> Failover<'a> {
    /// The failover of a policy, or the service's, or the mesh's. The service's stands for itself; otherwise it is only where failing endpoints
    /// are noticed, which is outlier detection's work.
    pub fn of(policy: &'a TrafficPolicy, context: &'a PushContext, node: &'a Node, service: &Service) -> Option<Self> {
        let balancer = policy.load_balancer.as_ref();
        // A rule's setting replaces the mesh's as a whole.
        let setting = balancer.and_then(|balancer| balancer.locality_lb_setting.as_ref());
        let near = setting.is_none() && service.prefers_near;
        let setting = setting.or(context.mesh.locality_lb_setting.as_ref().filter(|_| !near));
        let enabled = setting.is_none_or(|setting| setting.enabled != Some(false) && setting.distribute.is_empty());
        let regions = setting.map(|setting| setting.failover.as_slice()).unwrap_or_default();
        let own = context.locality(node);
        let known = !own.is_empty() && (near || policy.outlier_detection.is_some());
        (enabled && known).then_some(Self { own, regions })
    }

    /// Priorities of localities, without gaps: 0 is used first.
    pub fn priorities<'b>(&self, localities: impl Iterator<Item = &'b str>) -> BTreeMap<&'b str, u32> {
        let distances: BTreeMap<&str, u32> = localities.map(|locality| (locality, self.distance(locality))).collect();
        let levels: BTreeSet<u32> = distances.values().copied().collect();
        let rank = |distance| levels.iter().take_while(|level| **level < distance).count();
        distances.into_iter().map(|(place, distance)| (place, u32::try_from(rank(distance)).unwrap_or(0))).collect()
    }

    fn distance(&self, locality: &str) -> u32 {
        let part = |text: &str, index: usize| text.split('/').nth(index).unwrap_or_default().to_owned();
        let same = |index: usize| part(self.own, index) == part(locality, index);
        match (same(0), same(0) && same(1), same(0) && same(1) && same(2)) {
            (_, _, true) => 0,
            (_, true, _) => 1,
            (true, _, _) => 2,
            _ => {
                let own = self.regions.iter().find(|failover| failover.from == part(self.own, 0));
                // With a region to fail over to, every other comes after it.
                if own.is_none_or(|failover| failover.to == part(locality, 0)) { 3 } else { 4 }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearer_endpoints_come_first() {
        let all = ["a/z1/s1", "a/z1/s2", "a/z2", "b/z1", "c/z1", ""];
        let regions = [LocalityFailover { from: "a".into(), to: "c".into() }];
        for (own, regions, expected) in [
            ("a/z1/s1", &[][..], [0, 1, 2, 3, 3, 3]),
            ("a/z1/s1", &regions[..], [0, 1, 2, 4, 3, 4]),
            ("b/z1", &[], [1, 1, 1, 0, 1, 1]),
            ("d", &[], [0, 0, 0, 0, 0, 0]),
        ] {
            let found = Failover { own, regions }.priorities(all.into_iter());
            assert_eq!(all.map(|place| found[place]), expected, "{own}");
        }
    }
}

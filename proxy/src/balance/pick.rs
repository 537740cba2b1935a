//! The algorithms: least request (two random choices), round robin, random, original destination.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use smallvec::SmallVec;

use super::cluster::{Cluster, Discovery};
use super::endpoint::{Address, Endpoint, EndpointSpec, Live, Priority};
use crate::http::error::Error;

/// How an endpoint is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// The one with fewer requests under way, of so many chosen at random.
    LeastRequest(u32),
    /// In turn.
    RoundRobin,
    /// At random.
    Random,
}

/// What a choice depends on.
#[derive(Debug, Clone, Copy, Default)]
pub struct PickRequest<'a> {
    /// Endpoints to avoid if there are others: those that failed already.
    pub avoid: &'a [Arc<Endpoint>],
    /// Endpoints whose priorities are left out as long as others have endpoints.
    pub avoid_priorities: &'a [Arc<Endpoint>],
    /// Where the client wanted to go.
    pub original_dst: Option<SocketAddr>,
}

/// The chosen endpoint; counted as active while this lives.
#[derive(Debug)]
pub struct Picked {
    endpoint: Arc<Endpoint>,
}

impl Picked {
    fn new(endpoint: Arc<Endpoint>) -> Self {
        endpoint.live.active.fetch_add(1, Ordering::Relaxed);
        Self { endpoint }
    }

    /// The endpoint.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }
}

impl Drop for Picked {
    fn drop(&mut self) {
        self.endpoint.live.active.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Cluster {
    /// Chooses an endpoint.
    pub fn pick(&self, request: &PickRequest<'_>, random: &mut fastrand::Rng) -> Result<Picked, Error> {
        if self.config.discovery == Discovery::OriginalDst {
            return self.pick_original(request);
        }
        let set = self.endpoints.load();
        let left_out = |priority: &&Priority| {
            let level = priority.endpoints.first().map(|one| one.spec.priority);
            request.avoid_priorities.iter().any(|tried| Some(tried.spec.priority) == level)
        };
        let mut picked = None;
        if !request.avoid_priorities.is_empty() {
            picked = self.pick_among(set.priorities.iter().filter(|one| !left_out(one)), request, random);
        }
        // When all were tried, it begins anew.
        let picked = picked.or_else(|| self.pick_among(set.priorities.iter(), request, random));
        picked.ok_or_else(|| Error::NoHealthyUpstream(self.config.name.clone()))
    }

    fn pick_among<'s>(
        &self,
        priorities: impl Iterator<Item = &'s Priority>,
        request: &PickRequest<'_>,
        random: &mut fastrand::Rng,
    ) -> Option<Picked> {
        let now = self.now();
        let usable = |endpoint: &Endpoint| endpoint.spec.healthy && !endpoint.live.outlier.is_ejected(now);
        let mut fallback = None;
        for priority in priorities {
            let candidates: SmallVec<[&Arc<Endpoint>; 16]> =
                priority.endpoints.iter().filter(|endpoint| usable(endpoint)).collect();
            let healthy_percent = candidates.len() * 100 / priority.endpoints.len();
            if healthy_percent < self.config.panic_threshold as usize && candidates.len() < priority.endpoints.len() {
                fallback = fallback.or(Some(priority));
                if candidates.is_empty() {
                    continue;
                }
            }
            if candidates.is_empty() {
                continue;
            }
            if fallback.is_some_and(|panicking| std::ptr::eq(panicking, priority)) {
                break;
            }
            return Some(Picked::new(self.choose(priority, candidates, request, random)));
        }
        // Panic: too few are healthy, so health is probably measured wrong; spread over all rather than break the rest.
        let priority: &Priority = fallback?;
        Some(Picked::new(self.choose(priority, priority.endpoints.iter().collect(), request, random)))
    }

    fn choose(
        &self,
        priority: &Priority,
        mut candidates: SmallVec<[&Arc<Endpoint>; 16]>,
        request: &PickRequest<'_>,
        random: &mut fastrand::Rng,
    ) -> Arc<Endpoint> {
        if !request.avoid.is_empty() {
            let avoided = |one: &Arc<Endpoint>| request.avoid.iter().any(|bad| bad.spec.address == one.spec.address);
            if candidates.iter().any(|one| !avoided(one)) {
                candidates.retain(|one| !avoided(one));
            }
        }
        let draw = |random: &mut fastrand::Rng| weighted(priority.uniform, &candidates, random.u64(..));
        let chosen = match self.config.algorithm {
            Algorithm::Random => draw(random),
            Algorithm::RoundRobin => {
                let turn = self.turn.fetch_add(1, Ordering::Relaxed);
                if priority.uniform {
                    candidates[(turn % candidates.len() as u64) as usize]
                } else {
                    // Multiples of the golden ratio spread evenly, so each stretch of turns holds every endpoint by weight.
                    weighted(false, &candidates, turn.wrapping_mul(0x9E37_79B9_7F4A_7C15))
                }
            }
            Algorithm::LeastRequest(choices) => {
                let load = |one: &Arc<Endpoint>| {
                    (u64::from(one.live.active.load(Ordering::Relaxed)) + 1) * 1_000 / u64::from(one.spec.weight.max(1))
                };
                let mut best = draw(random);
                for _ in 1..choices.min(candidates.len() as u32 * 2) {
                    let other = draw(random);
                    if load(other) < load(best) {
                        best = other;
                    }
                }
                best
            }
        };
        chosen.clone()
    }

    fn pick_original(&self, request: &PickRequest<'_>) -> Result<Picked, Error> {
        let address = request.original_dst.ok_or_else(|| Error::NoHealthyUpstream(self.config.name.clone()))?;
        Ok(Picked::new(Arc::new(Endpoint {
            spec: EndpointSpec {
                address: Address::Ip(address),
                hostname: None,
                weight: 1,
                locality_weight: None,
                priority: 0,
                healthy: true,
                transport_labels: Vec::new(),
                peer: Arc::default(),
            },
            transport: self.config.transport.clone(),
            live: Arc::new(Live::default()),
        })))
    }
}

/// The candidate at `point` of all weights, `point` being spread over all of `u64`.
fn weighted<'a>(uniform: bool, candidates: &[&'a Arc<Endpoint>], point: u64) -> &'a Arc<Endpoint> {
    let scale = |total: u64| ((u128::from(point) * u128::from(total)) >> 64) as u64;
    if uniform {
        return candidates[scale(candidates.len() as u64) as usize];
    }
    let total = candidates.iter().map(|one| u64::from(one.spec.weight)).sum();
    let mut rest = scale(total);
    for candidate in candidates {
        match rest.checked_sub(u64::from(candidate.spec.weight)) {
            None => return candidate,
            Some(left) => rest = left,
        }
    }
    candidates[candidates.len() - 1]
}

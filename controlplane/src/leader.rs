//! Which replica writes: a Lease of the API server (RV2), held by one, renewed while it lives, and handed over when it stops.
//!
//! What every replica only reads needs no leader. Asked by [`crate::status`].

use std::time::Duration;

use ::kube::api::{Patch, PatchParams, PostParams};
use ::kube::{Api, Client, Error};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use mesh_proto::kube::ObjectMeta;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// A lease that is not renewed for this long is anybody's. Kubernetes' own components take the same.
const HELD: Duration = Duration::from_secs(15);
/// A holder that cannot renew gives up before others take over: with the last look and its wait this is less than [`HELD`].
const GIVE_UP: Duration = Duration::from_secs(7);
/// Between two looks at the lease.
const LOOK: Duration = Duration::from_secs(2);
/// The longest wait for the API server.
const PATIENCE: Duration = Duration::from_secs(5);

/// A candidate for a lease.
pub struct Candidate {
    leases: Api<Lease>,
    name: String,
    identity: String,
    /// The lease as it was seen last, and when it was seen to change: clocks of replicas differ, so only the own one counts.
    seen: Option<(LeaseSpec, Instant)>,
}

/// What a look at the lease says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// There is none.
    Make,
    /// It is ours.
    Renew,
    /// Nobody holds it.
    Take,
    /// Somebody else does.
    Wait,
}

impl std::fmt::Debug for Candidate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Candidate({} for {})", self.identity, self.name)
    }
}

impl Candidate {
    /// A candidate for the lease of this name; `identity` must be no other replica's.
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str) -> Self {
        Self {
            leases: Api::namespaced(client, namespace),
            name: name.to_owned(),
            identity: identity.to_owned(),
            seen: None,
        }
    }

    /// Holds the lease whenever it can, until `stop`, and says in `leads` whether it does. At the end the lease is free at once.
    pub async fn run(mut self, leads: watch::Sender<bool>, stop: CancellationToken) {
        let mut renewed = Instant::now();
        let mut failing = false;
        loop {
            let looked = stop.run_until_cancelled(tokio::time::timeout(PATIENCE, self.look())).await;
            let error = match looked {
                None => break,
                Some(Ok(Ok(holds))) => {
                    (renewed, failing) = (Instant::now(), false);
                    self.say(&leads, holds);
                    None
                }
                Some(Ok(Err(error))) => Some(words(&error)),
                Some(Err(_)) => Some("the API server does not answer within 5 s".to_owned()),
            };
            if let Some(error) = error {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(lease = self.name, error, "the lease cannot be held or taken");
                }
                if renewed.elapsed() >= GIVE_UP {
                    self.say(&leads, false);
                }
            }
            if stop.run_until_cancelled(sleep(LOOK)).await.is_none() {
                break;
            }
        }
        let held = *leads.borrow();
        // Whoever writes stops before another one may.
        self.say(&leads, false);
        if held && let Err(error) = self.release().await {
            tracing::debug!(lease = self.name, %error, "the lease runs out by itself");
        }
    }

    fn say(&self, leads: &watch::Sender<bool>, holds: bool) {
        if leads.send_if_modified(|leads| std::mem::replace(leads, holds) != holds) {
            let (lease, identity) = (&self.name, &self.identity);
            tracing::info!(
                lease,
                identity,
                "{}",
                if holds { "this replica leads" } else { "this replica leads no more" }
            );
        }
    }

    /// Looks at the lease and takes or renews it if it may. True if it is held then.
    async fn look(&mut self) -> Result<bool, Error> {
        let found = self.leases.get_opt(&self.name).await?;
        let spec = found.as_ref().map(|lease| lease.spec.clone().unwrap_or_default());
        let now = Instant::now();
        if self.seen.as_ref().map(|(seen, _)| seen) != spec.as_ref() {
            self.seen = spec.clone().map(|spec| (spec, now));
        }
        let since = self.seen.as_ref().map_or(Duration::ZERO, |(_, since)| now - *since);
        let step = decide(spec.as_ref(), &self.identity, since);
        let mut lease = found.unwrap_or_else(|| Lease {
            metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
            ..Lease::default()
        });
        lease.spec = Some(held(spec.unwrap_or_default(), &self.identity, step, Timestamp::now()));
        let written = match step {
            Step::Wait => return Ok(false),
            Step::Make => self.leases.create(&PostParams::default(), &lease).await,
            // The version that was read is sent along, so that of two only one succeeds.
            Step::Renew | Step::Take => self.leases.replace(&self.name, &PostParams::default(), &lease).await,
        };
        match written {
            Ok(lease) => {
                self.seen = lease.spec.map(|spec| (spec, now));
                Ok(true)
            }
            Err(Error::Api(status)) if status.is_conflict() || status.is_already_exists() => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn release(&self) -> Result<(), Error> {
        let free = Patch::Merge(serde_json::json!({"spec": {"holderIdentity": "", "leaseDurationSeconds": 1}}));
        let parameters = PatchParams::default();
        let patched = self.leases.patch(&self.name, &parameters, &free);
        match tokio::time::timeout(PATIENCE, patched).await {
            Ok(result) => result.map(drop),
            Err(_) => Ok(()),
        }
    }
}

/// What to do with a lease that has been as it is for `since`.
fn decide(lease: Option<&LeaseSpec>, identity: &str, since: Duration) -> Step {
    let Some(lease) = lease else { return Step::Make };
    let seconds = lease.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    let held = seconds.map_or(HELD, Duration::from_secs);
    match lease.holder_identity.as_deref() {
        Some(holder) if holder == identity => Step::Renew,
        None | Some("") => Step::Take,
        Some(_) if since >= held => Step::Take,
        Some(_) => Step::Wait,
    }
}

/// The lease once it is ours.
fn held(before: LeaseSpec, identity: &str, step: Step, now: Timestamp) -> LeaseSpec {
    let changes = i32::from(step == Step::Take);
    LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: i32::try_from(HELD.as_secs()).ok(),
        acquire_time: if step == Step::Renew { before.acquire_time.clone() } else { Some(MicroTime(now)) },
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(before.lease_transitions.unwrap_or(0).saturating_add(changes)),
        ..before
    }
}

fn words(error: &Error) -> String {
    match error {
        Error::Api(status) if status.is_forbidden() => format!(
            "{}; give the control plane's user the verbs get, create, update and patch on leases.coordination.k8s.io in this namespace",
            status.message
        ),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_taken_when_it_is_free_or_has_run_out() {
        let lease = |holder: &str, seconds: i32| LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(seconds),
            ..LeaseSpec::default()
        };
        for (lease, since, expected) in [
            (None, 0, Step::Make),
            (Some(lease("", 15)), 0, Step::Take),
            (Some(LeaseSpec::default()), 0, Step::Take),
            (Some(lease("me", 15)), 100, Step::Renew),
            (Some(lease("other", 15)), 14, Step::Wait),
            (Some(lease("other", 15)), 15, Step::Take),
            (Some(lease("other", 60)), 15, Step::Wait),
        ] {
            assert_eq!(decide(lease.as_ref(), "me", Duration::from_secs(since)), expected, "{lease:?} {since}");
        }
    }

    #[test]
    fn a_lease_counts_who_had_it() {
        let now = Timestamp::UNIX_EPOCH;
        let first = held(LeaseSpec::default(), "a", Step::Make, now);
        assert_eq!((first.lease_transitions, first.holder_identity.as_deref()), (Some(0), Some("a")));
        let later = Timestamp::from_second(5).unwrap_or_default();
        let renewed = held(first.clone(), "a", Step::Renew, later);
        assert_eq!((renewed.acquire_time.clone(), renewed.lease_transitions), (first.acquire_time.clone(), Some(0)));
        let taken = held(renewed, "b", Step::Take, later);
        assert_eq!((taken.lease_transitions, taken.holder_identity.as_deref()), (Some(1), Some("b")));
        assert_eq!(taken.acquire_time, Some(MicroTime(later)));
    }
}

//! Who must hear of a change, and when: changes are gathered until they pause, applied as one, and published to every stream.
//!
//! Fed by [`crate::source`]; owns the model; read by [`crate::xds`].

pub mod debounce;
pub mod engine;
pub mod knowledge;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use crate::model::{Name, Node};
use crate::xds::{Names, Resource, ResourceType};

pub use debounce::Debounce;

/// How many published changes are remembered. A stream that missed more looks at everything.
const HISTORY: usize = 64;

/// An immutable state that resources are made of.
pub trait World: Send + Sync {
    /// The resources of a type that a proxy should have. Those of other names than `names` are left out.
    fn resources(&self, node: &Node, kind: ResourceType, names: Names<'_>) -> Vec<Resource>;
}

/// What a change may have touched.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scope {
    /// Anything.
    pub full: bool,
    /// Only the endpoints of services with these hosts: the fast path.
    pub hosts: BTreeSet<Name>,
    /// The workloads themselves, namespace and name: for their own proxies it is anything.
    pub workloads: BTreeSet<(Name, Name)>,
}

impl Scope {
    /// Anything.
    pub fn full() -> Self {
        Self { full: true, ..Self::default() }
    }

    /// The endpoints of these services.
    pub fn endpoints(hosts: impl IntoIterator<Item = Name>) -> Self {
        Self { hosts: hosts.into_iter().collect(), ..Self::default() }
    }

    /// True if nothing was touched.
    pub fn is_none(&self) -> bool {
        !self.full && self.hosts.is_empty() && self.workloads.is_empty()
    }

    /// Both.
    pub fn merge(&mut self, other: &Self) {
        self.full |= other.full;
        if self.full {
            self.hosts.clear();
            self.workloads.clear();
            return;
        }
        self.hosts.extend(other.hosts.iter().cloned());
        self.workloads.extend(other.workloads.iter().cloned());
    }

    /// What it is for this proxy.
    #[must_use]
    pub fn of(self, node: &Node) -> Self {
        let own = (node.namespace.clone(), node.name.clone());
        if self.workloads.contains(&own) { Self::full() } else { self }
    }
}

/// A published state. Streams see only the newest; what they missed in between is in its history.
#[derive(Clone)]
pub struct Published {
    /// Number, from 1; 0 before anything is known.
    pub number: u64,
    /// The state.
    pub world: Arc<dyn World>,
    /// When its first change arrived.
    pub since: Instant,
    history: VecDeque<(u64, Scope)>,
}

impl std::fmt::Debug for Published {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Published").field("number", &self.number).finish_non_exhaustive()
    }
}

struct Nothing;

impl World for Nothing {
    fn resources(&self, _: &Node, _: ResourceType, _: Names<'_>) -> Vec<Resource> {
        Vec::new()
    }
}

impl Published {
    /// Before anything is known.
    pub fn nothing() -> Self {
        Self { number: 0, world: Arc::new(Nothing), since: Instant::now(), history: VecDeque::new() }
    }

    /// The next state, after a change of this scope.
    #[must_use]
    pub fn next(&self, world: Arc<dyn World>, scope: Scope, since: Instant) -> Self {
        let number = self.number + 1;
        let mut history = self.history.clone();
        if history.len() == HISTORY {
            history.pop_front();
        }
        history.push_back((number, scope));
        Self { number, world, since, history }
    }

    /// What changed after the state of that number.
    pub fn scope_since(&self, seen: u64) -> Scope {
        if self.history.front().is_some_and(|(oldest, _)| seen + 1 < *oldest) {
            return Scope::full();
        }
        let mut scope = Scope::default();
        for (_, one) in self.history.iter().filter(|(number, _)| *number > seen) {
            scope.merge(one);
        }
        scope
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(hosts: &[&str]) -> Scope {
        Scope::endpoints(hosts.iter().map(|host| (*host).into()))
    }

    #[test]
    fn a_stream_that_missed_states_hears_of_all_their_changes() {
        let mut published = Published::nothing();
        for scope in [Scope::full(), endpoints(&["a"]), endpoints(&["b"]), Scope::default()] {
            published = published.next(Arc::new(Nothing), scope, Instant::now());
        }
        assert_eq!(published.scope_since(0), Scope::full());
        assert_eq!(published.scope_since(1), endpoints(&["a", "b"]));
        assert_eq!(published.scope_since(2), endpoints(&["b"]));
        assert!(published.scope_since(3).is_none());
        for _ in 0..HISTORY {
            published = published.next(Arc::new(Nothing), Scope::default(), Instant::now());
        }
        assert_eq!(published.scope_since(1), Scope::full());
        assert_eq!(published.scope_since(published.number - 1), Scope::default());
    }
}

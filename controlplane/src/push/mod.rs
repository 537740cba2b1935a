//! Who must hear of a change, and when: changes are gathered until they pause, applied as one, and published to every stream.
//!
//! Fed by [`crate::source`]; owns the model; read by [`crate::xds`].

pub mod debounce;
pub mod engine;
#[cfg(test)]
mod follow_tests;
pub mod knowledge;
pub mod pool;
pub mod state;
pub mod table;
pub mod view;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use crate::model::{Changes, Name, Node};
use crate::xds::{Names, Resource, ResourceType};

pub use debounce::Debounce;

/// How many published changes are remembered. A stream that missed more looks at everything.
const HISTORY: usize = 64;

/// An immutable state that resources are made of.
pub trait World: Send + Sync {
    /// The resources of a type that a proxy should have. Those of other names than `names` are left out.
    fn resources(&self, node: &Node, kind: ResourceType, names: Names<'_>) -> Vec<Resource>;

    /// What a proxy that was told the state of number `seen` has to look at again, if `changes` came after it.
    fn touched(&self, node: &Node, seen: u64, changes: &Changes) -> Touched;

    /// The number by which [`World::touched`] knows it.
    fn number(&self) -> u64;
}

/// What a proxy has to look at again after a change.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Touched {
    /// Everything.
    pub all: bool,
    /// Everything of these types.
    pub types: BTreeSet<ResourceType>,
    /// These resources.
    pub names: BTreeMap<ResourceType, BTreeSet<Name>>,
    /// What its own workload serves: inbound clusters by whatever names, and all listeners.
    pub served: bool,
}

impl Touched {
    /// Everything.
    pub fn all() -> Self {
        Self { all: true, ..Self::default() }
    }

    /// Everything of these types.
    pub fn types(types: impl IntoIterator<Item = ResourceType>) -> Self {
        Self { types: types.into_iter().collect(), ..Self::default() }
    }

    /// One more resource.
    pub fn add(&mut self, kind: ResourceType, name: Name) {
        self.names.entry(kind).or_default().insert(name);
    }

    /// Both.
    pub fn merge(&mut self, other: &Self) {
        self.all |= other.all;
        self.served |= other.served;
        self.types.extend(&other.types);
        for (kind, names) in &other.names {
            self.names.entry(*kind).or_default().extend(names.iter().cloned());
        }
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
    history: VecDeque<(u64, Changes)>,
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

    fn touched(&self, _: &Node, _: u64, _: &Changes) -> Touched {
        Touched::default()
    }

    fn number(&self) -> u64 {
        0
    }
}

impl Published {
    /// Before anything is known.
    pub fn nothing() -> Self {
        Self { number: 0, world: Arc::new(Nothing), since: Instant::now(), history: VecDeque::new() }
    }

    /// The next state, after these changes.
    #[must_use]
    pub fn next(&self, world: Arc<dyn World>, changes: Changes, since: Instant) -> Self {
        let number = self.number + 1;
        let mut history = self.history.clone();
        if history.len() == HISTORY {
            history.pop_front();
        }
        history.push_back((number, changes));
        Self { number, world, since, history }
    }

    /// What changed after the state of that number.
    pub fn changes_since(&self, seen: u64) -> Changes {
        if self.history.front().is_some_and(|(oldest, _)| seen + 1 < *oldest) {
            return Changes::full();
        }
        let mut changes = Changes::default();
        for (_, one) in self.history.iter().filter(|(number, _)| *number > seen) {
            changes.merge(one);
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(hosts: &[&str]) -> Changes {
        Changes::endpoints(hosts.iter().map(|host| (*host).into()))
    }

    #[test]
    fn a_stream_that_missed_states_hears_of_all_their_changes() {
        let mut published = Published::nothing();
        for changes in [Changes::full(), endpoints(&["a"]), endpoints(&["b"]), Changes::default()] {
            published = published.next(Arc::new(Nothing), changes, Instant::now());
        }
        assert_eq!(published.changes_since(0), Changes::full());
        assert_eq!(published.changes_since(1), endpoints(&["a", "b"]));
        assert_eq!(published.changes_since(2), endpoints(&["b"]));
        assert!(published.changes_since(3).is_none());
        for _ in 0..HISTORY {
            published = published.next(Arc::new(Nothing), Changes::default(), Instant::now());
        }
        assert_eq!(published.changes_since(1), Changes::full());
        assert_eq!(published.changes_since(published.number - 1), Changes::default());
    }
}

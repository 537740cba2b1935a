//! Encoded resources of all classes of proxies: what is equal for several is kept once.
//!
//! Kept by [`super::state`], used by [`super::view`]. Most clusters, endpoints and virtual hosts are the same in every namespace.

use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::translate::Resource;

/// See the module.
#[derive(Debug, Default)]
pub struct Pool(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    resources: HashSet<Pooled>,
    /// At this size those that nobody holds any more are looked for.
    limit: usize,
}

/// A resource by its type, name and version, which is the hash of its bytes.
#[derive(Debug)]
struct Pooled(Resource);

impl PartialEq for Pooled {
    fn eq(&self, other: &Self) -> bool {
        let key = |one: &Self| (one.0.type_url, one.0.version.clone(), one.0.name.clone());
        key(self) == key(other)
    }
}

impl Eq for Pooled {}

impl Hash for Pooled {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.version.hash(state);
    }
}

impl Pool {
    /// The resource that is kept for all that are equal to `one`.
    pub fn share(&self, one: Resource) -> Resource {
        let mut known = self.0.lock();
        let one = Pooled(one);
        if let Some(same) = known.resources.get(&one) {
            return same.0.clone();
        }
        if known.resources.len() >= known.limit {
            known.resources.retain(|one| Arc::strong_count(&one.0.version) > 1);
            known.limit = known.resources.len() * 2 + 1024;
        }
        known.resources.insert(Pooled(one.0.clone()));
        one.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::translate::ResourceType;

    #[test]
    fn equal_resources_are_one_and_those_of_nobody_are_let_go() {
        let make = |name: &str, body: &'static str| Resource::encoded(name.into(), ResourceType::Route, body.into());
        let pool = Pool::default();
        let first = pool.share(make("a", "1"));
        assert!(Arc::ptr_eq(&first.name, &pool.share(make("a", "1")).name));
        for other in [make("a", "2"), make("b", "1")] {
            assert!(!Arc::ptr_eq(&first.name, &pool.share(other).name));
        }
        for number in 0..10_000 {
            pool.share(make(&number.to_string(), "1"));
        }
        assert!(pool.0.lock().resources.len() <= 2048);
        assert!(Arc::ptr_eq(&first.name, &pool.share(make("a", "1")).name));
    }
}

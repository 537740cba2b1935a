//! Where objects come from: each source reads, has [`crate::validate`] judge, and tells [`crate::model`] what changed.
//!
//! A source never lets one bad object disturb another: it reports a finding, and the last good version stays in force. What all sources say
//! goes through [`merge`], which makes one configuration of it.

mod document;
pub mod file;
mod ingress;
mod kinds;
pub mod kube;
mod live;
mod locate;
pub mod merge;
mod namespaces;
mod reduce;
pub(crate) mod typed;

#[cfg(test)]
pub(crate) mod tests;

use crate::model::{Change, Key};
use crate::validate::Finding;

pub use document::{Document, Outcome, read};
pub(crate) use document::{full_path, judge};
pub use file::{FileError, FileSource, Scan};
pub use ingress::{Address, Exposed};
pub use kube::{KubeError, KubeSettings, KubeSource};
pub use live::Live;
pub use merge::Merge;

/// What a source says.
#[derive(Debug, Clone, Default)]
pub struct Update {
    /// What changed since it spoke last, to be applied as one.
    pub changes: Vec<Change>,
    /// All findings that hold now; absent if they are those of before.
    pub findings: Option<Vec<Finding>>,
    /// What was judged of each object that has a status, if it is not as before; files have none.
    pub verdicts: Option<Vec<Verdict>>,
    /// It has read everything there is once. Until then nothing of any source comes into force, so that no proxy is sent half a configuration.
    pub complete: bool,
}

/// Whether an object is in force, for its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The object.
    pub key: Key,
    /// The version that was judged.
    pub generation: i64,
    /// False if that version was refused.
    pub accepted: bool,
    /// It names the revision that reads it, so no other control plane does.
    pub named: bool,
}

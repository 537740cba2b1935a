//! Where objects come from: each source reads, has [`crate::validate`] judge, and tells [`crate::model`] what changed.
//!
//! A source never lets one bad object disturb another: it reports a finding, and the last good version stays in force.

mod document;
pub mod file;
mod kinds;
mod locate;
pub(crate) mod typed;

#[cfg(test)]
pub(crate) mod tests;

pub use document::{Document, Outcome, read};
pub(crate) use document::{full_path, judge};
pub use file::{FileError, FileSource, Update};

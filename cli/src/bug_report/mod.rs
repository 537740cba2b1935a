//! What helpers need to know of a mesh that misbehaves, in one archive: objects, events, logs, and what control planes and proxies tell.
//!
//! [`objects`] reads what the API server has, [`programs`] asks control planes and proxies, [`archive`] writes. A part that cannot be read is
//! named in the archive and holds up no other. Secrets' data is never asked for.

pub mod archive;
pub mod objects;
pub mod programs;

use std::time::Duration;

use anyhow::{Context as _, Result};

/// The longest wait for a part.
const PATIENCE: Duration = Duration::from_secs(60);

/// A file of the archive, or why it is not there.
#[derive(Debug)]
pub struct Piece {
    /// Path inside the archive.
    pub path: String,
    /// What it holds.
    pub content: Result<Vec<u8>>,
}

impl Piece {
    /// Waits for a part, but not for ever.
    pub async fn of(path: impl Into<String>, content: impl Future<Output = Result<Vec<u8>>>) -> Self {
        let read = tokio::time::timeout(PATIENCE, content).await;
        let content = read.with_context(|| format!("no answer within {} s", PATIENCE.as_secs())).and_then(|read| read);
        Self { path: path.into(), content }
    }
}

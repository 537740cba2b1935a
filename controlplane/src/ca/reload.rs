//! Keeps a plugged-in authority as its files are (CA5): whoever rotates it writes files, and nothing is restarted.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Authority, AuthorityHandle, load};

/// Between two looks at the files. They are mounted secrets, for which change notifications are unreliable.
const PERIOD: Duration = Duration::from_secs(10);

/// Replaces the authority whenever its files change and make a good one; while they do not, the one before stays. Never returns.
pub async fn run(directory: PathBuf, authority: AuthorityHandle) {
    let mut seen = read(&directory);
    loop {
        tokio::time::sleep(PERIOD).await;
        let now = read(&directory);
        if now == seen {
            continue;
        }
        match Authority::plugged_in(&directory) {
            Ok(new) => {
                tracing::info!(directory = %directory.display(), "the authority's files changed; it signs by the new ones");
                authority.set_authority(new);
                seen = now;
            }
            // Files may be half written; the next look tells.
            Err(error) => tracing::error!(%error, "the authority's files changed and are not usable"),
        }
    }
}

fn read(directory: &Path) -> Vec<Option<Vec<u8>>> {
    load::FILES.iter().map(|name| std::fs::read(directory.join(name)).ok()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::SystemTime;

    use super::super::authority::{pem, root};
    use super::*;

    fn write(directory: &Path, organization: &str) -> String {
        let (certificate, key) = root(organization, SystemTime::now(), Duration::from_secs(3600)).unwrap();
        let text = pem(&certificate);
        std::fs::write(directory.join("ca-key.pem"), key.serialize_pem()).unwrap();
        std::fs::write(directory.join("ca-cert.pem"), &text).unwrap();
        std::fs::write(directory.join("root-cert.pem"), &text).unwrap();
        text
    }

    #[tokio::test(start_paused = true)]
    async fn a_plugged_in_authority_follows_its_files() {
        let directory = tempfile::tempdir().unwrap();
        let first = write(directory.path(), "first");
        let handle = AuthorityHandle::new(Authority::plugged_in(directory.path()).unwrap());
        tokio::spawn(run(directory.path().to_owned(), handle.clone()));
        tokio::time::sleep(PERIOD * 2).await;
        std::fs::write(directory.path().join("ca-key.pem"), "half").unwrap();
        tokio::time::sleep(PERIOD * 2).await;
        assert_eq!(handle.load().root_pem(), first, "what is not usable changes nothing");
        let mut changed = handle.subscribe();
        let second = write(directory.path(), "second");
        changed.changed().await.unwrap();
        assert_eq!(handle.load().root_pem(), second);
    }
}

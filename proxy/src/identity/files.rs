//! Secrets that lie in files: read, watched, and kept when what follows is unusable (SD1, SD2).
//!
//! SDS names of Istio's form say where: `file-cert:CHAIN~KEY` and `file-root:FILE`. Whoever refers to such a name in the store
//! gets it served; mounted files may also stand for `default` and `ROOTCA`, in place of an authority.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_proto::names::{SECRET_DEFAULT, SECRET_ROOT};
use tokio_util::sync::CancellationToken;

use super::settings::read;
use crate::tls::{Certificate, SecretStore, Trust};

/// How often files are looked at. Polling sees what inotify does not: changes behind the symbolic links of mounted volumes,
/// and on network file systems.
const EVERY: Duration = Duration::from_secs(1);

const CERTIFICATE: &str = "file-cert:";
const ROOT: &str = "file-root:";

/// Where a secret lies.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum FileSecret {
    /// A chain and its key, both PEM.
    Certificate {
        /// Chain.
        chain: PathBuf,
        /// Private key.
        key: PathBuf,
    },
    /// A trust bundle in PEM.
    Root(PathBuf),
}

impl FileSecret {
    /// Reads an SDS name; `None` if it is not about files, an error if it is and is malformed.
    pub fn parse(name: &str) -> Option<Result<Self, String>> {
        if let Some(paths) = name.strip_prefix(CERTIFICATE) {
            return Some(match paths.split_once('~') {
                Some((chain, key)) if !chain.is_empty() && !key.is_empty() && !key.contains('~') => {
                    Ok(Self::Certificate { chain: chain.into(), key: key.into() })
                }
                _ => Err(format!("`{name}` is not file-cert:CHAIN~KEY")),
            });
        }
        let path = name.strip_prefix(ROOT)?;
        Some(if path.is_empty() { Err(format!("`{name}` is not file-root:FILE")) } else { Ok(Self::Root(path.into())) })
    }

    fn fingerprint(&self) -> [Fingerprint; 2] {
        match self {
            Self::Certificate { chain, key } => [Fingerprint::of(Some(chain)), Fingerprint::of(Some(key))],
            Self::Root(path) => [Fingerprint::of(Some(path)), Fingerprint::of(None)],
        }
    }

    fn load(&self, name: &str, secrets: &SecretStore) -> Result<(), String> {
        match self {
            Self::Certificate { chain, key } => {
                let chain = read(chain).map_err(|error| error.to_string())?;
                let key = read(key).map_err(|error| error.to_string())?;
                secrets.set_certificate(name, Certificate::from_pem(&chain, &key)?);
            }
            Self::Root(path) => {
                let bundle = read(path).map_err(|error| error.to_string())?;
                secrets.set_trust(name, Trust::from_pem(&bundle)?);
            }
        }
        Ok(())
    }
}

/// Files that stand for the workload's own identity (`FILE_MOUNTED_CERTS`).
#[derive(Debug, Clone)]
pub struct Mounted {
    /// Certificate chain.
    pub chain: PathBuf,
    /// Private key.
    pub key: PathBuf,
    /// Trust bundle.
    pub root: PathBuf,
}

/// What tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint(Option<(SystemTime, u64, u64)>);

impl Fingerprint {
    /// The state now; that of no file and of a missing one are equal.
    pub(super) fn of(path: Option<&Path>) -> Self {
        let state = |path: &Path| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
        };
        Self(path.and_then(state))
    }
}

/// Serves every `file-cert:` and `file-root:` name that the store is asked for, and `mounted`, until `stop`.
pub async fn run(mounted: Option<Mounted>, secrets: Arc<SecretStore>, stop: CancellationToken) {
    let mut watch = Watch::default();
    if let Some(Mounted { chain, key, root }) = mounted {
        watch.fixed.push((SECRET_DEFAULT.into(), FileSecret::Certificate { chain, key }));
        watch.fixed.push((SECRET_ROOT.into(), FileSecret::Root(root)));
    }
    let mut asked = secrets.subscribe();
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = every.tick() => {}
            // A new name should not wait for the tick. The store outlives this, so there is no error.
            _ = asked.changed() => {}
        }
        watch.look(&secrets);
    }
}

#[derive(Debug, Default)]
struct Watch {
    fixed: Vec<(Arc<str>, FileSecret)>,
    seen: HashMap<Arc<str>, [Fingerprint; 2]>,
}

impl Watch {
    fn look(&mut self, secrets: &SecretStore) {
        let certificates = secrets.certificates().into_iter().map(|(name, _)| name);
        let names: Vec<_> = certificates.chain(secrets.trusts().into_iter().map(|(name, _)| name)).collect();
        for name in names {
            match FileSecret::parse(&name) {
                Some(Ok(secret)) => self.load(name, &secret, secrets),
                Some(Err(error)) => {
                    // Said once: a malformed name does not get better.
                    let said = self.seen.insert(name, [Fingerprint::of(None); 2]).is_some();
                    if !said {
                        tracing::error!(error, "a secret in files cannot be served");
                    }
                }
                None => {}
            }
        }
        for (name, secret) in self.fixed.clone() {
            self.load(name, &secret, secrets);
        }
    }

    /// Reads what changed. The fingerprint is taken before the files are read, so that a change in between is seen next time.
    fn load(&mut self, name: Arc<str>, secret: &FileSecret, secrets: &SecretStore) {
        let now = secret.fingerprint();
        if self.seen.insert(name.clone(), now) == Some(now) {
            return;
        }
        match secret.load(&name, secrets) {
            Ok(()) => tracing::info!(secret = &*name, "read a secret from its files"),
            Err(error) => {
                tracing::error!(secret = &*name, error, "a secret in files is unusable; the last good one stays");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use rcgen::KeyPair;

    use super::*;

    fn pair(name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    #[test]
    fn names_say_where_secrets_lie() {
        let certificate = |chain: &str, key: &str| FileSecret::Certificate { chain: chain.into(), key: key.into() };
        for (name, expected) in [
            ("file-cert:/a/cert.pem~/a/key.pem", Some(Ok(certificate("/a/cert.pem", "/a/key.pem")))),
            ("file-root:/a/root.pem", Some(Ok(FileSecret::Root("/a/root.pem".into())))),
            ("file-cert:/a/cert.pem", Some(Err(()))),
            ("file-cert:~/a", Some(Err(()))),
            ("file-cert:/a~/b~/c", Some(Err(()))),
            ("file-root:", Some(Err(()))),
            ("default", None),
            ("kubernetes://a", None),
        ] {
            assert_eq!(FileSecret::parse(name).map(|parsed| parsed.map_err(|_| ())), expected, "{name}");
        }
    }

    #[tokio::test]
    async fn files_are_read_and_watched_and_the_last_good_one_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let name = format!("file-cert:{}~{}", path("cert").display(), path("key").display());
        let root = format!("file-root:{}", path("root").display());
        let secrets = Arc::new(SecretStore::default());
        let (certificate, trust) = (secrets.certificate(&name), secrets.trust(&root));
        let mut watch = Watch::default();
        let mut look = || watch.look(&secrets);

        look();
        assert!(certificate.load().is_none() && trust.load().is_none(), "no files yet");
        let (first, first_key) = pair("first.example");
        std::fs::write(path("cert"), &first).unwrap();
        std::fs::write(path("key"), &first_key).unwrap();
        std::fs::write(path("root"), &first).unwrap();
        look();
        let loaded = certificate.load().unwrap();
        assert_eq!(loaded.chain_pem, first);
        assert!(trust.load().is_some());
        look();
        assert!(Arc::ptr_eq(&loaded, &certificate.load().unwrap()), "unchanged files are not read again");

        // A chain and its key are never replaced in one step: the first half alone must not break anything.
        let (second, second_key) = pair("second-with-another-length.example");
        std::fs::write(path("cert"), &second).unwrap();
        std::fs::write(path("root"), "garbage").unwrap();
        look();
        assert!(Arc::ptr_eq(&loaded, &certificate.load().unwrap()));
        assert!(trust.load().is_some());
        std::fs::write(path("key.new"), &second_key).unwrap();
        std::fs::rename(path("key.new"), path("key")).unwrap();
        look();
        assert_eq!(certificate.load().unwrap().chain_pem, second);
        std::fs::remove_file(path("cert")).unwrap();
        look();
        assert_eq!(certificate.load().unwrap().chain_pem, second, "a file that is gone takes nothing away");
    }

    #[tokio::test]
    async fn mounted_files_are_the_identity_and_new_names_are_served_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let (chain, key) = pair("w.example");
        for (name, text) in [("cert", &chain), ("key", &key), ("root", &chain)] {
            std::fs::write(path(name), text).unwrap();
        }
        let secrets = Arc::new(SecretStore::default());
        let stop = CancellationToken::new();
        let mounted = Mounted { chain: path("cert"), key: path("key"), root: path("root") };
        let mut changed = secrets.subscribe();
        let task = tokio::spawn(run(Some(mounted), secrets.clone(), stop.clone()));
        let (default, root) = (secrets.certificate("default"), secrets.trust("ROOTCA"));
        let late = secrets.trust(&format!("file-root:{}", path("root").display()));
        let all = async {
            while default.load().is_none() || root.load().is_none() || late.load().is_none() {
                changed.changed().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(10), all).await.unwrap();
        stop.cancel();
        task.await.unwrap();
    }
}

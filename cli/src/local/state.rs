//! Where a running local mesh tells other commands how to reach it: `state.json` in the state directory.
//!
//! The directory belongs to the user alone, since everybody who can write configuration there rules the mesh.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// A running mesh.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    /// Process that runs it.
    pub pid: u32,
    /// Folders that the control plane reads.
    pub config_dirs: Vec<PathBuf>,
    /// Folder into which `meshctl local apply` writes.
    pub applied_dir: PathBuf,
    /// Control plane: xDS and CA in plaintext.
    pub grpc: SocketAddr,
    /// Control plane: xDS and CA over TLS.
    pub secure_grpc: SocketAddr,
    /// Control plane: metrics, version, debug.
    pub monitoring: SocketAddr,
    /// Gateway and sidecars.
    pub proxies: Vec<ProxyState>,
}

/// A running proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyState {
    /// `NAME.NAMESPACE`, as the control plane calls it.
    pub name: String,
    /// `gateway` or `sidecar`.
    pub kind: String,
    /// Admin.
    pub admin: SocketAddr,
    /// Identity.
    pub identity: String,
    /// Where others reach it.
    pub inbound: Vec<SocketAddr>,
    /// Where its process reaches others; absent for gateways.
    pub outbound: Option<SocketAddr>,
}

const FILE: &str = "state.json";

/// The state directory: as asked for, else `ferromesh` in the user's runtime directory, else one in the temporary directory.
pub fn directory(asked: Option<&Path>) -> PathBuf {
    if let Some(asked) = asked {
        return asked.to_owned();
    }
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|path| !path.is_empty()) {
        Some(path) => Path::new(&path).join("ferromesh"),
        None => std::env::temp_dir().join(format!("ferromesh-{}", nix_uid())),
    }
}

/// The user's id, from a file that the user owns; names the directory only.
fn nix_uid() -> u32 {
    fs::metadata("/proc/self").map(|metadata| metadata.uid()).unwrap_or_default()
}

/// Makes the directory, for the user alone, or checks that it is.
pub fn create(directory: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .with_context(|| format!("cannot make the state directory {}", directory.display()))?;
    let metadata = fs::symlink_metadata(directory)?;
    if !metadata.is_dir() || metadata.uid() != nix_uid() || metadata.mode() & 0o022 != 0 {
        bail!(
            "{} is not a directory that only you can write to; remove it or choose another with --state-dir",
            directory.display()
        );
    }
    Ok(())
}

impl State {
    /// Writes `state.json`. It appears whole or not at all.
    pub fn write(&self, directory: &Path) -> Result<()> {
        let file = directory.join(FILE);
        let temporary = directory.join(".state.json.new");
        fs::write(&temporary, serde_json::to_vec_pretty(self)?)
            .and_then(|()| fs::rename(&temporary, &file))
            .with_context(|| format!("cannot write {}", file.display()))
    }

    /// Reads it. The error says how to start a mesh.
    pub fn read(directory: &Path) -> Result<Self> {
        let file = directory.join(FILE);
        let text = fs::read(&file).with_context(|| {
            format!(
                "no local mesh is running ({} cannot be read); start one with `meshctl local run DIR` or `meshctl demo --keep`, \
                 or say where it is with --state-dir",
                file.display()
            )
        })?;
        let state: Self = serde_json::from_slice(&text).with_context(|| format!("{} is damaged", file.display()))?;
        if !state.alive() {
            bail!(
                "the local mesh of {} is not running any more (process {}); start it anew with `meshctl local run`",
                directory.display(),
                state.pid
            );
        }
        Ok(state)
    }

    /// Removes it.
    pub fn remove(directory: &Path) {
        // It is gone already when the directory was removed by hand.
        let _ = fs::remove_file(directory.join(FILE));
    }

    /// True if its process lives.
    pub fn alive(&self) -> bool {
        Path::new("/proc").join(self.pid.to_string()).exists()
    }

    /// A proxy by `NAME.NAMESPACE`, or by `NAME` where only one has it.
    pub fn proxy(&self, wanted: &str) -> Result<&ProxyState> {
        if let Some(found) = self.proxies.iter().find(|proxy| proxy.name == wanted) {
            return Ok(found);
        }
        let short = |proxy: &&ProxyState| proxy.name.split('.').next() == Some(wanted);
        let found: Vec<&ProxyState> = self.proxies.iter().filter(short).collect();
        match found.as_slice() {
            [only] => Ok(only),
            [] => {
                let known: Vec<&str> = self.proxies.iter().map(|proxy| proxy.name.as_str()).collect();
                bail!("no proxy is named `{wanted}`; there are {}", known.join(", "))
            }
            several => {
                let names: Vec<&str> = several.iter().map(|proxy| proxy.name.as_str()).collect();
                bail!("`{wanted}` is not unique; say which: {}", names.join(", "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn state(names: &[&str]) -> State {
        let address: SocketAddr = "127.0.0.1:1".parse().unwrap();
        State {
            pid: std::process::id(),
            config_dirs: Vec::new(),
            applied_dir: PathBuf::new(),
            grpc: address,
            secure_grpc: address,
            monitoring: address,
            proxies: names
                .iter()
                .map(|name| ProxyState {
                    name: (*name).to_owned(),
                    kind: "sidecar".to_owned(),
                    admin: address,
                    identity: String::new(),
                    inbound: Vec::new(),
                    outbound: None,
                })
                .collect(),
        }
    }

    #[test]
    fn proxies_are_found_by_short_names_that_are_unique() {
        let state = state(&["web.default", "web.other", "api.default"]);
        assert_eq!(state.proxy("web.other").unwrap().name, "web.other");
        assert_eq!(state.proxy("api").unwrap().name, "api.default");
        assert!(state.proxy("web").unwrap_err().to_string().contains("web.default, web.other"));
        assert!(state.proxy("nobody").unwrap_err().to_string().contains("there are web.default"));
    }

    #[test]
    fn state_is_written_and_read_and_its_absence_says_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let error = State::read(directory.path()).unwrap_err();
        assert!(error.to_string().contains("meshctl local run DIR"), "{error}");
        create(directory.path()).unwrap();
        state(&["web.default"]).write(directory.path()).unwrap();
        assert_eq!(State::read(directory.path()).unwrap().proxies[0].name, "web.default");
        State::remove(directory.path());
        assert!(State::read(directory.path()).is_err());
    }
}

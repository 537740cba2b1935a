//! Configuration from a watched file (`path_config_source`): a `DiscoveryResponse` in YAML or JSON, read again whenever it changes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_proto::xds::discovery;
use tokio_util::sync::CancellationToken;

use super::kind::Kind;
use super::publisher::Publisher;
use super::state::{Origin, Resource, Update};

/// How often the file is looked at; the same on every file system and behind symbolic links.
const EVERY: Duration = Duration::from_millis(250);

/// What tells one state of a file from another.
fn fingerprint(path: &Path) -> Option<(SystemTime, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

/// Reads the file now.
pub fn read(path: &Path, kind: Kind) -> Result<Update, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let response: discovery::DiscoveryResponse =
        mesh_proto::yaml::from_yaml(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut resources = Vec::new();
    for (index, any) in response.resources.into_iter().enumerate() {
        if any.type_url != kind.type_url() {
            return Err(format!("{}: resources[{index}] is a {}", path.display(), any.type_url));
        }
        resources.push(Resource { name: None, version: response.version_info.clone(), body: any.value });
    }
    Ok(Update { resources, removed: Vec::new(), whole: true })
}

/// Watches until `stop`. A file that cannot be read leaves what was read before.
pub async fn watch(path: PathBuf, kind: Kind, publisher: Arc<Publisher>, stop: CancellationToken) {
    let mut seen = None;
    let mut every = tokio::time::interval(EVERY);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = every.tick() => {}
        }
        let now = Some(fingerprint(&path));
        if now == seen {
            continue;
        }
        seen = now;
        match read(&path, kind) {
            Ok(update) => {
                publisher.update(kind, update, Origin::Dynamic);
            }
            Err(error) => tracing::warn!(error, "the configuration file is not taken; the last good one stays"),
        }
    }
}

//! The settings that injection goes by now: of a file that is read again when it changes, and the mesh's, of the newest configuration.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use mesh_proto::crd::MeshConfig;
use tokio_util::sync::CancellationToken;

use crate::inject::{InjectError, Settings};
use crate::model::PushContext;
use crate::own::Own;

/// Between two looks at the file. A mounted ConfigMap takes a minute by itself.
const LOOK: Duration = Duration::from_secs(5);

/// The settings of now.
#[derive(Debug, Clone)]
pub struct Injector {
    settings: Arc<ArcSwap<Settings>>,
    context: Arc<ArcSwap<PushContext>>,
}

impl Injector {
    /// Reads the file, if there is one, and follows it until `stop`.
    ///
    /// # Errors
    /// If the file cannot be read or is wrong. Later such a file is only logged, and the last good settings stay.
    pub fn start(
        file: Option<PathBuf>,
        own: Own,
        context: Arc<ArcSwap<PushContext>>,
        stop: CancellationToken,
    ) -> Result<Self, InjectError> {
        let read = |file: &PathBuf| {
            std::fs::read_to_string(file).map_err(|error| InjectError::Settings(format!("{}: {error}", file.display())))
        };
        let text = file.as_ref().map(read).transpose()?.unwrap_or_default();
        let settings = Arc::new(ArcSwap::from_pointee(named(&own, &text)?));
        let injector = Self { settings: settings.clone(), context };
        if let Some(file) = file {
            tokio::spawn(stop.run_until_cancelled_owned(async move {
                let mut last = text;
                loop {
                    tokio::time::sleep(LOOK).await;
                    // While a mounted ConfigMap changes there is no file for a moment.
                    let Ok(text) = tokio::fs::read_to_string(&file).await else { continue };
                    if text == last {
                        continue;
                    }
                    match named(&own, &text) {
                        Ok(new) => {
                            settings.store(Arc::new(new));
                            tracing::info!(file = %file.display(), "injection goes by new settings");
                        }
                        Err(error) => {
                            tracing::error!(file = %file.display(), %error, "the last good settings of injection stay");
                        }
                    }
                    last = text;
                }
            }));
        }
        Ok(injector)
    }

    /// Settings of injection.
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// Settings of the mesh.
    pub fn mesh(&self) -> Arc<MeshConfig> {
        self.context.load().mesh.clone()
    }
}

/// A file's settings, with what this process knows better than a file that it may share with others.
fn named(own: &Own, yaml: &str) -> Result<Settings, InjectError> {
    let (revision, namespace, domain) = (own.revision.clone(), own.namespace.clone(), own.domain.clone());
    Ok(Settings { revision, control_plane_namespace: namespace, domain, ..Settings::from_yaml(yaml)? })
}

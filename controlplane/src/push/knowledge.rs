//! The engine's model: applies changes, and says what they mean for streams.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::World;
use super::engine::Knowledge;
use super::state::State;
use crate::metrics::Metrics;
use crate::model::{Change, Changes, Kind, Model, Object, PushContext, Spec};
use crate::own::Own;
use crate::validate::{self, MESH_CONFIG_KEY, MESH_CONFIG_NAME};
use crate::xds::auth::Authenticator;

/// The model, and who reads what comes of it.
#[derive(Debug)]
pub struct Known {
    /// Everything.
    pub model: Model,
    /// Whose mesh settings count.
    pub own: Own,
    /// What is made of its newest context.
    pub state: Arc<State>,
    /// The newest context, for the debug pages.
    pub shown: Arc<ArcSwap<PushContext>>,
    /// Learns the trust domains.
    pub authenticator: Authenticator,
    /// What is counted.
    pub metrics: Metrics,
}

impl Known {
    /// The mesh's settings, if one of the changes is about them.
    fn mesh_config(&mut self, changes: &[Change]) -> bool {
        let mut changed = false;
        for change in changes {
            let (key, text) = match change {
                Change::Remove(key) => (key, None),
                Change::Set(object) => match &object.spec {
                    Spec::ConfigMap(map) => (&object.key, map.data.as_ref().and_then(|data| data.get(MESH_CONFIG_KEY))),
                    _ => continue,
                },
            };
            if key.kind != Kind::ConfigMap || *key.namespace != self.own.namespace || &*key.name != MESH_CONFIG_NAME {
                continue;
            }
            let mesh = match text {
                None => Ok(self.own.mesh()),
                Some(text) => validate::mesh_config(text, &self.own.namespace).map(|(mesh, _)| mesh),
            };
            match mesh {
                Ok(mesh) => changed |= self.model.set_mesh(mesh),
                // Sources report these with their place, and keep such an object out; what was known before stays.
                Err(findings) => findings.iter().for_each(|finding| tracing::error!("the mesh's settings: {finding}")),
            }
        }
        changed
    }
}

impl Knowledge for Known {
    fn apply(&mut self, changes: Vec<Change>) -> Changes {
        let mesh_changed = self.mesh_config(&changes);
        let changes = self.model.apply(changes);
        let changes = if mesh_changed { Changes::full() } else { changes };
        // What is not published leaves no state behind: views are made in published ones.
        if !changes.is_none() {
            self.state = Arc::new(self.state.next(self.model.context(), &changes));
        }
        changes
    }

    fn world(&mut self) -> Arc<dyn World> {
        let context = self.model.context();
        self.authenticator.set_trust_domains(&context.mesh.trust_domain, &context.mesh.trust_domain_aliases);
        self.metrics.services.set(context.all_services().count() as f64);
        self.metrics.virtual_services.set(self.model.objects().of(Kind::VirtualService).count() as f64);
        self.shown.store(context);
        self.state.clone()
    }

    fn objects(&self) -> Vec<Arc<Object>> {
        self.model.objects().all().cloned().collect()
    }
}

//! Objects of a cluster as they were read once, judged as a source judges them: what `meshctl` says of a cluster, it says by these.
//!
//! Nothing is followed here; that is [`super::kube`]'s business. [`super::FileSource::over`] lays files over them.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::document::{Outcome, judge};
use super::typed;
use crate::model::{Key, Object};
use crate::validate::{self, Finding};

/// What a cluster has, and what is wrong with each object by itself.
#[derive(Debug, Clone, Default)]
pub struct Live {
    pub(super) objects: BTreeMap<Key, Arc<Object>>,
    pub(super) findings: Vec<Finding>,
}

impl Live {
    /// Reads objects as the API server writes them, `apiVersion` and `kind` among their fields. Kinds that are no business of the mesh's are
    /// left out.
    pub fn read(trees: impl IntoIterator<Item = Value>) -> Self {
        let mut live = Self::default();
        for mut tree in trees {
            typed::drop_nulls(&mut tree);
            let (outcome, findings) = judge(tree);
            if let Outcome::Object(object) = outcome {
                live.objects.insert(object.key.clone(), object);
            }
            live.findings.extend(findings);
        }
        live
    }

    /// The objects that are good.
    pub fn objects(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.objects.values()
    }

    /// What is wrong with single objects, and with how they refer to each other.
    pub fn findings(&self) -> Vec<Finding> {
        let mut findings = self.findings.clone();
        findings.extend(validate::references(self.objects.values().map(AsRef::as_ref)));
        findings
    }
}

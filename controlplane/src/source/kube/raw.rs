//! An object as the API server sends it: a tree, of which what nobody reads is dropped before anything else is done with it.

use std::borrow::Cow;

use ::kube::api::ApiResource;
use ::kube::core::{DynamicResourceScope, PartialObjectMeta};
use ::kube::{Resource, ResourceExt as _};
use mesh_proto::kube::ObjectMeta;
use mesh_proto::names::label;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::super::document::{self, Outcome};
use super::super::kinds::cluster_wide;
use super::super::typed;
use super::cluster::Item;
use super::watch::Watched;
use crate::model::Key;
use crate::register::{self, HEALTH_CHECKED};

/// An object of any kind.
#[derive(Debug, Clone)]
pub(super) struct Raw {
    /// Name, namespace, uid and version alone; the rest is in the tree.
    metadata: ObjectMeta,
    tree: Map<String, Value>,
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut tree = Map::deserialize(deserializer)?;
        let metadata = tree.get_mut("metadata").and_then(Value::as_object_mut);
        if let Some(metadata) = metadata {
            metadata.remove("managedFields");
        }
        let text = |name: &str| tree.get("metadata")?.get(name)?.as_str().map(str::to_owned);
        let metadata = ObjectMeta {
            name: text("name"),
            namespace: text("namespace"),
            uid: text("uid"),
            resource_version: text("resourceVersion"),
            generation: tree.get("metadata").and_then(|metadata| metadata.get("generation")?.as_i64()),
            ..ObjectMeta::default()
        };
        Ok(Self { metadata, tree })
    }
}

impl Resource for Raw {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(resource: &ApiResource) -> Cow<'_, str> {
        Cow::Borrowed(&resource.kind)
    }
    fn group(resource: &ApiResource) -> Cow<'_, str> {
        Cow::Borrowed(&resource.group)
    }
    fn version(resource: &ApiResource) -> Cow<'_, str> {
        Cow::Borrowed(&resource.version)
    }
    fn api_version(resource: &ApiResource) -> Cow<'_, str> {
        Cow::Borrowed(&resource.api_version)
    }
    fn plural(resource: &ApiResource) -> Cow<'_, str> {
        Cow::Borrowed(&resource.plural)
    }
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl Raw {
    /// An object of which only the metadata was asked for.
    pub(super) fn of_metadata(object: PartialObjectMeta<Self>) -> Self {
        let mut metadata = object.metadata;
        metadata.managed_fields = None;
        // Serializing cannot fail: the fields are plain values.
        let value = serde_json::to_value(&metadata).unwrap_or_default();
        Self { metadata, tree: Map::from_iter([("metadata".to_owned(), value)]) }
    }

    /// The same object under another name.
    pub(super) fn named(mut self, name: &str) -> Self {
        self.metadata.name = Some(name.to_owned());
        if let Some(metadata) = self.tree.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("name".to_owned(), name.into());
        }
        self
    }

    /// The one key.
    pub(super) fn key(&self, watched: &Watched) -> Key {
        let namespace = if cluster_wide(watched.kind) { "" } else { self.metadata.namespace.as_deref().unwrap_or("") };
        Key { kind: watched.kind, namespace: namespace.into(), name: self.name_any().into() }
    }

    /// What a label says.
    pub(super) fn label(&self, name: &str) -> Option<&str> {
        self.tree.get("metadata")?.get("labels")?.get(name)?.as_str()
    }

    /// True for a workload whose proxy tells of its health, and has not said that it is well.
    pub(super) fn is_unwell(&self) -> bool {
        let annotations = self.tree.get("metadata").and_then(|metadata| metadata.get("annotations"));
        let annotation = annotations.and_then(|all| all.get(HEALTH_CHECKED)?.as_str());
        register::is_unwell(annotation, self.tree.get("status"))
    }

    /// Version of the object, which differs whenever anything in it does.
    pub(super) fn version(&self) -> String {
        self.metadata.resource_version.clone().unwrap_or_default()
    }

    /// Reads it as an object of a file is read.
    pub(super) fn read(mut self, watched: &Watched, api_version: &str) -> Item {
        let key = self.key(watched);
        let uid = self.metadata.uid.take().unwrap_or_default();
        let generation = self.metadata.generation.unwrap_or(0);
        let named = self.label(label::REVISION).is_some();
        // Items of lists do not tell, and metadata alone tells another kind.
        self.tree.insert("apiVersion".to_owned(), api_version.into());
        self.tree.insert("kind".to_owned(), watched.name.into());
        let mut tree = Value::Object(self.tree);
        typed::drop_nulls(&mut tree);
        let (outcome, findings) = document::judge(tree);
        let good = match outcome {
            Outcome::Object(object) => Some(object),
            Outcome::Broken(_) | Outcome::Nothing => None,
        };
        Item { key, uid, generation, named, good, findings }
    }
}

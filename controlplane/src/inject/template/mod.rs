//! The parts that are laid over a pod: `sidecar` and `gateway` are made here of typed objects, others are an operator's YAML ([`custom`]).

mod container;
pub mod custom;
mod gateway;
mod sidecar;

use k8s_openapi::api::core::v1::PodTemplateSpec;
use mesh_proto::crd::MeshConfig;
use serde_json::Value;

use super::wishes::Wishes;
use super::{InjectError, Origin, Settings, Workload};

/// What templates are made of.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The operator's settings.
    pub settings: &'a Settings,
    /// The mesh's settings.
    pub mesh: &'a MeshConfig,
    /// The pod's wishes.
    pub wishes: &'a Wishes,
    /// The pod, as its user wrote it.
    pub pod: &'a PodTemplateSpec,
    /// Where it comes from.
    pub origin: &'a Origin<'a>,
    /// What it is a pod of.
    pub workload: &'a Workload,
}

/// The parts that a template adds.
pub fn overlay(name: &str, context: &Context<'_>) -> Result<Value, InjectError> {
    let failed = |reason: String| InjectError::Template { name: name.to_owned(), reason };
    let parts = match name {
        "sidecar" => sidecar::parts(context),
        "gateway" => gateway::parts(context),
        name => {
            let text = context.settings.templates.get(name).ok_or_else(|| failed("does not exist".to_owned()))?;
            return custom::overlay(text, context).map_err(failed);
        }
    };
    serde_json::to_value(parts).map_err(|error| failed(error.to_string()))
}

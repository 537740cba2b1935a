//! The control plane: from users' YAML to what each proxy is told.
//!
//! # The life of a config change
//!
//! [`source`] reads objects and reports each that is wrong; [`model`] keeps them in plain indexes and makes immutable [`model::PushContext`]s;
//! [`push`] waits for quiet and says who must hear of a change; [`translate`] makes the xDS resources of a proxy, a pure function
//! of context and node; [`xds`] sends what is new to whom. Beside that path, [`ca`] signs certificates, [`inject`] puts proxies into
//! pods, asked by the API server through [`webhook`], [`register`] keeps WorkloadEntries of proxies outside the cluster, [`validate`] judges objects, [`status`] writes the judgement to the objects, by the
//! one replica that [`leader`] elects, [`own`] says what this control plane is among others, and [`debug`] shows what is known. [`app`] is the composition root.

pub mod app;
pub mod args;
pub mod ca;
pub mod debug;
pub mod inject;
pub mod leader;
pub mod metrics;
pub mod model;
pub mod own;
pub mod push;
pub mod register;
pub mod source;
pub mod status;
pub mod translate;
pub mod validate;
pub mod webhook;
pub mod xds;

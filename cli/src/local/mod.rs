//! A whole mesh on one machine: control plane, gateway and a sidecar beside each workload, in this process, without root.
//!
//! [`plan`] says which workloads there are, [`manifest`] describes them to the control plane in Istio's own objects, [`mesh`]
//! starts and stops everything, [`state`] tells other commands where to find it.

pub mod definition;
pub mod manifest;
pub mod mesh;
pub mod plan;
pub mod ports;
pub mod state;

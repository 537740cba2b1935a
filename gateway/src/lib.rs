//! The edge: the engine of [`mesh_proxy`] with a gateway's settings, and no stage of its own.
//!
//! What a gateway serves comes over xDS from `Gateway`, `HTTPRoute` and `VirtualService` objects; if it ever needs a hook on the request
//! path, that hook is a policy in [`mesh_proxy`]. [`args`] is the command line, [`app`] starts one.

pub mod app;
pub mod args;

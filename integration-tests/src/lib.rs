//! A whole mesh in one process for tests: control plane, CA, gateway, a sidecar beside each application, all over real sockets.
//!
//! [`mesh`] builds and configures it, [`app`] holds the applications that tell what they saw, [`client`] the users that ask
//! them, [`load`] users who never stop, [`certs`] authorities outside the mesh, [`eventually`] waits,
//! [`programs`] finds what others wrote.

pub mod app;
pub mod certs;
pub mod client;
pub mod eventually;
pub mod load;
pub mod mesh;
pub mod programs;

pub use app::App;
pub use client::{Answer, Client};
pub use eventually::{eventually, until};
pub use mesh::{Builder, Mesh, Shared};

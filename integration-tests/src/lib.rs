//! A whole mesh in one process for tests: control plane, CA, gateway, a sidecar beside each application, all over real sockets.
//!
//! [`mesh`] builds and configures it, [`app`] holds the applications that tell what they saw, [`client`] the users that ask
//! them, [`load`], [`crowd`] and [`tcp`] users who never stop, [`peer`] one who shows certificates of its choice to proxies, [`control`] reaches
//! into the mesh, [`certs`] holds authorities outside the mesh, [`eventually`] waits, [`programs`] finds what others wrote.
//! [`kubernetes`] is a real API server.

pub mod app;
pub mod certs;
pub mod client;
pub mod control;
pub mod crowd;
pub mod eventually;
pub mod kubernetes;
pub mod load;
pub mod mesh;
pub mod peer;
pub mod programs;
pub mod tcp;

pub use app::App;
pub use client::{Answer, Client};
pub use crowd::Crowd;
pub use eventually::{eventually, until};
pub use mesh::{Builder, Mesh, Shared};
pub use peer::{Credentials, Peer};

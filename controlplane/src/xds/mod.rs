//! The discovery server: who asked for what, what each was told, and what is sent next.
//!
//! Fed by [`crate::push`], which says what changed; what is sent is made by translation. [`session`] decides, [`server`] does the I/O.

pub mod auth;
pub mod connection;
pub mod delta;
pub mod message;
pub mod node;
pub mod resource;
pub mod server;
pub mod session;
pub mod sotw;
pub mod transport;

pub use resource::{Names, Resource, ResourceType};

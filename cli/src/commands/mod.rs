//! One file a command: its arguments, and what it does.

pub mod completion;
pub mod demo;
pub mod local;
pub mod proxy_config;
pub mod proxy_status;
pub mod validate;
pub mod version;

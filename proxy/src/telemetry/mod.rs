//! What is counted, logged and traced: the end of the path.
//!
//! `stats` holds the metrics of Istio and of Envoy, `access_log` the log formats, `record` what one request gathers for both.

pub mod access_log;
pub mod answers;
pub mod peer;
pub mod record;
pub mod stats;

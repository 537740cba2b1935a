//! Access logs in Envoy's format strings: compiled once, written at the end of a request or connection.

/// A log sink with its compiled format. Filled in by the telemetry stage.
#[derive(Debug)]
pub struct AccessLog {}

//! Connections to endpoints: pools, dialing, circuit breakers.
//!
//! Comes after [`crate::balance`]; the last stage before the wire.

//! Which endpoint of a cluster takes a request.
//!
//! Comes after [`crate::policy`], before [`crate::connect`]. This file holds the resolved cluster and its endpoints; one file an algorithm.
//! Picking is synchronous; time and randomness are arguments.

/// A resolved cluster. Filled in by the balance stage.
#[derive(Debug)]
pub struct Cluster {}

/// An endpoint with its live state. Filled in by the balance stage.
#[derive(Debug)]
pub struct Endpoint {}

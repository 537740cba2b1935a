//! Which cluster a request goes to, and what is done to it on the way: virtual hosts, routes, matches, actions.
//!
//! Comes after `http::normalize`, before [`crate::policy`]. Compiled once from xDS; choosing is synchronous and allocates nothing.

/// A resolved `RouteConfiguration`. Filled in by the route stage.
#[derive(Debug)]
pub struct RouteTable {}

//! Which cluster a request goes to, and what is done to it on the way: virtual hosts, routes, matches, actions.
//!
//! Comes after `http::normalize`, before [`crate::policy`]. Compiled once from xDS; choosing is synchronous and allocates nothing.

pub mod action;
pub mod domain;
pub mod matcher;
pub mod table;

use std::sync::Arc;

use http::{HeaderMap, Method};

use crate::Name;
use crate::policy::authz::RbacOverride;
use crate::policy::headers::HeaderOps;
use crate::policy::retry::RetryPolicy;
use crate::telemetry::answers::Answers;
pub use action::{Action, Direct, Forward, Redirect, WeightedCluster};
use matcher::{HeaderMatcher, PathMatcher, QueryMatcher};

/// What routing and policy see of a request, after normalisation.
#[derive(Debug, Clone, Copy)]
pub struct RequestHead<'a> {
    /// Method.
    pub method: &'a Method,
    /// Path with query.
    pub path_and_query: &'a str,
    /// `:authority` or `Host`.
    pub authority: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// Headers.
    pub headers: &'a HeaderMap,
}

impl<'a> RequestHead<'a> {
    /// The path without query.
    pub fn path(&self) -> &'a str {
        self.path_and_query.split_once('?').map_or(self.path_and_query, |(path, _)| path)
    }

    /// The query without `?`.
    pub fn query(&self) -> &'a str {
        self.path_and_query.split_once('?').map_or("", |(_, query)| query)
    }
}

/// A resolved `RouteConfiguration`. A clone shares its virtual hosts.
#[derive(Debug, Clone, Default)]
pub struct RouteTable {
    /// Name.
    pub name: Option<Name>,
    /// Virtual hosts.
    pub virtual_hosts: Vec<Arc<VirtualHost>>,
    /// Which domain belongs to which of them.
    pub domains: domain::DomainIndex,
    /// Compare domains without the port of the request's authority.
    pub ignore_port: bool,
    /// For all routes.
    pub request_headers: HeaderOps,
    /// For all routes.
    pub response_headers: HeaderOps,
    /// More specific header operations win over this table's.
    pub most_specific_wins: bool,
    /// The most bytes of a body that a route itself answers with.
    pub max_direct_body: Option<usize>,
}

/// A resolved `VirtualHost`.
#[derive(Debug)]
pub struct VirtualHost {
    /// Name.
    pub name: Name,
    /// Which authorities are its, in lower case.
    pub domains: Vec<Name>,
    /// Routes, the first match wins.
    pub routes: Vec<Arc<Route>>,
    /// Redirect plaintext to TLS first.
    pub require_tls: bool,
    /// Header operations.
    pub request_headers: HeaderOps,
    /// Header operations.
    pub response_headers: HeaderOps,
    /// Tell the upstream which try it is (`x-envoy-attempt-count`).
    pub attempt_count: bool,
    /// For routes without one.
    pub retry: Option<Arc<RetryPolicy>>,
    /// Authorization that replaces the chain's.
    pub rbac: Option<RbacOverride>,
}

/// A resolved `Route`.
#[derive(Debug)]
pub struct Route {
    /// Shown in access logs.
    pub name: Option<Name>,
    /// Which requests it takes.
    pub matches: RouteMatch,
    /// What is done with them.
    pub action: Action,
    /// Header operations.
    pub request_headers: HeaderOps,
    /// Header operations.
    pub response_headers: HeaderOps,
    /// Where its configuration stands (`metadata.istio.config`).
    pub config: Option<Name>,
    /// Authorization that replaces the chain's.
    pub rbac: Option<RbacOverride>,
    /// Counters of its own (`stat_prefix`).
    pub counts: Option<Arc<RouteCounts>>,
}

/// What routes of one `stat_prefix` counted: Envoy's `vhost.HOST.route.PREFIX.`.
#[derive(Debug)]
pub struct RouteCounts {
    /// The virtual host.
    pub host: Name,
    /// The prefix.
    pub prefix: Name,
    /// Requests to a cluster that have ended.
    pub answers: Answers,
}

impl RouteTable {
    /// All counters of routes.
    pub fn counts(&self) -> impl Iterator<Item = &Arc<RouteCounts>> {
        self.virtual_hosts.iter().flat_map(|host| host.counts())
    }
}

impl VirtualHost {
    /// All counters of its routes.
    pub fn counts(&self) -> impl Iterator<Item = &Arc<RouteCounts>> {
        self.routes.iter().filter_map(|route| route.counts.as_ref())
    }
}

/// A resolved `RouteMatch`: all must hold.
#[derive(Debug)]
pub struct RouteMatch {
    /// Path.
    pub path: PathMatcher,
    /// Headers.
    pub headers: Vec<HeaderMatcher>,
    /// Query parameters.
    pub query: Vec<QueryMatcher>,
    /// gRPC requests only.
    pub grpc: bool,
    /// Share of requests, parts of a million; all when absent.
    pub fraction: Option<u32>,
}

impl RouteMatch {
    fn matches(&self, head: &RequestHead<'_>, random: u64) -> bool {
        self.path.matches(head.path(), head)
            && self.headers.iter().all(|header| header.matches(head))
            && (self.query.is_empty() || {
                let query = head.query();
                self.query.iter().all(|parameter| parameter.matches(query))
            })
            && (!self.grpc || is_grpc(head.headers))
            && self.fraction.is_none_or(|fraction| random % 1_000_000 < u64::from(fraction))
    }
}

/// True for `content-type: application/grpc` and its subtypes.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(content_type) = headers.get(http::header::CONTENT_TYPE) else { return false };
    let Some(rest) = content_type.as_bytes().strip_prefix(b"application/grpc") else { return false };
    rest.is_empty() || matches!(rest[0], b'+' | b';')
}

/// What was chosen for a request.
#[derive(Debug, Clone, Copy)]
pub struct Selected<'t> {
    /// The virtual host.
    pub virtual_host: &'t VirtualHost,
    /// The route.
    pub route: &'t Arc<Route>,
}

impl RouteTable {
    /// The clusters that routes name, some more than once.
    pub fn clusters(&self) -> impl Iterator<Item = &Name> {
        let routes = self.virtual_hosts.iter().flat_map(|host| &host.routes);
        routes
            .flat_map(|route| match &route.action {
                Action::Forward(forward) => forward.target.clusters(),
                Action::Redirect(_) | Action::Direct(_) => &[],
            })
            .map(|weighted| &weighted.cluster)
    }

    /// The first route of the request's virtual host that matches. `random` decides shares.
    pub fn select(&self, head: &RequestHead<'_>, random: u64) -> Option<Selected<'_>> {
        let host = if self.ignore_port { domain::before_port(head.authority) } else { head.authority };
        let virtual_host = &self.virtual_hosts[self.domains.find(host)?];
        let route = virtual_host.routes.iter().find(|route| route.matches.matches(head, random))?;
        Some(Selected { virtual_host, route })
    }
}

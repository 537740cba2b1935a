//! What a route does: forward, redirect, or answer itself; and the rewrites on the way.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, StatusCode};

use super::matcher::{PathMatcher, Regex};
use super::{RequestHead, domain};
use crate::Name;
use crate::policy::headers::HeaderOps;
use crate::policy::retry::RetryPolicy;

/// What a route does.
#[derive(Debug)]
pub enum Action {
    /// Sends the request to a cluster.
    Forward(Box<Forward>),
    /// Answers with a redirect.
    Redirect(Box<Redirect>),
    /// Answers with a fixed response.
    Direct(Direct),
}

/// A resolved `RouteAction`.
#[derive(Debug)]
pub struct Forward {
    /// Where to.
    pub target: Target,
    /// For the whole request; Envoy's default is 15 s, `None` is no limit.
    pub timeout: Option<Duration>,
    /// Nothing may stand still for longer; the chain's when absent.
    pub idle_timeout: Option<Option<Duration>>,
    /// A cap on `grpc-timeout` of the client (`max_stream_duration.grpc_timeout_header_max`); honoured when present.
    pub grpc_timeout_max: Option<Duration>,
    /// A stream may not live longer.
    pub max_stream_duration: Option<Duration>,
    /// Retry policy.
    pub retry: Option<Arc<RetryPolicy>>,
    /// Rewrite of the path.
    pub path: PathRewrite,
    /// Rewrite of the authority.
    pub host: HostRewrite,
    /// Append the original host to `x-forwarded-host` when it is rewritten.
    pub append_forwarded_host: bool,
    /// Upgrades allowed or forbidden here, by lower-case name; others as the chain says.
    pub upgrades: Vec<(String, bool)>,
    /// CONNECT ends here: its payload goes to the endpoint as plain bytes (`connect_config`).
    pub terminate_connect: bool,
    /// Status when the cluster does not exist.
    pub cluster_not_found: StatusCode,
}

/// Which cluster.
#[derive(Debug)]
pub enum Target {
    /// One or several, by weight.
    Weighted {
        /// At least one.
        clusters: Vec<WeightedCluster>,
        /// The sum of weights, never 0.
        total: u64,
    },
    /// The one that a request header names.
    Header(HeaderName),
}

/// A cluster with its share.
#[derive(Debug)]
pub struct WeightedCluster {
    /// Name.
    pub cluster: Name,
    /// Share of the sum.
    pub weight: u32,
    /// Header operations.
    pub request_headers: HeaderOps,
    /// Header operations.
    pub response_headers: HeaderOps,
    /// Rewrite of the authority that overrides the route's.
    pub host: HostRewrite,
}

impl Target {
    /// The cluster, if there is no choice.
    pub fn only(&self) -> Option<&Name> {
        match self {
            Self::Weighted { clusters, .. } if clusters.len() == 1 => clusters.first().map(|one| &one.cluster),
            _ => None,
        }
    }

    /// The clusters that are named here.
    pub fn clusters(&self) -> &[WeightedCluster] {
        match self {
            Self::Weighted { clusters, .. } => clusters,
            Self::Header(_) => &[],
        }
    }

    /// Chooses by weight; `random` is any number.
    pub fn choose(&self, random: u64) -> Option<&WeightedCluster> {
        let Self::Weighted { clusters, total } = self else { return None };
        let mut point = random % (*total).max(1);
        for cluster in clusters {
            match point.checked_sub(u64::from(cluster.weight)) {
                None => return Some(cluster),
                Some(rest) => point = rest,
            }
        }
        None
    }
}

/// Rewrite of the path.
#[derive(Debug, Default)]
pub enum PathRewrite {
    /// As it is.
    #[default]
    Keep,
    /// The matched prefix becomes this.
    Prefix(String),
    /// Every match of the expression becomes this; `\1` is a group.
    Regex(Regex, String),
}

/// Rewrite of the authority.
#[derive(Debug, Default)]
pub enum HostRewrite {
    /// As it is.
    #[default]
    Keep,
    /// This.
    Literal(http::HeaderValue),
    /// The name of the chosen endpoint's host (DNS clusters).
    Auto,
    /// The value of a request header.
    Header(HeaderName),
}

impl PathRewrite {
    /// The path and query to send; `None` leaves it as it is.
    pub fn apply(&self, matched: &PathMatcher, head: &RequestHead<'_>) -> Option<String> {
        let (path, query) = (head.path(), &head.path_and_query[head.path().len()..]);
        match self {
            Self::Keep => None,
            Self::Prefix(prefix) => {
                let rest = &path[matched.replaced(path).min(path.len())..];
                // A prefix that loses its slash would glue to the next segment: `/api` → `/` for `/api/x` gives `//x` in
                // Envoy too, but `/api` → `` must still begin with a slash.
                let slash = if prefix.is_empty() && !rest.starts_with('/') { "/" } else { "" };
                Some(format!("{prefix}{slash}{rest}{query}"))
            }
            Self::Regex(regex, replacement) => Some(format!("{}{query}", regex.replace_all(path, replacement))),
        }
    }
}

/// A resolved `RedirectAction`.
#[derive(Debug)]
pub struct Redirect {
    /// Status.
    pub status: StatusCode,
    /// Scheme.
    pub scheme: Option<String>,
    /// Host.
    pub host: Option<String>,
    /// Port.
    pub port: Option<u16>,
    /// Path.
    pub path: RedirectPath,
    /// Drop the query.
    pub strip_query: bool,
}

/// How a redirect changes the path.
#[derive(Debug, Default)]
pub enum RedirectPath {
    /// As it is.
    #[default]
    Keep,
    /// Replaces the whole; a query in it replaces the request's.
    Whole(String),
    /// Replaces as a rewrite does.
    Rewrite(PathRewrite),
}

impl Redirect {
    /// The value of `Location`.
    pub fn location(&self, matched: &PathMatcher, head: &RequestHead<'_>) -> String {
        let scheme = self.scheme.as_deref().unwrap_or(head.scheme);
        let mut host = self.host.as_deref().unwrap_or(head.authority).to_owned();
        if let Some(port) = self.port {
            host = format!("{}:{port}", domain::without_port(&host));
        } else if self.host.is_none() && self.scheme.is_some() {
            // A default port of the old scheme would be wrong for the new one.
            let default = if head.scheme == "https" { ":443" } else { ":80" };
            if let Some(bare) = host.strip_suffix(default) {
                host = bare.to_owned();
            }
        }
        let path_and_query = match &self.path {
            RedirectPath::Keep => head.path_and_query.to_owned(),
            RedirectPath::Whole(path) if path.contains('?') || head.query().is_empty() => path.clone(),
            RedirectPath::Whole(path) => format!("{path}?{}", head.query()),
            RedirectPath::Rewrite(rewrite) => {
                rewrite.apply(matched, head).unwrap_or_else(|| head.path_and_query.to_owned())
            }
        };
        let path = if self.strip_query && !matches!(self.path, RedirectPath::Whole(ref path) if path.contains('?')) {
            path_and_query.split('?').next().unwrap_or_default()
        } else {
            &path_and_query
        };
        format!("{scheme}://{host}{path}")
    }
}

/// A fixed response.
#[derive(Debug)]
pub struct Direct {
    /// Status.
    pub status: StatusCode,
    /// Body, empty for none.
    pub body: Bytes,
}

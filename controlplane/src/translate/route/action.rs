//! `route`: where a request is sent and how it is changed on the way (VA1, VA4–VA6, VA10).

use std::time::Duration;

use mesh_proto::crd::virtual_service::{HttpRewrite, HttpRoute, HttpRouteDestination};
use mesh_proto::names::cluster;
use mesh_proto::xds::route::route_action::{ClusterSpecifier, HostRewriteSpecifier};
use mesh_proto::xds::{matcher, route, wkt};

use super::super::wire;
use super::headers::{self, Operations};
use super::{Site, condition, destination, hash, retry};
use crate::model::Node;

/// The action of a rule, and the header operations that stand beside it on the route; `None` if an expression is wrong.
pub fn forward(site: &Site<'_>, rule: &HttpRoute) -> Option<(route::RouteAction, Operations)> {
    let mut operations = headers::operations(rule.headers.as_ref());
    let mut action = route::RouteAction::default();
    timeout(site.node, &mut action, rule.timeout.map_or(Duration::ZERO, |timeout| timeout.0));
    let mut authority = operations.authority.take();
    if let Some(rewrite) = &rule.rewrite {
        self::rewrite(&mut action, rewrite)?;
        authority = rewrite.authority.clone().filter(|authority| headers::is_authority(authority)).or(authority);
    }
    match rule.route.as_slice() {
        [] => return None,
        [only] => {
            action.cluster_specifier = Some(ClusterSpecifier::Cluster(destination::cluster(site, &only.destination)));
            let own = headers::operations(only.headers.as_ref());
            operations.request_add.extend(own.request_add);
            operations.request_remove.extend(own.request_remove);
            operations.response_add.extend(own.response_add);
            operations.response_remove.extend(own.response_remove);
            // The rule's host beats the destination's, so that one destination behaves as several do.
            authority = authority.or(own.authority);
        }
        several => action.cluster_specifier = Some(weighted(site, several)),
    }
    action.hash_policy = rule.route.iter().filter_map(|one| hash::policy(site, &one.destination)).collect();
    let sticky = rule.route.len() == 1 && !action.hash_policy.is_empty();
    let retries = rule.retries.as_ref().or(site.context.mesh.default_http_retry_policy.as_ref());
    action.retry_policy = retry::policy(retries, sticky);
    action.host_rewrite_specifier = authority.map(HostRewriteSpecifier::HostRewriteLiteral);
    Some((action, operations))
}

/// The action of a service that no rule speaks of.
pub fn plain(node: &Node, cluster: String) -> route::RouteAction {
    let mut action =
        route::RouteAction { cluster_specifier: Some(ClusterSpecifier::Cluster(cluster)), ..Default::default() };
    timeout(node, &mut action, Duration::ZERO);
    action
}

/// Sets the time for the whole request; zero is no limit, Istio's default. A gRPC client's own deadline is kept within it by Envoy; our own
/// proxy leaves deadlines to client and server.
#[allow(deprecated)]
fn timeout(node: &Node, action: &mut route::RouteAction, limit: Duration) {
    let limit: Option<wkt::Duration> = Some(wire::duration(limit));
    action.timeout = limit;
    action.max_grpc_timeout = limit.filter(|_| !node.ferromesh);
}

fn weighted(site: &Site<'_>, destinations: &[HttpRouteDestination]) -> ClusterSpecifier {
    let clusters = destinations.iter().filter_map(|one| {
        let own = headers::operations(one.headers.as_ref());
        Some(route::weighted_cluster::ClusterWeight {
            name: destination::cluster(site, &one.destination),
            weight: wire::number(destination::share(one.weight)?),
            request_headers_to_add: own.request_add,
            request_headers_to_remove: own.request_remove,
            response_headers_to_add: own.response_add,
            response_headers_to_remove: own.response_remove,
            host_rewrite_specifier: own
                .authority
                .map(route::weighted_cluster::cluster_weight::HostRewriteSpecifier::HostRewriteLiteral),
            ..Default::default()
        })
    });
    let clusters: Vec<_> = clusters.collect();
    if clusters.is_empty() {
        // No destination has a share. Proxies refuse a sum of 0, and nobody is meant to get the request.
        return ClusterSpecifier::Cluster(cluster::BLACK_HOLE.to_owned());
    }
    ClusterSpecifier::WeightedClusters(route::WeightedCluster { clusters, ..Default::default() })
}

/// Rewrites of the path. A plain one replaces what was matched: the prefix, or the whole path of other matches.
fn rewrite(action: &mut route::RouteAction, rewrite: &HttpRewrite) -> Option<()> {
    if let Some(wanted) = &rewrite.uri_regex_rewrite {
        action.regex_rewrite = Some(matcher::RegexMatchAndSubstitute {
            pattern: Some(condition::regex(&wanted.matches)?),
            substitution: wanted.rewrite.clone(),
        });
    } else if let Some(uri) = &rewrite.uri {
        action.prefix_rewrite.clone_from(uri);
    }
    Some(())
}

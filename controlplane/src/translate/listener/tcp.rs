//! Opaque connections of a client's side: the filters that send them to a cluster (VC1, VT1, CP4, CP5).

use mesh_proto::crd::virtual_service::RouteDestination;
use mesh_proto::names::cluster;
use mesh_proto::xds::tcp_proxy::{TcpProxy, tcp_proxy};
use mesh_proto::xds::{envoy_type, listener, pack};

use super::{egress, filters};
use crate::model::{Node, PushContext};
use crate::translate::cluster::policy;
use crate::translate::route::Site;
use crate::translate::route::destination::Clusters;
use crate::translate::wire;

/// Name of the filter in chains.
pub const FILTER: &str = "envoy.filters.network.tcp_proxy";

/// The filters of a route to `to`. `host` is the service whose DestinationRule holds; `rule` the name that stands for several clusters.
pub fn filters(site: &Site<'_>, to: &Clusters, host: &str, subset: &str, rule: &str) -> Vec<listener::Filter> {
    chain(filters::network(site.context, site.node), &proxy(site, to, host, subset, rule))
}

/// The same without policies, for mesh TLS that only passes through: who is at its other end shows when it is ended.
pub fn unjudged(site: &Site<'_>, to: &Clusters, host: &str, subset: &str) -> Vec<listener::Filter> {
    chain(filters::metrics(site.node), &proxy(site, to, host, subset, ""))
}

fn proxy(site: &Site<'_>, to: &Clusters, host: &str, subset: &str, rule: &str) -> TcpProxy {
    let (stat_prefix, specifier) = match to {
        Clusters::One(name) => (name.clone(), tcp_proxy::ClusterSpecifier::Cluster(name.clone())),
        Clusters::Weighted(shares) => {
            let clusters = shares.iter().map(|(name, weight)| tcp_proxy::weighted_cluster::ClusterWeight {
                name: name.clone(),
                weight: *weight,
                ..Default::default()
            });
            let weighted = tcp_proxy::WeightedCluster { clusters: clusters.collect() };
            (rule.to_owned(), tcp_proxy::ClusterSpecifier::WeightedClusters(weighted))
        }
    };
    let mut proxy = TcpProxy {
        stat_prefix,
        cluster_specifier: Some(specifier),
        access_log: filters::logs(site.context, site.node),
        ..Default::default()
    };
    limits(&mut proxy, site, to, host, subset);
    proxy
}

/// The filters for destinations that the mesh does not know.
pub fn catch_all(context: &PushContext, node: &Node, bound: bool) -> Vec<listener::Filter> {
    let mut name = egress::catch_all_cluster(context, node);
    if bound && name == cluster::PASSTHROUGH {
        // A listener with a port of its own has no original destination to pass on to: the connection would come back to it.
        name = cluster::BLACK_HOLE.to_owned();
    }
    to_cluster(context, node, &name)
}

/// The filters that send everything to one cluster.
pub fn to_cluster(context: &PushContext, node: &Node, name: &str) -> Vec<listener::Filter> {
    let proxy = TcpProxy {
        stat_prefix: name.to_owned(),
        cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster(name.to_owned())),
        access_log: filters::logs(context, node),
        ..Default::default()
    };
    chain(filters::network(context, node), &proxy)
}

fn chain(before: Vec<listener::Filter>, proxy: &TcpProxy) -> Vec<listener::Filter> {
    let mut chain = before;
    chain.push(listener::Filter {
        name: FILTER.to_owned(),
        config_type: Some(listener::filter::ConfigType::TypedConfig(pack(proxy))),
    });
    chain
}

/// Timeouts and affinity that the destination's rule sets.
fn limits(proxy: &mut TcpProxy, site: &Site<'_>, to: &Clusters, host: &str, subset: &str) {
    let Some(service) = site.service(host) else { return };
    let Some(rule) = site.context.destination_rule(site.node, service) else { return };
    let first = match to {
        Clusters::One(name) => Some(name),
        Clusters::Weighted(shares) => shares.first().map(|(name, _)| name),
    };
    let port = first.and_then(|name| cluster::parse(name)).map_or(site.port, |parsed| parsed.port);
    let traffic = policy::effective(Some(&rule.spec), (!subset.is_empty()).then_some(subset), port);
    if let Some(settings) = traffic.connection_pool.as_ref().and_then(|pool| pool.tcp.as_ref()) {
        proxy.idle_timeout = settings.idle_timeout.map(|timeout| wire::duration(timeout.0));
        proxy.max_downstream_connection_duration =
            settings.max_connection_duration.map(|duration| wire::duration(duration.0));
    }
    let hash = traffic.load_balancer.as_ref().and_then(|balancer| balancer.consistent_hash.as_ref());
    // Our own proxy does not balance by hash yet.
    if hash.is_some_and(|hash| hash.use_source_ip == Some(true)) && !site.node.ferromesh {
        use envoy_type::hash_policy::{PolicySpecifier, SourceIp};
        proxy.hash_policy =
            vec![envoy_type::HashPolicy { policy_specifier: Some(PolicySpecifier::SourceIp(SourceIp::default())) }];
    }
}

/// Host and subset of the first destination of a route, whose rule sets the limits.
pub fn first(route: &[RouteDestination]) -> (&str, &str) {
    route.first().map_or(("", ""), |one| (&one.destination.host, &one.destination.subset))
}

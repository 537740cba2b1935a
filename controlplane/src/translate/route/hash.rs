//! Which part of a request affinity hashes: `consistentHash` of the destination's DestinationRule (LB2).

use mesh_proto::crd::destination_rule::{ConsistentHashLb, TrafficPolicy};
use mesh_proto::crd::virtual_service::Destination;
use mesh_proto::xds::route;

use super::super::wire;
use super::{Site, destination};

/// The hash policy of a destination, if its traffic is balanced by hash. A subset's settings beat the rule's, a port's beat both's.
pub fn policy(site: &Site<'_>, to: &Destination) -> Option<route::route_action::HashPolicy> {
    // Our own proxy does not balance by hash yet.
    let service = site.service(&to.host).filter(|_| !site.node.ferromesh)?;
    let config = site.context.destination_rule(site.node, service)?;
    let port = u32::from(destination::port(site, to));
    let subset = config.spec.subsets.iter().find(|subset| !to.subset.is_empty() && subset.name == to.subset);
    let levels = [subset.and_then(|subset| subset.traffic_policy.as_ref()), config.spec.traffic_policy.as_ref()];
    hash_policy(levels.into_iter().flatten().find_map(|policy| of_port(policy, port))?)
}

fn of_port(policy: &TrafficPolicy, port: u32) -> Option<&ConsistentHashLb> {
    let own = policy.port_level_settings.iter().find(|one| one.port.as_ref().is_some_and(|one| one.number == port));
    let own = own.and_then(|settings| settings.load_balancer.as_ref());
    let balancer = own.or(policy.load_balancer.as_ref())?;
    balancer.consistent_hash.as_ref()
}

fn hash_policy(hash: &ConsistentHashLb) -> Option<route::route_action::HashPolicy> {
    use route::route_action::hash_policy::{
        ConnectionProperties, Cookie, CookieAttribute, Header, PolicySpecifier as P, QueryParameter,
    };
    let specifier = if let Some(name) = &hash.http_header_name {
        P::Header(Header { header_name: name.clone(), regex_rewrite: None })
    } else if let Some(cookie) = &hash.http_cookie {
        P::Cookie(Cookie {
            name: cookie.name.clone(),
            ttl: cookie.ttl.map(|ttl| wire::duration(ttl.0)),
            path: cookie.path.clone(),
            attributes: cookie
                .attributes
                .iter()
                .map(|one| CookieAttribute { name: one.name.clone(), value: one.value.clone() })
                .collect(),
        })
    } else if hash.use_source_ip == Some(true) {
        P::ConnectionProperties(ConnectionProperties { source_ip: true })
    } else if let Some(name) = &hash.http_query_parameter_name {
        P::QueryParameter(QueryParameter { name: name.clone() })
    } else {
        return None;
    };
    Some(route::route_action::HashPolicy { policy_specifier: Some(specifier), terminal: false })
}

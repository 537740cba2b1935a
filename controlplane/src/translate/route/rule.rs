//! The routes of one VirtualService at one site (VS6, VS7, VM8).

use mesh_proto::crd::VirtualService;
use mesh_proto::crd::virtual_service::{HttpMatchRequest, HttpRoute};
use mesh_proto::names::cluster;
use mesh_proto::xds::route;

use super::super::wire;
use super::headers::{self, Operations};
use super::{Site, action, condition, hash, redirect, retry};
use crate::model::context::Config;
use crate::model::{Service, ServicePort};

/// Name of the route of a service that no VirtualService speaks of.
const DEFAULT: &str = "default";

/// The routes in order; none if the VirtualService says nothing about HTTP here. Nothing follows a route that takes every request.
pub fn routes(site: &Site<'_>, config: &Config<VirtualService>) -> Vec<route::Route> {
    let mut routes = Vec::new();
    for rule in &config.spec.http {
        let conditions: Vec<Option<&HttpMatchRequest>> = match rule.matches.as_slice() {
            [] => vec![None],
            several => several.iter().map(Some).collect(),
        };
        for condition in conditions {
            let Some(route) = translate(site, config, rule, condition) else { continue };
            let last = route.r#match.as_ref().is_some_and(condition::is_catch_all);
            routes.push(route);
            if last {
                return routes;
            }
        }
    }
    routes
}

/// The route of a service that no VirtualService speaks of.
pub fn default_route(site: &Site<'_>, service: &Service, port: &ServicePort) -> route::Route {
    let to = mesh_proto::crd::virtual_service::Destination {
        host: service.host.to_string(),
        port: Some(mesh_proto::crd::PortSelector { number: port.number.into() }),
        ..Default::default()
    };
    let mut action = action::plain(site.node, cluster::outbound(port.number, "", &service.host));
    action.retry_policy = retry::policy(site.context.mesh.default_http_retry_policy.as_ref(), false);
    action.hash_policy = hash::policy(site, &to).into_iter().collect();
    route::Route {
        name: DEFAULT.to_owned(),
        r#match: condition::route_match(None),
        decorator: Some(decorator(format!("{}:{}/*", service.host, port.number))),
        action: Some(route::route::Action::Route(action)),
        ..Default::default()
    }
}

fn translate(
    site: &Site<'_>,
    config: &Config<VirtualService>,
    rule: &HttpRoute,
    condition: Option<&HttpMatchRequest>,
) -> Option<route::Route> {
    if condition.is_some_and(|condition| !condition::applies(site, condition)) {
        return None;
    }
    let r#match = condition::route_match(condition)?;
    let (action, operations) = act(site, rule)?;
    Some(route::Route {
        name: name(rule, condition),
        decorator: Some(decorator(operation(site, config, &r#match, &action))),
        r#match: Some(r#match),
        metadata: Some(wire::config_metadata(&config.key)),
        stat_prefix: condition.map(|condition| condition.stat_prefix.clone()).unwrap_or_default(),
        request_headers_to_add: operations.request_add,
        request_headers_to_remove: operations.request_remove,
        response_headers_to_add: operations.response_add,
        response_headers_to_remove: operations.response_remove,
        action: Some(action),
        ..Default::default()
    })
}

fn act(site: &Site<'_>, rule: &HttpRoute) -> Option<(route::route::Action, Operations)> {
    use route::route::Action;
    let operations = || headers::operations(rule.headers.as_ref());
    if let Some(wanted) = &rule.redirect {
        return Some((Action::Redirect(redirect::redirect(site, wanted)?), operations()));
    }
    if let Some(wanted) = &rule.direct_response {
        return Some((Action::DirectResponse(redirect::direct(wanted)?), operations()));
    }
    let (action, operations) = action::forward(site, rule)?;
    Some((Action::Route(action), operations))
}

/// `NAME`, or `NAME.MATCHNAME`.
fn name(rule: &HttpRoute, condition: Option<&HttpMatchRequest>) -> String {
    match condition.map(|condition| condition.name.as_str()) {
        None | Some("") => rule.name.clone(),
        Some(name) => format!("{}.{name}", rule.name),
    }
}

fn decorator(operation: String) -> route::Decorator {
    route::Decorator { operation, ..Default::default() }
}

/// What traces call the route: `HOST:PORT/PATH` of its one destination, else the VirtualService's name in place of the host.
fn operation(
    site: &Site<'_>,
    config: &Config<VirtualService>,
    r#match: &route::RouteMatch,
    action: &route::route::Action,
) -> String {
    use route::route_action::ClusterSpecifier;
    use route::route_match::PathSpecifier as Path;
    let path = match &r#match.path_specifier {
        Some(Path::Prefix(prefix)) => format!("{prefix}*"),
        Some(Path::Path(path)) => path.clone(),
        Some(Path::SafeRegex(pattern)) => pattern.regex.clone(),
        _ => "/*".to_owned(),
    };
    if let route::route::Action::Route(action) = action
        && let Some(ClusterSpecifier::Cluster(name)) = &action.cluster_specifier
        && let Some(parsed) = cluster::parse(name)
    {
        return format!("{}:{}{path}", parsed.host, parsed.port);
    }
    format!("{}:{}{path}", config.key.name, site.port)
}

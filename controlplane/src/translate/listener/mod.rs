//! Listeners: where connections come in, and which filter chain takes them.
//!
//! `egress` says what a sidecar's outbound listeners serve, `outbound` and `gateway` build them, of the parts in `chain`, `tcp`
//! and `tls`; `inbound` builds those towards the workload.

use std::collections::BTreeSet;

use mesh_proto::xds::{hcm, listener, unpack};

use super::http;
use crate::model::{Name, Node, PushContext};

pub mod chain;
pub mod egress;
pub mod filters;
pub mod gateway;
pub mod inbound;
pub mod outbound;
pub mod tcp;
#[cfg(test)]
mod tests;
pub mod tls;

/// All listeners of a proxy.
pub fn listeners(context: &PushContext, node: &Node) -> Vec<listener::Listener> {
    let mut all = towards_services(context, node);
    all.extend(inbound::listeners(context, node));
    all
}

/// Those that do not depend on what the workload serves: all of a gateway, the outbound ones of a sidecar.
pub fn towards_services(context: &PushContext, node: &Node) -> Vec<listener::Listener> {
    let mut all = outbound::listeners(context, node);
    all.extend(gateway::listeners(context, node));
    all
}

/// The route tables that these listeners ask for by name.
pub fn table_names(listeners: &[listener::Listener]) -> Vec<Name> {
    let chains = listeners.iter().flat_map(|one| one.filter_chains.iter().chain(&one.default_filter_chain));
    let filters = chains.flat_map(|chain| &chain.filters).filter(|filter| filter.name == http::FILTER);
    let names = filters.filter_map(|filter| {
        let Some(listener::filter::ConfigType::TypedConfig(any)) = &filter.config_type else { return None };
        let manager: hcm::HttpConnectionManager = unpack(any).ok()?;
        match manager.route_specifier? {
            hcm::http_connection_manager::RouteSpecifier::Rds(rds) => Some(rds.route_config_name.into()),
            _ => None,
        }
    });
    names.collect::<BTreeSet<Name>>().into_iter().collect()
}

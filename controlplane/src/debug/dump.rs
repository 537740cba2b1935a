//! What a proxy is told now, in the form of Envoy's `/config_dump`.

use serde_json::{Value, json};

use crate::model::{Name, Node};
use crate::push::World;
use crate::xds::connection::Stream;
use crate::xds::{Names, Resource, ResourceType};

/// The dump of a proxy: what it asked for, as it would be sent now.
pub(super) fn dump(stream: &Stream, world: &dyn World) -> Value {
    let wanted: Vec<_> = {
        let session = stream.session.lock();
        session.types().iter().map(|(kind, state)| (*kind, state.is_wildcard(), state.names().clone())).collect()
    };
    let node = Node { vhds: false, ..(*stream.node).clone() };
    let configs = wanted.into_iter().filter_map(|(kind, wildcard, names)| {
        let names: Vec<Name> = names.into_iter().collect();
        let names = if wildcard { Names::All } else { Names::Some(&names) };
        // Keys are shown to nobody.
        if kind == ResourceType::Secret {
            return None;
        }
        // Tables are shown whole, however they are sent.
        if kind == ResourceType::VirtualHost {
            return None;
        }
        let rows: Vec<Value> = world.resources(&node, kind, names).iter().map(|one| row(kind, one)).collect();
        let (message, field) = match kind {
            ResourceType::Cluster => ("ClustersConfigDump", "dynamic_active_clusters"),
            ResourceType::Endpoint => ("EndpointsConfigDump", "dynamic_endpoint_configs"),
            ResourceType::Listener => ("ListenersConfigDump", "dynamic_listeners"),
            ResourceType::Route | ResourceType::VirtualHost => ("RoutesConfigDump", "dynamic_route_configs"),
            ResourceType::Secret | ResourceType::NameTable => ("EcdsConfigDump", "name_tables"),
        };
        Some(json!({ "@type": format!("type.googleapis.com/envoy.admin.v3.{message}"), field: rows }))
    });
    json!({ "configs": configs.collect::<Vec<_>>() })
}

fn row(kind: ResourceType, resource: &Resource) -> Value {
    let body = match mesh_proto::yaml::bytes_to_json(kind.type_url(), &resource.body) {
        Ok(Value::Object(mut body)) => {
            body.insert("@type".to_owned(), json!(kind.type_url()));
            Value::Object(body)
        }
        Ok(other) => other,
        Err(error) => json!({ "error": error }),
    };
    let field = match kind {
        ResourceType::Cluster => "cluster",
        ResourceType::Endpoint => "endpoint_config",
        ResourceType::Listener => {
            return json!({
                "name": *resource.name,
                "active_state": { "version_info": *resource.version, "listener": body },
            });
        }
        ResourceType::Route | ResourceType::VirtualHost => "route_config",
        ResourceType::Secret => "secret",
        ResourceType::NameTable => "name_table",
    };
    json!({ "version_info": *resource.version, field: body })
}

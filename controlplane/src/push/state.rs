//! A published state: the context, and what was made of it for each class of proxies.
//!
//! Read by [`crate::xds`]. Proxies that translation cannot tell apart, such as the replicas of a deployment, share one [`View`], which is made when
//! the first of them asks, of the view before where there is one.

use std::sync::{Arc, OnceLock};

use mesh_proto::names::cluster as names;
use parking_lot::Mutex;

use super::pool::Pool;
use super::view::View;
use super::{Touched, World};
use crate::model::{Changes, Node, PushContext};
use crate::translate::{self, cluster};
use crate::xds::{Names, Resource, ResourceType};

/// How many states a view outlives the last proxy that asked for it.
const IDLE: u32 = 64;

/// See the module.
#[derive(Debug)]
pub struct State {
    context: Arc<PushContext>,
    pool: Arc<Pool>,
    classes: Mutex<Vec<Class>>,
}

/// The view of a class of proxies.
#[derive(Debug, Clone)]
struct Class {
    node: Arc<Node>,
    /// The newest view of an earlier state, and what changed since.
    base: Option<(Arc<View>, Changes)>,
    view: Arc<OnceLock<Arc<View>>>,
    idle: u32,
}

impl State {
    /// Without anything made.
    pub fn new(context: Arc<PushContext>) -> Self {
        Self { context, pool: Arc::default(), classes: Mutex::default() }
    }

    /// The next state, which starts from the views of this one.
    #[must_use]
    pub fn next(&self, context: Arc<PushContext>, changes: &Changes) -> Self {
        let classes = self.classes.lock().clone().into_iter().filter_map(|class| {
            let (base, idle) = match (class.view.get(), class.base) {
                (Some(view), _) => (Some((view.clone(), changes.clone())), 0),
                (None, Some((view, mut before))) => {
                    before.merge(changes);
                    (Some((view, before)), class.idle + 1)
                }
                (None, None) => (None, class.idle + 1),
            };
            (idle < IDLE).then(|| Class { node: class.node, base, view: Arc::default(), idle })
        });
        Self { context, pool: self.pool.clone(), classes: Mutex::new(classes.collect()) }
    }

    fn view(&self, node: &Node) -> Arc<View> {
        let wanted = class(&self.context, node);
        let class = {
            let mut classes = self.classes.lock();
            match classes.iter().find(|class| *class.node == wanted) {
                Some(class) => class.clone(),
                None => {
                    let class = Class { node: Arc::new(wanted), base: None, view: Arc::default(), idle: 0 };
                    classes.push(class.clone());
                    class
                }
            }
        };
        let make = || match &class.base {
            Some((base, changes)) => View::after(base, &self.context, changes),
            None => View::new(&self.context, class.node.clone(), self.pool.clone()),
        };
        class.view.get_or_init(|| Arc::new(make())).clone()
    }
}

/// A node with nothing left but what shared translations read: of its addresses only the IP versions, and where it is.
fn class(context: &PushContext, node: &Node) -> Node {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    let unspecified = |address: &IpAddr| match address {
        IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in node.addresses.iter().map(unspecified) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Node {
        id: "".into(),
        name: "".into(),
        service_account: "".into(),
        workload_name: "".into(),
        annotations: Default::default(),
        cluster: "".into(),
        network: "".into(),
        addresses,
        locality: context.locality(node).into(),
        ..node.clone()
    }
}

impl World for State {
    fn resources(&self, node: &Node, kind: ResourceType, names: Names<'_>) -> Vec<Resource> {
        // gRPC's clients ask for few names each, and secrets are few.
        if node.grpc || kind == ResourceType::Secret {
            return translate::resources(&self.context, node, kind, names);
        }
        self.view(node).resources(&self.context, node, kind, names)
    }

    fn touched(&self, node: &Node, seen: u64, changes: &Changes) -> Touched {
        if changes.is_about(node) || (node.grpc && !changes.is_of_endpoints()) {
            return Touched::all();
        }
        if node.grpc {
            return Touched::types([ResourceType::Endpoint]);
        }
        let Some(mut touched) = self.view(node).touched_since(seen) else { return Touched::all() };
        if changes.secrets || !changes.clusters.is_empty() {
            // Rules name the secrets of clients.
            touched.types.insert(ResourceType::Secret);
        }
        if changes.touches_served(node) {
            touched.served = true;
            for port in cluster::inbound_ports(&self.context, node) {
                touched.add(ResourceType::Cluster, names::inbound(port.number).into());
            }
        }
        touched
    }

    fn number(&self) -> u64 {
        self.context.version
    }
}

//! The resources of one class of proxies, encoded once, and how they follow a change: what it may have touched is made anew, and what then
//! differs is what the class's streams look at.
//!
//! Kept by [`super::state`]; translation makes the parts.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use mesh_proto::names::cluster as names;
use parking_lot::Mutex;

use super::Touched;
use super::pool::Pool;
use super::table::Table;
use crate::model::scope::Scope;
use crate::model::{Changes, Name, Node, NodeKind, PushContext, Service};
use crate::translate::route::virtual_hosts;
use crate::translate::{self, Names, Resource, ResourceType, cluster, endpoint, listener, name_table};

/// How many steps from view to view are remembered.
const STEPS: usize = 64;

/// See the module.
#[derive(Debug)]
pub struct View {
    /// Of the context.
    number: u64,
    node: Arc<Node>,
    pool: Arc<Pool>,
    scope: Arc<Scope>,
    /// Outbound clusters by host.
    clusters: BTreeMap<Name, Arc<[Resource]>>,
    /// Clusters of no service.
    fixed: Arc<[Resource]>,
    asked: Mutex<Asked>,
    steps: VecDeque<Step>,
}

/// From which context to which, and what differs.
#[derive(Debug, Clone)]
struct Step {
    from: u64,
    to: u64,
    touched: Arc<Touched>,
}

/// What is made when a proxy asks for it.
#[derive(Debug, Clone, Default)]
struct Asked {
    listeners: Option<Arc<BTreeMap<Name, Resource>>>,
    tables: BTreeMap<Name, Option<Arc<Table>>>,
    /// By host.
    endpoints: BTreeMap<Name, Arc<Assignments>>,
    names: Option<Resource>,
}

/// Assignments of one host by name of the cluster; none where there is no such.
type Assignments = BTreeMap<Name, Option<Resource>>;

impl View {
    /// All anew.
    pub fn new(context: &PushContext, node: Arc<Node>, pool: Arc<Pool>) -> Self {
        let scope = context.scope(&node);
        let made = |service: &Arc<Service>| clusters_of(context, &node, service, &pool);
        let clusters = scope.services.iter().map(|service| (service.host.clone(), made(service)));
        Self {
            number: context.version,
            clusters: clusters.collect(),
            fixed: fixed(context, &node),
            asked: Mutex::default(),
            steps: VecDeque::new(),
            pool,
            node,
            scope,
        }
    }

    /// The next, after `changes`.
    pub fn after(base: &Self, context: &PushContext, changes: &Changes) -> Self {
        let node = base.node.clone();
        let scope = context.scope(&node);
        let mut follow = Follow { base, context, changes, scope: &scope, touched: Touched::default() };
        let hosts = follow.hosts();
        let mut clusters = base.clusters.clone();
        for host in &hosts {
            follow.clusters(host, &mut clusters);
        }
        let fixed = if changes.full { fixed(context, &node) } else { base.fixed.clone() };
        differing(base.fixed.iter(), fixed.iter(), |name| follow.touched.add(ResourceType::Cluster, name));
        let mut asked = base.asked.lock().clone();
        follow.endpoints(&hosts, &mut asked.endpoints);
        follow.listeners(&mut asked.listeners);
        follow.tables(&mut asked.tables);
        follow.names(&mut asked.names);
        let touched = Arc::new(follow.touched);
        let mut steps = base.steps.clone();
        if steps.len() == STEPS {
            steps.pop_front();
        }
        steps.push_back(Step { from: base.number, to: context.version, touched });
        let pool = base.pool.clone();
        Self { number: context.version, node, pool, scope, clusters, fixed, asked: Mutex::new(asked), steps }
    }

    /// What differs from the view of context `seen`; `None` if that is not known.
    pub fn touched_since(&self, seen: u64) -> Option<Touched> {
        let mut touched = Touched::default();
        if seen >= self.number {
            return Some(touched);
        }
        self.steps.front().filter(|step| step.from <= seen)?;
        for step in self.steps.iter().filter(|step| step.to > seen) {
            touched.merge(&step.touched);
        }
        Some(touched)
    }

    /// The resources of a type for a proxy of this class.
    pub fn resources(&self, context: &PushContext, node: &Node, kind: ResourceType, names: Names<'_>) -> Vec<Resource> {
        match (kind, names) {
            (ResourceType::Cluster, Names::All) => {
                let shared = self.clusters.values().flat_map(|list| list.iter()).chain(self.fixed.iter());
                shared.cloned().chain(inbound(context, node)).collect()
            }
            (ResourceType::Cluster, Names::Some(list)) => {
                let mut found: Vec<Resource> = list.iter().filter_map(|name| self.cluster(name).cloned()).collect();
                if list.iter().any(|name| name.starts_with(INBOUND)) {
                    found.extend(inbound(context, node).filter(|one| list.contains(&one.name)));
                }
                found
            }
            (ResourceType::Endpoint, Names::Some(list)) => {
                list.iter().filter_map(|name| self.assignment(context, node, name)).collect()
            }
            (ResourceType::Listener, _) => self.listeners(context, node, names),
            (ResourceType::Route | ResourceType::VirtualHost, Names::Some(list)) => {
                list.iter().flat_map(|name| self.routes(context, kind, name)).collect()
            }
            (ResourceType::NameTable, _) => {
                let mut asked = self.asked.lock();
                vec![asked.names.get_or_insert_with(|| name_table(context, &self.node)).clone()]
            }
            // No proxy asks for all of these.
            (ResourceType::Endpoint | ResourceType::Route | ResourceType::VirtualHost, Names::All)
            | (ResourceType::Secret, _) => translate::resources(context, node, kind, names),
        }
    }

    fn cluster(&self, name: &str) -> Option<&Resource> {
        match names::parse(name) {
            Some(parsed) => self.clusters.get(parsed.host)?.iter().find(|one| *one.name == *name),
            None => self.fixed.iter().find(|one| *one.name == *name),
        }
    }

    fn assignment(&self, context: &PushContext, node: &Node, name: &Name) -> Option<Resource> {
        let host = names::parse(name)?.host;
        if self.scope.service(host).is_some_and(|service| service.node_local) {
            // These endpoints are chosen by the machine of the proxy.
            return assignment(context, node, name);
        }
        let mut asked = self.asked.lock();
        let known = Arc::make_mut(asked.endpoints.entry(host.into()).or_default());
        let make = || assignment(context, &self.node, name).map(|made| self.pool.share(made));
        known.entry(name.clone()).or_insert_with(make).clone()
    }

    fn listeners(&self, context: &PushContext, node: &Node, names: Names<'_>) -> Vec<Resource> {
        let own = listener::inbound::listeners(context, node).into_iter();
        let own = own.filter(|one| names.contains(&one.name)).map(|one| listener(&one));
        let own: Vec<_> = own.collect();
        // Made in any case: by what differs in them every proxy of the class learns what to look at.
        let shared = self.shared_listeners(context);
        if node.addresses.iter().any(|address| context.dialed().contains(address)) {
            // A workload that is dialed by its own address has no listener of that address.
            let all = listener::towards_services(context, node).into_iter();
            let wanted = all.filter(|one| names.contains(&one.name)).map(|one| listener(&one));
            return wanted.chain(own).collect();
        }
        let shared: Vec<Resource> = match names {
            Names::All => shared.values().cloned().collect(),
            Names::Some(list) => list.iter().filter_map(|name| shared.get(name).cloned()).collect(),
        };
        shared.into_iter().chain(own).collect()
    }

    fn shared_listeners(&self, context: &PushContext) -> Arc<BTreeMap<Name, Resource>> {
        let mut asked = self.asked.lock();
        asked.listeners.get_or_insert_with(|| Arc::new(shared_listeners(context, &self.node))).clone()
    }

    fn routes(&self, context: &PushContext, kind: ResourceType, name: &Name) -> Vec<Resource> {
        let wanted: Name = match kind {
            ResourceType::VirtualHost => virtual_hosts::table_of(name).into(),
            _ => name.clone(),
        };
        let table = {
            let mut asked = self.asked.lock();
            let make = || Table::new(context, &self.node, &self.scope, &wanted, &self.pool).map(Arc::new);
            asked.tables.entry(wanted.clone()).or_insert_with(make).clone()
        };
        let Some(table) = table else { return Vec::new() };
        match kind {
            ResourceType::VirtualHost => table.hosts(name),
            _ => vec![table.whole()],
        }
    }
}

/// How one view follows from another.
struct Follow<'a> {
    base: &'a View,
    context: &'a PushContext,
    changes: &'a Changes,
    scope: &'a Scope,
    touched: Touched,
}

impl Follow<'_> {
    fn node(&self) -> &Node {
        &self.base.node
    }

    /// True where a scope or a table depends on more than a host at a time.
    fn is_coupled(&self) -> bool {
        !self.scope.everything || self.node().kind == NodeKind::Router
    }

    /// True if more than endpoints changed.
    fn is_more(&self) -> bool {
        !self.changes.is_of_endpoints()
    }

    /// Hosts whose clusters may differ.
    fn hosts(&self) -> BTreeSet<Name> {
        let (before, after) = (&self.base.scope.services, &self.scope.services);
        let all = || before.iter().chain(after.iter()).map(|service| service.host.clone());
        if self.changes.full {
            return all().collect();
        }
        let mut hosts = self.changes.clusters.clone();
        if !std::ptr::eq(&*self.base.scope, self.scope) {
            let (mut old, mut new) = (before.iter().peekable(), after.iter().peekable());
            loop {
                let order = match (old.peek(), new.peek()) {
                    (None, None) => break,
                    (Some(_), None) => std::cmp::Ordering::Less,
                    (None, Some(_)) => std::cmp::Ordering::Greater,
                    (Some(old), Some(new)) => old.host.cmp(&new.host),
                };
                let one = if order.is_le() { old.next() } else { None };
                let other = if order.is_ge() { new.next() } else { None };
                if let (Some(one), Some(other)) = (one, other)
                    && (Arc::ptr_eq(one, other) || one == other)
                {
                    continue;
                }
                hosts.extend(one.or(other).map(|service| service.host.clone()));
            }
        }
        hosts
    }

    fn clusters(&mut self, host: &Name, clusters: &mut BTreeMap<Name, Arc<[Resource]>>) {
        let made = self
            .scope
            .service(host)
            .map(|service| clusters_of(self.context, &self.base.node, service, &self.base.pool));
        let before = clusters.get(host).cloned();
        let none = Arc::default();
        let (old, new) = (before.as_ref().unwrap_or(&none), made.as_ref().unwrap_or(&none));
        let touched = &mut self.touched;
        differing(old.iter(), new.iter(), |name| touched.add(ResourceType::Cluster, name));
        match made {
            Some(made) => clusters.insert(host.clone(), made),
            None => clusters.remove(host),
        };
    }

    fn endpoints(&mut self, hosts: &BTreeSet<Name>, known: &mut BTreeMap<Name, Arc<Assignments>>) {
        let hosts: Vec<Name> = match self.changes.full {
            true => known.keys().cloned().collect(),
            false => hosts.union(&self.changes.endpoints).cloned().collect(),
        };
        for host in hosts {
            let local = |scope: &Scope| scope.service(&host).is_some_and(|service| service.node_local);
            let local = local(self.scope) || local(&self.base.scope);
            if local {
                // Made for each proxy; which names there are is known by the clusters.
                let all = [self.base.clusters.get(&host)].into_iter().flatten().flat_map(|list| list.iter());
                all.for_each(|one| self.touched.add(ResourceType::Endpoint, one.name.clone()));
            }
            for (name, before) in known.get_mut(&host).map(Arc::make_mut).into_iter().flatten() {
                let now = assignment(self.context, &self.base.node, name).map(|made| self.base.pool.share(made));
                let version = |one: &Option<Resource>| one.as_ref().map(|one| one.version.clone());
                if local || version(before) != version(&now) {
                    self.touched.add(ResourceType::Endpoint, name.clone());
                    *before = now;
                }
            }
        }
    }

    fn listeners(&mut self, known: &mut Option<Arc<BTreeMap<Name, Resource>>>) {
        let coupled = self.is_coupled() && self.is_more();
        let Some(before) = known.as_ref().filter(|_| self.changes.full || self.changes.listeners || coupled) else {
            return;
        };
        let mut now = shared_listeners(self.context, self.node());
        let touched = &mut self.touched;
        differing(before.values(), now.values(), |name| touched.add(ResourceType::Listener, name));
        share(&mut now, before);
        *known = Some(Arc::new(now));
    }

    fn tables(&mut self, known: &mut BTreeMap<Name, Option<Arc<Table>>>) {
        let whole = self.changes.full || self.changes.tables || (self.is_coupled() && self.is_more());
        if !whole && self.changes.virtual_hosts.is_empty() {
            return;
        }
        let hosts = (!whole).then_some(&self.changes.virtual_hosts);
        for (name, table) in known {
            let touched = &mut self.touched;
            if let (Some(table), Some(hosts)) = (&mut *table, hosts)
                && let Some((now, differing)) =
                    table.update(self.context, &self.base.node, self.scope, hosts, &self.base.pool)
            {
                now.report(differing, |kind, name| touched.add(kind, name));
                *table = Arc::new(now);
                continue;
            }
            let now = Table::new(self.context, &self.base.node, self.scope, name, &self.base.pool);
            Table::compare(table.as_deref(), now.as_ref(), name, |kind, name| touched.add(kind, name));
            *table = now.map(Arc::new);
        }
    }

    fn names(&mut self, known: &mut Option<Resource>) {
        let scope = !std::ptr::eq(&*self.base.scope, self.scope);
        let changed = self.changes.full || scope || self.changes.listeners || !self.changes.services.is_empty();
        let Some(before) = known.as_ref().filter(|_| changed) else { return };
        let now = name_table(self.context, self.node());
        if now.version != before.version {
            self.touched.add(ResourceType::NameTable, now.name.clone());
            *known = Some(now);
        }
    }
}

/// Names of resources that only one of both has, or that differ.
pub(super) fn differing<'a>(
    before: impl Iterator<Item = &'a Resource>,
    after: impl Iterator<Item = &'a Resource>,
    mut report: impl FnMut(Name),
) {
    let mut old: BTreeMap<&Name, &Name> = before.map(|one| (&one.name, &one.version)).collect();
    for one in after {
        if old.remove(&one.name) != Some(&one.version) {
            report(one.name.clone());
        }
    }
    old.into_keys().for_each(|name| report(name.clone()));
}

/// Keeps what is as before in its memory of before, which streams hold too.
pub(super) fn share(now: &mut BTreeMap<Name, Resource>, before: &BTreeMap<Name, Resource>) {
    for (name, one) in now {
        if let Some(same) = before.get(name).filter(|known| known.version == one.version) {
            *one = same.clone();
        }
    }
}

/// Before the port in names of inbound clusters.
const INBOUND: &str = "inbound|";

fn clusters_of(context: &PushContext, node: &Node, service: &Service, pool: &Pool) -> Arc<[Resource]> {
    cluster::of_service(context, node, service).iter().map(|one| pool.share(of_cluster(one))).collect()
}

fn fixed(context: &PushContext, node: &Node) -> Arc<[Resource]> {
    cluster::fixed_clusters(context, node).iter().map(of_cluster).collect()
}

fn inbound(context: &PushContext, node: &Node) -> impl Iterator<Item = Resource> {
    cluster::inbound(context, node).into_iter().map(|one| of_cluster(&one))
}

fn of_cluster(one: &mesh_proto::xds::cluster::Cluster) -> Resource {
    Resource::new(one.name.as_str().into(), ResourceType::Cluster, one)
}

fn listener(one: &mesh_proto::xds::listener::Listener) -> Resource {
    Resource::new(one.name.as_str().into(), ResourceType::Listener, one)
}

fn shared_listeners(context: &PushContext, node: &Node) -> BTreeMap<Name, Resource> {
    let all = listener::towards_services(context, node).into_iter().map(|one| listener(&one));
    all.map(|one| (one.name.clone(), one)).collect()
}

fn assignment(context: &PushContext, node: &Node, name: &Name) -> Option<Resource> {
    let made = endpoint::named(context, node, name)?;
    Some(Resource::new(name.clone(), ResourceType::Endpoint, &made))
}

fn name_table(context: &PushContext, node: &Node) -> Resource {
    Resource::new(name_table::NAME.into(), ResourceType::NameTable, &name_table::name_table(context, node))
}

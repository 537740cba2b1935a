//! What the proxy holds of its configuration, and the snapshot that follows from it. No I/O; time is an argument.
//!
//! [`crate::xds::client`] and the bootstrap put resources in, each taken whole or refused with the last good version kept. A snapshot
//! shows only what can be used: a cluster comes when its endpoints are known, a route table when its clusters have come, a
//! listener when its route tables and secrets have; until then what was before stays, so that new configuration never
//! causes an error (BX8). All waiting is bounded. What was not changed keeps its `Arc`, and with it its live state.

mod settle;
mod virtual_hosts;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use indexmap::IndexMap;
use mesh_proto::istio::nds::NameTable;
use mesh_proto::xds::{cluster, endpoint, listener, route, tls, wkt};
use tokio::time::Instant;

use super::decode::http::FETCH_TIMEOUT;
use super::decode::{self, Context, Decoded, Refusal, supported, unpack};
use super::kind::{Kind, name_of};
use crate::Name;
use crate::balance::{Cluster, Discovery, EndpointSpec, Transport};
use crate::dns;
use crate::http::RouteSource;
use crate::listener::{ChainProtocol, Listener};
use crate::route::{RouteTable, VirtualHost};
use crate::snapshot::{Snapshot, Table};

/// Where a resource came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The bootstrap: stays for ever.
    Static,
    /// A control plane or a watched file.
    Dynamic,
}

/// A resource as it comes.
#[derive(Debug, Clone)]
pub struct Resource {
    /// Its name, where the transport told it beside the body.
    pub name: Option<String>,
    /// Its version.
    pub version: String,
    /// Its bytes, of the type that the update says.
    pub body: Vec<u8>,
}

/// Resources of one kind that came together.
#[derive(Debug, Default)]
pub struct Update {
    /// New or changed.
    pub resources: Vec<Resource>,
    /// Gone.
    pub removed: Vec<String>,
    /// These are all there are: others of the kind are gone (state-of-the-world, wildcard kinds only).
    pub whole: bool,
}

/// A resource that was not taken.
#[derive(Debug, Clone)]
pub struct Refused {
    /// Its name.
    pub name: Name,
    /// Why.
    pub refusal: Refusal,
    /// Its version.
    pub version: String,
    /// When.
    pub at: SystemTime,
}

/// A resource with what was made of it.
#[derive(Debug)]
struct Held<T> {
    body: Vec<u8>,
    version: String,
    origin: Origin,
    updated: SystemTime,
    secrets: Vec<Name>,
    value: T,
}

#[derive(Debug)]
struct ClusterHeld {
    newest: Arc<Cluster>,
    live: Option<Arc<Cluster>>,
    since: Instant,
    patience: Option<Duration>,
    removed: Option<Instant>,
}

#[derive(Debug)]
struct RouteHeld {
    newest: Arc<RouteTable>,
    live: Option<Arc<RouteTable>>,
    since: Instant,
    /// Of a table whose virtual hosts come apart from it.
    apart: Option<Apart>,
}

/// Virtual hosts that come apart from their table (VHDS): in this order they are the last of it.
#[derive(Debug)]
struct Apart {
    hosts: IndexMap<Name, Held<Arc<VirtualHost>>>,
    /// True once the control plane has told which there are.
    came: bool,
    since: Instant,
    patience: Option<Duration>,
}

#[derive(Debug)]
struct ListenerHeld {
    newest: Arc<Listener>,
    live: Option<Arc<Listener>>,
    since: Instant,
    routes: Vec<(Name, Option<Duration>)>,
}

/// A cluster whose names are to be resolved, and the names.
pub type ToResolve = (Weak<Cluster>, Vec<EndpointSpec>);

/// All resources, and the snapshot last made of them.
#[derive(Debug)]
pub struct State {
    context: Context,
    clusters: IndexMap<Name, Held<ClusterHeld>>,
    endpoints: IndexMap<Name, Held<Vec<EndpointSpec>>>,
    routes: IndexMap<Name, Held<RouteHeld>>,
    listeners: IndexMap<Name, Held<ListenerHeld>>,
    secrets: IndexMap<Name, Held<()>>,
    names: IndexMap<Name, Held<Arc<dns::Table>>>,
    refused: BTreeMap<(Kind, Name), Refused>,
    own_secrets: BTreeSet<Name>,
    to_resolve: Vec<ToResolve>,
    /// Virtual hosts of the update in hand, to be put into their tables together.
    staged: Vec<(Name, Held<Arc<VirtualHost>>)>,
    /// How often each kind has changed, in what is held or in what of it is live.
    changes: [u64; Kind::ALL.len()],
    /// `changes` when what nothing refers to was last dropped.
    forgotten: [u64; Kind::ALL.len()],
    published: Snapshot,
}

/// A resource for a dump.
#[derive(Debug, Clone)]
pub struct Shown<'s> {
    /// Name.
    pub name: &'s Name,
    /// Version.
    pub version: &'s str,
    /// Bytes.
    pub body: &'s [u8],
    /// Where from.
    pub origin: Origin,
    /// When it came.
    pub updated: SystemTime,
    /// True while it waits for what it refers to.
    pub warming: bool,
}

impl State {
    /// Nothing yet. `own_secrets` are those that the identity or files provide; they are never asked of a control plane.
    pub fn new(context: Context, own_secrets: impl IntoIterator<Item = Name>) -> Self {
        Self {
            context,
            clusters: IndexMap::new(),
            endpoints: IndexMap::new(),
            routes: IndexMap::new(),
            listeners: IndexMap::new(),
            secrets: IndexMap::new(),
            names: IndexMap::new(),
            refused: BTreeMap::new(),
            own_secrets: own_secrets.into_iter().collect(),
            to_resolve: Vec::new(),
            staged: Vec::new(),
            changes: Default::default(),
            forgotten: Default::default(),
            published: Snapshot::default(),
        }
    }

    /// What decoded values refer to.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Takes resources; returns those that were refused. The others are taken all the same.
    pub fn update(&mut self, kind: Kind, update: Update, origin: Origin, now: Instant) -> Vec<Refused> {
        let mut refused = Vec::new();
        let mut present = BTreeSet::new();
        if kind == Kind::VirtualHost && update.resources.is_empty() && update.removed.is_empty() {
            self.hosts_came();
        }
        for resource in update.resources {
            let version = resource.version.clone();
            let named = resource.name.clone();
            let taken = name_of(kind, &resource).and_then(|name| {
                present.insert(name.clone());
                let result = self.take(kind, &name, resource, origin, now);
                if result.is_ok() {
                    self.refused.remove(&(kind, name.clone()));
                }
                result.map_err(|refusal| (name, refusal))
            });
            if let Err((name, refusal)) = taken {
                let name = if name.is_empty() { named.unwrap_or_default().into() } else { name };
                let one = Refused { name: name.clone(), refusal, version, at: SystemTime::now() };
                self.refused.insert((kind, name), one.clone());
                refused.push(one);
            }
        }
        let mut removed: Vec<Name> = update.removed.iter().map(|name| name.as_str().into()).collect();
        if update.whole {
            removed.extend(self.dynamic_names(kind).into_iter().filter(|name| !present.contains(name)));
        }
        for name in &removed {
            self.refused.remove(&(kind, name.clone()));
            self.remove(kind, name, now);
        }
        if kind == Kind::VirtualHost {
            let unfit = self.place_hosts(&present, &removed, now);
            self.refused.extend(unfit.iter().map(|one| ((kind, one.name.clone()), one.clone())));
            refused.extend(unfit);
        }
        refused
    }

    fn dynamic_names(&self, kind: Kind) -> Vec<Name> {
        self.show(kind).into_iter().filter(|one| one.origin == Origin::Dynamic).map(|one| one.name.clone()).collect()
    }

    fn take(&mut self, kind: Kind, name: &Name, resource: Resource, origin: Origin, now: Instant) -> Decoded<()> {
        if let Some((body, known, version)) = self.held_mut(kind, name) {
            if known == Origin::Static && origin == Origin::Dynamic {
                return Err(Refusal::new("the bootstrap holds a resource of this name"));
            }
            if *body == resource.body {
                *version = resource.version;
                if let Some(held) = self.clusters.get_mut(name).filter(|_| kind == Kind::Cluster) {
                    held.value.removed = None;
                }
                return Ok(());
            }
        }
        self.changes[kind as usize] += 1;
        let mentioned = supported::check(kind.type_url(), &resource.body)?;
        let any = wkt::Any { type_url: kind.type_url().to_owned(), value: resource.body };
        let frame = |any: wkt::Any| Held {
            body: any.value,
            version: resource.version,
            origin,
            updated: SystemTime::now(),
            secrets: mentioned.secrets,
            value: (),
        };
        match kind {
            Kind::Cluster => {
                let raw: cluster::Cluster = unpack(&any)?;
                let value = self.decode_cluster(&raw, now)?;
                self.clusters.insert(name.clone(), frame(any).with(value));
            }
            Kind::Endpoint => {
                let raw: endpoint::ClusterLoadAssignment = unpack(&any)?;
                let specs = decode::cluster::load_assignment(&raw)?;
                if let Some(spec) = specs.iter().find(|spec| matches!(spec.address, crate::balance::Address::Name(..)))
                {
                    let message = format!("`{}` is a name; only DNS clusters may hold names", spec.address);
                    return Err(Refusal::field("endpoints", message));
                }
                for cluster in self.clusters_of(name) {
                    cluster.apply(specs.clone());
                }
                self.endpoints.insert(name.clone(), frame(any).with(specs));
            }
            Kind::Listener => {
                let raw: listener::Listener = unpack(&any)?;
                let value = self.decode_listener(&raw, now)?;
                self.listeners.insert(name.clone(), frame(any).with(value));
            }
            Kind::Route => {
                let raw: route::RouteConfiguration = unpack(&any)?;
                let value = self.decode_routes(name, &raw, now)?;
                self.routes.insert(name.clone(), frame(any).with(value));
            }
            Kind::VirtualHost => {
                let raw: route::VirtualHost = unpack(&any)?;
                if let Some(value) = self.decode_host(name, &raw)? {
                    self.staged.push((name.clone(), frame(any).with(Arc::new(value))));
                }
            }
            Kind::Secret => {
                let raw: tls::Secret = unpack(&any)?;
                decode::secret::secret(&raw)?.store(name, &self.context.secrets);
                self.secrets.insert(name.clone(), frame(any));
            }
            Kind::NameTable => {
                let raw: NameTable = unpack(&any)?;
                let table = Arc::new(decode::name_table::name_table(&raw, &self.context.place)?);
                self.names.insert(name.clone(), frame(any).with(table));
            }
        }
        Ok(())
    }

    fn decode_cluster(&mut self, raw: &cluster::Cluster, now: Instant) -> Decoded<ClusterHeld> {
        let (config, specs) = decode::cluster::cluster(raw, &self.context)?;
        let eds = raw.eds_cluster_config.as_ref();
        let patience = match eds {
            Some(eds) => decode::http::fetch_timeout(&eds.eds_config)?,
            None => Some(FETCH_TIMEOUT),
        };
        let before = self.clusters.get(&config.name).map(|held| (held.value.newest.clone(), held.value.live.clone()));
        let newest = Arc::new(Cluster::new(config, specs.clone(), before.as_ref().map(|(newest, _)| &**newest)));
        match &newest.config.discovery {
            Discovery::Eds(name) => {
                if let Some(known) = self.endpoints.get(name) {
                    newest.apply(known.value.clone());
                }
            }
            Discovery::StrictDns | Discovery::LogicalDns => self.to_resolve.push((Arc::downgrade(&newest), specs)),
            Discovery::Static | Discovery::OriginalDst => {}
        }
        Ok(ClusterHeld { newest, live: before.and_then(|(_, live)| live), since: now, patience, removed: None })
    }

    fn decode_listener(&mut self, raw: &listener::Listener, now: Instant) -> Decoded<ListenerHeld> {
        let decoded = decode::listener::listener(raw, &self.context)?;
        let mut newest = decoded.listener;
        let before = self.listeners.get(&newest.name);
        if let Some(before) = before {
            newest.stats = before.value.newest.stats.clone();
        }
        let live = before.and_then(|before| before.value.live.clone());
        Ok(ListenerHeld { newest: Arc::new(newest), live, since: now, routes: decoded.routes })
    }

    fn held_mut(&mut self, kind: Kind, name: &str) -> Option<(&Vec<u8>, Origin, &mut String)> {
        match kind {
            Kind::Cluster => self.clusters.get_mut(name).map(Held::frame),
            Kind::Endpoint => self.endpoints.get_mut(name).map(Held::frame),
            Kind::Listener => self.listeners.get_mut(name).map(Held::frame),
            Kind::Route => self.routes.get_mut(name).map(Held::frame),
            Kind::VirtualHost => self.host_mut(name).map(Held::frame),
            Kind::Secret => self.secrets.get_mut(name).map(Held::frame),
            Kind::NameTable => self.names.get_mut(name).map(Held::frame),
        }
    }

    /// The clusters, newest and live, whose endpoints have this name.
    fn clusters_of<'s>(&'s self, endpoints: &'s str) -> impl Iterator<Item = &'s Arc<Cluster>> {
        self.clusters
            .values()
            .flat_map(|held| held.value.live.iter().chain([&held.value.newest]))
            .filter(move |cluster| matches!(&cluster.config.discovery, Discovery::Eds(name) if **name == *endpoints))
    }

    fn remove(&mut self, kind: Kind, name: &str, now: Instant) {
        self.changes[kind as usize] += 1;
        match kind {
            Kind::Cluster => {
                if let Some(held) = self.clusters.get_mut(name).filter(|held| held.origin == Origin::Dynamic) {
                    held.value.removed.get_or_insert(now);
                }
            }
            Kind::Endpoint => {
                // Whoever waited for them waits no longer; whoever has some keeps them, as in Envoy.
                for cluster in self.clusters_of(name).filter(|cluster| !cluster.is_warm()) {
                    cluster.apply(Vec::new());
                }
                self.endpoints.shift_remove(name);
            }
            Kind::Listener => {
                if self.listeners.get(name).is_some_and(|held| held.origin == Origin::Dynamic) {
                    self.listeners.shift_remove(name);
                }
            }
            // Still named by a listener, or else dropped with the next snapshot.
            Kind::Route | Kind::Secret => {}
            // Together with what comes in its place.
            Kind::VirtualHost => {}
            Kind::NameTable => {
                self.names.shift_remove(name);
            }
        }
    }

    /// The names to ask for, of a kind that is asked for by name.
    pub fn wanted(&self, kind: Kind) -> BTreeSet<Name> {
        match kind {
            Kind::Cluster | Kind::Listener | Kind::NameTable => BTreeSet::new(),
            Kind::Endpoint => self
                .clusters
                .values()
                .flat_map(|held| held.value.live.iter().chain([&held.value.newest]))
                .filter_map(|cluster| match &cluster.config.discovery {
                    Discovery::Eds(name) => Some(name.clone()),
                    _ => None,
                })
                .collect(),
            Kind::Route => self
                .listeners
                .values()
                .flat_map(|held| {
                    let live = held.value.live.iter().flat_map(|listener| named_routes(listener)).cloned();
                    live.chain(held.value.routes.iter().map(|(name, _)| name.clone()))
                })
                .collect(),
            Kind::VirtualHost => self
                .routes
                .iter()
                .filter(|(_, held)| held.value.apart.is_some())
                .map(|(name, _)| name.clone())
                .collect(),
            Kind::Secret => {
                let all = self.clusters.values().flat_map(|held| &held.secrets);
                let all = all.chain(self.listeners.values().flat_map(|held| &held.secrets));
                all.filter(|name| {
                    let fixed = self.secrets.get(*name).is_some_and(|held| held.origin == Origin::Static);
                    !fixed && !self.own_secrets.contains(*name) && !name.starts_with("file-")
                })
                .cloned()
                .collect()
            }
        }
    }

    /// Grows whenever [`State::wanted`] of this kind may have changed.
    pub fn wanted_changes(&self, kind: Kind) -> u64 {
        let referring: &[Kind] = match kind {
            Kind::Cluster | Kind::Listener | Kind::NameTable => &[],
            Kind::Endpoint => &[Kind::Cluster],
            Kind::Route => &[Kind::Listener],
            Kind::VirtualHost => &[Kind::Route],
            Kind::Secret => &[Kind::Cluster, Kind::Listener, Kind::Secret],
        };
        referring.iter().map(|kind| self.changes[*kind as usize]).sum()
    }

    /// Versions of what is held, for a control plane that should send only the rest.
    pub fn versions(&self, kind: Kind) -> HashMap<String, String> {
        let lingering = |name: &str| {
            kind == Kind::Cluster && self.clusters.get(name).is_some_and(|held| held.value.removed.is_some())
        };
        self.show(kind)
            .into_iter()
            .filter(|one| one.origin == Origin::Dynamic && !lingering(one.name))
            .map(|one| (one.name.to_string(), one.version.to_owned()))
            .collect()
    }

    /// Clusters whose names must be resolved from now on; each is told once.
    pub fn take_to_resolve(&mut self) -> Vec<ToResolve> {
        std::mem::take(&mut self.to_resolve)
    }

    /// A cluster by name, as it will be or is used.
    pub fn cluster(&self, name: &str) -> Option<Arc<Cluster>> {
        self.clusters.get(name).map(|held| held.value.newest.clone())
    }

    /// The next snapshot, if it differs from the last.
    pub fn build(&mut self, now: Instant) -> Option<Snapshot> {
        self.settle_clusters(now);
        self.settle_routes(now);
        self.settle_listeners(now);
        self.forget(now);
        let next = Snapshot {
            version: 0,
            listeners: shown(&self.listeners, |held| held.live.as_ref(), &self.published.listeners),
            routes: shown(&self.routes, |held| held.live.as_ref(), &self.published.routes),
            clusters: shown(&self.clusters, |held| held.live.as_ref(), &self.published.clusters),
            names: self.names.values().last().map(|held| held.value.clone()),
            living: Arc::default(),
        };
        let same_names = match (&next.names, &self.published.names) {
            (Some(next), Some(published)) => Arc::ptr_eq(next, published),
            (None, None) => true,
            _ => false,
        };
        if Arc::ptr_eq(&next.listeners, &self.published.listeners)
            && Arc::ptr_eq(&next.routes, &self.published.routes)
            && Arc::ptr_eq(&next.clusters, &self.published.clusters)
            && same_names
        {
            return None;
        }
        self.published = Snapshot {
            version: 0,
            listeners: next.listeners.clone(),
            routes: next.routes.clone(),
            clusters: next.clusters.clone(),
            names: next.names.clone(),
            living: Arc::default(),
        };
        Some(next)
    }

    /// Everything of a kind, for dumps.
    pub fn show(&self, kind: Kind) -> Vec<Shown<'_>> {
        fn all<'s, T>(map: &'s IndexMap<Name, Held<T>>, warming: impl Fn(&T) -> bool + 's) -> Vec<Shown<'s>> {
            map.iter().map(|(name, held)| held.show(name, warming(&held.value))).collect()
        }
        match kind {
            Kind::Cluster => all(&self.clusters, |value| !same(&value.live, &value.newest)),
            Kind::Endpoint => all(&self.endpoints, |_| false),
            Kind::Listener => all(&self.listeners, |value| !same(&value.live, &value.newest)),
            Kind::Route => all(&self.routes, |value| !same(&value.live, &value.newest)),
            Kind::VirtualHost => self.routes.keys().flat_map(|table| self.show_hosts(table)).collect(),
            Kind::Secret => all(&self.secrets, |()| false),
            Kind::NameTable => all(&self.names, |_| false),
        }
    }

    /// What was refused of a kind and has not been mended since.
    pub fn refused(&self, kind: Kind) -> impl Iterator<Item = &Refused> {
        self.refused.iter().filter(move |((of, _), _)| *of == kind).map(|(_, refused)| refused)
    }
}

impl<T> Held<T> {
    fn with<U>(self, value: U) -> Held<U> {
        Held {
            body: self.body,
            version: self.version,
            origin: self.origin,
            updated: self.updated,
            secrets: self.secrets,
            value,
        }
    }

    fn show<'s>(&'s self, name: &'s Name, warming: bool) -> Shown<'s> {
        Shown { name, version: &self.version, body: &self.body, origin: self.origin, updated: self.updated, warming }
    }

    fn frame(&mut self) -> (&Vec<u8>, Origin, &mut String) {
        (&self.body, self.origin, &mut self.version)
    }
}

fn same<T>(live: &Option<Arc<T>>, newest: &Arc<T>) -> bool {
    live.as_ref().is_some_and(|live| Arc::ptr_eq(live, newest))
}

/// What is live, by name: `before` itself if that is the same.
fn shown<H, T>(
    map: &IndexMap<Name, Held<H>>,
    live: impl Fn(&H) -> Option<&Arc<T>>,
    before: &Arc<Table<T>>,
) -> Arc<Table<T>> {
    let now = || map.iter().filter_map(|(name, held)| live(&held.value).map(|live| (name, live)));
    // A name is of one value for as long as this is held, and a new one comes last.
    if now().map(|(_, live)| Arc::as_ptr(live)).eq(before.values().map(Arc::as_ptr)) {
        return before.clone();
    }
    Arc::new(now().map(|(name, live)| (name.clone(), live.clone())).collect())
}

fn named_routes(listener: &Listener) -> impl Iterator<Item = &Name> {
    listener.all_chains().filter_map(|chain| match &chain.protocol {
        ChainProtocol::Http(http) => match &http.routes {
            RouteSource::Named(name) => Some(name),
            RouteSource::Inline(_) => None,
        },
        ChainProtocol::Tcp(_) => None,
    })
}

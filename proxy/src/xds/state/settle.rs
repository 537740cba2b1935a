//! What is held comes into use once what it refers to is there, or has been waited for long enough; what nothing refers to goes.
//!
//! The second half of [`State::build`]: after resources were taken, before the snapshot is made.

use super::*;

/// For how long a cluster that was removed is kept while something still refers to it.
const LINGER: Duration = FETCH_TIMEOUT;

impl State {
    /// True when nothing waits for anything.
    pub fn is_settled(&self) -> bool {
        self.clusters.values().all(|held| same(&held.value.live, &held.value.newest))
            && self.listeners.values().all(|held| same(&held.value.live, &held.value.newest))
            && self.routes.values().all(|held| same(&held.value.live, &held.value.newest))
    }

    pub(super) fn settle_clusters(&mut self, now: Instant) {
        for held in self.clusters.values_mut().map(|held| &mut held.value) {
            if same(&held.live, &held.newest) {
                continue;
            }
            let usable = held.newest.is_warm() && has_secrets(&held.newest);
            if usable || is_over(held.since, held.patience, now) {
                held.live = Some(held.newest.clone());
                self.changes[Kind::Cluster as usize] += 1;
            }
        }
    }

    /// True if a cluster is on its way: what refers to it should wait.
    fn is_coming(&self, cluster: &str) -> bool {
        self.clusters.get(cluster).is_some_and(|held| held.value.live.is_none() && held.value.removed.is_none())
    }

    pub(super) fn settle_routes(&mut self, now: Instant) {
        let mut clusters = self.clusters.values().map(|held| &held.value);
        let any_coming = clusters.any(|cluster| cluster.live.is_none() && cluster.removed.is_none());
        let ready: Vec<usize> = self
            .routes
            .values()
            .enumerate()
            .filter(|(_, held)| {
                let value = &held.value;
                !same(&value.live, &value.newest)
                    && value.apart.as_ref().is_none_or(|apart| apart.came || is_over(apart.since, apart.patience, now))
                    && (!any_coming
                        || is_over(value.since, Some(FETCH_TIMEOUT), now)
                        || !value.newest.clusters().any(|cluster| self.is_coming(cluster)))
            })
            .map(|(index, _)| index)
            .collect();
        for index in ready {
            if let Some((_, held)) = self.routes.get_index_mut(index) {
                held.value.live = Some(held.value.newest.clone());
            }
        }
    }

    pub(super) fn settle_listeners(&mut self, now: Instant) {
        let ready: Vec<usize> = self
            .listeners
            .values()
            .enumerate()
            .filter(|(_, held)| !same(&held.value.live, &held.value.newest) && self.is_listener_ready(&held.value, now))
            .map(|(index, _)| index)
            .collect();
        for index in ready {
            if let Some((_, held)) = self.listeners.get_index_mut(index) {
                held.value.live = Some(held.value.newest.clone());
                self.changes[Kind::Listener as usize] += 1;
            }
        }
    }

    fn is_listener_ready(&self, value: &ListenerHeld, now: Instant) -> bool {
        let has_routes = value.routes.iter().all(|(name, patience)| {
            self.routes.get(name).is_some_and(|table| table.value.live.is_some())
                || is_over(value.since, *patience, now)
        });
        let has_rest = || {
            value.newest.all_chains().all(|chain| chain.tls.as_ref().is_none_or(|tls| tls.is_ready()))
                && !listener_clusters(&value.newest).any(|cluster| self.is_coming(cluster))
        };
        has_routes && (is_over(value.since, Some(FETCH_TIMEOUT), now) || has_rest())
    }

    /// Drops what nothing refers to any more.
    pub(super) fn forget(&mut self, now: Instant) {
        // Endpoints and virtual hosts change often, and what others refer to does not change with them.
        let lingering = self.clusters.values().any(|held| held.value.removed.is_some());
        let referring =
            [Kind::Cluster, Kind::Endpoint, Kind::Listener, Kind::Route, Kind::Secret].map(|kind| kind as usize);
        if !lingering && referring.iter().all(|kind| self.changes[*kind] == self.forgotten[*kind]) {
            return;
        }
        let routes = self.wanted(Kind::Route);
        let before = self.routes.len();
        self.routes.retain(|name, held| held.origin == Origin::Static || routes.contains(name));
        self.changes[Kind::Route as usize] += u64::from(self.routes.len() != before);
        if lingering {
            self.forget_clusters(now);
        }
        let endpoints = self.wanted(Kind::Endpoint);
        self.endpoints.retain(|name, _| endpoints.contains(name));
        let secrets = self.wanted(Kind::Secret);
        self.secrets.retain(|name, held| held.origin == Origin::Static || secrets.contains(name));
        let tables = self.wanted(Kind::VirtualHost);
        self.refused.retain(|(kind, name), _| {
            *kind != Kind::VirtualHost || virtual_hosts::table_of(name).is_none_or(|table| tables.contains(table))
        });
        self.forgotten = self.changes;
    }

    fn forget_clusters(&mut self, now: Instant) {
        let referred: BTreeSet<Name> = {
            let tables = self.routes.values().flat_map(|held| held.value.live.iter().chain([&held.value.newest]));
            let tables = tables.flat_map(|table| table.clusters());
            let listeners = self.listeners.values().flat_map(|held| held.value.live.iter().chain([&held.value.newest]));
            tables.chain(listeners.flat_map(|listener| listener_clusters(listener))).cloned().collect()
        };
        let before = self.clusters.len();
        self.clusters.retain(|name, held| match held.value.removed {
            None => true,
            Some(at) => held.value.live.is_some() && referred.contains(name) && now < at + LINGER,
        });
        self.changes[Kind::Cluster as usize] += u64::from(self.clusters.len() != before);
    }

    /// When something that waits will wait no longer.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let clusters = self.clusters.values().flat_map(|held| {
            let value = &held.value;
            let warming = (!same(&value.live, &value.newest)).then_some(()).and(value.patience);
            [warming.map(|patience| value.since + patience), value.removed.map(|at| at + LINGER)]
        });
        let routes = self.routes.values().map(|held| &held.value).filter(|value| !same(&value.live, &value.newest));
        let routes = routes.flat_map(|value| {
            let apart = value.apart.as_ref().filter(|apart| !apart.came);
            let apart = apart.and_then(|apart| Some(apart.since + apart.patience?));
            [Some(value.since + FETCH_TIMEOUT), apart]
        });
        let listeners = self.listeners.values().flat_map(|held| {
            let value = &held.value;
            let waits = !same(&value.live, &value.newest);
            let patience = value.routes.iter().filter_map(|(_, patience)| *patience).chain([FETCH_TIMEOUT]);
            patience.map(move |patience| waits.then(|| value.since + patience))
        });
        clusters.chain(routes).chain(listeners).flatten().filter(|at| *at > now).min()
    }
}

fn is_over(since: Instant, patience: Option<Duration>, now: Instant) -> bool {
    patience.is_some_and(|patience| now >= since + patience)
}

fn has_secrets(cluster: &Cluster) -> bool {
    let ready = |transport: &Transport| match transport {
        Transport::Plain => true,
        Transport::Tls(tls) => tls.is_ready(),
    };
    ready(&cluster.config.transport) && cluster.config.transport_matches.iter().all(|(_, transport)| ready(transport))
}

/// Clusters that a listener names itself, not through RDS.
fn listener_clusters(listener: &Listener) -> impl Iterator<Item = &Name> {
    listener.all_chains().flat_map(|chain| -> Box<dyn Iterator<Item = &Name>> {
        match &chain.protocol {
            ChainProtocol::Http(http) => match &http.routes {
                RouteSource::Inline(table) => Box::new(table.clusters()),
                RouteSource::Named(_) => Box::new(std::iter::empty()),
            },
            ChainProtocol::Tcp(tcp) => Box::new(tcp.clusters.iter().map(|(name, _)| name)),
        }
    })
}

//! Virtual hosts that come apart from their route table (VHDS), so that a change of one costs no more than that one.
//!
//! A table is asked for by its name and they are called `TABLE/HOST`. The table waits until it has been told which there are; from then on
//! each update of them makes the next table, which shares all else with the one before ([`RouteTable::with`]).

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::route::table::Change;
use crate::xds::decode::At;

/// What an update says of one table.
#[derive(Debug, Default)]
struct Batch {
    /// None of those before is left.
    emptied: bool,
    removed: Vec<Name>,
    hosts: IndexMap<Name, Held<Arc<VirtualHost>>>,
}

/// The table of a virtual host, by the host's name.
pub(super) fn table_of(name: &str) -> Option<&str> {
    name.rsplit_once('/').map(|(table, _)| table)
}

impl State {
    /// The virtual hosts of a table that came apart from it.
    pub fn show_hosts(&self, table: &str) -> Vec<Shown<'_>> {
        let Some(held) = self.routes.get(table) else { return Vec::new() };
        let warming = !same(&held.value.live, &held.value.newest);
        let hosts = held.value.apart.iter().flat_map(|apart| &apart.hosts);
        hosts.map(|(name, host)| host.show(name, warming)).collect()
    }

    fn apart_mut(&mut self, table: &str) -> Option<&mut Apart> {
        self.routes.get_mut(table)?.value.apart.as_mut()
    }

    pub(super) fn host_mut(&mut self, name: &str) -> Option<&mut Held<Arc<VirtualHost>>> {
        self.apart_mut(table_of(name)?)?.hosts.get_mut(name)
    }

    /// A table with the virtual hosts that are known of it; it takes them over from the one that it replaces.
    pub(super) fn decode_routes(
        &mut self,
        name: &Name,
        raw: &route::RouteConfiguration,
        now: Instant,
    ) -> Decoded<RouteHeld> {
        let before = self.routes.get(name).map(|held| &held.value);
        let live = before.and_then(|before| before.live.clone());
        let newest = before.map(|before| &*before.newest);
        let (mut table, apart) = decode::route::named_route_config(raw, newest, &self.context)?;
        let known = before.and_then(|before| before.apart.as_ref());
        if let Some(known) = known.filter(|_| apart.is_some()) {
            table = known.join(&table)?;
        }
        let known = self.apart_mut(name).map(|known| std::mem::replace(known, Apart::new(None, now)));
        let apart = apart.map(|patience| match known {
            Some(known) => Apart { patience, ..known },
            None => Apart::new(patience, now),
        });
        Ok(RouteHeld { newest: Arc::new(table), live, since: now, apart })
    }

    /// A virtual host; `None` if its table is not asked for any more.
    pub(super) fn decode_host(&self, name: &str, raw: &route::VirtualHost) -> Decoded<Option<VirtualHost>> {
        let Some(table) = table_of(name) else {
            return Err(Refusal::field("name", format!("`{name}` must be ROUTE_TABLE/VIRTUAL_HOST")));
        };
        let Some(table) = self.routes.get(table).map(|held| &held.value) else { return Ok(None) };
        let Some(apart) = &table.apart else { return Ok(None) };
        let host = decode::route::host_apart(raw, apart.hosts.get(name).map(|held| &*held.value))?;
        decode::route::direct_bodies(&host, &table.newest)?;
        Ok(Some(host))
    }

    /// Puts what was staged into its tables and takes out what is gone; `told` are all that the update names. Returns those that do not fit.
    pub(super) fn place_hosts(&mut self, told: &BTreeSet<Name>, removed: &[Name], now: Instant) -> Vec<Refused> {
        let mut batches: BTreeMap<Name, Batch> = BTreeMap::new();
        for table in told.iter().filter_map(|name| table_of(name)) {
            batches.entry(table.into()).or_default();
        }
        for name in removed {
            if self.apart_mut(name).is_some() {
                batches.entry(name.clone()).or_default().emptied = true;
                self.refused.retain(|(kind, host), _| *kind != Kind::VirtualHost || table_of(host) != Some(name));
            } else if let Some(table) = table_of(name) {
                batches.entry(table.into()).or_default().removed.push(name.clone());
            }
        }
        for (name, held) in std::mem::take(&mut self.staged) {
            if let Some(table) = table_of(&name) {
                batches.entry(table.into()).or_default().hosts.insert(name, held);
            }
        }
        let mut refused = Vec::new();
        for (table, batch) in batches {
            let Some(value) = self.routes.get_mut(&table).map(|held| &mut held.value) else { continue };
            let Some(apart) = &mut value.apart else { continue };
            apart.came = true;
            if let Some(next) = apart.change(&value.newest, batch, &mut refused) {
                // Hosts that change again and again do not make others wait longer for a cluster that does not come.
                if same(&value.live, &value.newest) {
                    value.since = now;
                }
                value.newest = Arc::new(next);
            }
        }
        refused
    }

    /// Notes that there is nothing more to come for tables that wait, which is what an answer without anything in it means.
    pub(super) fn hosts_came(&mut self) {
        self.routes.values_mut().flat_map(|held| &mut held.value.apart).for_each(|apart| apart.came = true);
    }
}

impl Apart {
    fn new(patience: Option<Duration>, now: Instant) -> Self {
        Self { hosts: IndexMap::new(), came: false, since: now, patience }
    }

    /// A table, which has none of these, with them behind its own.
    fn join(&self, table: &RouteTable) -> Decoded<RouteTable> {
        for (name, held) in &self.hosts {
            decode::route::direct_bodies(&held.value, table).at(format_args!("vhds[\"{name}\"]"))?;
        }
        let changes: Vec<Change> = self.hosts.values().map(|held| (None, held.value.clone())).collect();
        let (next, left_out) = table.with(&[], &changes);
        match left_out.into_iter().flatten().next() {
            Some(taken) => Err(Refusal::field("virtual_hosts", taken.to_string())),
            None => Ok(next),
        }
    }

    /// The table after `table`, unless it is the same; what does not fit is added to `refused`, and the last good one of it stays.
    fn change(&mut self, table: &RouteTable, batch: Batch, refused: &mut Vec<Refused>) -> Option<RouteTable> {
        let first = table.virtual_hosts.len() - self.hosts.len();
        let gone = if batch.emptied { self.hosts.keys().cloned().collect() } else { batch.removed };
        let removed: Vec<usize> =
            gone.iter().filter_map(|name| Some(first + self.hosts.swap_remove_full(name)?.0)).collect();
        if removed.is_empty() && batch.hosts.is_empty() {
            return None;
        }
        let changes: Vec<Change> = batch
            .hosts
            .iter()
            .map(|(name, held)| (self.hosts.get_index_of(name).map(|index| first + index), held.value.clone()))
            .collect();
        let (next, left_out) = table.with(&removed, &changes);
        for ((name, held), taken) in batch.hosts.into_iter().zip(left_out) {
            match taken {
                None => {
                    self.hosts.insert(name, held);
                }
                Some(taken) => {
                    let refusal = Refusal::field("domains", taken.to_string());
                    refused.push(Refused { name, refusal, version: held.version, at: SystemTime::now() });
                }
            }
        }
        Some(next)
    }
}

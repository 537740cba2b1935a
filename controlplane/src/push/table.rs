//! A route table in a view: its virtual hosts encoded one by one, and the whole put together of them for proxies that take it so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use prost::encoding::{WireType, encode_key, encode_varint};

use super::pool::Pool;
use super::view::differing;
use crate::model::scope::Scope;
use crate::model::{Name, Node, NodeKind, PushContext};
use crate::translate::route::virtual_hosts::{self, Claims};
use crate::translate::route::{self, sidecar};
use crate::translate::{Resource, ResourceType, canonical};

/// Number of the field `RouteConfiguration.virtual_hosts`; only `name`, which is 1, stands before it.
const VIRTUAL_HOSTS: u32 = 2;

/// See the module.
#[derive(Debug)]
pub struct Table {
    name: Name,
    /// The encoded table before its virtual hosts, and after.
    frame: (Bytes, Bytes),
    /// Virtual hosts by name of the resource, in the order of the table.
    hosts: BTreeMap<Name, Resource>,
    /// The catch-all of a sidecar, which stands last whatever its name.
    last: Option<Resource>,
    /// Hosts are no part of the table.
    apart: bool,
    /// Absent where hosts cannot be made one by one. The table that follows takes them.
    claims: Mutex<Option<Claims>>,
    whole: OnceLock<Resource>,
}

impl Table {
    /// All anew; `None` if the proxy has no table of this name.
    pub fn new(context: &PushContext, node: &Node, scope: &Scope, name: &Name, pool: &Pool) -> Option<Self> {
        let (table, claims) = match node.kind {
            NodeKind::Sidecar => {
                let (table, taken) = sidecar::table_and_claims(context, node, name)?;
                (table, sidecar::port_of(node, scope, name).map(|port| Claims::new(port, &taken)))
            }
            NodeKind::Router => (route::table(context, node, name)?, None),
        };
        let apart = virtual_hosts::are_apart(node, name);
        let (mut table, mut hosts) = virtual_hosts::apart(node, name, table);
        hosts.append(&mut table.virtual_hosts);
        let is_last = |host: &mut _| node.kind == NodeKind::Sidecar && sidecar::is_catch_all(host);
        let last = hosts.pop_if(is_last).map(|host| encoded(name, &host));
        let hosts = hosts.iter().map(|host| pool.share(encoded(name, host))).map(|host| (host.name.clone(), host));
        let frame = canonical::encode(&table);
        let mut before = BytesMut::new();
        write(&mut before, 1, name.as_bytes());
        let frame = (frame.slice(..before.len()), frame.slice(before.len()..));
        let (name, hosts, claims) = (name.clone(), hosts.collect(), Mutex::new(claims));
        Some(Self { name, frame, hosts, last, apart, claims, whole: OnceLock::new() })
    }

    /// The table after a change of these hosts, and the resources of hosts that differ; `None` if it has to be made as a whole.
    pub fn update(
        &self,
        context: &PushContext,
        node: &Node,
        scope: &Scope,
        hosts: &BTreeSet<Name>,
        pool: &Pool,
    ) -> Option<(Self, Vec<Name>)> {
        let mut claims = self.claims.lock().take()?;
        let changed = claims.update(context, node, scope, hosts)?;
        let mut hosts = self.hosts.clone();
        let mut differing = Vec::new();
        for (host, made) in changed {
            let name = virtual_hosts::resource_name(&self.name, &host);
            let made = made.map(|made| pool.share(encoded(&self.name, &made)));
            if made.as_ref().map(|one| &one.version) == hosts.get(&name).map(|one| &one.version) {
                continue;
            }
            differing.push(name.clone());
            match made {
                Some(made) => hosts.insert(name, made),
                None => hosts.remove(&name),
            };
        }
        let whole = OnceLock::new();
        if self.apart || differing.is_empty() {
            // It is the same without its hosts.
            self.whole.get().cloned().and_then(|same| whole.set(same).ok());
        }
        let (name, frame, last) = (self.name.clone(), self.frame.clone(), self.last.clone());
        let next = Self { name, frame, hosts, last, apart: self.apart, claims: Mutex::new(Some(claims)), whole };
        Some((next, differing))
    }

    /// The table as it is sent.
    pub fn whole(&self) -> Resource {
        let make = || {
            let (before, after) = &self.frame;
            let hosts = || self.all().filter(|_| !self.apart);
            let size: usize = hosts().map(|host| host.body.len() + 8).sum();
            let mut body = BytesMut::with_capacity(before.len() + size + after.len());
            body.extend_from_slice(before);
            hosts().for_each(|host| write(&mut body, VIRTUAL_HOSTS, &host.body));
            body.extend_from_slice(after);
            Resource::encoded(self.name.clone(), ResourceType::Route, body.freeze())
        };
        self.whole.get_or_init(make).clone()
    }

    /// The host of this name, or all by the name of the table, if they are sent on their own.
    pub fn hosts(&self, name: &str) -> Vec<Resource> {
        if !self.apart {
            return Vec::new();
        }
        match *self.name == *name {
            true => self.all().cloned().collect(),
            false => self.all_of(name).into_iter().collect(),
        }
    }

    fn all_of(&self, name: &str) -> Option<Resource> {
        self.hosts.get(name).or_else(|| self.last.as_ref().filter(|last| *last.name == *name)).cloned()
    }

    fn all(&self) -> impl Iterator<Item = &Resource> {
        self.hosts.values().chain(&self.last)
    }

    /// Reports the resources that differ between two tables of one name, of which one may not be there.
    pub fn compare(
        before: Option<&Self>,
        after: Option<&Self>,
        name: &Name,
        mut report: impl FnMut(ResourceType, Name),
    ) {
        let version = |table: Option<&Self>| table.map(|table| table.whole().version);
        if version(before) != version(after) {
            report(ResourceType::Route, name.clone());
        }
        let hosts = |table: Option<&'_ Self>| -> Vec<Resource> {
            table.filter(|table| table.apart).into_iter().flat_map(Self::all).cloned().collect()
        };
        differing(hosts(before).iter(), hosts(after).iter(), |name| report(ResourceType::VirtualHost, name));
    }

    /// Reports that these hosts differ.
    pub fn report(&self, hosts: Vec<Name>, mut report: impl FnMut(ResourceType, Name)) {
        match self.apart {
            true => hosts.into_iter().for_each(|name| report(ResourceType::VirtualHost, name)),
            false if hosts.is_empty() => {}
            false => report(ResourceType::Route, self.name.clone()),
        }
    }
}

fn encoded(table: &str, host: &mesh_proto::xds::route::VirtualHost) -> Resource {
    Resource::new(virtual_hosts::resource_name(table, &host.name), ResourceType::VirtualHost, host)
}

fn write(output: &mut BytesMut, number: u32, content: &[u8]) {
    encode_key(number, WireType::LengthDelimited, output);
    encode_varint(content.len() as u64, output);
    output.put_slice(content);
}

//! What one stream asked for and was told, and what it is sent next: a state machine without I/O.
//!
//! [`super::delta`] and [`super::sotw`] turn messages into [`Request`]s and [`Response`]s into messages; [`super::server`] calls
//! [`Session::next`] whenever the peer can take another response, so a slow peer gets the newest state and never a backlog.
//! Source: <https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol>.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::SystemTime;

use super::resource::{Names, Resource, ResourceType};
use crate::model::Name;
use crate::push::Touched;
use crate::translate::route::virtual_hosts;

/// The longest name of a resource that is taken, bytes.
const MAX_NAME: usize = 4096;
/// The most names of a type that a stream may ask for.
const MAX_NAMES: usize = 200_000;
/// The most responses of a type that are remembered until they are answered. A peer that answers none loses only their NACK details.
const MAX_OUTSTANDING: usize = 64;
/// The longest error message that is kept, bytes.
const MAX_ERROR: usize = 8192;

/// Which of the two protocols a stream speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Incremental: each resource has its version.
    Delta,
    /// State of the world: one version a type; clusters and listeners are always sent whole.
    Sotw,
}

/// A discovery request of either protocol.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Delta: names to add (`*` for all). State of the world: all names that are wanted.
    pub subscribe: Vec<String>,
    /// Delta: names to drop.
    pub unsubscribe: Vec<String>,
    /// Delta: what the peer still has from a stream before, name to version.
    pub initial_versions: Vec<(String, String)>,
    /// Nonce of the response that this answers, or empty.
    pub nonce: String,
    /// Why that response was refused.
    pub error: Option<String>,
}

/// A discovery response of either protocol.
#[derive(Debug, Clone, PartialEq)]
pub struct Response {
    /// Type.
    pub kind: ResourceType,
    /// Nonce, unique in the stream.
    pub nonce: Name,
    /// Version of the whole.
    pub version: Name,
    /// What is new.
    pub resources: Vec<Resource>,
    /// Names that are gone or never were (delta only).
    pub removed: Vec<Name>,
}

/// Why a request cannot be served; the stream ends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// A name is too long.
    #[error("{kind}: the name of a resource is {length} bytes long, more than 4096")]
    Name {
        /// Short name of the type.
        kind: &'static str,
        /// Its length.
        length: usize,
    },
    /// Too many names.
    #[error("{kind}: more than 200000 names on one stream")]
    Names {
        /// Short name of the type.
        kind: &'static str,
    },
}

/// The last refusal of a response.
#[derive(Debug, Clone, PartialEq)]
pub struct Nack {
    /// Nonce of the refused response.
    pub nonce: Name,
    /// What the peer said.
    pub message: String,
    /// When.
    pub at: SystemTime,
    /// The resources that the message names; all of the response if it names none.
    pub resources: Vec<Name>,
}

/// What a request was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// The first of its type, or a changed subscription.
    Subscribed,
    /// Takes a response.
    Ack,
    /// Refuses a response.
    Nack,
    /// Answers a response that is not the one awaited; nothing is done.
    Stale,
}

/// What the peer was told of a name.
#[derive(Debug, Clone, PartialEq)]
enum Told {
    Version(Name),
    Absent,
}

/// What must be sent.
#[derive(Debug, Default)]
struct Due {
    all: bool,
    names: BTreeSet<Name>,
    /// Even if nothing differs: the peer waits for an answer.
    answer: bool,
}

#[derive(Debug)]
struct Outstanding {
    nonce: Name,
    names: Vec<Name>,
}

/// State of a type.
#[derive(Debug, Default)]
pub struct TypeState {
    wildcard: bool,
    names: BTreeSet<Name>,
    told: BTreeMap<Name, Told>,
    due: Option<Due>,
    outstanding: VecDeque<Outstanding>,
    /// Clusters that are gone, sent after listeners and routes that no longer name them (XD6).
    removals: BTreeSet<Name>,
    /// Nonce of the newest response.
    pub nonce_sent: Option<Name>,
    /// Nonce of the newest response that was taken.
    pub nonce_acked: Option<Name>,
    /// Version of the newest response.
    pub version_sent: Option<Name>,
    /// Version of the newest response that was taken.
    pub version_acked: Option<Name>,
    /// The last refusal; none after a later response was taken.
    pub nack: Option<Nack>,
    /// Refusals by resource, until a newer version of the resource is taken.
    pub rejected: BTreeMap<Name, String>,
}

/// Where a type stands, as `istioctl proxy-status` says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// The newest response was taken.
    Synced,
    /// The newest response is not yet answered.
    Stale,
    /// Asked for, but nothing sent yet.
    NotSent,
    /// The newest response was refused.
    Error,
}

impl Status {
    /// Istio's word.
    pub fn text(self) -> &'static str {
        match self {
            Self::Synced => "SYNCED",
            Self::Stale => "STALE",
            Self::NotSent => "NOT SENT",
            Self::Error => "ERROR",
        }
    }
}

impl TypeState {
    /// Where it stands.
    pub fn status(&self) -> Status {
        match (&self.nonce_sent, &self.nonce_acked, &self.nack) {
            (None, _, _) => Status::NotSent,
            (Some(sent), _, Some(nack)) if nack.nonce == *sent => Status::Error,
            (Some(sent), Some(acked), _) if sent == acked => Status::Synced,
            _ => Status::Stale,
        }
    }

    /// All are wanted.
    pub fn is_wildcard(&self) -> bool {
        self.wildcard
    }

    /// Names that are wanted.
    pub fn names(&self) -> &BTreeSet<Name> {
        &self.names
    }

    /// What the peer was sent, name and version.
    pub fn sent(&self) -> impl Iterator<Item = (&Name, &Name)> {
        self.told.iter().filter_map(|(name, told)| match told {
            Told::Version(version) => Some((name, version)),
            Told::Absent => None,
        })
    }

    /// Virtual hosts are asked for by the name of their table.
    fn wants(&self, kind: ResourceType, name: &str) -> bool {
        let name = if kind == ResourceType::VirtualHost { virtual_hosts::table_of(name) } else { name };
        self.wildcard || self.names.contains(name)
    }

    /// Forgets what the peer was told under a name that it asked for.
    fn forget(&mut self, kind: ResourceType, name: &str) {
        self.told.remove(name);
        if kind == ResourceType::VirtualHost {
            for host in told_below(&self.told, &format!("{name}/")) {
                self.told.remove(&host);
            }
        }
    }

    fn due(&mut self) -> &mut Due {
        self.due.get_or_insert_default()
    }

    fn is_answered(&self) -> bool {
        self.outstanding.is_empty()
    }
}

/// The state of one stream.
#[derive(Debug)]
pub struct Session {
    mode: Mode,
    types: BTreeMap<ResourceType, TypeState>,
    counter: u64,
}

impl Session {
    /// A stream that has asked for nothing.
    pub fn new(mode: Mode) -> Self {
        Self { mode, types: BTreeMap::new(), counter: 0 }
    }

    /// Which protocol it speaks.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The types that were asked for.
    pub fn types(&self) -> &BTreeMap<ResourceType, TypeState> {
        &self.types
    }

    /// Takes a request in; what it makes due is sent by [`Session::next`].
    pub fn request(&mut self, kind: ResourceType, request: &Request, now: SystemTime) -> Result<Seen, RequestError> {
        let all = request.subscribe.iter().chain(&request.unsubscribe);
        let all = all.chain(request.initial_versions.iter().map(|(name, _)| name));
        if let Some(long) = all.map(String::len).find(|length| *length > MAX_NAME) {
            return Err(RequestError::Name { kind: kind.short(), length: long });
        }
        let first = !self.types.contains_key(&kind);
        let state = self.types.entry(kind).or_default();
        let answered = answer(state, request, now);
        let seen = match self.mode {
            Mode::Delta => delta_request(state, kind, request, first, answered),
            Mode::Sotw => sotw_request(state, kind, request, first, answered),
        };
        if state.names.len() > MAX_NAMES {
            return Err(RequestError::Names { kind: kind.short() });
        }
        Ok(seen)
    }

    /// Marks what a published change may have touched.
    pub fn changed(&mut self, touched: &Touched) {
        for (kind, state) in &mut self.types {
            if touched.all || touched.types.contains(kind) || (touched.served && *kind == ResourceType::Listener) {
                state.due().all = true;
                continue;
            }
            let names = touched.names.get(kind).into_iter().flatten().cloned();
            let mut names: Vec<Name> = names.filter(|name| state.wants(*kind, name)).collect();
            if touched.served && *kind == ResourceType::Cluster {
                names.extend(told_below(&state.told, "inbound|"));
            }
            if !names.is_empty() {
                state.due().names.extend(names);
            }
        }
    }

    /// True if [`Session::next`] has something to look at.
    pub fn is_due(&self) -> bool {
        self.types.values().any(|state| state.due.is_some()) || self.may_remove_clusters()
    }

    /// The next response, in the order of types; `None` once there is nothing more to say. `generate` makes resources of the newest state,
    /// whose number is `version`.
    pub fn next(
        &mut self,
        version: u64,
        mut generate: impl FnMut(ResourceType, Names<'_>) -> Vec<Resource>,
    ) -> Option<Response> {
        while let Some(kind) = self.types.iter().find(|(_, state)| state.due.is_some()).map(|(kind, _)| *kind) {
            let state = self.types.get_mut(&kind)?;
            let due = state.due.take()?;
            let built = match self.mode {
                Mode::Delta => build_delta(state, kind, &due, &mut generate),
                Mode::Sotw => build_sotw(state, kind, &due, &mut generate),
            };
            if let Some((resources, removed)) = built {
                let clusters =
                    (kind == ResourceType::Cluster).then(|| resources.iter().map(|one| one.name.clone()).collect());
                let response = self.respond(kind, version, resources, removed);
                if let Some(clusters) = clusters {
                    self.refresh_endpoints(clusters);
                }
                return Some(response);
            }
        }
        if self.may_remove_clusters() {
            let state = self.types.get_mut(&ResourceType::Cluster)?;
            let removed = std::mem::take(&mut state.removals).into_iter().collect();
            return Some(self.respond(ResourceType::Cluster, version, Vec::new(), removed));
        }
        None
    }

    fn respond(&mut self, kind: ResourceType, version: u64, resources: Vec<Resource>, removed: Vec<Name>) -> Response {
        self.counter += 1;
        let nonce: Name = format!("{version}-{}", self.counter).into();
        let version: Name = version.to_string().into();
        let state = self.types.entry(kind).or_default();
        if state.outstanding.len() == MAX_OUTSTANDING {
            state.outstanding.pop_front();
        }
        let names = resources.iter().map(|one| one.name.clone()).collect();
        state.outstanding.push_back(Outstanding { nonce: nonce.clone(), names });
        state.nonce_sent = Some(nonce.clone());
        state.version_sent = Some(version.clone());
        Response { kind, nonce, version, resources, removed }
    }

    /// A changed cluster is warmed anew and waits for its endpoints; Envoy does not ask for them again.
    fn refresh_endpoints(&mut self, clusters: BTreeSet<Name>) {
        let Some(state) = self.types.get_mut(&ResourceType::Endpoint) else { return };
        let known: Vec<Name> = clusters.into_iter().filter(|name| state.names.contains(name)).collect();
        for name in known {
            state.told.remove(&name);
            state.due().names.insert(name);
        }
    }

    /// Removals wait until the listeners and routes that were sent before them have been answered.
    fn may_remove_clusters(&self) -> bool {
        let answered = |kind| self.types.get(&kind).is_none_or(TypeState::is_answered);
        self.types.get(&ResourceType::Cluster).is_some_and(|state| !state.removals.is_empty())
            && answered(ResourceType::Listener)
            && answered(ResourceType::Route)
            && answered(ResourceType::VirtualHost)
    }
}

/// What a request says about a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answered {
    /// Nothing: it has no nonce.
    Nothing,
    /// The response is known.
    Known { newest: bool, nack: bool },
    /// Another stream's, or older than is remembered.
    Unknown,
}

fn answer(state: &mut TypeState, request: &Request, now: SystemTime) -> Answered {
    if request.nonce.is_empty() {
        return Answered::Nothing;
    }
    let Some(index) = state.outstanding.iter().position(|one| *one.nonce == *request.nonce) else {
        // A state-of-the-world peer repeats the newest nonce whenever it changes its names.
        let newest = state.nonce_sent.as_deref() == Some(request.nonce.as_str());
        return if newest { Answered::Known { newest, nack: false } } else { Answered::Unknown };
    };
    let newest = index + 1 == state.outstanding.len();
    // Answers come in order, so an answer settles what was sent before it.
    let Some(one) = state.outstanding.drain(..=index).next_back() else { return Answered::Unknown };
    match &request.error {
        Some(error) => {
            let mut message = error.clone();
            if let Some((cut, _)) = message.char_indices().find(|(index, _)| *index >= MAX_ERROR) {
                message.truncate(cut);
            }
            let named: Vec<Name> = one.names.iter().filter(|name| message.contains(&***name)).cloned().collect();
            let resources = if named.is_empty() { one.names } else { named };
            state.rejected.extend(resources.iter().map(|name| (name.clone(), message.clone())));
            state.nack = Some(Nack { nonce: one.nonce, message, at: now, resources });
            Answered::Known { newest, nack: true }
        }
        None => {
            for name in &one.names {
                state.rejected.remove(name);
            }
            if newest {
                state.nack = None;
                state.version_acked = state.version_sent.clone();
            }
            state.nonce_acked = Some(one.nonce);
            Answered::Known { newest, nack: false }
        }
    }
}

fn delta_request(
    state: &mut TypeState,
    kind: ResourceType,
    request: &Request,
    first: bool,
    answered: Answered,
) -> Seen {
    if first {
        let star = request.subscribe.iter().any(|name| name == "*");
        state.wildcard = star || (kind.is_wildcard() && request.subscribe.is_empty());
        for (name, version) in &request.initial_versions {
            let name: Name = name.as_str().into();
            state.told.insert(name.clone(), Told::Version(version.as_str().into()));
            // As istiod does: what the peer has of a type without wildcard is what it wants. Virtual hosts are asked for by their table.
            if !kind.is_wildcard() && kind != ResourceType::VirtualHost {
                state.names.insert(name);
            }
        }
        let due = state.due();
        due.answer = true;
        due.all = true;
    }
    for name in &request.subscribe {
        if name == "*" {
            if !state.wildcard {
                state.wildcard = true;
                let due = state.due();
                (due.all, due.answer) = (true, true);
            }
            continue;
        }
        let name: Name = name.as_str().into();
        // A name that is asked for again is sent again, unless the peer just said which version it has.
        if !first {
            state.forget(kind, &name);
        }
        let due = state.due();
        due.names.insert(name.clone());
        due.answer = true;
        state.names.insert(name);
    }
    for name in &request.unsubscribe {
        if name == "*" {
            state.wildcard = false;
            let names = std::mem::take(&mut state.names);
            state.told.retain(|name, _| names.contains(name));
            state.removals.retain(|name| names.contains(name));
            state.names = names;
            continue;
        }
        state.names.remove(name.as_str());
        state.forget(kind, name);
        state.removals.remove(name.as_str());
        if let Some(due) = &mut state.due {
            due.names.retain(|due| {
                **due != **name && !(kind == ResourceType::VirtualHost && virtual_hosts::table_of(due) == name)
            });
        }
        // Under a wildcard the name stays wanted, and the peer is told again what it just forgot.
        if state.wildcard {
            state.due().names.insert(name.as_str().into());
        }
    }
    seen(request, first, answered, !request.subscribe.is_empty() || !request.unsubscribe.is_empty())
}

fn seen(request: &Request, first: bool, answered: Answered, subscribes: bool) -> Seen {
    match answered {
        Answered::Known { nack: true, .. } => Seen::Nack,
        _ if first || subscribes => Seen::Subscribed,
        Answered::Known { .. } => Seen::Ack,
        Answered::Unknown => Seen::Stale,
        Answered::Nothing if request.error.is_some() => Seen::Nack,
        Answered::Nothing => Seen::Subscribed,
    }
}

fn sotw_request(state: &mut TypeState, kind: ResourceType, request: &Request, first: bool, answered: Answered) -> Seen {
    // Only an answer to the newest response carries the names that are wanted now. The first request of a stream may carry a nonce
    // of the stream before.
    let current = first || matches!(answered, Answered::Nothing | Answered::Known { newest: true, .. });
    if !current {
        return Seen::Stale;
    }
    let names: BTreeSet<Name> =
        request.subscribe.iter().filter(|name| *name != "*").map(|name| name.as_str().into()).collect();
    let star = names.len() < request.subscribe.len() && request.subscribe.iter().any(|name| name == "*");
    // No names is a wildcard only if the stream never named any; later it means none.
    let wildcard = star || (kind.is_wildcard() && names.is_empty() && (first || state.wildcard));
    let added: Vec<Name> = names.difference(&state.names).cloned().collect();
    let dropped = state.names.difference(&names).next().is_some();
    let changed = !added.is_empty() || wildcard != state.wildcard;
    state.told.retain(|name, _| wildcard || names.contains(name));
    state.names = names;
    state.wildcard = wildcard;
    if first || answered == Answered::Nothing {
        state.told.clear();
        let due = state.due();
        (due.all, due.answer) = (true, true);
    } else if changed {
        let whole = kind.is_wildcard();
        let due = state.due();
        due.all |= whole;
        due.names.extend(added);
        due.answer = true;
    }
    seen(request, first, answered, changed || dropped)
}

fn make(
    kind: ResourceType,
    all: bool,
    asked: &BTreeSet<Name>,
    generate: &mut impl FnMut(ResourceType, Names<'_>) -> Vec<Resource>,
) -> Vec<Resource> {
    if all {
        return generate(kind, Names::All);
    }
    let names: Vec<Name> = asked.iter().cloned().collect();
    if names.is_empty() { Vec::new() } else { generate(kind, Names::Some(&names)) }
}

type Built = Option<(Vec<Resource>, Vec<Name>)>;

/// Names that begin so and were told.
fn told_below(told: &BTreeMap<Name, Told>, prefix: &str) -> Vec<Name> {
    let first: Name = prefix.into();
    let below = told.range(first..).take_while(|(name, _)| name.starts_with(prefix));
    below.map(|(name, _)| name.clone()).collect()
}

/// What a delta response holds: what differs from what was told.
fn build_delta(
    state: &mut TypeState,
    kind: ResourceType,
    due: &Due,
    generate: &mut impl FnMut(ResourceType, Names<'_>) -> Vec<Resource>,
) -> Built {
    let asked = if due.all { state.names.clone() } else { due.names.clone() };
    let all = state.wildcard && due.all;
    let made = make(kind, all, &asked, generate);
    let mut present: BTreeSet<Name> = BTreeSet::new();
    let mut resources = Vec::new();
    for one in made {
        if !(state.wants(kind, &one.name) && present.insert(one.name.clone())) {
            continue;
        }
        state.removals.remove(&one.name);
        if state.told.get(&one.name) != Some(&Told::Version(one.version.clone())) {
            // The name as all streams share it takes the place of the one that this peer sent.
            if state.names.contains(&one.name) {
                state.names.replace(one.name.clone());
            }
            state.told.remove(&one.name);
            state.told.insert(one.name.clone(), Told::Version(one.version.clone()));
            resources.push(one);
        }
    }
    let mut gone: BTreeSet<Name> = asked.iter().filter(|name| !present.contains(*name)).cloned().collect();
    if kind == ResourceType::VirtualHost {
        gone = gone_hosts(state, &asked, &present, due.answer);
    }
    if all || due.all {
        let told = state.told.iter().filter(|(_, told)| **told != Told::Absent).map(|(name, _)| name);
        gone.extend(told.filter(|name| !present.contains(*name)).cloned());
    }
    let mut removed = Vec::new();
    for name in gone {
        let had = match state.told.remove(&name) {
            Some(Told::Absent) => {
                state.told.insert(name, Told::Absent);
                continue;
            }
            Some(Told::Version(_)) => true,
            None => false,
        };
        if state.names.contains(&name) && kind != ResourceType::VirtualHost {
            state.told.insert(name.clone(), Told::Absent);
        }
        // A cluster that is in use goes last; a name that never was is answered at once.
        if kind == ResourceType::Cluster && had {
            state.removals.insert(name);
        } else {
            removed.push(name);
        }
    }
    (due.answer || !resources.is_empty() || !removed.is_empty()).then_some((resources, removed))
}

/// Virtual hosts that are gone. A table that was asked for and has none is told gone itself, so that the peer does not wait for them.
fn gone_hosts(state: &TypeState, asked: &BTreeSet<Name>, present: &BTreeSet<Name>, answer: bool) -> BTreeSet<Name> {
    let mut gone = BTreeSet::new();
    for name in asked {
        if virtual_hosts::table_of(name) != &**name {
            gone.extend((!present.contains(name)).then(|| name.clone()));
            continue;
        }
        let below = format!("{name}/");
        let first: Name = below.as_str().into();
        let any = present.range(first..).next().is_some_and(|host| host.starts_with(&below));
        gone.extend(told_below(&state.told, &below).into_iter().filter(|host| !present.contains(host)));
        gone.extend((answer && !any).then(|| name.clone()));
    }
    gone
}

/// What a state-of-the-world response holds. Clusters, listeners and the name table are whole, because what they leave out is gone.
fn build_sotw(
    state: &mut TypeState,
    kind: ResourceType,
    due: &Due,
    generate: &mut impl FnMut(ResourceType, Names<'_>) -> Vec<Resource>,
) -> Built {
    let whole = kind.is_wildcard();
    let asked = if due.all || whole { &state.names } else { &due.names };
    let all = state.wildcard;
    let made = make(kind, all, asked, generate);
    let mut present = BTreeMap::new();
    for one in made {
        if state.wants(kind, &one.name) {
            present.entry(one.name.clone()).or_insert(one);
        }
    }
    let differs = |one: &Resource| state.told.get(&one.name) != Some(&Told::Version(one.version.clone()));
    let missing = |name: &Name| !present.contains_key(name);
    if whole {
        let same = !present.values().any(differs) && !state.told.keys().any(missing);
        if same && !due.answer {
            return None;
        }
        state.told = present.values().map(|one| (one.name.clone(), Told::Version(one.version.clone()))).collect();
        return Some((present.into_values().collect(), Vec::new()));
    }
    let gone: Vec<Name> = match all {
        true => state.told.keys().filter(|name| missing(name)).cloned().collect(),
        false => asked.iter().filter(|name| missing(name)).cloned().collect(),
    };
    let resources: Vec<Resource> = present.into_values().filter(|one| differs(one)).collect();
    for name in gone {
        state.told.remove(&name);
    }
    for one in &resources {
        state.told.insert(one.name.clone(), Told::Version(one.version.clone()));
    }
    (due.answer || !resources.is_empty()).then_some((resources, Vec::new()))
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;

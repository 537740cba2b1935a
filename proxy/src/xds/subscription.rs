//! Both forms of the ADS protocol as values: what to ask and how to answer. No I/O.
//!
//! A response is acknowledged only when every resource in it was taken; else it is refused with the list of those that were not,
//! while the others are in use already. Source: <https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol>.

use std::collections::{BTreeSet, HashMap};

use mesh_proto::xds::{core, discovery, rpc, wkt};

use super::kind::Kind;
use super::state::{Refused, Resource, State, Update};
use crate::Name;

/// gRPC's `INVALID_ARGUMENT`.
const INVALID_ARGUMENT: i32 = 3;

/// What one stream has asked of one kind.
#[derive(Debug, Default)]
struct Asked {
    started: bool,
    names: BTreeSet<Name>,
    /// What was wanted as of [`State::wanted_changes`].
    changes: Option<u64>,
    nonce: String,
}

impl Asked {
    /// False if nothing else can be wanted than when this was asked last.
    fn is_due(&mut self, state: &State, kind: Kind) -> bool {
        let changes = Some(state.wanted_changes(kind));
        std::mem::replace(&mut self.changes, changes) != changes
    }
}

/// The delta form on one stream.
#[derive(Debug)]
pub struct Delta {
    node: Option<core::Node>,
    asked: HashMap<Kind, Asked>,
}

/// The state-of-the-world form on one stream.
#[derive(Debug)]
pub struct Sotw {
    node: Option<core::Node>,
    asked: HashMap<Kind, Asked>,
}

/// Versions that a control plane was last acknowledged, by kind; they outlast a stream.
pub type Accepted = HashMap<Kind, String>;

fn detail(refused: &[Refused]) -> Option<rpc::Status> {
    if refused.is_empty() {
        return None;
    }
    let lines: Vec<String> = refused.iter().map(|one| format!("{}: {}", one.name, one.refusal)).collect();
    Some(rpc::Status { code: INVALID_ARGUMENT, message: lines.join("\n"), details: Vec::new() })
}

fn sorted(names: &BTreeSet<Name>) -> Vec<String> {
    names.iter().map(|name| name.to_string()).collect()
}

impl Delta {
    /// A new stream; `node` is told with the first request.
    pub fn new(node: core::Node) -> Self {
        Self { node: Some(node), asked: HashMap::new() }
    }

    fn request(&mut self, kind: Kind) -> discovery::DeltaDiscoveryRequest {
        discovery::DeltaDiscoveryRequest {
            node: self.node.take(),
            type_url: kind.type_url().to_owned(),
            ..Default::default()
        }
    }

    /// What is to be asked now, of the kinds in `kinds`.
    pub fn ask(&mut self, state: &State, kinds: &[Kind]) -> Vec<discovery::DeltaDiscoveryRequest> {
        let mut requests = Vec::new();
        for kind in kinds.iter().copied() {
            let asked = self.asked.entry(kind).or_default();
            if !asked.is_due(state, kind) {
                continue;
            }
            let wanted = state.wanted(kind);
            let first = !asked.started;
            if first && !kind.is_wildcard() && wanted.is_empty() {
                continue;
            }
            let mut subscribe: Vec<String> = wanted.difference(&asked.names).map(|name| name.to_string()).collect();
            let unsubscribe: Vec<String> = asked.names.difference(&wanted).map(|name| name.to_string()).collect();
            if !first && subscribe.is_empty() && unsubscribe.is_empty() {
                continue;
            }
            asked.started = true;
            asked.names = wanted;
            if first && kind.is_wildcard() {
                subscribe.push("*".to_owned());
            }
            let mut request = self.request(kind);
            request.resource_names_subscribe = subscribe;
            request.resource_names_unsubscribe = unsubscribe;
            if first {
                request.initial_resource_versions = state.versions(kind);
            }
            requests.push(request);
        }
        requests
    }

    /// What a response holds; `None` for a type that nobody asked for.
    pub fn open(&self, response: &discovery::DeltaDiscoveryResponse) -> Option<(Kind, Update)> {
        let kind = Kind::of(&response.type_url).filter(|kind| self.asked.contains_key(kind))?;
        let resources = response
            .resources
            .iter()
            .map(|one| Resource {
                name: Some(one.name.clone()),
                version: one.version.clone(),
                body: one.resource.as_ref().map(|any| any.value.clone()).unwrap_or_default(),
            })
            .collect();
        Some((kind, Update { resources, removed: response.removed_resources.clone(), whole: false }))
    }

    /// The answer to a response.
    pub fn answer(&mut self, kind: Kind, nonce: &str, refused: &[Refused]) -> discovery::DeltaDiscoveryRequest {
        let mut request = self.request(kind);
        request.response_nonce = nonce.to_owned();
        request.error_detail = detail(refused);
        request
    }
}

impl Sotw {
    /// A new stream; `node` is told with the first request.
    pub fn new(node: core::Node) -> Self {
        Self { node: Some(node), asked: HashMap::new() }
    }

    fn request(&mut self, kind: Kind, accepted: &Accepted) -> discovery::DiscoveryRequest {
        let asked = self.asked.entry(kind).or_default();
        discovery::DiscoveryRequest {
            version_info: accepted.get(&kind).cloned().unwrap_or_default(),
            node: self.node.take(),
            resource_names: sorted(&asked.names),
            type_url: kind.type_url().to_owned(),
            response_nonce: asked.nonce.clone(),
            ..Default::default()
        }
    }

    /// What is to be asked now, of the kinds in `kinds`.
    pub fn ask(&mut self, state: &State, kinds: &[Kind], accepted: &Accepted) -> Vec<discovery::DiscoveryRequest> {
        let mut requests = Vec::new();
        for kind in kinds.iter().copied() {
            let asked = self.asked.entry(kind).or_default();
            if !asked.is_due(state, kind) {
                continue;
            }
            let wanted = state.wanted(kind);
            let due = match asked.started {
                false => kind.is_wildcard() || !wanted.is_empty(),
                true => asked.names != wanted,
            };
            if due {
                asked.started = true;
                asked.names = wanted;
                requests.push(self.request(kind, accepted));
            }
        }
        requests
    }

    /// What a response holds; `None` for a type that nobody asked for.
    pub fn open(&self, response: &discovery::DiscoveryResponse) -> Option<(Kind, Update)> {
        let kind = Kind::of(&response.type_url).filter(|kind| self.asked.contains_key(kind))?;
        let resource = |any: &wkt::Any| Resource {
            name: None,
            version: response.version_info.clone(),
            body: unwrapped(any).unwrap_or_else(|| any.value.clone()),
        };
        let resources = response.resources.iter().map(resource).collect();
        Some((kind, Update { resources, removed: Vec::new(), whole: kind.is_wildcard() }))
    }

    /// The answer to a response. `accepted` changes only if everything was taken.
    pub fn answer(
        &mut self,
        kind: Kind,
        response: &discovery::DiscoveryResponse,
        refused: &[Refused],
        accepted: &mut Accepted,
    ) -> discovery::DiscoveryRequest {
        if refused.is_empty() {
            accepted.insert(kind, response.version_info.clone());
        }
        self.asked.entry(kind).or_default().nonce = response.nonce.clone();
        let mut request = self.request(kind, accepted);
        request.error_detail = detail(refused);
        request
    }
}

/// The body of a resource that came in the wrapper `envoy.service.discovery.v3.Resource`.
fn unwrapped(any: &wkt::Any) -> Option<Vec<u8>> {
    if !any.type_url.ends_with("envoy.service.discovery.v3.Resource") {
        return None;
    }
    let wrapper: discovery::Resource = prost::Message::decode(any.value.as_slice()).ok()?;
    wrapper.resource.map(|any| any.value)
}

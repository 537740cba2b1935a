//! The oracle of everything incremental: after any sequence of changes every stream holds exactly what a control plane that
//! has just started would send it.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use mesh_proto::xds::{cluster, listener};
use prost::Message;

use super::Published;
use super::state::State;
use crate::model::tests::{node, objects};
use crate::model::{Change, Interception, Key, Model, Name, Node, NodeKind, Object};
use crate::translate::{self, Names, Resource, ResourceType};
use crate::xds::session::{Mode, Request, Session};

/// A small generator of numbers that only have to differ (SplitMix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % sides as u64).unwrap()
    }

    fn pick<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.roll(list.len())]
    }
}

const NAMESPACES: &[&str] = &["shop", "bank", "istio-system"];
const APPS: &[&str] = &["cart", "web", "db"];
const HOSTS: &[&str] = &[
    "cart",
    "web",
    "db.bank.svc.cluster.local",
    "cart.shop.svc.cluster.local",
    "api.example",
    "web.shop",
    "free.example",
    "a.wild.example",
];

/// An object at random, as YAML.
fn object(dice: &mut Dice) -> String {
    let (namespace, app, host) = (dice.pick(NAMESPACES), dice.pick(APPS), dice.pick(HOSTS));
    let number = dice.roll(3);
    let head = |kind: &str, name: &str, extra: &str| {
        format!("kind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}{extra}}}\n")
    };
    let created = format!(", created: {}", dice.roll(3));
    let to = dice.pick(HOSTS);
    let export = dice.pick(&["", "", "", ", exportTo: ['.']", ", exportTo: [shop]", ", exportTo: ['~']"]);
    match dice.roll(18) {
        0..=2 => {
            let port = dice.pick(&[
                "{name: http, port: 80, targetPort: 8080}",
                "{name: http, port: 8080}",
                "{name: tcp-db, port: 3306}",
                "{name: other, port: 80}",
                "{name: http, port: 80}, {name: tcp, port: 90}",
            ]);
            let ip = dice.pick(&["10.0.0.1", "10.0.0.2", "10.0.0.3", "None", "10.0.1.9"]);
            let export = dice.pick(&["", "", ", annotations: {networking.istio.io/exportTo: '.'}"]);
            let selector = dice.pick(&["app: cart", "app: web", "app: db"]);
            let local = dice.pick(&["", "", "", ", internalTrafficPolicy: Local"]);
            head("Service", app, &format!("{export}{created}"))
                + &format!("spec: {{clusterIP: '{ip}', selector: {{{selector}}}, ports: [{port}]{local}}}")
        }
        3 => {
            let mut endpoints = String::new();
            for at in 0..dice.roll(4) {
                let _ = write!(
                    endpoints,
                    "{{addresses: ['10.1.0.{}'], conditions: {{ready: {}}}}}, ",
                    at + number,
                    dice.roll(4) > 0
                );
            }
            let port = dice.pick(&["http", "tcp-db", "other", "tcp"]);
            head(
                "EndpointSlice",
                &format!("{app}-{number}"),
                &format!(", labels: {{kubernetes.io/service-name: {app}}}"),
            ) + &format!("addressType: IPv4\nports: [{{name: {port}, port: 8080}}]\nendpoints: [{endpoints}]")
        }
        4 => {
            let account = dice.pick(&["one", "two"]);
            let mode = dice.pick(&["istio", "off"]);
            let address = number + 1;
            head("Pod", &format!("{app}-1"), &format!(", labels: {{app: {app}, security.istio.io/tlsMode: {mode}}}"))
                + &format!(
                    "spec: {{serviceAccountName: {account}, nodeName: n{number}}}\n\
                     status: {{podIP: 10.1.0.{address}, podIPs: [{{ip: 10.1.0.{address}}}], phase: Running, \
                     conditions: [{{type: Ready, status: 'True'}}]}}"
                )
        }
        5..=8 => {
            let hosts = match dice.roll(6) {
                0 => format!("{host}, {to}"),
                1 => "'*.wild.example'".to_owned(),
                2 => format!("{host}, free.example"),
                _ => host.to_owned(),
            };
            let gateways =
                dice.pick(&["", "", "", ", gateways: [istio-system/edge]", ", gateways: [mesh, istio-system/edge]"]);
            let rule = match dice.roll(6) {
                0 => "tcp: [{route: [{destination: {host: TO}}]}]",
                1 => "http: [{match: [{port: 80}], route: [{destination: {host: TO}}]}]",
                2 => "http: [{match: [{sourceLabels: {app: cart}}], route: [{destination: {host: TO, subset: v1}}]}]",
                3 => "http: [{match: [{uri: {prefix: /a}}], delegate: {name: part, namespace: shop}}]",
                _ => "http: [{headers: {request: {add: {x: NUMBER}}}, route: [{destination: {host: TO}}]}]",
            };
            let rule = rule.replace("TO", to).replace("NUMBER", &format!("'{number}'"));
            if dice.roll(6) == 0 {
                return format!(
                    "kind: VirtualService\nmetadata: {{name: part, namespace: shop}}\nspec: {{http: [{{route: [{{destination: {{host: {to}}}}}]}}]{export}}}"
                );
            }
            head("VirtualService", &format!("{app}-{number}"), &created)
                + &format!("spec: {{hosts: [{hosts}]{gateways}, {rule}{export}}}")
        }
        9 => {
            let policy = dice.pick(&[
                "{loadBalancer: {consistentHash: {httpHeaderName: x}}}",
                "{tls: {mode: DISABLE}}",
                "{connectionPool: {tcp: {maxConnections: 7, idleTimeout: 3s}}}",
                "{outlierDetection: {consecutive5xxErrors: 3}}",
            ]);
            let host = if dice.roll(6) == 0 { "'*.example'" } else { host };
            head("DestinationRule", &format!("{app}-{number}"), &created)
                + &format!(
                    "spec: {{host: {host}, trafficPolicy: {policy}, subsets: [{{name: v1, labels: {{app: cart}}}}]{export}}}"
                )
        }
        10 | 11 => {
            let hosts = dice.pick(&[
                "api.example",
                "cart.shop.svc.cluster.local",
                "'*.wild.example'",
                "web.shop",
                "a.wild.example",
            ]);
            let how = dice.pick(&[
                "resolution: STATIC, endpoints: [{address: 10.9.0.1}]",
                "resolution: STATIC, workloadSelector: {labels: {app: db}}",
                "resolution: NONE",
                "resolution: DNS",
                "resolution: DNS, endpoints: [{address: else.example}]",
            ]);
            let how = if hosts.contains('*') { "resolution: NONE" } else { how };
            let port = dice.pick(&[
                "{number: 80, name: http, protocol: HTTP}",
                "{number: 443, name: tls, protocol: TLS}",
                "{number: 90, name: tcp, protocol: TCP}",
            ]);
            let address = dice.pick(&["", ", addresses: [10.0.0.2]", ", addresses: [10.0.5.0/24]"]);
            head("ServiceEntry", &format!("{app}-{number}"), &created)
                + &format!("spec: {{hosts: [{hosts}], ports: [{port}], {how}{address}{export}}}")
        }
        12 => {
            let egress = dice.pick(&[
                "egress: [{hosts: ['./*', 'istio-system/*']}]",
                "egress: [{hosts: ['*/cart.shop.svc.cluster.local']}]",
                "egress: [{port: {number: 80, protocol: HTTP, name: http}, hosts: ['shop/*']}, {hosts: ['./*']}]",
                "ingress: [{port: {number: 8080, protocol: HTTP, name: http}, defaultEndpoint: '127.0.0.1:8080'}]",
                "outboundTrafficPolicy: {mode: REGISTRY_ONLY}",
            ]);
            head("Sidecar", "default", "") + &format!("spec: {{{egress}}}")
        }
        13 => {
            head("PeerAuthentication", app, "")
                + &format!("spec: {{mtls: {{mode: {}}}}}", dice.pick(&["STRICT", "DISABLE", "PERMISSIVE"]))
        }
        14 => {
            let servers = "servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]";
            format!(
                "kind: Gateway\nmetadata: {{name: edge, namespace: istio-system}}\nspec: {{selector: {{app: edge}}, {servers}}}"
            )
        }
        15 => {
            let address = number + 1;
            head("WorkloadEntry", &format!("{app}-vm"), "")
                + &format!("spec: {{address: 10.1.0.{address}, labels: {{app: {app}}}, serviceAccount: vm}}")
        }
        16 => {
            head("AuthorizationPolicy", app, "")
                + &format!(
                    "spec: {{selector: {{matchLabels: {{app: {app}}}}}, rules: [{{to: [{{operation: {{paths: [/{number}]}}}}]}}]}}"
                )
        }
        _ => format!(
            "kind: Node\nmetadata: {{name: n{number}, labels: {{topology.kubernetes.io/zone: z{}}}}}",
            dice.roll(2)
        ),
    }
}

/// A proxy, what it was told, and the state of which it was told.
struct Peer {
    node: Node,
    session: Session,
    seen: Published,
    has: BTreeMap<(ResourceType, Name), Resource>,
    asked: BTreeMap<ResourceType, BTreeSet<Name>>,
}

impl Peer {
    fn new(node: Node, published: &Published) -> Self {
        let mut peer = Self {
            node,
            session: Session::new(Mode::Delta),
            seen: published.clone(),
            has: BTreeMap::new(),
            asked: BTreeMap::new(),
        };
        for kind in [ResourceType::Cluster, ResourceType::Listener, ResourceType::NameTable] {
            peer.ask(kind, Request::default());
        }
        peer
    }

    fn ask(&mut self, kind: ResourceType, request: Request) {
        self.session.request(kind, &request, SystemTime::UNIX_EPOCH).unwrap();
    }

    fn subscribe(&mut self, kind: ResourceType, names: impl IntoIterator<Item = Name>) {
        let asked = self.asked.entry(kind).or_default();
        let new: Vec<String> =
            names.into_iter().filter(|name| asked.insert(name.clone())).map(|name| name.to_string()).collect();
        if !new.is_empty() {
            self.ask(kind, Request { subscribe: new, ..Request::default() });
        }
    }

    /// Learns of the newest state, and takes everything that it is sent.
    fn follow(&mut self, newest: &Published) {
        let changes = newest.changes_since(self.seen.number);
        self.session.changed(&newest.world.touched(&self.node, self.seen.world.number(), &changes));
        self.seen = newest.clone();
        while let Some(response) =
            self.session.next(newest.number, |kind, names| newest.world.resources(&self.node, kind, names))
        {
            let kind = response.kind;
            for name in response.removed {
                self.has.remove(&(kind, name));
            }
            for one in response.resources {
                self.has.insert((kind, one.name.clone()), one);
            }
            self.ask(kind, Request { nonce: response.nonce.to_string(), ..Request::default() });
            self.ask_for_more();
        }
    }

    /// As proxies do: endpoints of clusters, tables of listeners, hosts of tables.
    fn ask_for_more(&mut self) {
        let of = |kind| self.has.iter().filter(move |((of, _), _)| *of == kind).map(|(_, one)| one.clone());
        let clusters = of(ResourceType::Cluster).map(|one| cluster::Cluster::decode(&*one.body).unwrap());
        let endpoints =
            clusters.filter(|one| one.eds_cluster_config.is_some()).map(|one| Name::from(one.name.as_str()));
        let endpoints: Vec<Name> = endpoints.collect();
        let listeners: Vec<_> =
            of(ResourceType::Listener).map(|one| listener::Listener::decode(&*one.body).unwrap()).collect();
        let tables = translate::listener::table_names(&listeners);
        let own = tables.iter().filter(|name| translate::route::virtual_hosts::are_apart(&self.node, name));
        let own: Vec<Name> = own.cloned().collect();
        self.subscribe(ResourceType::Endpoint, endpoints);
        self.subscribe(ResourceType::Route, tables);
        self.subscribe(ResourceType::VirtualHost, own);
    }

    /// What a control plane that knows nothing but the objects would have told it.
    fn expected(&self, objects: &BTreeMap<Key, Arc<Object>>) -> BTreeMap<(ResourceType, Name), Resource> {
        let mut model = Model::default();
        model.apply(objects.values().cloned().map(Change::Set).collect());
        let context = model.context();
        let mut all = BTreeMap::new();
        for kind in ResourceType::ALL.into_iter().filter(|kind| *kind != ResourceType::Secret) {
            let names: Vec<Name> = self.asked.get(&kind).into_iter().flatten().cloned().collect();
            let names = if kind.is_wildcard() { Names::All } else { Names::Some(&names) };
            let made = translate::resources(&context, &self.node, kind, names);
            all.extend(made.into_iter().map(|one| ((kind, one.name.clone()), one)));
        }
        all
    }
}

fn nodes() -> Vec<Node> {
    let base = |namespace, app, address| Node { dns_capture: true, ..node(namespace, app, address) };
    vec![
        Node { vhds: true, ..base("shop", "cart", "10.1.0.1") },
        Node { vhds: true, ferromesh: true, ..base("bank", "db", "10.1.0.2") },
        Node { ferromesh: false, ..base("shop", "web", "10.1.0.3") },
        base("bank", "web", "10.1.0.9"),
        Node { interception: Interception::None, ..base("shop", "db", "10.1.0.3") },
        Node { kind: NodeKind::Router, ..base("istio-system", "edge", "10.1.0.8") },
        Node { vhds: true, ..base("other", "probe", "10.7.0.1") },
    ]
}

fn check(seed: u64, steps: usize) {
    let mut dice = Dice(seed);
    let mut model = Model::default();
    let mut state = Arc::new(State::new(model.context()));
    let mut published = Published::nothing().next(state.clone(), crate::model::Changes::full(), Instant::now());
    let mut known: BTreeMap<Key, Arc<Object>> = BTreeMap::new();
    let mut peers: Vec<Peer> = nodes().into_iter().map(|node| Peer::new(node, &published)).collect();
    let mut log = String::new();
    for step in 0..steps {
        let mut changes = Vec::new();
        let many = if step == 0 { 40 } else { 1 + dice.roll(3) };
        for _ in 0..many {
            if step > 0 && dice.roll(3) == 0 && !known.is_empty() {
                let key = known.keys().nth(dice.roll(known.len())).cloned().unwrap();
                let _ = writeln!(log, "step {step}: remove {key}");
                known.remove(&key);
                changes.push(Change::Remove(key));
                continue;
            }
            let yaml = object(&mut dice);
            let _ = writeln!(log, "step {step}: {yaml}");
            for change in objects(&yaml) {
                if let Change::Set(object) = &change {
                    known.insert(object.key.clone(), object.clone());
                }
                changes.push(change);
            }
        }
        let touched = model.apply(changes);
        state = Arc::new(state.next(model.context(), &touched));
        published = published.next(state.clone(), touched, Instant::now());
        let last = step + 1 == steps;
        for peer in &mut peers {
            // Some are slow, and see only every other state or fewer.
            if !last && dice.roll(3) == 0 {
                continue;
            }
            peer.follow(&published);
            let expected = peer.expected(&known);
            if peer.has != expected {
                panic!("seed {seed}, step {step}, {}: {}\n{log}", peer.node.id, difference(&peer.has, &expected));
            }
        }
    }
}

fn difference(
    has: &BTreeMap<(ResourceType, Name), Resource>,
    expected: &BTreeMap<(ResourceType, Name), Resource>,
) -> String {
    let mut text = String::new();
    let all: BTreeSet<_> = has.keys().chain(expected.keys()).collect();
    for key in all {
        let (has, expected) = (has.get(key), expected.get(key));
        if has == expected {
            continue;
        }
        let show = |one: Option<&Resource>| {
            one.map(|one| mesh_proto::yaml::bytes_to_json(one.type_url, &one.body).unwrap().to_string())
        };
        let _ = writeln!(text, "{key:?}\n  has      {:?}\n  expected {:?}", show(has), show(expected));
    }
    text
}

/// `FERROMESH_SEEDS=FROM..TO` looks at others than the few of every run.
#[test]
fn every_stream_holds_what_a_fresh_control_plane_would_send() {
    let wanted = std::env::var("FERROMESH_SEEDS").ok();
    let wanted = wanted.as_deref().and_then(|text| text.split_once(".."));
    let seeds = wanted.map_or(0..24, |(from, to)| from.parse().unwrap()..to.parse().unwrap());
    for seed in seeds {
        check(seed, 25);
    }
}

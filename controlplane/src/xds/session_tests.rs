//! What a stream is sent, as tables of requests and changes.
#![allow(clippy::unwrap_used)]

use super::*;

/// Resources by type: name and body.
#[derive(Default)]
struct Table {
    rows: BTreeMap<(ResourceType, Name), String>,
    number: u64,
}

impl Table {
    fn set(&mut self, kind: ResourceType, rows: &[(&str, &str)]) {
        self.rows.retain(|(of, _), _| *of != kind);
        self.rows.extend(rows.iter().map(|(name, body)| ((kind, (*name).into()), (*body).to_owned())));
        self.number += 1;
    }

    fn make(&self, kind: ResourceType, names: Names<'_>) -> Vec<Resource> {
        let rows = self.rows.iter().filter(|((of, name), _)| *of == kind && names.contains(name));
        rows.map(|((_, name), body)| resource(kind, name, body)).collect()
    }
}

fn resource(kind: ResourceType, name: &str, body: &str) -> Resource {
    let version = format!("{:x}", xxhash_rust::xxh3::xxh3_64(body.as_bytes())).into();
    Resource { name: name.into(), version, type_url: kind.type_url(), body: body.to_owned().into() }
}

/// A stream over a table, with what it was sent in a short form: `CDS +a +b -c`.
struct Peer {
    session: Session,
    table: Table,
    last: Option<Response>,
}

impl Peer {
    fn new(mode: Mode) -> Self {
        let mut table = Table::default();
        table.set(CDS, &[("a", "1"), ("b", "1")]);
        table.set(EDS, &[("a", "1"), ("b", "1")]);
        table.set(LDS, &[("l", "1")]);
        table.set(RDS, &[("80", "1"), ("90", "1")]);
        Self { session: Session::new(mode), table, last: None }
    }

    fn ask(&mut self, kind: ResourceType, request: Request) -> Seen {
        self.session.request(kind, &request, SystemTime::UNIX_EPOCH).unwrap()
    }

    fn subscribe(&mut self, kind: ResourceType, names: &[&str]) -> Seen {
        self.ask(kind, Request { subscribe: owned(names), ..Request::default() })
    }

    fn sent(&mut self) -> Vec<String> {
        let mut sent = Vec::new();
        while let Some(response) = self.session.next(self.table.number, |kind, names| self.table.make(kind, names)) {
            sent.push(short(&response));
            self.last = Some(response);
        }
        sent
    }

    /// Sends, and answers each response.
    fn sent_and_acked(&mut self) -> Vec<String> {
        let mut sent = Vec::new();
        while let Some(response) = self.session.next(self.table.number, |kind, names| self.table.make(kind, names)) {
            sent.push(short(&response));
            let names = match self.session.mode() {
                Mode::Delta => Vec::new(),
                Mode::Sotw => {
                    self.session.types()[&response.kind].names().iter().map(ToString::to_string).collect::<Vec<_>>()
                }
            };
            let nonce = response.nonce.to_string();
            assert_eq!(self.ask(response.kind, Request { nonce, subscribe: names, ..Request::default() }), Seen::Ack);
        }
        sent
    }

    fn answer(&mut self, error: Option<&str>, names: &[&str]) -> Seen {
        let (kind, nonce) = self.last.as_ref().map(|one| (one.kind, one.nonce.to_string())).unwrap();
        let error = error.map(str::to_owned);
        self.ask(kind, Request { nonce, error, subscribe: owned(names), ..Request::default() })
    }

    fn changed(&mut self) -> Vec<String> {
        self.session.changed(&Touched::all());
        self.sent_and_acked()
    }
}

const CDS: ResourceType = ResourceType::Cluster;
const EDS: ResourceType = ResourceType::Endpoint;
const LDS: ResourceType = ResourceType::Listener;
const RDS: ResourceType = ResourceType::Route;

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn short(response: &Response) -> String {
    let mut text = response.kind.short().to_owned();
    for one in &response.resources {
        text += &format!(" +{}", one.name);
    }
    for name in &response.removed {
        text += &format!(" -{name}");
    }
    text
}

/// A peer that has everything.
fn settled(mode: Mode) -> Peer {
    let mut peer = Peer::new(mode);
    peer.subscribe(CDS, &[]);
    peer.subscribe(LDS, &[]);
    peer.subscribe(EDS, &["a", "b"]);
    peer.subscribe(RDS, &["80"]);
    // Whatever the order of requests, clusters come before endpoints and listeners before routes.
    assert_eq!(peer.sent_and_acked(), ["CDS +a +b", "EDS +a +b", "LDS +l", "RDS +80"]);
    assert_eq!(peer.sent(), [""; 0]);
    peer
}

#[test]
fn a_new_peer_is_sent_what_it_asks_for_in_order() {
    for mode in [Mode::Delta, Mode::Sotw] {
        let peer = settled(mode);
        assert!(peer.session.types().values().all(|state| state.status() == Status::Synced));
    }
}

#[test]
fn delta_sends_only_what_differs_and_removes_clusters_last() {
    let mut peer = settled(Mode::Delta);
    assert_eq!(peer.changed(), [""; 0], "nothing differs");
    peer.table.set(CDS, &[("b", "1"), ("c", "1")]);
    peer.table.set(LDS, &[("l", "2")]);
    peer.table.set(RDS, &[("80", "2")]);
    peer.table.set(EDS, &[("b", "1"), ("c", "1")]);
    assert_eq!(peer.changed(), ["CDS +c", "EDS -a", "LDS +l", "RDS +80", "CDS -a"]);
    assert_eq!(peer.changed(), [""; 0]);
}

#[test]
fn removed_clusters_wait_until_routes_and_listeners_are_answered() {
    let mut peer = settled(Mode::Delta);
    peer.table.set(CDS, &[("b", "1")]);
    peer.table.set(RDS, &[("80", "2")]);
    peer.session.changed(&Touched::all());
    assert_eq!(peer.sent(), ["RDS +80"]);
    assert!(!peer.session.is_due());
    assert_eq!(peer.answer(None, &[]), Seen::Ack);
    assert!(peer.session.is_due());
    assert_eq!(peer.sent(), ["CDS -a"]);
    // One that comes back before it was removed is sent again.
    let mut peer = settled(Mode::Delta);
    peer.table.set(CDS, &[("b", "1")]);
    peer.table.set(RDS, &[("80", "2")]);
    peer.session.changed(&Touched::all());
    assert_eq!(peer.sent(), ["RDS +80"]);
    peer.table.set(CDS, &[("a", "1"), ("b", "1")]);
    peer.session.changed(&Touched::all());
    assert_eq!(peer.sent(), ["CDS +a", "EDS +a"]);
    assert_eq!(peer.session.next(9, |_, _| Vec::new()), None);
}

#[test]
fn delta_resumes_with_what_differs_from_the_versions_that_the_peer_has() {
    let mut peer = Peer::new(Mode::Delta);
    let version = |body: &str| resource(CDS, "x", body).version.to_string();
    let initial = [("a", version("1")), ("b", version("0")), ("gone", version("1"))];
    let initial_versions = initial.map(|(name, version)| (name.to_owned(), version)).to_vec();
    peer.ask(CDS, Request { initial_versions: initial_versions.clone(), ..Request::default() });
    assert_eq!(peer.sent_and_acked(), ["CDS +b", "CDS -gone"]);
    peer.ask(EDS, Request { subscribe: owned(&["a", "b", "new"]), initial_versions, ..Request::default() });
    assert_eq!(peer.sent_and_acked(), ["EDS +b -gone -new"]);
    // In sync: the answer is empty.
    let initial_versions = vec![("l".to_owned(), version("1"))];
    peer.ask(LDS, Request { initial_versions, ..Request::default() });
    assert_eq!(peer.sent_and_acked(), ["LDS"]);
}

#[test]
fn a_name_that_does_not_exist_is_said_to_be_gone_once() {
    let mut peer = settled(Mode::Delta);
    peer.subscribe(RDS, &["none", "90"]);
    assert_eq!(peer.sent_and_acked(), ["RDS +90 -none"]);
    assert_eq!(peer.changed(), [""; 0]);
    peer.table.set(RDS, &[("80", "1"), ("90", "1"), ("none", "1")]);
    assert_eq!(peer.changed(), ["RDS +none"]);
}

#[test]
fn delta_subscriptions_grow_shrink_and_repeat() {
    let mut peer = settled(Mode::Delta);
    // What is asked for again is sent again.
    peer.subscribe(EDS, &["a"]);
    assert_eq!(peer.sent_and_acked(), ["EDS +a"]);
    let unsubscribe = |names: &[&str]| Request { unsubscribe: owned(names), ..Request::default() };
    peer.ask(EDS, unsubscribe(&["a"]));
    peer.table.set(EDS, &[("a", "2"), ("b", "2")]);
    assert_eq!(peer.changed(), ["EDS +b"]);
    // Under a wildcard the name stays wanted.
    peer.ask(CDS, unsubscribe(&["a"]));
    assert_eq!(peer.sent_and_acked(), ["CDS +a"]);
    peer.ask(CDS, unsubscribe(&["*"]));
    peer.table.set(CDS, &[("a", "2"), ("b", "2")]);
    assert_eq!(peer.changed(), [""; 0]);
    peer.subscribe(CDS, &["b"]);
    assert_eq!(peer.sent_and_acked(), ["CDS +b", "EDS +b"]);
    // `*` asks for all of them again.
    peer.subscribe(CDS, &["*"]);
    assert_eq!(peer.sent_and_acked(), ["CDS +a"]);
}

#[test]
fn endpoints_follow_a_changed_cluster_because_it_is_warmed_anew() {
    for mode in [Mode::Delta, Mode::Sotw] {
        let mut peer = settled(mode);
        peer.table.set(CDS, &[("a", "2"), ("b", "1")]);
        let clusters = if mode == Mode::Delta { "CDS +a" } else { "CDS +a +b" };
        let endpoints = if mode == Mode::Delta { "EDS +a" } else { "EDS +a +b" };
        assert_eq!(peer.changed(), [clusters, endpoints]);
    }
}

#[test]
fn a_change_looks_at_what_it_touches_alone() {
    for mode in [Mode::Delta, Mode::Sotw] {
        let mut peer = Peer::new(mode);
        peer.subscribe(CDS, &[]);
        peer.subscribe(EDS, &["a", "b"]);
        assert_eq!(peer.sent_and_acked().len(), 2);
        peer.table.set(EDS, &[("a", "2"), ("b", "2")]);
        let touched = |kind, names: &[&str]| {
            let mut touched = Touched::default();
            names.iter().for_each(|name| touched.add(kind, (*name).into()));
            touched
        };
        peer.session.changed(&touched(EDS, &["a", "other"]));
        let mut asked = Vec::new();
        let response = peer.session.next(9, |kind, names| {
            asked.push(kind);
            peer.table.make(kind, names)
        });
        assert_eq!(short(&response.unwrap()), "EDS +a", "{mode:?}");
        assert_eq!(asked, [EDS]);
        for nothing in [Touched::default(), touched(EDS, &["other"]), touched(RDS, &["80"])] {
            peer.session.changed(&nothing);
            assert_eq!(peer.sent(), [""; 0], "{mode:?}");
        }
        peer.session.changed(&Touched::types([EDS]));
        assert_eq!(peer.sent(), ["EDS +b"], "{mode:?}");
    }
}

#[test]
fn one_cluster_of_all_changes_comes_or_goes_alone() {
    let mut peer = settled(Mode::Delta);
    peer.table.set(CDS, &[("a", "2"), ("c", "1"), ("inbound|2||", "1")]);
    let mut touched = Touched::default();
    for name in ["a", "b", "c"] {
        touched.add(CDS, name.into());
    }
    peer.session.changed(&touched);
    assert_eq!(peer.sent_and_acked(), ["CDS +a +c", "EDS +a", "CDS -b"]);
    // What the workload serves goes by whatever names it had.
    let mut touched = Touched { served: true, ..Touched::default() };
    touched.add(CDS, "inbound|2||".into());
    peer.session.changed(&touched);
    assert_eq!(peer.sent_and_acked(), ["CDS +inbound|2||"]);
    peer.table.set(CDS, &[("a", "2"), ("c", "1")]);
    peer.session.changed(&Touched { served: true, ..Touched::default() });
    assert_eq!(peer.sent_and_acked(), ["CDS -inbound|2||"]);
}

#[test]
fn virtual_hosts_are_asked_for_by_their_table() {
    const VHDS: ResourceType = ResourceType::VirtualHost;
    let mut peer = Peer::new(Mode::Delta);
    peer.table.set(VHDS, &[("80/a:80", "1"), ("80/b:80", "1"), ("90/a:90", "1")]);
    let session = |peer: &mut Peer| {
        let mut sent = Vec::new();
        while let Some(response) = peer.session.next(1, |kind, names| {
            let Names::Some(names) = names else { panic!("no wildcard") };
            let all = peer.table.make(kind, Names::All).into_iter();
            let wanted = |one: &Resource| {
                names.contains(&one.name) || names.iter().any(|name| one.name.starts_with(&format!("{name}/")))
            };
            all.filter(wanted).collect()
        }) {
            sent.push(short(&response));
        }
        sent
    };
    peer.subscribe(VHDS, &["80"]);
    assert_eq!(session(&mut peer), ["VHDS +80/a:80 +80/b:80"]);
    peer.subscribe(VHDS, &["70"]);
    assert_eq!(session(&mut peer), ["VHDS -70"], "a table without hosts is told so");
    peer.table.set(VHDS, &[("80/a:80", "2"), ("80/c:80", "1"), ("90/a:90", "2")]);
    let mut touched = Touched::default();
    for name in ["80/a:80", "80/b:80", "80/c:80", "90/a:90"] {
        touched.add(VHDS, name.into());
    }
    peer.session.changed(&touched);
    assert_eq!(session(&mut peer), ["VHDS +80/a:80 +80/c:80 -80/b:80"]);
    peer.session.changed(&Touched::all());
    assert_eq!(session(&mut peer), [""; 0]);
    peer.table.set(VHDS, &[("80/a:80", "2")]);
    peer.session.changed(&Touched::all());
    assert_eq!(session(&mut peer), ["VHDS -80/c:80"]);
    peer.ask(VHDS, Request { unsubscribe: owned(&["80"]), ..Request::default() });
    peer.table.set(VHDS, &[("80/a:80", "3")]);
    peer.session.changed(&touched);
    assert_eq!(session(&mut peer), [""; 0]);
    peer.subscribe(VHDS, &["80"]);
    assert_eq!(session(&mut peer), ["VHDS +80/a:80"], "what was dropped is sent again");
    // Another stream of the same peer says what it has.
    let mut again = Peer::new(Mode::Delta);
    again.table.set(VHDS, &[("80/a:80", "3"), ("80/d:80", "1")]);
    let version = |body: &str| resource(VHDS, "x", body).version.to_string();
    let had = [("80/a:80", "3"), ("80/e:80", "1"), ("90/a:90", "1")];
    let initial_versions = had.iter().map(|(name, body)| ((*name).to_owned(), version(body))).collect();
    again.ask(VHDS, Request { subscribe: owned(&["80"]), initial_versions, ..Request::default() });
    assert_eq!(session(&mut again), ["VHDS +80/d:80 -80/e:80 -90/a:90"]);
}

#[test]
fn a_refused_response_is_remembered_and_not_sent_again_until_it_differs() {
    for mode in [Mode::Delta, Mode::Sotw] {
        let mut peer = settled(mode);
        let names: &[&str] = if mode == Mode::Sotw { &["80"] } else { &[] };
        peer.table.set(RDS, &[("80", "bad")]);
        peer.session.changed(&Touched::all());
        assert_eq!(peer.sent(), ["RDS +80"]);
        assert_eq!(peer.session.types()[&RDS].status(), Status::Stale);
        let refusal = peer.last.clone();
        assert_eq!(peer.answer(Some("80: no cluster"), names), Seen::Nack);
        assert_eq!(peer.changed(), [""; 0], "{mode:?}: the same bytes are not sent again");
        let state = &peer.session.types()[&RDS];
        let nack = state.nack.clone().unwrap();
        assert_eq!((state.status(), nack.message.as_str()), (Status::Error, "80: no cluster"));
        assert_eq!((Some(nack.nonce), nack.resources), (refusal.map(|one| one.nonce), vec!["80".into()]));
        assert_eq!(state.rejected.len(), 1);
        // Other types go on.
        peer.table.set(LDS, &[("l", "3")]);
        assert_eq!(peer.changed(), ["LDS +l"]);
        peer.table.set(RDS, &[("80", "good")]);
        assert_eq!(peer.changed(), ["RDS +80"]);
        let state = &peer.session.types()[&RDS];
        assert_eq!((state.status(), &state.nack, state.rejected.len()), (Status::Synced, &None, 0), "{mode:?}");
    }
}

#[test]
fn a_refusal_names_the_resources_that_its_message_names() {
    let mut peer = Peer::new(Mode::Delta);
    peer.table.set(CDS, &[("good", "1"), ("worse", "1"), ("worst", "1")]);
    peer.subscribe(CDS, &[]);
    peer.sent();
    assert_eq!(peer.answer(Some("worst: unknown field"), &[]), Seen::Nack);
    assert_eq!(peer.session.types()[&CDS].nack.as_ref().unwrap().resources, ["worst".into()]);
    // A fix of one leaves the rest alone.
    peer.table.set(CDS, &[("good", "1"), ("worse", "1"), ("worst", "2")]);
    assert_eq!(peer.changed(), ["CDS +worst"]);
}

#[test]
fn answers_to_older_responses_count_and_foreign_ones_do_not() {
    let mut peer = settled(Mode::Delta);
    let mut nonces = Vec::new();
    for body in ["2", "3"] {
        peer.table.set(LDS, &[("l", body)]);
        peer.session.changed(&Touched::all());
        peer.sent();
        nonces.push(peer.last.clone().unwrap().nonce);
    }
    let ack = |nonce: &str| Request { nonce: nonce.to_owned(), ..Request::default() };
    assert_eq!(peer.ask(LDS, ack("other")), Seen::Stale);
    assert_eq!(peer.ask(LDS, ack(&nonces[0])), Seen::Ack);
    assert_eq!(peer.session.types()[&LDS].status(), Status::Stale);
    assert_eq!(peer.ask(LDS, ack(&nonces[1])), Seen::Ack);
    assert_eq!(peer.session.types()[&LDS].status(), Status::Synced);
}

#[test]
fn state_of_the_world_follows_the_names_of_the_newest_answer() {
    let mut peer = Peer::new(Mode::Sotw);
    peer.subscribe(EDS, &["a"]);
    assert_eq!(peer.sent(), ["EDS +a"]);
    assert_eq!(peer.answer(None, &["a"]), Seen::Ack);
    assert_eq!(peer.sent(), [""; 0]);
    // The same nonce with more names: only the new one is sent.
    assert_eq!(peer.answer(None, &["a", "b"]), Seen::Subscribed);
    assert_eq!(peer.sent(), ["EDS +b"]);
    assert_eq!(peer.answer(None, &["b"]), Seen::Subscribed);
    assert_eq!(peer.sent(), [""; 0], "fewer names want no answer");
    peer.table.set(EDS, &[("a", "2"), ("b", "2")]);
    peer.session.changed(&Touched::all());
    assert_eq!(peer.sent(), ["EDS +b"]);
    // An answer to an older response says nothing about names.
    let request = Request { nonce: "0-0".into(), subscribe: owned(&["a"]), ..Request::default() };
    assert_eq!(peer.ask(EDS, request), Seen::Stale);
    assert_eq!(peer.sent(), [""; 0]);
    // A name that does not exist is answered, without it.
    peer.subscribe(RDS, &["none"]);
    assert_eq!(peer.sent(), ["RDS"]);
}

#[test]
fn state_of_the_world_sends_clusters_and_listeners_whole() {
    let mut peer = settled(Mode::Sotw);
    assert_eq!(peer.changed(), [""; 0]);
    peer.table.set(CDS, &[("b", "1"), ("c", "1")]);
    assert_eq!(peer.changed()[0], "CDS +b +c");
    peer.table.set(CDS, &[("b", "1")]);
    assert_eq!(peer.changed()[0], "CDS +b", "what is left out is gone");
    // gRPC asks for clusters by name.
    let mut grpc = Peer::new(Mode::Sotw);
    grpc.subscribe(CDS, &["a"]);
    assert_eq!(grpc.sent(), ["CDS +a"]);
    grpc.answer(None, &["a", "b"]);
    assert_eq!(grpc.sent(), ["CDS +a +b"]);
    // To name no cluster any more is not to want them all.
    grpc.answer(None, &[]);
    assert_eq!(grpc.sent(), [""; 0]);
    assert!(!grpc.session.types()[&CDS].is_wildcard());
}

#[test]
fn a_slow_peer_gets_the_newest_state_and_no_backlog() {
    for mode in [Mode::Delta, Mode::Sotw] {
        let mut peer = settled(mode);
        for body in ["2", "3", "4"] {
            peer.table.set(LDS, &[("l", body)]);
            peer.session.changed(&Touched::all());
        }
        assert_eq!(peer.sent(), ["LDS +l"]);
        assert_eq!(peer.last.unwrap().resources[0].body, "4");
    }
}

#[test]
fn unreasonable_requests_are_refused() {
    let mut session = Session::new(Mode::Delta);
    let request = Request { subscribe: vec!["x".repeat(5000)], ..Request::default() };
    assert!(matches!(session.request(EDS, &request, SystemTime::UNIX_EPOCH), Err(RequestError::Name { .. })));
    let request = Request { subscribe: (0..200_001).map(|n| n.to_string()).collect(), ..Request::default() };
    assert!(matches!(session.request(EDS, &request, SystemTime::UNIX_EPOCH), Err(RequestError::Names { .. })));
}

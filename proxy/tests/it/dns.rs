//! The workload's DNS over real sockets: what is answered, what is asked of others, and what happens when those fail.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use mesh_proxy::dns::{Entry, Place, Settings, Table, server};
use mesh_proxy::snapshot::{Snapshot, Store};
use mesh_proxy::telemetry::stats::Metrics;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::support::within;

/// A running server, and where.
struct Dns {
    address: SocketAddr,
    store: Arc<Store>,
    metrics: Metrics,
    _stop: DropGuard,
}

impl Dns {
    async fn start(resolvers: &[SocketAddr], parallel: bool) -> Self {
        let store = Arc::new(Store::default());
        let metrics = Metrics::new(Default::default());
        let stop = CancellationToken::new();
        let settings = Settings {
            listen: vec![([127, 0, 0, 1], 0).into()],
            resolvers: resolvers.to_vec(),
            parallel,
            place: Place::new("shop", "shop.svc.cluster.local"),
        };
        let listens = server::serve(settings, store.clone(), &metrics, &stop).await.unwrap();
        let dns = Self { address: listens[0], store, metrics, _stop: stop.drop_guard() };
        dns.publish(&["10.0.0.1".parse().unwrap()]);
        dns
    }

    /// A service `reviews` at these addresses, and nothing else.
    fn publish(&self, addresses: &[IpAddr]) {
        let entry = Entry {
            host: "reviews.shop.svc.cluster.local".into(),
            addresses: addresses.to_vec(),
            short: Some(("reviews".into(), "shop".into())),
        };
        let table = Table::new(&[entry], &Place::new("shop", "shop.svc.cluster.local"));
        self.store.publish(Snapshot { names: Some(Arc::new(table)), ..Snapshot::default() });
    }

    async fn udp(&self, query: &Message) -> Message {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(&query.to_vec().unwrap(), self.address).await.unwrap();
        let mut buffer = vec![0; 65_535];
        let length = within(socket.recv(&mut buffer)).await.unwrap();
        Message::from_vec(&buffer[..length]).unwrap()
    }

    async fn tcp(&self, queries: &[Message]) -> Vec<Message> {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let mut answers = Vec::new();
        for query in queries {
            stream.write_all(&framed(query)).await.unwrap();
            answers.push(within(read(&mut stream)).await);
        }
        answers
    }
}

fn framed(message: &Message) -> Vec<u8> {
    let bytes = message.to_vec().unwrap();
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], &bytes].concat()
}

async fn read(stream: &mut TcpStream) -> Message {
    let length = stream.read_u16().await.unwrap();
    let mut bytes = vec![0; length.into()];
    stream.read_exact(&mut bytes).await.unwrap();
    Message::from_vec(&bytes).unwrap()
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut query = Message::new(fastrand::u16(..), MessageType::Query, OpCode::Query);
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    query
}

fn addresses(message: &Message) -> Vec<String> {
    let mut all: Vec<String> = message.answers.iter().map(|record| record.data.to_string()).collect();
    all.sort();
    all
}

/// Another resolver: answers every name with as many addresses as are wanted, over UDP with as much as fits, and keeps what it was asked.
struct Resolver {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

#[derive(Clone, Copy)]
enum Says {
    Addresses(u8),
    Code(ResponseCode),
    Nothing,
}

impl Resolver {
    async fn start(says: Says) -> Self {
        // A port that is free for one need not be free for the other.
        let (tcp, udp) = loop {
            let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
            if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
                break (tcp, udp);
            }
        };
        let address = tcp.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (one, other) = (asked.clone(), asked.clone());
        tokio::spawn(async move {
            let mut buffer = vec![0; 4096];
            while let Ok((length, client)) = udp.recv_from(&mut buffer).await {
                let Some(answer) = reply(&buffer[..length], says, "udp", &one) else { continue };
                let bytes = answer.to_vec().unwrap();
                let bytes = if bytes.len() > 512 { answer.truncate().to_vec().unwrap() } else { bytes };
                // A stranger's answer comes first: it counts for nothing.
                let mut stranger = answer.clone();
                stranger.metadata.id = stranger.metadata.id.wrapping_add(1);
                stranger.answers.clear();
                udp.send_to(&stranger.to_vec().unwrap(), client).await.unwrap();
                udp.send_to(&bytes, client).await.unwrap();
            }
        });
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = tcp.accept().await {
                let asked = read(&mut stream).await.to_vec().unwrap();
                if let Some(answer) = reply(&asked, says, "tcp", &other) {
                    stream.write_all(&framed(&answer)).await.unwrap();
                }
            }
        });
        Self { address, asked }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn reply(bytes: &[u8], says: Says, way: &str, asked: &Mutex<Vec<String>>) -> Option<Message> {
    let query = Message::from_vec(bytes).unwrap();
    let question = query.queries[0].clone();
    asked.lock().unwrap().push(format!("{way} {} {}", question.name(), question.query_type()));
    let mut answer = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
    answer.metadata = Metadata::response_from_request(&query.metadata);
    answer.add_query(question.clone());
    match says {
        Says::Addresses(count) => {
            for last in 1..=count {
                let data = RData::A(A(Ipv4Addr::new(192, 0, 2, last)));
                answer.add_answer(Record::from_rdata(question.name().clone(), 60, data));
            }
        }
        Says::Code(code) => answer.metadata.response_code = code,
        Says::Nothing => return None,
    }
    Some(answer)
}

#[tokio::test]
async fn names_of_the_mesh_are_answered_and_never_forwarded() {
    let resolver = Resolver::start(Says::Addresses(1)).await;
    let dns = Dns::start(&[resolver.address], false).await;
    for name in ["reviews.shop.svc.cluster.local.", "REVIEWS.shop.", "reviews."] {
        let asked = query(name, RecordType::A);
        let answer = dns.udp(&asked).await;
        assert_eq!(addresses(&answer), ["10.0.0.1"], "{name}");
        assert_eq!((answer.metadata.id, answer.answers[0].ttl), (asked.metadata.id, 30));
        let none = dns.udp(&query(name, RecordType::AAAA)).await;
        assert_eq!((none.metadata.response_code, none.answers.len()), (ResponseCode::NoError, 0), "{name}");
    }
    let both = dns.tcp(&[query("reviews.", RecordType::A), query("reviews.", RecordType::HTTPS)]).await;
    assert_eq!((addresses(&both[0]), both[1].answers.len()), (vec!["10.0.0.1".to_owned()], 0));
    dns.publish(&["10.0.0.9".parse().unwrap()]);
    assert_eq!(addresses(&dns.udp(&query("reviews.", RecordType::A)).await), ["10.0.0.9"]);
    assert_eq!(resolver.asked(), Vec::<String>::new());
}

#[tokio::test]
async fn other_names_are_asked_of_the_systems_resolvers() {
    let resolver = Resolver::start(Says::Addresses(2)).await;
    let dns = Dns::start(&[resolver.address], false).await;
    let answer = dns.udp(&query("www.example.com.", RecordType::A)).await;
    assert_eq!(addresses(&answer), ["192.0.2.1", "192.0.2.2"]);
    let answers = dns.tcp(&[query("www.example.com.", RecordType::A), query("reviews.", RecordType::SRV)]).await;
    assert_eq!(addresses(&answers[0]), ["192.0.2.1", "192.0.2.2"]);
    assert_eq!(
        resolver.asked(),
        ["udp www.example.com. A", "udp www.example.com. A", "udp reviews. SRV"],
        "what the mesh has no records of is others' to say"
    );
    let metrics = dns.metrics.render();
    for line in ["istio_agent_dns_requests_total 3", "istio_agent_dns_upstream_requests_total 3"] {
        assert!(metrics.lines().any(|one| one == line), "{metrics}");
    }
}

#[tokio::test]
async fn an_answer_that_does_not_fit_is_fetched_by_tcp() {
    let resolver = Resolver::start(Says::Addresses(60)).await;
    let dns = Dns::start(&[resolver.address], false).await;
    let mut roomy = query("many.example.com.", RecordType::A);
    roomy.set_edns(Edns::new().set_max_payload(4096).clone());
    assert_eq!(dns.udp(&roomy).await.answers.len(), 60);
    assert_eq!(resolver.asked(), ["udp many.example.com. A", "tcp many.example.com. A"]);
    let narrow = query("many.example.com.", RecordType::A);
    let answer = dns.udp(&narrow).await;
    assert!(answer.metadata.truncation && answer.answers.is_empty());
    assert_eq!(dns.tcp(&[narrow]).await[0].answers.len(), 60);

    // The same of our own names.
    let pods: Vec<IpAddr> = (1..=60).map(|last| Ipv4Addr::new(10, 1, 0, last).into()).collect();
    dns.publish(&pods);
    let answer = dns.udp(&query("reviews.", RecordType::A)).await;
    assert!(answer.metadata.truncation && answer.answers.is_empty());
    assert_eq!(dns.tcp(&[query("reviews.", RecordType::A)]).await[0].answers.len(), 60);
}

#[tokio::test]
async fn resolvers_that_fail_are_passed_over() {
    let closed = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let unable = Resolver::start(Says::Code(ResponseCode::ServFail)).await;
    let refusing = Resolver::start(Says::Code(ResponseCode::NXDomain)).await;
    let able = Resolver::start(Says::Addresses(1)).await;
    let asked = query("www.example.com.", RecordType::A);
    let dns = Dns::start(&[closed, unable.address, able.address], false).await;
    assert_eq!(addresses(&dns.udp(&asked).await), ["192.0.2.1"]);
    // "No such name" is an answer.
    let dns = Dns::start(&[refusing.address, able.address], false).await;
    assert_eq!(dns.udp(&asked).await.metadata.response_code, ResponseCode::NXDomain);
    for resolvers in [&[][..], &[closed], &[unable.address]] {
        let dns = Dns::start(resolvers, false).await;
        let answer = dns.udp(&asked).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail, "{resolvers:?}");
        assert_eq!(answer.queries, asked.queries);
    }
    // One that never answers holds nobody up who asks all at once.
    let silent = Resolver::start(Says::Nothing).await;
    let dns = Dns::start(&[silent.address, able.address], true).await;
    assert_eq!(addresses(&dns.udp(&asked).await), ["192.0.2.1"]);
    assert_eq!(silent.asked().len(), 1);
}

#[tokio::test]
async fn a_server_that_is_its_own_resolver_does_not_ask_itself() {
    let able = Resolver::start(Says::Addresses(1)).await;
    let (store, metrics) = (Arc::new(Store::default()), Metrics::new(Default::default()));
    let stop = CancellationToken::new();
    // It must be known beforehand, so it is one that was free a moment ago; another if somebody was faster.
    let listens = loop {
        let port = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let settings = Settings { listen: vec![port], resolvers: vec![port, able.address], ..Settings::default() };
        if let Ok(listens) = server::serve(settings, store.clone(), &metrics, &stop).await {
            break listens;
        }
    };
    let dns = Dns { address: listens[0], store, metrics, _stop: stop.drop_guard() };
    let early = dns.udp(&query("www.example.com.", RecordType::A)).await;
    assert_eq!(early.metadata.response_code, ResponseCode::ServFail, "before the control plane has sent names");
    dns.publish(&[]);
    assert_eq!(addresses(&dns.udp(&query("www.example.com.", RecordType::A)).await), ["192.0.2.1"]);
    assert!(dns.metrics.render().contains("istio_agent_dns_upstream_requests_total 1"));
}

#[tokio::test]
async fn hostile_bytes_get_an_error_or_nothing() {
    let dns = Dns::start(&[], false).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(dns.address).await.unwrap();
    let mut response = query("reviews.", RecordType::A);
    response.metadata.message_type = MessageType::Response;
    let good = query("reviews.", RecordType::A).to_vec().unwrap();
    // None of these gets an answer: too short, and answers, whole and broken.
    for bytes in [&b""[..], b"\0", b"\0\x01", &response.to_vec().unwrap(), b"\0\x01\x80\0broken"] {
        socket.send(bytes).await.unwrap();
    }
    let mut buffer = vec![0; 4096];
    // Names that point at themselves, too many records, a cut message.
    let pointer = [&good[..12], b"\xc0\x0c\0\x01\0\x01"].concat();
    for bytes in [&pointer[..], &good[..good.len() - 3], b"\0\x07\x01\0\xff\xff\xff\xff\xff\xff\xff\xff"] {
        socket.send(bytes).await.unwrap();
        let length = within(socket.recv(&mut buffer)).await.unwrap();
        let answer = Message::from_vec(&buffer[..length]).unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::FormErr);
        assert_eq!(answer.metadata.id.to_be_bytes(), bytes[..2]);
    }
    let mut stream = TcpStream::connect(dns.address).await.unwrap();
    stream.write_all(b"\0\x03abc").await.unwrap();
    assert_eq!(within(read(&mut stream)).await.metadata.response_code, ResponseCode::FormErr);
    assert_eq!(addresses(&dns.udp(&query("reviews.", RecordType::A)).await), ["10.0.0.1"], "it still serves");
}

//! What a question gets: an answer from the table, a refusal, or the way to other resolvers. Pure; chance is an argument.

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::table::{self, Addresses, Table};

/// Seconds for which clients may keep an answer; Istio's.
pub const TTL: u32 = 30;
/// The largest answer over UDP to a client that says nothing (RFC 1035, 4.2.1), and the largest that we give in any case.
const UDP: (u16, u16) = (512, 4096);

/// What becomes of a question.
#[derive(Debug)]
pub enum Answer {
    /// This is sent.
    Reply(Box<Message>),
    /// Others are asked.
    Forward,
}

/// Answers a query. There is no table before the control plane has sent one.
///
/// Whatever leads to an address is ours to tell for a name of the mesh, even that there is none: `HTTPS` records too would send clients
/// past the mesh. Of mail servers and the like the table knows nothing; these questions go to others, as in Istio.
pub fn answer(table: Option<&Table>, query: &Message, random: &mut fastrand::Rng) -> Answer {
    if query.metadata.op_code != OpCode::Query {
        return refuse(query, ResponseCode::NotImp);
    }
    let [question] = query.queries.as_slice() else { return refuse(query, ResponseCode::FormErr) };
    if query.edns.as_ref().is_some_and(|edns| edns.version() != 0) {
        return refuse(query, ResponseCode::BADVERS);
    }
    if question.query_class() != DNSClass::IN {
        return Answer::Forward;
    }
    let Some(table) = table else { return refuse(query, ResponseCode::ServFail) };
    let Some(found) = table.find(&table::plain(question.name())) else { return Answer::Forward };
    let mut owner = question.name().clone();
    let mut records = Vec::new();
    // A name that does not parse again was none to begin with.
    if let Some(target) = found.alias_of.and_then(|target| Name::from_ascii(format!("{target}.")).ok()) {
        let alias = std::mem::replace(&mut owner, target);
        records.push(Record::from_rdata(alias, TTL, RData::CNAME(CNAME(owner.clone()))));
    }
    match question.query_type() {
        kind @ (RecordType::A | RecordType::AAAA) => {
            let addresses = shuffled(found.addresses, kind, random);
            // An alias of nothing would only be followed to nothing.
            if addresses.is_empty() {
                records.clear();
            }
            records.extend(addresses.into_iter().map(|data| Record::from_rdata(owner.clone(), TTL, data)));
        }
        RecordType::HTTPS | RecordType::SVCB | RecordType::ANY => records.clear(),
        // Nobody else knows the alias.
        RecordType::CNAME => {}
        _ if records.is_empty() => return Answer::Forward,
        _ => {}
    }
    let mut reply = reply(query, question);
    reply.metadata.authoritative = true;
    reply.add_answers(records);
    Answer::Reply(Box::new(reply))
}

/// Clients take the first address: in turn, so that each of a headless service's pods is one.
fn shuffled(addresses: &Addresses, kind: RecordType, random: &mut fastrand::Rng) -> Vec<RData> {
    let mut all: Vec<RData> = match kind {
        RecordType::A => addresses.v4.iter().map(|address| RData::A(A(*address))).collect(),
        _ => addresses.v6.iter().map(|address| RData::AAAA(AAAA(*address))).collect(),
    };
    random.shuffle(&mut all);
    all
}

fn refuse(query: &Message, code: ResponseCode) -> Answer {
    Answer::Reply(Box::new(refusal(query, code)))
}

/// An answer without records.
pub fn refusal(query: &Message, code: ResponseCode) -> Message {
    let mut reply = match query.queries.first() {
        Some(question) => reply(query, question),
        None => empty(query),
    };
    reply.metadata.response_code = code;
    if let Some(edns) = &mut reply.edns {
        edns.set_rcode_high(code.high());
    }
    reply
}

fn empty(query: &Message) -> Message {
    let mut reply = Message::new(query.metadata.id, MessageType::Response, query.metadata.op_code);
    reply.metadata = Metadata::response_from_request(&query.metadata);
    reply.metadata.recursion_available = true;
    if query.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP.1);
        reply.set_edns(edns);
    }
    reply
}

fn reply(query: &Message, question: &Query) -> Message {
    let mut reply = empty(query);
    reply.add_query(question.clone());
    reply
}

/// How many bytes a client takes over UDP.
pub fn udp_limit(query: &Message) -> usize {
    query.edns.as_ref().map_or(UDP.0, Edns::max_payload).clamp(UDP.0, UDP.1).into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::table::tests::{NAMES, shop, table};
    use super::*;

    fn query(name: &str, kind: RecordType) -> Message {
        let mut query = Message::new(7, MessageType::Query, OpCode::Query);
        query.metadata.recursion_desired = true;
        query.add_query(Query::query(Name::from_ascii(format!("{name}.")).unwrap(), kind));
        query
    }

    fn shown(answer: &Answer) -> String {
        let Answer::Reply(message) = answer else { return "forward".to_owned() };
        let mut lines: Vec<String> =
            message.answers.iter().map(|record| format!("{} {} {}", record.name, record.ttl, record.data)).collect();
        lines.sort();
        format!("{:?} {}", message.metadata.response_code, lines.join("; "))
    }

    #[test]
    fn questions_get_what_is_theirs() {
        use RecordType as Type;
        let table = table(NAMES, &shop());
        for (name, kind, expected) in [
            ("reviews.shop.svc.cluster.local", Type::A, "NoError reviews.shop.svc.cluster.local. 30 10.0.0.1"),
            ("Reviews.SHOP", Type::A, "NoError Reviews.SHOP. 30 10.0.0.1"),
            ("db", Type::A, "NoError db. 30 10.1.0.1; db. 30 10.1.0.2"),
            ("db", Type::AAAA, "NoError db. 30 fd00::1"),
            // There is such a name, but not with such an address.
            ("reviews", Type::AAAA, "NoError "),
            ("only.six.example", Type::A, "NoError "),
            ("reviews", Type::HTTPS, "NoError "),
            ("reviews", Type::ANY, "NoError "),
            ("reviews", Type::CNAME, "NoError "),
            ("reviews", Type::SRV, "forward"),
            ("api.example.com", Type::MX, "forward"),
            ("unknown.example.com", Type::A, "forward"),
            ("nothing.shop.svc.cluster.local", Type::A, "forward"),
            (
                "api.example.com.shop.svc.cluster.local",
                Type::A,
                "NoError api.example.com. 30 240.240.1.2; api.example.com.shop.svc.cluster.local. 30 api.example.com.",
            ),
            ("api.example.com.shop.svc.cluster.local", Type::AAAA, "NoError "),
            (
                "api.example.com.shop.svc.cluster.local",
                Type::MX,
                "NoError api.example.com.shop.svc.cluster.local. 30 api.example.com.",
            ),
            ("x.wild.example", Type::A, "NoError x.wild.example. 30 10.3.0.1"),
        ] {
            let answer = answer(Some(&table), &query(name, kind), &mut fastrand::Rng::with_seed(1));
            assert_eq!(shown(&answer), expected, "{name} {kind}");
        }
    }

    #[test]
    fn what_cannot_be_answered_is_refused_in_the_protocols_words() {
        let table = table(NAMES, &shop());
        let mut random = fastrand::Rng::with_seed(1);
        let good = query("reviews", RecordType::A);
        let mut two = good.clone();
        two.add_query(Query::query(Name::root(), RecordType::A));
        let none = Message::new(7, MessageType::Query, OpCode::Query);
        let update = Message::new(7, MessageType::Query, OpCode::Update);
        let mut future = good.clone();
        future.set_edns(Edns::new().set_version(1).clone());
        let mut chaos = good.clone();
        chaos.queries[0].set_query_class(DNSClass::CH);
        for (what, table, query, expected) in [
            ("before the first table", None, &good, "ServFail "),
            ("two questions", Some(&table), &two, "FormErr "),
            ("no question", Some(&table), &none, "FormErr "),
            ("an update", Some(&table), &update, "NotImp "),
            ("a later EDNS", Some(&table), &future, "BADVERS "),
            ("another class", Some(&table), &chaos, "forward"),
        ] {
            assert_eq!(shown(&answer(table, query, &mut random)), expected, "{what}");
        }
    }

    #[test]
    fn answers_have_the_flags_of_a_resolver() {
        let table = table(NAMES, &shop());
        let mut asked = query("reviews", RecordType::A);
        asked.set_edns(Edns::new().set_max_payload(1232).clone());
        let Answer::Reply(reply) = answer(Some(&table), &asked, &mut fastrand::Rng::with_seed(1)) else {
            unreachable!()
        };
        let meta = reply.metadata;
        assert_eq!((meta.id, meta.message_type), (7, MessageType::Response));
        assert!(meta.authoritative && meta.recursion_available && meta.recursion_desired);
        assert_eq!(reply.queries, asked.queries);
        assert!(reply.edns.is_some());
        assert_eq!((udp_limit(&asked), udp_limit(&query("a", RecordType::A))), (1232, 512));
    }

    #[test]
    fn addresses_come_in_turns() {
        let table = table(NAMES, &shop());
        let mut random = fastrand::Rng::with_seed(1);
        let mut first = std::collections::BTreeSet::new();
        for _ in 0..64 {
            let Answer::Reply(reply) = answer(Some(&table), &query("db", RecordType::A), &mut random) else {
                unreachable!()
            };
            first.insert(reply.answers[0].data.to_string());
        }
        assert_eq!(first.len(), 2);
    }
}

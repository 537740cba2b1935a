//! Resources of a control plane. An input is pieces: a byte for the type of resource, two for a length, and so many of the resource.

use tokio::time::Instant;

use mesh_proxy::xds::decode::Context;
use mesh_proxy::xds::kind::Kind;
use mesh_proxy::xds::state::{Origin, Resource, State, Update};

/// Bytes before a resource.
const HEAD: usize = 3;

/// A resource as a piece of an input.
pub fn piece(kind: Kind, body: &[u8]) -> Option<Vec<u8>> {
    let index = u8::try_from(Kind::ALL.iter().position(|one| *one == kind)?).ok()?;
    let length = u16::try_from(body.len()).ok()?.to_be_bytes();
    Some([&[index, length[0], length[1]], body].concat())
}

/// Whatever comes is taken or refused with a reason, what is refused leaves the others alone, and what was taken can be shown.
pub fn xds(data: &[u8]) {
    let mut state = State::new(Context { delta: true, ..Context::default() }, []);
    let now = Instant::now();
    let mut rest = data;
    while let Some((head, more)) = rest.split_at_checked(HEAD) {
        let kind = Kind::ALL[usize::from(head[0]) % Kind::ALL.len()];
        let length = usize::from(u16::from_be_bytes([head[1], head[2]])).min(more.len());
        let (body, more) = more.split_at(length);
        rest = more;
        let before = state.show(kind).len();
        let resource = Resource { name: None, version: "1".to_owned(), body: body.to_vec() };
        let update = Update { resources: vec![resource], ..Update::default() };
        let refused = state.update(kind, update, Origin::Static, now);
        for one in &refused {
            assert!(!one.refusal.message.is_empty(), "a refusal without a reason");
        }
        assert!(state.show(kind).len() >= before, "a resource is gone that nobody removed");
        let snapshot = state.build(now);
        // All of these are looked at by the admin pages.
        let _ = (format!("{snapshot:?}"), state.deadline(now), state.wanted(kind), state.versions(kind));
    }
}

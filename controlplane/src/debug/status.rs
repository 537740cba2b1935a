//! What each proxy was sent and what it took.

use std::sync::atomic::Ordering;

use serde_json::{Map, Value, json};

use crate::model::NodeKind;
use crate::xds::ResourceType;
use crate::xds::connection::{Stream, Streams};
use crate::xds::session::{Status, TypeState};

/// `/debug/syncz`, as `istioctl proxy-status` reads it, and under `types` what istiod does not say.
pub(super) fn syncz(streams: &Streams) -> Value {
    streams.all().iter().map(|stream| sync(stream)).collect()
}

fn sync(stream: &Stream) -> Value {
    let session = stream.session.lock();
    let mut out = Map::new();
    let node = &stream.node;
    out.insert("cluster_id".to_owned(), json!(*node.cluster));
    out.insert("proxy".to_owned(), json!(stream.proxy_id()));
    out.insert("proxy_type".to_owned(), json!(proxy_type(node.kind)));
    out.insert("offered".to_owned(), json!(stream.offered.load(Ordering::Relaxed)));
    for (kind, name) in [
        (ResourceType::Cluster, "cluster"),
        (ResourceType::Listener, "listener"),
        (ResourceType::Route, "route"),
        (ResourceType::Endpoint, "endpoint"),
    ] {
        let Some(state) = session.types().get(&kind) else { continue };
        out.insert(format!("{name}_sent"), json!(state.nonce_sent.as_deref().unwrap_or_default()));
        out.insert(format!("{name}_acked"), json!(state.nonce_acked.as_deref().unwrap_or_default()));
    }
    let types = session.types().iter().map(|(kind, state)| (kind.short().to_owned(), of_type(state)));
    out.insert("types".to_owned(), Value::Object(types.collect()));
    Value::Object(out)
}

fn of_type(state: &TypeState) -> Value {
    let mut out = json!({
        "status": state.status().text(),
        "nonce_sent": state.nonce_sent,
        "nonce_acked": state.nonce_acked,
        "version_sent": state.version_sent,
        "version_acked": state.version_acked,
        "resources": state.sent().count(),
    });
    if let Some(nack) = &state.nack {
        out["nack"] = json!({
            "nonce": nack.nonce,
            "error": nack.message,
            "time": jiff::Timestamp::try_from(nack.at).unwrap_or_default().to_string(),
            "resources": nack.resources,
        });
    }
    if !state.rejected.is_empty() {
        out["rejected"] =
            json!(state.rejected.iter().map(|(name, why)| (name.to_string(), json!(why))).collect::<Map<_, _>>());
    }
    out
}

/// `/debug/adsz`.
pub(super) fn adsz(streams: &Streams) -> Value {
    let all = streams.all();
    let client = |stream: &std::sync::Arc<Stream>| {
        let session = stream.session.lock();
        let watches = session.types().iter().map(|(kind, state)| {
            let names: Vec<&str> = if state.is_wildcard() { vec!["*"] } else { Vec::new() };
            let names: Vec<&str> = names.into_iter().chain(state.names().iter().map(|name| &**name)).collect();
            (kind.type_url().to_owned(), json!(names))
        });
        json!({
            "connectionId": format!("{}-{}", stream.node.id, stream.id),
            "connectedAt": jiff::Timestamp::try_from(stream.since).unwrap_or_default().to_string(),
            "address": stream.remote.to_string(),
            "identity": stream.identity.as_ref().map(ToString::to_string),
            "delta": session.mode() == crate::xds::session::Mode::Delta,
            "labels": stream.node.labels,
            "watches": watches.collect::<Map<_, _>>(),
        })
    };
    json!({ "totalClients": all.len(), "clients": all.iter().map(client).collect::<Vec<_>>() })
}

/// The proxies that have not taken all they were sent, with the types.
pub(super) fn behind(streams: &Streams) -> Value {
    let mut out = Map::new();
    for stream in streams.all() {
        let session = stream.session.lock();
        let late = session.types().iter().filter(|(_, state)| state.status() != Status::Synced);
        let late: Map<String, Value> =
            late.map(|(kind, state)| (kind.short().to_owned(), json!(state.status().text()))).collect();
        if !late.is_empty() {
            out.insert(stream.proxy_id(), Value::Object(late));
        }
    }
    Value::Object(out)
}

fn proxy_type(kind: NodeKind) -> &'static str {
    match kind {
        NodeKind::Sidecar => "sidecar",
        NodeKind::Router => "router",
    }
}

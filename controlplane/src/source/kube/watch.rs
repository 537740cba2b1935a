//! One kind of object, listed and followed for as long as the control plane lives: page by page at first, then by a watch that goes on where it
//! broke off, and anew from a list where the server no longer knows what was missed.
//!
//! Lists are paged, and not streamed by the watch itself: the library does not say when a stream of initial events begins again, so that an
//! object that went in between would stay.

use std::pin::pin;
use std::time::Duration;

use ::kube::api::ApiResource;
use ::kube::core::PartialObjectMeta;
use ::kube::runtime::watcher::{self, Event, watcher};
use ::kube::{Api, Client, Error};
use futures_util::{Stream, StreamExt as _};
use mesh_proto::crd::KINDS;
use mesh_proto::names::label;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::super::kinds::istio_kind;
use super::client::words;
use super::cluster::{Item, Report};
use super::raw::Raw;
use crate::model::{Key, Kind};
use crate::own::Own;
use crate::validate::MESH_CONFIG_NAME;

/// Between two looks for a kind that the server does not serve.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// A kind that is missing for this long is gone; a server that starts may not know it yet.
const FORGET_AFTER: Duration = Duration::from_secs(60);
/// Waits after errors grow from the first to the last.
const WAITS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// After this many seconds the server ends a watch, and it is taken up again where it was: so a connection that died without a word is
/// noticed soon.
const WATCH_SECONDS: u32 = 60;
/// Secrets that are read at a time.
const FETCHES: usize = 8;

/// A kind, and which part of it.
#[derive(Debug, Clone)]
pub(super) struct Watched {
    /// What it is to the model.
    pub(super) kind: Kind,
    group: &'static str,
    /// Newest first.
    versions: &'static [&'static str],
    /// `VirtualService`.
    pub(super) name: &'static str,
    plural: &'static str,
    part: Part,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// Every object.
    All,
    /// Labels and names alone.
    Metadata,
    /// Those whose containers run or will: what has ended has no endpoint.
    Running,
    /// The mesh's settings, in the ConfigMap of this name.
    MeshConfig(String),
}

/// Everything that is watched; the mesh's settings are in the ConfigMap `mesh_config`.
pub(super) fn watched(mesh_config: &str) -> Vec<Watched> {
    let core = |kind, name, plural, part| Watched { kind, group: "", versions: &["v1"], name, plural, part };
    let mut all = vec![
        core(Kind::Service, "Service", "services", Part::All),
        core(Kind::Pod, "Pod", "pods", Part::Running),
        core(Kind::Node, "Node", "nodes", Part::Metadata),
        core(Kind::Namespace, "Namespace", "namespaces", Part::Metadata),
        core(Kind::Secret, "Secret", "secrets", Part::Metadata),
        core(Kind::ConfigMap, "ConfigMap", "configmaps", Part::MeshConfig(mesh_config.to_owned())),
        Watched {
            group: "discovery.k8s.io",
            ..core(Kind::EndpointSlice, "EndpointSlice", "endpointslices", Part::All)
        },
        Watched { group: "networking.k8s.io", ..core(Kind::Ingress, "Ingress", "ingresses", Part::All) },
        Watched { group: "networking.k8s.io", ..core(Kind::IngressClass, "IngressClass", "ingressclasses", Part::All) },
    ];
    all.extend(KINDS.iter().filter_map(|info| {
        let kind = istio_kind(info.kind)?;
        let (group, versions, name, plural) = (info.group, info.versions, info.kind, info.plural);
        Some(Watched { kind, group, versions, name, plural, part: Part::All })
    }));
    all
}

impl Watched {
    /// As an API server calls it: `services`, `gateways.networking.istio.io`.
    fn resource(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }

    fn is_custom(&self) -> bool {
        KINDS.iter().any(|info| info.kind == self.name && info.group == self.group)
    }

    /// False for configuration that another control plane reads (RV1), and for workloads that their own proxies say are not well (WG1).
    fn is_for(&self, own: &Own, raw: &Raw) -> bool {
        if !self.is_custom() {
            return true;
        }
        let unwell = self.kind == Kind::WorkloadEntry && raw.is_unwell();
        own.reads_revision(raw.label(label::REVISION)) && !unwell
    }

    fn api(&self, version: &str) -> ApiResource {
        let api_version = if self.group.is_empty() { version.to_owned() } else { format!("{}/{version}", self.group) };
        ApiResource {
            group: self.group.to_owned(),
            version: version.to_owned(),
            api_version,
            kind: self.name.to_owned(),
            plural: self.plural.to_owned(),
        }
    }
}

/// Why following ended.
enum End {
    /// The server does not serve the kind.
    Missing,
    /// Something that may pass.
    Failed(&'static str, Error),
    /// Nobody listens.
    Closed,
}

/// Lists and follows a kind for ever; ends when nobody listens any more.
pub(super) async fn run(client: Client, own: Own, watched: Watched, reports: mpsc::Sender<Report>) {
    let mut waits = Waits::default();
    let mut missing_since: Option<Instant> = None;
    loop {
        let found = match find(&client, &watched).await {
            Ok(found) => found,
            Err(error) => {
                if trouble(&watched, "discover", &error, &reports, &mut waits).await.is_err() {
                    return;
                }
                continue;
            }
        };
        let Some(resource) = found else {
            let since = *missing_since.get_or_insert_with(Instant::now);
            let forgotten = since.elapsed() >= FORGET_AFTER;
            let report = if forgotten { Report::Forgotten(watched.kind) } else { Report::Absent(watched.kind) };
            if reports.send(report).await.is_err() {
                return;
            }
            sleep(LOOK_AGAIN).await;
            continue;
        };
        if missing_since.take().is_some() {
            tracing::info!(resource = watched.resource(), "is served now");
        }
        match follow(&client, &own, &watched, &resource, &reports, &mut waits).await {
            End::Closed => return,
            End::Missing => sleep(waits.next()).await,
            End::Failed(verb, error) => {
                if trouble(&watched, verb, &error, &reports, &mut waits).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Reports trouble and waits a while; an error means that nobody listens.
async fn trouble(
    watched: &Watched,
    verb: &str,
    error: &Error,
    reports: &mpsc::Sender<Report>,
    waits: &mut Waits,
) -> Result<(), ()> {
    let message = words(verb, &watched.resource(), error);
    if waits.is_first() {
        tracing::warn!("{message}");
    } else {
        tracing::debug!("{message}");
    }
    reports.send(Report::Trouble(watched.kind, message)).await.map_err(drop)?;
    sleep(waits.next()).await;
    Ok(())
}

/// The newest version of a kind that the server serves. Kubernetes' own kinds are always there.
async fn find(client: &Client, watched: &Watched) -> Result<Option<ApiResource>, Error> {
    let Some(newest) = watched.versions.first() else { return Ok(None) };
    if !watched.is_custom() {
        return Ok(Some(watched.api(newest)));
    }
    if let Some(found) = look_up(client, watched).await? {
        return Ok(Some(found));
    }
    // A server that is not ready does not know all kinds yet; after that its answer counts.
    let ready = http::Request::get("/readyz").body(Vec::new()).map_err(Error::HttpError)?;
    client.request_text(ready).await?;
    look_up(client, watched).await
}

async fn look_up(client: &Client, watched: &Watched) -> Result<Option<ApiResource>, Error> {
    // Groups first: of one that is not there the server says so in plain text, which the library logs as a fault each time.
    let groups = client.list_api_groups().await?.groups;
    let Some(group) = groups.into_iter().find(|group| group.name == watched.group) else { return Ok(None) };
    for version in watched.versions {
        if !group.versions.iter().any(|one| one.version == *version) {
            continue;
        }
        match client.list_api_group_resources(&format!("{}/{version}", watched.group)).await {
            Ok(served) if served.resources.iter().any(|one| one.name == watched.plural) => {
                return Ok(Some(watched.api(version)));
            }
            Ok(_) => {}
            Err(error) if is_missing(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// True if the server does not know the path. By the code alone: paths of kinds that are not served get a plain text, not a status, of
/// which `Status::is_not_found` says no.
fn is_missing(error: &Error) -> bool {
    matches!(error, Error::Api(status) if status.code == 404)
}

async fn follow(
    client: &Client,
    own: &Own,
    watched: &Watched,
    resource: &ApiResource,
    reports: &mpsc::Sender<Report>,
    waits: &mut Waits,
) -> End {
    let config = watcher::Config::default().timeout(WATCH_SECONDS);
    let objects = || Api::<Raw>::all_with(client.clone(), resource);
    match &watched.part {
        Part::All => forward(watcher(objects(), config), watched, own, resource, reports, waits).await,
        Part::Running => {
            let config = config.fields("status.phase!=Succeeded,status.phase!=Failed");
            forward(watcher(objects(), config), watched, own, resource, reports, waits).await
        }
        Part::MeshConfig(name) => {
            let config = config.fields(&format!("metadata.name={name}"));
            let objects = Api::<Raw>::namespaced_with(client.clone(), &own.namespace, resource);
            // The model knows them by one name, whatever the revision.
            let stream =
                watcher(objects, config).map(|event| event.map(|event| each(event, |raw| raw.named(MESH_CONFIG_NAME))));
            forward(stream, watched, own, resource, reports, waits).await
        }
        Part::Metadata => {
            let metadata = Api::<PartialObjectMeta<Raw>>::all_with(client.clone(), resource);
            let stream = watcher(metadata, config).map(|event| event.map(|event| each(event, Raw::of_metadata)));
            forward(stream, watched, own, resource, reports, waits).await
        }
    }
}

fn each<A, B>(event: Event<A>, change: impl FnOnce(A) -> B) -> Event<B> {
    match event {
        Event::Apply(one) => Event::Apply(change(one)),
        Event::Delete(one) => Event::Delete(change(one)),
        Event::Init => Event::Init,
        Event::InitApply(one) => Event::InitApply(change(one)),
        Event::InitDone => Event::InitDone,
    }
}

/// What a list has brought so far.
enum Page {
    Objects(Vec<Item>),
    Secrets(Vec<(Key, String)>),
}

/// Reads what a watch brings, and reports it.
async fn forward(
    stream: impl Stream<Item = watcher::Result<Event<Raw>>>,
    watched: &Watched,
    own: &Own,
    resource: &ApiResource,
    reports: &mpsc::Sender<Report>,
    waits: &mut Waits,
) -> End {
    let mut stream = pin!(stream);
    let secrets = watched.kind == Kind::Secret;
    let empty = || if secrets { Page::Secrets(Vec::new()) } else { Page::Objects(Vec::new()) };
    let mut listed = empty();
    while let Some(event) = stream.next().await {
        let event = match event {
            Ok(event) => event,
            Err(error) => match judge(error) {
                Judged::Ends(end) => return end,
                Judged::Passes(verb, message) => {
                    // The library goes on where the watch broke off.
                    if waits.is_first() {
                        tracing::warn!(
                            resource = watched.resource(),
                            verb,
                            message,
                            "the watch broke off and is taken up again"
                        );
                    }
                    sleep(waits.next()).await;
                    continue;
                }
            },
        };
        // The beginning of a list says nothing about whether it can be had.
        if !matches!(event, Event::Init) {
            waits.reset();
        }
        let report = match event {
            Event::Init => {
                listed = empty();
                continue;
            }
            Event::InitApply(raw) => {
                match &mut listed {
                    _ if !watched.is_for(own, &raw) => {}
                    Page::Objects(items) => items.push(raw.read(watched, &resource.api_version)),
                    Page::Secrets(names) => names.push((raw.key(watched), raw.version())),
                }
                continue;
            }
            Event::InitDone => match std::mem::replace(&mut listed, empty()) {
                Page::Objects(items) => Report::Listed(watched.kind, items),
                Page::Secrets(names) => Report::SecretsListed(names),
            },
            Event::Apply(raw) if secrets => Report::SecretSeen(raw.key(watched), raw.version()),
            // It may have counted before.
            Event::Apply(raw) if !watched.is_for(own, &raw) => Report::Gone(raw.key(watched)),
            Event::Apply(raw) => Report::Set(raw.read(watched, &resource.api_version)),
            Event::Delete(raw) => Report::Gone(raw.key(watched)),
        };
        if reports.send(report).await.is_err() {
            return End::Closed;
        }
    }
    End::Closed
}

enum Judged {
    /// Following begins anew, from a list.
    Ends(End),
    /// The watch goes on.
    Passes(&'static str, String),
}

fn judge(error: watcher::Error) -> Judged {
    let ends =
        |verb, error: Error| Judged::Ends(if is_missing(&error) { End::Missing } else { End::Failed(verb, error) });
    match error {
        watcher::Error::InitialListFailed(error) => ends("list", error),
        watcher::Error::WatchStartFailed(error) => match &error {
            // A server that cannot be reached, or has too much to do, may still know where the watch broke off; one that says 410 does not.
            Error::Api(status) if matches!(status.code, 401 | 403 | 404 | 410) => ends("watch", error),
            _ => Judged::Passes("watch", error.to_string()),
        },
        other => Judged::Passes("watch", other.to_string()),
    }
}

/// Reads the secrets that are asked for, until nobody asks any more.
pub(super) async fn fetch(client: Client, keys: mpsc::UnboundedReceiver<Key>, reports: mpsc::Sender<Report>) {
    let Some(watched) = watched(MESH_CONFIG_NAME).into_iter().find(|watched| watched.kind == Kind::Secret) else {
        return;
    };
    let keys = tokio_stream::wrappers::UnboundedReceiverStream::new(keys);
    let fetched = keys.map(|key| fetch_one(&client, &watched, key, &reports));
    fetched.buffer_unordered(FETCHES).for_each(|()| std::future::ready(())).await;
}

async fn fetch_one(client: &Client, watched: &Watched, key: Key, reports: &mpsc::Sender<Report>) {
    let resource = watched.api("v1");
    let api = Api::<Raw>::namespaced_with(client.clone(), &key.namespace, &resource);
    let mut waits = Waits::default();
    loop {
        let item = match api.get_opt(&key.name).await {
            Ok(found) => found.map(|raw| raw.read(watched, &resource.api_version)),
            Err(error) => {
                if trouble(watched, "get", &error, reports, &mut waits).await.is_err() {
                    return;
                }
                continue;
            }
        };
        // Nobody listens once the source ends.
        let _ = reports.send(Report::SecretRead(key, item)).await;
        return;
    }
}

/// How long to wait after an error.
#[derive(Debug)]
struct Waits(Duration);

impl Default for Waits {
    fn default() -> Self {
        Self(WAITS.0)
    }
}

impl Waits {
    fn next(&mut self) -> Duration {
        let wait = self.0;
        self.0 = (wait * 2).min(WAITS.1);
        wait
    }

    fn reset(&mut self) {
        *self = Self::default();
    }

    fn is_first(&self) -> bool {
        self.0 == WAITS.0
    }
}

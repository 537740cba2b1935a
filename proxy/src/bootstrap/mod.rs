//! With what a proxy starts: an Envoy bootstrap from a file, or what an agent knows from its environment ([`agent`]).
//!
//! A field of a bootstrap that is not honoured is refused with its path, as everywhere.

pub mod agent;

use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mesh_proto::xds::{bootstrap as raw, core, wkt};
use prost::Message;

use crate::Name;
use crate::dns;
use crate::identity;
use crate::probe::Probes;
use crate::telemetry::peer::Fields;
use crate::xds::client::{KEEPALIVE, Protocol, Settings, Target};
use crate::xds::decode::{At, Decoded, Refusal, listener, required};
use crate::xds::kind::Kind;

/// Everything a proxy is told at its start.
#[derive(Debug, Clone, Default)]
pub struct Bootstrap {
    /// Who we are, as the control plane is told.
    pub node: core::Node,
    /// Resources that are there from the start: kind, encoded body.
    pub resources: Vec<(Kind, Vec<u8>)>,
    /// The control plane.
    pub ads: Option<Settings>,
    /// Watched files that hold clusters or listeners.
    pub files: Vec<(Kind, PathBuf)>,
    /// Where we get our certificate.
    pub identity: Option<identity::Settings>,
    /// Files that are our certificate instead.
    pub mounted: Option<identity::files::Mounted>,
    /// Servers of our own.
    pub servers: Servers,
    /// The workload's DNS, if the proxy answers it.
    pub dns: Option<dns::Settings>,
    /// The application's own metrics, merged with ours.
    pub application: Option<ApplicationMetrics>,
    /// The application's probes and hooks, which the kubelet asks of us.
    pub probes: Probes,
    /// How long connections may take to finish when the proxy is told to end.
    pub drain: Duration,
    /// How long a connection may take to finish whose listener or filter chain is gone (Envoy's `--drain-time-s`).
    pub listener_drain: Duration,
    /// Worker threads, unless a flag says; 0 is one for each processor.
    pub workers: Option<usize>,
    /// What was asked for and has no effect; for the log.
    pub warnings: Vec<String>,
}

/// Addresses of our own servers; absent ones are not served. Port 0 lets the system choose.
#[derive(Debug, Clone, Copy, Default)]
pub struct Servers {
    /// Admin; loopback only unless a bootstrap says otherwise.
    pub admin: Option<SocketAddr>,
    /// Readiness.
    pub status: Option<SocketAddr>,
    /// Our metrics.
    pub prometheus: Option<SocketAddr>,
    /// Our metrics and the application's, and the agent's duties.
    pub merged: Option<SocketAddr>,
}

impl Servers {
    /// Listens on IPv6 as well, where a server listens on every address: the kubelet and Prometheus may call either.
    pub fn serve_ipv6(&mut self) {
        for address in [&mut self.admin, &mut self.status, &mut self.prometheus, &mut self.merged].into_iter().flatten()
        {
            if address.ip().is_unspecified() {
                address.set_ip(Ipv6Addr::UNSPECIFIED.into());
            }
        }
    }
}

/// Where the application shows its metrics (`prometheus.io/*`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApplicationMetrics {
    /// Port on loopback.
    pub port: u16,
    /// Path.
    pub path: String,
}

/// Why a bootstrap is not taken.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The file.
    #[error("{path}: {error}")]
    File {
        /// Its path.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// Not YAML, not JSON, or not a bootstrap; the text names the field.
    #[error("bootstrap: {0}")]
    Malformed(String),
    /// A field that is wrong or not supported.
    #[error("bootstrap: {0}")]
    Refused(#[from] Refusal),
    /// The environment or flags.
    #[error("{0}")]
    Agent(String),
}

/// How long connections may take to finish unless configured; Istio's `terminationDrainDuration`.
pub const DRAIN: Duration = Duration::from_secs(5);
/// How long connections of a chain that is gone may take unless configured; Istio's `drainDuration`.
pub const LISTENER_DRAIN: Duration = Duration::from_secs(45);

impl Bootstrap {
    /// Reads a file of YAML or JSON.
    pub fn from_file(path: &Path) -> Result<Self, BootstrapError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| BootstrapError::File { path: path.display().to_string(), error })?;
        Self::from_yaml(&text)
    }

    /// Reads an Envoy bootstrap in YAML or JSON. Resources in it are decoded when the proxy starts.
    pub fn from_yaml(text: &str) -> Result<Self, BootstrapError> {
        let message: raw::Bootstrap = mesh_proto::yaml::from_yaml(text).map_err(BootstrapError::Malformed)?;
        Ok(Self::from_message(message)?)
    }

    fn from_message(message: raw::Bootstrap) -> Decoded<Self> {
        refuse_rest(&message)?;
        let mut bootstrap = Self {
            node: message.node.clone().unwrap_or_default(),
            drain: DRAIN,
            listener_drain: LISTENER_DRAIN,
            ..Self::default()
        };
        if let Some(admin) = &message.admin {
            bootstrap.servers.admin = self::admin(admin).at("admin")?;
        }
        if let Some(fixed) = message.static_resources {
            let mut add = |kind: Kind, body: Vec<u8>| bootstrap.resources.push((kind, body));
            fixed.secrets.iter().for_each(|one| add(Kind::Secret, one.encode_to_vec()));
            fixed.clusters.iter().for_each(|one| add(Kind::Cluster, one.encode_to_vec()));
            fixed.listeners.iter().for_each(|one| add(Kind::Listener, one.encode_to_vec()));
        }
        if let Some(dynamic) = &message.dynamic_resources {
            self::dynamic(dynamic, &mut bootstrap).at("dynamic_resources")?;
        }
        Ok(bootstrap)
    }

    /// Node metadata as JSON values.
    pub fn metadata(&self) -> Fields {
        self.node.metadata.as_ref().map(json).unwrap_or_default()
    }

    /// The name of a listener, cluster or secret of the bootstrap that stands at `index` among its kind, for errors.
    pub(crate) fn path_of(kind: Kind, index: usize) -> String {
        let list = match kind {
            Kind::Cluster => "clusters",
            Kind::Listener => "listeners",
            Kind::Secret => "secrets",
            Kind::Endpoint | Kind::Route | Kind::VirtualHost | Kind::NameTable => "resources",
        };
        format!("static_resources.{list}[{index}]")
    }
}

/// Node metadata as JSON values.
fn json(raw: &wkt::Struct) -> Fields {
    fn value(raw: &wkt::Value) -> serde_json::Value {
        use wkt::value::Kind;
        match raw.kind.as_ref() {
            Some(Kind::StringValue(text)) => text.clone().into(),
            Some(Kind::NumberValue(number)) => (*number).into(),
            Some(Kind::BoolValue(truth)) => (*truth).into(),
            Some(Kind::StructValue(fields)) => serde_json::Value::Object(json(fields)),
            Some(Kind::ListValue(list)) => list.values.iter().map(value).collect(),
            Some(Kind::NullValue(_)) | None => serde_json::Value::Null,
        }
    }
    raw.fields.iter().map(|(key, field)| (key.clone(), value(field))).collect()
}

/// Only these parts of a bootstrap mean something here.
fn refuse_rest(message: &raw::Bootstrap) -> Decoded<()> {
    let encoded = mesh_proto::yaml::to_json(message).map_err(Refusal::new)?;
    let known = ["node", "static_resources", "dynamic_resources", "admin"];
    let unknown =
        encoded.as_object().into_iter().flatten().map(|(key, _)| key).find(|key| !known.contains(&key.as_str()));
    match unknown {
        Some(key) => Err(Refusal::field(key.as_str(), "is not supported")),
        None => Ok(()),
    }
}

#[allow(deprecated)]
fn admin(raw: &raw::Admin) -> Decoded<Option<SocketAddr>> {
    let quiet = |path: &str| path.is_empty() || path == "/dev/null";
    if !quiet(&raw.access_log_path) {
        return Err(Refusal::field(
            "access_log_path",
            "the admin server writes no access log; only /dev/null is supported",
        ));
    }
    for (path, set) in [
        ("access_log", !raw.access_log.is_empty()),
        ("socket_options", !raw.socket_options.is_empty()),
        ("allow_paths", !raw.allow_paths.is_empty()),
        ("profile_path", !raw.profile_path.is_empty()),
    ] {
        if set {
            return Err(Refusal::field(path, "is not supported"));
        }
    }
    raw.address.as_ref().map(listener::ip_address).transpose().at("address")
}

fn dynamic(raw: &raw::bootstrap::DynamicResources, bootstrap: &mut Bootstrap) -> Decoded<()> {
    for (path, set) in [
        ("lds_resources_locator", !raw.lds_resources_locator.is_empty()),
        ("cds_resources_locator", !raw.cds_resources_locator.is_empty()),
    ] {
        if set {
            return Err(Refusal::field(path, "is not supported"));
        }
    }
    let mut by_ads = Vec::new();
    for (kind, path, source) in
        [(Kind::Cluster, "cds_config", &raw.cds_config), (Kind::Listener, "lds_config", &raw.lds_config)]
    {
        match source.as_ref().map(self::source).transpose().at(path)? {
            None => {}
            Some(Source::Ads) => by_ads.push(kind),
            Some(Source::File(file)) => bootstrap.files.push((kind, file)),
        }
    }
    match &raw.ads_config {
        Some(config) => bootstrap.ads = Some(ads(config, by_ads).at("ads_config")?),
        None if !by_ads.is_empty() => {
            return Err(Refusal::field("ads_config", "is required, since something comes by ADS"));
        }
        None => {}
    }
    Ok(())
}

enum Source {
    Ads,
    File(PathBuf),
}

#[allow(deprecated)]
fn source(raw: &core::ConfigSource) -> Decoded<Source> {
    use core::config_source::ConfigSourceSpecifier as S;
    match raw.config_source_specifier.as_ref() {
        Some(S::Ads(_)) => Ok(Source::Ads),
        Some(S::PathConfigSource(file)) if file.watched_directory.is_some() => {
            Err(Refusal::field("path_config_source.watched_directory", "is not supported; the file itself is watched"))
        }
        Some(S::PathConfigSource(file)) => Ok(Source::File(file.path.clone().into())),
        Some(S::Path(file)) => Ok(Source::File(file.clone().into())),
        Some(S::ApiConfigSource(_)) => {
            Err(Refusal::field("api_config_source", "is not supported; use ads with ads_config"))
        }
        _ => Err(Refusal::new("needs one of ads, path_config_source")),
    }
}

fn ads(raw: &core::ApiConfigSource, mut kinds: Vec<Kind>) -> Decoded<Settings> {
    use core::api_config_source::ApiType;
    use core::grpc_service::TargetSpecifier;
    let protocol = match ApiType::try_from(raw.api_type) {
        Ok(ApiType::Grpc | ApiType::AggregatedGrpc) => Protocol::StateOfTheWorld,
        Ok(ApiType::DeltaGrpc | ApiType::AggregatedDeltaGrpc) => Protocol::Delta,
        _ => return Err(Refusal::field("api_type", "must be GRPC or DELTA_GRPC")),
    };
    let [service] = raw.grpc_services.as_slice() else {
        return Err(Refusal::field("grpc_services", "exactly one is supported"));
    };
    let target = match service.target_specifier.as_ref() {
        Some(TargetSpecifier::EnvoyGrpc(service)) => service,
        _ => return Err(Refusal::field("grpc_services[0]", "only envoy_grpc is supported")),
    };
    if target.retry_policy.is_some() {
        return Err(Refusal::field("grpc_services[0].envoy_grpc.retry_policy", "is not supported"));
    }
    for (path, set) in [
        ("refresh_delay", raw.refresh_delay.is_some()),
        ("request_timeout", raw.request_timeout.is_some()),
        ("rate_limit_settings", raw.rate_limit_settings.is_some()),
        ("config_validators", !raw.config_validators.is_empty()),
    ] {
        if set {
            return Err(Refusal::field(path, "is not supported"));
        }
    }
    kinds.extend([Kind::Endpoint, Kind::Route, Kind::VirtualHost, Kind::Secret]);
    kinds.sort();
    let metadata = service.initial_metadata.iter().map(|one| (one.key.clone(), one.value.clone())).collect();
    let cluster: Name = required("cluster_name", &Some(target.cluster_name.as_str()))?.to_owned().into();
    Ok(Settings {
        target: Target::Cluster(cluster),
        protocol,
        metadata,
        authority: (!target.authority.is_empty()).then(|| target.authority.clone()),
        kinds,
        keepalive: KEEPALIVE,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_means_nothing_here_is_refused_by_its_path() {
        for (yaml, error) in [
            ("{layered_runtime: {layers: [{name: a, static_layer: {}}]}}", "layered_runtime: is not supported"),
            ("{stats_config: {use_all_default_tags: false}}", "stats_config"),
            ("{admin: {profile_path: /tmp/x}}", "admin.profile_path: is not supported"),
            (
                "{admin: {address: {socket_address: {address: localhost, port_value: 1}}}}",
                "admin.address.socket_address.address",
            ),
            ("{dynamic_resources: {lds_config: {ads: {}}}}", "dynamic_resources.ads_config: is required"),
            ("{dynamic_resources: {ads_config: {api_type: REST}}}", "dynamic_resources.ads_config.api_type"),
            (
                "{dynamic_resources: {cds_config: {api_config_source: {api_type: GRPC}}}}",
                "dynamic_resources.cds_config.api_config_source",
            ),
            ("{static_resources: {listener: []}}", "static_resources"),
            ("{static_resources: {listeners: [{nam: x}]}}", "static_resources.listeners[0]"),
            ("a: [", "bootstrap"),
        ] {
            let found = Bootstrap::from_yaml(yaml).unwrap_err().to_string();
            assert!(found.contains(error), "{yaml}: {found}");
        }
    }

    #[test]
    fn an_envoy_bootstrap_is_read() {
        let yaml = "
            node: {id: a, cluster: b, metadata: {NAMESPACE: ns, LABELS: {app: x}}}
            admin: {access_log_path: /dev/null, address: {socket_address: {address: 127.0.0.1, port_value: 15000}}}
            dynamic_resources:
              ads_config: {api_type: DELTA_GRPC, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: xds}}]}
              cds_config: {resource_api_version: V3, ads: {}}
              lds_config: {path_config_source: {path: /tmp/lds.yaml}}
            static_resources: {clusters: [{name: xds}]}";
        let bootstrap = Bootstrap::from_yaml(yaml).unwrap();
        assert_eq!(bootstrap.servers.admin, Some(([127, 0, 0, 1], 15000).into()));
        assert_eq!(bootstrap.metadata()["LABELS"]["app"], "x");
        assert_eq!(bootstrap.files, [(Kind::Listener, PathBuf::from("/tmp/lds.yaml"))]);
        let ads = bootstrap.ads.unwrap();
        assert_eq!(ads.protocol, Protocol::Delta);
        assert_eq!(ads.kinds, [Kind::Cluster, Kind::Endpoint, Kind::Route, Kind::VirtualHost, Kind::Secret]);
    }
}

//! What an agent knows: flags and the environment of an injected container, as Istio's injection writes it, become a [`Bootstrap`].
//!
//! Source of the names: <https://istio.io/latest/docs/reference/commands/pilot-agent/#envvars>.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use mesh_proto::names::{annotation, label, port};
use mesh_proto::xds::{core, wkt};

use super::{ApplicationMetrics, Bootstrap, BootstrapError, DRAIN, LISTENER_DRAIN, Servers};
use crate::dns;
use crate::identity;
use crate::identity::files::Mounted;
use crate::probe::Probes;
use crate::telemetry::peer::Fields;
use crate::xds::client::{KEEPALIVE, Protocol, ServerTrust, Settings as Ads, Target};
use crate::xds::kind::Kind;

/// Where Istio's injection mounts the token.
pub const TOKEN_FILE: &str = "./var/run/secrets/tokens/istio-token";
/// Where Istio's injection mounts the mesh's root.
pub const ROOT_FILE: &str = "./var/run/secrets/istio/root-cert.pem";
/// The release whose configuration shape we ask for.
const ISTIO_VERSION: &str = "1.30.0";

/// Sidecar or gateway: the first part of the node's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    /// Beside an application.
    #[default]
    Sidecar,
    /// At the edge.
    Router,
}

/// What an agent knows.
#[derive(Debug, Clone)]
pub struct Agent {
    /// Sidecar or gateway.
    pub role: Role,
    /// `HOST:PORT` of the control plane over TLS; `http://HOST:PORT`, or port 15010, in plaintext.
    pub discovery_address: String,
    /// As `discovery_address`, of the authority; the control plane's when absent.
    pub ca_address: Option<String>,
    /// Whom control plane and authority must be signed by.
    pub root: identity::Root,
    /// The name in their certificate, unless `istiod.istio-system.svc`.
    pub server_name: Option<String>,
    /// Shown until there is a certificate.
    pub token: identity::Token,
    /// Certificates from files instead of an authority.
    pub mounted: Option<Mounted>,
    /// False: no certificate at all (plaintext meshes, tests).
    pub wants_identity: bool,
    /// Form of the protocol.
    pub protocol: Protocol,
    /// Pod or machine.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// Service account.
    pub service_account: String,
    /// Address of the workload.
    pub ip: IpAddr,
    /// Suffix of cluster-local names.
    pub domain: String,
    /// Trust domain.
    pub trust_domain: String,
    /// Node metadata beside what follows from the rest.
    pub metadata: Fields,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Annotations about the application's metrics as they were before injection pointed Prometheus at us.
    pub metrics: Option<BTreeMap<String, String>>,
    /// The application's probes and hooks, which the kubelet asks of us.
    pub probes: Probes,
    /// Our own servers.
    pub servers: Servers,
    /// The workload's DNS is answered by these settings; what short names mean follows from the rest.
    pub dns: Option<dns::Settings>,
    /// How long connections may take to finish.
    pub drain: Duration,
    /// How long connections of a listener or chain that is gone may take to finish (`drainDuration`).
    pub listener_drain: Duration,
    /// Pings on the stream to the control plane: how often, and how long an answer may take.
    pub keepalive: (Duration, Duration),
    /// Life of the certificate that is asked for; the authority may give less.
    pub secret_ttl: Duration,
    /// Worker threads (`concurrency`); absent leaves it to the flag, 0 is one for each processor.
    pub workers: Option<usize>,
    /// What was asked for and has no effect.
    pub warnings: Vec<String>,
}

/// Fields of ProxyConfig that the agent or the control plane honours.
const PROXY_CONFIG: &[&str] = &[
    "discoveryAddress",
    "controlPlaneAuthPolicy",
    "terminationDrainDuration",
    "drainDuration",
    "proxyAdminPort",
    "statusPort",
    "concurrency",
    "interceptionMode",
    // By injection.
    "proxyMetadata",
    "holdApplicationUntilProxyStarts",
    // By the control plane, which is told the whole.
    "gatewayTopology",
    "proxyHeaders",
];

impl Default for Agent {
    fn default() -> Self {
        let any = |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        Self {
            role: Role::Sidecar,
            discovery_address: "istiod.istio-system.svc:15012".to_owned(),
            ca_address: None,
            root: identity::Root::File(ROOT_FILE.into()),
            server_name: None,
            token: identity::Token::File(TOKEN_FILE.into()),
            mounted: None,
            wants_identity: true,
            protocol: Protocol::Delta,
            name: crate::policy::headers::hostname().to_owned(),
            namespace: "default".to_owned(),
            service_account: "default".to_owned(),
            ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            domain: "cluster.local".to_owned(),
            trust_domain: "cluster.local".to_owned(),
            metadata: Fields::new(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            metrics: None,
            probes: Probes::default(),
            servers: Servers {
                admin: Some((Ipv4Addr::LOCALHOST, port::ADMIN).into()),
                status: Some(any(port::READINESS)),
                prometheus: Some(any(port::PROMETHEUS)),
                merged: Some(any(port::AGENT)),
            },
            dns: None,
            drain: DRAIN,
            listener_drain: LISTENER_DRAIN,
            keepalive: KEEPALIVE,
            secret_ttl: identity::Settings::default().ttl,
            workers: None,
            warnings: Vec::new(),
        }
    }
}

impl Agent {
    /// Reads the environment. `files` reads a file of the downward API (`/etc/istio/pod/labels`) if it is there.
    pub fn from_environment(
        variables: &BTreeMap<String, String>,
        files: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, BootstrapError> {
        let get = |name: &str| variables.get(name).map(String::as_str).filter(|value| !value.is_empty());
        let wrong = |name: &str, error: &dyn std::fmt::Display| BootstrapError::Agent(format!("{name}: {error}"));
        let mut agent = Self::default();
        let text = |into: &mut String, names: &[&str]| {
            if let Some(value) = names.iter().find_map(|name| get(name)) {
                *into = value.to_owned();
            }
        };
        text(&mut agent.name, &["POD_NAME", "ISTIO_META_NAME"]);
        text(&mut agent.namespace, &["POD_NAMESPACE", "ISTIO_META_NAMESPACE"]);
        text(&mut agent.service_account, &["SERVICE_ACCOUNT", "ISTIO_META_SERVICE_ACCOUNT"]);
        text(&mut agent.trust_domain, &["TRUST_DOMAIN"]);
        text(&mut agent.discovery_address, &["DISCOVERY_ADDRESS"]);
        agent.domain = get("DOMAIN_SUFFIX").unwrap_or("cluster.local").to_owned();
        agent.ca_address = get("CA_ADDR").map(str::to_owned);
        if let Some(ip) = get("INSTANCE_IP").or_else(|| get("POD_IP")) {
            agent.ip = ip.parse().map_err(|error| wrong("INSTANCE_IP", &error))?;
        }
        if let Some(all) = get("INSTANCE_IPS") {
            let addresses: Result<Vec<IpAddr>, _> = all.split(',').map(|one| one.trim().parse()).collect();
            if addresses.map_err(|error| wrong("INSTANCE_IPS", &error))?.iter().any(IpAddr::is_ipv6) {
                agent.servers.serve_ipv6();
            }
            agent.metadata.insert("INSTANCE_IPS".to_owned(), all.into());
        }
        if let Some(text) = get("ISTIO_PROMETHEUS_ANNOTATIONS") {
            let told: BTreeMap<String, String> =
                serde_json::from_str(text).map_err(|error| wrong("ISTIO_PROMETHEUS_ANNOTATIONS", &error))?;
            let full = told.into_iter().map(|(name, value)| (format!("prometheus.io/{name}"), value));
            agent.metrics = Some(full.collect());
        }
        if let Some(text) = get(mesh_proto::probe::VARIABLE) {
            let probes = Probes::parse(text, agent.ip);
            agent.probes = probes.map_err(|error| wrong(mesh_proto::probe::VARIABLE, &error))?;
        }
        if let Some(file) = get("TOKEN_FILE").or_else(|| get("JWT_TOKEN_FILE")) {
            agent.token = identity::Token::File(file.into());
        }
        if let Some(file) = get("XDS_ROOT_CA").or_else(|| get("CA_ROOT_CA")) {
            agent.root = identity::Root::File(file.into());
        }
        if get("FILE_MOUNTED_CERTS") == Some("true") {
            let path = |name: &str, default: &str| PathBuf::from(get(name).unwrap_or(default));
            agent.mounted = Some(Mounted {
                chain: path("ISTIO_META_TLS_SERVER_CERT_CHAIN", "/etc/certs/cert-chain.pem"),
                key: path("ISTIO_META_TLS_SERVER_KEY", "/etc/certs/key.pem"),
                root: path("ISTIO_META_TLS_SERVER_ROOT_CERT", "/etc/certs/root-cert.pem"),
            });
        }
        for (name, value) in variables {
            if let Some(key) = name.strip_prefix("ISTIO_METAJSON_") {
                let value = serde_json::from_str(value).map_err(|error| wrong(name, &error))?;
                agent.metadata.insert(key.to_owned(), value);
            } else if let Some(key) = name.strip_prefix("ISTIO_META_") {
                agent.metadata.insert(key.to_owned(), value.clone().into());
            }
        }
        for (key, file, into) in [
            ("LABELS", "/etc/istio/pod/labels", &mut agent.labels),
            ("ANNOTATIONS", "/etc/istio/pod/annotations", &mut agent.annotations),
        ] {
            if let Some(serde_json::Value::Object(map)) = agent.metadata.remove(key) {
                into.extend(map.into_iter().filter_map(|(key, value)| Some((key, value.as_str()?.to_owned()))));
            }
            if let Some(text) = files(file) {
                into.extend(downward(&text));
            }
        }
        if get("ISTIO_META_DNS_CAPTURE").is_some_and(is_true) {
            let listen = match get("DNS_PROXY_ADDR") {
                Some(address) => vec![dns_address(address).map_err(|error| wrong("DNS_PROXY_ADDR", &error))?],
                None => [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]
                    .map(|address| SocketAddr::new(address, port::DNS))
                    .to_vec(),
            };
            let parallel = get("DNS_FORWARD_PARALLEL").is_some_and(is_true);
            agent.answer_dns(listen, parallel, &files(dns::RESOLV_CONF).unwrap_or_default());
        }
        if let Some(config) = get("PROXY_CONFIG") {
            agent.take_proxy_config(config)?;
        }
        if let Some(life) = get("SECRET_TTL") {
            let life = life.parse::<mesh_proto::crd::Duration>();
            agent.secret_ttl = life.map_err(|error| wrong("SECRET_TTL", &error))?.0;
        }
        if let Some(seconds) = get("TERMINATION_DRAIN_DURATION_SECONDS") {
            let seconds = seconds.parse().map_err(|error| wrong("TERMINATION_DRAIN_DURATION_SECONDS", &error))?;
            agent.drain = Duration::from_secs(seconds);
        }
        Ok(agent)
    }

    /// Answers the workload's DNS at these addresses, and asks the resolvers of a `resolv.conf` for names that are not the mesh's.
    pub fn answer_dns(&mut self, listen: Vec<SocketAddr>, parallel: bool, resolv_conf: &str) {
        let mut settings = dns::Settings { listen, parallel, ..dns::Settings::default() };
        settings.take_resolv_conf(resolv_conf);
        if settings.resolvers.is_empty() {
            tracing::warn!("{} names no resolver: only names of the mesh will be answered", dns::RESOLV_CONF);
        }
        self.dns = Some(settings);
    }

    /// Takes a ProxyConfig in YAML, and tells the control plane of it.
    pub fn take_proxy_config(&mut self, yaml: &str) -> Result<(), BootstrapError> {
        let wrong = |error: String| BootstrapError::Agent(format!("PROXY_CONFIG: {error}"));
        let value: serde_json::Value = yaml_serde::from_str(yaml).map_err(|error| wrong(error.to_string()))?;
        let text = |key: &str| value.get(key).and_then(|value| value.as_str());
        if let Some(address) = text("discoveryAddress") {
            self.discovery_address = address.to_owned();
        }
        if text("controlPlaneAuthPolicy") == Some("NONE") && !self.discovery_address.contains("://") {
            self.discovery_address = format!("http://{}", self.discovery_address);
        }
        for (key, into) in [("terminationDrainDuration", &mut self.drain), ("drainDuration", &mut self.listener_drain)]
        {
            if let Some(duration) = text(key) {
                let duration = duration.parse::<mesh_proto::crd::Duration>();
                *into = duration.map_err(|error| wrong(format!("{key}: {error}")))?.0;
            }
        }
        if let Some(port) = value.get("proxyAdminPort").and_then(serde_json::Value::as_u64) {
            let port = u16::try_from(port).map_err(|_| wrong("proxyAdminPort: must be at most 65535".into()))?;
            self.servers.admin = Some((Ipv4Addr::LOCALHOST, port).into());
        }
        if let Some(port) = value.get("statusPort").and_then(serde_json::Value::as_u64) {
            let port = u16::try_from(port).map_err(|_| wrong("statusPort: must be at most 65535".into()))?;
            let everywhere = self.servers.merged.map_or(Ipv4Addr::UNSPECIFIED.into(), |address| address.ip());
            self.servers.merged = Some((everywhere, port).into());
        }
        if let Some(workers) = value.get("concurrency") {
            let number = workers.as_u64().and_then(|number| usize::try_from(number).ok());
            self.workers =
                Some(number.ok_or_else(|| wrong(format!("concurrency: {workers} is not a number of threads")))?);
        }
        if let Some(mode) = text("interceptionMode") {
            self.metadata.entry("INTERCEPTION_MODE".to_owned()).or_insert_with(|| mode.into());
        }
        let unknown = value.as_object().into_iter().flatten().map(|(name, _)| name);
        for name in unknown.filter(|name| !PROXY_CONFIG.contains(&name.as_str())) {
            self.warnings.push(format!("PROXY_CONFIG: {name}: has no effect on this proxy; remove it"));
        }
        self.metadata.insert("PROXY_CONFIG".to_owned(), value);
        Ok(())
    }

    /// The bootstrap of such a proxy.
    pub fn bootstrap(mut self) -> Result<Bootstrap, BootstrapError> {
        // What an application's owner wrote of its metrics is no reason to take its traffic down.
        let application = self.application().unwrap_or_else(|error| {
            self.warnings.push(format!("the application's metrics are not shown: {error}"));
            None
        });
        let (address, plaintext) = endpoint(&self.discovery_address)?;
        let trust = ServerTrust { root: self.root.clone(), server_name: self.server_name.clone() };
        let ads = Ads {
            target: Target::Address {
                address,
                tls: (!plaintext).then_some(trust),
                token: if plaintext && !self.wants_identity { identity::Token::None } else { self.token.clone() },
            },
            protocol: self.protocol,
            metadata: Vec::new(),
            authority: None,
            kinds: Kind::ALL.into_iter().filter(|kind| *kind != Kind::NameTable || self.dns.is_some()).collect(),
            keepalive: self.keepalive,
        };
        let identity = (self.wants_identity && self.mounted.is_none()).then(|| {
            let scheme = if plaintext { "http" } else { "https" };
            identity::Settings {
                ca_address: self.ca_address.clone().unwrap_or_else(|| match self.discovery_address.contains("://") {
                    true => self.discovery_address.clone(),
                    false => format!("{scheme}://{}", self.discovery_address),
                }),
                ca_root: self.root.clone(),
                server_name: self.server_name.clone(),
                token: self.token.clone(),
                trust_domain: self.trust_domain.clone(),
                namespace: self.namespace.clone(),
                service_account: self.service_account.clone(),
                ttl: self.secret_ttl,
                cluster_id: self.metadata.get("CLUSTER_ID").and_then(|id| id.as_str()).map(str::to_owned),
                ..identity::Settings::default()
            }
        });
        Ok(Bootstrap {
            dns: self.dns.clone().map(|mut settings| {
                let search = settings.place.search.take();
                settings.place = dns::Place { search, ..dns::Place::new(&self.namespace, &self.dns_domain()) };
                settings
            }),
            node: self.node(),
            resources: Vec::new(),
            ads: Some(ads),
            files: Vec::new(),
            identity,
            application,
            probes: self.probes,
            mounted: self.mounted,
            servers: self.servers,
            drain: self.drain,
            listener_drain: self.listener_drain,
            workers: self.workers,
            warnings: self.warnings,
        })
    }

    /// Where the application shows its metrics, by its annotations; an error says why they cannot be read.
    fn application(&self) -> Result<Option<ApplicationMetrics>, String> {
        let get = |name: &str| self.metrics.as_ref().unwrap_or(&self.annotations).get(name).map(String::as_str);
        let Some(port) = get(annotation::PROMETHEUS_PORT) else { return Ok(None) };
        if get(annotation::PROMETHEUS_SCRAPE) == Some("false") {
            return Ok(None);
        }
        if get(annotation::PROMETHEUS_SCHEME).is_some_and(|scheme| scheme != "http") {
            return Err(format!("{}: only http is supported", annotation::PROMETHEUS_SCHEME));
        }
        let port = port.parse().map_err(|error| format!("{}: `{port}`: {error}", annotation::PROMETHEUS_PORT))?;
        // Annotations that injection wrote lead to ourselves; an application without its own has nothing to show.
        if self.servers.merged.is_some_and(|ours| ours.port() == port) {
            return Ok(None);
        }
        let path = get(annotation::PROMETHEUS_PATH).unwrap_or("/metrics").to_owned();
        Ok(Some(ApplicationMetrics { port, path }))
    }

    /// The domain of the namespace's services.
    fn dns_domain(&self) -> String {
        format!("{}.svc.{}", self.namespace, self.domain)
    }

    fn node(&self) -> core::Node {
        let role = match self.role {
            Role::Sidecar => "sidecar",
            Role::Router => "router",
        };
        let mut metadata = self.metadata.clone();
        let map = |map: &BTreeMap<String, String>| -> serde_json::Value {
            map.iter().map(|(key, value)| (key.clone(), serde_json::Value::from(value.as_str()))).collect()
        };
        let mut set = |key: &str, value: serde_json::Value| {
            metadata.entry(key.to_owned()).or_insert(value);
        };
        set("NAME", self.name.as_str().into());
        set("NAMESPACE", self.namespace.as_str().into());
        set("SERVICE_ACCOUNT", self.service_account.as_str().into());
        set("INSTANCE_IPS", self.ip.to_string().into());
        set("LABELS", map(&self.labels));
        set("ANNOTATIONS", map(&self.annotations));
        set("ISTIO_VERSION", ISTIO_VERSION.into());
        set("CLUSTER_ID", "Kubernetes".into());
        if self.dns.is_some() {
            set("DNS_CAPTURE", "true".into());
        }
        let workload = self.labels.get(label::WORKLOAD_NAME).unwrap_or(&self.name);
        set("WORKLOAD_NAME", workload.as_str().into());
        metadata.insert("FERROMESH".to_owned(), env!("CARGO_PKG_VERSION").into());
        if self.protocol == Protocol::Delta {
            metadata.insert("FERROMESH_VHDS".to_owned(), "true".into());
        }
        let workload = metadata["WORKLOAD_NAME"].as_str().unwrap_or(&self.name);
        core::Node {
            id: format!("{role}~{}~{}.{}~{}", self.ip, self.name, self.namespace, self.dns_domain()),
            cluster: format!("{workload}.{}", self.namespace),
            user_agent_name: "ferromesh".to_owned(),
            metadata: Some(to_struct(&metadata)),
            ..core::Node::default()
        }
    }
}

/// `HOST:PORT`, and whether it is spoken to in plaintext.
fn endpoint(address: &str) -> Result<(String, bool), BootstrapError> {
    let (rest, plaintext) = match address.split_once("://") {
        Some(("http", rest)) => (rest, true),
        Some(("https", rest)) => (rest, false),
        Some((scheme, _)) => {
            return Err(BootstrapError::Agent(format!("{address}: `{scheme}` is neither http nor https")));
        }
        None => (address, address.ends_with(&format!(":{}", port::XDS_PLAINTEXT))),
    };
    match rest.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok((rest.to_owned(), plaintext)),
        _ => Err(BootstrapError::Agent(format!("`{address}` is not HOST:PORT"))),
    }
}

/// A truth as Go's `strconv.ParseBool` takes it, which reads these variables in Istio.
fn is_true(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

/// `IP:PORT`, or `localhost:PORT` as in Istio.
fn dns_address(text: &str) -> Result<SocketAddr, std::net::AddrParseError> {
    match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}").parse(),
        None => text.parse(),
    }
}

/// Lines `key="value"` of the downward API.
fn downward(text: &str) -> Vec<(String, String)> {
    text.lines()
        .filter_map(|line| {
            let (key, value) = line.split_once('=')?;
            let value = serde_json::from_str(value).unwrap_or_else(|_| value.to_owned());
            Some((key.to_owned(), value))
        })
        .collect()
}

/// JSON values as a message.
fn to_struct(fields: &Fields) -> wkt::Struct {
    fn value(raw: &serde_json::Value) -> wkt::Value {
        use wkt::value::Kind;
        let kind = match raw {
            serde_json::Value::Null => Kind::NullValue(0),
            serde_json::Value::Bool(truth) => Kind::BoolValue(*truth),
            serde_json::Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
            serde_json::Value::String(text) => Kind::StringValue(text.clone()),
            serde_json::Value::Array(list) => {
                Kind::ListValue(wkt::ListValue { values: list.iter().map(value).collect() })
            }
            serde_json::Value::Object(map) => Kind::StructValue(to_struct(map)),
        };
        wkt::Value { kind: Some(kind) }
    }
    wkt::Struct { fields: fields.iter().map(|(key, field)| (key.clone(), value(field))).collect() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn agent(variables: &[(&str, &str)]) -> Result<Agent, BootstrapError> {
        let variables = variables.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Agent::from_environment(&variables, |file| {
            (file == "/etc/istio/pod/labels").then(|| "app=\"reviews\"\n".into())
        })
    }

    #[test]
    fn an_injected_environment_is_read() {
        let agent = agent(&[
            ("POD_NAME", "reviews-1"),
            ("POD_NAMESPACE", "book"),
            ("SERVICE_ACCOUNT", "reviews"),
            ("INSTANCE_IP", "10.0.0.7"),
            ("ISTIO_META_CLUSTER_ID", "east"),
            ("ISTIO_META_WORKLOAD_NAME", "reviews-v1"),
            ("ISTIO_METAJSON_LABELS", "{\"version\":\"v1\"}"),
            ("ISTIO_METAJSON_ANNOTATIONS", "{\"prometheus.io/port\":\"9102\",\"prometheus.io/path\":\"/m\"}"),
            (
                "PROXY_CONFIG",
                "{\"discoveryAddress\":\"istiod:15012\",\"terminationDrainDuration\":\"7s\",\"drainDuration\":\"1m\"}",
            ),
        ])
        .unwrap();
        let bootstrap = agent.bootstrap().unwrap();
        assert_eq!(bootstrap.node.id, "sidecar~10.0.0.7~reviews-1.book~book.svc.cluster.local");
        assert_eq!(bootstrap.node.cluster, "reviews-v1.book");
        let metadata = bootstrap.metadata();
        assert_eq!(metadata["LABELS"], serde_json::json!({"app": "reviews", "version": "v1"}));
        assert_eq!(metadata["PROXY_CONFIG"]["discoveryAddress"], "istiod:15012");
        assert!(metadata["FERROMESH"].is_string());
        assert_eq!((bootstrap.drain, bootstrap.listener_drain), (Duration::from_secs(7), Duration::from_secs(60)));
        assert_eq!(bootstrap.application, Some(ApplicationMetrics { port: 9102, path: "/m".into() }));
        let identity = bootstrap.identity.unwrap();
        assert_eq!(
            (identity.ca_address.as_str(), identity.cluster_id.as_deref()),
            ("https://istiod:15012", Some("east"))
        );
        let Servers { admin, status, prometheus, merged } = bootstrap.servers;
        let ports = [admin, status, prometheus, merged].map(|address| address.map(|address| address.port()));
        assert_eq!(ports, [Some(15000), Some(15021), Some(15090), Some(15020)]);
    }

    #[test]
    fn what_injection_knows_of_the_application_is_taken() {
        let probers = "{\"/app-health/app/livez\": {\"tcpSocket\": {\"port\": 80}}}";
        let common = [
            ("INSTANCE_IP", "fd00::7"),
            ("INSTANCE_IPS", "fd00::7,10.0.0.7"),
            ("ISTIO_KUBE_APP_PROBERS", probers),
            ("ISTIO_METAJSON_ANNOTATIONS", "{\"prometheus.io/port\":\"15999\",\"prometheus.io/scrape\":\"true\"}"),
            ("PROXY_CONFIG", "{\"statusPort\":15999,\"proxyMetadata\":{\"A\":\"b\"}}"),
        ];
        let bootstrap = agent(&common).unwrap().bootstrap().unwrap();
        assert_eq!(bootstrap.probes, Probes::parse(probers, "fd00::7".parse().unwrap()).unwrap());
        assert_eq!((bootstrap.application, bootstrap.warnings), (None, Vec::new()));
        assert_eq!(bootstrap.servers.merged, Some("[::]:15999".parse().unwrap()));
        assert_eq!(bootstrap.servers.status, Some("[::]:15021".parse().unwrap()));
        assert_eq!(bootstrap.servers.admin, Some("127.0.0.1:15000".parse().unwrap()));
        assert_eq!(bootstrap.node.metadata.map(|all| json_text(&all, "INSTANCE_IPS")), Some("fd00::7,10.0.0.7".into()));
        let told = ("ISTIO_PROMETHEUS_ANNOTATIONS", "{\"port\":\"9102\",\"path\":\"/m\"}");
        let bootstrap = agent(&[&common[..], &[told]].concat()).unwrap().bootstrap().unwrap();
        assert_eq!(bootstrap.application, Some(ApplicationMetrics { port: 9102, path: "/m".into() }));
        let told = ("ISTIO_PROMETHEUS_ANNOTATIONS", "{\"port\":\"metrics\"}");
        let bootstrap = agent(&[&common[..], &[told]].concat()).unwrap().bootstrap().unwrap();
        assert!(bootstrap.application.is_none() && bootstrap.warnings[0].contains("prometheus.io/port: `metrics`"));
    }

    fn json_text(all: &wkt::Struct, name: &str) -> String {
        match all.fields.get(name).and_then(|value| value.kind.as_ref()) {
            Some(wkt::value::Kind::StringValue(text)) => text.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_proxys_own_settings_are_honoured_or_reported() {
        let config = "{concurrency: 3, interceptionMode: NONE, statusPort: 15999, tracing: {sampling: 5}, drainDuration: 9s, meshId: a}";
        let bootstrap = agent(&[("PROXY_CONFIG", config)]).unwrap().bootstrap().unwrap();
        assert_eq!(bootstrap.workers, Some(3));
        assert_eq!(bootstrap.metadata()["INTERCEPTION_MODE"], "NONE");
        assert_eq!(bootstrap.servers.merged.map(|address| address.port()), Some(15999));
        let report = |name| format!("PROXY_CONFIG: {name}: has no effect on this proxy; remove it");
        assert_eq!(bootstrap.warnings, [report("meshId"), report("tracing")]);
    }

    #[test]
    fn addresses_say_how_they_are_spoken_to() {
        for (address, expected) in [
            ("istiod:15012", Some(("istiod:15012", false))),
            ("istiod:15010", Some(("istiod:15010", true))),
            ("http://127.0.0.1:1", Some(("127.0.0.1:1", true))),
            ("https://a:15010", Some(("a:15010", false))),
            ("istiod", None),
            ("ftp://a:1", None),
        ] {
            let found = endpoint(address).ok();
            assert_eq!(found, expected.map(|(address, plaintext)| (address.to_owned(), plaintext)), "{address}");
        }
    }

    #[test]
    fn dns_is_answered_where_it_is_captured() {
        let variables = BTreeMap::from([("ISTIO_META_DNS_CAPTURE".to_owned(), "true".to_owned())]);
        let read = |variables: &BTreeMap<String, String>| {
            let agent = Agent::from_environment(variables, |file| {
                (file == dns::RESOLV_CONF).then(|| "search default.svc.cluster.local\nnameserver 10.96.0.10\n".into())
            });
            agent.unwrap().bootstrap().unwrap()
        };
        let bootstrap = read(&variables);
        assert_eq!(bootstrap.metadata()["DNS_CAPTURE"], "true");
        assert!(bootstrap.ads.unwrap().kinds.contains(&Kind::NameTable));
        let settings = bootstrap.dns.unwrap();
        assert_eq!(settings.listen, ["127.0.0.1:15053".parse().unwrap(), "[::1]:15053".parse().unwrap()]);
        assert_eq!(settings.resolvers, ["10.96.0.10:53".parse().unwrap()]);
        let place = dns::Place::new("default", "svc.cluster.local");
        assert_eq!(settings.place, dns::Place { search: Some("default.svc.cluster.local".into()), ..place });
        let mut elsewhere = variables.clone();
        elsewhere.insert("DNS_PROXY_ADDR".into(), "localhost:53".into());
        elsewhere.insert("DNS_FORWARD_PARALLEL".into(), "true".into());
        let settings = read(&elsewhere).dns.unwrap();
        assert_eq!((settings.listen, settings.parallel), (vec!["127.0.0.1:53".parse().unwrap()], true));
        let without = read(&BTreeMap::new());
        assert!(without.dns.is_none() && !without.ads.unwrap().kinds.contains(&Kind::NameTable));
    }

    #[test]
    fn malformed_settings_are_named() {
        for (name, value) in [
            ("INSTANCE_IP", "x"),
            ("INSTANCE_IPS", "10.0.0.1,x"),
            ("ISTIO_KUBE_APP_PROBERS", "{\"/app-health/a/livez\": {}}"),
            ("ISTIO_PROMETHEUS_ANNOTATIONS", "x"),
            ("ISTIO_METAJSON_LABELS", "{"),
            ("PROXY_CONFIG", "{"),
            ("PROXY_CONFIG", "{concurrency: many}"),
            ("TERMINATION_DRAIN_DURATION_SECONDS", "soon"),
            ("SECRET_TTL", "soon"),
            ("DNS_PROXY_ADDR", "here"),
        ] {
            let error = agent(&[("ISTIO_META_DNS_CAPTURE", "true"), (name, value)]).unwrap_err().to_string();
            assert!(error.starts_with(name), "{error}");
        }
    }
}

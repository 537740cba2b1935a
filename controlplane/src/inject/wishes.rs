//! What a pod asks for by its annotations (IN3), laid over the operator's settings: read and checked once, the second step of injection.
//!
//! An annotation that cannot be honoured is refused by its name; one without effect on our proxy becomes a warning, which kubectl shows.

use std::collections::BTreeMap;
use std::time::Duration;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{PodTemplateSpec, Volume, VolumeMount};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use mesh_proto::crd::MeshConfig;
use mesh_proto::crd::proxy_config::ProxyStartConfig;
use mesh_proto::names::{annotation, port};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::settings::Settings;
use super::{InjectError, PROXY, REDIRECT};

/// Amounts by the names of resources.
pub type Amounts = BTreeMap<String, Quantity>;

/// What a pod gets, as far as it may choose.
#[derive(Debug, Clone, PartialEq)]
pub struct Wishes {
    /// Templates, in order.
    pub templates: Vec<String>,
    /// The ProxyConfig that the proxy is started with: only what is set.
    pub proxy_config: Map<String, Value>,
    /// Variables of the proxy's environment (`proxyMetadata`).
    pub environment: BTreeMap<String, String>,
    /// Image, unless the template's.
    pub image: Option<String>,
    /// A native sidecar, not a container beside the application's.
    pub native: bool,
    /// Start the application after the proxy.
    pub hold: bool,
    /// How long a proxy goes on when it is told to end (`terminationDrainDuration`).
    pub drain: Duration,
    /// Requests.
    pub requests: Amounts,
    /// Limits.
    pub limits: Amounts,
    /// What is captured; nothing if absent (interception mode NONE).
    pub capture: Option<Capture>,
    /// `--log-level` of the proxy.
    pub log_level: String,
    /// More volumes.
    pub volumes: Vec<Volume>,
    /// More mounts of the proxy.
    pub mounts: Vec<VolumeMount>,
    /// Send probes of the application through the proxy.
    pub rewrite_probes: bool,
    /// Port of the proxy's agent duties.
    pub status_port: u16,
    /// Readiness probe of the proxy.
    pub readiness: Readiness,
    /// Show the application's metrics with the proxy's.
    pub merge_metrics: bool,
    /// May bind ports below 1024.
    pub bind_low_ports: bool,
    /// What has no effect.
    pub warnings: Vec<String>,
}

/// Istio's `terminationDrainDuration`.
const DRAIN: Duration = Duration::from_secs(5);

/// Readiness probe of the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readiness {
    /// Seconds before the first.
    pub initial_delay: i32,
    /// Seconds between two.
    pub period: i32,
    /// Failures that count.
    pub failures: i32,
}

/// Flags of `mesh-proxy redirect`, checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capture {
    /// `-i`.
    pub include_ranges: String,
    /// `-x`.
    pub exclude_ranges: String,
    /// `-q`.
    pub include_outbound_ports: String,
    /// `-o`.
    pub exclude_outbound_ports: String,
    /// `-b`.
    pub include_inbound_ports: String,
    /// `-d`, beside the proxy's own ports.
    pub exclude_inbound_ports: String,
    /// `-c`.
    pub exclude_interfaces: String,
}

/// Annotations that ask for what our proxy has no part for, and what to do instead.
const WITHOUT_EFFECT: &[(&str, &str)] = &[
    (
        annotation::PROXY_IMAGE_TYPE,
        "there is one kind of image; remove it, or name an image by sidecar.istio.io/proxyImage",
    ),
    (annotation::AGENT_LOG_LEVEL, "proxy and agent are one process; use sidecar.istio.io/logLevel"),
    (
        annotation::READINESS_APPLICATION_PORTS,
        "readiness does not wait for the application; give it a probe of its own",
    ),
    ("sidecar.istio.io/statsInclusionPrefixes", "statistics are not chosen by name; remove it"),
    ("sidecar.istio.io/statsInclusionSuffixes", "statistics are not chosen by name; remove it"),
    ("sidecar.istio.io/statsInclusionRegexps", "statistics are not chosen by name; remove it"),
    ("sidecar.istio.io/statsHistogramBuckets", "histograms have Istio's default buckets; remove it"),
    ("sidecar.istio.io/statsHistogramBins", "histograms have Istio's default buckets; remove it"),
    ("sidecar.istio.io/statsFlushInterval", "statistics are read when they are asked for; remove it"),
    ("sidecar.istio.io/statsEvictionInterval", "statistics are not evicted; remove it"),
    ("sidecar.istio.io/extraStatTags", "use a Telemetry resource"),
];

/// Annotations that are refused, because a pod without what they ask for would be another pod.
const REFUSED: &[(&str, &str)] = &[
    (
        annotation::BOOTSTRAP_OVERRIDE,
        "an Envoy bootstrap cannot be laid over this proxy's; remove it, and set proxy.istio.io/config",
    ),
    (annotation::KUBEVIRT_INTERFACES, "interfaces of virtual machines cannot be captured; remove it"),
    (annotation::REROUTE_INTERFACES, "interfaces of virtual machines cannot be captured; remove it"),
];

/// Reads a pod's wishes.
pub fn read(pod: &PodTemplateSpec, settings: &Settings, mesh: &MeshConfig) -> Result<Wishes, InjectError> {
    static NONE: BTreeMap<String, String> = BTreeMap::new();
    let annotations = pod.metadata.as_ref().and_then(|metadata| metadata.annotations.as_ref());
    let reader = Reader(annotations.unwrap_or(&NONE));
    for (name, reason) in REFUSED {
        if reader.text(name).is_some() {
            return Err(refuse(name, *reason));
        }
    }
    let mut warnings = users_of_the_proxys_id(pod);
    let ignored = WITHOUT_EFFECT.iter().filter(|(name, _)| reader.text(name).is_some());
    warnings.extend(ignored.map(|(name, reason)| format!("annotation {name} has no effect: {reason}")));
    let (proxy_config, started) = proxy_config(&reader, settings, mesh, &mut warnings)?;
    let status_port = match reader.number::<u16>(annotation::STATUS_PORT)? {
        Some(port) => port,
        None => match started.status_port {
            Some(port) => u16::try_from(port).ok().filter(|port| *port != 0).ok_or_else(|| {
                refuse(annotation::PROXY_CONFIG, format!("statusPort: {port} is not a port between 1 and 65535"))
            })?,
            None => port::AGENT,
        },
    };
    let mut proxy_config = proxy_config;
    if status_port != port::AGENT {
        proxy_config.insert("statusPort".to_owned(), status_port.into());
    }
    let (requests, limits) = resources(&reader, settings)?;
    Ok(Wishes {
        templates: templates(&reader, settings)?,
        environment: started.proxy_metadata.clone(),
        image: reader.text(annotation::PROXY_IMAGE).map(str::to_owned),
        native: reader.truth(annotation::NATIVE_SIDECAR)?.unwrap_or(settings.native_sidecar),
        hold: started.hold_application_until_proxy_starts.unwrap_or(false),
        drain: started.termination_drain_duration.map_or(DRAIN, |duration| duration.0),
        requests,
        limits,
        capture: capture(&reader, settings, &started)?,
        log_level: log_level(&reader, settings)?,
        volumes: volumes(&reader)?,
        mounts: mounts(&reader)?,
        rewrite_probes: reader.truth(annotation::REWRITE_PROBES)?.unwrap_or(settings.rewrite_app_probes),
        status_port,
        readiness: Readiness {
            initial_delay: reader.number(annotation::READINESS_INITIAL_DELAY)?.unwrap_or(0),
            period: reader.number(annotation::READINESS_PERIOD)?.unwrap_or(15),
            failures: reader.number(annotation::READINESS_FAILURES)?.unwrap_or(4),
        },
        merge_metrics: merge_metrics(&reader, mesh, &mut warnings)?,
        bind_low_ports: reader.truth(annotation::CAP_NET_BIND)?.unwrap_or(false),
        proxy_config,
        warnings,
    })
}

/// Whether the application's metrics are shown with the proxy's. What the proxy cannot read stays Prometheus' own business.
fn merge_metrics(reader: &Reader<'_>, mesh: &MeshConfig, warnings: &mut Vec<String>) -> Result<bool, InjectError> {
    let merge = reader.truth(annotation::MERGE_METRICS)?.unwrap_or(mesh.enable_prometheus_merge)
        && reader.truth(annotation::PROMETHEUS_SCRAPE)?.unwrap_or(true);
    let scheme = reader.text(annotation::PROMETHEUS_SCHEME).unwrap_or("http");
    let port = reader.text(annotation::PROMETHEUS_PORT);
    let unreadable = match port.map(port_number) {
        Some(Err(reason)) => Some(format!("{}: {reason}", annotation::PROMETHEUS_PORT)),
        _ if scheme != "http" => Some(format!("{}: only http can be read", annotation::PROMETHEUS_SCHEME)),
        _ => None,
    };
    if let (true, Some(reason)) = (merge, &unreadable) {
        warnings.push(format!("the application's metrics are not shown with the proxy's: {reason}"));
    }
    Ok(merge && unreadable.is_none())
}

fn refuse(name: &'static str, reason: impl Into<String>) -> InjectError {
    InjectError::Annotation { name, reason: reason.into() }
}

struct Reader<'a>(&'a BTreeMap<String, String>);

impl<'a> Reader<'a> {
    fn text(&self, name: &str) -> Option<&'a str> {
        self.0.get(name).map(String::as_str)
    }

    fn truth(&self, name: &'static str) -> Result<Option<bool>, InjectError> {
        match self.text(name) {
            None => Ok(None),
            Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(Some(true)),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(Some(false)),
            Some(other) => Err(refuse(name, format!("`{other}` is neither \"true\" nor \"false\""))),
        }
    }

    /// A number above nothing.
    fn number<N: std::str::FromStr + PartialOrd + From<u8>>(
        &self,
        name: &'static str,
    ) -> Result<Option<N>, InjectError> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let zero = name == annotation::READINESS_INITIAL_DELAY;
        let least = N::from(u8::from(!zero));
        match text.trim().parse::<N>() {
            Ok(number) if number >= least => Ok(Some(number)),
            _ => Err(refuse(name, format!("`{text}` is not a number in its range"))),
        }
    }

    fn quantity(&self, name: &'static str) -> Result<Option<Quantity>, InjectError> {
        match self.text(name) {
            None => Ok(None),
            Some(text) if is_quantity(text) => Ok(Some(Quantity(text.to_owned()))),
            Some(text) => Err(refuse(name, format!("`{text}` is not a quantity, such as 100m or 128Mi"))),
        }
    }
}

/// A number that is not negative, with a suffix of Kubernetes.
fn is_quantity(text: &str) -> bool {
    let number = text.trim_end_matches(|byte: char| byte.is_ascii_alphabetic());
    let suffix = &text[number.len()..];
    let digits = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    digits
        && number.parse::<f64>().is_ok()
        && matches!(
            suffix,
            "" | "n" | "u" | "m" | "k" | "M" | "G" | "T" | "P" | "E" | "Ki" | "Mi" | "Gi" | "Ti" | "Pi" | "Ei"
        )
}

fn templates(reader: &Reader<'_>, settings: &Settings) -> Result<Vec<String>, InjectError> {
    let Some(text) = reader.text(annotation::TEMPLATES) else { return Ok(settings.default_templates.clone()) };
    let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
    names
        .map(|name| match name {
            "grpc-simple" | "grpc-agent" | "waypoint" => Err(refuse(
                annotation::TEMPLATES,
                format!("the template `{name}` is not supported; use sidecar or gateway"),
            )),
            name if settings.has_template(name) => Ok(name.to_owned()),
            name => Err(refuse(
                annotation::TEMPLATES,
                format!(
                    "there is no template `{name}`; use sidecar, gateway, or define it in the settings of injection"
                ),
            )),
        })
        .collect()
}

/// `meshConfig.defaultConfig` with the annotation laid over it, as JSON and as a type.
fn proxy_config(
    reader: &Reader<'_>,
    settings: &Settings,
    mesh: &MeshConfig,
    warnings: &mut Vec<String>,
) -> Result<(Map<String, Value>, ProxyStartConfig), InjectError> {
    let wrong = |error: &dyn std::fmt::Display| refuse(annotation::PROXY_CONFIG, error.to_string());
    let mut merged = pruned(serde_json::to_value(&mesh.default_config).map_err(|error| wrong(&error))?);
    if let Some(text) = reader.text(annotation::PROXY_CONFIG) {
        let own: Value = yaml_serde::from_str(text).map_err(|error| wrong(&error))?;
        let mut unknown = Vec::new();
        let _: ProxyStartConfig =
            serde_ignored::deserialize(&own, |path| unknown.push(path.to_string())).map_err(|error| wrong(&error))?;
        warnings.extend(unknown.iter().map(|path| {
            format!(
                "annotation {}: {path} is not a field of ProxyConfig, so it has no effect; remove it",
                annotation::PROXY_CONFIG
            )
        }));
        for (name, value) in pruned(own) {
            match (merged.get_mut(&name), value) {
                // Variables are a map of their own: a pod adds one without repeating the mesh's.
                (Some(Value::Object(into)), Value::Object(more)) if name == "proxyMetadata" => into.extend(more),
                (_, value) => {
                    merged.insert(name, value);
                }
            }
        }
    }
    merged.entry("discoveryAddress").or_insert_with(|| settings.discovery().into());
    let typed = ProxyStartConfig::deserialize_value(&merged).map_err(|error| wrong(&error))?;
    Ok((merged, typed))
}

/// Reading a type from an object of JSON.
trait FromObject: DeserializeOwned {
    fn deserialize_value(object: &Map<String, Value>) -> Result<Self, serde_json::Error> {
        serde_json::from_value(Value::Object(object.clone()))
    }
}

impl<T: DeserializeOwned> FromObject for T {}

/// An object without what is not set.
fn pruned(value: Value) -> Map<String, Value> {
    fn is_set(value: &mut Value) -> bool {
        match value {
            Value::Null => false,
            Value::String(text) => !text.is_empty(),
            Value::Array(list) => !list.is_empty(),
            Value::Object(map) => {
                map.retain(|_, value| is_set(value));
                !map.is_empty()
            }
            Value::Bool(_) | Value::Number(_) => true,
        }
    }
    let Value::Object(mut map) = value else { return Map::new() };
    map.retain(|_, value| is_set(value));
    map
}

/// One annotation about resources replaces all defaults, as in Istio: whoever asks for a request does not want our limit.
fn resources(reader: &Reader<'_>, settings: &Settings) -> Result<(Amounts, Amounts), InjectError> {
    let mut own = [Amounts::new(), Amounts::new()];
    for (name, which, resource) in [
        (annotation::PROXY_CPU, 0, "cpu"),
        (annotation::PROXY_MEMORY, 0, "memory"),
        (annotation::PROXY_CPU_LIMIT, 1, "cpu"),
        (annotation::PROXY_MEMORY_LIMIT, 1, "memory"),
    ] {
        if let Some(quantity) = reader.quantity(name)? {
            own[which].insert(resource.to_owned(), quantity);
        }
    }
    let [requests, limits] = own;
    if !requests.is_empty() || !limits.is_empty() {
        return Ok((requests, limits));
    }
    let all = |map: &BTreeMap<String, String>| {
        map.iter().map(|(name, text)| (name.clone(), Quantity(text.clone()))).collect()
    };
    Ok((all(&settings.resources.requests), all(&settings.resources.limits)))
}

fn capture(
    reader: &Reader<'_>,
    settings: &Settings,
    started: &ProxyStartConfig,
) -> Result<Option<Capture>, InjectError> {
    let mode = reader.text(annotation::INTERCEPTION_MODE).unwrap_or(&started.interception_mode);
    match mode {
        "" | "REDIRECT" => {}
        "NONE" => return Ok(None),
        "TPROXY" => return Err(refuse(annotation::INTERCEPTION_MODE, "TPROXY is not supported; use REDIRECT")),
        other => return Err(refuse(annotation::INTERCEPTION_MODE, format!("`{other}` is neither REDIRECT nor NONE"))),
    }
    let defaults = &settings.capture;
    let list = |name, default: &str, judge: fn(&str) -> Result<(), String>| -> Result<String, InjectError> {
        let text = reader.text(name).unwrap_or(default);
        let items: Vec<&str> = text.split(',').map(str::trim).filter(|item| !item.is_empty()).collect();
        items.iter().try_for_each(|item| judge(item)).map_err(|reason| refuse(name, reason))?;
        Ok(items.join(","))
    };
    let or_all = |name, default: &str, judge| match reader.text(name).unwrap_or(default).trim() {
        "*" => Ok("*".to_owned()),
        _ => list(name, default, judge),
    };
    Ok(Some(Capture {
        include_ranges: or_all(annotation::INCLUDE_OUTBOUND_RANGES, &defaults.include_ip_ranges, range)?,
        exclude_ranges: list(annotation::EXCLUDE_OUTBOUND_RANGES, &defaults.exclude_ip_ranges, range)?,
        include_outbound_ports: list(
            annotation::INCLUDE_OUTBOUND_PORTS,
            &defaults.include_outbound_ports,
            port_number,
        )?,
        exclude_outbound_ports: list(
            annotation::EXCLUDE_OUTBOUND_PORTS,
            &defaults.exclude_outbound_ports,
            port_number,
        )?,
        include_inbound_ports: or_all(annotation::INCLUDE_INBOUND_PORTS, &defaults.include_inbound_ports, port_number)?,
        exclude_inbound_ports: list(annotation::EXCLUDE_INBOUND_PORTS, &defaults.exclude_inbound_ports, port_number)?,
        exclude_interfaces: list(annotation::EXCLUDE_INTERFACES, "", interface)?,
    }))
}

fn range(text: &str) -> Result<(), String> {
    let single = || text.parse::<std::net::IpAddr>().map(IpNet::from);
    text.parse::<IpNet>()
        .or_else(|_| single())
        .map(drop)
        .map_err(|_| format!("`{text}` is not a CIDR, such as 10.0.0.0/8"))
}

fn port_number(text: &str) -> Result<(), String> {
    let valid = text.parse::<u16>().is_ok_and(|port| port != 0);
    if valid { Ok(()) } else { Err(format!("`{text}` is not a port between 1 and 65535")) }
}

/// As `mesh-proxy redirect` takes them.
fn interface(text: &str) -> Result<(), String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'@');
    let valid = text.len() <= 15 && text.bytes().all(plain) && !text.starts_with('-');
    if valid { Ok(()) } else { Err(format!("`{text}` is not the name of an interface")) }
}

/// The proxy's levels from Envoy's: `warning,http:debug` becomes `warn,mesh_proxy::http=debug`.
fn log_level(reader: &Reader<'_>, settings: &Settings) -> Result<String, InjectError> {
    let level = |name, text: &str| match text.trim() {
        level @ ("trace" | "debug" | "info" | "warn" | "error" | "off") => Ok(level.to_owned()),
        "warning" => Ok("warn".to_owned()),
        "critical" => Ok("error".to_owned()),
        other => {
            Err(refuse(name, format!("`{other}` is not one of trace, debug, info, warning, error, critical, off")))
        }
    };
    let mut levels = vec![match reader.text(annotation::LOG_LEVEL) {
        Some(text) => level(annotation::LOG_LEVEL, text)?,
        None => settings.log_level.clone(),
    }];
    let components = reader.text(annotation::COMPONENT_LOG_LEVEL).unwrap_or_default();
    for pair in components.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let name = annotation::COMPONENT_LOG_LEVEL;
        let plain =
            |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let Some((component, value)) = pair.split_once(':').filter(|(component, _)| plain(component)) else {
            return Err(refuse(name, format!("`{pair}` is not COMPONENT:LEVEL")));
        };
        levels.push(format!("mesh_proxy::{component}={}", level(name, value)?));
    }
    Ok(levels.join(","))
}

fn volumes(reader: &Reader<'_>) -> Result<Vec<Volume>, InjectError> {
    entries(reader, annotation::USER_VOLUME)
}

fn mounts(reader: &Reader<'_>) -> Result<Vec<VolumeMount>, InjectError> {
    entries(reader, annotation::USER_VOLUME_MOUNT)
}

/// Items of an annotation: a list, or a map by name.
fn entries<T: DeserializeOwned>(reader: &Reader<'_>, name: &'static str) -> Result<Vec<T>, InjectError> {
    let Some(text) = reader.text(name) else { return Ok(Vec::new()) };
    let value: Value = serde_json::from_str(text).map_err(|error| refuse(name, format!("is not JSON: {error}")))?;
    let items: Vec<Value> = match value {
        Value::Array(items) => items,
        Value::Object(map) => map
            .into_iter()
            .map(|(key, mut item)| {
                if let Value::Object(fields) = &mut item {
                    fields.entry("name").or_insert_with(|| key.into());
                }
                item
            })
            .collect(),
        _ => return Err(refuse(name, "is neither a list nor an object")),
    };
    items
        .into_iter()
        .enumerate()
        .map(|(index, mut item)| {
            // Istio's page spells it so, and Go reads names of fields in any case.
            if let Some(fields) = item.as_object_mut()
                && let Some(value) = fields.remove("readonly")
            {
                fields.insert("readOnly".to_owned(), value);
            }
            let mut unknown = None;
            let read = serde_ignored::deserialize(item, |path| unknown = Some(path.to_string()));
            let read = read.map_err(|error: serde_json::Error| refuse(name, format!("[{index}]: {error}")))?;
            match unknown {
                Some(path) => Err(refuse(name, format!("[{index}].{path}: there is no such field"))),
                None => Ok(read),
            }
        })
        .collect()
}

/// Containers of the application under the proxy's user, whose connections are taken for the proxy's.
fn users_of_the_proxys_id(pod: &PodTemplateSpec) -> Vec<String> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let of_pod = spec.security_context.as_ref().and_then(|context| context.run_as_user);
    let containers = spec.containers.iter().filter(|container| container.name != PROXY && container.name != REDIRECT);
    containers
        .filter(|container| {
            let own = container.security_context.as_ref().and_then(|context| context.run_as_user);
            own.or(of_pod) == Some(i64::from(port::PROXY_UID))
        })
        .map(|container| {
            format!(
                "container {} runs as user {}, which is the proxy's: its connections are not captured; give it another runAsUser",
                container.name,
                port::PROXY_UID
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read_yaml(annotations: &str) -> Result<Wishes, InjectError> {
        let pod = yaml_serde::from_str(&format!("{{metadata: {{annotations: {annotations}}}}}")).unwrap();
        read(&pod, &Settings::default(), &MeshConfig::default())
    }

    #[test]
    fn annotations_that_cannot_be_honoured_are_refused_by_name() {
        for (annotations, reason) in [
            ("{sidecar.istio.io/proxyCPU: many}", "annotation sidecar.istio.io/proxyCPU: `many` is not a quantity"),
            ("{sidecar.istio.io/proxyMemory: '-1Mi'}", "`-1Mi` is not a quantity"),
            (
                "{sidecar.istio.io/nativeSidecar: maybe}",
                "annotation sidecar.istio.io/nativeSidecar: `maybe` is neither",
            ),
            ("{sidecar.istio.io/interceptionMode: TPROXY}", "TPROXY is not supported; use REDIRECT"),
            ("{sidecar.istio.io/interceptionMode: all}", "`all` is neither REDIRECT nor NONE"),
            (
                "{sidecar.istio.io/bootstrapOverride: a}",
                "annotation sidecar.istio.io/bootstrapOverride: an Envoy bootstrap",
            ),
            ("{traffic.sidecar.istio.io/kubevirtInterfaces: a}", "virtual machines cannot be captured"),
            ("{istio.io/reroute-virtual-interfaces: a}", "virtual machines cannot be captured"),
            ("{traffic.sidecar.istio.io/includeOutboundIPRanges: 10.0.0.0/33}", "`10.0.0.0/33` is not a CIDR"),
            ("{traffic.sidecar.istio.io/excludeOutboundIPRanges: '*'}", "`*` is not a CIDR"),
            ("{traffic.sidecar.istio.io/excludeInboundPorts: '80,http'}", "`http` is not a port"),
            ("{traffic.sidecar.istio.io/includeInboundPorts: '0'}", "`0` is not a port"),
            ("{traffic.sidecar.istio.io/excludeInterfaces: 'a b'}", "`a b` is not the name of an interface"),
            ("{status.sidecar.istio.io/port: '0'}", "annotation status.sidecar.istio.io/port: `0` is not a number"),
            ("{sidecar.istio.io/logLevel: loud}", "`loud` is not one of trace"),
            ("{sidecar.istio.io/componentLogLevel: http}", "`http` is not COMPONENT:LEVEL"),
            ("{sidecar.istio.io/userVolume: x}", "is not JSON"),
            (
                "{sidecar.istio.io/userVolumeMount: '[{\"path\": \"/a\"}]'}",
                "annotation sidecar.istio.io/userVolumeMount: [0]",
            ),
            (
                "{sidecar.istio.io/userVolume: '[{\"name\": \"a\", \"secrets\": {}}]'}",
                "[0].secrets: there is no such field",
            ),
            ("{inject.istio.io/templates: grpc-agent}", "`grpc-agent` is not supported"),
            ("{inject.istio.io/templates: mine}", "there is no template `mine`"),
            ("{proxy.istio.io/config: 'concurrency: many'}", "annotation proxy.istio.io/config: "),
            ("{proxy.istio.io/config: 'statusPort: 70000'}", "statusPort: 70000 is not a port"),
        ] {
            let error = read_yaml(annotations).unwrap_err().to_string();
            assert!(error.contains(reason), "{annotations}: {error}");
        }
    }

    #[test]
    fn annotations_without_effect_are_warned_of() {
        for (name, reason) in WITHOUT_EFFECT {
            let wishes = read_yaml(&format!("{{{name}: '1'}}")).unwrap();
            assert_eq!(wishes.warnings, [format!("annotation {name} has no effect: {reason}")]);
        }
        let wishes = read_yaml("{proxy.istio.io/config: 'concurency: 2'}").unwrap();
        assert!(wishes.warnings[0].contains("concurency is not a field of ProxyConfig"), "{:?}", wishes.warnings);
    }

    #[test]
    fn levels_of_envoy_are_the_proxys() {
        for (annotations, expected) in [
            ("{}", "info"),
            ("{sidecar.istio.io/logLevel: warning}", "warn"),
            (
                "{sidecar.istio.io/componentLogLevel: 'http:debug, xds:critical'}",
                "info,mesh_proxy::http=debug,mesh_proxy::xds=error",
            ),
        ] {
            assert_eq!(read_yaml(annotations).unwrap().log_level, expected, "{annotations}");
        }
    }

    #[test]
    fn a_proxys_config_is_laid_over_the_meshs() {
        let mesh: MeshConfig = yaml_serde::from_str(
            "{defaultConfig: {concurrency: 2, proxyMetadata: {A: '1', B: '1'}, holdApplicationUntilProxyStarts: true}}",
        )
        .unwrap();
        let pod = "{metadata: {annotations: {proxy.istio.io/config: '{concurrency: 0, proxyMetadata: {B: \"2\"}}'}}}";
        let wishes = read(&yaml_serde::from_str(pod).unwrap(), &Settings::default(), &mesh).unwrap();
        assert_eq!(
            Value::Object(wishes.proxy_config),
            serde_json::json!({
                "concurrency": 0, "proxyMetadata": {"A": "1", "B": "2"}, "holdApplicationUntilProxyStarts": true,
                "discoveryAddress": "istiod.istio-system.svc:15012",
            })
        );
        assert!(wishes.hold);
        assert_eq!(wishes.environment.len(), 2);
    }
}

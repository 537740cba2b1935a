//! MeshConfig (MC): read from the ConfigMap `istio`, with a finding for each field that is set and has no effect.

use std::collections::BTreeMap;

use mesh_proto::crd::MeshConfig;
use mesh_proto::crd::sidecar::OutboundMode;
use mesh_proto::kube::{ConfigMap, LabelSelector};

use super::check::{At, Check, is_dns_label, is_dns_name};
use super::destination_rule::tcp_keepalive;
use super::finding::{Finding, Severity, code};
use super::virtual_service::retries;
use crate::model::{Key, Kind, Meta, Object, Origin, Spec};
use crate::source::typed;

/// Name of the ConfigMap that holds the mesh's settings, in the root namespace.
pub const MESH_CONFIG_NAME: &str = "istio";

/// Its key.
pub const MESH_CONFIG_KEY: &str = "mesh";

/// Where Istio keeps networks, in the same ConfigMap (MC16).
const MESH_NETWORKS_KEY: &str = "meshNetworks";

/// Fields that have an effect.
const HONOURED: &[&str] = &[
    "proxyListenPort",
    "proxyInboundListenPort",
    "proxyHttpPort",
    "connectTimeout",
    "tcpKeepalive",
    "accessLogFile",
    "accessLogFormat",
    "accessLogEncoding",
    "outboundTrafficPolicy",
    "enableAutoMtls",
    "trustDomain",
    "trustDomainAliases",
    "defaultServiceExportTo",
    "defaultVirtualServiceExportTo",
    "defaultDestinationRuleExportTo",
    "rootNamespace",
    "ingressClass",
    "ingressService",
    "ingressControllerMode",
    "ingressSelector",
    "discoverySelectors",
    "dnsRefreshRate",
    "h2UpgradePolicy",
    "pathNormalization",
    "defaultHttpRetryPolicy",
    "protocolDetectionTimeout",
];

/// Reads MeshConfig of a control plane's `namespace`, which is the root namespace unless the text names another. Errors are findings without key and origin, because the text does not know where it stands.
///
/// # Errors
/// What keeps the whole text from being used: the settings before it stay in force.
pub fn mesh_config(yaml: &str, namespace: &str) -> Result<(MeshConfig, Vec<Finding>), Vec<Finding>> {
    let key = Key { kind: Kind::ConfigMap, namespace: namespace.into(), name: MESH_CONFIG_NAME.into() };
    let spec = Spec::ConfigMap(ConfigMap::default());
    let object = Object { key, meta: Meta::default(), origin: Origin::default(), spec, recorded: Vec::new() };
    let mut check = Check::new(&object);
    let tree = match typed::tree(yaml) {
        Ok(tree) => tree,
        Err(error) => {
            check.error(&At::default(), format!("is not YAML: {}", error.message));
            return Err(check.finish());
        }
    };
    let empty = serde_json::Map::new();
    let given = tree.as_object().unwrap_or(&empty).clone();
    let mut tree = if tree.is_null() { empty.into() } else { tree };
    if let Some(fields) = tree.as_object_mut() {
        fields.entry("rootNamespace").or_insert_with(|| namespace.into());
    }
    let config = match typed::read::<MeshConfig>(tree) {
        Ok(read) => {
            for path in read.unknown {
                check.warning(
                    &At::top(&path),
                    "is not a field of MeshConfig, so it has no effect; remove it or correct its name",
                );
            }
            read.value
        }
        Err(error) => {
            check.error(&At::top(&error.path), error.message);
            return Err(check.finish());
        }
    };
    without_effect(&mut check, &given);
    values(&mut check, &config);
    let findings = check.finish();
    if super::refused(&findings) { Err(findings) } else { Ok((config, findings)) }
}

/// Reports what is set, differs from Istio's default, and is not looked at.
fn without_effect(check: &mut Check<'_>, given: &serde_json::Map<String, serde_json::Value>) {
    // Serializing cannot fail: the fields are plain values.
    let defaults = serde_json::to_value(MeshConfig::default()).unwrap_or_default();
    let message = "has no effect yet; remove it";
    for (name, value) in given {
        let known = defaults.get(name);
        if HONOURED.contains(&name.as_str()) || known.is_none() || known == Some(value) {
            continue;
        }
        let at = At::top(name);
        match (name.as_str(), value.as_object()) {
            ("enablePrometheusMerge", _) => {
                check.warning(&at, "false has no effect yet: the application's metrics are always merged; remove it");
            }
            ("localityLbSetting", Some(fields)) => {
                for name in ["distribute", "failoverPriority"].into_iter().filter(|name| fields.contains_key(*name)) {
                    check.warning(&at.field(name), "has no effect yet; use failover, or remove it");
                }
            }
            ("extensionProviders", _) => {
                for (index, provider) in value.as_array().into_iter().flatten().enumerate() {
                    let at = at.index(index);
                    match provider.get("envoyFileAccessLog") {
                        Some(file) => file_access_log(check, &at.field("envoyFileAccessLog"), file),
                        None => check.warning(&at, "has no effect yet; only envoyFileAccessLog is read, so remove it"),
                    }
                }
            }
            ("defaultProviders", Some(fields)) => {
                for name in fields.keys().filter(|name| *name != "accessLogging") {
                    check.warning(&at.field(name), message);
                }
            }
            ("defaultConfig", Some(fields)) => {
                for (name, value) in fields {
                    default_config(check, &at.field(name), name, value);
                }
            }
            _ => check.warning(&at, message),
        }
    }
}

/// `envoyFileAccessLog` of an extension provider.
fn file_access_log(check: &mut Check<'_>, at: &At, file: &serde_json::Value) {
    only(check, at, file, &["path", "logFormat", "omitEmptyValues"]);
    let (at, format) = (at.field("logFormat"), &file["logFormat"]);
    only(check, &at, format, &["text", "labels"]);
    for (name, label) in format["labels"].as_object().into_iter().flatten() {
        if !label.is_string() {
            check.error(
                &at.field("labels").field(name),
                "is not a text; write one, with what it is to hold as `%NAME%`",
            );
        }
    }
}

/// Reports fields that nothing reads.
fn only(check: &mut Check<'_>, at: &At, value: &serde_json::Value, honoured: &[&str]) {
    for field in value.as_object().into_iter().flat_map(|fields| fields.keys()) {
        if !honoured.contains(&field.as_str()) {
            check.warning(&at.field(field), "has no effect yet; remove it");
        }
    }
}

/// What the control plane makes of a proxy's settings (PC3, PC4); the rest is the proxy's own business.
fn default_config(check: &mut Check<'_>, at: &At, name: &str, value: &serde_json::Value) {
    let honoured: &[&str] = match name {
        "gatewayTopology" => &["numTrustedProxies", "forwardClientCertDetails", "proxyProtocol"],
        "proxyHeaders" => {
            &["server", "requestId", "attemptCount", "forwardedClientCert", "setCurrentClientCertDetails"]
        }
        _ => {
            return check.warning(at, "has no effect: proxies are started with their own settings; set it there");
        }
    };
    only(check, at, value, honoured);
    if value["setCurrentClientCertDetails"]["chain"] == true {
        let at = at.field("setCurrentClientCertDetails").field("chain");
        check.warning(
            &at,
            "has no effect but in a stock Envoy: the mesh's proxies tell of the certificate alone; use cert",
        );
    }
}

/// Checks the values of fields that are honoured.
fn values(check: &mut Check<'_>, config: &MeshConfig) {
    check.port(&At::top("proxyListenPort"), config.proxy_listen_port);
    check.port(&At::top("proxyInboundListenPort"), config.proxy_inbound_listen_port);
    if config.proxy_http_port != 0 {
        check.port(&At::top("proxyHttpPort"), config.proxy_http_port);
    }
    check.duration(&At::top("connectTimeout"), Some(config.connect_timeout), false);
    check.duration(&At::top("dnsRefreshRate"), Some(config.dns_refresh_rate), false);
    check.duration(&At::top("protocolDetectionTimeout"), Some(config.protocol_detection_timeout), true);
    if let Some(keepalive) = &config.tcp_keepalive {
        tcp_keepalive(check, &At::top("tcpKeepalive"), keepalive);
    }
    let policy = At::top("outboundTrafficPolicy");
    check.unsupported(config.outbound_traffic_policy.egress_proxy.is_some(), &policy.field("egressProxy"), "");
    if config.outbound_traffic_policy.mode == OutboundMode::AllowAnyDynamicDns {
        check.error(&policy.field("mode"), "ALLOW_ANY_DYNAMIC_DNS is not supported yet; use ALLOW_ANY");
    }
    if !is_dns_name(&config.trust_domain) {
        check.error(
            &At::top("trustDomain"),
            format!("`{}` is not a trust domain; write a DNS name", config.trust_domain),
        );
    }
    for (index, alias) in config.trust_domain_aliases.iter().enumerate() {
        if !is_dns_name(alias) {
            check.error(
                &At::top("trustDomainAliases").index(index),
                format!("`{alias}` is not a trust domain; write a DNS name"),
            );
        }
    }
    if !matches!(config.ingress_controller_mode.as_str(), "OFF" | "DEFAULT" | "STRICT") {
        let message = format!("`{}` is not a mode; use OFF, DEFAULT or STRICT", config.ingress_controller_mode);
        check.error(&At::top("ingressControllerMode"), message);
    }
    if !is_dns_label(&config.root_namespace) {
        check.error(&At::top("rootNamespace"), format!("`{}` is not a namespace", config.root_namespace));
    }
    for (name, list) in [
        ("defaultServiceExportTo", &config.default_service_export_to),
        ("defaultVirtualServiceExportTo", &config.default_virtual_service_export_to),
        ("defaultDestinationRuleExportTo", &config.default_destination_rule_export_to),
    ] {
        for (index, value) in list.iter().enumerate() {
            if !matches!(value.as_str(), "*" | "." | "~") && !is_dns_label(value) {
                check.error(
                    &At::top(name).index(index),
                    format!("`{value}` is not a namespace; give `.`, `*` or names of namespaces"),
                );
            }
        }
    }
    for (index, selector) in config.discovery_selectors.iter().enumerate() {
        label_selector(check, &At::top("discoverySelectors").index(index), selector);
    }
    if let Some(policy) = &config.default_http_retry_policy {
        let at = At::top("defaultHttpRetryPolicy");
        retries(check, &at, policy);
        if policy.per_try_timeout.is_some() {
            check.error(&at.field("perTryTimeout"), "cannot be set for the whole mesh; set it in VirtualServices");
        }
    }
}

/// Checks the expressions of a selector.
fn label_selector(check: &mut Check<'_>, at: &At, selector: &LabelSelector) {
    for (index, one) in selector.match_expressions.iter().flatten().enumerate() {
        let at = at.field("matchExpressions").index(index);
        let values = one.values.as_deref().unwrap_or_default();
        match one.operator.as_str() {
            "In" | "NotIn" if values.is_empty() => {
                check.error(&at.field("values"), format!("is empty; {} needs values", one.operator));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                check.error(&at.field("values"), format!("is given; {} takes none, so remove it", one.operator));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => check.error(
                &at.field("operator"),
                format!("`{other}` is not an operator; use In, NotIn, Exists or DoesNotExist"),
            ),
        }
        if one.key.is_empty() {
            check.error(&at.field("key"), "is missing; give the name of a label");
        }
    }
}

/// Checks the mesh's ConfigMap; other ConfigMaps have nothing to check.
pub(super) fn check_config_map(object: &Object, map: &ConfigMap) -> Vec<Finding> {
    let empty = BTreeMap::new();
    let data = map.data.as_ref().unwrap_or(&empty);
    let Some(yaml) = data.get(MESH_CONFIG_KEY).filter(|_| &*object.key.name == MESH_CONFIG_NAME) else {
        return Vec::new();
    };
    let mut findings = match mesh_config(yaml, &object.key.namespace) {
        Ok((_, findings)) | Err(findings) => findings,
    };
    for finding in &mut findings {
        let at = At::top("data").field(MESH_CONFIG_KEY);
        finding.field = Some(match &finding.field {
            Some(field) => at.field(field).to_string(),
            None => at.to_string(),
        });
        finding.key = Some(object.key.clone());
        finding.origin = object.origin.clone();
    }
    let networks = data.get(MESH_NETWORKS_KEY).map(|text| typed::tree(text).unwrap_or_default());
    let some = |value: &serde_json::Value| {
        value.get("networks").and_then(|value| value.as_object()).is_some_and(|map| !map.is_empty())
    };
    if networks.as_ref().is_some_and(some) {
        findings.push(Finding {
            severity: Severity::Warning,
            code: Some(code::SCHEMA),
            key: Some(object.key.clone()),
            origin: object.origin.clone(),
            field: Some(At::top("data").field(MESH_NETWORKS_KEY).to_string()),
            message: "has no effect yet: the mesh has one network; remove it".to_owned(),
        });
    }
    findings
}

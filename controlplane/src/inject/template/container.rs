//! What sidecars and gateways have in common: environment, volumes, probes and rights of the proxy's container.

use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapVolumeSource, Container, ContainerPort, DownwardAPIVolumeFile, DownwardAPIVolumeSource,
    EnvVar, EnvVarSource, HTTPGetAction, LocalObjectReference, ObjectFieldSelector, Probe, ProjectedVolumeSource,
    ResourceRequirements, SeccompProfile, SecurityContext, ServiceAccountTokenProjection, Volume, VolumeMount,
    VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use mesh_proto::names::{TOKEN_AUDIENCE, port};
use serde_json::Value;

use super::Context;
use crate::inject::PROXY;

/// Life of the token that the proxy shows, in seconds; the kubelet renews it in time.
const TOKEN_SECONDS: i64 = 43_200;
/// The ConfigMap with the mesh's roots, which the control plane keeps in every namespace.
const ROOT_CONFIG_MAP: &str = "istio-ca-root-cert";
/// How long a proxy may take to become ready, in seconds.
const START_SECONDS: i32 = 600;

/// The proxy's container, as far as sidecar and gateway agree.
pub(super) fn proxy(context: &Context<'_>, image: &str) -> Container {
    let wishes = context.wishes;
    let mut mounts = vec![
        mount("istiod-ca-cert", "/var/run/secrets/istio"),
        mount("istio-token", "/var/run/secrets/tokens"),
        mount("istio-podinfo", "/etc/istio/pod"),
    ];
    mounts.extend(wishes.mounts.iter().cloned());
    Container {
        name: PROXY.to_owned(),
        image: Some(wishes.image.clone().unwrap_or_else(|| image.to_owned())),
        image_pull_policy: context.settings.image_pull_policy.clone(),
        args: Some(["run", "--log-level", &wishes.log_level].map(str::to_owned).to_vec()),
        env: Some(environment(context)),
        ports: Some(vec![ContainerPort {
            name: Some("http-envoy-prom".to_owned()),
            container_port: i32::from(port::PROMETHEUS),
            protocol: Some("TCP".to_owned()),
            ..ContainerPort::default()
        }]),
        readiness_probe: Some(Probe {
            initial_delay_seconds: Some(wishes.readiness.initial_delay),
            period_seconds: Some(wishes.readiness.period),
            failure_threshold: Some(wishes.readiness.failures),
            ..ready()
        }),
        startup_probe: Some(Probe { period_seconds: Some(1), failure_threshold: Some(START_SECONDS), ..ready() }),
        resources: Some(ResourceRequirements {
            requests: (!wishes.requests.is_empty()).then(|| wishes.requests.clone()),
            limits: (!wishes.limits.is_empty()).then(|| wishes.limits.clone()),
            ..ResourceRequirements::default()
        }),
        security_context: Some(unprivileged(wishes.bind_low_ports)),
        volume_mounts: Some(mounts),
        ..Container::default()
    }
}

/// Rights by Kubernetes' level "restricted"; binding low ports is the one that it lets through.
pub(super) fn unprivileged(bind_low_ports: bool) -> SecurityContext {
    let id = i64::from(port::PROXY_UID);
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities {
            add: bind_low_ports.then(|| vec!["NET_BIND_SERVICE".to_owned()]),
            drop: Some(vec!["ALL".to_owned()]),
        }),
        privileged: Some(false),
        read_only_root_filesystem: Some(true),
        run_as_group: Some(id),
        run_as_non_root: Some(true),
        run_as_user: Some(id),
        seccomp_profile: Some(seccomp()),
        ..SecurityContext::default()
    }
}

pub(super) fn seccomp() -> SeccompProfile {
    SeccompProfile { type_: "RuntimeDefault".to_owned(), ..SeccompProfile::default() }
}

/// The volumes that the mounts above name, and the user's.
pub(super) fn volumes(context: &Context<'_>) -> Vec<Volume> {
    let field = |path: &str| DownwardAPIVolumeFile {
        path: path.to_owned(),
        field_ref: Some(ObjectFieldSelector { field_path: format!("metadata.{path}"), ..Default::default() }),
        ..DownwardAPIVolumeFile::default()
    };
    let mut volumes = vec![
        Volume {
            name: "istio-podinfo".to_owned(),
            downward_api: Some(DownwardAPIVolumeSource {
                items: Some(vec![field("labels"), field("annotations")]),
                ..DownwardAPIVolumeSource::default()
            }),
            ..Volume::default()
        },
        Volume {
            name: "istio-token".to_owned(),
            projected: Some(ProjectedVolumeSource {
                sources: Some(vec![VolumeProjection {
                    service_account_token: Some(ServiceAccountTokenProjection {
                        audience: Some(TOKEN_AUDIENCE.to_owned()),
                        expiration_seconds: Some(TOKEN_SECONDS),
                        path: "istio-token".to_owned(),
                    }),
                    ..VolumeProjection::default()
                }]),
                ..ProjectedVolumeSource::default()
            }),
            ..Volume::default()
        },
        Volume {
            name: "istiod-ca-cert".to_owned(),
            config_map: Some(ConfigMapVolumeSource { name: ROOT_CONFIG_MAP.to_owned(), ..Default::default() }),
            ..Volume::default()
        },
    ];
    volumes.extend(context.wishes.volumes.iter().cloned());
    volumes
}

pub(super) fn pull_secrets(context: &Context<'_>) -> Option<Vec<LocalObjectReference>> {
    let secrets = &context.settings.image_pull_secrets;
    (!secrets.is_empty()).then(|| secrets.iter().map(|name| LocalObjectReference { name: name.clone() }).collect())
}

fn mount(name: &str, path: &str) -> VolumeMount {
    VolumeMount { name: name.to_owned(), mount_path: path.to_owned(), read_only: Some(true), ..VolumeMount::default() }
}

fn ready() -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some("/healthz/ready".to_owned()),
            port: IntOrString::Int(i32::from(port::READINESS)),
            ..HTTPGetAction::default()
        }),
        timeout_seconds: Some(3),
        ..Probe::default()
    }
}

/// A variable with a value of its own.
pub(super) fn variable(name: &str, value: impl Into<String>) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value.into()), ..EnvVar::default() }
}

/// A variable that the kubelet fills from the pod.
pub(super) fn downward(name: &str, path: &str) -> EnvVar {
    let field = ObjectFieldSelector { field_path: path.to_owned(), ..ObjectFieldSelector::default() };
    let source = EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() };
    EnvVar { name: name.to_owned(), value_from: Some(source), ..EnvVar::default() }
}

/// The variables that the operator and the pod set themselves (`proxyMetadata`).
pub(super) fn own_variables(context: &Context<'_>) -> impl Iterator<Item = EnvVar> {
    context.wishes.environment.iter().map(|(name, value)| variable(name, value.as_str()))
}

fn environment(context: &Context<'_>) -> Vec<EnvVar> {
    let Context { settings, mesh, wishes, workload, origin, .. } = context;
    let mut all = vec![
        downward("POD_NAME", "metadata.name"),
        downward("POD_NAMESPACE", "metadata.namespace"),
        downward("INSTANCE_IP", "status.podIP"),
        downward("INSTANCE_IPS", "status.podIPs"),
        downward("SERVICE_ACCOUNT", "spec.serviceAccountName"),
        variable("PROXY_CONFIG", Value::Object(wishes.proxy_config.clone()).to_string()),
        variable("CA_ADDR", settings.ca_address.clone().unwrap_or_else(|| settings.discovery())),
        variable("TRUST_DOMAIN", mesh.trust_domain.as_str()),
        variable("DOMAIN_SUFFIX", settings.domain.as_str()),
        variable("ISTIO_META_CLUSTER_ID", settings.cluster.as_str()),
        variable("ISTIO_META_WORKLOAD_NAME", workload.name.as_str()),
        variable("ISTIO_META_OWNER", workload.owner(origin.namespace)),
    ];
    let network = label_of(context, mesh_proto::names::label::NETWORK).or(settings.network.as_deref());
    all.extend(network.map(|network| variable("ISTIO_META_NETWORK", network)));
    // A Job's pod has no clients who must hear that it goes, and is over when its sidecar is.
    if !matches!(workload.kind.as_str(), "Job" | "CronJob") {
        all.push(variable("MINIMUM_DRAIN_DURATION", format!("{}s", wishes.drain.as_secs_f64())));
    }
    // Last and by merge: what is set on purpose takes the place of what is set always.
    for own in own_variables(context) {
        all.retain(|variable| variable.name != own.name);
        all.push(own);
    }
    all
}

fn label_of<'a>(context: &Context<'a>, name: &str) -> Option<&'a str> {
    let labels = context.pod.metadata.as_ref()?.labels.as_ref()?;
    labels.get(name).map(String::as_str)
}

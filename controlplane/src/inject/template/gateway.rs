//! The template `gateway`: the user's own container `istio-proxy` with `image: auto` becomes a proxy at the edge. Nothing is captured.

use k8s_openapi::api::core::v1::{PodSecurityContext, PodSpec, PodTemplateSpec, Sysctl};

use super::{Context, container};

/// The parts of a gateway's pod.
pub(super) fn parts(context: &Context<'_>) -> PodTemplateSpec {
    let own = context.pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    // Servers on ports below 1024 need no rights then; whoever sets sysctls knows what the gateway binds.
    let low_ports = own.is_none_or(|context| context.sysctls.is_none()).then(|| PodSecurityContext {
        sysctls: Some(vec![Sysctl { name: "net.ipv4.ip_unprivileged_port_start".to_owned(), value: "0".to_owned() }]),
        ..PodSecurityContext::default()
    });
    PodTemplateSpec {
        spec: Some(PodSpec {
            containers: vec![container::proxy(context, &context.settings.gateway_image)],
            volumes: Some(container::volumes(context)),
            security_context: low_ports,
            image_pull_secrets: container::pull_secrets(context),
            ..PodSpec::default()
        }),
        ..PodTemplateSpec::default()
    }
}

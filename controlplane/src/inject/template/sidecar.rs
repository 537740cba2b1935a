//! The template `sidecar`: a proxy beside the application, and the step before it that captures the pod's connections.

use k8s_openapi::api::core::v1::{
    Capabilities, Container, ExecAction, Lifecycle, LifecycleHandler, PodSpec, PodTemplateSpec, SecurityContext,
};
use mesh_proto::names::port;

use super::{Context, container};
use crate::inject::REDIRECT;
use crate::inject::wishes::Capture;

/// How long a held application waits for the proxy, in seconds.
const HOLD_SECONDS: &str = "60";
/// Where our images have the program.
const PROGRAM: &str = "/usr/local/bin/mesh-proxy";

/// The parts of a pod with a sidecar.
pub(super) fn parts(context: &Context<'_>) -> PodTemplateSpec {
    let wishes = context.wishes;
    let mut proxy = container::proxy(context, &context.settings.proxy_image);
    let mode = if wishes.capture.is_some() { "REDIRECT" } else { "NONE" };
    if let Some(variables) = &mut proxy.env {
        variables.push(container::variable("ISTIO_META_INTERCEPTION_MODE", mode));
    }
    let mut first: Vec<Container> = wishes.capture.iter().map(|capture| redirect(context, capture)).collect();
    let mut beside = Vec::new();
    if wishes.native {
        proxy.restart_policy = Some("Always".to_owned());
        first.push(proxy);
    } else {
        if wishes.hold {
            // Kubernetes starts containers in order, each after the hook of the one before.
            proxy.lifecycle = Some(wait());
        }
        beside.push(proxy);
    }
    PodTemplateSpec {
        spec: Some(PodSpec {
            init_containers: (!first.is_empty()).then_some(first),
            containers: beside,
            volumes: Some(container::volumes(context)),
            image_pull_secrets: container::pull_secrets(context),
            ..PodSpec::default()
        }),
        ..PodTemplateSpec::default()
    }
}

fn wait() -> Lifecycle {
    let command = [PROGRAM, "probe", "--wait", HOLD_SECONDS].map(str::to_owned).to_vec();
    Lifecycle {
        post_start: Some(LifecycleHandler {
            exec: Some(ExecAction { command: Some(command) }),
            ..LifecycleHandler::default()
        }),
        ..Lifecycle::default()
    }
}

/// The one step with rights over the network: it runs as root, for a moment, and before everything else.
fn redirect(context: &Context<'_>, capture: &Capture) -> Container {
    let (settings, mesh, wishes) = (context.settings, context.mesh, context.wishes);
    let own = [port::PROMETHEUS, port::READINESS, wishes.status_port].map(|port| port.to_string()).join(",");
    let not_inbound = match capture.exclude_inbound_ports.as_str() {
        "" => own,
        more => format!("{own},{more}"),
    };
    let (outbound, inbound) = (mesh.proxy_listen_port.to_string(), mesh.proxy_inbound_listen_port.to_string());
    let uid = port::PROXY_UID.to_string();
    let mut args = vec!["redirect"];
    args.extend(["-p", &outbound, "-z", &inbound, "-u", &uid, "-m", "REDIRECT"]);
    args.extend(["-i", &capture.include_ranges, "-x", &capture.exclude_ranges]);
    args.extend(["-b", &capture.include_inbound_ports, "-d", &not_inbound]);
    for (flag, value) in [
        ("-q", &capture.include_outbound_ports),
        ("-o", &capture.exclude_outbound_ports),
        ("-c", &capture.exclude_interfaces),
    ] {
        if !value.is_empty() {
            args.extend([flag, value]);
        }
    }
    let mut variables = vec![container::downward("INSTANCE_IPS", "status.podIPs")];
    variables.extend(container::own_variables(context));
    let proxy = container::proxy(context, &settings.proxy_image);
    Container {
        name: REDIRECT.to_owned(),
        image: proxy.image,
        image_pull_policy: proxy.image_pull_policy,
        args: Some(args.into_iter().map(str::to_owned).collect()),
        env: Some(variables),
        resources: proxy.resources,
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities {
                add: Some(vec!["NET_ADMIN".to_owned(), "NET_RAW".to_owned()]),
                drop: Some(vec!["ALL".to_owned()]),
            }),
            privileged: Some(false),
            // iptables keeps a lock file in /run.
            read_only_root_filesystem: Some(false),
            run_as_group: Some(0),
            run_as_non_root: Some(false),
            run_as_user: Some(0),
            seccomp_profile: Some(container::seccomp()),
            ..SecurityContext::default()
        }),
        ..Container::default()
    }
}

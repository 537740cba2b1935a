//! Descriptions as people read them.

use std::fmt::Write as _;

use super::pod::PodDescription;
use super::route::{Routes, Share};
use super::service::ServiceDescription;
use super::view::{MtlsView, PolicyView, ServiceView};
use crate::output::{BAD, GOOD, HEADING, NOTE};

/// A page of lines, each as deep as it belongs.
#[derive(Default)]
struct Page(String);

impl Page {
    fn line(&mut self, depth: usize, text: impl std::fmt::Display) {
        let _ = writeln!(self.0, "{}{text}", "  ".repeat(depth));
    }

    fn heading(&mut self, text: impl std::fmt::Display) {
        if !self.0.is_empty() {
            self.0.push('\n');
        }
        self.line(0, format!("{HEADING}{text}{HEADING:#}"));
    }
}

/// Of a pod.
pub fn pod(described: &PodDescription) -> String {
    let mut page = Page::default();
    page.heading(format!("Pod {}/{}", described.namespace, described.name));
    page.line(1, format!("workload: {}, service account {}", described.workload, described.service_account));
    page.line(1, format!("status: {}, {}", described.phase, ready(described.ready)));
    match &described.proxy {
        Some(proxy) => {
            let native = if proxy.native { "native " } else { "" };
            let revision = proxy.revision.as_deref().map_or(String::new(), |name| format!(", revision {name}"));
            let restarts = if proxy.restarts == 0 { String::new() } else { format!(", {} restarts", proxy.restarts) };
            let (kind, image) = (proxy.kind, &proxy.image);
            page.line(1, format!("proxy: {native}{kind} {image}{revision}, {}{restarts}", ready(proxy.ready)));
        }
        None => page.line(1, format!("proxy: {BAD}none{BAD:#}")),
    }
    if !described.ports.is_empty() {
        let ports: Vec<String> =
            described.ports.iter().map(|port| format!("{} ({})", port.number, port.container)).collect();
        page.line(1, format!("ports: {}", ports.join(", ")));
    }
    for gateway in &described.gateways {
        page.line(1, format!("serves {gateway}"));
    }
    for one in &described.services {
        service_view(&mut page, one);
    }
    if described.proxy.is_some() {
        page.heading("What it accepts");
        if let Some(one) = &described.mtls {
            page.line(1, format!("mTLS: {}", mtls(one)));
        }
        authorization(&mut page, &described.authorization);
    }
    warnings(&mut page, &described.warnings);
    page.0
}

/// Of a service.
pub fn service(described: &ServiceDescription) -> String {
    let mut page = Page::default();
    service_view(&mut page, &described.service);
    page.heading("Pods");
    if described.pods.is_empty() {
        page.line(1, "none");
    }
    for member in &described.pods {
        let tls = match &member.mtls {
            Some(one) => format!(", mTLS {}", mtls(one)),
            None if member.proxy => String::new(),
            None => format!(", {BAD}outside the mesh{BAD:#}"),
        };
        let subsets = match member.subsets.as_slice() {
            [] => String::new(),
            subsets => format!(", subset {}", subsets.join(", ")),
        };
        page.line(1, format!("{}: {}{tls}{subsets}", member.name, ready(member.ready)));
    }
    page.heading("Who may call");
    authorization(&mut page, &described.authorization);
    warnings(&mut page, &described.warnings);
    page.0
}

fn service_view(page: &mut Page, view: &ServiceView) {
    page.heading(format!("Service {}", view.host));
    for port in &view.ports {
        let name = if port.name.is_empty() { String::new() } else { format!(" {}", port.name) };
        let target = port.pod_port.map_or(String::new(), |number| format!(" to port {number} of the pod"));
        let (number, protocol, endpoints) = (port.number, &port.protocol, port.endpoints);
        page.line(1, format!("port {number}{name}, {protocol}{target}, {} ready", many(endpoints, "endpoint")));
    }
    if let Some(rule) = &view.destination_rule {
        page.line(1, &rule.object);
        for subset in &rule.subsets {
            let labels: Vec<String> = subset.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let labels = if labels.is_empty() { "all pods".to_owned() } else { labels.join(",") };
            let holds = if subset.holds_pod == Some(true) { ", this pod among them" } else { "" };
            page.line(2, format!("subset {} ({labels}): {} ready{holds}", subset.name, many(subset.pods, "pod")));
        }
        for phrase in &rule.policy {
            page.line(2, phrase);
        }
    }
    for one in &view.routes {
        page.line(1, &one.object);
        rules(page, one);
    }
    for exposure in &view.exposed {
        let ports: Vec<String> = exposure.ports.iter().map(ToString::to_string).collect();
        let (gateway, routes) = (&exposure.gateway, &exposure.routes);
        let hosts = routes.hosts.join(", ");
        page.line(1, format!("from outside by {gateway}, port {}: {hosts} ({})", ports.join(", "), routes.object));
        rules(page, routes);
    }
}

fn rules(page: &mut Page, routes: &Routes) {
    for rule in &routes.rules {
        let when = if rule.when.is_empty() { String::new() } else { format!(" when {}", rule.when.join(" or ")) };
        let to: Vec<String> = rule.to.iter().map(share).collect();
        let to = if to.is_empty() { String::new() } else { format!(": {}", to.join(", ")) };
        page.line(2, format!("{}{when}{to}", rule.name));
        for phrase in &rule.does {
            page.line(3, phrase);
        }
    }
}

fn share(share: &Share) -> String {
    let subset = if share.subset.is_empty() { String::new() } else { format!(" subset {}", share.subset) };
    let port = share.port.map_or(String::new(), |port| format!(":{port}"));
    format!("{}% to {}{port}{subset}", share.percent, share.host)
}

fn mtls(view: &MtlsView) -> String {
    let ports: Vec<String> = view.ports.iter().map(|(port, mode)| format!("port {port} {mode}")).collect();
    let ports = if ports.is_empty() { String::new() } else { format!(", {}", ports.join(", ")) };
    let by = if view.by.is_empty() { "no PeerAuthentication".to_owned() } else { view.by.join(", ") };
    format!("{}{ports} (by {by})", view.mode)
}

fn authorization(page: &mut Page, policies: &[PolicyView]) {
    if policies.is_empty() {
        page.line(1, "authorization: no policy, so everybody may call");
    }
    for policy in policies {
        page.line(1, format!("{}: {}, {}", policy.action, policy.object, many(policy.rules, "rule")));
    }
    if policies.iter().any(|policy| policy.action == "ALLOW") {
        page.line(1, "what no ALLOW policy matches is refused");
    }
}

fn warnings(page: &mut Page, warnings: &[String]) {
    if warnings.is_empty() {
        return;
    }
    page.heading("Warnings");
    for warning in warnings {
        page.line(1, format!("{NOTE}!{NOTE:#} {warning}"));
    }
}

fn many(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn ready(ready: bool) -> String {
    if ready { format!("{GOOD}ready{GOOD:#}") } else { format!("{BAD}not ready{BAD:#}") }
}

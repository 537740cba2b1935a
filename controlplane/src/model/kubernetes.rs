//! Kubernetes' own objects → [`Service`] and [`Workload`].

use std::collections::BTreeMap;
use std::net::IpAddr;

use mesh_proto::kube;
use mesh_proto::names::{annotation, label};

use super::{ExportTo, Key, Meta, Name, Object, Protocol, Registry, Resolution, Service, ServicePort, Workload};

/// A Kubernetes Service as the mesh sees it (G9, G14).
pub fn service(object: &Object, raw: &kube::Service, export_default: &[String], domain: &str) -> Service {
    let Key { namespace, name, .. } = &object.key;
    let spec = raw.spec.clone().unwrap_or_default();
    let external_name = spec.type_.as_deref() == Some("ExternalName");
    // Files on a laptop have no cluster IP, since no API server gave one; only `None` makes a service headless.
    let headless = !external_name && spec.cluster_ip.as_deref() == Some("None");
    let addresses = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip).chain(spec.external_ips.iter().flatten());
    let mut unique: Vec<IpAddr> = Vec::new();
    for address in addresses.filter_map(|text| text.parse().ok()) {
        if !unique.contains(&address) {
            unique.push(address);
        }
    }
    let export: Vec<&str> = match object.meta.annotations.get(annotation::EXPORT_TO) {
        Some(list) => list.split(',').map(str::trim).filter(|word| !word.is_empty()).collect(),
        None => Vec::new(),
    };
    let ports = spec.ports.iter().flatten().filter_map(port).collect();
    Service {
        host: format!("{name}.{namespace}.svc.{domain}").to_ascii_lowercase().into(),
        name: name.clone(),
        namespace: namespace.clone(),
        registry: Registry::Kubernetes,
        created: object.meta.created,
        origin: object.origin.clone(),
        labels: object.meta.labels.clone(),
        ports,
        addresses: unique,
        ranges: Vec::new(),
        auto_addresses: Vec::new(),
        resolution: match (external_name, headless) {
            (true, _) => Resolution::Dns,
            (false, true) => Resolution::Passthrough,
            (false, false) => Resolution::Static,
        },
        external: external_name,
        headless,
        node_local: !external_name && spec.internal_traffic_policy.as_deref() == Some("Local"),
        prefers_near: {
            let annotation = object.meta.annotations.get(annotation::TRAFFIC_DISTRIBUTION);
            annotation.or(spec.traffic_distribution.as_ref()).is_some_and(|word| prefers_near(word))
        },
        selector: spec.selector.filter(|labels| !labels.is_empty() && !external_name),
        export_to: ExportTo::of(&export, export_default, namespace),
        subject_alt_names: Vec::new(),
    }
}

/// True for the words by which a service prefers near endpoints; validation reports others.
pub fn prefers_near(distribution: &str) -> bool {
    matches!(distribution, "PreferClose" | "PreferSameZone")
}

fn port(raw: &kube::ServicePort) -> Option<ServicePort> {
    let number = u16::try_from(raw.port).ok().filter(|number| *number > 0)?;
    let name = raw.name.as_deref().unwrap_or_default();
    let protocol = match raw.protocol.as_deref() {
        Some("UDP" | "SCTP") => Protocol::Udp,
        _ => Protocol::of_port(raw.app_protocol.as_deref(), name, number),
    };
    let (target, target_name) = match &raw.target_port {
        None => (Some(number), None),
        Some(kube::IntOrString::Int(target)) => (u16::try_from(*target).ok().filter(|port| *port > 0), None),
        Some(kube::IntOrString::String(text)) => match text.parse() {
            Ok(target) => (Some(target), None),
            Err(_) => (None, Some(Name::from(text.as_str()))),
        },
    };
    // `targetPort: 0` is unset, which is the port itself.
    let target = if target.is_none() && target_name.is_none() { Some(number) } else { target };
    Some(ServicePort { name: name.into(), number, protocol, target, target_name })
}

/// A pod as a workload; `None` for one that has ended or has no address yet.
pub fn workload(object: &Object, raw: &kube::Pod, localities: &BTreeMap<Name, Name>) -> Option<Workload> {
    let (spec, status) = (raw.spec.clone().unwrap_or_default(), raw.status.clone().unwrap_or_default());
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return None;
    }
    let mut addresses: Vec<IpAddr> = status.pod_ip.iter().filter_map(|text| text.parse().ok()).collect();
    for address in status.pod_ips.iter().flatten().filter_map(|one| one.ip.parse().ok()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        return None;
    }
    let meta = &object.meta;
    // A pod that nothing watches has no conditions; it is taken as ready.
    let condition = status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready");
    let deleted = raw.metadata.deletion_timestamp.is_some();
    let by_node = spec.node_name.as_deref().and_then(|node| localities.get(node).cloned());
    let locality = match meta.labels.get(label::LOCALITY) {
        Some(text) if !text.is_empty() => text.replace('.', "/").into(),
        _ => by_node.unwrap_or_default(),
    };
    let ports = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let ports = ports
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| Some((port.name.clone()?, u16::try_from(port.container_port).ok()?)));
    let account = spec.service_account_name.as_deref().or(spec.service_account.as_deref()).unwrap_or("default");
    Some(Workload {
        name: object.key.name.clone(),
        namespace: object.key.namespace.clone(),
        workload_name: owner(&object.key.name, meta, &raw.metadata).into(),
        addresses,
        labels: meta.labels.clone(),
        service_account: account.into(),
        locality,
        node: spec.node_name.as_deref().unwrap_or_default().into(),
        network: meta.labels.get(label::NETWORK).map_or("", String::as_str).into(),
        cluster: meta.labels.get(label::CLUSTER).map_or("", String::as_str).into(),
        // Of the proxy's mark alone nothing follows: a gateway has it too, whose ports speak what its Gateways say.
        mtls: meta.labels.get(label::TLS_MODE).is_some_and(|mode| mode == "istio"),
        ready: condition.is_none_or(|condition| condition.status == "True") && !deleted,
        named_ports: ports.collect(),
    })
}

/// The name of what made a pod: the deployment where there is one. Source: Istio's `GetDeployMetaFromPod`.
fn owner(pod: &str, meta: &Meta, raw: &kube::ObjectMeta) -> String {
    if let Some(name) = meta.labels.get(label::WORKLOAD_NAME) {
        return name.clone();
    }
    let owners = raw.owner_references.iter().flatten();
    let controller = owners.clone().find(|owner| owner.controller == Some(true)).or_else(|| owners.clone().next());
    let Some(controller) = controller else {
        // Without an owner in sight a hash of the template still says that there is a deployment: NAME-HASH-RANDOM.
        let hash = meta.labels.get("pod-template-hash");
        let stem =
            hash.and_then(|hash| pod.rsplit_once('-').and_then(|(rest, _)| rest.strip_suffix(&format!("-{hash}"))));
        return stem.unwrap_or(pod).to_owned();
    };
    match controller.kind.as_str() {
        "ReplicaSet" => match meta.labels.get("pod-template-hash") {
            Some(hash) => controller.name.strip_suffix(&format!("-{hash}")).unwrap_or(&controller.name).to_owned(),
            None => controller.name.clone(),
        },
        "ReplicationController" => match meta.labels.get("deploymentconfig") {
            Some(config) if controller.name.starts_with(&format!("{config}-")) => config.clone(),
            _ => controller.name.clone(),
        },
        // A job of a cron job is NAME-TIME.
        "Job" => match controller.name.rsplit_once('-') {
            Some((stem, time)) if time.len() >= 8 && time.bytes().all(|byte| byte.is_ascii_digit()) => stem.to_owned(),
            _ => controller.name.clone(),
        },
        _ => controller.name.clone(),
    }
}

/// `region/zone/subzone` by a node's labels (G16).
pub fn node_locality(labels: &BTreeMap<String, String>) -> Name {
    let get = |key: &str, old: &str| labels.get(key).or_else(|| labels.get(old)).map_or("", String::as_str);
    let region = get(label::REGION, "failure-domain.beta.kubernetes.io/region");
    let zone = get(label::ZONE, "failure-domain.beta.kubernetes.io/zone");
    locality([region, zone, get(label::SUBZONE, "")])
}

/// Parts of a locality as one, without empty parts at the end.
pub fn locality(parts: [&str; 3]) -> Name {
    parts.join("/").trim_end_matches('/').into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn owner_of(yaml: &str) -> String {
        let pod: kube::Pod = yaml_serde::from_str(yaml).unwrap();
        let meta = Meta { labels: pod.metadata.labels.clone().unwrap_or_default(), ..Meta::default() };
        owner(pod.metadata.name.as_deref().unwrap(), &meta, &pod.metadata)
    }

    #[test]
    fn a_pod_belongs_to_its_deployment() {
        let reference = |kind: &str, name: &str| {
            format!("ownerReferences: [{{apiVersion: v1, kind: {kind}, name: {name}, uid: u, controller: true}}]")
        };
        for (labels, reference, expected) in [
            ("", String::new(), "web-5d4f-x1"),
            ("pod-template-hash: 5d4f", String::new(), "web"),
            ("pod-template-hash: 5d4f", reference("ReplicaSet", "web-5d4f"), "web"),
            ("", reference("StatefulSet", "db"), "db"),
            ("", reference("Job", "tidy-27812345"), "tidy"),
            ("", reference("Job", "tidy-once"), "tidy-once"),
            ("service.istio.io/workload-name: own", reference("ReplicaSet", "x"), "own"),
        ] {
            let yaml = format!("metadata: {{name: web-5d4f-x1, labels: {{{labels}}}, {reference}}}");
            assert_eq!(owner_of(&yaml), expected, "{yaml}");
        }
    }

    #[test]
    fn a_pod_is_where_its_label_says_else_where_its_node_is() {
        let localities = BTreeMap::from([(Name::from("n"), Name::from("r/z"))]);
        for (labels, node, expected) in [
            ("{}", "n", "r/z"),
            ("{}", "other", ""),
            ("{istio-locality: a.b.c}", "n", "a/b/c"),
            ("{istio-locality: a/b}", "other", "a/b"),
            ("{istio-locality: ''}", "n", "r/z"),
        ] {
            let labels: BTreeMap<String, String> = yaml_serde::from_str(labels).unwrap();
            let pod = format!("spec: {{nodeName: {node}, containers: []}}\nstatus: {{podIP: 10.0.0.1}}\n");
            let pod: kube::Pod = yaml_serde::from_str(&pod).unwrap();
            let key = Key { kind: super::super::Kind::Pod, namespace: "a".into(), name: "p".into() };
            let meta = Meta { labels: labels.clone(), ..Meta::default() };
            let spec = super::super::Spec::Pod(pod.clone());
            let object = Object { key, meta, origin: Default::default(), spec, recorded: Vec::new() };
            let found = workload(&object, &pod, &localities).unwrap();
            assert_eq!((&*found.locality, &*found.node), (expected, node), "{labels:?}");
        }
    }

    #[test]
    fn localities_drop_empty_ends() {
        assert_eq!(&*locality(["r", "z", ""]), "r/z");
        assert_eq!(&*locality(["", "", ""]), "");
    }
}

//! What a WorkloadEntry should be: its name, its body by the template of its group, who may have it, and when it is over. Pure.

use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use mesh_proto::spiffe::Identity;
use serde_json::{Map, Value, json};

use crate::model::Node;

/// Names the group.
pub(super) const GROUP: &str = "istio.io/autoRegistrationGroup";
/// Names the control plane that the proxy is connected to.
pub(super) const CONTROLLER: &str = "istio.io/workloadController";
/// Since when, or when it was last seen.
pub(super) const CONNECTED_AT: &str = "istio.io/connectedAt";
/// Since when it is not any more.
pub(super) const DISCONNECTED_AT: &str = "istio.io/disconnectedAt";
/// Says that the proxy tells of its workload's health.
pub(crate) const HEALTH_CHECKED: &str = "proxy.istio.io/health-checks-enabled";
/// The condition that says whether a workload is well.
const HEALTHY: &str = "Healthy";
/// The longest name of an object.
const LONGEST: usize = 253;
/// A control plane says again that a proxy is connected long before this; after it, that control plane is gone.
pub(super) const FORGOTTEN: Duration = Duration::from_secs(45 * 60);

/// Name of the entry of a workload at this address. Source: Istio's `autoregisteredWorkloadEntryName`.
pub(super) fn name(group: &str, address: IpAddr, network: &str) -> String {
    let mut name = format!("{group}-{}", address.to_string().replace(':', "-"));
    if !network.is_empty() {
        name.push('-');
        name.push_str(network);
    }
    // The end tells workloads apart.
    let cut = (0..name.len()).find(|at| name.len() - at <= LONGEST && name.is_char_boundary(*at));
    name.split_off(cut.unwrap_or(0))
}

/// The entry by its group's template. What the proxy says of itself wins over the group, and the group over its template.
///
/// # Errors
/// What is missing in the group.
pub(super) fn entry(name: &str, group: &Value, address: IpAddr, node: &Node) -> Result<Value, &'static str> {
    let text = |pointer: &str| group.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let Some(Value::Object(template)) = group.pointer("/spec/template") else {
        return Err("has no template; give spec.template");
    };
    let mut spec = template.clone();
    let mut labels = template.get("labels").and_then(Value::as_object).cloned().unwrap_or_default();
    labels.extend(object(group, "/spec/metadata/labels"));
    labels.extend(node.labels.iter().map(|(key, value)| (key.clone(), value.as_str().into())));
    let mut annotations = object(group, "/spec/metadata/annotations");
    annotations.insert(GROUP.to_owned(), text("/metadata/name").into());
    if node.proxy_config.get("readinessProbe").is_some() {
        annotations.insert(HEALTH_CHECKED.to_owned(), "true".into());
    }
    spec.insert("address".to_owned(), address.to_string().into());
    for (field, value) in [("network", &node.network), ("locality", &node.locality)] {
        if !value.is_empty() {
            spec.insert(field.to_owned(), value.trim_end_matches('/').into());
        }
    }
    if !labels.is_empty() {
        spec.insert("labels".to_owned(), labels.clone().into());
    }
    Ok(json!({
        "metadata": {
            "name": name,
            "namespace": &*node.namespace,
            "labels": labels,
            "annotations": annotations,
            "ownerReferences": [{
                "apiVersion": text("/apiVersion"),
                "kind": "WorkloadGroup",
                "name": text("/metadata/name"),
                "uid": text("/metadata/uid"),
                "controller": true,
            }],
        },
        "spec": spec,
    }))
}

fn object(value: &Value, pointer: &str) -> Map<String, Value> {
    value.pointer(pointer).and_then(Value::as_object).cloned().unwrap_or_default()
}

/// Whether a caller may have an entry of a namespace: whoever has it receives what is meant for its service account.
///
/// # Errors
/// Why not.
pub(super) fn may_have(caller: Option<&Identity>, namespace: &str, entry: &Value) -> Result<(), String> {
    let Some(caller) = caller else {
        return Err(
            "registering a workload needs a proven identity; connect over TLS with a token or a certificate".to_owned()
        );
    };
    if caller.namespace != namespace {
        return Err(format!("the entry is of namespace `{namespace}`, but the caller of `{}`", caller.namespace));
    }
    match entry.pointer("/spec/serviceAccount").and_then(Value::as_str) {
        Some(account) if !account.is_empty() && account != caller.service_account => {
            Err(format!("the entry is of service account `{account}`, but the caller is `{}`", caller.service_account))
        }
        _ => Ok(()),
    }
}

/// True if an entry that was registered is over: its proxy left long enough ago, or nobody has said for long that it is there.
pub(super) fn is_over(entry: &Value, now: Timestamp, grace: Duration) -> bool {
    let annotations = object(entry, "/metadata/annotations");
    let since = |name: &str| {
        let time: Timestamp = annotations.get(name)?.as_str()?.parse().ok()?;
        Some(Duration::try_from(now.duration_since(time)).unwrap_or_default())
    };
    annotations.contains_key(GROUP)
        && match since(DISCONNECTED_AT) {
            Some(left) => left >= grace,
            None => since(CONNECTED_AT).is_some_and(|seen| seen >= FORGOTTEN),
        }
}

/// True if a status says that the workload is well.
pub(super) fn is_well(status: Option<&Value>) -> bool {
    let conditions = status.and_then(|status| status.get("conditions")?.as_array());
    conditions.into_iter().flatten().any(|one| one["type"] == HEALTHY && one["status"] == "True")
}

/// The conditions of a status with what the proxy says of its workload; those of others stay.
pub(super) fn conditions(status: Option<&Value>, health: &Result<(), String>, now: &str) -> Value {
    let known = status.and_then(|status| status.get("conditions")?.as_array()).map(Vec::as_slice).unwrap_or_default();
    let word = if health.is_ok() { "True" } else { "False" };
    let before = known.iter().find(|one| one["type"] == HEALTHY && one["status"] == word);
    let since = before.and_then(|before| before["lastTransitionTime"].as_str()).unwrap_or(now);
    let mut ours = json!({"type": HEALTHY, "status": word, "lastProbeTime": now, "lastTransitionTime": since});
    if let Err(message) = health {
        ours["message"] = message.as_str().into();
    }
    let others = known.iter().filter(|one| one["type"] != HEALTHY);
    Value::Array(others.cloned().chain([ours]).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::xds::node;

    fn proxy(metadata: &str) -> Node {
        let yaml = format!(
            "{{id: sidecar~10.0.0.9~vm.shop~shop.svc.cluster.local, metadata: {metadata}, locality: {{region: r, zone: z}}}}"
        );
        node::parse(Some(&mesh_proto::yaml::from_yaml(&yaml).unwrap())).unwrap()
    }

    fn group(spec: Value) -> Value {
        json!({"apiVersion": "networking.istio.io/v1", "kind": "WorkloadGroup", "metadata": {"name": "web", "uid": "u"}, "spec": spec})
    }

    #[test]
    fn an_entry_has_the_name_of_group_address_and_network() {
        for (address, network, expected) in
            [("10.0.0.9", "", "web-10.0.0.9"), ("fd00::9", "", "web-fd00--9"), ("10.0.0.9", "vpc", "web-10.0.0.9-vpc")]
        {
            assert_eq!(name("web", address.parse().unwrap(), network), expected);
        }
        let long = name(&"a".repeat(300), "10.0.0.9".parse().unwrap(), "");
        assert_eq!((long.len(), long.ends_with("a-10.0.0.9")), (LONGEST, true));
    }

    #[test]
    fn the_proxy_wins_over_the_group_and_the_group_over_its_template() {
        let spec = json!({
            "metadata": {"labels": {"app": "group", "version": "group"}, "annotations": {"note": "one"}},
            "template": {"ports": {"http": 8080}, "serviceAccount": "vm", "labels": {"app": "template", "version": "template", "tier": "t"}},
        });
        let node = proxy("{LABELS: {app: proxy}, PROXY_CONFIG: {readinessProbe: {tcpSocket: {port: 80}}}}");
        let made = entry("web-10.0.0.9", &group(spec), "10.0.0.9".parse().unwrap(), &node).unwrap();
        let labels = json!({"app": "proxy", "version": "group", "tier": "t"});
        assert_eq!(
            made,
            json!({
                "metadata": {
                    "name": "web-10.0.0.9", "namespace": "shop", "labels": labels,
                    "annotations": {"note": "one", "istio.io/autoRegistrationGroup": "web", "proxy.istio.io/health-checks-enabled": "true"},
                    "ownerReferences": [{"apiVersion": "networking.istio.io/v1", "kind": "WorkloadGroup", "name": "web", "uid": "u", "controller": true}],
                },
                "spec": {"address": "10.0.0.9", "locality": "r/z", "ports": {"http": 8080}, "serviceAccount": "vm", "labels": labels},
            })
        );
        assert!(entry("a", &group(json!({})), "10.0.0.9".parse().unwrap(), &node).is_err());
    }

    #[test]
    fn only_who_is_what_the_template_says_may_have_it() {
        let caller = |namespace: &str, account: &str| Identity::new("cluster.local", namespace, account).unwrap();
        for (caller, account, reason) in [
            (Some(caller("shop", "vm")), "vm", None),
            (Some(caller("shop", "vm")), "", None),
            (Some(caller("shop", "vm")), "other", Some("of service account `other`")),
            (Some(caller("play", "vm")), "vm", Some("of namespace `shop`")),
            (None, "vm", Some("needs a proven identity")),
        ] {
            let found = may_have(caller.as_ref(), "shop", &json!({"spec": {"serviceAccount": account}}));
            match reason {
                None => assert_eq!(found, Ok(())),
                Some(reason) => assert!(found.unwrap_err().contains(reason), "{reason}"),
            }
        }
    }

    #[test]
    fn an_entry_is_over_after_its_proxy_left_or_nobody_spoke_of_it() {
        let now: Timestamp = "2026-01-01T01:00:00Z".parse().unwrap();
        for (annotations, expected) in [
            (json!({GROUP: "g", CONNECTED_AT: "2026-01-01T00:50:00Z"}), false),
            (json!({GROUP: "g", CONNECTED_AT: "2026-01-01T00:10:00Z"}), true),
            (json!({GROUP: "g", DISCONNECTED_AT: "2026-01-01T00:59:55Z"}), false),
            (json!({GROUP: "g", DISCONNECTED_AT: "2026-01-01T00:59:50Z"}), true),
            (json!({DISCONNECTED_AT: "2026-01-01T00:10:00Z"}), false),
            (json!({GROUP: "g"}), false),
        ] {
            let entry = json!({"metadata": {"annotations": annotations}});
            assert_eq!(is_over(&entry, now, Duration::from_secs(10)), expected, "{entry}");
        }
    }

    #[test]
    fn health_is_a_condition_among_others() {
        let other = json!({"type": "Reconciled", "status": "True"});
        let status =
            json!({"conditions": [other, {"type": "Healthy", "status": "True", "lastTransitionTime": "then"}]});
        assert!(is_well(Some(&status)) && !is_well(None));
        let still = conditions(Some(&status), &Ok(()), "now");
        assert_eq!(still[1]["lastTransitionTime"], "then");
        let sick = json!({"conditions": conditions(Some(&status), &Err("no answer".to_owned()), "now")});
        assert_eq!(sick["conditions"][0], other);
        assert_eq!(
            (&sick["conditions"][1]["message"], &sick["conditions"][1]["lastTransitionTime"]),
            (&json!("no answer"), &json!("now"))
        );
        assert!(!is_well(Some(&sick)));
    }
}

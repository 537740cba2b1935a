//! What the status of an object should be, and what must be written to make it so. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::Judged;
use crate::model::{Key, Kind, Name, PushContext, Registry};
use crate::validate::{Finding, Severity, code};

/// The one condition that is ours; Istio's name for "the mesh has taken it in".
const CONDITION: &str = "Reconciled";
/// Where Istio's codes are explained.
const PAGES: &str = "https://istio.io/latest/docs/reference/config/analysis";
/// The longest message of a condition, bytes: Kubernetes allows 32 KiB, and nobody reads as much.
const LONGEST: usize = 2048;

/// What an object's status should say.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Wanted {
    generation: i64,
    accepted: bool,
    message: String,
    /// Code and level of each finding that has a code.
    messages: Vec<(&'static str, Severity)>,
    /// Host and address, for ServiceEntries.
    addresses: Vec<(Name, IpAddr)>,
}

/// What the status of each object should say that names a revision, or of each that does not.
pub(super) fn wanted(judged: &Judged, named: bool, context: &PushContext) -> BTreeMap<Key, Wanted> {
    let mut findings: BTreeMap<&Key, Vec<&Finding>> = BTreeMap::new();
    for finding in &judged.findings {
        if let Some(key) = &finding.key {
            findings.entry(key).or_default().push(finding);
        }
    }
    let mut addresses = addresses(context);
    let each = judged.verdicts.iter().filter(|verdict| verdict.named == named).map(|verdict| {
        let found = findings.remove(&verdict.key).unwrap_or_default();
        let mut messages: Vec<(&'static str, Severity)> =
            found.iter().filter_map(|finding| Some((finding.code?, finding.severity))).collect();
        messages.sort();
        messages.dedup();
        let wanted = Wanted {
            generation: verdict.generation,
            accepted: verdict.accepted,
            message: message(verdict.accepted, &found),
            messages,
            addresses: addresses.remove(&verdict.key).unwrap_or_default(),
        };
        (verdict.key.clone(), wanted)
    });
    each.collect()
}

/// Addresses that the mesh gave, by ServiceEntry.
fn addresses(context: &PushContext) -> BTreeMap<Key, Vec<(Name, IpAddr)>> {
    let mut all: BTreeMap<Key, Vec<(Name, IpAddr)>> = BTreeMap::new();
    for service in context.all_services().filter(|service| service.registry == Registry::External) {
        let key = Key { kind: Kind::ServiceEntry, namespace: service.namespace.clone(), name: service.name.clone() };
        if !service.auto_addresses.is_empty() {
            let given = service.auto_addresses.iter().map(|address| (service.host.clone(), *address));
            all.entry(key).or_default().extend(given);
        }
    }
    all.values_mut().for_each(|list| list.sort());
    all
}

/// The findings in words, the worst first.
fn message(accepted: bool, findings: &[&Finding]) -> String {
    let mut sorted: Vec<&&Finding> = findings.iter().filter(|finding| finding.severity > Severity::Info).collect();
    sorted.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    let words = sorted.into_iter().map(|finding| match &finding.field {
        Some(field) => format!("{field}: {}", finding.message),
        None => finding.message.clone(),
    });
    let mut text = words.collect::<Vec<_>>().join("\n");
    if text.is_empty() {
        text = if accepted { "in force" } else { "refused" }.to_owned();
    }
    if text.len() > LONGEST {
        let mut end = LONGEST;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    text
}

impl Wanted {
    /// The fields of `status` to be written, as a merge patch; `None` if it says all of it already.
    pub(super) fn patch(&self, kind: Kind, status: Option<&Value>, now: &str) -> Option<Value> {
        let empty = Value::Null;
        let status = status.unwrap_or(&empty);
        let mut patch = Map::new();
        let mut put = |name: &str, value: Value| {
            if status.get(name).unwrap_or(&Value::Null) != &value {
                patch.insert(name.to_owned(), value);
            }
        };
        put("observedGeneration", json!(self.generation));
        put("conditions", self.conditions(status, now));
        let messages: Vec<Value> = self.messages.iter().map(|(code, severity)| written(code, *severity)).collect();
        put("validationMessages", if messages.is_empty() { Value::Null } else { messages.into() });
        if kind == Kind::ServiceEntry {
            let addresses = self.addresses.iter().map(|(host, address)| json!({"host": **host, "value": address}));
            let addresses: Vec<Value> = addresses.collect();
            put("addresses", if addresses.is_empty() { Value::Null } else { addresses.into() });
        }
        (!patch.is_empty()).then_some(Value::Object(patch))
    }

    /// Ours, beside those of others, which stay as they are.
    fn conditions(&self, status: &Value, now: &str) -> Value {
        let known = status.get("conditions").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let is_ours = |condition: &&Value| condition.get("type").and_then(Value::as_str) == Some(CONDITION);
        let word = if self.accepted { "True" } else { "False" };
        let before = known.iter().find(is_ours);
        let since = before.filter(|before| before.get("status").and_then(Value::as_str) == Some(word));
        let since = since.and_then(|before| before.get("lastTransitionTime")?.as_str()).unwrap_or(now);
        let ours = json!({
            "type": CONDITION,
            "status": word,
            "reason": if self.accepted { "Accepted" } else { "Refused" },
            "message": self.message,
            "lastTransitionTime": since,
        });
        let others = known.iter().filter(|condition| !is_ours(condition));
        Value::Array(others.cloned().chain([ours]).collect())
    }
}

/// A finding as Istio's analysis writes it.
fn written(code: &str, severity: Severity) -> Value {
    let name = match code {
        code::DEPRECATED => "Deprecated",
        code::NOT_FOUND => "ReferencedResourceNotFound",
        code::SCHEMA => "SchemaValidationError",
        code::CONFLICTING_HOSTS => "ConflictingMeshGatewayVirtualServiceHosts",
        code::PORT_REQUIRED => "VirtualServiceDestinationPortSelectorRequired",
        code::UNREACHABLE_RULE => "VirtualServiceUnreachableRule",
        other => other,
    };
    json!({
        "type": {"code": code, "name": name},
        "level": severity.to_string().to_uppercase(),
        "documentationUrl": format!("{PAGES}/{}/", code.to_lowercase()),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::model::{Model, Origin};
    use crate::source::Verdict;

    fn key(kind: Kind, name: &str) -> Key {
        Key { kind, namespace: "shop".into(), name: name.into() }
    }

    fn finding(key: &Key, severity: Severity, code: Option<&'static str>, message: &str) -> Finding {
        let field = Some("http[0]".to_owned());
        Finding {
            severity,
            code,
            key: Some(key.clone()),
            origin: Origin::default(),
            field,
            message: message.to_owned(),
        }
    }

    fn one(judged: &Judged) -> Wanted {
        wanted(judged, false, &Model::default().context()).into_values().next().unwrap()
    }

    #[test]
    fn a_status_says_what_is_wrong_and_since_when() {
        let web = key(Kind::VirtualService, "web");
        let verdict = |accepted| Verdict { key: web.clone(), generation: 3, accepted, named: false };
        let good = Judged { findings: Vec::new(), verdicts: vec![verdict(true)] };
        let expected = json!({
            "observedGeneration": 3,
            "conditions": [{"type": "Reconciled", "status": "True", "reason": "Accepted", "message": "in force", "lastTransitionTime": "now"}],
        });
        let patch = one(&good).patch(Kind::VirtualService, None, "now");
        assert_eq!(patch, Some(expected.clone()));
        assert_eq!(one(&good).patch(Kind::VirtualService, Some(&expected), "later"), None, "it says so already");

        let findings = vec![
            finding(&web, Severity::Warning, Some(code::NOT_FOUND), "no host"),
            finding(&web, Severity::Error, Some(code::SCHEMA), "is wrong"),
            finding(&web, Severity::Error, Some(code::SCHEMA), "is wrong, too"),
            finding(&key(Kind::VirtualService, "other"), Severity::Error, None, "not this one"),
        ];
        let bad = Judged { findings, verdicts: vec![verdict(false)] };
        let patch = one(&bad).patch(Kind::VirtualService, Some(&expected), "later").unwrap();
        let messages = "http[0]: is wrong\nhttp[0]: is wrong, too\nhttp[0]: no host";
        assert_eq!(
            patch["conditions"],
            json!([{"type": "Reconciled", "status": "False", "reason": "Refused", "message": messages, "lastTransitionTime": "later"}])
        );
        assert_eq!(
            patch["validationMessages"],
            json!([
                {"type": {"code": "IST0101", "name": "ReferencedResourceNotFound"}, "level": "WARNING", "documentationUrl": format!("{PAGES}/ist0101/")},
                {"type": {"code": "IST0106", "name": "SchemaValidationError"}, "level": "ERROR", "documentationUrl": format!("{PAGES}/ist0106/")},
            ])
        );
        assert_eq!(patch.get("observedGeneration"), None);
        let mended = one(&good).patch(Kind::VirtualService, Some(&patch), "at last").unwrap();
        assert_eq!((&mended["validationMessages"], &mended["conditions"][0]["status"]), (&Value::Null, &json!("True")));
    }

    #[test]
    fn conditions_of_others_stay() {
        let verdicts = vec![Verdict { key: key(Kind::Gateway, "edge"), generation: 1, accepted: true, named: false }];
        let other = json!({"type": "Programmed", "status": "True"});
        let status =
            json!({"conditions": [other, {"type": "Reconciled", "status": "True", "lastTransitionTime": "then"}]});
        let judged = Judged { findings: Vec::new(), verdicts };
        let patch = one(&judged).patch(Kind::Gateway, Some(&status), "now").unwrap();
        assert_eq!(patch["conditions"][0], other);
        assert_eq!(patch["conditions"][1]["lastTransitionTime"], "then");
        assert_eq!(patch["conditions"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn addresses_are_written_to_the_entry_that_has_them() {
        let mut model = Model::default();
        model.apply(crate::model::tests::objects(
            "kind: ServiceEntry\nmetadata: {name: far, namespace: shop}\nspec: {hosts: [a.example], resolution: DNS, ports: [{number: 80, name: \
             http, protocol: HTTP}]}\n",
        ));
        let verdicts =
            vec![Verdict { key: key(Kind::ServiceEntry, "far"), generation: 1, accepted: true, named: false }];
        let judged = Judged { findings: Vec::new(), verdicts };
        let all = wanted(&judged, false, &model.context());
        let patch = all.values().next().unwrap().patch(Kind::ServiceEntry, None, "now").unwrap();
        let addresses = patch["addresses"].as_array().unwrap();
        assert_eq!(addresses.len(), 2);
        assert_eq!(addresses[0]["host"], "a.example");
        assert!(addresses[0]["value"].as_str().unwrap().starts_with("240.240."), "{addresses:?}");
    }
}

//! What reports make of the cluster, with objects as an API server writes them.
#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use super::cluster::{Cluster, Item, Report};
use super::raw::Raw;
use super::watch::{Watched, watched};
use crate::model::{Change, Key, Kind};
use crate::validate::MESH_CONFIG_NAME;

fn kind_of(name: &str) -> Watched {
    watched(MESH_CONFIG_NAME).into_iter().find(|watched| watched.name == name).unwrap()
}

/// As the server would send it in a list: without apiVersion and kind, with what nobody reads.
fn item(kind: &str, api_version: &str, name: &str, version: u32, rest: Value) -> Item {
    let mut object = json!({
        "metadata": {
            "name": name, "namespace": "shop", "uid": format!("uid-of-{name}"), "resourceVersion": version.to_string(),
            "creationTimestamp": "2026-01-01T00:00:00Z", "generation": 1,
            "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}],
        },
    });
    object.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    let raw: Raw = serde_json::from_value(object).unwrap();
    raw.read(&kind_of(kind), api_version)
}

fn service(name: &str, version: u32, port: u32) -> Item {
    item("Service", "v1", name, version, json!({"spec": {"ports": [{"port": port}]}, "status": {"loadBalancer": {}}}))
}

fn gateway(credential: &str) -> Item {
    let tls = json!({"mode": "SIMPLE", "credentialName": credential});
    let server = json!({"port": {"number": 443, "name": "https", "protocol": "HTTPS"}, "hosts": ["*"], "tls": tls});
    item("Gateway", "networking.istio.io/v1", "edge", 1, json!({"spec": {"servers": [server]}, "status": null}))
}

fn secret(name: &str) -> Item {
    item("Secret", "v1", name, 1, json!({"data": {"tls.crt": "YQ=="}}))
}

fn key(kind: Kind, name: &str) -> Key {
    Key { kind, namespace: "shop".into(), name: name.into() }
}

/// A cluster where everything but the given kinds was listed and is empty.
fn listed_but(kinds: &[Kind]) -> Cluster {
    let all: Vec<Kind> = watched(MESH_CONFIG_NAME).iter().map(|watched| watched.kind).collect();
    let mut cluster = Cluster::new(all.iter().copied());
    for kind in all.into_iter().filter(|kind| !kinds.contains(kind)) {
        cluster.take(match kind {
            Kind::Secret => Report::SecretsListed(Vec::new()),
            kind => Report::Listed(kind, Vec::new()),
        });
    }
    cluster
}

fn changes(cluster: &mut Cluster) -> String {
    cluster.just_completed();
    let words = cluster.changes().into_iter().map(|change| match change {
        Change::Set(object) => format!("+{}", object.key.name),
        Change::Remove(key) => format!("-{}", key.name),
    });
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn nothing_comes_out_before_every_kind_was_listed_or_is_not_served() {
    let mut cluster = listed_but(&[Kind::Service, Kind::Telemetry]);
    cluster.take(Report::Listed(Kind::Service, vec![service("a", 1, 80)]));
    assert!(!cluster.just_completed());
    assert_eq!(changes(&mut cluster), "");
    cluster.take(Report::Trouble(Kind::Telemetry, "may not".into()));
    assert_eq!(cluster.findings().iter().map(|one| one.message.as_str()).collect::<Vec<_>>(), ["may not"]);
    cluster.take(Report::Absent(Kind::Telemetry));
    assert!(cluster.just_completed() && !cluster.just_completed(), "once");
    assert_eq!(cluster.findings(), []);
    assert_eq!(changes(&mut cluster), "+a");
}

#[test]
fn a_second_list_changes_what_differs_and_nothing_else() {
    let mut cluster = listed_but(&[Kind::Service]);
    cluster.take(Report::Listed(Kind::Service, vec![service("a", 1, 80), service("b", 2, 80), service("c", 3, 80)]));
    assert_eq!(changes(&mut cluster), "+a +b +c");
    // The server was restarted: all is listed again, b was deleted meanwhile, c got another status.
    cluster.take(Report::Listed(Kind::Service, vec![service("a", 1, 80), service("c", 9, 80)]));
    assert_eq!(changes(&mut cluster), "-b");
    cluster.take(Report::Listed(Kind::Service, vec![service("a", 10, 81), service("c", 9, 80)]));
    assert_eq!(changes(&mut cluster), "+a");
    cluster.take(Report::Set(service("a", 11, 81)));
    assert_eq!(changes(&mut cluster), "");
    cluster.take(Report::Gone(key(Kind::Service, "a")));
    cluster.take(Report::Gone(key(Kind::Service, "a")));
    assert_eq!(changes(&mut cluster), "-a");
}

#[test]
fn a_bad_object_leaves_its_last_good_version_in_force() {
    let mut cluster = listed_but(&[]);
    cluster.take(Report::Set(service("a", 1, 80)));
    assert_eq!(changes(&mut cluster), "+a");
    cluster.take(Report::Set(service("a", 2, 0)));
    assert_eq!(changes(&mut cluster), "");
    let found: Vec<String> = cluster.findings().iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "(cluster): error[IST0106]: Service shop/a: spec.ports[0].port: 0 is not a port; ports are 1 to 65535 (the last good version stays in force)"
        ]
    );
    // Another object of the same name has no last good version.
    cluster.take(Report::Set(Item { uid: "other".into(), ..service("a", 3, 0) }));
    assert_eq!(changes(&mut cluster), "-a");
    assert!(!cluster.findings()[0].message.contains("last good"));
    cluster.take(Report::Set(Item { uid: "other".into(), ..service("a", 4, 81) }));
    assert_eq!((changes(&mut cluster).as_str(), cluster.findings().len()), ("+a", 0));
}

#[test]
fn what_a_newer_server_adds_to_its_own_kinds_is_no_finding_but_in_istios_it_is() {
    let service = item("Service", "v1", "a", 1, json!({"spec": {"ports": [{"port": 80, "new": 1}], "newer": true}}));
    assert!(service.good.is_some());
    assert_eq!(service.findings, []);
    let rule = item("DestinationRule", "networking.istio.io/v1", "r", 1, json!({"spec": {"host": "a", "hots": "b"}}));
    let found: Vec<String> = rule.findings.iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "(cluster): warning[IST0106]: DestinationRule shop/r: hots: is not a field of this kind, so it has no effect; remove it or correct its name"
        ]
    );
}

#[test]
fn secrets_are_read_where_something_names_them() {
    let mut cluster = listed_but(&[Kind::Secret, Kind::Gateway]);
    let names = ["cert", "cert-cacert", "token", "other"];
    let versions = |version: &str| names.map(|name| (key(Kind::Secret, name), version.to_owned())).to_vec();
    cluster.take(Report::SecretsListed(versions("1")));
    assert_eq!(cluster.secrets_due(), []);
    cluster.take(Report::Listed(Kind::Gateway, vec![gateway("cert")]));
    let both = [key(Kind::Secret, "cert"), key(Kind::Secret, "cert-cacert")];
    assert_eq!(cluster.secrets_due(), both);
    assert!(!cluster.just_completed(), "the secrets are waited for");
    cluster.take(Report::SecretRead(both[0].clone(), Some(secret("cert"))));
    cluster.take(Report::SecretRead(both[1].clone(), None));
    assert_eq!(changes(&mut cluster), "+edge +cert");
    assert_eq!(cluster.secrets_due(), []);

    // One that changes is read again; the others are not.
    cluster.take(Report::SecretSeen(both[0].clone(), "2".into()));
    cluster.take(Report::SecretSeen(key(Kind::Secret, "token"), "2".into()));
    assert_eq!(cluster.secrets_due(), [both[0].clone()]);
    cluster.take(Report::SecretRead(both[0].clone(), Some(secret("cert"))));
    assert_eq!(changes(&mut cluster), "", "its contents are the same");
    // A list after a pause finds nothing new.
    let again = versions("1")
        .into_iter()
        .map(|(key, version)| (key.clone(), if key == both[0] { "2".into() } else { version }));
    cluster.take(Report::SecretsListed(again.collect()));
    assert_eq!(cluster.secrets_due(), []);

    cluster.take(Report::Set(gateway("token")));
    assert_eq!(cluster.secrets_due(), [key(Kind::Secret, "token")]);
    assert_eq!(changes(&mut cluster), "+edge -cert", "what nobody names any more is forgotten");
    cluster.take(Report::Gone(key(Kind::Secret, "token")));
    assert_eq!(cluster.secrets_due(), []);
    cluster.take(Report::SecretRead(key(Kind::Secret, "token"), Some(secret("token"))));
    assert_eq!(changes(&mut cluster), "", "it was gone before it was read");
}

#[test]
fn a_kind_that_is_not_served_any_more_keeps_its_objects_for_a_while() {
    let mut cluster = listed_but(&[Kind::Gateway]);
    cluster.take(Report::Listed(Kind::Gateway, vec![gateway("")]));
    assert_eq!(changes(&mut cluster), "");
    cluster.take(Report::Listed(Kind::Gateway, vec![gateway("cert")]));
    assert_eq!(changes(&mut cluster), "+edge");
    cluster.take(Report::Absent(Kind::Gateway));
    assert_eq!(changes(&mut cluster), "");
    cluster.take(Report::Forgotten(Kind::Gateway));
    assert_eq!(changes(&mut cluster), "-edge");
}

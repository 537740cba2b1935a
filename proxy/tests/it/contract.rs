//! What the control plane translates is what this proxy takes: every golden resource of it is decoded here.

use std::path::Path;

use mesh_proxy::xds::decode::Context;
use mesh_proxy::xds::kind::Kind;
use mesh_proxy::xds::state::{Origin, Resource, State, Update};
use prost::Message;

/// The golden cases that are made for other clients than this proxy.
const FOREIGN: &[&str] = &["envoy", "grpc"];

#[test]
fn every_golden_resource_is_taken() {
    let cases = Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("../controlplane/tests/golden");
    let mut refused = Vec::new();
    let mut taken = 0;
    for case in std::fs::read_dir(cases).unwrap().map(|case| case.unwrap().path()) {
        let name = case.file_name().unwrap().to_string_lossy().into_owned();
        if FOREIGN.contains(&name.as_str()) {
            continue;
        }
        let mut state = State::new(Context::default(), []);
        for (file, kind) in [
            ("clusters.yaml", Kind::Cluster),
            ("endpoints.yaml", Kind::Endpoint),
            ("listeners.yaml", Kind::Listener),
            ("routes.yaml", Kind::Route),
        ] {
            let Ok(text) = std::fs::read_to_string(case.join("expect").join(file)) else { continue };
            let list: Vec<yaml_serde::Value> = yaml_serde::from_str(&text).unwrap();
            for one in list {
                let text = yaml_serde::to_string(&one).unwrap();
                let type_name = kind.type_url().rsplit('/').next().unwrap();
                let message = mesh_proto::yaml::dynamic_from_yaml(type_name, &text).unwrap();
                let resource = Resource { name: None, version: "1".into(), body: message.encode_to_vec() };
                let update = Update { resources: vec![resource], ..Update::default() };
                let found = state.update(kind, update, Origin::Dynamic, tokio::time::Instant::now());
                taken += usize::from(found.is_empty());
                refused.extend(found.into_iter().map(|one| format!("{name}: {}: {}", one.name, one.refusal)));
            }
        }
    }
    assert!(taken > 20, "only {taken} golden resources were found");
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

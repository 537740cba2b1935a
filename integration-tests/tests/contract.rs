//! The contract between the planes (docs/xds.md): our proxy takes every resource of the control plane's golden cases, field by field, and our programs
//! the arguments and the environment that injection gives them.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Parser;
use mesh_proto::xds::{tls, type_url, unpack, wkt};
use mesh_proto::yaml;
use mesh_proxy::args::{Arguments, Command};
use mesh_proxy::bootstrap::agent::Agent;
use mesh_proxy::xds::decode::{self, Context, Refusal, supported};

/// Decodes as the proxy does: first that every field is known, then the values.
fn take(any: &wkt::Any, context: &Context) -> Result<(), Refusal> {
    supported::check(&any.type_url, &any.value)?;
    match any.type_url.as_str() {
        type_url::CLUSTER => decode::cluster::cluster(&unpack(any).unwrap(), context).map(drop),
        type_url::ENDPOINT => decode::cluster::load_assignment(&unpack(any).unwrap()).map(drop),
        type_url::LISTENER => decode::listener::listener(&unpack(any).unwrap(), context).map(drop),
        type_url::ROUTE => decode::route::route_config(&unpack(any).unwrap(), None).map(drop),
        // The certificates of the cases are words.
        type_url::SECRET => {
            let _: tls::Secret = unpack(any).unwrap();
            Ok(())
        }
        type_url::NAME_TABLE => decode::name_table::name_table(&unpack(any).unwrap(), &context.place).map(drop),
        other => panic!("{other}"),
    }
}

#[test]
fn our_proxy_takes_what_our_control_plane_sends() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    // At run time: a build directory may be shared by several checkouts.
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("../controlplane/tests/golden");
    let context = Context::default();
    let (mut refused, mut taken) = (Vec::new(), 0);
    for case in std::fs::read_dir(root).unwrap() {
        let case = case.unwrap().path();
        let node = std::fs::read_to_string(case.join("node.yaml")).unwrap_or_default();
        // Cases for a stock Envoy hold what only Envoy knows.
        if node.contains("ferromesh: false") {
            continue;
        }
        for (family, url) in [
            ("clusters", type_url::CLUSTER),
            ("endpoints", type_url::ENDPOINT),
            ("listeners", type_url::LISTENER),
            ("routes", type_url::ROUTE),
            ("secrets", type_url::SECRET),
            ("names", type_url::NAME_TABLE),
        ] {
            let path = case.join("expect").join(format!("{family}.yaml"));
            let Ok(text) = std::fs::read_to_string(&path) else { continue };
            let list: Vec<serde_json::Value> = yaml_serde::from_str(&text).unwrap();
            for one in list {
                let read = yaml::dynamic_from_yaml(url, &one.to_string()).unwrap();
                let any = wkt::Any { type_url: url.to_owned(), value: prost::Message::encode_to_vec(&read) };
                let name = one["name"].as_str().or(one["cluster_name"].as_str()).unwrap_or_default();
                match take(&any, &context) {
                    Ok(()) => taken += 1,
                    Err(refusal) => refused.push(format!("{}: {name}: {refusal}", path.display())),
                }
            }
        }
    }
    assert!(refused.is_empty(), "\n{}", refused.join("\n"));
    assert!(taken > 50, "{taken} resources only");
}

/// The environment of a container, with what a kubelet would fill in.
fn environment(container: &serde_json::Value) -> BTreeMap<String, String> {
    let variables = container["env"].as_array().unwrap().iter();
    let value = |variable: &serde_json::Value| match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
        None => variable["value"].as_str().unwrap().to_owned(),
        Some("status.podIP") => "10.0.0.7".to_owned(),
        Some("status.podIPs") => "10.0.0.7,fd00::7".to_owned(),
        Some(other) => other.rsplit('.').next().unwrap().to_lowercase(),
    };
    variables.map(|variable| (variable["name"].as_str().unwrap().to_owned(), value(variable))).collect()
}

/// Judges one injected container by the program that its image runs.
fn start(container: &serde_json::Value) -> Result<&'static str, String> {
    let args = container["args"].as_array().unwrap().iter().map(|one| one.as_str().unwrap());
    let line = std::iter::once("program").chain(args);
    if container["image"].as_str().unwrap().contains("gateway") {
        let read = mesh_gateway::args::Arguments::try_parse_from(line).map_err(|error| error.to_string())?;
        assert!(matches!(read.command, mesh_gateway::args::Command::Run(_)));
    } else {
        match Arguments::try_parse_from(line).map_err(|error| error.to_string())?.command {
            Command::Redirect(args) => return args.settings().map(|_| "redirect").map_err(|error| error.to_string()),
            Command::Run(_) => {}
            other => return Err(format!("{other:?}")),
        }
    }
    let variables = environment(container);
    let agent = Agent::from_environment(&variables, |_| None).map_err(|error| error.to_string())?;
    assert_eq!(agent.metadata["CLUSTER_ID"].as_str(), variables.get("ISTIO_META_CLUSTER_ID").map(String::as_str));
    let bootstrap = agent.bootstrap().map_err(|error| error.to_string())?;
    let address = bootstrap.identity.map(|identity| identity.ca_address);
    assert_eq!(address.as_deref(), variables.get("CA_ADDR").map(String::as_str));
    Ok("run")
}

#[test]
fn our_programs_take_what_injection_gives_them() {
    // At run time: a build directory may be shared by several checkouts.
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("../controlplane/tests/inject");
    let mut taken = BTreeMap::<&str, usize>::new();
    for case in std::fs::read_dir(root).unwrap() {
        let path = case.unwrap().path().join("expect.yaml");
        let text = std::fs::read_to_string(&path).unwrap();
        for document in text.split("\n---\n") {
            let document: serde_json::Value = yaml_serde::from_str(document).unwrap();
            containers(&document, &mut |container| match start(container) {
                Ok(command) => *taken.entry(command).or_default() += 1,
                Err(error) => panic!("{}: {error}\n{container}", path.display()),
            });
        }
    }
    assert!(taken["redirect"] >= 15 && taken["run"] >= 18, "{taken:?}");
}

/// Finds the containers that injection made, wherever they stand.
fn containers(value: &serde_json::Value, found: &mut impl FnMut(&serde_json::Value)) {
    match value {
        serde_json::Value::Array(items) => items.iter().for_each(|item| containers(item, found)),
        serde_json::Value::Object(map) => {
            let ours = map.get("name").is_some_and(|name| name == "istio-proxy" || name == "istio-init");
            if ours && map.contains_key("args") {
                found(value);
            }
            map.values().for_each(|value| containers(value, found));
        }
        _ => {}
    }
}

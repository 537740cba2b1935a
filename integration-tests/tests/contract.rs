//! The contract between the planes (docs/xds.md): our proxy takes every resource of the control plane's golden cases, field by field.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::path::PathBuf;

use mesh_proto::xds::{tls, type_url, unpack, wkt};
use mesh_proto::yaml;
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

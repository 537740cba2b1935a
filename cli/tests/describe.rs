//! Golden descriptions: objects of a cluster in, what `meshctl describe` says of a pod or a service out.
//!
//! `tests/describe/CASE/input.yaml` are the objects; beside it, for each description, its text and its JSON.
//! `UPDATE_EXPECT=1 cargo test -p meshctl --test describe` writes them anew.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};

use meshctl::describe::{Known, pod, service, text};
use meshctl::output::plain;
use meshctl::pods::Named;
use serde::Deserialize as _;
use serde_json::Value;

/// Case, kind, `NAME.NAMESPACE`.
const CASES: &[(&str, &str, &str)] = &[
    ("shop", "pod", "reviews-v1.shop"),
    ("shop", "pod", "reviews-v2.shop"),
    ("shop", "service", "reviews.shop"),
    ("trouble", "pod", "outside.shop"),
    ("trouble", "pod", "late.shop"),
    ("trouble", "pod", "meshed.shop"),
    ("trouble", "pod", "alone.other"),
    ("trouble", "service", "web.shop"),
    ("trouble", "service", "nobody.shop"),
    ("edge", "pod", "ingress.istio-system"),
    ("edge", "service", "web.shop"),
];

fn folder(case: &str) -> PathBuf {
    // At run time: a build directory may be shared by several checkouts.
    Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("tests/describe").join(case)
}

fn known(case: &str) -> Known {
    let yaml = fs::read_to_string(folder(case).join("input.yaml")).unwrap();
    let documents = yaml_serde::Deserializer::from_str(&yaml);
    Known::read(documents.map(|one| Value::deserialize(one).unwrap()).collect())
}

/// Text and JSON.
fn describe(known: &Known, kind: &str, name: &str) -> (String, Value) {
    let named = Named::parse(name, "default");
    let (page, value) = match kind {
        "pod" => {
            let described = pod::describe(known, &named).unwrap();
            (text::pod(&described), serde_json::to_value(&described).unwrap())
        }
        _ => {
            let described = service::describe(known, &named).unwrap();
            (text::service(&described), serde_json::to_value(&described).unwrap())
        }
    };
    (plain(&page), value)
}

#[test]
fn pods_and_services_are_described_as_proxies_are_told() {
    let update = std::env::var_os("UPDATE_EXPECT").is_some();
    for (case, kind, name) in CASES {
        let (page, value) = describe(&known(case), kind, name);
        let json = serde_json::to_string_pretty(&value).unwrap() + "\n";
        for (extension, found) in [("txt", page), ("json", json)] {
            let file = folder(case).join(format!("{kind}-{name}.{extension}"));
            if update {
                fs::write(&file, found).unwrap();
                continue;
            }
            let expected = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            assert_eq!(found, expected, "{}; UPDATE_EXPECT=1 writes it anew", file.display());
        }
    }
}

#[test]
fn who_is_not_there_is_named() {
    let known = known("shop");
    let error = pod::describe(&known, &Named::parse("gone.shop", "default")).unwrap_err().to_string();
    assert!(error.contains("there is no Pod shop/gone") && error.contains("kubectl get pods -n shop"), "{error}");
    let error = service::describe(&known, &Named::parse("reviews", "default")).unwrap_err().to_string();
    assert!(error.contains("there is no Service default/reviews") && error.contains("-n names another"), "{error}");
}

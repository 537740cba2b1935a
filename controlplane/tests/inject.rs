//! Golden cases of injection: workloads in, injected workloads out.
//!
//! `tests/inject/CASE/` holds `input.yaml`, if need be `settings.yaml` (settings of injection) and `mesh.yaml` (MeshConfig), and `expect.yaml`:
//! what `meshctl inject` says, as comments, and what it writes. `UPDATE_EXPECT=1 cargo test -p mesh-controlplane --test inject` writes the
//! expectations anew.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::path::{Path, PathBuf};

use mesh_controlplane::inject::Settings;
use mesh_controlplane::inject::text::{Text, inject_text};
use mesh_proto::crd::MeshConfig;

fn check(case: &Path, update: bool) -> Option<String> {
    let read = |name: &str| std::fs::read_to_string(case.join(name)).unwrap_or_default();
    let mut settings = Settings::from_yaml(&read("settings.yaml")).unwrap_or_else(|error| panic!("{case:?}: {error}"));
    // Releases do not change expectations.
    for image in [&mut settings.proxy_image, &mut settings.gateway_image] {
        *image = image.replace(env!("CARGO_PKG_VERSION"), "TAG");
    }
    let mesh: Option<MeshConfig> = yaml_serde::from_str(&read("mesh.yaml")).unwrap();
    let mesh = mesh.unwrap_or_default();
    let found = match inject_text(&read("input.yaml"), "default", &settings, &mesh) {
        Ok(Text { text, notes }) => {
            let again = inject_text(&text, "default", &settings, &mesh).unwrap();
            assert_eq!(again.text, text, "{case:?}: a second injection changes something");
            notes.iter().map(|note| format!("# {note}\n")).collect::<String>() + &text
        }
        Err(error) => format!("# error: {error}\n"),
    };
    if update {
        std::fs::write(case.join("expect.yaml"), &found).unwrap();
        return None;
    }
    let expected = read("expect.yaml");
    let lines = expected.lines().zip(found.lines()).zip(1..);
    let different = lines.map(|((one, other), line)| (line, one, other)).find(|(_, one, other)| one != other);
    let path = case.join("expect.yaml");
    match different {
        Some((line, one, other)) => Some(format!("{}:{line}: expected `{one}`, found `{other}`", path.display())),
        None if expected != found => Some(format!("{}: one is the beginning of the other", path.display())),
        None => None,
    }
}

#[test]
fn injected_workloads_are_as_written_down() {
    // At run time: a build directory may be shared by several checkouts.
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("tests/inject");
    let mut cases: Vec<PathBuf> = std::fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert!(cases.len() >= 20, "{} cases", cases.len());
    let update = std::env::var_os("UPDATE_EXPECT").is_some();
    let wrong: Vec<String> = cases.iter().filter_map(|case| check(case, update)).collect();
    assert!(wrong.is_empty(), "\n{}\nUPDATE_EXPECT=1 writes them anew; read the difference.", wrong.join("\n"));
}

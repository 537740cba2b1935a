//! Bills of materials, as CycloneDX: the crates that a program is made of, and the files of its base with their digests.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::layout;
use super::tree::Tree;
use crate::process;

/// All packages of the workspace's lock file for this platform, and who depends on whom.
pub struct Packages {
    /// By cargo's id.
    packages: BTreeMap<String, Value>,
    dependencies: BTreeMap<String, Vec<String>>,
}

impl Packages {
    /// As cargo tells.
    pub fn read() -> Result<Self> {
        let version = process::output("rustc", &["-vV"])?;
        let host = version.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names its host")?;
        let told =
            process::output("cargo", &["metadata", "--format-version", "1", "--locked", "--filter-platform", host])?;
        Self::from(&serde_json::from_str(&told)?)
    }

    fn from(metadata: &Value) -> Result<Self> {
        let list = |value: &Value| value.as_array().cloned().context("cargo lists packages");
        let id = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let packages = list(&metadata["packages"])?.into_iter().map(|package| (id(&package["id"]), package));
        let mut dependencies = BTreeMap::new();
        for node in list(&metadata["resolve"]["nodes"])? {
            let linked = list(&node["deps"])?.into_iter().filter(|dependency| {
                // What only tests or build scripts need is not in the program.
                let kinds = dependency["dep_kinds"].as_array().into_iter().flatten();
                kinds.into_iter().any(|kind| kind["kind"].is_null())
            });
            dependencies.insert(id(&node["id"]), linked.map(|dependency| id(&dependency["pkg"])).collect());
        }
        Ok(Self { packages: packages.collect(), dependencies })
    }

    /// What `program` is made of, itself first.
    fn of(&self, program: &str) -> Result<Vec<&Value>> {
        let (root, _) = self
            .packages
            .iter()
            .find(|(_, package)| package["name"] == program && package["source"].is_null())
            .with_context(|| format!("no package is called {program}"))?;
        let (mut seen, mut next) = (BTreeSet::from([root]), vec![root]);
        while let Some(package) = next.pop() {
            for dependency in self.dependencies.get(package).into_iter().flatten() {
                if seen.insert(dependency) {
                    next.push(dependency);
                }
            }
        }
        seen.remove(root);
        Ok(std::iter::once(root).chain(seen).filter_map(|id| self.packages.get(id)).collect())
    }
}

/// The bill of a program on its base. It names no time and no random id, so that it is the same each time.
pub fn document(program: &str, packages: &Packages, base: &Tree) -> Result<Value> {
    let crates = packages.of(program)?;
    let mut components: Vec<Value> = crates[1..].iter().map(|package| component("library", package)).collect();
    components.extend(base.files().map(|(path, content)| {
        let digest = layout::digest(content);
        let hash = digest.trim_start_matches("sha256:");
        json!({"type": "file", "name": format!("/{path}"), "hashes": [{"alg": "SHA-256", "content": hash}]})
    }));
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": component("application", crates[0])},
        "components": components,
    }))
}

fn component(kind: &str, package: &Value) -> Value {
    let (name, version) = (&package["name"], &package["version"]);
    let url = format!("pkg:cargo/{}@{}", name.as_str().unwrap_or_default(), version.as_str().unwrap_or_default());
    let mut component = json!({"type": kind, "bom-ref": url, "name": name, "version": version, "purl": url});
    if let Some(license) = package["license"].as_str() {
        // Older crates write `/` for OR.
        component["licenses"] = json!([{"expression": license.replace('/', " OR ")}]);
    }
    component
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bill_names_what_is_linked_and_nothing_else() -> Result<()> {
        let package = |id: &str, source: Value| json!({"id": id, "name": id, "version": "1.0.0", "license": "MIT/Apache-2.0", "source": source});
        let needs = |id: &str, kind: Value| json!({"pkg": id, "dep_kinds": [{"kind": kind, "target": null}]});
        let metadata = json!({
            "packages": [package("mesh-proxy", Value::Null), package("hyper", json!("registry")), package("http", json!("registry")),
                package("cc", json!("registry")), package("insta", json!("registry"))],
            "resolve": {"nodes": [
                {"id": "mesh-proxy", "deps": [needs("hyper", Value::Null), needs("insta", json!("dev"))]},
                {"id": "hyper", "deps": [needs("http", Value::Null), needs("cc", json!("build"))]},
                {"id": "http", "deps": []}, {"id": "cc", "deps": []}, {"id": "insta", "deps": []},
            ]},
        });
        let mut base = Tree::default();
        base.file("lib/libc.so.6", 0o755, b"c".to_vec());
        let bill = document("mesh-proxy", &Packages::from(&metadata)?, &base)?;
        assert_eq!(bill["metadata"]["component"]["purl"], "pkg:cargo/mesh-proxy@1.0.0");
        let names = bill["components"].as_array().into_iter().flatten().map(|component| component["name"].clone());
        assert_eq!(names.collect::<Vec<_>>(), [json!("http"), json!("hyper"), json!("/lib/libc.so.6")]);
        assert_eq!(bill["components"][0]["licenses"], json!([{"expression": "MIT OR Apache-2.0"}]));
        Ok(())
    }
}

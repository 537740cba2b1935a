//! Programs of Kubernetes and its friends, built from their Go modules: static, once, kept in the cache.
//!
//! `xtask/cluster/MODULE/go.mod` says which versions. A program's file in the cache is named after its version and after what it is made
//! of, so a changed module is built anew, and two clones may share a cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::{cache, key, lock, recipes, text};
use crate::ci::tools;
use crate::process;

/// Every part, what takes longest first.
pub const ALL: &[&str] = &[
    "kube-apiserver",
    "kubelet",
    "kubeadm",
    "kubectl",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
    "etcd",
    "coredns",
    "kind",
];

/// What a part is built from.
struct Part {
    /// The folder of its `go.mod`.
    recipe: &'static str,
    /// The module whose version is the part's.
    module: &'static str,
    /// The package of its `main`.
    package: String,
}

impl Part {
    fn named(name: &str) -> Result<Self> {
        let (recipe, module) = match name {
            "etcd" => ("etcd", "go.etcd.io/etcd/server/v3"),
            "coredns" => ("coredns", "github.com/coredns/coredns"),
            "kind" => ("kind", "sigs.k8s.io/kind"),
            _ if ALL.contains(&name) => ("kubernetes", "k8s.io/kubernetes"),
            _ => bail!("no part is called {name}; there are: {}", ALL.join(", ")),
        };
        let package = if recipe == "kubernetes" { format!("{module}/cmd/{name}") } else { module.to_owned() };
        Ok(Self { recipe, module, package })
    }

    fn folder(&self) -> PathBuf {
        recipes().join(self.recipe)
    }

    fn version(&self) -> Result<String> {
        let path = self.folder().join("go.mod");
        let file = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        version(&file, self.module).with_context(|| format!("{}: requires no {}", path.display(), self.module))
    }

    fn build(&self, path: &Path, version: &str) -> Result<()> {
        let path = text(path);
        let stamp = stamp(version);
        let arguments = ["build", "-trimpath", "-ldflags", &stamp, "-o", &path, &self.package];
        go(&self.folder(), &arguments)
    }
}

/// Makes sure that these parts are in the cache, and returns where.
///
/// # Errors
/// If there is no such part, Go is missing, or a build fails.
pub fn build(names: &[&str]) -> Result<Vec<PathBuf>> {
    let parts = names.iter().map(|name| Ok((*name, Part::named(name)?))).collect::<Result<Vec<_>>>()?;
    let _alone = lock("parts")?;
    parts.iter().map(|(name, part)| ensure(name, part)).collect()
}

/// The version of Kubernetes that the parts are of.
pub fn kubernetes() -> Result<String> {
    Part::named("kubelet")?.version()
}

/// Where programs lie under their plain names.
pub fn folder() -> PathBuf {
    cache().join("bin")
}

/// Runs Go in the folder of a module.
pub fn go(folder: &Path, arguments: &[&str]) -> Result<()> {
    tools::GO.ensure()?;
    let version = process::output("go", &["env", "GOVERSION"])?;
    if !fetches_others(&version) {
        bail!("{} is too old to fetch the Go that {} asks for: install a newer one", version.trim(), folder.display());
    }
    process::run_in(folder, "go", arguments, ENVIRONMENT)
}

/// Go knows how to fetch another Go since 1.21.
fn fetches_others(version: &str) -> bool {
    let minor = version.trim().strip_prefix("go1.").and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next());
    minor.and_then(|minor| minor.parse::<u32>().ok()).is_none_or(|minor| minor >= 21)
}

/// Static programs; the module files are as they are; a Go that is too old fetches the one that a module asks for.
pub const ENVIRONMENT: &[(&str, &str)] =
    &[("CGO_ENABLED", "0"), ("GOFLAGS", "-mod=readonly"), ("GOTOOLCHAIN", "auto"), ("GOWORK", "off")];

fn ensure(name: &str, part: &Part) -> Result<PathBuf> {
    let version = part.version()?;
    let folder = folder();
    fs::create_dir_all(&folder)?;
    let read = |file: &str| fs::read(part.folder().join(file)).with_context(|| format!("{}/{file}", part.recipe));
    let made_of = key(&[&read("go.mod")?, &read("go.sum")?, stamp(&version).as_bytes()]);
    let file = format!("{name}-{version}-{made_of}");
    let path = folder.join(&file);
    if !path.is_file() {
        println!("building {name} {version}; the first program of a module takes minutes");
        let (started, unfinished) = (Instant::now(), folder.join(format!("{file}.unfinished")));
        part.build(&unfinished, &version).with_context(|| format!("{name} {version}"))?;
        fs::rename(&unfinished, &path)?;
        println!("built {name} {version} in {} s", started.elapsed().as_secs());
    }
    // Replaced at once, so that whoever looks meanwhile finds the old or the new one.
    let link = folder.join(format!("{name}.link"));
    let _ = fs::remove_file(&link);
    std::os::unix::fs::symlink(&file, &link)?;
    fs::rename(&link, folder.join(name))?;
    Ok(folder.join(name))
}

/// Without a version from outside, kubeadm takes itself for v0.0.0 and refuses the cluster.
fn stamp(version: &str) -> String {
    let minor = version.split('.').nth(1).unwrap_or_default();
    let mut stamp = "-s -w".to_owned();
    for package in ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"] {
        for (name, value) in [("Version", version), ("Major", "1"), ("Minor", minor), ("TreeState", "clean")] {
            stamp += &format!(" -X {package}.git{name}={value}");
        }
    }
    stamp
}

/// The version that a `go.mod` requires of a module.
fn version(file: &str, module: &str) -> Option<String> {
    let required = file.lines().filter_map(|line| {
        let mut words = line.split_whitespace().skip_while(|word| *word == "require");
        (words.next() == Some(module)).then(|| words.next()).flatten()
    });
    // A replacement stands as `module => other version`.
    required.filter(|version| version.starts_with('v')).map(str::to_owned).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_those_that_modules_require() {
        let file = "module x\n\nrequire sigs.k8s.io/gateway-api v1.6.3\nrequire (\n\tk8s.io/kubernetes v1.34.4 // indirect\n)\n\
                    replace k8s.io/api => k8s.io/api v0.34.4\n";
        for (module, expected) in [
            ("k8s.io/kubernetes", Some("v1.34.4")),
            ("sigs.k8s.io/gateway-api", Some("v1.6.3")),
            ("k8s.io/api", None),
            ("k8s.io", None),
        ] {
            assert_eq!(version(file, module).as_deref(), expected, "{module}");
        }
    }

    #[test]
    fn a_go_that_is_too_old_is_known() {
        for (version, holds) in [
            ("go1.19.8\n", false),
            ("go1.21.0", true),
            ("go1.26rc1", true),
            ("devel go1.27-abc", true),
            ("go2.0", true),
        ] {
            assert_eq!(fetches_others(version), holds, "{version}");
        }
    }

    #[test]
    fn every_part_has_a_version_and_others_are_refused() {
        for name in ALL {
            assert!(Part::named(name).and_then(|part| part.version()).is_ok(), "{name}");
        }
        let error = Part::named("kube-dns").err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("kube-dns") && error.contains("coredns"), "{error}");
    }
}

//! Programs of others that tests run. `cargo xtask ci` installs them and says where; alone, tests look where it puts them.

use std::path::PathBuf;

/// Envoy's program.
///
/// # Panics
///
/// If it is not installed.
pub fn envoy() -> PathBuf {
    find("FERROMESH_ENVOY", "envoy-1.40.0", "site-packages/envoy/_bin/envoy")
}

/// A Python that has gRPC.
///
/// # Panics
///
/// If it is not installed.
pub fn python_with_grpc() -> PathBuf {
    let package = find("FERROMESH_GRPC", "grpcio-1.85.3", "site-packages/grpc/__init__.py");
    // ENVIRONMENT/lib/VERSION/site-packages/grpc/__init__.py
    package.ancestors().nth(5).unwrap_or(&package).join("bin/python")
}

/// The folder with `etcd`, `kube-apiserver` and `kubectl`.
///
/// # Panics
///
/// If one of them is not there.
pub fn kubernetes() -> PathBuf {
    const VARIABLE: &str = "FERROMESH_KUBE";
    let folder = std::env::var_os(VARIABLE).map_or_else(|| cache().join("kind/bin"), PathBuf::from);
    for program in ["etcd", "kube-apiserver", "kubectl"] {
        let install = "`cargo xtask cluster parts etcd kube-apiserver kubectl` makes it";
        assert!(folder.join(program).is_file(), "no {program} in {} (${VARIABLE}); {install}", folder.display());
    }
    folder
}

fn find(variable: &str, environment: &str, inside: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        return path.into();
    }
    let library = cache().join(environment).join("lib");
    let versions = std::fs::read_dir(&library).into_iter().flatten().flatten();
    let mut found = versions.map(|python| python.path().join(inside));
    found.find(|path| path.is_file()).unwrap_or_else(|| {
        panic!("nothing at ${variable} or below {}; `cargo xtask ci --only test` installs it", library.display())
    })
}

/// Where xtask keeps programs.
fn cache() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    cache.unwrap_or_default().join("ferromesh")
}

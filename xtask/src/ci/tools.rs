//! Programs that tests need and cargo cannot bring: found, or installed by package name where this machine allows it.

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
}

/// HTTP/2 conformance.
pub const H2SPEC: Tool =
    Tool { program: "h2spec", source: Source::Go("github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible") };
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
/// Running a program as another user.
pub const SETPRIV: Tool = Tool { program: "setpriv", source: Source::Debian("util-linux") };

impl Tool {
    /// Returns once the program can be run; an error says what would have to be installed.
    pub fn ensure(&self) -> Result<()> {
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
        }
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
